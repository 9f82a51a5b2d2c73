"""The pids controller (cgroup-v1/pids.rst; cgroup-v2.rst, PID)."""

from __future__ import annotations

from coracle.linux.cgroup import files
from coracle.linux.cgroup.settings import Place, Setting, required

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_WHERE = "linux.resources.pids"


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """pids.max: a negative limit is none.

    0 means 0 since runtime-spec 1.3; a group that holds the container's first process cannot tell 0
    from 1 and systemd refuses 0, so it becomes 1, as runc 1.4 does.
    """
    value = required(section, "limit", _WHERE, -1)
    return [Setting(place.hierarchy, "pids.max", "max" if value < 0 else str(max(value, 1)), f"{_WHERE}.limit")]


def statistics(directory: str, _unified: bool) -> dict[str, Any]:
    """``current`` and ``limit`` (0: none), and how often the limit struck."""
    events = files.pairs(files.read_if_there(f"{directory}/pids.events"))
    return {
        "current": files.number(files.read_if_there(f"{directory}/pids.current")),
        "limit": files.number(files.read_if_there(f"{directory}/pids.max"), 0),
        "failcnt": events.get("max", 0),
    }
