"""seccomp: the profile of an OCI config.json becomes a program that the kernel runs before each system call.

    profile.py   the OCI object, checked and turned into rules            (cold)
    compiler.py  rules and the ABIs of a machine become decisions         (cold)
    bpf.py       decisions become classic BPF instructions                (cold)
    tables/      system call numbers, one module per ABI                  (cold)
    cache.py     compiled programs as files, so that a start compiles nothing

Importing this package imports none of the cold modules.  We compile ourselves, instead of calling libseccomp, because
the program then needs no library at run time, is known before the fork, and can be kept as a file.

Kernel: Documentation/userspace-api/seccomp_filter.rst and seccomp(2).  Profile: runtime-spec 1.3, config-linux.md,
section Seccomp.
"""

from __future__ import annotations

import struct

from coracle.linux.syscall import MACHINE, address, buffer, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SET_MODE_FILTER = 1  # include/uapi/linux/seccomp.h, as everything here
FLAG_TSYNC = 1 << 0
FLAG_LOG = 1 << 1
FLAG_SPEC_ALLOW = 1 << 2
FLAG_NEW_LISTENER = 1 << 3
FLAG_TSYNC_ESRCH = 1 << 4
FLAG_WAIT_KILLABLE_RECV = 1 << 5

INSTRUCTION_SIZE = 8  # struct sock_filter: u16 code, u8 jt, u8 jf, u32 k
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class Program:
    """A compiled filter, ready for seccomp(2).

    ``filter`` is an array of struct sock_filter in the byte order of the machine, ``flags`` the SECCOMP_FILTER_FLAG_*
    of seccomp(2), and with ``notifies`` that call returns the file descriptor of a listener (seccomp_unotify(2)).
    """

    __slots__ = ("filter", "flags", "notifies")

    def __init__(self, filter: bytes, flags: int, notifies: bool) -> None:
        self.filter = filter
        self.flags = flags
        self.notifies = notifies

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and (self.filter, self.flags) == (other.filter, other.flags)

    def __hash__(self) -> int:
        return hash((self.filter, self.flags))

    def __repr__(self) -> str:
        count = len(self.filter) // INSTRUCTION_SIZE
        return f"Program({count} instructions, flags={self.flags:#x}, notifies={self.notifies})"


def compile(profile: Mapping[str, Any], machine: str = MACHINE) -> Program:
    """Compile ``profile``, the ``linux.seccomp`` object of a config.json, for a kernel of ``machine`` (as in uname).

    :raises SpecError: naming the JSON path of a value that the spec or the kernel does not allow.
    :raises UnsupportedError: there are no system call tables for ``machine``.
    """
    from coracle.linux.seccomp.compiler import compile_profile

    return compile_profile(profile, machine)


def sock_fprog(program: Program) -> tuple[bytes, Any]:
    """The struct sock_fprog that seccomp(2) takes, and the memory it points to: keep the second alive for the call."""
    memory = buffer(len(program.filter))
    struct.pack_into(f"{len(program.filter)}s", memory, 0, program.filter)
    return struct.pack("HP", len(program.filter) // INSTRUCTION_SIZE, address(memory)), memory


def load(program: Program) -> int:
    """Put ``program`` on the calling thread, for good.  Returns the listener's descriptor, or 0 without one.

    The kernel asks for no_new_privs or CAP_SYS_ADMIN in the user namespace.  :raises OSError:
    """
    fprog, memory = sock_fprog(program)
    result = syscall("seccomp", SET_MODE_FILTER, program.flags, fprog)
    del memory
    return result
