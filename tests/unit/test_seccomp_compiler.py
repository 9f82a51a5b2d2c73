"""The compiler against a second opinion: generated profiles, run on a BPF machine, call by call."""

from __future__ import annotations

import pytest
from bpf_machine import AUDIT, Machine
from hypothesis import given, settings
from hypothesis import strategies as st
from seccomp_reference import ABIS, NUMBERS, evaluate

from coracle.errors import SpecError, UnsupportedError
from coracle.linux import seccomp

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0
EDGES = [0, 1, 2, 40, 0xFFFF, 0x7E020000, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 3 << 32, 1 << 63]
EDGES += [(1 << 63) - 1, (1 << 64) - (1 << 32), (1 << 64) - 2, (1 << 64) - 1]

ALL_NAMES = sorted({name for numbers in NUMBERS.values() for name in numbers})
CROWDED = ["socket", "clone", "ioctl", "semop", "connect", "socketcall", "ipc", "set_tls", "uretprobe", "no_such_call"]

values = st.one_of(st.sampled_from(EDGES), st.integers(0, (1 << 64) - 1))
operators = st.sampled_from([f"SCMP_CMP_{name}" for name in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")])
names = st.lists(st.one_of(st.sampled_from(CROWDED), st.sampled_from(ALL_NAMES)), min_size=1, max_size=8)
plain_actions = st.sampled_from(["KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "ALLOW", "LOG", "NOTIFY"]).map(
    lambda name: (f"SCMP_ACT_{name}", None)
)
errno_actions = st.tuples(
    st.sampled_from(["SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"]), st.sampled_from([None, 0, 1, 38, 4095])
)
actions = st.one_of(plain_actions, errno_actions)
arguments = st.fixed_dictionaries(
    {"index": st.integers(0, 5), "value": values, "op": operators}, optional={"valueTwo": values}
)


@st.composite
def rules(draw):
    action, errno = draw(actions)
    rule = {"names": draw(names), "action": action}
    if errno is not None:
        rule["errnoRet"] = errno
    conditions = draw(st.lists(arguments, max_size=3))
    return {**rule, "args": conditions} if conditions else rule


@st.composite
def profiles(draw):
    action, errno = draw(actions)
    profile = {"defaultAction": action, "syscalls": draw(st.lists(rules(), max_size=12))}
    if errno is not None:
        profile["defaultErrnoRet"] = errno
    architectures = draw(
        st.lists(st.sampled_from(["X86", "X86_64", "X32", "ARM", "AARCH64", "RISCV64", "MIPS", "S390X"]))
    )
    return {**profile, "architectures": [f"SCMP_ARCH_{name}" for name in architectures]}


def calls(profile: dict, abi: str):
    """Numbers at and beside everything that the profile names, and arguments at and beside its values."""
    named = {NUMBERS[abi][name] for rule in profile["syscalls"] for name in rule["names"] if name in NUMBERS[abi]}
    named |= {102, 117} if abi == "x86" else set()
    corners = {0, 471, 472, 0xEFFFF, 0xF0000, (1 << 30) - 1, 1 << 30, (1 << 30) + 511, (1 << 30) + 548, (1 << 32) - 1}
    for number in sorted({n + step for n in named for step in (-1, 0, 1) if n + step >= 0} | corners):
        interesting = {0}
        for rule in profile["syscalls"]:
            for argument in rule.get("args", ()):
                two = argument.get("valueTwo", 0)
                interesting |= {argument["value"] + step for step in (-1, 0, 1)} | {two, two & argument["value"]}
                interesting |= {argument["value"] ^ 1 << 32, ~argument["value"] | two}
        interesting = sorted(value & (1 << 64) - 1 for value in interesting)
        if number not in named:
            interesting = interesting[:1]
        for value in interesting:
            yield number, (value,) * 6
            yield number, (value, *interesting[:5], *(0,) * 5)[:6]


@settings(deadline=None, max_examples=60)
@given(profile=profiles(), machine=st.sampled_from(sorted(ABIS)))
def test_every_call_gets_what_the_profile_says(profile, machine):
    program = Machine(seccomp.compile(profile, machine).filter)
    for abi in ABIS[machine]:
        for number, values_ in calls(profile, abi):
            answer, _ = program.run(AUDIT[abi], number, values_)
            expected = evaluate(profile, machine, abi, number, values_)
            assert answer == expected, (abi, number, [hex(value) for value in values_], hex(answer), hex(expected))


@pytest.mark.parametrize("machine", sorted(ABIS))
def test_a_program_much_longer_than_a_jump_reaches(machine):
    """Each call its own errno: no two neighbours merge and no return is shared."""
    architectures = [f"SCMP_ARCH_{abi.upper()}" for abi in ABIS[machine]]
    syscalls = [
        {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 100 + index} for index, name in enumerate(ALL_NAMES)
    ]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": syscalls}
    filter = seccomp.compile(profile, machine).filter
    assert len(filter) // 8 > 512
    program = Machine(filter)
    for abi in ABIS[machine]:
        numbers = NUMBERS[abi]
        codes = {
            numbers[name]: 0x50000 + 100 + ALL_NAMES.index(name) for name in reversed(ALL_NAMES) if name in numbers
        }
        for number in range(min(numbers.values()), min(numbers.values()) + 600):
            assert program(abi, number) == codes.get(number, ALLOW)


def test_argument_blocks_much_longer_than_a_jump_reaches():
    """Many conditional calls, none alike, between the search for the number and the returns."""
    named = sorted(NUMBERS["x86_64"], key=NUMBERS["x86_64"].__getitem__)[:200]
    syscalls = [
        {
            "names": [name],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {"index": 1, "value": index << 32 | index, "op": "SCMP_CMP_EQ"},
                {"index": 2, "value": index, "op": "SCMP_CMP_GT"},
            ],
        }
        for index, name in enumerate(named)
    ]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": syscalls}
    program = Machine(seccomp.compile(profile, "x86_64").filter)
    assert len(program.code) > 1000
    for index, name in enumerate(named):
        number = NUMBERS["x86_64"][name]
        assert program("x86_64", number, 0, index << 32 | index, index + 1) == ALLOW
        assert program("x86_64", number, 0, index << 32 | index, index) == EPERM
        assert program("x86_64", number, 0, (index << 32 | index) + 1, index + 1) == EPERM


def test_more_than_the_kernel_takes_is_an_error():
    arguments_ = [{"index": 0, "value": 3 * value, "op": "SCMP_CMP_EQ"} for value in range(5000)]
    rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": arguments_}
    with pytest.raises(SpecError, match=r"linux\.seccomp: compiles to \d{4} instructions, but the kernel takes 4096"):
        seccomp.compile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule]}, "x86_64")


