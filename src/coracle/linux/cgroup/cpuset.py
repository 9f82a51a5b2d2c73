"""The cpuset controller (cpuset(7); cgroup-v2.rst, Cpuset)."""

from __future__ import annotations

from coracle.linux.cgroup import files
from coracle.linux.cgroup.settings import Place, Setting, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_WHERE = "linux.resources.cpu"
_EACCES, _EBUSY, _EINVAL, _ENOSPC, _ERANGE = 13, 16, 22, 28, 34
_BAD = "write a list such as 0-3,7 of CPUs or memory nodes that are online and that the parent group has"
_HINTS = {
    _EINVAL: _BAD,
    _ERANGE: _BAD,
    _EACCES: "the parent group does not have all of these",
    _EBUSY: "a child group uses what this would take away",
    _ENOSPC: "a group with processes needs at least one CPU and one memory node",
}
_FLAGS = (
    ("cpu_exclusive", "cpuset.cpu_exclusive"),
    ("mem_hardwall", "cpuset.mem_hardwall"),
    ("mem_exclusive", "cpuset.mem_exclusive"),
    ("memory_migrate", "cpuset.memory_migrate"),
    ("memory_spread_page", "cpuset.memory_spread_page"),
    ("memory_spread_slab", "cpuset.memory_spread_slab"),
    ("memory_pressure", "cpuset.memory_pressure"),
    ("sched_load_balance", "cpuset.sched_load_balance"),
    ("sched_relax_domain_level", "cpuset.sched_relax_domain_level"),
)


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """cpuset.cpus and cpuset.mems, the same on both versions."""
    wanted = [(key, text(section, key, _WHERE)) for key in ("cpus", "mems")]
    given = [(key, value) for key, value in wanted if value]
    return [Setting(place.hierarchy, f"cpuset.{key}", value, f"{_WHERE}.{key}", hints=_HINTS) for key, value in given]


def statistics(directory: str, unified: bool) -> dict[str, Any]:
    """The CPUs and nodes the group may use; on version 1 also its flags."""
    suffix = ".effective" if unified else ""
    result: dict[str, Any] = {
        key: files.ranges(files.read_if_there(f"{directory}/cpuset.{key}{suffix}")) for key in ("cpus", "mems")
    }
    if not unified:
        result |= {key: files.number(files.read_if_there(f"{directory}/{file}")) for key, file in _FLAGS}
    return result
