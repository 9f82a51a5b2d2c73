"""Which namespaces are made, which are joined, and who does it (runtime-spec config-linux.md, "Namespaces")."""

from __future__ import annotations

import os

from coracle.linux.namespace import NAMESPACES, IdMap
from coracle.runtime.steps import namespaces as steps
from coracle.runtime.steps.rootfs import Preopen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from coracle.runtime.plan.request import Request
    from coracle.step import Step

# Joined in this order: the user namespace decides about the rights over the others.
_JOIN_ORDER = ("user", "time", "pid", "ipc", "uts", "network", "cgroup", "mount")
# Made by a step of their own, after the cgroup was joined or the offsets were written.
_LATER = ("cgroup", "time")


class Spaces:
    """The namespaces of one container: kinds to make, and kind → path to join."""

    __slots__ = ("joined", "maps", "new")

    def __init__(self, new: list[str], joined: dict[str, str], maps: tuple[list[IdMap], list[IdMap]]) -> None:
        self.new = new
        self.joined = joined
        self.maps = maps

    @classmethod
    def of(cls, request: Request) -> Spaces:
        """From the spec.  A path that is this process's own namespace already is neither made nor joined."""
        entries = request.linux("namespaces", [])
        new = [entry["type"] for entry in entries if not entry.get("path")]
        joined = {entry["type"]: entry["path"] for entry in entries if entry.get("path")}
        maps = tuple([IdMap.from_spec(m) for m in request.linux(key, [])] for key in ("uidMappings", "gidMappings"))
        return cls(new, {kind: path for kind, path in joined.items() if not _is_own(kind, path)}, maps)  # type: ignore[arg-type]

    @property
    def own_user(self) -> bool:
        """Whether the container has a user namespace other than the engine's."""
        return "user" in self.new or "user" in self.joined

    @property
    def clone_flags(self) -> int:
        """Flags for the clone that makes the container's first process."""
        flags = 0
        for kind in self.new:
            if kind not in _LATER and not (kind == "user" and self.join_first):
                flags |= NAMESPACES[kind][0]
        return flags

    @property
    def join_first(self) -> bool:
        """Whether a process in between is needed, which joins before it clones.

        setns(2) into a pid namespace moves children only; a joined user namespace must own the
        new ones; an own time namespace is entered by fork before Linux 6.3.
        """
        if "pid" in self.joined or "user" in self.joined or ("user" in self.new and self.joined):
            return True
        return "time" in self.new and steps.time_namespace_needs_fork()


def _is_own(kind: str, path: str) -> bool:
    try:
        return os.path.samefile(path, f"/proc/self/ns/{NAMESPACES[kind][1]}")
    except OSError:
        return False


def join_steps(request: Request, spaces: Spaces) -> list[Step]:
    """Steps up to the moment when the child is in all of its namespaces but the cgroup one."""
    cause = "linux.namespaces"
    plan: list[Step] = []
    if spaces.new:
        plan.append(steps.NewNamespaces([kind for kind in spaces.new if kind not in _LATER], cause))
    for kind in sorted(spaces.joined, key=_JOIN_ORDER.index):
        path = spaces.joined[kind]
        if "user" in spaces.joined:  # opened by the engine: the joined namespace's root may not reach the path
            plan.insert(0, Preopen(f"join {kind}", path, _opener(path), cause))
        plan.append(steps.JoinNamespace(kind, path, f"{cause} {kind}"))
    if "time" in spaces.new:
        offsets = request.linux("timeOffsets", {})
        shifts = {clock: (o.get("secs", 0), o.get("nanosecs", 0)) for clock, o in offsets.items()}
        plan.append(steps.TimeOffsets(shifts, "linux.timeOffsets"))
    if "user" in spaces.new:
        if spaces.join_first:
            plan.append(steps.NewUserNamespace(cause))
        plan.append(steps.WriteIdMaps(*spaces.maps, "linux.uidMappings, linux.gidMappings"))
    for name, device in request.linux("netDevices", {}).items():
        plan.append(steps.MoveInterface(name, device.get("name", ""), f"linux.netDevices.{name}"))
    return plan


def _opener(path: str) -> Callable[[], int]:
    return lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def child_steps(request: Request, spaces: Spaces) -> list[Step]:
    """Steps that furnish the namespaces, in the child."""
    plan: list[Step] = []
    if "user" in spaces.new:
        plan.append(steps.BecomeRoot("linux.namespaces user"))
    if "cgroup" in spaces.new:
        plan.append(steps.NewCgroupNamespace("linux.namespaces cgroup"))
    if "network" in spaces.new:
        plan.append(steps.LoopbackUp("linux.namespaces network"))
    for name, device in request.linux("netDevices", {}).items():
        plan.append(steps.InterfaceUp(device.get("name") or name, f"linux.netDevices.{name}"))
    return plan
