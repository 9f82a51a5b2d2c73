"""Which program answers to a runtime's name, as the suite wants it: one executable path in ``$RUNTIME``."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from peers import coracle_command

# The suite writes ociVersion 1.3.0.  crun before 1.22 refuses a version newer than it knows, though what
# the tests use is old; the shim lowers the number in the bundle before `create` reads it.
_CRUN_SHIM = """#!/usr/bin/env python3
import json, os, sys
arguments = sys.argv[1:]
if "create" in arguments and "--bundle" in arguments:
    config = os.path.join(arguments[arguments.index("--bundle") + 1], "config.json")
    if os.path.exists(config):
        with open(config) as file:
            spec = json.load(file)
        spec["ociVersion"] = "1.0.0"
        with open(config, "w") as file:
            json.dump(spec, file)
os.execv({program!r}, [{program!r}, *arguments])
"""


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def _crun(directory: Path, program: str) -> Path:
    """crun itself, or the shim around one that is too old for the suite's ociVersion."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    version = tuple(int(part) for part in text.split("\n")[0].split()[-1].split(".")[:2])
    if version >= (1, 22):
        return Path(program)
    return _write(directory / "crun", _CRUN_SHIM.format(program=program))


def resolve(name: str, directory: Path) -> Path | None:
    """The executable for ``name``: a path, a program on ``$PATH``, or coracle-oci from this work tree.

    Shims are written to ``directory``, which must live as long as the tests.  None when it is not installed.
    """
    if name == "coracle-oci":
        return coracle_command(name, directory)
    program = shutil.which(name)
    if program is None:
        return None
    return _crun(directory, program) if Path(name).name == "crun" else Path(program)


def version(program: Path) -> str:
    """The first line that ``program --version`` prints, or why there is none."""
    process = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    lines = (process.stdout or process.stderr).strip().splitlines()
    return lines[0] if lines else f"no version, exit status {process.returncode}"


def load_expected(path: Path) -> dict[str, dict[str, str]]:
    """expected.json: test name → {"kind", "reason"} for tests that fail, kind "race" for those that may."""
    table: dict[str, dict[str, str]] = json.loads(path.read_text())["failures"]
    return table
