"""Steps that make, fill and mount control groups (cgroups(7), cgroup-v2.rst)."""

from __future__ import annotations

import os

from coracle.linux import mount
from coracle.linux.shell import command, in_root, quote
from coracle.runtime.steps.mounts import Mount
from coracle.step import HOST, JOIN, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.linux.cgroup.group import Cgroup
    from coracle.linux.cgroup.settings import Setting
    from coracle.runtime.mount_options import MountOptions

    Hierarchy = tuple[str, str, list[tuple[str, str | None]], str]


class CgroupMount(Mount):
    """/sys/fs/cgroup as the container sees it: its own group is the root (cgroup_namespaces(7)).

    ``hierarchies`` are (directory name, file system type, options, host directory or "").  On v2
    there is one, mounted at the destination itself (its name is empty); on v1 a tmpfs holds one
    mount each.  With a host directory the group is bound, for want of a cgroup namespace.
    """

    __slots__ = ("hierarchies",)

    def __init__(
        self,
        hierarchies: list[Hierarchy],
        destination: str,
        options: MountOptions,
        cause: str,
    ) -> None:
        super().__init__(destination, options, cause)
        self.hierarchies = hierarchies

    def _single(self) -> bool:
        return len(self.hierarchies) == 1 and self.hierarchies[0][0] == ""

    def _open_hierarchy(self, entry: Hierarchy) -> int:
        _, kind, options, bound = entry
        attributes = self.options.attr_set
        if bound:
            tree = mount.clone_tree(mount.AT_FDCWD, bound)
            mount.set_attributes(tree, set_=attributes)
            return tree
        return mount.filesystem(kind, [("source", kind), *options], attributes)

    def open(self, world: World) -> int:
        if self._single():
            return self._open_hierarchy(self.hierarchies[0])
        return mount.filesystem(
            "tmpfs", [("source", "tmpfs"), ("mode", "755")], self.options.attr_set & ~mount.ATTR_RDONLY
        )

    def settle(self, tree: int) -> None:
        if not self._single():
            for entry in self.hierarchies:
                os.mkdir(entry[0], 0o755, dir_fd=tree)
                inner = self._open_hierarchy(entry)
                target = mount.openat2(tree, entry[0], mount.O_PATH)
                try:
                    mount.attach(inner, target)
                    mount.set_attributes(inner, propagation=mount.MS_PRIVATE)  # a bound group's is the host's
                finally:
                    os.close(inner)
                    os.close(target)
            if self.options.attr_set & mount.ATTR_RDONLY:
                mount.set_attributes(tree, set_=mount.ATTR_RDONLY)
        mount.set_attributes(tree, propagation=mount.MS_PRIVATE)
        super().settle(tree)

    def prose(self) -> str:
        kind = "cgroup2" if self._single() else f"{len(self.hierarchies)} cgroup hierarchies"
        return f"mount {kind} on {self.destination}"

    def shell(self) -> list[str]:
        point = in_root(self.destination)
        words = ",".join(self.options.attribute_words())
        if self._single():
            return [f"mkdir -p {point}", f"{self._mount_line(self.hierarchies[0], words)} {point}"]
        tmpfs = ",".join(
            word for word in ("mode=755", words.replace("ro,", "").removesuffix(",ro")) if word and word != "ro"
        )
        lines = [f"mkdir -p {point}", f"mount -t tmpfs -o {tmpfs} tmpfs {point}"]
        for entry in self.hierarchies:
            lines += [f"mkdir {point}/{entry[0]}", f"{self._mount_line(entry, words)} {point}/{entry[0]}"]
        if self.options.attr_set & mount.ATTR_RDONLY:
            lines.append(f"mount -o remount,bind,ro {point}")
        return lines

    def _mount_line(self, entry: Hierarchy, words: str) -> str:
        _, kind, options, bound = entry
        if bound:
            return command("mount", "--bind", "--make-private", *(["-o", words] if words else []), bound)
        data = [key if value is None else f"{key}={value}" for key, value in options]
        joined = ",".join(word for word in (words, *data) if word)
        return command("mount", "-t", kind, *(["-o", joined] if joined else []), kind)


class CreateCgroup(Step):
    """Make the container's group in every hierarchy."""

    __slots__ = ("group",)
    place = HOST

    def __init__(self, group: Cgroup, cause: str) -> None:
        super().__init__(cause)
        self.group = group

    def do(self, world: World) -> None:
        self.group.create()
        open_group(self.group, world)

    def undo(self, world: World) -> None:
        self.group.delete()

    def fields(self) -> dict[str, object]:
        return {"directories": self.group.directories}

    def prose(self) -> str:
        return f"make the control group {self.group.path} in {len(set(self.group.directories.values()))} hierarchies"

    def shell(self) -> list[str]:
        return self.group.create_shell()

    def undo_shell(self) -> list[str]:
        return self.group.delete_shell()


def open_group(group: Cgroup, world: World) -> None:
    """Open what a child needs to enter ``group``, with the engine's rights.

    clone3(2) into a group that was once killed by cgroup.kill kills the child (seen on Linux 6.18:
    the fork compares the group's kill_seq with the parent's), so a group that was there before is joined by file.
    """
    directory = group.unified_directory()
    fresh = directory in (group.made or ())
    if directory and fresh:
        world.fds["cgroup"] = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for number, path in enumerate(group.join_files(unified=not fresh)):
        world.fds[f"procs {number}"] = os.open(path, os.O_WRONLY | os.O_CLOEXEC)


class OpenCgroup(Step):
    """Open the group of a running container, to join it."""

    __slots__ = ("group",)
    place = HOST

    def __init__(self, group: Cgroup, cause: str) -> None:
        super().__init__(cause)
        self.group = group

    def do(self, world: World) -> None:
        open_group(self.group, world)

    def fields(self) -> dict[str, object]:
        return {"directories": self.group.directories}

    def prose(self) -> str:
        return f"open the control group {self.group.path}"

    def shell(self) -> list[str]:
        return []


class SetCgroup(Step):
    """One limit or setting of the group."""

    __slots__ = ("group", "setting")
    place = HOST

    def __init__(self, group: Cgroup, setting: Setting) -> None:
        super().__init__(setting.cause)
        self.group = group
        self.setting = setting

    def do(self, world: World) -> None:
        self.setting.apply(self.group.directories, world.warn)

    def fields(self) -> dict[str, object]:
        return {"file": self.setting.path(self.group.directories), "value": self.setting.value}

    def prose(self) -> str:
        return f"set {self.setting.path(self.group.directories)} to {self.setting.value}"

    def shell(self) -> list[str]:
        return self.setting.shell(self.group.directories)

    def hint(self, errno: int) -> str:
        return self.setting.hint(errno)


class JoinCgroup(Step):
    """Move into the group: each v1 hierarchy by its cgroup.procs; the unified one the clone has joined."""

    __slots__ = ("group",)
    place = JOIN

    def __init__(self, group: Cgroup, cause: str) -> None:
        super().__init__(cause)
        self.group = group

    def do(self, world: World) -> None:
        for key, fd in world.fds.items():
            if key.startswith("procs "):
                os.write(fd, b"0")

    def fields(self) -> dict[str, object]:
        return {"files": self.group.join_files()}

    def prose(self) -> str:
        return "move into the control group"

    def shell(self) -> list[str]:
        files = list(self.group.join_files())
        if directory := self.group.unified_directory():
            files.append(f"{directory}/cgroup.procs")
        return [f"echo 0 > {quote(path)}" for path in files]
