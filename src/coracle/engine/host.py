"""The embedded image ``host``: a copy-on-write clone of this very machine.

Its lower layer is the machine's own root.  Nothing is ever written there, and the engine's own
directories are masked inside, so that one container does not see the others' state.
"""

from __future__ import annotations

import os

from coracle.record import read
from coracle.runtime.steps.rootfs import HostRoot

HOST = "host"

# Not copied: made new in every container, or meaningless in one.
_LEFT_OUT = frozenset(("proc", "sys", "dev", "run", "tmp", "lost+found", "mnt", "media", "cdrom"))
_DISKS = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "erofs", "squashfs", "bcachefs", "jfs"))


def host_root(directory: str, point: str, rootless: bool) -> HostRoot:
    """The step that clones this machine for the container whose directory is ``directory``.

    Only looks; directories are made by :func:`prepare`.
    """
    if not rootless:
        sources = ["/", *disks_below_root()]
        parts = [(source, *_layer(directory, source)) for source in sources]
        return HostRoot(parts, "", point, [], "image host")
    scaffold = f"{directory}/scaffold"
    names = [entry.name for entry in os.scandir("/") if entry.is_dir(follow_symlinks=False)]
    sources = [f"/{name}" for name in sorted(names) if name not in _LEFT_OUT]
    parts = [(source, *_layer(directory, source)) for source in sources]
    return HostRoot(parts, scaffold, point, ["userxattr"], "image host")


def _layer(directory: str, source: str) -> tuple[str, str]:
    name = source.strip("/").replace("/", "-") or "root"
    return f"{directory}/upper/{name}", f"{directory}/work/{name}"


def prepare(root: HostRoot) -> None:
    """Make the upper and work directories, and the scaffold of a user's clone.

    The scaffold has the top level of this machine's root: empty directories, and its links.
    """
    for source, upper, work in root.parts:
        info = os.stat(source)
        os.makedirs(upper, info.st_mode & 0o7777, exist_ok=True)
        os.makedirs(work, 0o700, exist_ok=True)
        os.chmod(upper, info.st_mode & 0o7777)
    if not root.scaffold:
        return
    os.makedirs(root.scaffold, 0o755)
    for entry in os.scandir("/"):
        path = f"{root.scaffold}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), path)
        elif entry.is_dir():
            os.mkdir(path, 0o755)
    os.chmod(f"{root.scaffold}/tmp", 0o1777)


def disks_below_root() -> list[str]:
    """Mount points of disks below "/" that belong to the machine, such as a separate /usr or /home, outermost first."""
    found = []
    for line in read("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        fields = line.split()
        kind = fields[fields.index("-") + 1]
        point = fields[4]
        if kind in _DISKS and fields[3] == "/" and point != "/" and not point.startswith(("/mnt/", "/media/", "/run/")):
            found.append(point.replace("\\040", " "))
    return sorted(set(found))
