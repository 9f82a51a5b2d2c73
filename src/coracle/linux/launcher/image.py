"""The launcher as an ELF file, and its execution from a sealed memfd.

    file 0x0000   ELF header, three program headers, code   → 0x10000000  R X
    file 0x1000   data: first entry, report descriptor,     → 0x10011000  R
                  pool of strings and structures, entries

Nothing is writable but the stack, so no relocation and no page copied on write: the addresses in
the table are final because the file is not position independent (ET_EXEC).  Segments are aligned
to 64 KB, the largest page of aarch64; addresses lie above any vm.mmap_min_addr.
elf(5), fs/binfmt_elf.c.
"""

from __future__ import annotations

import os
import struct
from fcntl import fcntl

from coracle.errors import UnsupportedError
from coracle.linux.launcher.code import CODE, SUPPORTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CODE_ADDRESS = 0x1000_0000
DATA_ADDRESS = 0x1001_1000
DATA_OFFSET = 0x1000  # equals DATA_ADDRESS modulo 64 KB, as mmap wants
DATA_HEADER = struct.Struct("<Qixxxx")  # address of the first entry, report descriptor

_ALIGNMENT = 0x1_0000
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_CODE_OFFSET = _FILE_HEADER.size + 3 * _SEGMENT.size
_IDENT = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little endian, System V
_ET_EXEC, _PT_LOAD, _PT_GNU_STACK = 2, 1, 0x6474E551
_READ, _WRITE, _EXECUTE = 4, 2, 1

_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_F_ADD_SEALS = 1033
_ALL_SEALS = 0xF  # F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE


def wrap(data: bytes | bytearray, machine: str) -> bytes:
    """An ELF file of the walker for ``machine`` (``uname -m``) and ``data``.

    :raises UnsupportedError: when there is no walker for that machine.
    """
    if machine not in CODE:
        known = " and ".join(SUPPORTED)
        raise UnsupportedError(f"no launcher for machine type {machine}", f"containers can be started on {known}")
    elf_machine, code = CODE[machine]
    end = _CODE_OFFSET + len(code)
    head = b"".join(
        (
            _FILE_HEADER.pack(
                *(_IDENT, _ET_EXEC, elf_machine, 1, CODE_ADDRESS + _CODE_OFFSET, _FILE_HEADER.size, 0, 0),
                *(_FILE_HEADER.size, _SEGMENT.size, 3, 0, 0, 0),
            ),
            _SEGMENT.pack(_PT_LOAD, _READ | _EXECUTE, 0, CODE_ADDRESS, CODE_ADDRESS, end, end, _ALIGNMENT),
            _SEGMENT.pack(
                *(_PT_LOAD, _READ, DATA_OFFSET, DATA_ADDRESS, DATA_ADDRESS, len(data), len(data), _ALIGNMENT)
            ),
            _SEGMENT.pack(_PT_GNU_STACK, _READ | _WRITE, 0, 0, 0, 0, 0, 16),
            code,
        )
    )
    return head.ljust(DATA_OFFSET, b"\0") + data


def seal(image: bytes) -> int:
    """Descriptor of a memfd that holds ``image`` and that nobody can change any more (memfd_create(2)).

    :raises OSError: EFBIG under a small RLIMIT_FSIZE, ENOMEM, ...
    :raises UnsupportedError: where ``vm.memfd_noexec`` forbids programs in memory.
    """
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        try:
            fd = os.memfd_create("coracle", flags | _MFD_EXEC)
        except OSError as error:
            if error.errno != 22:  # EINVAL: before Linux 6.3 the flag is unknown, and not needed
                raise
            fd = os.memfd_create("coracle", flags)
    except PermissionError:
        raise UnsupportedError(
            "this system forbids programs in memory", "sysctl vm.memfd_noexec must be 0 or 1, not 2"
        ) from None
    try:
        view = memoryview(image)
        while view:
            view = view[os.write(fd, view) :]
        fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def execute(image: bytes, keep: Iterable[int] = (), arguments: Sequence[bytes] = (b"coracle-init",)) -> None:
    """Become the launcher ``image``; returns only by raising.

    ``keep`` are descriptors that must be open in it although they are CLOEXEC now.  ``arguments``
    is what ps(1) shows while it waits.  Needs no import, no codec and no file system, so it works
    after pivot_root(2).

    :raises OSError: see :func:`seal` and execve(2).
    """
    fd = seal(image)
    try:
        for kept in keep:
            os.set_inheritable(kept, True)
        os.execve(fd, list(arguments), {})  # execveat(fd, "", ..., AT_EMPTY_PATH): no /proc needed
    finally:
        os.close(fd)