def test_unknown_machine():
    with pytest.raises(UnsupportedError, match="no system call tables for seccomp on sparc64"):
        seccomp.compile({"defaultAction": "SCMP_ACT_ALLOW"}, "sparc64")


def profile_of(*syscalls: dict, **more: object) -> dict:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(syscalls), **more}


def rule_for(*names_: str, action: str = "ALLOW", **more: object) -> dict:
    return {"names": list(names_), "action": f"SCMP_ACT_{action}", **more}


def test_calls_newer_than_the_profile_do_not_exist():
    program = Machine(seccomp.compile(profile_of(rule_for("read", "openat2")), "x86_64").filter)
    assert program("x86_64", NUMBERS["x86_64"]["clone3"]) == EPERM  # 435, below openat2
    assert program("x86_64", NUMBERS["x86_64"]["faccessat2"]) == ENOSYS  # 439
    assert program("x86_64", 9999) == ENOSYS


@pytest.mark.parametrize(("default", "newer"), [("ALLOW", ALLOW), ("LOG", 0x7FFC0000), ("TRACE", 0x7FF00001)])
def test_a_default_that_lets_calls_pass_applies_to_newer_ones_too(default, newer):
    profile = profile_of(rule_for("read", action="KILL")) | {"defaultAction": f"SCMP_ACT_{default}"}
    assert Machine(seccomp.compile(profile, "x86_64").filter)("x86_64", 9999) == newer


