"""The machine code in code.py is what its assembler sources say, and both agree with Python on every constant."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap

import pytest

from coracle.linux import launcher
from coracle.linux.launcher import image, report, table
from coracle.linux.launcher.code import CODE, SUPPORTED
from coracle.linux.syscall import MACHINE, numbers

HERE = os.path.dirname(launcher.__file__)
FLAGS = (
    *("RETRY", "TOLERANT", "EXPECT", "JUMP", "SAVE", "SAVED_0", "SCRATCH_1", "SAVED_AT_2"),
    *("REMEMBER", "FAIL", "LOOP", "GROUP", "WARN", "TELL"),
)


def tool(machine: str, name: str) -> str | None:
    """The binutils program for ``machine``: Debian's cross binutils carry a prefix."""
    found = shutil.which(f"{machine}-linux-gnu-{name}")
    return found or (shutil.which(name) if machine == MACHINE else None)


def assemble(machine: str, directory: str) -> bytes:
    assembler, copier = tool(machine, "as"), tool(machine, "objcopy")
    if not assembler or not copier:
        pytest.skip(f"no assembler for {machine} (Debian: binutils-{machine.replace('_', '-')}-linux-gnu)")
    subprocess.run([assembler, "-o", f"{directory}/code.o", f"{HERE}/{machine}.S"], check=True)
    subprocess.run([copier, "-O", "binary", "-j", ".text", f"{directory}/code.o", f"{directory}/code.bin"], check=True)
    with open(f"{directory}/code.bin", "rb") as file:
        return file.read()


def constants(machine: str) -> dict[str, int]:
    with open(f"{HERE}/{machine}.S") as file:
        return {name: int(value, 0) for name, value in re.findall(r"\.set (\w+), (\w+)", file.read())}


@pytest.mark.parametrize("machine", SUPPORTED)
def test_code_is_what_the_source_assembles_to(machine, tmp_path):
    expected = assemble(machine, str(tmp_path))
    shown = textwrap.fill(expected.hex(), 88, initial_indent=" " * 8, subsequent_indent=" " * 8)
    assert CODE[machine][1] == expected, f"code.py should have for {machine}:\n{shown}"


@pytest.mark.parametrize("machine", SUPPORTED)
def test_code_is_small_and_fits_before_the_data(machine):
    code = CODE[machine][1]
    assert 200 < len(code) < 500
    assert image._CODE_OFFSET + len(code) <= image.DATA_OFFSET


@pytest.mark.parametrize("machine", SUPPORTED)
def test_source_and_python_agree_on_flags(machine):
    known = constants(machine)
    assert {name: 1 << known[name] for name in FLAGS} == {name: getattr(table, name) for name in FLAGS}
    assert known["SIZE"] == table.ENTRY.size


@pytest.mark.parametrize("machine", SUPPORTED)
def test_source_and_python_agree_on_system_calls(machine):
    numbered = {name[3:]: value for name, value in constants(machine).items() if name.startswith("NR_")}
    assert sorted(numbered) == ["exit_group", "kill", "wait4", "write"]
    assert numbered == {name: numbers(machine)[name] for name in numbered}


@pytest.mark.parametrize("machine", SUPPORTED)
def test_source_and_python_agree_on_addresses_and_records(machine):
    known = constants(machine)
    both = {"x86_64": ("DATA", "RECORD"), "aarch64": ("DATA_HIGH DATA_LOW", "RECORD_HIGH RECORD_LOW")}[machine]
    data, record = (sum(known[part] << 16 * place for place, part in enumerate(reversed(n.split()))) for n in both)
    assert data == image.DATA_ADDRESS
    assert record.to_bytes(4, "little") == report._MAGIC + b"\0"
