"""A disposable place for one test: own mount and pid namespaces, own cgroups, own /run and temporary directory.

Why so careful: ``linux_ns_itype`` runs a container without a mount namespace and leaves proc, sysfs and a /dev
tmpfs mounted under the temporary directory of the *host*, where the next ``rm -rf`` walks into them.  Tests also
leave containers, state directories and cgroups behind when a runtime fails.  Here all of it dies with the sandbox:
its first process kills every other one and removes the cgroups, and the namespaces take the mounts with them.

:func:`run` is called outside; run as a program this file is the first process inside (:func:`main`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import private_mounts

# Absolute and relative cgroupsPath of the suite (its cgroups/cgroups.go).
SUITE_CGROUPS = ("cgrouptest", "testdir")
PREFIX = "coracle-conformance-"
TIMED_OUT = 124  # as timeout(1)
MARGIN = 30  # seconds that cleaning up may take on top of the test's own


def run(test: Path, environment: dict[str, str], seconds: float) -> tuple[int | None, str, str]:
    """Run ``test`` in its directory's parent: (exit status or None after a timeout, stdout, stderr)."""
    scratch = tempfile.mkdtemp(prefix=PREFIX)
    namespaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    inner = [sys.executable, "-I", "-S", __file__, scratch, str(seconds), str(test)]
    try:
        process = subprocess.run(
            ["unshare", *namespaces, "--", *inner],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds + MARGIN,
            check=False,
        )
    finally:
        os.rmdir(scratch)  # never a recursive removal: what was in it was a tmpfs of the sandbox
    status = None if process.returncode == TIMED_OUT else process.returncode
    return status, process.stdout.decode(errors="replace"), process.stderr.decode(errors="replace")


def main() -> int:
    """Inside the namespaces, as pid 1: make the place, run the test, reap everybody, clean up."""
    scratch, seconds, test = sys.argv[1:]
    mounted = private_mounts.mount_hugetlb()  # two tests need it, and crun always
    before = {entry for entry in private_mounts.top_level_cgroups() if not entry.name.startswith(PREFIX)}
    roots = private_mounts.hierarchies()
    _join_own_cgroups(roots, os.path.basename(scratch))
    private_mounts.mount_tmpfs("/run")
    private_mounts.mount_tmpfs(scratch)
    os.environ["TMPDIR"] = scratch
    status = _run_to_the_end(test, float(seconds))
    _kill_the_rest()
    for root in roots:
        (root / "cgroup.procs").write_text("0")
    private_mounts.remove_cgroups(before, _is_ours)
    if mounted:
        private_mounts.unmount_hugetlb()
    return status


def _join_own_cgroups(roots: list[Path], name: str) -> None:
    """A cgroup of our own in every hierarchy, so that relative cgroup paths stay in it too."""
    for root in roots:
        directory = root / name
        directory.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # empty in a new v1 cpuset, and then nothing may join
            if (root / "cgroup.clone_children").exists() and (directory / setting).exists():
                (directory / setting).write_text((root / setting).read_text())
        (directory / "cgroup.procs").write_text("0")


def _run_to_the_end(test: str, seconds: float) -> int:
    """Run the test and reap every orphan meanwhile: containers outlive the runtime and become ours."""

    def give_up(*_: object) -> None:
        raise TimeoutError

    process = subprocess.Popen([test], cwd=Path(test).parent.parent)
    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        while True:
            pid, status = os.wait()
            if pid == process.pid:
                return os.waitstatus_to_exitcode(status) & 0xFF
    except TimeoutError:
        return TIMED_OUT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _kill_the_rest() -> None:
    """Kill all processes of the pid namespace and reap them, thawing v1 freezers: a frozen task cannot die."""
    deadline = time.monotonic() + MARGIN / 3
    while time.monotonic() < deadline:
        try:
            os.kill(-1, signal.SIGKILL)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except (ProcessLookupError, ChildProcessError):
            return
        for state in private_mounts.CGROUP.glob("freezer/*/**/freezer.state"):
            if _is_ours(state.relative_to(private_mounts.CGROUP / "freezer").parts[0]):
                state.write_text("THAWED")
        time.sleep(0.01)


def _is_ours(name: str) -> bool:
    """Whether a top-level cgroup is the suite's: containers without a cgroupsPath are named by its UUIDs."""
    uuid = [len(part) for part in name.split("-")] == [8, 4, 4, 4, 12]
    return uuid or name in SUITE_CGROUPS or name.startswith(PREFIX)


if __name__ == "__main__":
    sys.exit(main())
