"""The net_cls controller, version 1 only (cgroup-v1/net_cls.rst)."""

from __future__ import annotations

from coracle.linux.cgroup.settings import Place, Setting, integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """The class that the group's packets carry; 0 is none."""
    where = "linux.resources.network"
    value = integer(section, "classID", where, 0, (1 << 32) - 1)
    return [Setting(place.hierarchy, "net_cls.classid", str(value), f"{where}.classID")] if value else []
