"""Steps that enter a container which already runs (setns(2), pidfd_open(2))."""

from __future__ import annotations

import os

from coracle.linux import mount, process
from coracle.linux.namespace import NAMESPACES, setns
from coracle.runtime.steps.namespaces import become_root
from coracle.step import CHILD, JOIN, Step, World


class JoinProcess(Step):
    """Join the namespaces ``kinds`` of the process ``pid``, all with one call on its pidfd (Linux 5.8)."""

    __slots__ = ("kinds", "pid", "started")
    place = JOIN

    def __init__(self, pid: int, started: int, kinds: list[str], cause: str) -> None:
        super().__init__(cause)
        self.pid = pid
        self.started = started
        self.kinds = kinds

    def do(self, world: World) -> None:
        flags = 0
        for kind in self.kinds:
            flags |= NAMESPACES[kind][0]
        target = process.pidfd(self.pid, self.started)
        try:
            if flags:
                setns(target, flags)
        finally:
            os.close(target)
        if "user" in self.kinds:
            become_root()

    def prose(self) -> str:
        return f"join the {', '.join(self.kinds)} namespaces of process {self.pid}"

    def shell(self) -> list[str]:
        return []  # the options of the script's nsenter(1) line

    def hint(self, errno: int) -> str:
        return "the container has just ended" if errno == 3 else ""


class ExistingRoot(Step):
    """The root that the joined mount namespace has."""

    __slots__ = ()
    place = CHILD

    def do(self, world: World) -> None:
        world.fds["root"] = os.open("/", mount.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def prose(self) -> str:
        return "use the container's root directory"

    def shell(self) -> list[str]:
        return []
