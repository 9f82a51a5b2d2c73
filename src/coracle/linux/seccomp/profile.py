"""The ``linux.seccomp`` object of a config.json, checked and turned into rules (runtime-spec 1.3, config-linux.md).

Properties that the spec does not know are ignored, as it demands; values that it does not allow are errors with their
JSON path.  ``listenerPath`` and ``listenerMetadata`` are left to whoever holds the listener.
"""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.seccomp import (
    FLAG_LOG,
    FLAG_NEW_LISTENER,
    FLAG_SPEC_ALLOW,
    FLAG_TSYNC,
    FLAG_TSYNC_ESRCH,
    FLAG_WAIT_KILLABLE_RECV,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    # One argument comparison: index, operator (a key of OPERATORS), value, valueTwo.
    Comparison = tuple[int, str, int, int]

KILL_PROCESS = 0x80000000  # SECCOMP_RET_*, include/uapi/linux/seccomp.h
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000
ACTION_MASK = 0xFFFF0000

EPERM = 1
MAX_ERRNO = 4095  # include/linux/err.h; the kernel would quietly cut a larger one down to this
MAX_DATA = 0xFFFF  # SECCOMP_RET_DATA

# SCMP_ACT_KILL is the thread, not the process, in libseccomp and so in every runtime (seccomp_init(3)).
ACTIONS = {
    "SCMP_ACT_KILL": KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": KILL_PROCESS,
    "SCMP_ACT_TRAP": TRAP,
    "SCMP_ACT_ERRNO": ERRNO,
    "SCMP_ACT_TRACE": TRACE,
    "SCMP_ACT_ALLOW": ALLOW,
    "SCMP_ACT_LOG": LOG,
    "SCMP_ACT_NOTIFY": NOTIFY,
}
_LARGEST_ERRNO_RET = {ERRNO: MAX_ERRNO, TRACE: MAX_DATA}

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": FLAG_TSYNC,
    "SECCOMP_FILTER_FLAG_LOG": FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": FLAG_WAIT_KILLABLE_RECV,
}

ARCHITECTURES = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32",
        "PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC", "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH",
        "SHEB",
    )
)  # fmt: skip

OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))


class Rule:
    """One entry of ``syscalls``: all of ``names`` get ``action`` where any one of ``alternatives`` holds.

    An alternative is a set of comparisons that must all be true; the empty one is always true.
    """

    __slots__ = ("action", "alternatives", "names")

    def __init__(self, names: Sequence[str], action: int, alternatives: Sequence[tuple[Comparison, ...]]) -> None:
        self.names = names
        self.action = action
        self.alternatives = alternatives


class Rules:
    """A checked profile.  ``default`` is a SECCOMP_RET_* value, ``flags`` are seccomp(2)'s.

    ``rules`` excludes those whose action is the default anyway; ``names`` is every call that the profile mentions,
    those included.
    """

    __slots__ = ("architectures", "default", "flags", "names", "notifies", "rules")

    def __init__(
        self, default: int, architectures: frozenset[str], flags: int, notifies: bool, rules: list[Rule]
    ) -> None:
        self.default = default
        self.architectures = architectures
        self.flags = flags
        self.notifies = notifies
        self.names = frozenset(name for rule in rules for name in rule.names)
        self.rules = [rule for rule in rules if rule.action != default]


def read_profile(profile: Mapping[str, Any], where: str = "linux.seccomp") -> Rules:
    """Check ``profile``, whose JSON path is ``where``.  :raises SpecError:"""
    if not isinstance(profile, dict):
        raise SpecError(where, "must be an object")
    default = _action(profile, "defaultAction", "defaultErrnoRet", where)
    names = _strings(profile, "architectures", where)
    architectures = frozenset(
        _known(name, ARCHITECTURES, f"{where}.architectures[{index}]", "architecture")
        for index, name in enumerate(names)
    )
    syscalls = profile.get("syscalls") or []
    if not isinstance(syscalls, list):
        raise SpecError(f"{where}.syscalls", "must be a list")
    rules = [_rule(entry, f"{where}.syscalls[{index}]") for index, entry in enumerate(syscalls)]
    notifies = any(action & ACTION_MASK == NOTIFY for action in [default, *(rule.action for rule in rules)])
    return Rules(default, architectures, _flags(profile, where, notifies), notifies, rules)


