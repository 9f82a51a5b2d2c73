"""Groups and processes in them for tests on the real kernel; everything is gone afterwards."""

from __future__ import annotations

import os
import select
import time
from contextlib import contextmanager

import pytest

from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import detect

HIERARCHIES = detect()

root = pytest.mark.skipif(os.geteuid() != 0, reason="making control groups needs root")
legacy = pytest.mark.skipif(
    HIERARCHIES.kind not in ("v1", "hybrid"), reason="no cgroup v1 hierarchies are mounted here"
)
unified = pytest.mark.skipif("unified" not in HIERARCHIES.mounts, reason="cgroup v2 is not mounted here")


def needs(*controllers):
    """Skip where a version 1 controller is not mounted."""
    missing = [name for name in controllers if name not in HIERARCHIES.mounts]
    return pytest.mark.skipif(bool(missing), reason=f"cgroup v1 {' '.join(missing)} is not mounted here")


def needs_unified(*controllers):
    """Skip where version 2 does not have a controller."""
    try:
        with open(f"{HIERARCHIES.mounts['unified']}/cgroup.controllers") as text:
            missing = sorted(set(controllers).difference(text.read().split()))
    except KeyError:
        missing = list(controllers)
    return pytest.mark.skipif(bool(missing), reason=f"cgroup v2 has no {' '.join(missing)} controller here")


class Groups:
    """Makes groups below /coracle-test-PID and, at the end, kills and removes them."""

    def __init__(self) -> None:
        self.made: list[Cgroup] = []
        self.children: list[int] = []

    def new(self, *only: str, create: bool = True) -> Cgroup:
        """A new group, in the hierarchies ``only`` or in all."""
        group = Cgroup(f"/coracle-test-{os.getpid()}/{len(self.made)}", detect())
        if only:
            group.restrict(only)
        self.made.append(group)
        if create:
            group.create()
        return group

    def child(self, group: Cgroup, action) -> int:
        """A process that joins ``group`` and calls ``action``; an exception is exit status 99."""
        ready, written = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(ready)
                for path in group.join_files(unified=True):
                    fd = os.open(path, os.O_WRONLY)
                    os.write(fd, b"0")
                    os.close(fd)
                os.close(written)
                os._exit(action() or 0)
            except BaseException:
                os._exit(99)
        os.close(written)
        os.read(ready, 1)
        os.close(ready)
        self.children.append(pid)
        return pid

    def run(self, group: Cgroup, action) -> int:
        """The exit status (negative: signal) of ``action`` in ``group``."""
        return self.wait(self.child(group, action))

    def wait(self, pid: int) -> int:
        self.children.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def end(self) -> None:
        for group in self.made:
            if group.made:
                group.thaw()
                group.kill()
        for pid in self.children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
        for group in reversed(self.made):
            group.delete(10)


@pytest.fixture
def groups():
    made = Groups()
    try:
        yield made
    finally:
        made.end()


def forever() -> int:
    while True:
        time.sleep(60)


def fork_forever() -> int:
    """A fork bomb, to be run with a small pids.max only."""
    while True:
        try:
            os.fork()
        except BlockingIOError:
            time.sleep(0.001)


@contextmanager
def ticking():
    """(action, ticks): ``action`` ticks every few ms in its process, ``ticks(seconds)`` counts for a while."""
    receive, send = os.pipe()

    def action() -> int:
        while True:
            os.write(send, b".")
            time.sleep(0.005)

    def ticks(seconds: float) -> int:
        count, end = 0, time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([receive], [], [], left)[0]:
                count += len(os.read(receive, 1 << 16))
        return count

    try:
        yield action, ticks
    finally:
        os.close(receive)
        os.close(send)


def membership(pid: int) -> dict[str, str]:
    """Hierarchy name → group of a process."""
    with open(f"/proc/{pid}/cgroup") as lines:
        fields = [line.rstrip("\n").split(":", 2) for line in lines]
    return {name or "unified": path for _, names, path in fields for name in names.split(",")}
