"""The official validation suite of the OCI runtime specification: where it comes from and how it is built.

The suite is github.com/opencontainers/runtime-tools, directory ``validation``: 58 programs that each drive a
runtime through create, start, state, kill and delete and print TAP.  It is fetched as a Go module (checksums are
verified against the public checksum database by the go command) and built into a cache directory; nothing of it
enters this project.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

MODULE = "github.com/opencontainers/runtime-tools"
# The newest version that the public module proxy serves; runtime-spec 1.3.0.
VERSION = "v0.9.1-0.20260316125833-8a4db579f5c8"
HELPER = "runtimetest"  # runs inside the containers and checks what it sees against config.json
TESTS = 58


class SuiteError(Exception):
    """The suite cannot be built or used; the text is one line for a person."""


def cache_directory() -> Path:
    """Where the built suite lives: ``$XDG_CACHE_HOME/coracle-conformance/<version>``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "coracle-conformance" / VERSION


def is_built() -> bool:
    return (cache_directory() / "complete").exists()


def names() -> list[str]:
    """All tests of the built suite, sorted.  :raises SuiteError: when it is not built."""
    if not is_built():
        raise SuiteError(f"the suite is not built in {cache_directory()}: run `python3 scripts/conformance build`")
    return sorted(entry.name for entry in (cache_directory() / "tests").iterdir())


def _go(arguments: list[str], environment: dict[str, str]) -> str:
    process = subprocess.run(["go", *arguments], env=os.environ | environment, stdout=subprocess.PIPE, check=False)
    if process.returncode:
        raise SuiteError(f"`go {' '.join(arguments)}` failed with status {process.returncode}")
    return process.stdout.decode()


def build() -> Path:
    """Build the suite unless it is there; two builders at once are harmless, the last rename wins.

    The module's own Makefile builds each test as one program and ``runtimetest`` statically; ``go install`` with
    cgo off does both without a checkout.  Tests expect ``runtimetest`` and the root file system archive in their
    working directory.

    :raises SuiteError: without the go command (1.21 or later) or when the module cannot be fetched.
    """
    target = cache_directory()
    if is_built():
        return target
    if not shutil.which("go"):
        raise SuiteError("building the suite needs the go command, version 1.21 or later")
    scratch = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        (scratch / "tests").mkdir(parents=True)
        module = json.loads(_go(["mod", "download", "-json", f"{MODULE}@{VERSION}"], {}))["Dir"]
        settings = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOBIN": str(scratch / "tests")}
        _go(["install", "-trimpath", "-ldflags=-s -w", f"{MODULE}/validation/...@{VERSION}"], settings)
        settings["GOBIN"] = str(scratch)
        _go(["install", "-trimpath", "-ldflags=-s -w", f"{MODULE}/cmd/{HELPER}@{VERSION}"], settings)
        for archive in Path(module).glob("rootfs-*.tar.gz"):
            shutil.copy(archive, scratch)
        found = len(list((scratch / "tests").iterdir()))
        if found != TESTS:
            raise SuiteError(f"{found} tests were built from {MODULE}@{VERSION}, expected {TESTS}")
        (scratch / "complete").touch()
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
