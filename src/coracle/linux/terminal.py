"""Pseudo terminals (pty(7), devpts), opened in a foreign root without trusting it."""

from __future__ import annotations

import fcntl
import os
from struct import pack, unpack
from termios import TIOCGWINSZ, TIOCSCTTY, TIOCSWINSZ

from coracle.errors import KernelError
from coracle.linux import mount
from coracle.linux.syscall import buffer, syscall

TIOCGPTPEER = 0x5441
TIOCSPTLCK = 0x40045431
TIOCGPTN = 0x80045430
DEVPTS_SUPER_MAGIC = 0x1CD1


def open_pair(root: int, rows: int = 0, columns: int = 0) -> tuple[int, int]:
    """A new terminal of the devpts mounted at /dev/pts in ``root``: (master, slave) descriptors.

    The image may have planted something else at that path: the multiplexer must be a
    character device 5:2 on a devpts, and the slave comes from it, not from a path (CVE-2025-52565).
    :raises KernelError: if it is not.
    """
    multiplexer = mount.openat2(root, "/dev/pts/ptmx", mount.O_PATH | os.O_NOFOLLOW)
    try:
        if os.fstat(multiplexer).st_rdev != os.makedev(5, 2) or filesystem_magic(multiplexer) != DEVPTS_SUPER_MAGIC:
            raise KernelError(19, "allocate a terminal", "/dev/pts/ptmx", "it is not a devpts; mount one at /dev/pts")
        master = os.open(f"/proc/self/fd/{multiplexer}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(multiplexer)
    fcntl.ioctl(master, TIOCSPTLCK, pack("i", 0))
    slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if rows and columns:
        set_size(master, rows, columns)
    return master, slave


def filesystem_magic(fd: int) -> int:
    """``f_type`` of fstatfs(2): which kind of file system holds ``fd``."""
    result = buffer(120)
    syscall("fstatfs", fd, result)
    return int(unpack("q", bytes(result)[:8])[0])


def size(fd: int) -> tuple[int, int]:
    """(rows, columns) of a terminal.  :raises OSError: if ``fd`` is none."""
    rows, columns = unpack("HHHH", fcntl.ioctl(fd, TIOCGWINSZ, bytes(8)))[:2]
    return rows, columns


def set_size(fd: int, rows: int, columns: int) -> None:
    """Resize a terminal; its foreground process gets SIGWINCH."""
    fcntl.ioctl(fd, TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))


def make_controlling(fd: int) -> None:
    """Make ``fd`` the controlling terminal of a new session (setsid(2), TIOCSCTTY)."""
    os.setsid()
    fcntl.ioctl(fd, TIOCSCTTY, 0)
