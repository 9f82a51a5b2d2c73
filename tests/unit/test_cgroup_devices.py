"""Device rules: the v1 writes, and the eBPF program run by a small interpreter against a plain reading of the rules."""

from __future__ import annotations

from struct import iter_unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle.errors import SpecError
from coracle.linux.cgroup.device_program import build
from coracle.linux.cgroup.devices import ANY, STANDARD, DeviceFilter, Rule, rules
from coracle.linux.cgroup.settings import settings

DENY_ALL = {"allow": False, "access": "rwm"}
MASK = (1 << 64) - 1
ACCESS = {"m": 1, "r": 2, "w": 4}
KIND = {"b": 1, "c": 2}


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """What the kernel would get from ``program``; refuses what its verifier would refuse.

    All jumps go forward, so that a single pass finds code that cannot be reached.
    """
    code = list(iter_unpack("<BBhi", program))
    context = [sum(ACCESS[letter] for letter in access) << 16 | KIND[kind], major, minor]
    registers: dict[int, int] = {1: 0}
    at = 0
    while True:
        operation, both, offset, constant = code[at]
        target, source = both & 15, both >> 4
        at += 1
        if operation == 0x95:
            return registers[0]
        if operation == 0x61:
            assert source == 1 and offset % 4 == 0
            registers[target] = context[offset // 4]
        elif operation == 0xBF:
            registers[target] = registers[source]
        elif operation == 0xB7:
            registers[target] = constant & MASK
        elif operation == 0x57:
            registers[target] &= constant & MASK
        elif operation == 0x77:
            registers[target] >>= constant
        elif operation == 0x05:
            assert offset > 0
            at += offset
        elif operation in (0x15, 0x55):
            assert offset > 0
            if (registers[target] == constant & MASK) == (operation == 0x15):
                at += offset
        else:
            raise AssertionError(f"unknown instruction {operation:#x}")


def reachable(program: bytes) -> set[int]:
    code = list(iter_unpack("<BBhi", program))
    found: set[int] = set()
    todo = [0]
    while todo:
        at = todo.pop()
        assert 0 <= at < len(code), "a jump leaves the program"
        if at in found:
            continue
        found.add(at)
        operation, _, offset, _ = code[at]
        if operation not in (0x05, 0x95):
            todo.append(at + 1)
        if operation in (0x05, 0x15, 0x55):
            todo.append(at + 1 + offset)
    return found


def expected(listed: list[Rule], kind: str, major: int, minor: int, access: str) -> int:
    """Each wanted access on its own: the last rule that speaks of it decides, and none means no."""
    for letter in access:
        verdict = False
        for rule in listed:
            same = rule.kind in ("a", kind) and rule.major in (ANY, major) and rule.minor in (ANY, minor)
            if same and letter in rule.access:
                verdict = rule.allow
        if not verdict:
            return 0
    return 1


numbers = st.one_of(st.just(ANY), st.integers(0, 3))
letters = st.sets(st.sampled_from("rwm"), min_size=1).map(lambda chosen: "".join(sorted(chosen)))
a_rule = st.builds(
    lambda allow, kind, major, minor, access: {
        "allow": allow,
        "type": kind,
        "major": major,
        "minor": minor,
        "access": access,
    },
    st.booleans(),
    st.sampled_from("abc"),
    numbers,
    numbers,
    letters,
)


@given(st.lists(a_rule, max_size=12), st.sampled_from("bc"), st.integers(0, 4), st.integers(0, 4), letters)
def test_program_decides_as_the_rules_read(section, kind, major, minor, access) -> None:
    listed = rules(section)
    program = build(listed)
    assert run(program, kind, major, minor, access) == expected(listed, kind, major, minor, access)
    assert reachable(program) == set(range(len(program) // 8)), "the verifier refuses unreachable instructions"


def test_empty_rules_deny() -> None:
    assert run(build([]), "c", 1, 3, "r") == 0


def test_program_word_for_word() -> None:
    """Deny everything, then allow reading and writing of c 1:3; compared with the instruction set by hand."""
    listed = rules([DENY_ALL, {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}])
    assert build(listed).hex(" ", 8).split() == [
        "6112000000000000",  # r2 = *(u32 *)(r1 + 0)
        "bf23000000000000",  # r3 = r2
        "7703000010000000",  # r3 >>= 16
        "57020000ffff0000",  # r2 &= 0xffff
        "6114040000000000",  # r4 = *(u32 *)(r1 + 4)
        "6115080000000000",  # r5 = *(u32 *)(r1 + 8)
        "1502010002000000",  # if r2 == 2 goto +1
        "0500080000000000",  # goto +8
        "1504010001000000",  # if r4 == 1 goto +1
        "0500060000000000",  # goto +6
        "1505010003000000",  # if r5 == 3 goto +1
        "0500040000000000",  # goto +4
        "57030000f9ffffff",  # r3 &= ~6
        "5503020000000000",  # if r3 != 0 goto +2
        "b700000001000000",  # r0 = 1
        "9500000000000000",  # exit
        "b700000000000000",  # r0 = 0, by the first rule; nothing comes after it
        "9500000000000000",  # exit
    ]


def test_partial_denial_word_for_word() -> None:
    listed = rules([{"allow": False, "type": "b", "access": "w"}])
    assert build(listed).hex(" ", 8).split()[6:] == [
        "1502010001000000",  # if r2 == 1 goto +1
        "0500050000000000",  # goto +5
        "bf30000000000000",  # r0 = r3
        "5700000004000000",  # r0 &= 4
        "1500020000000000",  # if r0 == 0 goto +2
        "b700000000000000",  # r0 = 0
        "9500000000000000",  # exit
        "b700000000000000",  # r0 = 0
        "9500000000000000",  # exit
    ]


def test_later_rule_wins_for_each_access() -> None:
    listed = rules(
        [
            DENY_ALL,
            {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
            {"allow": False, "type": "c", "major": 1, "minor": 3, "access": "w"},
        ]
    )
    program = build(listed)
    assert [run(program, "c", 1, 3, access) for access in ("r", "w", "rw", "m")] == [1, 0, 0, 0]


def test_accesses_of_two_rules_add_up() -> None:
    listed = rules([{"allow": True, "type": "c", "major": 1, "minor": 3, "access": letter} for letter in "rw"])
    assert run(build(listed), "c", 1, 3, "rw") == 1


def test_last_rule_for_everything_makes_the_program_short() -> None:
    assert len(build(rules([*STANDARD, DENY_ALL]))) == 8 * 8


def test_standard_devices() -> None:
    program = build(rules([DENY_ALL, *STANDARD]))
    allowed = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 0), (136, 4095)]
    assert all(run(program, "c", major, minor, "rwm") for major, minor in allowed)
    assert run(program, "b", 8, 0, "m") == 1
    assert run(program, "b", 8, 0, "r") == 0
    assert run(program, "c", 1, 1, "r") == 0  # /dev/mem
    assert run(program, "c", 10, 229, "rw") == 0  # /dev/fuse


def test_v1_writes_in_the_listed_order() -> None:
    section = [
        DENY_ALL,
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "access": "r"},
        {"allow": False, "type": "c", "access": "w"},
    ]
    result = settings({"devices": section}, {"devices": "devices"})
    assert [(item.file, item.value, item.cause) for item in result] == [
        ("devices.deny", "a *:* rwm", "linux.resources.devices[0]"),
        ("devices.allow", "c 10:229 rw", "linux.resources.devices[1]"),
        ("devices.allow", "b 8:* r", "linux.resources.devices[2]"),
        ("devices.deny", "c *:* w", "linux.resources.devices[3]"),
    ]


def test_v1_never_widens_a_rule_of_type_a() -> None:
    """The kernel takes any line that begins with "a" for all access to everything."""
    section = [{"allow": True, "access": "r"}, {"allow": True, "type": "a", "major": 1, "minor": 3}]
    lines = [item.value for item in settings({"devices": section}, {"devices": "devices"})]
    assert lines == ["b *:* r", "c *:* r", "b 1:3 rwm", "c 1:3 rwm"]


def test_v2_is_one_filter_that_explains_itself() -> None:
    (item,) = settings({"devices": [DENY_ALL, *STANDARD]}, {"devices": "unified"})
    assert isinstance(item, DeviceFilter)
    assert len(item.rules) == 11
    lines = item.shell({"unified": "/sys/fs/cgroup/x"})
    assert all(line.startswith("#") for line in lines)
    assert "/sys/fs/cgroup/x" in lines[0]
    assert "#   deny a *:* rwm" in lines and "#   allow c 1:3 rwm" in lines


@pytest.mark.parametrize("number", [-2, 1 << 31, "1", 1.5])
def test_bad_numbers(number) -> None:
    with pytest.raises(SpecError, match=r"linux.resources.devices\[0\].major"):
        rules([{"allow": True, "type": "c", "major": number}])
