"""Namespaces: clone3(2), unshare(2), setns(2), and user id maps (namespaces(7), user_namespaces(7))."""

from __future__ import annotations

import os
from struct import pack

from coracle.linux.syscall import address, buffer, syscall

CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PARENT = 0x8000
CLONE_PIDFD = 0x1000
CLONE_INTO_CGROUP = 0x200000000

# runtime-spec name → clone flag, file name in /proc/PID/ns, option of unshare(1) and nsenter(1)
NAMESPACES = {
    "user": (CLONE_NEWUSER, "user", "--user"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup", "--cgroup"),
    "ipc": (CLONE_NEWIPC, "ipc", "--ipc"),
    "uts": (CLONE_NEWUTS, "uts", "--uts"),
    "network": (CLONE_NEWNET, "net", "--net"),
    "pid": (CLONE_NEWPID, "pid", "--pid"),
    "mount": (CLONE_NEWNS, "mnt", "--mount"),
    "time": (CLONE_NEWTIME, "time", "--time"),
}

SIGCHLD = 17


def clone(flags: int, cgroup: int = -1) -> tuple[int, int]:
    """fork(2) into new namespaces: ``(pid, pidfd)`` in the parent, ``(0, -1)`` in the child.

    ``cgroup`` is a descriptor of a cgroup v2 directory that the child starts in.  With
    CLONE_PARENT the child's parent is the caller's parent.  The caller must have one thread only:
    in the child the C library still believes in the parent's thread id (clone(2), NOTES).
    """
    pidfd = buffer(4)
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD
    if cgroup >= 0:
        flags |= CLONE_INTO_CGROUP
    # struct clone_args: flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup
    arguments = pack("11Q", flags | CLONE_PIDFD, address(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, max(cgroup, 0))
    pid = syscall("clone3", arguments, len(arguments))
    if pid == 0:
        return 0, -1
    return pid, int.from_bytes(bytes(pidfd), "little")


def unshare(flags: int) -> None:
    """Move this process to new namespaces (unshare(2)).  :raises OSError:"""
    syscall("unshare", flags)


def setns(fd: int, flags: int = 0) -> None:
    """Join the namespace(s) that ``fd``, a /proc/PID/ns file or a pidfd, refers to (setns(2))."""
    syscall("setns", fd, flags)


class IdMap:
    """One line of a uid_map or gid_map: ``size`` ids from ``inside`` on are ``outside`` on."""

    __slots__ = ("inside", "outside", "size")

    def __init__(self, inside: int, outside: int, size: int) -> None:
        self.inside = inside
        self.outside = outside
        self.size = size

    @classmethod
    def from_spec(cls, mapping: dict[str, int]) -> IdMap:
        """From the runtime-spec's ``{"containerID": .., "hostID": .., "size": ..}``."""
        return cls(mapping["containerID"], mapping["hostID"], mapping["size"])

    def __str__(self) -> str:
        return f"{self.inside} {self.outside} {self.size}"

    def __repr__(self) -> str:
        return f"IdMap({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def write_file(path: str, data: str, directory: int | None = None) -> None:
    """One write(2) to a kernel file, whose errors open().write() would swallow at close."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, data.encode())
    finally:
        os.close(fd)
