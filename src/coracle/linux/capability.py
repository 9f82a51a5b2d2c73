"""Capabilities by name, number and bit mask (capabilities(7), include/uapi/linux/capability.h)."""

from __future__ import annotations

import os
from struct import pack

from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# The position is the number.
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(NAMES)}
ALL = (1 << len(NAMES)) - 1

_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3: two 32-bit words a set, since Linux 2.6.26


def last_cap() -> int:
    """The highest capability number that this kernel knows; what it does not know cannot be granted."""
    try:
        fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # no procfs, or one with subset=pid
        return len(NAMES) - 1
    try:
        return int(os.read(fd, 16))
    finally:
        os.close(fd)


def mask(names: Iterable[str]) -> int:
    """The bits of ``names``, such as ``CAP_CHOWN``.  :raises UsageError: for a name that does not exist."""
    bits = 0
    for name in names:
        number = NUMBERS.get(name)
        if number is None:
            raise UsageError(f"unknown capability {name}")
        bits |= 1 << number
    return bits


def names(mask: int) -> list[str]:
    """The names of the bits in ``mask``, lowest first; a bit newer than this table is ``CAP_<number>``."""
    numbers = (number for number in range(mask.bit_length()) if mask >> number & 1)
    return [NAMES[number] if number < len(NAMES) else f"CAP_{number}" for number in numbers]


def capset_data(effective: int, permitted: int, inheritable: int) -> tuple[bytes, bytes]:
    """Header and data for capset(2) on the calling thread, from bit masks."""
    sets = (effective, permitted, inheritable)
    low = [bits & 0xFFFFFFFF for bits in sets]
    high = [bits >> 32 & 0xFFFFFFFF for bits in sets]
    return pack("Ii", _VERSION_3, 0), pack("6I", *low, *high)


class Sets:
    """The five capability sets of a process, as bit masks."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(self, inheritable: int, permitted: int, effective: int, bounding: int, ambient: int) -> None:
        self.inheritable = inheritable
        self.permitted = permitted
        self.effective = effective
        self.bounding = bounding
        self.ambient = ambient


def own() -> Sets:
    """What the calling process holds now, from /proc/self/status (proc(5), CapInh to CapAmb)."""
    fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 1 << 14)
    finally:
        os.close(fd)
    lines = dict(line.split(b":", 1) for line in text.splitlines() if line.startswith(b"Cap"))
    return Sets(*(int(lines.get(key, b"0"), 16) for key in (b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb")))
