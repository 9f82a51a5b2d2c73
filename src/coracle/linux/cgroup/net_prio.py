"""The net_prio controller, version 1 only (cgroup-v1/net_prio.rst)."""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.cgroup.settings import Place, Setting, required, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_HINTS = dict.fromkeys((19, 22), "the interface must exist in the network namespace of the caller")


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """One write to the interface map for each priority."""
    result = []
    for index, entry in enumerate(section.get("priorities") or ()):
        where = f"linux.resources.network.priorities[{index}]"
        name = text(entry, "name", where) if isinstance(entry, dict) else ""
        if not name or " " in name or "/" in name:
            raise SpecError(f"{where}.name", f"{name!r} is not an interface name")
        value = f"{name} {required(entry, 'priority', where)}"
        result.append(Setting(place.hierarchy, "net_prio.ifpriomap", value, where, hints=_HINTS))
    return result
