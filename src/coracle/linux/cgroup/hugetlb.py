"""The hugetlb controller (cgroup-v1/hugetlb.rst; cgroup-v2.rst, HugeTLB)."""

from __future__ import annotations

import os

from coracle.errors import SpecError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.settings import IGNORE, Place, Setting, required, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_WHERE = "linux.resources.hugepageLimits"
_HINTS = {2: "this machine has no pages of that size: see /sys/kernel/mm/hugepages"}


def settings(section: list[Mapping[str, Any]], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """Two writes for each size: usage, and reservation where the kernel (5.7) counts it, as the spec wants."""
    result = []
    ending = "max" if place.unified else "limit_in_bytes"
    for index, entry in enumerate(section):
        where = f"{_WHERE}[{index}]"
        size = _page_size(entry, where)
        value = str(required(entry, "limit", where))
        for infix, absent in (("rsvd.", IGNORE), ("", "fail")):
            file = f"hugetlb.{size}.{infix}{ending}"
            result.append(Setting(place.hierarchy, file, value, f"{where}.limit", absent, hints=_HINTS))
    return result


def _page_size(entry: Mapping[str, Any], where: str) -> str:
    """``64KB``, ``2MB``, ``1GB``: it becomes part of a file name."""
    size = text(entry, "pageSize", where) if isinstance(entry, dict) else ""
    if size[-2:] not in ("KB", "MB", "GB") or not size[:-2].isdecimal():
        raise SpecError(f"{where}.pageSize", f"{size!r} is not a size such as 2MB or 1GB")
    return size


def statistics(directory: str, unified: bool) -> dict[str, Any]:
    """Bytes of each page size: used now (``usage``), at most (``max``), and refusals; reservations if counted."""
    usage = ".current" if unified else ".usage_in_bytes"
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    counted = [name for name in names if name.startswith("hugetlb.") and name.endswith(usage)]
    sizes = [name[len("hugetlb.") : -len(usage)] for name in counted]
    result = {}
    for size in sorted(size for size in sizes if not size.endswith(".rsvd")):
        prefix = f"{directory}/hugetlb.{size}" + (".rsvd" if f"{size}.rsvd" in sizes else "")
        if unified:
            failures = files.pairs(files.read_if_there(f"{directory}/hugetlb.{size}.events")).get("max", 0)
            peak = 0  # version 2 keeps none
        else:
            failures = files.number(files.read_if_there(f"{prefix}.failcnt"))
            peak = files.number(files.read_if_there(f"{prefix}.max_usage_in_bytes"))
        result[size] = {"usage": files.number(files.read_if_there(prefix + usage)), "max": peak, "failcnt": failures}
    return result
