"""Steps for cache and memory bandwidth allocation (config-linux.md, "IntelRdt"; filesystems/resctrl.rst)."""

from __future__ import annotations

import os

from coracle.linux.shell import command, quote
from coracle.step import HOST, PARENT, Step, World


class RdtGroup(Step):
    """A resctrl group with its schemata; one that was there before is used and never removed."""

    __slots__ = ("made", "monitoring", "path", "schemata")
    place = HOST

    def __init__(self, path: str, schemata: list[str], monitoring: str, cause: str) -> None:
        """``monitoring`` is the directory of a monitoring group, or ""."""
        super().__init__(cause)
        self.path = path
        self.schemata = schemata
        self.monitoring = monitoring
        self.made: list[str] = []

    def do(self, world: World) -> None:
        self._make(self.path)
        if self.schemata:
            fd = os.open(f"{self.path}/schemata", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, "".join(f"{line}\n" for line in self.schemata).encode())
            finally:
                os.close(fd)
        if self.monitoring:
            self._make(self.monitoring)

    def _make(self, path: str) -> None:
        try:
            os.mkdir(path, 0o755)
        except FileExistsError:
            return
        self.made.append(path)

    def undo(self, world: World) -> None:
        for path in reversed(self.made):
            os.rmdir(path)

    def fields(self) -> dict[str, object]:
        return {"path": self.path, "schemata": self.schemata, "monitoring": self.monitoring}

    def prose(self) -> str:
        what = f" with {'; '.join(self.schemata)}" if self.schemata else ""
        return f"make the cache allocation group {self.path}{what}"

    def shell(self) -> list[str]:
        lines = [command("mkdir", "-p", self.path)]
        if self.schemata:
            text = "\n".join(self.schemata)
            lines.append(f"printf '%s\\n' {quote(text)} > {quote(self.path)}/schemata")
        return lines + ([command("mkdir", "-p", self.monitoring)] if self.monitoring else [])

    def hint(self, errno: int) -> str:
        hints = {
            2: "resctrl has no such group or file",
            22: "the schemata are wrong: see info/last_cmd_status in the resctrl file system",
            28: "the processor has no class of service left",
        }
        return hints.get(errno, "")


class JoinRdt(Step):
    """Put the container's first process into its resctrl groups; its children follow."""

    __slots__ = ("paths",)
    place = PARENT

    def __init__(self, paths: list[str], cause: str) -> None:
        super().__init__(cause)
        self.paths = paths

    def do(self, world: World) -> None:
        for path in self.paths:
            fd = os.open(f"{path}/tasks", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, str(world.pids["child"]).encode())
            finally:
                os.close(fd)

    def prose(self) -> str:
        return f"move into {' and '.join(self.paths)}"

    def shell(self) -> list[str]:
        return [f'echo "$CHILD" > {quote(path)}/tasks' for path in self.paths]
