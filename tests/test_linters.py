"""The linters run as tests, so that one command checks everything; their settings are in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Programs beside the package; their modules find each other by these directories.
SCRIPTS = ["scripts/enclosure.py", "scripts/enclosure_inside.py", "scripts/peers.py", "bench"]

LINTERS: dict[str, tuple[list[str], str]] = {
    "ruff check": (["ruff", "check", "--no-cache", "."], ""),
    "ruff format": (["ruff", "format", "--no-cache", "--check", "."], ""),
    "mypy": (["mypy", "--strict", "--no-error-summary", "-p", "coracle"], "src"),
    "mypy scripts": (["mypy", "--strict", "--no-error-summary", *SCRIPTS], "scripts:bench"),
    "mypy conformance": (["mypy", "--strict", "--no-error-summary", "scripts/conformance/__main__.py"],
                         "scripts:scripts/conformance"),
    "mypy e2e": (["mypy", "--strict", "--no-error-summary", "tests/e2e"], "scripts:scripts/conformance:tests/e2e"),
}  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LINTERS)
def test_linter(name: str) -> None:
    arguments, path = LINTERS[name]
    if importlib.util.find_spec(arguments[0]) is None:
        pytest.skip(f"{arguments[0]} is not installed: pip install -e '.[dev]'")
    process = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
