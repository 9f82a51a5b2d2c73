#!/usr/bin/env python3
"""Write src/coracle/linux/seccomp/tables/*.py from the kernel's own header files.

    scripts/generate_syscall_tables.py HEADERS
    scripts/generate_syscall_tables.py --check       compare the tables with libseccomp's and this machine's headers

HEADERS holds one directory per processor with the installed UAPI headers (``make headers_install``) and one shared by
all: ``x86-linux-any/asm``, ``arm-linux-any/asm``, ..., ``any-linux-any/linux``.  The wheel `ziglang` on PyPI carries
exactly that in ``ziglang/lib/libc/include``, for a newer kernel than any stable distribution: 0.17.1 has Linux 7.2.
Needs a C preprocessor called ``cc``; ``--check`` also wants ``scmp_sys_resolver`` (Debian: ``seccomp``).
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "src/coracle/linux/seccomp/tables"

# table → (header directory, predefined macros, what it is)
ABIS = {
    "x86_64": ("x86", ["__x86_64__"], "x86-64"),
    "x86": ("x86", ["__i386__"], "32-bit x86 (i386)"),
    "x32": ("x86", ["__x86_64__", "__ILP32__"], "x32 (long mode, 32-bit pointers)"),
    "aarch64": ("aarch64", ["__aarch64__"], "64-bit ARM"),
    "arm": ("arm", ["__arm__", "__ARM_EABI__"], "32-bit ARM (EABI)"),
    "riscv64": (
        "riscv",
        ["__riscv", "__riscv_xlen=64", "__CHAR_BIT__=8", "__SIZEOF_LONG__=8", "__SIZEOF_POINTER__=8"],
        "64-bit RISC-V",
    ),
}
# Macros that are marks in the number space, not calls.
NOT_CALLS = {"syscalls", "SYSCALL_BASE", "OABI_SYSCALL_BASE", "arch_specific_syscall", "SYSCALL_MASK", "BASE"}


def macros(headers: Path, directory: str, defines: list[str]) -> dict[str, str]:
    """All object-like macros after including <asm/unistd.h> for one ABI."""
    command = ["cc", "-E", "-dM", "-undef", "-nostdinc", *(f"-D{define}" for define in defines)]
    command += [f"-I{headers / name}" for name in (f"{directory}-linux-any", "any-linux-any")]
    output = subprocess.run(
        [*command, "-"], input="#include <asm/unistd.h>\n", capture_output=True, text=True, check=True
    )
    lines = (line.split(None, 2) for line in output.stdout.splitlines())
    return {line[1]: line[2] for line in lines if len(line) == 3 and "(" not in line[1]}


def value(expression: str, defined: dict[str, str]) -> int:
    """Evaluate a sum of numbers and macros, which is all these headers contain."""
    terms = re.sub(r"[()]", "", expression).split("+")
    return sum(value(defined[term], defined) if term in defined else int(term, 0) for term in map(str.strip, terms))


def calls(headers: Path, directory: str, defines: list[str]) -> dict[str, int]:
    """System call numbers by name."""
    defined = macros(headers, directory, defines)
    found = {}
    for macro, expression in defined.items():
        match = re.fullmatch(r"__(?:ARM_)?NR_(\w+)", macro)
        if match and match[1] not in NOT_CALLS:
            found[match[1]] = value(expression, defined)
    return found


def module(what: str, version: str, numbers: dict[str, int]) -> str:
    """Source text of one table."""
    ordered = sorted(numbers.items(), key=lambda item: item[::-1])
    entries = ", ".join(f'"{name}":\N{NO-BREAK SPACE}{number}' for name, number in ordered)
    body = textwrap.indent(textwrap.fill(entries, 116), "    ").replace("\N{NO-BREAK SPACE}", " ")
    return (
        f'"""System call numbers of {what}, Linux {version}; written by scripts/generate_syscall_tables.py."""\n\n'
        "from __future__ import annotations\n\n# fmt: off\n"
        f"NUMBERS: dict[str, int] = {{\n{body},\n}}\n"
    )


def generate(headers: Path) -> None:
    """Write every table."""
    text = (headers / "any-linux-any/linux/version.h").read_text()
    code = int(re.search(r"LINUX_VERSION_CODE (\d+)", text)[1])  # type: ignore[index]
    version = f"{code >> 16}.{code >> 8 & 255}"
    for table, (directory, defines, what) in ABIS.items():
        (TABLES / f"{table}.py").write_text(module(what, version, calls(headers, directory, defines)))


def check() -> int:
    """Print every name for which libseccomp knows another number; the count is the exit status."""
    sys.path.insert(0, str(ROOT / "src"))
    wrong = 0
    for table in ABIS:
        numbers = importlib.import_module(f"coracle.linux.seccomp.tables.{table}").NUMBERS
        unknown = 0
        for name, number in numbers.items():
            answer = subprocess.run(["scmp_sys_resolver", "-a", table, name], capture_output=True, text=True)
            theirs = int(answer.stdout)
            unknown += theirs < 0
            # -1: never heard of.  -100 to -299: socketcall(2) and ipc(2) carry the call on x86, besides its own number.
            if theirs != number and theirs != -1 and not -300 < theirs <= -100:
                print(f"{table}: {name} is {number} here, {theirs} in libseccomp")
                wrong += 1
        print(f"{table}: {len(numbers)} calls, {unknown} without a number in libseccomp")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("headers", type=Path, nargs="?", metavar="HEADERS")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.headers:
        generate(options.headers)
    return check() if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