def _flags(profile: Mapping[str, Any], where: str, notifies: bool) -> int:
    """The flags for seccomp(2).

    A profile without ``flags`` gets SPEC_ALLOW as in runc: without it, kernels before 5.16 slow every branch of a
    process with a filter (spec_store_bypass_disable=seccomp).  An empty list is respected.
    """
    if profile.get("flags") is None:
        flags = FLAG_SPEC_ALLOW
    else:
        flags = 0
        for index, name in enumerate(_strings(profile, "flags", where)):
            flags |= FLAGS[_known(name, FLAGS, f"{where}.flags[{index}]", "flag")]
    if not notifies:
        return flags & ~FLAG_WAIT_KILLABLE_RECV  # EINVAL without a listener
    # A listener and TSYNC need TSYNC_ESRCH, or a descriptor and a thread id could not be told apart (seccomp(2)).
    return flags | FLAG_NEW_LISTENER | (FLAG_TSYNC_ESRCH if flags & FLAG_TSYNC else 0)


def _rule(entry: Any, where: str) -> Rule:
    if not isinstance(entry, dict):
        raise SpecError(where, "must be an object")
    names = _strings(entry, "names", where)
    if not names:
        raise SpecError(f"{where}.names", "must name at least one system call")
    action = _action(entry, "action", "errnoRet", where)
    arguments = entry.get("args") or []
    if not isinstance(arguments, list):
        raise SpecError(f"{where}.args", "must be a list")
    comparisons = [_comparison(argument, f"{where}.args[{index}]") for index, argument in enumerate(arguments)]
    return Rule(names, action, _alternatives(comparisons))


def _alternatives(comparisons: list[Comparison]) -> list[tuple[Comparison, ...]]:
    """All comparisons of one rule must hold, unless an argument is compared twice: then any one is enough.

    The spec is silent; this is what runc and crun do, so that "argument 0 is 1 or 2" can be said in one rule
    (runc libcontainer/seccomp/seccomp_linux.go, matchCall; opencontainers/runc#2735).
    """
    if len({index for index, *_ in comparisons}) < len(comparisons):
        return [(comparison,) for comparison in comparisons]
    return [tuple(comparisons)]


def _comparison(argument: Any, where: str) -> Comparison:
    if not isinstance(argument, dict):
        raise SpecError(where, "must be an object")
    index = _integer(argument, "index", 5, where)
    if index is None:
        raise SpecError(f"{where}.index", "is missing")
    operator = _known(argument.get("op"), OPERATORS, f"{where}.op", "operator")
    value = _integer(argument, "value", (1 << 64) - 1, where)
    # Go's encoder leaves out a zero with "omitempty", so a missing value is one.
    return index, operator, value or 0, _integer(argument, "valueTwo", (1 << 64) - 1, where) or 0


def _action(entry: Mapping[str, Any], key: str, errno_key: str, where: str) -> int:
    action = ACTIONS[_known(entry.get(key), ACTIONS, f"{where}.{key}", "action")]
    largest = _LARGEST_ERRNO_RET.get(action)
    errno = _integer(entry, errno_key, largest or MAX_DATA, where)
    if largest is None:
        if errno is not None:
            raise SpecError(f"{where}.{errno_key}", f"{entry[key]} cannot return an errno")
        return action
    return action | (EPERM if errno is None else errno)


def _known(value: Any, known: Mapping[str, int] | frozenset[str], where: str, kind: str) -> str:
    if value is None:
        raise SpecError(where, "is missing")
    if not isinstance(value, str) or value not in known:
        raise SpecError(where, f"unknown seccomp {kind} {value!r}")
    return value


def _strings(entry: Mapping[str, Any], key: str, where: str) -> list[str]:
    values = entry.get(key)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SpecError(f"{where}.{key}", "must be a list of strings")
    return values


def _integer(entry: Mapping[str, Any], key: str, largest: int, where: str) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise SpecError(f"{where}.{key}", f"must be an integer from 0 to {largest}")
    return value
