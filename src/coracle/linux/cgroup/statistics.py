"""What a group used, in the shape of the data of ``runc events --stats`` (runc, types/events.go).

Times are nanoseconds, sizes bytes, "no limit" is 2**64 - 1 (0 for pids).  ``psi`` holds the pressure of version
2 groups, which in hybrid mode exists beside the version 1 controllers.
"""

from __future__ import annotations

from coracle.linux.cgroup import files
from coracle.linux.cgroup.hierarchy import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# key of the result → (controller and module, file of the pressure or "")
_SECTIONS = (
    ("cpuset", "cpuset", ""),
    ("memory", "memory", "memory.pressure"),
    ("pids", "pids", ""),
    ("blkio", "blkio", "io.pressure"),
    ("hugetlb", "hugetlb", ""),
)


def collect(controllers: Mapping[str, str], directories: Mapping[str, str]) -> dict[str, Any]:
    """All sections, empty where no controller counts."""
    result: dict[str, Any] = {"cpu": _cpu(controllers, directories)}
    for key, controller, pressure_file in _SECTIONS:
        section: dict[str, Any] = {}
        hierarchy = controllers.get(controller)
        if hierarchy:
            module = __import__(f"coracle.linux.cgroup.{controller}", None, None, ["statistics"])
            section = module.statistics(directories[hierarchy], hierarchy == UNIFIED)
        result[key] = section | _pressure(directories, pressure_file)
    return result


def _cpu(controllers: Mapping[str, str], directories: Mapping[str, str]) -> dict[str, Any]:
    from coracle.linux.cgroup import cpu

    section: dict[str, Any] = {}
    usage, quota = controllers.get("cpuacct"), controllers.get("cpu")
    if usage:
        section["usage"] = (cpu.usage_unified if usage == UNIFIED else cpu.usage_legacy)(directories[usage])
    if quota:
        section["throttling"] = cpu.throttling(directories[quota], quota == UNIFIED)
    return section | _pressure(directories, "cpu.pressure")


def _pressure(directories: Mapping[str, str], file: str) -> dict[str, Any]:
    """``{"psi": {"some": ..., "full": ...}}`` of one resource (accounting/psi.rst); nothing if none is kept."""
    if not file or UNIFIED not in directories:
        return {}
    lines = files.nested(files.read_if_there(f"{directories[UNIFIED]}/{file}"))
    psi = {kind: {key: _count(value) for key, value in values.items()} for kind, values in lines}
    return {"psi": psi} if psi else {}


def _count(word: str) -> float | int:
    return float(word) if "." in word else int(word)
