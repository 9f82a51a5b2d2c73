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

    __slots__ = ("hierarchies", "links")

    def __init__(
        self,
        hierarchies: list[Hierarchy],
        links: dict[str, str],
        destination: str,
        options: MountOptions,
        cause: str,
    ) -> None:
        super().__init__(destination, options, cause)
        self.hierarchies = hierarchies
        self.links = links

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
        return mount.filesystem("tmpfs", [("source", "tmpfs"), ("mode", "755")], self.options.attr_set & ~mount.ATTR_RDONLY)

    def settle(self, tree: int) -> None:
        if not self._single():
            for entry in self.hierarchies:
                os.mkdir(entry[0], 0o755, dir_fd=tree)
                inner = self._open_hierarchy(entry)
                target = mount.openat2(tree, entry[0], mount.O_PATH)
                try:
                    mount.attach(inner, target)
                finally:
                    os.close(inner)
                    os.close(target)
            for name, target_name in self.links.items():
                os.symlink(target_name, name, dir_fd=tree)
            if self.options.attr_set & mount.ATTR_RDONLY:
                mount.set_attributes(tree, set_=mount.ATTR_RDONLY)
        super().settle(tree)

    def prose(self) -> str:
        kind = "cgroup2" if self._single() else f"{len(self.hierarchies)} cgroup hierarchies"
        return f"mount {kind} on {self.destination}"

    def shell(self) -> list[str]:
        point = in_root(self.destination)
        words = ",".join(self.options.attribute_words())
        if self._single():
            return [f"mkdir -p {point}", f"{self._mount_line(self.hierarchies[0], words)} {point}"]
        tmpfs = ",".join(word for word in ("mode=755", words.replace("ro,", "").removesuffix(",ro")) if word and word != "ro")
        lines = [f"mkdir -p {point}", f"mount -t tmpfs -o {tmpfs} tmpfs {point}"]
        for entry in self.hierarchies:
            lines += [f"mkdir {point}/{entry[0]}", f"{self._mount_line(entry, words)} {point}/{entry[0]}"]
        lines += [f"ln -s {quote(target)} {point}/{quote(name)}" for name, target in self.links.items()]
        if self.options.attr_set & mount.ATTR_RDONLY:
            lines.append(f"mount -o remount,bind,ro {point}")
        return lines

    def _mount_line(self, entry: Hierarchy, words: str) -> str:
        _, kind, options, bound = entry
        if bound:
            return command("mount", "--bind", bound)
        data = [key if value is None else f"{key}={value}" for key, value in options]
        joined = ",".join(word for word in (words, *data) if word)
        return command("mount", "-t", kind, *(["-o", joined] if joined else []), kind)
