"""The pack of compiled modules: used when it is valid, ignored when it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import coracle

SOURCE = Path(coracle.__file__).parent
SHOW = """
import sys
sys.path.insert(0, sys.argv[1])
from coracle import bytecode
pack = bytecode.install()
import coracle.record, coracle.linux.shell
from coracle.linux import shell
loader = type(shell.__spec__.loader).__name__
print(loader, getattr(shell, "marker", ""), bytecode.refresh(pack), coracle.linux.__path__[0].endswith("coracle/linux"))
"""


@pytest.fixture
def package(tmp_path):
    target = tmp_path / "coracle"
    target.mkdir()
    for name in ("__init__.py", "bytecode.py", "record.py", "errors.py"):
        shutil.copy2(SOURCE / name, target)
    (target / "linux").mkdir()
    for name in ("__init__.py", "shell.py"):
        shutil.copy2(SOURCE / "linux" / name, target / "linux")
    return target


def show(package):
    command = [sys.executable, "-I", "-S", "-c", SHOW, str(package.parent)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def pack_of(package):
    [pack] = (package / "__pycache__").glob("*.pack")
    return pack


def test_it_is_written_once_and_used_from_then_on(package):
    assert show(package) == ["SourceFileLoader", "True", "True"]
    assert show(package) == ["PackFinder", "False", "True"]


def test_a_changed_source_counts_more(package):
    show(package)
    with (package / "linux/shell.py").open("a") as file:
        file.write('marker = "edited"\n')
    assert show(package) == ["SourceFileLoader", "edited", "True", "True"]
    assert show(package) == ["PackFinder", "edited", "False", "True"]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, b"\x05\0\0\0\0\0\0\0hello", b"\x01\0\0\0\0\0\0\0i"])
def test_a_damaged_pack_is_ignored(package, damage):
    show(package)
    pack_of(package).write_bytes(damage)
    assert show(package)[0] == "SourceFileLoader"
    assert show(package)[0] == "PackFinder", "and replaced"


def test_modules_that_were_removed_are_not_found(package):
    show(package)
    (package / "linux/shell.py").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        show(package)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; run as a normal user")
def test_who_may_not_write_goes_without(package):
    (package / "__pycache__").mkdir()
    (package / "__pycache__").chmod(0o500)
    assert show(package) == ["SourceFileLoader", "False", "True"]
