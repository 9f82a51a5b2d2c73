"""Limits: ``linux.resources`` without devices (runtime-spec config-linux.md#control-groups).

Checks and defaults are dockerd's (moby daemon/daemon_unix.go).
"""

from __future__ import annotations

from coracle.engine.options import values
from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from coracle.engine.container_spec.host import Host
    from coracle.engine.options import RunOptions

MINIMUM_MEMORY = 6 << 20  # docker's: less does not even start a process
_PERIOD = 100_000  # microseconds, the kernel's default (sched-bwc.rst)
_SHARES = (2, 262_144)


def _memory(options: RunOptions, host: Host, warn: Callable[[str], None]) -> dict[str, Any]:
    limit, swap, reservation = options.memory, options.memory_swap, options.memory_reservation
    for wrong, message in (
        (0 < limit < MINIMUM_MEMORY, "--memory is below the minimum of 6m"),
        (0 < reservation < MINIMUM_MEMORY, "--memory-reservation is below the minimum of 6m"),
        (limit and 0 < swap < limit, "--memory-swap is memory plus swap and cannot be below --memory"),
        (swap > 0 and not limit, "--memory-swap needs --memory"),
        (limit and reservation > limit, "--memory-reservation is above --memory"),
    ):
        if wrong:
            raise UsageError(message)
    found: dict[str, Any] = {}
    if limit:
        found["limit"] = limit
        if not host.swap_limit():
            if swap > 0:
                warn("--memory-swap has no effect: this kernel does not account swap")
        elif swap >= 0:  # -1 is what a new cgroup has
            found["swap"] = swap or 2 * limit
    if reservation:
        found["reservation"] = reservation
    if options.memory_swappiness != -1:
        found["swappiness"] = options.memory_swappiness
    if options.oom_kill_disable:
        found["disableOOMKiller"] = True
        if not limit:
            warn("--oom-kill-disable without --memory: the container can exhaust this machine")
    return found


def _cpu(options: RunOptions, host: Host) -> dict[str, Any]:
    count = host.cpu_count() if options.cpus else 0
    period, quota = options.cpu_period, options.cpu_quota
    for wrong, message in (
        (
            options.cpus > count * 10**9,
            f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available",
        ),
        (period and not 1000 <= period <= 1_000_000, "--cpu-period is between 1000 and 1000000 microseconds"),
        (0 < quota < 1000, "--cpu-quota is at least 1000 microseconds"),
    ):
        if wrong:
            raise UsageError(message)
    found: dict[str, Any] = {}
    if options.cpu_shares:
        found["shares"] = min(max(options.cpu_shares, _SHARES[0]), _SHARES[1])
    if options.cpus:
        found |= {"period": _PERIOD, "quota": options.cpus * _PERIOD // 10**9}
    for key, value in (
        ("period", period),
        ("quota", quota),
        ("realtimePeriod", options.cpu_rt_period),
        ("realtimeRuntime", options.cpu_rt_runtime),
    ):
        if value:
            found[key] = value
    found |= _sets(options, host)
    return found


def _sets(options: RunOptions, host: Host) -> dict[str, str]:
    """cpuset limits; the kernel would answer a number that does not exist with a bare EINVAL."""
    found = {}
    for key, option, wanted, available in (
        ("cpus", "--cpuset-cpus", options.cpuset_cpus, host.online_cpus),
        ("mems", "--cpuset-mems", options.cpuset_mems, host.memory_nodes),
    ):
        if wanted:
            present = available()
            if not values.numbers_in(wanted) <= values.numbers_in(present):
                raise UsageError(f"{option} {wanted} is not available: this machine has {present}")
            found[key] = wanted
    return found


_THROTTLES = (
    ("throttleReadBpsDevice", "device_read_bps"),
    ("throttleWriteBpsDevice", "device_write_bps"),
    ("throttleReadIOPSDevice", "device_read_iops"),
    ("throttleWriteIOPSDevice", "device_write_iops"),
)


def _block_io(options: RunOptions, host: Host) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.blkio_weight:
        if options.blkio_weight < 10:
            raise UsageError("--blkio-weight is between 10 and 1000, or 0 for none")
        found["weight"] = options.blkio_weight
    if options.blkio_weight_device:
        found["weightDevice"] = _numbered("--blkio-weight-device", options.blkio_weight_device, "weight", host)
    for key, field in _THROTTLES:
        if entries := getattr(options, field):
            found[key] = _numbered(f"--{field.replace('_', '-')}", entries, "rate", host)
    return found


def _numbered(option: str, entries: Sequence[tuple[str, int]], key: str, host: Host) -> list[dict[str, int]]:
    result = []
    for path, number in entries:
        try:
            device = host.device(path)
        except OSError as error:
            raise UsageError(f"{option} {path}: {(error.strerror or str(error)).lower()}") from None
        if device is None or device.kind != "b":
            raise UsageError(f"{option} {path} is not a block device")
        result.append({"major": device.major, "minor": device.minor, key: number})
    return result


def resources(options: RunOptions, host: Host, warn: Callable[[str], None]) -> dict[str, Any]:
    """All limits but devices; objects without content are left out, so that no controller is touched for nothing.

    :raises UsageError: limits that contradict each other or this machine.
    """
    found = {
        "memory": _memory(options, host, warn),
        "cpu": _cpu(options, host),
        "blockIO": _block_io(options, host),
        "pids": {"limit": options.pids_limit} if options.pids_limit > 0 else {},
        "unified": dict(options.cgroup_conf),
    }
    return {key: value for key, value in found.items() if value}
