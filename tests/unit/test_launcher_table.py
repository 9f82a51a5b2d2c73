"""Tables, compared as the launcher will find them in memory: entries, and what their pointers lead to."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle.errors import UnsupportedError, UsageError
from coracle.linux.launcher import SAVED, SUPPORTED, Pointer, Struct, Table, Vector, ignored_signals, image, table
from coracle.linux.syscall import MACHINE, NR, numbers

NO_NUL = st.binary(max_size=40).filter(lambda data: 0 not in data)


class Memory:
    """The data segment of a built image, addressed as the launcher addresses it."""

    def __init__(self, built: bytes) -> None:
        self.data = built[image.DATA_OFFSET :]
        self.first, self.report_fd = image.DATA_HEADER.unpack_from(self.data)

    def entries(self) -> list[Entry]:
        records = self.data[self.first - image.DATA_ADDRESS :]
        assert len(records) % table.ENTRY.size == 0
        return [Entry(values) for values in table.ENTRY.iter_unpack(records)]

    def bytes(self, address: int, size: int) -> bytes:
        offset = address - image.DATA_ADDRESS
        assert image.DATA_HEADER.size <= offset <= self.first - image.DATA_ADDRESS - size, "not in the pool"
        return self.data[offset : offset + size]

    def string(self, address: int) -> bytes:
        offset = address - image.DATA_ADDRESS
        return self.data[offset : self.data.index(0, offset)]

    def word(self, address: int) -> int:
        assert address % 8 == 0
        return struct.unpack("<Q", self.bytes(address, 8))[0]

    def vector(self, address: int) -> list[bytes]:
        strings = []
        while pointer := self.word(address):
            strings.append(self.string(pointer))
            address += 8
        return strings


class Entry:
    def __init__(self, values: tuple) -> None:
        self.number, self.flags, self.step = values[:3]
        self.arguments = values[3:9]
        self.operand, self.tolerated = values[9:]


def memory_of(filled: Table, report_fd: int = -1) -> Memory:
    return Memory(filled.build(report_fd))


def only_entry(filled: Table) -> tuple[Memory, Entry]:
    memory = memory_of(filled)
    (entry,) = memory.entries()
    return memory, entry


def names(entries: list[Entry], machine: str = MACHINE) -> list[str]:
    by_number = {number: name for name, number in numbers(machine).items()}
    return [by_number[entry.number] for entry in entries]


def test_integers_go_in_as_64_bits():
    filled = Table()
    filled.call("prctl", 24, -1, 1 << 63, None, True)
    _, entry = only_entry(filled)
    assert (entry.number, entry.flags, entry.operand, entry.tolerated) == (NR["prctl"], 0, 0, bytes(8))
    assert entry.arguments == (24, (1 << 64) - 1, 1 << 63, 0, 1, 0)


def test_bytes_become_a_terminated_string():
    filled = Table()
    filled.call("chdir", b"/home dir\xff")
    memory, entry = only_entry(filled)
    assert memory.bytes(entry.arguments[0], 11) == b"/home dir\xff\0"


def test_pointer_is_raw_and_aligned():
    filled = Table()
    filled.call("chdir", b"odd")
    filled.call("write", 1, Pointer(b"\0\1\0"), 3)
    memory = memory_of(filled)
    address = memory.entries()[1].arguments[1]
    assert address % 8 == 0
    assert memory.bytes(address, 3) == b"\0\1\0"


def test_struct_holds_the_address_of_what_it_points_to():
    filled = Table()
    program = bytes(range(64))
    filled.call("seccomp", 1, 0, Struct("HP", 8, Pointer(program)))
    memory, entry = only_entry(filled)
    count, address = struct.unpack("HP", memory.bytes(entry.arguments[2], 16))
    assert (count, memory.bytes(address, 64)) == (8, program)


def test_struct_may_nest():
    filled = Table()
    filled.call("ioctl", 0, 0, Struct("PPi", Struct("I", 7), Vector([b"a", b"bc"]), -2))
    memory, entry = only_entry(filled)
    inner, vector, number = struct.unpack("PPi", memory.bytes(entry.arguments[2], 20))
    assert (memory.bytes(inner, 4), memory.vector(vector), number) == (b"\7\0\0\0", [b"a", b"bc"], -2)


@given(st.lists(NO_NUL, max_size=30), st.lists(NO_NUL, max_size=30), NO_NUL)
def test_arguments_and_environment_arrive_unchanged(argv, envp, path):
    filled = Table()
    filled.call("chdir", path)
    filled.execve([path + b"/x", path], argv, envp)
    memory = memory_of(filled)
    entries = memory.entries()
    assert memory.string(entries[0].arguments[0]) == path
    for entry, candidate in zip(entries[1:3], (path + b"/x", path), strict=True):
        assert memory.string(entry.arguments[0]) == candidate
        assert memory.vector(entry.arguments[1]) == argv
        assert memory.vector(entry.arguments[2]) == envp


@pytest.mark.parametrize(
    "argument", [b"a\0b", Vector([b"x", b"\0"]), Struct("P", b"\0")], ids=["str", "argv", "struct"]
)
def test_nul_in_a_string_is_refused(argument):
    with pytest.raises(UsageError, match="NUL byte"):
        Table().call("execve", argument)


def test_text_is_not_an_argument():
    with pytest.raises(TypeError):
        Table().call("chdir", "/12")


def test_modes_become_flags():
    filled = Table()
    filled.call("read", 0, retry=True, tolerant=True, warn=True, save=True, tell=True)
    _, entry = only_entry(filled)
    assert entry.flags == table.RETRY | table.TOLERANT | table.WARN | table.SAVE | table.TELL


@pytest.mark.parametrize("value", [0, 1, -1])
def test_expected_value_is_kept_even_when_it_is_0(value):
    filled = Table()
    filled.call("getppid", expect=value)
    _, entry = only_entry(filled)
    assert (entry.flags, entry.operand) == (table.EXPECT, value % (1 << 64))


def test_ignored_errnos_are_listed():
    filled = Table()
    filled.call("setsid", ignore=(1, 38, 133))
    _, entry = only_entry(filled)
    assert entry.tolerated == bytes((1, 38, 133, 0, 0, 0, 0, 0))


def test_too_many_ignored_errnos_are_refused():
    with pytest.raises(UsageError, match="more than 8"):
        Table().call("setsid", ignore=range(1, 10))


def test_steps_label_the_calls():
    filled = Table()
    filled.call("setsid")
    filled.step = 4
    filled.call("setsid")
    filled.call("setsid", step=12)
    filled.reset_signals((13,))
    assert [entry.step for entry in memory_of(filled).entries()] == [0, 4, 12, 4, 4]


def test_saved_result_is_an_argument():
    filled = Table()
    filled.call("openat", -100, b"/", 0, save=True)
    filled.call("fchdir", SAVED)
    opened, changed = memory_of(filled).entries()
    assert (opened.flags, changed.flags, changed.arguments) == (table.SAVE, table.SAVED_0, (0,) * 6)


def test_reset_signals_touches_the_ignored_ones_and_the_mask_only():
    filled = Table()
    filled.reset_signals((13, 25))
    memory = memory_of(filled)
    first, second, mask = memory.entries()
    assert names([first, second, mask]) == ["rt_sigaction", "rt_sigaction", "rt_sigprocmask"]
    assert [entry.arguments[0] for entry in (first, second)] == [13, 25]
    assert memory.bytes(first.arguments[1], 32) == bytes(32)
    assert (first.arguments[2:4], mask.arguments[2:4]) == ((0, 8), (0, 8))
    assert (mask.arguments[0], memory.word(mask.arguments[1])) == (2, 0)


def test_this_python_ignores_sigpipe():
    assert 13 in ignored_signals()


def test_channels_get_cloexec_first():
    filled = Table()
    filled.call("setsid")
    filled.gate(9, ready=False)
    filled.gate(4, ready=False)
    assert filled.channels(7) == [4, 7, 9]
    assert filled.channels() == [4, 9]
    prologue = memory_of(filled, 7).entries()[:4]
    assert names(prologue) == ["fcntl", "fcntl", "fcntl", "setsid"]
    assert [entry.arguments[:3] for entry in prologue[:3]] == [(4, 2, 1), (7, 2, 1), (9, 2, 1)]


def test_report_descriptor_is_known_when_built():
    filled = Table()
    filled.ready()
    for fd in (5, -1):
        memory = memory_of(filled, fd)
        assert memory.report_fd == fd
        assert memory.entries()[-1].arguments[0] == fd % (1 << 64)


def test_execve_tries_in_order_then_fails():
    filled = Table()
    filled.execve([b"/a", b"/b"], [b"x"], [])
    first, second, last = memory_of(filled).entries()
    assert (first.flags, second.flags, last.flags) == (table.REMEMBER, table.REMEMBER, table.FAIL)
    assert first.tolerated == second.tolerated == bytes((2, 13, 19, 20, 110, 116, 0, 0))
    assert first.arguments[1:3] == second.arguments[1:3]


def test_execve_needs_a_candidate():
    with pytest.raises(UsageError, match="no program"):
        Table().execve([], [b"x"], [])


@pytest.mark.parametrize("gates", [0, 1, 3])
def test_reap_jumps_lead_to_the_right_entries(gates):
    filled = Table()
    for fd in range(20, 20 + gates):
        filled.gate(fd, ready=False)
    filled.reap()
    filled.call("setsid")
    entries = memory_of(filled, 7).entries()
    clone = names(entries).index("clone")

    def target(index: int) -> str:
        return names(entries)[index + 1 + entries[index].operand // table.ENTRY.size]

    assert names(entries[clone:])[:2] == ["clone", "getpid"]
    assert entries[clone].flags == entries[clone + 1].flags == table.SAVE | table.JUMP
    assert target(clone) == "setpgid"
    part = entries[clone + 2 :]
    expected = ["setpgid", *["close"] * (1 + gates), "rt_sigtimedwait", "setpgid", "ioctl", "rt_sigprocmask", "setsid"]
    assert names(part) == expected
    assert clone + 2 + entries[clone + 1].operand // table.ENTRY.size == clone + 2 + expected.index("setpgid", 1)
    assert [entry.arguments[0] for entry in part[1 : 2 + gates]] == [7, *range(20, 20 + gates)]


def test_reap_forwards_all_but_what_cannot_or_must_not_be_forwarded():
    filled = Table()
    filled.reap(group=True)
    memory = memory_of(filled)
    (loop,) = [entry for entry in memory.entries() if entry.flags & table.LOOP]
    mask = memory.word(loop.arguments[0])
    assert {number for number in range(1, 65) if not mask >> number - 1 & 1} == {9, 19, 21, 22}
    assert loop.flags & table.GROUP


@pytest.mark.parametrize("machine", SUPPORTED)
def test_numbers_are_those_of_the_machine(machine):
    filled = Table(machine)
    filled.call("openat", -100, b"/", 0)
    filled.reap()
    filled.execve([b"/x"], [b"x"], [])
    entries = memory_of(filled).entries()
    assert names(entries, machine)[0] == "openat"
    assert names(entries, machine)[-1] == "execve"
    assert entries[0].number == {"x86_64": 257, "aarch64": 56}[machine]


def test_other_machines_are_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"no launcher for machine type riscv64 .*x86_64 and aarch64"):
        Table("riscv64").build()


def test_building_twice_gives_the_same():
    filled = Table()
    filled.gate(4)
    filled.execve([b"/x"], [b"x"], [b"A=b"])
    assert filled.build(3) == filled.build(3)
    assert filled.build(3) != filled.build(5)


def test_import_is_cheap():
    """On the start path of every container: nothing that costs milliseconds, and nothing imported later."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(table.__file__))))
    code = f"""
import sys
sys.path.insert(0, {source!r})
from coracle.linux.launcher import Table, ignored_signals, read_report
after_import = set(sys.modules)
table = Table()
table.gate(0)
table.reset_signals(ignored_signals())
table.execve([b"/x"], [b"x"], [])
read_report(table.build()[:0])
assert set(sys.modules) == after_import, set(sys.modules) - after_import
heavy = {{"typing", "re", "json", "enum", "dataclasses", "pathlib", "subprocess", "signal", "socket", "ctypes"}}
heavy |= {{"contextlib", "collections", "functools", "tempfile", "shutil", "logging", "traceback"}}
assert not heavy & after_import, heavy & after_import
"""
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