@pytest.mark.parametrize("default", ["KILL", "KILL_PROCESS", "TRAP"])
def test_newer_calls_do_not_kill(default):
    profile = profile_of(rule_for("read")) | {"defaultAction": f"SCMP_ACT_{default}"}
    assert Machine(seccomp.compile(profile, "x86_64").filter)("x86_64", 9999) == ENOSYS


def test_arm_private_calls_do_not_hide_newer_ones():
    """set_tls is 0xf0005; runc takes it for the newest call, so its stub never applies there."""
    profile = profile_of(rule_for("read", "set_tls"), architectures=["SCMP_ARCH_ARM"])
    program = Machine(seccomp.compile(profile, "aarch64").filter)
    assert program("arm", 0xF0005) == ALLOW
    assert program("arm", 0xF0002) == EPERM
    assert program("arm", 471) == ENOSYS


def test_x32_is_not_a_way_around_a_filter_for_x86_64():
    deny = rule_for("ptrace", action="ERRNO")
    program = Machine(seccomp.compile({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [deny]}, "x86_64").filter)
    assert program("x86_64", 101) == EPERM
    assert program("x32", 1 << 30 | 101) == KILL
    assert program("x32", 1 << 30 | 521) == KILL
    assert program("x86", 26) == KILL
    assert program("x86_64", (1 << 32) - 1) == ALLOW


def test_x32_has_numbers_of_its_own():
    profile = profile_of(rule_for("ioctl", "getpid"), architectures=["SCMP_ARCH_X32"])
    program = Machine(seccomp.compile(profile, "x86_64").filter)
    assert program("x32", 1 << 30 | 514) == ALLOW
    assert program("x32", 1 << 30 | 16) == EPERM
    assert program("x32", 1 << 30 | 39) == ALLOW
    assert program("x86_64", 514) == ENOSYS


def test_the_first_unconditional_rule_wins():
    condition = [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]
    profile = profile_of(
        rule_for("read", action="TRAP", args=condition),
        rule_for("read", action="LOG"),
        rule_for("read", action="ALLOW"),
    )
    assert Machine(seccomp.compile(profile, "x86_64").filter)("x86_64", 0, 7) == 0x7FFC0000


def test_a_denied_call_is_denied_through_socketcall_too():
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86"],
        "syscalls": [rule_for("socket", action="ERRNO", args=[{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}])],
    }
    program = Machine(seccomp.compile(profile, "x86_64").filter)
    assert program("x86", 359, 38) == EPERM and program("x86", 359, 2) == ALLOW
    assert program("x86", 102, 1) == EPERM and program("x86", 102, 2) == ALLOW


def test_a_conditional_permission_does_not_open_socketcall():
    condition = [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]
    profile = profile_of(rule_for("socket", args=condition), rule_for("connect"), architectures=["SCMP_ARCH_X86"])
    program = Machine(seccomp.compile(profile, "x86_64").filter)
    assert program("x86", 359, 1) == ALLOW
    assert program("x86", 102, 1) == EPERM
    assert program("x86", 102, 3) == ALLOW


def test_notify_asks_for_a_listener():
    program = seccomp.compile(profile_of(rule_for("mkdir", action="NOTIFY")), "x86_64")
    assert program.notifies and program.flags & seccomp.FLAG_NEW_LISTENER
    quiet = seccomp.compile(profile_of(rule_for("mkdir")), "x86_64")
    assert not quiet.notifies and not quiet.flags & seccomp.FLAG_NEW_LISTENER


def test_constant_answers_use_only_what_the_kernel_evaluates_beforehand():
    """seccomp_is_const_allow() gives up at anything but a load of number or arch, a jump, an AND and a return; then the
    whole filter would run for every allowed call."""
    profile = profile_of(rule_for("read"), rule_for("write", args=[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]))
    program = Machine(seccomp.compile(profile, "x86_64").filter)
    position = 0
    while program.code[position][0] != 0x06:
        code, yes, no, k = program.code[position]
        assert code in (0x20, 0x05, 0x15, 0x35, 0x54)
        if code == 0x20:
            assert k in (0, 4)
            accumulator = AUDIT["x86_64"] if k else 0
        taken = {0x15: accumulator == k, 0x35: accumulator >= k}.get(code)
        position += 1 + (0 if taken is None else yes if taken else no)
    assert program.code[position][3] == ALLOW
