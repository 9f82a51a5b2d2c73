"""The set-up command of README.md works: in a copy of the work tree, with this machine's own python, as root.

``sudo`` and the ``apt-get`` part are left out: what they would install has to be there, or the test is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from enclosure import Enclosure
from peers import missing

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"
NOT_THE_PROJECT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")


def set_up_command() -> list[str]:
    """The parts of the command between "&&"."""
    section = (ROOT / "README.md").read_text().partition("## Set-up")[2]
    block = re.search(r"^```sh\n(.*?)\n```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1].split(" && ")


def test_set_up_command() -> None:
    if reason := missing("nsenter") or _cannot_make_environments():
        pytest.skip(reason)
    install, *rest = set_up_command()
    assert install == "sudo apt-get install -y python3-venv"
    line = " && ".join(part.removeprefix("sudo ") for part in rest)
    with Enclosure() as place:
        shutil.copytree(ROOT, place.seen / "clone", ignore=NOT_THE_PROJECT)
        variables = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": f"{place.directory}/home",
            "CORACLE_ROOT": f"{place.directory}/root",
            "CORACLE_RUN": f"{place.directory}/run",
        }
        process = place.run(["sh", "-c", f"cd {place.directory}/clone && {line}"], env=variables)
        if process.returncode and "No matching distribution found for hatchling" in process.stderr:
            pytest.skip("pip cannot fetch hatchling here")
        assert process.returncode == 0, process.stdout + process.stderr
        expected = Path("/etc/os-release").read_text()
        assert process.stdout.endswith(expected)
        assert place.run([f"{place.directory}/clone/.venv/bin/coracle-oci", "--version"], env=variables).returncode == 0


def _cannot_make_environments() -> str:
    if not os.access(PYTHON, os.X_OK):
        return f"there is no {PYTHON}"
    check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([PYTHON, "-c", check], capture_output=True, check=False).returncode:
        return f"{PYTHON} is older than 3.11, or has no venv (Debian: python3-venv)"
    return ""
