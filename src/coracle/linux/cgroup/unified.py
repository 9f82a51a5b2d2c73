"""``linux.resources.unified``: files of the version 2 group, by name (runtime-spec, config-linux.md, Unified)."""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.cgroup.settings import Place, Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Version 2 name of a controller → the name under which Cgroup.controllers() lists it.
_NAMES = {"io": "blkio"}
_CORE = ("cgroup", "irq")  # files of every group: cgroup.max.depth, irq.pressure, ...
_ENOENT = 2


def settings(section: Mapping[str, Any], _place: Place, controllers: Mapping[str, str]) -> list[Setting]:
    """Each entry in the order given.

    "Configuration unknown to the runtime MUST still be written", and an absent controller is an error: such an
    entry gets no hierarchy, which makes it one.
    """
    result = []
    for file, value in section.items():
        where = f"linux.resources.unified.{file}"
        if "/" in file or "." not in file.strip(".") or not file.isprintable():
            raise SpecError(where, "is not a file name of the form controller.parameter")
        if not isinstance(value, str):
            raise SpecError(where, f"{value!r} is not text")
        controller = file.partition(".")[0]
        served = controllers.get(_NAMES.get(controller, controller), "")
        here = served == "unified" or (controller in _CORE and "unified" in controllers.values())
        result += [
            Setting("unified" if here else "", file, line, where, hints=_hint(controller, served, file))
            for line in value.splitlines() or [""]
        ]
    return result


def _hint(controller: str, served: str, file: str) -> dict[int, str]:
    if served and served != "unified":
        return {_ENOENT: f"{controller} is on cgroup v1 on this machine: use its own section of linux.resources"}
    return {_ENOENT: f"cgroup v2 has no {controller} controller here, or not the file {file}"}
