"""The commands used in loops load little: what a command imports is counted, exactly, in a fresh interpreter.

Milliseconds on a shared machine prove nothing; ``sys.modules`` does.  Each expensive module of the standard library
costs between 2 and 55 ms of every single command, so the list below is forbidden, not merely watched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

_EXPENSIVE = """
    re json typing enum dataclasses argparse subprocess pathlib logging signal socket ctypes contextlib collections
    functools tempfile shutil inspect traceback warnings threading asyncio selectors http urllib.request hashlib
    datetime random uuid locale gettext configparser tarfile zipfile importlib.metadata ast dis tokenize copy
    operator keyword reprlib heapq concurrent.futures multiprocessing email ssl decimal textwrap string difflib
"""
FORBIDDEN = frozenset(_EXPENSIVE.split())

# Modules beyond what the bare interpreter loads: our own and the few small built-in ones.
MODULES = 90

# What is typed → which hot command it stands for.  None of these containers exists: each goes through option parsing,
# the store and the record lookup to a one-line error.
COMMANDS: dict[str, list[str]] = {
    "ps": ["ps"],
    "run": ["run", "--rm", "--network", "none", "no-such-image", "true"],
    "exec": ["exec", "nosuchcontainer", "true"],
    "start": ["start", "nosuchcontainer"],
    "stop": ["stop", "nosuchcontainer"],
    "kill": ["kill", "nosuchcontainer"],
    "logs": ["logs", "nosuchcontainer"],
    "rm": ["rm", "nosuchcontainer"],
}
RUNTIME_COMMANDS: dict[str, list[str]] = {
    "create": ["create", "--bundle", "/nonexistent", "nosuchcontainer"],
    "start": ["start", "nosuchcontainer"],
    "state": ["state", "nosuchcontainer"],
    "kill": ["kill", "nosuchcontainer", "KILL"],
    "delete": ["delete", "nosuchcontainer"],
    "exec": ["exec", "nosuchcontainer", "true"],
}

_PROBE = """
import os, sys
bare = set(sys.modules)
sys.path.insert(0, {source!r})
sys.argv = {argv!r}
status = 1
try:
    from {module} import main
    status = main()
except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else 1
finally:
    loaded = sorted(set(sys.modules) - bare)
    os.write({descriptor}, (str(status) + " " + " ".join(loaded)).encode())
"""


def _loaded(module: str, argv: list[str], store: Path) -> tuple[int, set[str], str]:
    """Run ``main()`` of a module with these arguments: (exit status, modules loaded, standard error)."""
    if not (SOURCE / (module.replace(".", "/") + ".py")).exists():
        pytest.skip(f"{module} does not exist yet")
    read, write = os.pipe()
    code = _PROBE.format(source=str(SOURCE), argv=["coracle", *argv], module=module, descriptor=write)
    environment = {"PATH": os.environ["PATH"], "HOME": str(store), "CORACLE_ROOT": f"{store}/root"}
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        env=environment | {"CORACLE_RUN": f"{store}/run"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=[write],
        check=False,
        timeout=60,
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        status, *modules = pipe.read().split()
    return int(status), set(modules), process.stdout + process.stderr


def _check(modules: set[str]) -> None:
    assert not modules & FORBIDDEN, f"forbidden on the hot path: {sorted(modules & FORBIDDEN)}"
    assert len(modules) <= MODULES, f"{len(modules)} modules, more than {MODULES}: {sorted(modules)}"


@pytest.mark.parametrize("module", ["coracle.cli.main", "coracle.cli.oci"])
def test_import_alone(module: str) -> None:
    if not (SOURCE / (module.replace(".", "/") + ".py")).exists():
        pytest.skip(f"{module} does not exist yet")
    code = f"import sys; bare = set(sys.modules); sys.path.insert(0, {str(SOURCE)!r}); import {module}; " \
           "print(*sorted(set(sys.modules) - bare))"  # fmt: skip
    output = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    _check(set(output.split()))


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, tmp_path: Path) -> None:
    status, modules, output = _loaded("coracle.cli.main", COMMANDS[command], tmp_path)
    if "unknown command" in output:
        pytest.skip(f"there is no command {command} yet")
    assert "Traceback" not in output, output
    assert (status == 0) is (command == "ps"), f"status {status}: {output}"
    _check(modules)


@pytest.mark.parametrize("command", RUNTIME_COMMANDS)
def test_runtime_command(command: str, tmp_path: Path) -> None:
    argv = ["--root", str(tmp_path / "state"), *RUNTIME_COMMANDS[command]]
    status, modules, output = _loaded("coracle.cli.oci", argv, tmp_path)
    assert "Traceback" not in output, output
    assert status != 0, output
    _check(modules)


@pytest.mark.root
def test_whole_run(tmp_path: Path) -> None:
    """A container that really runs: its path is longer than that of any error."""
    busybox = shutil.which("busybox")
    if not busybox:
        pytest.skip("not installed: busybox")
    (tmp_path / "rootfs/bin").mkdir(parents=True)
    shutil.copy(busybox, tmp_path / "rootfs/bin/true")
    for directory in ("dev", "proc", "sys", "etc", "tmp"):
        (tmp_path / "rootfs" / directory).mkdir()
    argv = ["run", "--rm", "--network", "none", "--rootfs", str(tmp_path / "rootfs"), "/bin/true"]
    status, modules, output = _loaded("coracle.cli.main", argv, tmp_path)
    assert status == 0, output
    _check(modules)


@pytest.mark.root
def test_whole_runtime_run(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    if not busybox:
        pytest.skip("not installed: busybox")
    rootfs = tmp_path / "bundle/rootfs"
    (rootfs / "bin").mkdir(parents=True)
    shutil.copy(busybox, rootfs / "bin/true")
    spec = {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}], "cgroupsPath": f"/coracle-import-{os.getpid()}"},
    }
    (tmp_path / "bundle/config.json").write_text(json.dumps(spec))
    argv = ["--root", str(tmp_path / "state"), "run", "--bundle", str(tmp_path / "bundle"), f"import-{os.getpid()}"]
    status, modules, output = _loaded("coracle.cli.oci", argv, tmp_path)
    assert status == 0, output
    _check(modules)
