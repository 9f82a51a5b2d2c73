"""The ELF file, the memfd it runs from, and the records it writes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import subprocess

import pytest

from coracle.errors import ContentError
from coracle.linux.launcher import FAILURE, READY, SUPPORTED, VALUE, WARNING, Table, image, read_report, seal
from coracle.linux.launcher.code import CODE
from coracle.linux.launcher.report import ready_record
from coracle.linux.syscall import NR

PAGE_SIZES = (0x1000, 0x4000, 0x10000)
READ, WRITE, EXECUTE = 4, 2, 1


def built(machine: str, strings: int = 3) -> bytes:
    table = Table(machine)
    table.execve([b"/bin/true"], [b"x" * 1000] * strings, [])
    return table.build()


def segments(elf: bytes) -> list[dict[str, int]]:
    offset, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    fields = ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")
    return [
        dict(zip(fields, struct.unpack_from("<IIQQQQQQ", elf, offset + index * size), strict=True))
        for index in range(count)
    ]


@pytest.mark.parametrize("machine", SUPPORTED)
def test_header_is_a_static_program_at_a_fixed_address(machine):
    elf = built(machine)
    assert elf[:7] == b"\x7fELF\x02\x01\x01"
    kind, elf_machine, version, entry = struct.unpack_from("<HHIQ", elf, 16)
    assert (kind, elf_machine, version) == (2, {"x86_64": 62, "aarch64": 183}[machine], 1)
    assert [segment["type"] for segment in segments(elf)] == [1, 1, 0x6474E551]  # no PT_INTERP, no PT_DYNAMIC
    code = CODE[machine][1]
    start = entry - image.CODE_ADDRESS
    assert elf[start : start + len(code)] == code


@pytest.mark.parametrize("machine", SUPPORTED)
def test_nothing_is_writable_and_executable(machine):
    code, data, stack = segments(built(machine))
    assert (code["flags"], data["flags"], stack["flags"]) == (READ | EXECUTE, READ, READ | WRITE)
    assert code["memsz"] == code["filesz"]
    assert data["memsz"] == data["filesz"]


@pytest.mark.parametrize("page", PAGE_SIZES)
@pytest.mark.parametrize("strings", [0, 1, 500])
def test_segments_can_be_mapped_with_any_page_size(page, strings):
    elf = built("aarch64", strings)
    code, data, _ = segments(elf)
    for segment in (code, data):
        assert segment["align"] == max(PAGE_SIZES)
        assert segment["offset"] % page == segment["vaddr"] % page
        assert segment["vaddr"] >= 0x10000  # above any usual vm.mmap_min_addr
    assert data["offset"] + data["filesz"] == len(elf)
    last_code_page, first_data_page = (code["vaddr"] + code["memsz"] - 1) // page, data["vaddr"] // page
    assert last_code_page < first_data_page


@pytest.mark.skipif(not shutil.which("readelf"), reason="readelf is not installed (Debian: binutils)")
@pytest.mark.parametrize("machine", SUPPORTED)
def test_readelf_agrees(machine, tmp_path):
    path = tmp_path / "launcher"
    path.write_bytes(built(machine))
    shown = subprocess.run(["readelf", "-lhW", path], check=True, capture_output=True, text=True)
    assert shown.stderr == ""
    assert re.search(r"Type:\s+EXEC", shown.stdout)
    assert re.search(r"LOAD\s+0x000000 0x0*10000000 0x0*10000000 \w+ \w+ R E 0x10000", shown.stdout)
    assert re.search(r"LOAD\s+0x001000 0x0*10011000 0x0*10011000 \w+ \w+ R   0x10000", shown.stdout)
    assert re.search(r"GNU_STACK\s.* RW\s", shown.stdout)


def test_typical_image_is_small():
    assert len(built("x86_64", 0)) < 8192


def test_memfd_is_sealed_closed_on_exec_and_unchangeable():
    elf = built("x86_64")
    fd = seal(elf)
    try:
        assert fcntl.fcntl(fd, 1034) == 0xF  # F_GET_SEALS: seal, shrink, grow, write
        assert not os.get_inheritable(fd)
        assert os.pread(fd, len(elf) + 1, 0) == elf
        for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 1 << 20)):
            with pytest.raises(PermissionError):
                change()
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, 1033, 0x10)  # F_ADD_SEALS
    finally:
        os.close(fd)


def test_memfd_is_made_where_the_kernel_does_not_know_mfd_exec(monkeypatch):
    monkeypatch.setattr(image, "_MFD_EXEC", 0x0800)  # a flag that no kernel knows: EINVAL, as before Linux 6.3
    fd = seal(b"x")
    try:
        assert os.fstat(fd).st_mode & 0o111
    finally:
        os.close(fd)


def test_failing_to_fill_the_memfd_leaves_no_descriptor():
    before = os.listdir("/proc/self/fd")
    with pytest.raises(TypeError):
        seal("not bytes")
    assert os.listdir("/proc/self/fd") == before


def record(kind: bytes, step: int, value: int, call: str) -> bytes:
    return struct.pack("<3scIiI", b"clr", kind, step, value, NR[call])


def test_reports_are_read():
    data = (
        record(b"W", 1, -1, "sched_setattr")
        + record(b"V", 2, 7, "seccomp")
        + ready_record(3, NR["write"])
        + record(b"F", 4, -2, "execve")
    )
    warning, value, ready, failure = read_report(data)
    assert (warning.kind, warning.step, warning.errno, warning.call) == (WARNING, 1, 1, "sched_setattr")
    assert (value.kind, value.step, value.errno, value.value) == (VALUE, 2, 0, 7)
    assert (ready.kind, ready.step, ready.errno) == (READY, 3, 0)
    assert (failure.kind, failure.step, failure.errno, failure.call) == (FAILURE, 4, 2, "execve")


def test_unexpected_value_is_a_failure_without_errno():
    (report,) = read_report(record(b"F", 9, 1234, "getppid"))
    assert (report.errno, report.value) == (0, 1234)


def test_incomplete_record_is_left_out():
    assert read_report(b"") == []
    assert [report.kind for report in read_report(ready_record(0, 1) + b"clrF\0")] == [READY]


@pytest.mark.parametrize("data", [b"Traceback (most ", b"clrX" + bytes(12), b"CLRF" + bytes(12)])
def test_foreign_text_is_refused(data):
    with pytest.raises(ContentError, match="damaged at byte 16"):
        read_report(ready_record(0, 1) + data)
