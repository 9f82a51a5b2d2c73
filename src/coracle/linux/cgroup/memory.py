"""The memory controller (cgroup-v1/memory.rst; cgroup-v2.rst, Memory).

The spec speaks version 1: ``swap`` is memory and swap together.  Version 2 limits swap alone, so there
the memory limit is subtracted.  0 means unset for every limit here, as in runc and docker.
"""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.settings import FAIL, IGNORE, WARN, Place, Setting, integer, limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

_WHERE = "linux.resources.memory"
_EBUSY, _EINVAL, _ENOENT = 16, 22, 2
_LIMIT_HINTS = {
    _EBUSY: "the group uses more than that already and cannot be shrunk so far",
    _EINVAL: "the memory limit cannot be above the limit of memory and swap together: set memory.swap as well",
}
_SWAP_HINTS = {
    _EINVAL: "memory.swap counts memory and swap together and cannot be below the memory limit",
    _EBUSY: "the group uses more than that already and cannot be shrunk so far",
    _ENOENT: "swap accounting is off: boot with swapaccount=1, or leave memory.swap out",
}


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """The memory section of ``linux.resources``."""
    memory = integer(section, "limit", _WHERE) or 0
    swap = integer(section, "swap", _WHERE) or 0
    if memory == -1 and swap == 0:
        swap = -1  # no limit of memory would leave a former limit of both in force (so runc, too)
    if memory > 0 and 0 < swap < memory:
        raise SpecError(f"{_WHERE}.swap", f"{swap} is below memory.limit {memory}, which it includes")
    checked = section.get("checkBeforeUpdate") is True
    version = _unified if place.unified else _legacy
    return version(section, place, memory, swap, checked)


def _legacy(section: Mapping[str, Any], place: Place, memory: int, swap: int, checked: bool) -> list[Setting]:
    result: list[Setting] = []
    if section.get("useHierarchy") is True:
        # Always on since 5.11, where writing 1 does nothing; before, only possible while there are no children.
        result.append(Setting(place.hierarchy, "memory.use_hierarchy", "1", f"{_WHERE}.useHierarchy", IGNORE))
    limits = []
    if memory:
        usage = "memory.usage_in_bytes" if checked else ""
        limits.append(_number(place, "memory.limit_in_bytes", memory, "limit", hints=_LIMIT_HINTS, must_exceed=usage))
    if swap:
        usage = "memory.memsw.usage_in_bytes" if checked else ""
        name = "memory.memsw.limit_in_bytes"
        absent = IGNORE if swap == -1 else FAIL
        limits.append(_number(place, name, swap, "swap", absent, _SWAP_HINTS, usage))
    # The kernel keeps limit <= memory+swap at every moment.  A new group has no limits, so
    # memory goes first; above the present memory limit the new sum fits at once and must go first.
    present = place.current("memory.limit_in_bytes")
    if swap == -1 or (present is not None and swap >= present):
        limits.reverse()
    result += limits
    result += _optional(section, place, (("reservation", "memory.soft_limit_in_bytes", FAIL),))
    kernel = integer(section, "kernel", _WHERE) or 0
    if kernel:
        file = "memory.kmem.limit_in_bytes"
        result.append(KernelMemory(place.hierarchy, file, str(kernel), f"{_WHERE}.kernel", WARN))
    result += _optional(section, place, (("kernelTCP", "memory.kmem.tcp.limit_in_bytes", FAIL),))
    swappiness = integer(section, "swappiness", _WHERE, 0, 100)
    if swappiness is not None:
        result.append(_number(place, "memory.swappiness", swappiness, "swappiness", WARN))
    if section.get("disableOOMKiller") is True:
        result.append(_number(place, "memory.oom_control", 1, "disableOOMKiller"))
    return result


def _unified(section: Mapping[str, Any], place: Place, memory: int, swap: int, checked: bool) -> list[Setting]:
    result: list[Setting] = []
    if swap:
        only = swap_only(memory or place.current("memory.max") or 0, swap)
        # Without swap in the kernel the file is missing, and "no limit" and "no swap" hold anyway.
        absent = IGNORE if only <= 0 else FAIL
        result.append(_number(place, "memory.swap.max", only, "swap", absent, _SWAP_HINTS))
    if memory:
        usage = "memory.current" if checked else ""
        result.append(_number(place, "memory.max", memory, "limit", hints=_LIMIT_HINTS, must_exceed=usage))
    reservation = integer(section, "reservation", _WHERE)
    if reservation:
        # No soft limit (-1) means no protection here: memory.low protects what the soft limit let go first.
        result.append(_number(place, "memory.low", max(reservation, 0), "reservation"))
    for key, file, absent in _ONLY_V1:
        low, high = (0, 100) if key == "swappiness" else (-1, (1 << 63) - 1)
        value = integer(section, key, _WHERE, low, high)
        if value is not None and (value > 0 or key == "swappiness"):
            result.append(Setting("", file, str(value), f"{_WHERE}.{key}", absent, hints=_ONLY_V1_HINT))
    if section.get("disableOOMKiller") is True:
        result.append(Setting("", "memory.oom_control", "1", f"{_WHERE}.disableOOMKiller", WARN))
    return result


