"""Steps that hide or freeze parts of /proc and /sys (runtime-spec config-linux.md, maskedPaths and readonlyPaths)."""

from __future__ import annotations

import os
from stat import S_ISCHR, S_ISDIR

from coracle.errors import KernelError
from coracle.linux import mount
from coracle.linux.shell import in_root
from coracle.runtime.steps.mounts import change_tree
from coracle.step import CHILD, ENTER, Step, World

_MASK = """\
mask() { # cover a directory with nothing, a file with the null device
  if [ -d "$1" ]; then
    mount -t tmpfs -o ro,nr_blocks=1,nr_inodes=1 tmpfs "$1"
  elif [ -e "$1" ]; then
    mount --bind --make-private -o ro /dev/null "$1"
  fi
}"""
_FREEZE = f"""\
freeze() {{ # show a file or directory read-only, with all that is mounted below
  if [ -e "$1" ]; then
    mount --rbind "$1" "$1"
    mount --make-rprivate "$1"
    {change_tree('"$1"', ["ro"])}
  fi
}}"""


class OpenNull(Step):
    """Open the host's /dev/null for masking, and make sure that it is what it says (CVE-2025-31133)."""

    __slots__ = ()
    place = CHILD

    def do(self, world: World) -> None:
        fd = os.open("/dev/null", mount.O_PATH | os.O_CLOEXEC)
        info = os.fstat(fd)
        if not S_ISCHR(info.st_mode) or info.st_rdev != os.makedev(1, 3):
            raise KernelError(19, "mask paths", "/dev/null", "the host's /dev/null is not the null device")
        world.fds["null"] = fd

    def prose(self) -> str:
        return "open the host's /dev/null, to mask files with it"

    def shell(self) -> list[str]:
        return []


class Mask(Step):
    """Cover ``path``: a file with /dev/null, a directory with an empty read-only tmpfs.  Absent is fine."""

    __slots__ = ("path",)
    place = ENTER

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def do(self, world: World) -> None:
        try:
            target = mount.openat2(world.fds["root"], self.path, mount.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            if S_ISDIR(os.fstat(target).st_mode):
                cover = empty_directory()
            else:
                cover = mount.clone_tree(world.fds["null"], "")
                # It is the host's own node: read-only, or chmod(2) in the container would change it there.
                mount.set_attributes(cover, set_=mount.ATTR_RDONLY)
            mount.attach(cover, target)
            mount.set_attributes(cover, propagation=mount.MS_PRIVATE)
            os.close(cover)
        finally:
            os.close(target)

    def prose(self) -> str:
        return f"mask {self.path}"

    def shell(self) -> list[str]:
        return [f"mask {in_root(self.path)}"]

    def shell_words(self) -> dict[str, list[str]]:
        return {"function": [_MASK]}


def empty_directory() -> int:
    """A detached, empty, read-only tmpfs that holds nothing but its root."""
    options: list[tuple[str, str | int | None]] = [("source", "tmpfs"), ("nr_blocks", "1"), ("ro", None)]
    try:
        return mount.filesystem("tmpfs", [*options, ("nr_inodes", "1")], mount.ATTR_RDONLY)
    except OSError as error:
        if error.errno != 28:  # ENOSPC: some 5.4 kernels count two inodes for the root
            raise
    return mount.filesystem("tmpfs", [*options, ("nr_inodes", "2")], mount.ATTR_RDONLY)


class ReadonlyPath(Step):
    """Show ``path`` read-only, with everything mounted below it.  Absent is fine."""

    __slots__ = ("path",)
    place = ENTER

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def do(self, world: World) -> None:
        try:
            target = mount.openat2(world.fds["root"], self.path, mount.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            copy = mount.clone_tree(target, "", recursive=True)
            mount.set_attributes(copy, set_=mount.ATTR_RDONLY, propagation=mount.MS_PRIVATE, recursive=True)
            mount.attach(copy, target)
            os.close(copy)
        finally:
            os.close(target)

    def prose(self) -> str:
        return f"make {self.path} read-only"

    def shell(self) -> list[str]:
        return [f"freeze {in_root(self.path)}"]

    def shell_words(self) -> dict[str, list[str]]:
        return {"function": [_FREEZE]}
