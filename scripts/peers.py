"""podman and docker with private stores, to compare with: both work in an enclosure on machines where they otherwise
would not, and leave the user's own containers alone.

What they need here and why:

- *ulimits*: podman asks for RLIMIT_NOFILE 1048576 and raises RLIMIT_NPROC, and both fail without CAP_SYS_RESOURCE
  ("error setting rlimit type 7: operation not permitted").  So containers.conf and dockerd get 1024 as the default.
- *cgroupfs*: the systemd cgroup driver needs systemd; `--cgroup-manager cgroupfs` and native.cgroupdriver do not.
- *no firewall*: dockerd runs with --iptables=false and --bridge=none, so only `--network none` and `host` work.
- *subuid*: `--userns=auto` takes ranges of a user "containers" that Debian does not set up; the enclosure sees one.
- *runtimes*: podman asks for JSON errors and allows `--cgroups=disabled` by the runtime's name; containers.conf gives
  a runtime outside of $PATH its name and says the same of coracle-oci as of crun.

Stores are on the enclosure's tmpfs: the disk would dominate every measurement.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from enclosure import Enclosure

SOURCE = Path(__file__).resolve().parents[1] / "src"
SCRIPTS = Path(__file__).with_name("bin")
MAKE_BASE = Path(__file__).with_name("make-base")
IMAGE = "localhost/busybox:latest"

_CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime_supports_json = ["crun", "runc", "coracle-oci"]
runtime_supports_nocgroup = ["crun", "coracle-oci"]  # the manual page says "nocgroups", the code reads this
[engine.runtimes]
"""


def coracle_command(name: str, directory: Path) -> Path | None:
    """The program ``coracle`` or ``coracle-oci``; None when there is neither of these:

    the one on $PATH, or this work tree's, laid out in ``directory`` as pip installs it, so that what is measured and
    tested starts as it will for a user.
    """
    if installed := shutil.which(name):
        return Path(installed)
    if not (SCRIPTS / name).exists():
        return None
    prefix = directory / "coracle-prefix"
    if not prefix.exists():
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        packages = prefix / "lib" / version / "site-packages"
        shutil.copytree(SOURCE / "coracle", packages / "coracle", ignore=shutil.ignore_patterns("__pycache__"))
        (prefix / "bin").mkdir()
        for script in SCRIPTS.iterdir():
            text = script.read_text().replace("#!python\n", f"#!{sys.executable}\n", 1)
            (prefix / "bin" / script.name).write_text(text)
            (prefix / "bin" / script.name).chmod(0o755)
        subprocess.run([sys.executable, "-m", "compileall", "-q", packages], check=True)
    return prefix / "bin" / name


def coracle_inside(place: Enclosure, name: str) -> Path | None:
    """As :func:`coracle_command`, as a path inside the enclosure; None also when it does not run yet."""
    program = coracle_command(name, place.seen)
    if program is None:
        return None
    if program.is_relative_to(place.seen):
        program = place.directory / program.relative_to(place.seen)
    return None if place.run([program, "--version"]).returncode else program


class Podman:
    """podman with its store in an enclosure.  ``run`` returns the finished process with captured text output."""

    def __init__(self, place: Enclosure, runtime: str | Path = "crun") -> None:
        self.place = place
        self.runtime = Path(runtime).name
        self._store = place.directory / "podman"
        (place.seen / "podman").mkdir(exist_ok=True)
        named = f'{self.runtime} = ["{runtime}"]\n' if Path(runtime).is_absolute() else ""
        (place.seen / f"podman/{self.runtime}.conf").write_text(_CONTAINERS_CONF + named)
        for name in ("subuid", "subgid"):
            self._add_containers_range(Path("/etc") / name)

    def _add_containers_range(self, file: Path) -> None:
        if not file.exists() or (self.place.seen / "podman" / file.name).exists():
            return
        copy = self.place.seen / "podman" / file.name
        copy.write_text(file.read_text() + "containers:2000000000:1000000\n")
        self.place.run(["mount", "--bind", self._store / file.name, file], check=True)

    def argv(self, *arguments: str) -> list[str]:
        # podman refuses a runroot of more than 50 characters; /run is the enclosure's own.
        store = [f"--root={self._store}/root", "--runroot=/run/podman", "--tmpdir=/run/libpod"]
        return ["podman", *store, "--storage-driver=overlay", f"--runtime={self.runtime}", *arguments]

    def environment(self) -> dict[str, str]:
        return {"CONTAINERS_CONF": f"{self._store}/{self.runtime}.conf", "HOME": "/root"}

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.place.run(self.argv(*arguments), env=self.environment(), **({"timeout": 90} | options))

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        return self.place.popen(self.argv(*arguments), env=self.environment(), **options)

    def import_image(self, archive: Path, name: str = IMAGE) -> None:
        with archive.open("rb") as file:
            self.run("import", "-", name, stdin=file).check_returncode()


