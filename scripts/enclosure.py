#!/usr/bin/env python3
"""A place of its own for container tools: tests, measurements and the conformance suite run podman, docker, crun, runc
and coracle in it, and nothing that they do stays behind or meets another tool.

    scripts/enclosure.py podman --version         one command, as root
    with Enclosure() as place: place.run([...])   several, from Python

An enclosure is a mount, pid and cgroup namespace below a cgroup of its own:

- every process in it dies with it, even if the owner is killed: its first process waits for end-of-file;
- /run is a private tmpfs, and ``directory`` a private tmpfs at the same path inside; a runtime's stray mounts (the
  conformance suite leaves some in *its* mount namespace) vanish with the mount namespace;
- all cgroups that any tool makes lie below the enclosure's own, which removes them and can count their CPU time;
- hugetlb is mounted as v1 where the machine has it unmounted: cgroup2 would offer it, and crun refuses to work
  where cgroup2 beside v1 offers a controller ("cgroups in hybrid mode not supported").

That last point reaches outside: while the hierarchy exists, every process finds a line "hugetlb" in its
/proc/self/cgroup, mounted nowhere, and the controller is gone from cgroup2's list.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CGROUP = Path("/sys/fs/cgroup")
PREFIX = "coracle-enclosure-"
INSIDE = Path(__file__).with_name("enclosure_inside.py")
PATIENCE = 10  # seconds for the kernel to let go of dead cgroups
_number = itertools.count()

# Membership is changed before the cgroup namespace: with nsdelegate (cgroups(7)) a process cannot pull itself in from
# outside.  hugetlb, which only the inside sees, is v1 and knows no such rule.
_ENTER = 'for procs in $JOIN; do echo 0 >"$procs" || exit 125; done; exec "$@"'
_ENTER_HUGETLB = 'echo 0 >/sys/fs/cgroup/hugetlb/cgroup.procs || exit 125; exec "$@"'


def hierarchies() -> list[Path]:
    """The root of every mounted cgroup hierarchy: one on a pure v2 machine, a dozen on v1 or hybrid."""
    if (CGROUP / "cgroup.procs").exists():
        return [CGROUP]
    return [path for path in sorted(CGROUP.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def make_cgroup(root: Path, name: str) -> Path:
    """A cgroup that processes can join.  On v2 they join its child "self": containers need controllers enabled in the
    cgroup itself, and then it may hold no processes (the "no internal processes" rule, cgroups(7))."""
    directory = root / name
    directory.mkdir()
    if (root / "cgroup.clone_children").exists():  # v1: a new cpuset is empty and nothing may join
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (directory / setting).exists():
                (directory / setting).write_text((root / setting).read_text())
        return directory
    (directory / "self").mkdir()
    return directory / "self"


def remove_cgroup(directory: Path) -> None:
    """Remove a cgroup and all below it, trying for some seconds: dying processes hold theirs a little longer.

    Only directories are removed, so that a wrong path cannot cost a file.
    """
    deadline = time.monotonic() + PATIENCE
    while directory.exists() and time.monotonic() < deadline:
        for parent, _, _ in os.walk(directory, topdown=False):
            try:
                os.rmdir(parent)
            except OSError:
                time.sleep(0.005)


def sweep() -> None:
    """Remove what enclosures left whose owner was killed; their processes died with it."""
    directories = [*Path(tempfile.gettempdir()).iterdir(), *(path for root in hierarchies() for path in root.iterdir())]
    for directory in directories:
        owner = directory.name.removeprefix(PREFIX).partition("-")[0]
        if directory.name.startswith(PREFIX) and owner.isdigit() and not Path(f"/proc/{owner}").exists():
            remove_cgroup(directory)


class Enclosure:
    """A place for container tools; a context manager.  Needs root.

    ``directory`` is an empty tmpfs inside, under the same path an empty directory outside; ``seen`` is where the
    outside finds its content.  ``pid`` is the first process, as the outside numbers it.
    """

    def __init__(self) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{next(_number)}"
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.pid = 0
        self._cgroups: list[Path] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Enclosure:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        sweep()
        self._cgroups = [make_cgroup(root, self.name) for root in hierarchies()]
        inner = [sys.executable, "-I", "-S", str(INSIDE), "join", self.name, str(self.directory)]
        self._process = subprocess.Popen(
            [*self._joining(), "unshare", "--mount", "--propagation", "private", "--", *inner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._environment(),
        )
        assert self._process.stdout is not None
        ready = self._process.stdout.readline()
        if not ready:
            raise RuntimeError(f"the enclosure did not start: exit status {self._process.wait()}")
        self.pid = int(ready)

    def _joining(self) -> list[str]:
        return ["sh", "-c", _ENTER, "sh"]

    def _environment(self) -> dict[str, str]:
        join = " ".join(str(cgroup / "cgroup.procs") for cgroup in self._cgroups)
        return {**os.environ, "JOIN": join, "TMPDIR": str(self.directory)}

    @property
    def seen(self) -> Path:
        """``directory`` as a path that the outside can open."""
        return Path(f"/proc/{self.pid}/root{self.directory}")

    def argv(self, command: Sequence[str | Path], directory: Path = Path("/")) -> list[str]:
        """The command line that runs ``command`` inside; needs the environment of :meth:`environment`."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--cgroup", f"--wd={directory}", "--"]
        if Path(f"/proc/{self.pid}/root/sys/fs/cgroup/hugetlb/cgroup.procs").exists():
            enter += ["sh", "-c", _ENTER_HUGETLB, "sh"]
        return [*self._joining(), *enter, *map(str, command)]

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        return self._environment() | (extra or {})

    def popen(self, command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
        """Start ``command`` inside; options as for ``subprocess.Popen``, where ``env`` adds to the environment."""
        argv = self.argv(command, options.pop("cwd", Path("/")))
        return subprocess.Popen(argv, env=self.environment(options.pop("env", None)), **options)

    def run(self, command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``command`` inside to its end: text output is captured, no standard input unless ``input`` is given."""
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        argv = self.argv(command, options.pop("cwd", Path("/")))
        environment = self.environment(options.pop("env", None))
        settings: dict[str, Any] = {"text": True, "errors": "replace", "capture_output": True, "check": False}
        return subprocess.run(argv, env=environment, **(settings | options))

    def close(self) -> None:
        """Kill everything inside and remove what it left."""
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            try:
                self._process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stdout.close()
            release = [sys.executable, "-I", "-S", str(INSIDE), "release", self.name, str(self.directory)]
            subprocess.run(["unshare", "--mount", "--propagation", "private", "--", *release], check=True)
            self._process = None
        for root in hierarchies():
            remove_cgroup(root / self.name)
        self._cgroups = []
        if self.directory.exists():
            self.directory.rmdir()  # never a recursive removal: what was in it was a tmpfs inside


def main() -> int:
    if os.geteuid() != 0 or len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    with Enclosure() as place, place.popen(sys.argv[1:]) as process:
        return int(process.wait())


if __name__ == "__main__":
    sys.exit(main())
