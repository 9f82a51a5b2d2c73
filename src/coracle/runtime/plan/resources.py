"""Control groups and what is limited in them (runtime-spec config-linux.md, "Control groups")."""

from __future__ import annotations

from coracle.runtime import group as groups
from coracle.runtime.steps.cgroup import CreateCgroup, JoinCgroup, SetCgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.runtime.plan.request import Request
    from coracle.step import Step


def steps(request: Request) -> list[Step]:
    """Steps that make the group and set its limits, from ``linux.resources``."""
    group = request.cgroup
    if group is None:
        return []
    plan: list[Step] = [CreateCgroup(group, "linux.cgroupsPath")]
    plan += [SetCgroup(group, setting) for setting in groups.limits(group, request.linux("resources", {}))]
    plan.append(JoinCgroup(group, "linux.cgroupsPath"))
    return plan
