"""Containers for tests: stores of their own, a busybox root, and a list of all that was left behind.

Every store has its own parent of control groups, so that what it leaves can be told from what
others do on the same machine.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import coracle
from coracle.linux.cgroup.hierarchy import detect
from coracle.runtime.spec.default import default_spec

TIMEOUT = 40
SOURCE = Path(coracle.__file__).parents[1]
BUSYBOX = shutil.which("busybox", path="/bin:/usr/bin:/sbin:/usr/sbin") or ""
_OVERLAY, _TMPFS = "overlay", "/dev/shm"


def python(reachable_by_all: bool = False) -> str:
    """The interpreter for the engine; one below a closed home directory is no use to other users."""
    if not reachable_by_all or not sys.executable.startswith("/root/"):
        return sys.executable
    found = [shutil.which(f"python3.{minor}", path="/usr/bin:/usr/local/bin") for minor in (14, 13, 12, 11)]
    return next((path for path in found if path), "")


def storage() -> str:
    """A directory for stores: overlayfs cannot have its upper layer on an overlay, where tests may run."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", "/var/tmp"], capture_output=True, text=True).stdout.strip()
    return _TMPFS if kind in (_OVERLAY, "overlayfs") else "/var/tmp"


def make_root(path: Path) -> Path:
    """A root file system of busybox alone, open to every user."""
    programs = path / "bin"
    programs.mkdir(parents=True)
    shutil.copy(BUSYBOX, programs / "busybox")
    names = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if name != "busybox":
            (programs / name).symlink_to("busybox")
    for name, mode in (("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("proc", 0o755), ("sys", 0o755)):
        (path / name).mkdir()
        (path / name).chmod(mode)
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/home/web:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nstaff:x:50:web\nweb:x:1001:\n")
    for place in (path, programs):
        place.chmod(0o755)
    return path


class Result:
    """What a command did.  ``out`` and ``err`` are text; undecodable bytes are kept as surrogates."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.bytes = out
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def __repr__(self) -> str:
        return f"exit {self.code}\nout: {self.out[-2000:]}\nerr: {self.err[-2000:]}"


def capture(
    command: list[str], environment: dict[str, str], stdin: bytes | int = b"", timeout: float = TIMEOUT
) -> Result:
    """Run ``command`` to its end.  Its output goes to files, for a container might keep a pipe open."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    feed = stdin if isinstance(stdin, int) else subprocess.PIPE
    try:
        process = subprocess.Popen(command, env=environment, stdin=feed, stdout=out, stderr=err)
        try:
            process.communicate(None if isinstance(stdin, int) else stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{command[-6:]} hangs: {read_back(err)[-2000:]!r}") from None
        return Result(process.returncode, read_back(out), read_back(err))
    finally:
        os.close(out)
        os.close(err)


def read_back(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


class Store:
    """coracle and coracle-oci with a storage root, a run directory and control groups of their own."""

    made = 0

    def __init__(self, directory: Path, prefix: tuple[str, ...] = (), interpreter: str = sys.executable) -> None:
        Store.made += 1
        self.directory = directory
        self.root = directory / "store"
        self.run_directory = directory / "run"
        self.state = directory / "state"
        self.group = f"/coracle-it-{os.getpid()}-{Store.made}"
        self.prefix = prefix
        self.interpreter = interpreter
        self.environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(directory),
            "PYTHONPATH": str(SOURCE),
            "PYTHONDONTWRITEBYTECODE": "1",
            "CORACLE_ROOT": str(self.root),
            "CORACLE_RUN": str(self.run_directory),
        }
        self.grouped = not prefix and os.geteuid() == 0

    def words(self, module: str, *words: object) -> list[str]:
        return [*self.prefix, self.interpreter, "-S", "-m", f"coracle.cli.{module}", *map(str, words)]

    def run_words(self, *words: object) -> list[str]:
        parent = ("--cgroup-parent", self.group) if self.grouped else ()
        return self.words("main", "run", *parent, *words)

    def run(
        self, *words: object, code: int | None = None, stdin: bytes | int = b"", timeout: float = TIMEOUT
    ) -> Result:
        """``coracle run WORDS``; with ``code`` the exit code must be that."""
        result = capture(self.run_words(*words), self.environment, stdin, timeout)
        assert code is None or result.code == code, result
        return result

    def start(self, *words: object, **more: object) -> subprocess.Popen[bytes]:
        """``coracle run WORDS``, not waited for."""
        return subprocess.Popen(self.run_words(*words), env=self.environment, **more)  # type: ignore[call-overload]

    def detach(self, *words: object) -> str:
        """``coracle run -d WORDS``; the container's id."""
        return self.run("-d", *words, code=0).out.strip()

    def command(self, *words: object, code: int | None = None, stdin: bytes = b"") -> Result:
        """Another command of coracle."""
        result = capture(self.words("main", *words), self.environment, stdin)
        assert code is None or result.code == code, result
        return result

    def oci(self, *words: object, code: int | None = None, stdin: bytes = b"") -> Result:
        """``coracle-oci WORDS``."""
        result = capture(self.words("oci", "--root", self.state, *words), self.environment, stdin)
        assert code is None or result.code == code, result
        return result

    def bundle(self, rootfs: Path, *arguments: str, name: str = "bundle", **changes: object) -> Path:
        """A bundle of the default config for ``arguments``; ``changes`` replace top-level keys or go into
        ``process`` and ``linux``, which are merged."""
        spec = default_spec()
        del spec["process"]["rlimits"]
        spec["process"] |= {"terminal": False, "args": list(arguments)}
        spec["root"] = {"path": str(rootfs), "readonly": False}
        spec["linux"]["cgroupsPath"] = f"{self.group}/{name}"
        for key, value in changes.items():
            if key in ("process", "linux"):
                spec[key] |= value
            else:
                spec[key] = value
        path = self.directory / name
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(spec))
        return path

    def identifier(self, name: str) -> str:
        """The id behind a name."""
        return os.path.basename(os.readlink(self.root / "names" / name))

    def record(self, identifier: str) -> dict[str, object]:
        return json.loads((self.root / f"containers/{identifier}/container.json").read_text())  # type: ignore[no-any-return]

    def process(self, identifier: str) -> dict[str, object]:
        return json.loads((self.run_directory / f"containers/{identifier}/state.json").read_text())  # type: ignore[no-any-return]

    def left(self) -> list[str]:
        """All that exists of this store's containers: records, names, temporary files, groups, mounts, processes."""
        found = [str(path) for path in self._entries()]
        found += self.groups()
        found += [f"mount {line}" for line in mounts_below(str(self.directory))]
        found += [f"process {pid}: {line}" for pid, line in self.processes().items()]
        return found

    def _entries(self) -> list[Path]:
        folders = (self.root / "containers", self.root / "names", self.run_directory / "containers", self.state)
        found = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.name != ".seccomp"]
        for base in (self.root, self.run_directory):
            found += [path for path in base.glob("*") if path.name.endswith((".new", ".removed"))]
        return sorted(found)

    def groups(self) -> list[str]:
        """Directories of this store's control groups."""
        return sorted(
            os.path.join(place, name)
            for top in set(detect().mounts.values())
            for place, names, _ in os.walk(top + self.group)
            for name in names
        )

    def processes(self) -> dict[int, str]:
        """Processes of this store's engine and containers, by pid; the dead do not count."""
        found = {}
        marks = (f"CORACLE_ROOT={self.root}\0".encode(), f"{self.state}\0".encode())
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                if _read(f"/proc/{name}/stat").rpartition(b") ")[2][:1] in (b"Z", b"X"):
                    continue
                line = _read(f"/proc/{name}/cmdline")
                inside = f"{self.group}/".encode() in _read(f"/proc/{name}/cgroup") or self._holds_gate(name)
                if inside or any(mark in _read(f"/proc/{name}/environ") + line + b"\0" for mark in marks):
                    found[int(name)] = line.replace(b"\0", b" ").decode("utf-8", "replace")
            except (OSError, ValueError):
                continue
        return found

    def _holds_gate(self, pid: str) -> bool:
        """Whether a process waits at a gate of this store: a launcher tells nothing else about where it belongs."""
        folder = f"/proc/{pid}/fd"
        return any(os.readlink(f"{folder}/{fd}").startswith(f"{self.state}/") for fd in os.listdir(folder))

    def settled(self, seconds: float = 10) -> list[str]:
        """What is left once processes that are about to end have ended."""
        wait_until(lambda: not self.left(), seconds)
        return self.left()

    def destroy(self) -> None:
        """End and remove everything, whatever the tests did to it."""
        for _ in range(100):
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not self.processes():
                break
            time.sleep(0.02)
        for group in sorted(self.groups(), reverse=True):
            remove_group(group)
        for top in set(detect().mounts.values()):
            remove_group(top + self.group)
        for line in reversed(mounts_below(str(self.directory))):
            subprocess.run(["umount", "-l", line.split()[4]], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def remove_group(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def mounts_below(directory: str) -> list[str]:
    """Lines of /proc/self/mountinfo whose mount point is below ``directory``."""
    with open("/proc/self/mountinfo") as lines:
        return [line.rstrip() for line in lines if line.split()[4].startswith(f"{directory}/")]


def wait_until(condition: object, seconds: float = TIMEOUT) -> bool:
    """Whether ``condition`` became true in time."""
    end = time.monotonic() + seconds
    while not (happened := bool(condition())):  # type: ignore[operator]
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return happened


def read_some(fd: int, seconds: float = TIMEOUT) -> bytes:
    """What there is to read at ``fd``; fails instead of hanging; empty at the end, and for a dead terminal."""
    ready, _, _ = select.select([fd], [], [], seconds)
    assert ready, f"nothing to read for {seconds} s"
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # EIO: the other side of a terminal is gone
        return b""


def read_until(fd: int, mark: bytes, seconds: float = TIMEOUT) -> bytes:
    """Read ``fd`` until ``mark`` has come or the end."""
    data = b""
    while mark not in data:
        more = read_some(fd, seconds)
        if not more:
            break
        data += more
    return data


class Tenant:
    """A user without rights, with ranges of subordinate ids or without."""

    def __init__(self, name: str, ranges: bool) -> None:
        self.name = name
        self.ranges = ranges
        entry = pwd.getpwnam(name)
        self.uid, self.gid = entry.pw_uid, entry.pw_gid

    def prefix(self) -> tuple[str, ...]:
        return ("setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--")
