"""The tables of system call numbers against this machine's headers and libseccomp."""

from __future__ import annotations

import ctypes
import os
import re

import libseccomp_peer as peer
import pytest
from seccomp_reference import NUMBERS

HEADERS = "/usr/include/x86_64-linux-gnu/asm"
X32_BIT = 1 << 30


@pytest.mark.skipif(not os.path.isdir(HEADERS), reason="no x86 kernel headers here (Debian: linux-libc-dev on amd64)")
@pytest.mark.parametrize(("abi", "header"), [("x86_64", "64"), ("x86", "32"), ("x32", "x32")])
def test_kernel_headers(abi, header):
    with open(f"{HEADERS}/unistd_{header}.h") as file:
        lines = re.findall(r"^#define __NR_(\w+) \(?(__X32_SYSCALL_BIT \+ )?(\d+)", file.read(), re.MULTILINE)
    assert len(lines) > 300
    for name, bit, number in lines:
        assert NUMBERS[abi][name] == int(number) + (X32_BIT if bit else 0), name


@pytest.mark.skipif(peer.LIBRARY is None, reason="libseccomp.so.2 is not installed (Debian: libseccomp2)")
@pytest.mark.parametrize("abi", sorted(NUMBERS))
def test_every_number_that_libseccomp_has_a_name_for(abi):
    resolve = peer.LIBRARY.seccomp_syscall_resolve_num_arch
    resolve.argtypes, resolve.restype = (ctypes.c_uint32, ctypes.c_int), ctypes.c_void_p
    token = peer.LIBRARY.seccomp_arch_resolve_name(abi.encode())
    bases = [X32_BIT] if abi == "x32" else [0, 0xF0000]
    named = 0
    for number in (base + offset for base in bases for offset in range(600)):
        if pointer := resolve(token, number):
            named += 1
            assert NUMBERS[abi][ctypes.string_at(pointer).decode()] == number
    assert named > 250


@pytest.mark.parametrize("abi", sorted(NUMBERS))
def test_new_calls_have_one_number_everywhere(abi):
    base = X32_BIT if abi == "x32" else 0
    assert (NUMBERS[abi]["pidfd_send_signal"], NUMBERS[abi]["mseal"]) == (base + 424, base + 462)
