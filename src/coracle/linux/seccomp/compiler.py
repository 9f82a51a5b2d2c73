"""From rules to a program: for each ABI of the machine, system call numbers mapped to decisions.

Where several rules name one call, an unconditional one wins over all conditional ones, and the first listed
unconditional one over the others, exactly as libseccomp keeps them.  Among conditional rules the first listed that
holds decides; libseccomp orders those by its own tree, which only profiles that contradict themselves can tell.

The rest follows runc with libseccomp, which the profiles in use were written for:

* Names unknown to an ABI are ignored there.
* A call through an ABI that the profile does not cover kills the thread (seccomp_attr_set(3), SCMP_FLTATR_ACT_BADARCH).
* Unless the default action lets calls pass, numbers above the highest that the profile names give ENOSYS: a C library
  takes the old call when a new one gives ENOSYS, but gives up after EPERM (runc libcontainer/seccomp/patchbpf).
* Number -1, by which a tracer skips a call (ptrace(2)), gets the default action.

One thing is stricter than libseccomp: on i386 the arguments of a call that comes through socketcall(2) or ipc(2) cannot
be seen, so a conditional rule that permits such a call does not hold there, and one that forbids it always does.
libseccomp compares the carrier's own arguments instead, which are other things.
"""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.seccomp import INSTRUCTION_SIZE, MAX_INSTRUCTIONS, Program
from coracle.linux.seccomp.abi import SKIPPED, X32_BIT, Abi, abis_of
from coracle.linux.seccomp.arguments import Arguments
from coracle.linux.seccomp.bpf import JEQ, Assembler
from coracle.linux.seccomp.profile import ACTION_MASK, ALLOW, ERRNO, KILL_THREAD, LOG, TRACE, Rules, read_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from coracle.linux.seccomp.arguments import Decision, Test
    from coracle.linux.seccomp.bpf import Label

    # The number space of one AUDIT_ARCH: where a decision begins to apply.  Each holds up to the next.
    Numbers = dict[int, Decision]

_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_ENOSYS = ERRNO | 38
_PASSING = (ALLOW, LOG, TRACE)  # runc counts TRACE among them: a tracer answers for unknown calls itself


def compile_profile(profile: Mapping[str, Any], machine: str, where: str = "linux.seccomp") -> Program:
    """What :func:`coracle.linux.seccomp.compile` does; ``where`` is the JSON path of ``profile``."""
    rules = read_profile(profile, where)
    filter = _assemble(rules, abis_of(machine, rules.architectures))
    count = len(filter) // INSTRUCTION_SIZE
    if count > MAX_INSTRUCTIONS:
        raise SpecError(where, f"compiles to {count} instructions, but the kernel takes {MAX_INSTRUCTIONS}")
    return Program(filter, rules.flags, rules.notifies)


def _assemble(rules: Rules, abis: list[Abi]) -> bytes:
    """One section per AUDIT_ARCH behind a chain of comparisons, the native one to be asked first."""
    sections: dict[int, Numbers] = {}
    for abi in abis:
        sections.setdefault(abi.audit, {}).update(_numbers(rules, abi))
    assembler = Assembler()
    arguments = Arguments(assembler)
    entry = assembler.give(KILL_THREAD)
    for audit, numbers in reversed(sections.items()):
        section = _section(assembler, arguments, numbers)
        entry = assembler.branch(JEQ, audit, section, entry)
    assembler.load(_ARCH, entry)
    return assembler.program()


def _section(assembler: Assembler, arguments: Arguments, numbers: Numbers) -> Label:
    """A search for the number.  A range weighs as much as calls lie in it; x32, which nobody uses, next to nothing."""
    pieces: list[list[Any]] = []
    for number, decision in sorted(numbers.items()):
        weight = 1 if number >= X32_BIT else 100
        if pieces and pieces[-1][1] == decision:
            pieces[-1][2] += weight
        else:
            pieces.append([number, decision, weight])
    labels = {decision: arguments.decide(decision) for _, decision, _ in pieces}
    targets = [(number, labels[decision]) for number, decision, _ in pieces]
    return assembler.load(_NUMBER, assembler.search(targets, [weight for _, _, weight in pieces]))


def _numbers(rules: Rules, abi: Abi) -> Numbers:
    """What to do for each number of ``abi``, for the gaps between them, and for what lies beyond."""
    known = abi.numbers()
    tests = _tests(rules, abi, known)
    highest = max((known[name] for name in rules.names if name in known and known[name] < abi.end), default=SKIPPED)
    default: Decision = ((), rules.default, 0)
    newer: Decision = default if rules.default & ACTION_MASK in _PASSING else ((), _ENOSYS, 0)

    def unnamed(number: int) -> Decision:
        return newer if highest < number < abi.end else default

    numbers: Numbers = {abi.first: unnamed(abi.first)}
    for number in sorted(known.values()):
        numbers[number] = _decision(tests[number], rules.default, abi.bits) if number in tests else unnamed(number)
        numbers[number + 1] = unnamed(number + 1)
    if abi.end not in tests:
        numbers[abi.end] = ((), KILL_THREAD, 0) if abi.shared else default
    numbers[SKIPPED] = default
    return numbers


def _tests(rules: Rules, abi: Abi, known: Mapping[str, int]) -> dict[int, list[Test]]:
    """All tests for each number that a rule names, directly or through its carrier."""
    tests: dict[int, list[Test]] = {}
    for rule in rules.rules:
        for name in rule.names:
            if name in known:
                tests.setdefault(known[name], []).extend((all_of, rule.action) for all_of in rule.alternatives)
        for carrier, codes in abi.carriers.items():
            if all(rule.alternatives) and _strictness(rule.action) <= _strictness(rules.default):
                continue
            carried = [(((0, "SCMP_CMP_EQ", codes[name], 0),), rule.action) for name in rule.names if name in codes]
            if carried:
                tests.setdefault(known[carrier], []).extend(carried)
    return tests


def _strictness(action: int) -> int:
    """The kernel's own order: of several filters' answers, the strictest counts (seccomp(2)).  KILL_PROCESS is -1."""
    return -((action & ACTION_MASK ^ 0x80000000) - 0x80000000)


def _decision(tests: list[Test], default: int, bits: int) -> Decision:
    for comparisons, action in tests:
        if not comparisons:
            return (), action, 0
    return tuple(tests), default, bits