class Docker:
    """A dockerd of its own in an enclosure, with its client.  A context manager; ``runtimes``: name → program."""

    SOCKET = "/run/docker.sock"

    def __init__(self, place: Enclosure, runtimes: dict[str, str | Path] | None = None) -> None:
        self.place = place
        self._store = place.directory / "docker"
        self._runtimes = runtimes or {}
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Docker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the daemon and wait until it answers.  :raises RuntimeError: with its last word when it does not."""
        (self.place.seen / "docker").mkdir(exist_ok=True)
        settings = {
            "data-root": f"{self._store}/data",
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "hosts": [f"unix://{self.SOCKET}"],
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "storage-driver": "overlay2",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "runtimes": {name: {"path": str(program)} for name, program in self._runtimes.items()},
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 1024}},
        }
        (self.place.seen / "docker/daemon.json").write_text(json.dumps(settings))
        log = (self.place.seen / "docker/log").open("wb")
        with log:
            command = ["dockerd", f"--config-file={self._store}/daemon.json"]
            self._daemon = self.place.popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while self.run("version").returncode:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"dockerd does not start: {self.log().strip().splitlines()[-1]}")
            time.sleep(0.1)

    def log(self) -> str:
        return (self.place.seen / "docker/log").read_text(errors="replace")

    def pid(self) -> int:
        """dockerd's pid, as the enclosure numbers it."""
        return int(Path(f"/proc/{self.place.pid}/root/run/docker.pid").read_text())

    def argv(self, *arguments: str) -> list[str]:
        return ["docker", "--host", f"unix://{self.SOCKET}", *arguments]

    def environment(self) -> dict[str, str]:
        # An empty client configuration: the user's may name contexts and proxies.
        return {"DOCKER_CONFIG": f"{self._store}/client"}

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.place.run(self.argv(*arguments), env=self.environment(), **({"timeout": 90} | options))

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]:
        return self.place.popen(self.argv(*arguments), env=self.environment(), **options)

    def import_image(self, archive: Path, name: str = IMAGE) -> None:
        with archive.open("rb") as file:
            self.run("import", "-", name, stdin=file).check_returncode()

    def close(self) -> None:
        if self._daemon is None:
            return
        self.place.run(["sh", "-c", "kill $(cat /run/docker.pid)"])
        try:
            self._daemon.wait(20)
        except subprocess.TimeoutExpired:
            self._daemon.kill()  # nsenter only; the enclosure's end kills the daemon
            self._daemon.wait()
        self._daemon = None


def busybox_archive(directory: Path) -> Path:
    """A busybox root file system archive in ``directory``.  :raises CalledProcessError: without a static busybox."""
    archive = directory / "busybox.tar"
    if not archive.exists():
        subprocess.run([MAKE_BASE, "busybox", archive], check=True, stdin=subprocess.DEVNULL)
    return archive


def missing(*commands: str) -> str:
    """Why these commands cannot be used here, for a skip; nothing when they can."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [command for command in commands if not shutil.which(command)]
    return f"not installed: {' '.join(absent)}" if absent else ""


def default_spec(arguments: Sequence[str], place: Enclosure) -> dict[str, Any]:
    """The config.json that `runc spec` writes, for the same bundle under every runtime: no terminal, ``arguments``."""
    directory = place.directory / "spec"
    place.run(["sh", "-c", f"mkdir -p {directory} && cd {directory} && rm -f config.json && runc spec"], check=True)
    spec: dict[str, Any] = json.loads((place.seen / "spec/config.json").read_text())
    spec["process"]["terminal"] = False
    spec["process"]["args"] = list(arguments)
    # Raising a limit needs CAP_SYS_RESOURCE, which a container host may lack.
    spec["process"]["rlimits"] = []
    return spec
