"""A classic BPF machine for seccomp programs, as the kernel checks and runs them, and counting instructions.

Checks: kernel/seccomp.c seccomp_check_filter(), net/core/filter.c bpf_check_classic().
"""

from __future__ import annotations

import struct

AUDIT = {
    "x86_64": 0xC000003E,
    "x32": 0xC000003E,
    "x86": 0x40000003,
    "aarch64": 0xC00000B7,
    "arm": 0x40000028,
    "riscv64": 0xC00000F3,
}

LOAD, AND, JUMP, JEQ, JGT, JGE, JSET, RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x45, 0x06
_COMPARE = {
    JEQ: lambda a, k: a == k,
    JGT: lambda a, k: a > k,
    JGE: lambda a, k: a >= k,
    JSET: lambda a, k: bool(a & k),
}


class Machine:
    """A checked program."""

    def __init__(self, program: bytes) -> None:
        self.code = list(struct.iter_unpack("HBBI", program))
        assert 0 < len(self.code) <= 4096
        assert self.code[-1][0] == RETURN
        for position, (code, yes, no, k) in enumerate(self.code):
            left = len(self.code) - position - 1
            if code in _COMPARE:
                assert yes < left and no < left
            elif code == JUMP:
                assert k < left
            elif code == LOAD:
                assert k < 64 and k % 4 == 0
            else:
                assert code in (AND, RETURN), hex(code)

    def run(self, audit: int, number: int, arguments: tuple[int, ...] = ()) -> tuple[int, int]:
        """SECCOMP_RET_* value, and how many instructions it took."""
        data = struct.pack("<IIQ6Q", number, audit, 0, *arguments, *(0,) * (6 - len(arguments)))
        accumulator = position = steps = 0
        while True:
            code, yes, no, k = self.code[position]
            position += 1
            steps += 1
            if code == LOAD:
                (accumulator,) = struct.unpack_from("<I", data, k)
            elif code == AND:
                accumulator &= k
            elif code == JUMP:
                position += k
            elif code == RETURN:
                return k, steps
            else:
                position += yes if _COMPARE[code](accumulator, k) else no

    def __call__(self, abi: str, number: int, *arguments: int) -> int:
        return self.run(AUDIT[abi], number, arguments)[0]
