"""What a profile means, said as plainly as possible: the other opinion in the tests of the compiler."""

from __future__ import annotations

import importlib
import operator

ACTIONS = {
    "KILL": 0, "KILL_THREAD": 0, "KILL_PROCESS": 0x80000000, "TRAP": 0x30000, "ERRNO": 0x50000, "NOTIFY": 0x7FC00000,
    "TRACE": 0x7FF00000, "LOG": 0x7FFC0000, "ALLOW": 0x7FFF0000,
}  # fmt: skip
STRICTNESS = ["KILL_PROCESS", "KILL", "KILL_THREAD", "TRAP", "ERRNO", "NOTIFY", "TRACE", "LOG", "ALLOW"]
KILL, ENOSYS = 0, 0x50026

ABIS = {"x86_64": ("x86_64", "x32", "x86"), "aarch64": ("aarch64", "arm"), "riscv64": ("riscv64",)}
NUMBERS = {
    abi: importlib.import_module(f"coracle.linux.seccomp.tables.{abi}").NUMBERS
    for abis in ABIS.values()
    for abi in abis
}
# First number, end of the numbers that are given out in order, end of the ABI's territory.
SPACES = {
    "x86_64": (0, 1 << 30, 1 << 30),
    "x32": (1 << 30, (1 << 30) + 512, (1 << 32) - 1),
    "arm": (0, 0xF0000, (1 << 32) - 1),
}
SPACE = (0, (1 << 32) - 1, (1 << 32) - 1)

SOCKETCALL = [
    "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
    "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg",
    "sendmmsg",
]  # fmt: skip
IPC = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
    "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}  # fmt: skip

_COMPARE = {
    "NE": operator.ne, "LT": operator.lt, "LE": operator.le, "EQ": operator.eq, "GE": operator.ge, "GT": operator.gt,
}  # fmt: skip


def answer(action: str, errno: int | None) -> int:
    name = action.removeprefix("SCMP_ACT_")
    return ACTIONS[name] | ((1 if errno is None else errno) if name in ("ERRNO", "TRACE") else 0)


def holds(argument: dict, arguments: tuple[int, ...], bits: int) -> bool:
    mask = (1 << bits) - 1
    actual, value = arguments[argument["index"]] & mask, argument["value"] & mask
    name = argument["op"].removeprefix("SCMP_CMP_")
    if name == "MASKED_EQ":
        return actual & value == argument.get("valueTwo", 0) & value
    return _COMPARE[name](actual, value)


def matches(rule: dict, arguments: tuple[int, ...], bits: int) -> bool:
    conditions = rule.get("args") or []
    indices = [condition["index"] for condition in conditions]
    combine = all if len(set(indices)) == len(indices) else any
    return not conditions or combine(holds(condition, arguments, bits) for condition in conditions)


def carried(name: str) -> tuple[int, int] | None:
    """Which i386 call carries ``name``, and by what code."""
    if name in SOCKETCALL:
        return 102, SOCKETCALL.index(name) + 1
    return (117, IPC[name]) if name in IPC else None


def evaluate(profile: dict, machine: str, abi: str, number: int, arguments: tuple[int, ...]) -> int:
    """What the filter of ``profile`` on ``machine`` answers to a call through ``abi``."""
    default = answer(profile["defaultAction"], profile.get("defaultErrnoRet"))
    covered = [ABIS[machine][0]]
    covered += [name for name in ABIS[machine] if f"SCMP_ARCH_{name.upper()}" in (profile.get("architectures") or ())]
    if abi in ("x86_64", "x32") and number != 0xFFFFFFFF:  # one AUDIT_ARCH: the number alone tells
        abi = "x32" if number >= 1 << 30 else "x86_64"
    if number == 0xFFFFFFFF and abi == "x32":
        abi = "x86_64"
    if abi not in covered:
        return KILL
    if number == 0xFFFFFFFF:
        return default
    found = _rules(profile, abi, number, default)
    bits = 64 if abi in ("x86_64", "aarch64", "riscv64") else 32
    for rule in [*(rule for rule in found if not rule.get("args")), *found]:
        if matches(rule, arguments, bits):
            return answer(rule["action"], rule.get("errnoRet"))
    if any(not rule.get("args") for rule in found):
        raise AssertionError("an unconditional rule always matches")
    named = {NUMBERS[abi][name] for rule in profile["syscalls"] for name in rule["names"] if name in NUMBERS[abi]}
    first, end, _ = SPACES.get(abi, SPACE)
    regular = {value for value in named if first <= value < end}
    if found or not regular or not max(regular) < number < end:
        return default
    passing = profile["defaultAction"] in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")
    return default if passing else ENOSYS


def _rules(profile: dict, abi: str, number: int, default: int) -> list[dict]:
    """The rules for one number, in order, those for what socketcall and ipc carry as rules for these."""
    found = []
    for rule in profile["syscalls"]:
        action = rule["action"].removeprefix("SCMP_ACT_")
        if answer(rule["action"], rule.get("errnoRet")) == default:
            continue
        found += [rule for name in rule["names"] if NUMBERS[abi].get(name) == number]
        stricter = STRICTNESS.index(action) < STRICTNESS.index(profile["defaultAction"].removeprefix("SCMP_ACT_"))
        if abi == "x86" and (stricter or not rule.get("args")):
            codes = [carried(name) for name in rule["names"]]
            found += [
                {**rule, "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": code[1]}]}
                for code in codes
                if code and code[0] == number
            ]
    return found
