"""Which option of the command line stands behind a value of config.json: for ``explain``, in the user's own words."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from coracle.engine.options import RunOptions

# field of the options → JSON paths that it decides, alone
_PATHS: dict[str, tuple[str, ...]] = {
    "memory": ("linux.resources.memory.limit", "linux.resources.memory.swap"),
    "memory_swap": ("linux.resources.memory.swap",),
    "memory_reservation": ("linux.resources.memory.reservation",),
    "memory_swappiness": ("linux.resources.memory.swappiness",),
    "oom_kill_disable": ("linux.resources.memory.disableOOMKiller",),
    "cpus": ("linux.resources.cpu.quota", "linux.resources.cpu.period"),
    "cpu_quota": ("linux.resources.cpu.quota",),
    "cpu_period": ("linux.resources.cpu.period",),
    "cpu_shares": ("linux.resources.cpu.shares",),
    "cpu_rt_period": ("linux.resources.cpu.realtimePeriod",),
    "cpu_rt_runtime": ("linux.resources.cpu.realtimeRuntime",),
    "cpuset_cpus": ("linux.resources.cpu.cpus",),
    "cpuset_mems": ("linux.resources.cpu.mems",),
    "pids_limit": ("linux.resources.pids",),
    "blkio_weight": ("linux.resources.blockIO.weight",),
    "blkio_weight_device": ("linux.resources.blockIO.weightDevice",),
    "device_read_bps": ("linux.resources.blockIO.throttleReadBpsDevice",),
    "device_write_bps": ("linux.resources.blockIO.throttleWriteBpsDevice",),
    "device_read_iops": ("linux.resources.blockIO.throttleReadIOPSDevice",),
    "device_write_iops": ("linux.resources.blockIO.throttleWriteIOPSDevice",),
    "cgroup_conf": ("linux.resources.unified",),
    "cgroup_parent": ("linux.cgroupsPath",),
    "privileged": ("process.capabilities", "linux.devices", "linux.resources.devices"),
    "cap_add": ("process.capabilities",),
    "cap_drop": ("process.capabilities",),
    "user": ("process.user",),
    "group_add": ("process.user.additionalGids",),
    "umask": ("process.user.umask",),
    "workdir": ("process.cwd",),
    "tty": ("process.terminal", "process.consoleSize"),
    "entrypoint": ("process.args",),
    "init": ("process.args",),
    "env": ("process.env",),
    "oom_score_adj": ("process.oomScoreAdj",),
    "hostname": ("hostname",),
    "domainname": ("domainname",),
    "read_only": ("root.readonly",),
    "pid": ("linux.namespaces pid",),
    "network": ("linux.namespaces network",),
    "ipc": ("linux.namespaces ipc",),
    "uts": ("linux.namespaces uts",),
    "cgroupns": ("linux.namespaces cgroup",),
    "uidmap": ("linux.uidMappings",),
    "gidmap": ("linux.gidMappings",),
    "time_offset": ("linux.timeOffsets", "linux.namespaces time"),
    "personality": ("linux.personality",),
    "security_opt": ("linux.seccomp", "linux.maskedPaths", "linux.readonlyPaths", "process.noNewPrivileges",
                     "process.apparmorProfile", "process.selinuxLabel"),
}  # fmt: skip


def causes(options: RunOptions, config: dict[str, Any]) -> dict[str, str]:
    """JSON path → the words that asked for it, such as ``{"mounts[7]": "-v /src:/src:ro"}``; defaults have no entry.

    Made for the causes of a plan's steps; :func:`cause_of` looks one up.
    """
    found: dict[str, str] = {}
    for field, paths in _PATHS.items():
        for path in paths if field in options.given else ():
            words = " ".join(options.given[field])
            found[path] = f"{found[path]} {words}" if field in ("cap_add", "cap_drop") and path in found else words
    found.update(_listed(options, config))
    return found


def _listed(options: RunOptions, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Entries of lists, each with the one use of the option that it comes from."""
    linux = config.get("linux") or {}
    places = {mount["destination"]: index for index, mount in enumerate(config.get("mounts") or [])}
    for mounts, field in ((options.volume, "volume"), (options.mount, "mount"), (options.tmpfs, "tmpfs")):
        for mount, words in zip(mounts, options.given.get(field, ()), strict=False):
            if mount.target in places:
                yield f"mounts[{places[mount.target]}]", words
    if "/dev/shm" in places and "shm_size" in options.given and "/dev/shm" not in {m.target for m in options.volume}:
        yield f"mounts[{places['/dev/shm']}]", options.given["shm_size"][-1]
    nodes = {device["path"]: index for index, device in enumerate(linux.get("devices") or [])}
    for (_, target, _), words in zip(options.device, options.given.get("device", ()), strict=False):
        if target in nodes:
            yield f"linux.devices[{nodes[target]}]", words
        elif target in places:
            yield f"mounts[{places[target]}]", words
    kinds = {limit["type"]: index for index, limit in enumerate(config["process"].get("rlimits") or [])}
    for (name, _, _), words in zip(options.ulimit, options.given.get("ulimit", ()), strict=False):
        yield f"process.rlimits[{kinds[f'RLIMIT_{name.upper()}']}]", words
    for name, words in zip(options.sysctl, options.given.get("sysctl", ()), strict=False):
        yield f"linux.sysctl.{name}", words


def cause_of(path: str, known: dict[str, str]) -> str:
    """The words behind ``path`` or the nearest object around it, or ``path`` itself if nobody asked for it."""
    place = path
    while place:
        if place in known:
            return known[place]
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    return path
