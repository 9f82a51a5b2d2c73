"""The cpu and cpuacct controllers (scheduler/sched-bwc.rst, sched-rt-group.rst; cgroup-v2.rst, CPU)."""

from __future__ import annotations

import os

from coracle.errors import SpecError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.settings import WARN, Place, Setting, integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_WHERE = "linux.resources.cpu"
_EINVAL, _ENOENT = 22, 2
_QUOTA_HINTS = {
    _EINVAL: "quota and period must be at least 1000 µs, the period at most 1000000, burst at most the quota, "
    "and the share of a CPU no larger than the parent group's"
}
_REALTIME_HINTS = {
    _EINVAL: "the parent groups must have real-time run time to give: write cpu.rt_runtime_us from the top down",
    _ENOENT: "the kernel needs CONFIG_RT_GROUP_SCHED, and cgroup v2 has no real-time limits at all",
}
_IDLE_HINTS = {_ENOENT: "cpu.idle came with Linux 5.15"}


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """The keys of the cpu section that the cpu controller serves (cpus and mems are cpuset's)."""
    quota = integer(section, "quota", _WHERE)
    burst = integer(section, "burst", _WHERE, 0)
    if quota is not None and burst and 0 < quota < burst:
        raise SpecError(f"{_WHERE}.burst", f"{burst} is above quota {quota}")
    result = _weight(section, place)
    result += _bandwidth(section, place, quota, burst)
    return result + _realtime(section, place)


def _weight(section: Mapping[str, Any], place: Place) -> list[Setting]:
    """Shares and idle.  The kernel refuses a weight while cpu.idle is 1, hence the order."""
    result = []
    shares = integer(section, "shares", _WHERE, 0)
    if shares:
        if place.unified:
            setting = Setting(place.hierarchy, "cpu.weight", str(shares_to_weight(shares)), f"{_WHERE}.shares", WARN)
        else:
            setting = Setting(place.hierarchy, "cpu.shares", str(shares), f"{_WHERE}.shares", WARN)
        result.append(setting)
    idle = integer(section, "idle", _WHERE, 0, 1)
    if idle is not None:
        switch = Setting(place.hierarchy, "cpu.idle", str(idle), f"{_WHERE}.idle", hints=_IDLE_HINTS)
        result.insert(len(result) if idle else 0, switch)
    return result


def shares_to_weight(shares: int) -> int:
    """cpu.weight (1-10000, default 100) for cpu.shares (2-262144, default 1024).

    A quadratic in log2(shares) through minimum, default and maximum; the older linear formula turned the default
    1024 into 39 and let ordinary processes outweigh containers (kubernetes issue 131216; runc
    1.3.2 by pull request 4785, crun 1.23 by issue 1721).
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    from math import ceil, log2

    log = log2(shares)
    exponent = (log * log + 125 * log) / 612 - 7 / 34
    return ceil(10**exponent)


def _bandwidth(section: Mapping[str, Any], place: Place, quota: int | None, burst: int | None) -> list[Setting]:
    period = integer(section, "period", _WHERE, 0)
    limits = (_unified_bandwidth if place.unified else _legacy_bandwidth)(place, quota or 0, period or 0)
    if burst is not None:
        file = "cpu.max.burst" if place.unified else "cpu.cfs_burst_us"
        setting = Setting(place.hierarchy, file, str(burst), f"{_WHERE}.burst", hints=_QUOTA_HINTS)
        # The kernel keeps burst <= quota: shrink the burst before the quota, grow it after.
        present = place.current(file)
        limits.insert(0 if present is not None and burst < present else len(limits), setting)
    return limits


def _legacy_bandwidth(place: Place, quota: int, period: int) -> list[Setting]:
    """Period, then quota; the kernel compares quota/period with the parent's at every write.

    When updating, a smaller quota goes first: then the share never exceeds both the old and the new.
    """
    result = []
    if period:
        cause = f"{_WHERE}.period"
        result.append(Setting(place.hierarchy, "cpu.cfs_period_us", str(period), cause, hints=_QUOTA_HINTS))
    if quota:
        cause = f"{_WHERE}.quota"
        setting = Setting(place.hierarchy, "cpu.cfs_quota_us", str(max(quota, -1)), cause, hints=_QUOTA_HINTS)
        present = place.current("cpu.cfs_quota_us")
        result.insert(0 if present is not None and 0 < quota < present else len(result), setting)
    return result


def _unified_bandwidth(place: Place, quota: int, period: int) -> list[Setting]:
    """cpu.max is ``QUOTA PERIOD``; QUOTA alone leaves the period as it is, PERIOD alone cannot be written."""
    if not quota and not period:
        return []
    if not quota:
        quota = place.current("cpu.max") or -1
    value = "max" if quota < 0 else str(quota)
    cause = f"{_WHERE}.quota" if quota > 0 else f"{_WHERE}.period"
    return [Setting(place.hierarchy, "cpu.max", f"{value} {period}" if period else value, cause, hints=_QUOTA_HINTS)]


def _realtime(section: Mapping[str, Any], place: Place) -> list[Setting]:
    hierarchy = "" if place.unified else place.hierarchy
    result = []
    for key, file in (("realtimePeriod", "cpu.rt_period_us"), ("realtimeRuntime", "cpu.rt_runtime_us")):
        value = integer(section, key, _WHERE)
        if value:
            result.append(Setting(hierarchy, file, str(value), f"{_WHERE}.{key}", hints=_REALTIME_HINTS))
    return result


def throttling(directory: str, unified: bool) -> dict[str, int]:
    """How often and how long (ns) the quota stopped the group."""
    values = files.pairs(files.read_if_there(f"{directory}/cpu.stat"))
    time = values.get("throttled_usec", 0) * 1000 if unified else values.get("throttled_time", 0)
    return {
        "periods": values.get("nr_periods", 0),
        "throttledPeriods": values.get("nr_throttled", 0),
        "throttledTime": time,
    }


def usage_unified(directory: str) -> dict[str, Any]:
    """CPU time in ns on version 2, where cpu.stat has it even without the cpu controller."""
    values = files.pairs(files.read_if_there(f"{directory}/cpu.stat"))
    return {
        "total": values.get("usage_usec", 0) * 1000,
        "kernel": values.get("system_usec", 0) * 1000,
        "user": values.get("user_usec", 0) * 1000,
    }


def usage_legacy(directory: str) -> dict[str, Any]:
    """CPU time in ns from cpuacct (cgroup-v1/cpuacct.rst); cpuacct.stat counts in ticks."""
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    split = files.pairs(files.read_if_there(f"{directory}/cpuacct.stat"))
    per_cpu = files.read_if_there(f"{directory}/cpuacct.usage_all").splitlines()[1:]
    columns = [[int(word) for word in line.split()] for line in per_cpu]
    return {
        "total": files.number(files.read_if_there(f"{directory}/cpuacct.usage")),
        "percpu": [int(word) for word in files.read_if_there(f"{directory}/cpuacct.usage_percpu").split()],
        "percpu_kernel": [column[2] for column in columns],
        "percpu_user": [column[1] for column in columns],
        "kernel": split.get("system", 0) * tick,
        "user": split.get("user", 0) * tick,
    }
