"""Capability and resource limit tables, against what this machine's kernel headers and libc say."""

import os
import re
import resource
from pathlib import Path

import pytest

from coracle.errors import UsageError
from coracle.linux import capability, rlimit

CAPABILITY_HEADER = Path("/usr/include/linux/capability.h")
RESOURCE_HEADER = Path("/usr/include/asm-generic/resource.h")


@pytest.mark.skipif(not CAPABILITY_HEADER.exists(), reason="no kernel headers (linux-libc-dev)")
def test_numbers_are_those_of_the_kernel_header():
    defined = re.findall(r"^#define (CAP_[A-Z_]+)\s+(\d+)$", CAPABILITY_HEADER.read_text(), re.MULTILINE)
    assert {name: int(number) for name, number in defined} == capability.NUMBERS


@pytest.mark.skipif(not RESOURCE_HEADER.exists(), reason="no kernel headers (linux-libc-dev)")
def test_limits_are_those_of_the_kernel_header():
    defined = re.findall(r"define (RLIMIT_[A-Z]+)\s+(\d+)", RESOURCE_HEADER.read_text())
    assert {name: int(number) for name, number in defined} == rlimit.RLIMITS


def test_limits_are_those_of_libc():
    for name in dir(resource):
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE":
            assert rlimit.RLIMITS[name] == getattr(resource, name), name


def test_limit_names_are_the_inverse():
    assert [rlimit.NAMES[number] for number in range(16)] == list(rlimit.RLIMITS)


def test_there_are_41_capabilities():
    assert len(capability.NAMES) == len(set(capability.NAMES)) == 41
    assert capability.mask(capability.NAMES) == capability.ALL == (1 << 41) - 1


def test_last_cap_is_a_kernel_number():
    assert capability.last_cap() == int(Path("/proc/sys/kernel/cap_last_cap").read_text())


def test_mask_and_names_are_inverse():
    names = ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]
    mask = capability.mask(reversed(names))
    assert mask == 1 << 0 | 1 << 13 | 1 << 21 | 1 << 40
    assert capability.names(mask) == names
    assert capability.names(0) == []


def test_a_bit_beyond_the_table_has_a_name_too():
    assert capability.names(1 << 41) == ["CAP_41"]


@pytest.mark.parametrize("name", ["CAP_TEST", "chown", "cap_chown", "CHOWN", ""])
def test_unknown_capability_is_refused(name):
    with pytest.raises(UsageError, match=f"unknown capability {name}"):
        capability.mask([name])


def test_capset_data_has_low_words_first():
    header, data = capability.capset_data(effective=1 << 40 | 1, permitted=1 << 32, inheritable=0xFFFFFFFF)
    assert header == bytes.fromhex("22050820") + bytes(4)
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, 24, 4)]
    assert words == [1, 0, 0xFFFFFFFF, 1 << 8, 1, 0]


def test_own_sets_are_those_of_proc():
    status = Path("/proc/self/status").read_text()
    own = capability.own()
    for field, mask in [
        ("CapInh", own.inheritable),
        ("CapPrm", own.permitted),
        ("CapEff", own.effective),
        ("CapBnd", own.bounding),
        ("CapAmb", own.ambient),
    ]:
        assert re.search(rf"^{field}:\s+{mask:016x}$", status, re.MULTILINE), field


def test_capset_accepts_the_data():
    from coracle.linux.syscall import syscall

    own = capability.own()
    pid = os.fork()
    if pid == 0:
        try:
            syscall("capset", *capability.capset_data(0, own.permitted, own.inheritable))
            os._exit(0 if capability.own().effective == 0 else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
