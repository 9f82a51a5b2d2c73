"""Signals by the names that people and container tools use (signal(7)).

Python's ``signal`` costs 7 ms of imports.  The numbers are those of x86, ARM and RISC-V.
"""

from __future__ import annotations

from coracle.errors import UsageError

_NAMES = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
)  # fmt: skip
SIGNALS = {name: number for number, name in enumerate(_NAMES, 1)}
SIGNALS |= {"IOT": 6, "CLD": 17, "POLL": 29}
# What glibc and musl leave of the real-time signals 32 to 64 to programs
RTMIN, RTMAX = 34, 64


def signal_number(text: str) -> int:
    """The number of ``9``, ``KILL``, ``SIGKILL``, ``kill``, ``RTMIN+3`` or ``SIGRTMAX-1``.  :raises UsageError:"""
    name = text.upper().removeprefix("SIG")
    if name in SIGNALS:
        return SIGNALS[name]
    if name.isascii() and name.isdigit() and len(name) <= 2:
        number = int(name)
    else:
        number = _real_time(name)
    if not 0 < number <= RTMAX:
        raise UsageError(f"unknown signal {text!r}", "a name such as TERM or RTMIN+3, or a number from 1 to 64")
    return number


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15; real-time signals have no name of their own and stay numbers."""
    return f"SIG{_NAMES[number - 1]}" if number <= len(_NAMES) else str(number)


def _real_time(name: str) -> int:
    base, sign, offset = (name[:5], name[5:6], name[6:])
    if offset and not (offset.isascii() and offset.isdigit() and len(offset) <= 2):
        return 0
    if base == "RTMIN" and ((sign == "+" and offset) or not sign):
        number = RTMIN + int(offset or "0")
    elif base == "RTMAX" and ((sign == "-" and offset) or not sign):
        number = RTMAX - int(offset or "0")
    else:
        return 0
    return number if RTMIN <= number <= RTMAX else 0
