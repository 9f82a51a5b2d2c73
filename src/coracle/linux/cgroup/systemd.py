"""The systemd cgroup driver: the container's group is a transient scope (systemd.scope(5), systemd.slice(5)).

``linux.cgroupsPath`` is ``slice:prefix:name`` then, as runc and crun have it, and stands for the unit
``prefix-name.scope`` in ``slice``.  The scope is started with Delegate=yes, so that what is below it is ours
(https://systemd.io/CGROUP_DELEGATION).
"""

from __future__ import annotations

import os
from time import sleep

from coracle.errors import SpecError, UnsupportedError
from coracle.linux.cgroup import creation, files, processes, systemd_bus
from coracle.linux.cgroup.cpu import shares_to_weight
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import UNIFIED
from coracle.linux.cgroup.memory import swap_only
from coracle.linux.shell import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from coracle.linux.cgroup.hierarchy import Hierarchies
    from coracle.linux.cgroup.systemd_bus import Property

_UNIT_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@")
_UNLIMITED = str((1 << 64) - 1)


def running() -> bool:
    """Whether systemd is init here (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def expand_slice(slice_name: str) -> str:
    """``a-b.slice`` as the path ``a.slice/a-b.slice``; ``-.slice`` is the root, an empty path.

    :raises SpecError: for a name that systemd would refuse (systemd.slice(5)).
    """
    stem, dot, rest = slice_name.rpartition(".slice")
    parts = stem.split("-")
    if not dot or rest or "/" in slice_name or not _UNIT_CHARACTERS.issuperset(slice_name):
        raise SpecError("linux.cgroupsPath", f"{slice_name!r} is not the name of a slice")
    if stem == "-":
        return ""
    if "" in parts:
        raise SpecError("linux.cgroupsPath", f"{slice_name!r} has an empty part between its dashes")
    return "/".join("-".join(parts[: depth + 1]) + ".slice" for depth in range(len(parts)))


def parse(path: str, identifier: str, user: bool) -> tuple[str, str]:
    """(slice, unit) of ``slice:prefix:name``; nothing at all means ours, and an empty slice the usual one.

    :raises SpecError: for anything else.
    """
    usual = "user.slice" if user else "system.slice"
    if not path or path == f"/coracle/{identifier}":
        path = f"{usual}:coracle:{identifier}"
    fields = path.split(":")
    if len(fields) != 3:
        raise SpecError("linux.cgroupsPath", f"{path!r} is not of the form slice:prefix:name that systemd needs")
    slice_name, prefix, name = fields
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    if not name or not _UNIT_CHARACTERS.issuperset(unit) or len(unit) > 255:
        raise SpecError("linux.cgroupsPath", f"{unit!r} is not the name of a unit")
    expand_slice(slice_name or usual)
    return slice_name or usual, unit


def properties(resources: Mapping[str, Any], unified: bool) -> list[Property]:
    """What systemd should know of ``linux.resources`` (systemd.resource-control(5)).

    Only values that it would otherwise reset when it applies its own view, as on daemon-reload; all
    the rest, and these again exactly, are written to the control files anyway.
    """
    result: list[Property] = []
    memory = resources.get("memory") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit:
        result.append(("MemoryMax" if unified else "MemoryLimit", "t", _unsigned(limit)))
    if unified and swap and (limit or swap == -1):
        result.append(("MemorySwapMax", "t", _unsigned(swap_only(limit, swap))))
    if unified and (memory.get("reservation") or 0) > 0:
        result.append(("MemoryLow", "t", _unsigned(memory["reservation"])))
    result += _cpu(resources.get("cpu") or {}, unified)
    tasks = (resources.get("pids") or {}).get("limit")
    if tasks is not None:
        result.append(("TasksMax", "t", _unsigned(tasks if tasks < 0 else max(tasks, 1))))
    return result


def _cpu(cpu: Mapping[str, Any], unified: bool) -> list[Property]:
    result: list[Property] = []
    if shares := cpu.get("shares"):
        weight = shares_to_weight(shares) if unified else shares
        result.append(("CPUWeight" if unified else "CPUShares", "t", str(weight)))
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if period:
        result.append(("CPUQuotaPeriodUSec", "t", str(period)))
    if quota > 0:
        # systemd keeps whole percents: round up, so that its limit is never below the one asked for.
        percent = -(-quota * 100 // (period or 100000))
        result.append(("CPUQuotaPerSecUSec", "t", str(percent * 10000)))
    elif quota or period:
        result.append(("CPUQuotaPerSecUSec", "t", _UNLIMITED))
    for key, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(key) and unified:
            mask = _mask(files.ranges(cpu[key]))
            result.append((name, "ay", str(len(mask)), *map(str, mask)))
    return result


def _unsigned(value: int) -> str:
    return str(value) if value >= 0 else _UNLIMITED


def _mask(members: list[int]) -> bytes:
    """A set of small numbers as bits, the lowest byte first."""
    return sum(1 << member for member in set(members)).to_bytes(max(members) // 8 + 1, "little")


def scope(
    path: str, identifier: str, hierarchies: Hierarchies, resources: Mapping[str, Any] | None = None
) -> ScopeGroup:
    """The group for ``linux.cgroupsPath`` with the systemd driver; not started yet.

    :raises UnsupportedError: without a running systemd, or for a user on version 1, whose hierarchies
        systemd does not delegate.
    """
    user = os.geteuid() != 0
    if not running():
        raise UnsupportedError(
            "no systemd to make control groups", "use the cgroupfs driver: leave --systemd-cgroup out"
        )
    if user and hierarchies.kind != "v2":
        raise UnsupportedError(
            "systemd delegates no cgroup v1 hierarchies to a user", "boot with cgroup v2, or be root"
        )
    slice_name, unit = parse(path, identifier, user)
    base = _manager_group() if user else ""
    group = ScopeGroup("/".join(("", base.strip("/"), expand_slice(slice_name), unit)), hierarchies)
    group.unit, group.slice, group.user = unit, slice_name, user
    group.properties = properties(resources or {}, hierarchies.kind == "v2")
    return group


def _manager_group() -> str:
    return systemd_bus.manager_property(True, "ControlGroup")


class ScopeGroup(Cgroup):
    """A group that systemd makes, as the transient scope (or slice) ``unit``.

    A scope cannot be without a process, while ours only comes when the group is ready.  So a place holder
    is put in, which leaves when it sees another process there.
    """

    __slots__ = ("properties", "slice", "unit", "user")

    unit: str
    slice: str
    user: bool
    properties: list[Property]

    def record(self) -> dict[str, Any]:
        return super().record() | {"unit": self.unit, "slice": self.slice, "user": self.user}

    @classmethod
    def from_record(cls, data: dict[str, Any]) -> ScopeGroup:
        group = super().from_record(data)
        assert isinstance(group, ScopeGroup)
        group.unit, group.slice, group.user = data["unit"], data["slice"], data["user"]
        group.properties = []
        return group

    def create(self) -> None:
        """Start the unit, then make what systemd leaves out: version 1 hierarchies that it does not manage.

        :raises ConflictError: if the unit exists already.
        """
        holder = _place_holder(self.directories.get(UNIFIED) or self.directories["name=systemd"])
        try:
            systemd_bus.start(self.user, self.unit, self._start_properties(holder))
        except BaseException:
            _dismiss(holder)
            raise
        self.made = None
        planned = self.prepare()
        self.made = []
        try:
            creation.make_directories(self, planned, self.made)
            creation.inherit_cpuset(self)
            self.enable()
        except BaseException:
            self._abandon()
            raise

    def _start_properties(self, holder: int) -> list[Property]:
        is_slice = self.unit.endswith(".slice")
        first: list[Property] = [
            ("Description", "s", f"container {self.unit}"),
            ("Wants", "as", "1", self.slice) if is_slice else ("Slice", "s", self.slice),
            ("DefaultDependencies", "b", "false"),
        ]
        if not is_slice:
            first += [
                ("Delegate", "b", "true"),
                ("PIDs", "au", "1", str(holder)),
                ("CollectMode", "s", "inactive-or-failed"),
            ]
        first += [(f"{name}Accounting", "b", "true") for name in ("CPU", "Memory", "Tasks")]
        return first + self.properties

    def update(self, resources: Mapping[str, Any]) -> None:
        """Tell systemd of changed limits, so that it does not put the old ones back.  :raises CoracleError:"""
        wanted = properties(resources, self.kind == "v2")
        if wanted:
            systemd_bus.set_properties(self.user, self.unit, wanted)

    def delete(self, timeout: float = 2.0) -> None:
        """Stop the unit and remove what :meth:`create` added to it."""
        systemd_bus.stop(self.user, self.unit, timeout)
        super().delete(timeout)

    def create_shell(self) -> list[str]:
        options = ["--user"] if self.user else []
        start = command("systemd-run", *options, "--scope", f"--unit={self.unit}", f"--slice={self.slice}")
        return [f"{start} -p Delegate=yes sleep 60 &", *super().create_shell()]

    def delete_shell(self) -> list[str]:
        stopping = command("systemctl", *(["--user"] if self.user else []), "stop", self.unit)
        return [stopping, *super().delete_shell()]


def _place_holder(directory: str) -> int:
    """A process that stays until another one is in ``directory``, for a minute at most.

    It is no child of ours, so that nobody has to wait for it.
    """
    receive, send = os.pipe()
    middle = os.fork()
    if middle == 0:
        holder = os.fork()
        if holder:
            os.write(send, str(holder).encode())
            os._exit(0)
        _hold(directory)
    os.close(send)
    try:
        os.waitpid(middle, 0)
        return int(os.read(receive, 32))
    finally:
        os.close(receive)


def _dismiss(holder: int) -> None:
    try:
        os.kill(holder, 9)
    except ProcessLookupError:
        pass  # it saw the processes of a unit of the same name, and left


def _hold(directory: str) -> None:
    try:
        os.setsid()
        os.closerange(0, 1024)
        me = os.getpid()
        for _ in range(3000):
            sleep(0.02)
            if any(pid != me for pid in processes.of(directory)):
                break
    finally:
        os._exit(0)