# Without a counterpart on version 2.  Kernel memory and TCP buffers are counted in memory.max there,
# but a separate limit somebody relies on cannot be had.
_ONLY_V1 = (
    ("kernel", "memory.kmem.limit_in_bytes", WARN),
    ("kernelTCP", "memory.kmem.tcp.limit_in_bytes", FAIL),
    ("swappiness", "memory.swappiness", WARN),
)
_ONLY_V1_HINT = {_ENOENT: "cgroup v2 has no such limit: leave it out, memory.limit counts these pages too"}


def swap_only(memory: int, swap: int) -> int:
    """The limit of swap alone from the limits of memory and of both together; -1 is none.

    :raises SpecError: if there is no memory limit to subtract.
    """
    if swap == -1 or memory == -1:
        return swap
    if memory == 0:
        raise SpecError(f"{_WHERE}.swap", "needs memory.limit, because cgroup v2 limits swap alone")
    if swap < memory:
        raise SpecError(f"{_WHERE}.swap", f"{swap} is below memory.limit {memory}, which it includes")
    return swap - memory


def _number(
    place: Place,
    file: str,
    value: int,
    key: str,
    absent: str = FAIL,
    hints: dict[int, str] | None = None,
    must_exceed: str = "",
) -> Setting:
    value_text = limit(value, place.unified)
    if must_exceed and value < 0:
        must_exceed = ""
    return Setting(place.hierarchy, file, value_text, f"{_WHERE}.{key}", absent, None, must_exceed, hints)


def _optional(section: Mapping[str, Any], place: Place, table: tuple[tuple[str, str, str], ...]) -> list[Setting]:
    values = [(key, file, absent, integer(section, key, _WHERE)) for key, file, absent in table]
    return [_number(place, file, value, key, absent) for key, file, absent, value in values if value]


class KernelMemory(Setting):
    """memory.kmem.limit_in_bytes, which newer kernels accept and ignore: read back, and say so."""

    __slots__ = ()

    def apply(self, directories: Mapping[str, str], warn: Callable[[str], None]) -> None:
        super().apply(directories, warn)
        text = files.read_if_there(self.path(directories)) if self.hierarchy in directories else ""
        if text and int(self.value) >= 0 and files.number(text) > int(self.value):
            warn(f"{self.cause} is not enforced: this kernel ignores {self.file}")


def _usage(directory: str, current: str, maximum: str, bound: str, failures: int) -> dict[str, int]:
    return {
        "limit": files.number(files.read_if_there(f"{directory}/{bound}")),
        "usage": files.number(files.read_if_there(f"{directory}/{current}")),
        "max": files.number(files.read_if_there(f"{directory}/{maximum}")),
        "failcnt": failures,
    }


def statistics(directory: str, unified: bool) -> dict[str, Any]:
    """Usage in bytes: memory, memory and swap together (``swap``), kernel, TCP buffers; ``raw`` is memory.stat."""
    raw = files.pairs(files.read_if_there(f"{directory}/memory.stat"))
    if unified:
        events = files.pairs(files.read_if_there(f"{directory}/memory.events"))
        swap_events = files.pairs(files.read_if_there(f"{directory}/memory.swap.events"))
        usage = _usage(directory, "memory.current", "memory.peak", "memory.max", events.get("max", 0))
        swap = _usage(directory, "memory.swap.current", "-", "memory.swap.max", swap_events.get("max", 0))
        # As on version 1, and in runc: the two together.
        swap["usage"] += usage["usage"]
        if swap["limit"] != files.UNLIMITED:
            swap["limit"] = min(swap["limit"] + usage["limit"], files.UNLIMITED)
        return {"cache": raw.get("file", 0), "usage": usage, "swap": swap, "kernel": {}, "kernelTCP": {}, "raw": raw}
    result: dict[str, Any] = {"cache": raw.get("cache", 0)}
    for key, prefix in (("usage", ""), ("swap", "memsw."), ("kernel", "kmem."), ("kernelTCP", "kmem.tcp.")):
        name = f"memory.{prefix}"
        failures = files.number(files.read_if_there(f"{directory}/{name}failcnt"))
        names = (f"{name}usage_in_bytes", f"{name}max_usage_in_bytes", f"{name}limit_in_bytes")
        result[key] = _usage(directory, *names, failures)
    result["raw"] = raw
    return result


def oom_kills(directory: str, unified: bool) -> int:
    """How many processes of this group the kernel has killed for memory."""
    name = "memory.events" if unified else "memory.oom_control"
    return files.pairs(files.read_if_there(f"{directory}/{name}")).get("oom_kill", 0)
