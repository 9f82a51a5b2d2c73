"""Namespaces, id maps, hidden paths and sysctls (runtime-spec config-linux.md)."""

from __future__ import annotations

from coracle.engine.options.modes import CONTAINER, PATH
from coracle.engine.options.security import ALL, Security
from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from coracle.engine.container_spec.host import Host
    from coracle.engine.options import RunOptions

    IdMap = Sequence[tuple[int, int, int]]

# Docker's lists of 28.x (moby daemon/pkg/oci/defaults.go); thermal_throttle directories come from the host.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# namespace type → field of the options; "mount" is always new.
_MODES = (("pid", "pid"), ("network", "network"), ("ipc", "ipc"), ("uts", "uts"), ("cgroup", "cgroupns"))


def modes(options: RunOptions) -> dict[str, str]:
    """Mode of each namespace that has one, by the spec's name of the type."""
    return {kind: getattr(options, field) for kind, field in _MODES}


def namespaces(options: RunOptions, joined: Mapping[str, str], user_namespace: bool) -> list[dict[str, str]]:
    """``linux.namespaces``: all eight, as far as the options ask for them.

    ``joined`` gives the path of the namespace for every ``container:NAME`` mode, by type.
    A cgroup namespace is private on cgroup v1 too, where docker's default is the host's.
    """
    result = [{"type": "mount"}]
    for kind, mode in modes(options).items():
        if mode.startswith(CONTAINER):
            if kind not in joined:
                raise UsageError(f"--{kind} {mode}: that container has no {kind} namespace to share")
            result.append({"type": kind, "path": joined[kind]})
        elif mode.startswith(PATH):
            result.append({"type": kind, "path": mode.removeprefix(PATH)})
        elif mode != "host":
            result.append({"type": kind})
    if user_namespace:
        result.append({"type": "user"})
    if options.time_offset:
        result.append({"type": "time"})
    return result


def mappings(id_map: IdMap) -> list[dict[str, int]]:
    """An id map in the spec's form."""
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in id_map]


def id_maps(options: RunOptions, own: tuple[IdMap, IdMap] | None) -> tuple[IdMap, IdMap] | None:
    """Maps of (uids, gids) of the container's user namespace, or None if it shares the caller's.

    ``own`` are the maps that a rootless store uses by default, None for root's store.  There,
    --uidmap counts in ids of ``own``, as in podman: 0 is the caller, 1 the first subordinate id.
    One given map serves for both.

    :raises UsageError: a private user namespace without maps, or ids that overlap or are not ours.
    """
    uids, gids = options.uidmap or options.gidmap, options.gidmap or options.uidmap
    if not uids:
        if options.userns == "private" and own is None:
            raise UsageError("--userns private needs --uidmap and --gidmap", "such as --uidmap 0:100000:65536")
        return own
    for option, id_map in (("--uidmap", uids), ("--gidmap", gids)):
        for side in (0, 1):
            ranges = sorted((entry[side], entry[side] + entry[2]) for entry in id_map)
            if any(ranges[index][1] > ranges[index + 1][0] for index in range(len(ranges) - 1)):
                raise UsageError(f"{option}: ranges overlap")
    if own is None:
        return uids, gids
    return _through(uids, own[0], "--uidmap"), _through(gids, own[1], "--gidmap")


def _through(id_map: IdMap, own: IdMap, option: str) -> IdMap:
    """``id_map`` with its outer ids, which count in ``own``'s inner ids, replaced by ids of the host."""
    result: list[tuple[int, int, int]] = []
    for inside, middle, size in id_map:
        while size:
            entry = next((one for one in own if one[0] <= middle < one[0] + one[2]), None)
            if entry is None:
                raise UsageError(
                    f"{option}: id {middle} is not among your subordinate ids", "see /etc/subuid and /etc/subgid"
                )
            step = min(size, entry[0] + entry[2] - middle)
            result.append((inside, entry[1] + middle - entry[0], step))
            inside, middle, size = inside + step, middle + step, size - step
    return result


def hidden_paths(security: Security, privileged: bool, host: Host) -> tuple[list[str], list[str]]:
    """``linux.maskedPaths`` and ``linux.readonlyPaths``.  --privileged hides nothing but what mask= asks for."""
    if privileged or ALL in security.unmask:
        return list(dict.fromkeys(security.mask)), []
    masked = [*MASKED, *host.throttle_directories()]
    if security.unmask:
        masked = [path for path in masked if not _matches(path, security.unmask)]
    read_only = [path for path in READ_ONLY if not security.unmask or not _matches(path, security.unmask)]
    return list(dict.fromkeys([*masked, *security.mask])), read_only


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(_glob(path.split("/"), pattern.split("/")) for pattern in patterns)


def _glob(parts: list[str], pattern: list[str]) -> bool:
    """Whether each part matches; ``*`` stands for any text within one part (podman uses Go's filepath.Match)."""
    return len(parts) == len(pattern) and all(map(_glob_part, parts, pattern))


def _glob_part(text: str, pattern: str) -> bool:
    head, star, tail = pattern.partition("*")
    if not star:
        return text == pattern
    if not text.startswith(head):
        return False
    rest = text[len(head) :]
    return any(_glob_part(rest[index:], tail) for index in range(len(rest) + 1))


def sysctls(options: RunOptions, user_namespace: bool, host: Host) -> dict[str, str]:
    """``linux.sysctl``: docker's two defaults in a network namespace of its own, then --sysctl.

    They let every user ping and bind low ports.  In a user namespace the ping range would name
    groups that are not mapped (icmp(7)).
    """
    found = {}
    if options.network == "none" and host.exists("/proc/sys/net/ipv4"):
        if not user_namespace:
            found["net.ipv4.ping_group_range"] = "0 2147483647"
        found["net.ipv4.ip_unprivileged_port_start"] = "0"
    return found | options.sysctl


def time_offsets(options: RunOptions) -> dict[str, dict[str, int]]:
    """``linux.timeOffsets``; the kernel wants nanoseconds from 0 to 999999999 (time_namespaces(7))."""
    return {
        clock: {"secs": offset // 10**9, "nanosecs": offset % 10**9} for clock, offset in options.time_offset.items()
    }
