"""Which cgroup hierarchies are mounted, where, and which group of each is ours.

A machine has version 1 hierarchies (one or several controllers each), the one version 2
hierarchy ("unified"), or both: "hybrid", where the controllers usually stay on version 1 and
version 2 serves for cgroup.kill, cgroup.freeze, pressure and CLONE_INTO_CGROUP.

A hierarchy is named here by its controller (``memory``, ``cpu``, ``name=systemd``; several names
may mean one mount) or by ``unified``.
"""

from __future__ import annotations

import os

from coracle.linux.cgroup import files

UNIFIED = "unified"
_USUAL = "/sys/fs/cgroup"


class Hierarchies:
    """The cgroup mounts of this mount namespace.

    ``kind``    "v1", "hybrid", "v2" or "none"
    ``mounts``  hierarchy name → mount point, with ``unified`` if version 2 is mounted
    ``own``     hierarchy name → our own group, as a path below that mount point ("/" at its top)
    """

    __slots__ = ("kind", "mounts", "own")

    def __init__(self, mounts: dict[str, str], own: dict[str, str]) -> None:
        self.mounts = mounts
        self.own = own
        controllers = any("=" not in name for name in mounts if name != UNIFIED)
        if UNIFIED in mounts:
            self.kind = "hybrid" if controllers else "v2"
        else:
            self.kind = "v1" if mounts else "none"

    def __repr__(self) -> str:
        return f"Hierarchies({self.kind}, {self.mounts!r}, own={self.own!r})"


def detect(mountinfo: str | None = None, membership: str | None = None) -> Hierarchies:
    """Find the hierarchies from /proc/self/mountinfo and /proc/self/cgroup, or from given texts of them.

    A hierarchy that exists but is not mounted in this mount namespace is left out: we could
    not reach it.  :raises OSError: if /proc is not there.
    """
    if membership is None:
        membership = files.read("/proc/self/cgroup")
    ours = _memberships(membership)
    if mountinfo is None:
        # The usual place spares the mount table, which grows with every container.
        if list(ours) == [UNIFIED] and _serves(_USUAL, ours[UNIFIED]):
            return Hierarchies({UNIFIED: _USUAL}, ours)
        mountinfo = files.read("/proc/self/mountinfo")
    mounts: dict[str, str] = {}
    own: dict[str, str] = {}
    for root, point, names in _mounts(mountinfo, ours):
        for name in names:
            if name not in mounts or _better(point, mounts[name]):
                mounts[name] = point
                own[name] = _below(root, ours[name])
    return Hierarchies(mounts, own)


def _serves(point: str, path: str) -> bool:
    """Whether ``point`` is a version 2 mount in which our group ``path`` can be seen."""
    return ".." not in path and os.path.exists(f"{point}/cgroup.procs") and os.path.exists(point + path)


def _memberships(text: str) -> dict[str, str]:
    """Hierarchy name → our group, from ``ID:CONTROLLERS:PATH`` lines (cgroups(7), /proc/PID/cgroup)."""
    ours = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            ours[name or UNIFIED] = path
    return ours


def _mounts(text: str, ours: dict[str, str]) -> list[tuple[str, str, list[str]]]:
    """(root, mount point, hierarchy names) of each cgroup mount (proc_pid_mountinfo(5))."""
    found = []
    for line in text.splitlines():
        if " - cgroup" not in line:
            continue
        front, _, back = line.partition(" - ")
        kind, _, options = back.split(" ", 2)
        root, point = front.split(" ", 5)[3:5]
        if kind == "cgroup2":
            names = [UNIFIED] if UNIFIED in ours else []
        elif kind == "cgroup":
            names = [name for name in options.split(",") if name in ours and name != UNIFIED]
        else:
            continue
        found.append((_unescape(root), _unescape(point), names))
    return found


def _unescape(field: str) -> str:
    """Undo the octal escapes of space, tab, newline and backslash in the mount table."""
    if "\\" not in field:
        return field
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def _better(point: str, known: str) -> bool:
    """Whether a further mount of one hierarchy beats the known one: at the usual place, or on top of it."""
    return point == known or (point.startswith(_USUAL) and not known.startswith(_USUAL))


def _below(root: str, path: str) -> str:
    """Our group ``path`` as seen from a mount whose top is the group ``root``.

    A container without a cgroup namespace has its own group bind mounted: root "/docker/ID",
    path "/docker/ID".  A path outside the mount ("/../x", or below another root) cannot be reached
    through it; then the mount's top is the best we can call ours.
    """
    if ".." in path.split("/"):
        return "/"
    if root == "/":
        return path
    if path == root or path.startswith(root + "/"):
        return path[len(root) :] or "/"
    return "/"
