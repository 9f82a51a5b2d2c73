"""System calls that Python 3.11 does not have, by number, through libc's syscall(2).

Why ``_ctypes`` and not ``ctypes``: on the start path of a container the public wrapper costs
2 ms of imports that a handful of raw calls never use (docs/decisions/0002-raw-syscalls.md).
Arguments are ints, ``None`` (NULL), ``bytes`` (read by the kernel) or a :func:`buffer`
(written by the kernel).  Every failure is an ``OSError`` with the kernel's errno.

Safe between fork and exec: no imports, no allocation beyond the call itself.
Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

TYPE_CHECKING = False  # typing itself costs 14 ms of imports; type checkers know this name
if TYPE_CHECKING:
    from typing import Any

    Argument = int | None | bytes | Any


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Pointer(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "P"


class _Char(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _SyscallFunction(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Long
    _argtypes_ = (_Long,) + (_Pointer,) * 6


_syscall = _SyscallFunction(dlsym(dlopen(None, 0), "syscall"))  # type: ignore[arg-type]

MACHINE = os.uname().machine

# name → (x86_64, generic: aarch64 and riscv64).  From 424 on the numbers are the same everywhere.
_NUMBERS = {
    "read": (0, 63), "ioctl": (16, 29), "dup3": (292, 24), "ptrace": (101, 117), "setgroups": (116, 159),
    "fstatfs": (138, 44), "syncfs": (306, 267),
    "setresuid": (117, 147), "setresgid": (119, 149), "capget": (125, 90), "capset": (126, 91),
    "personality": (135, 92), "pivot_root": (155, 41), "prctl": (157, 167), "mount": (165, 40), "umount2": (166, 39),
    "sethostname": (170, 161), "setdomainname": (171, 162), "umask": (95, 166),
    "sched_setaffinity": (203, 122), "set_mempolicy": (238, 237), "add_key": (248, 217), "keyctl": (250, 219),
    "ioprio_set": (251, 30), "unshare": (272, 97), "execve": (59, 221), "exit_group": (231, 94), "write": (1, 64),
    "prlimit64": (302, 261), "setns": (308, 268), "sched_setattr": (314, 274), "seccomp": (317, 277),
    "memfd_create": (319, 279), "bpf": (321, 280), "execveat": (322, 281), "statx": (332, 291),
    "pidfd_send_signal": (424, 424), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "pidfd_open": (434, 434),
    "clone3": (435, 435), "close_range": (436, 436), "openat2": (437, 437), "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458),
    # what a launcher's table may hold besides (linux/launcher)
    "close": (3, 57), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "nanosleep": (35, 101),
    "getpid": (39, 172), "clone": (56, 220), "exit": (60, 93), "wait4": (61, 260), "kill": (62, 129),
    "fcntl": (72, 25), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "fchmod": (91, 52), "fchown": (93, 55), "setpgid": (109, 154),
    "getppid": (110, 173), "setsid": (112, 157), "rt_sigtimedwait": (128, 137), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "chroot": (161, 51), "openat": (257, 56), "mkdirat": (258, 34),
    "mknodat": (259, 33), "fchownat": (260, 54), "unlinkat": (263, 35), "symlinkat": (266, 36),
}  # fmt: skip


def numbers(machine: str) -> dict[str, int]:
    """System call numbers by name for ``machine`` (``uname -m``): for programs that run elsewhere."""
    column = 0 if machine == "x86_64" else 1
    return {name: both[column] for name, both in _NUMBERS.items()}


NR: dict[str, int] = numbers(MACHINE)


def syscall(name: str, *arguments: Argument) -> int:
    """Call ``name`` with up to six arguments and return its result.

    :raises OSError: with the kernel's errno; ``filename`` is not set, callers name the object.
    """
    padding = (None,) * (6 - len(arguments))
    result: int = _syscall(NR[name], *arguments, *padding)
    if result < 0:
        code = get_errno()
        raise OSError(code, os.strerror(code), name)
    return result


def buffer(size: int) -> Any:
    """Zeroed memory of ``size`` bytes that the kernel may write to; read it with ``bytes(b)``."""
    return (_Char * size)()


def address(memory: Any) -> int:
    """Address of a :func:`buffer`, for pointers inside structures.  Keep the buffer alive."""
    return int(addressof(memory))
