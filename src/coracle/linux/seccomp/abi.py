"""The ways to make a system call that each kind of machine knows: their AUDIT_ARCH, numbers and peculiarities."""

from __future__ import annotations

from importlib import import_module

from coracle.errors import UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    # A call that carries others, its own name first: the carried ones with their code in argument 0.
    Carriers = dict[str, dict[str, int]]

SKIPPED = 0xFFFFFFFF  # the number -1, to which a tracer sets a call that shall not happen
X32_BIT = 0x40000000  # __X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h
_ARM_PRIVATE = 0x0F0000  # __ARM_NR_BASE, arch/arm/include/uapi/asm/unistd.h

_EM_386, _EM_ARM, _EM_X86_64, _EM_AARCH64, _EM_RISCV = 3, 40, 62, 183, 243  # linux/elf-em.h
_64BIT, _LITTLE_ENDIAN = 0x80000000, 0x40000000  # __AUDIT_ARCH_*, linux/audit.h


class Abi:
    """One ABI.  ``audit`` is its AUDIT_ARCH_*, ``table`` the module of its system call numbers.

    Numbers from ``first`` to below ``end`` are given out in order, so one above all known ones belongs to a newer call.
    Those from ``end`` on are a closed block of a few calls, or with ``shared`` another ABI's of the same AUDIT_ARCH.
    ``bits`` is how much of an argument's register means anything: 32 where longs are that short, as in libseccomp.
    """

    __slots__ = ("audit", "bits", "carriers", "end", "first", "shared", "table")

    def __init__(
        self,
        table: str,
        audit: int,
        bits: int,
        first: int = 0,
        end: int = SKIPPED,
        shared: bool = False,
        carriers: Carriers | None = None,
    ) -> None:
        self.table = table
        self.audit = audit
        self.bits = bits
        self.first = first
        self.end = end
        self.shared = shared
        self.carriers = carriers or {}

    def numbers(self) -> dict[str, int]:
        """System call numbers by name; imports their module."""
        numbers: dict[str, int] = import_module(f"coracle.linux.seccomp.tables.{self.table}").NUMBERS
        return numbers


# socketcall(2) and ipc(2): SYS_* in linux/net.h; SEMOP, ... in linux/ipc.h
_I386_CARRIERS = {
    "socketcall": {
        "socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6, "getpeername": 7,
        "socketpair": 8, "send": 9, "recv": 10, "sendto": 11, "recvfrom": 12, "shutdown": 13, "setsockopt": 14,
        "getsockopt": 15, "sendmsg": 16, "recvmsg": 17, "accept4": 18, "recvmmsg": 19, "sendmmsg": 20,
    },
    "ipc": {
        "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
        "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
    },
}  # fmt: skip

# x32 shares x86-64's AUDIT_ARCH and its numbers with one bit set; 512 to 547 are calls of its own, a closed block.
_X86_64 = Abi("x86_64", _EM_X86_64 | _64BIT | _LITTLE_ENDIAN, 64, end=X32_BIT, shared=True)
_X32 = Abi("x32", _X86_64.audit, 32, first=X32_BIT, end=X32_BIT + 512)
_X86 = Abi("x86", _EM_386 | _LITTLE_ENDIAN, 32, carriers=_I386_CARRIERS)
_AARCH64 = Abi("aarch64", _EM_AARCH64 | _64BIT | _LITTLE_ENDIAN, 64)
_ARM = Abi("arm", _EM_ARM | _LITTLE_ENDIAN, 32, end=_ARM_PRIVATE)
_RISCV64 = Abi("riscv64", _EM_RISCV | _64BIT | _LITTLE_ENDIAN, 64)

# What a kernel of each machine can run, by the profile's names; the native ABI first.
_MACHINES = {
    "x86_64": {"SCMP_ARCH_X86_64": _X86_64, "SCMP_ARCH_X32": _X32, "SCMP_ARCH_X86": _X86},
    "aarch64": {"SCMP_ARCH_AARCH64": _AARCH64, "SCMP_ARCH_ARM": _ARM},
    "riscv64": {"SCMP_ARCH_RISCV64": _RISCV64},
}


def abis_of(machine: str, architectures: frozenset[str]) -> list[Abi]:
    """The native ABI of ``machine``, which is always covered, and those in ``architectures`` that it can run.

    The others cannot occur there, so a profile may list them and nothing is generated.

    :raises UnsupportedError: there are no tables for ``machine``.
    """
    try:
        known = _MACHINES[machine]
    except KeyError:
        raise UnsupportedError(
            f"no system call tables for seccomp on {machine}", f"known are {', '.join(_MACHINES)}"
        ) from None
    return [abi for index, (name, abi) in enumerate(known.items()) if index == 0 or name in architectures]
