"""Why a program might not start, read from its first bytes (execve(2), elf(5))."""

from __future__ import annotations

import os
from struct import unpack_from

from coracle.linux.syscall import MACHINE

_HEAD = 4096
_PT_INTERP = 3
_SCRIPT_DEPTH = 4  # so many scripts may interpret each other (execve(2), "Interpreter scripts")

# e_machine of elf(5) → what uname(2) calls it
_MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
}
_RUNS_ON = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}


def diagnose(path: str, depth: int = 0) -> str:
    """A reason why execve(2) of ``path`` would fail, or "" if nothing looks wrong."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        head = os.read(fd, _HEAD)
    except OSError:
        return ""
    finally:
        os.close(fd)
    if head.startswith(b"#!"):
        return _diagnose_script(head, depth)
    if head.startswith(b"\x7fELF"):
        return _diagnose_elf(head)
    if not head:
        return "the file is empty"
    return "it is neither an ELF program nor a script that starts with #!"


def _diagnose_script(head: bytes, depth: int) -> str:
    line = head[2:].split(b"\n", 1)[0]
    interpreter = os.fsdecode(line.split()[0]) if line.split() else ""
    if line.endswith(b"\r"):
        return "the first line ends with a carriage return: convert the script from DOS to Unix line ends"
    if interpreter and not os.path.exists(interpreter):
        return f"its interpreter {interpreter} does not exist in the container"
    reason = diagnose(interpreter, depth + 1) if interpreter and depth < _SCRIPT_DEPTH else ""
    return f"its interpreter {interpreter} cannot be executed: {reason}" if reason else ""


def _diagnose_elf(head: bytes) -> str:
    if len(head) < 64:
        return "the ELF file is truncated"
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    machine = _MACHINES.get(unpack_from(order + "H", head, 18)[0], "another machine")
    if machine not in _RUNS_ON.get(MACHINE, (MACHINE,)):
        return f"it is built for {machine}, this machine is {MACHINE}: install qemu-user-static for binfmt_misc"
    interpreter = _interpreter(head, wide, order)
    if interpreter and not os.path.exists(interpreter):
        return f"its ELF interpreter {interpreter} does not exist in the container: a missing or different C library"
    return ""


def _interpreter(head: bytes, wide: bool, order: str) -> str:
    """The path in PT_INTERP, if the headers lie within ``head``."""
    offset = unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)[0]
    size, count = unpack_from(order + "HH", head, 54 if wide else 42)
    for start in range(offset, offset + size * count, size or 1):
        if start + size > len(head):
            break
        if unpack_from(order + "I", head, start)[0] != _PT_INTERP:
            continue
        where = unpack_from(order + ("Q" if wide else "I"), head, start + (8 if wide else 4))[0]
        return os.fsdecode(head[where:].split(b"\0", 1)[0]) if where < len(head) else ""
    return ""
