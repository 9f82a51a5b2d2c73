"""Steps that write kernel settings below /proc, through a procfs of the runtime's own (CVE-2025-52881)."""

from __future__ import annotations

import os

from coracle.errors import KernelError
from coracle.linux import mount
from coracle.linux.shell import quote
from coracle.linux.terminal import filesystem_magic
from coracle.step import CHILD, ENTER, Step, World

PROC_SUPER_MAGIC = 0x9FA0
_RESOLVE = mount.RESOLVE_BENEATH | mount.RESOLVE_NO_XDEV | mount.RESOLVE_NO_MAGICLINKS | mount.RESOLVE_NO_SYMLINKS


class PrivateProc(Step):
    """A procfs that no other process can see, mount over or redirect; every /proc write goes through it."""

    __slots__ = ()
    place = CHILD

    def do(self, world: World) -> None:
        try:
            world.fds["proc"] = mount.filesystem("proc", [("source", "proc")])
        except PermissionError:  # in a user namespace with the host's pid namespace, or a hidden /proc outside
            fd = os.open("/proc", mount.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if filesystem_magic(fd) != PROC_SUPER_MAGIC:
                raise KernelError(19, "open /proc", "", "the host's /proc is not a procfs") from None
            world.fds["proc"] = fd

    def prose(self) -> str:
        return "open a private /proc for the engine's own writes"

    def shell(self) -> list[str]:
        return []


def write_proc(world: World, path: str, value: str) -> None:
    """Write ``value`` to ``path`` below the private /proc, following no link and crossing no mount."""
    fd = mount.openat2(world.fds["proc"], path, os.O_WRONLY, _RESOLVE)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


class Sysctl(Step):
    """Set a kernel parameter that belongs to one of the container's namespaces (sysctl(8))."""

    __slots__ = ("name", "value")
    place = ENTER

    def __init__(self, name: str, value: str, cause: str) -> None:
        super().__init__(cause)
        self.name = name
        self.value = value

    def path(self) -> str:
        """Path below /proc: dots separate, and a slash in the name stands for a dot (sysctl.d(5))."""
        if "/" in self.name and ("." not in self.name or self.name.index("/") < self.name.index(".")):
            return "sys/" + self.name
        return "sys/" + self.name.replace("/", "\0").replace(".", "/").replace("\0", ".")

    def do(self, world: World) -> None:
        write_proc(world, self.path(), self.value)

    def prose(self) -> str:
        return f"set kernel parameter {self.name} to {self.value}"

    def shell(self) -> list[str]:
        return [f"echo {quote(self.value)} > /proc/{self.path()}"]

    def hint(self, errno: int) -> str:
        return {2: "this kernel has no such parameter", 22: "the kernel refuses this value"}.get(errno, "")


class OomScore(Step):
    """How willing the kernel is to kill this process when memory runs out (proc(5), oom_score_adj)."""

    __slots__ = ("score",)
    place = CHILD

    def __init__(self, score: int, cause: str) -> None:
        super().__init__(cause)
        self.score = score

    def do(self, world: World) -> None:
        try:
            write_proc(world, f"{self._own_pid(world)}/oom_score_adj", str(self.score))
        except PermissionError:
            world.warn(f"oom_score_adj {self.score} is below this process's own and needs CAP_SYS_RESOURCE: not set")

    @staticmethod
    def _own_pid(world: World) -> str:
        return os.readlink("self", dir_fd=world.fds["proc"])

    def prose(self) -> str:
        return f"set the out-of-memory score to {self.score}"

    def shell(self) -> list[str]:
        return [f"echo {self.score} > /proc/self/oom_score_adj || :"]
