"""Control groups and what is limited in them (runtime-spec config-linux.md, "Control groups")."""

from __future__ import annotations

import os

from coracle.errors import UnsupportedError
from coracle.record import read
from coracle.runtime import group as groups
from coracle.runtime.steps.cgroup import CreateCgroup, JoinCgroup, SetCgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.runtime.plan.request import Request
    from coracle.step import Step


def steps(request: Request) -> list[Step]:
    """Steps that make the group and set its limits, from ``linux.resources`` and ``linux.intelRdt``."""
    group = request.cgroup
    plan: list[Step] = _rdt(request) if request.linux("intelRdt") else []
    if group is None:
        return plan
    plan += [CreateCgroup(group, "linux.cgroupsPath")]
    plan += [SetCgroup(group, setting) for setting in groups.limits(group, request.linux("resources", {}))]
    plan.append(JoinCgroup(group, "linux.cgroupsPath"))
    return plan


def _rdt(request: Request) -> list[Step]:
    """A resctrl group of its own, named by ``closID`` or after the container (config-linux.md, "IntelRdt")."""
    from coracle.runtime.steps.rdt import JoinRdt, RdtGroup

    wanted = request.linux("intelRdt")
    path = f"{resctrl_mount()}/{wanted.get('closID') or request.identifier}"
    lines = [
        *(wanted.get("schemata") or []),
        *(wanted[key] for key in ("l3CacheSchema", "memBwSchema") if wanted.get(key)),
    ]
    monitoring = f"{path}/mon_groups/{os.path.basename(path)}" if wanted.get("enableMonitoring") else ""
    cause = "linux.intelRdt"
    groups_of = [path, *([monitoring] if monitoring else [])]
    return [RdtGroup(path, lines, monitoring, cause), JoinRdt(groups_of, cause)]


def resctrl_mount(mountinfo: str = "/proc/self/mountinfo") -> str:
    """Where resctrl is mounted.  :raises UnsupportedError: if it is not."""
    for line in read(mountinfo).decode("utf-8", "surrogateescape").splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "resctrl":
            return fields[4]
    raise UnsupportedError(
        "linux.intelRdt cannot be had: resctrl is not mounted",
        "mount -t resctrl resctrl /sys/fs/resctrl, if the CPU has it",
    )
