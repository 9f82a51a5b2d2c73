"""Which option of the command line stands behind a value of config.json: for ``explain``, in the user's own words."""

from __future__ import annotations

from coracle.linux.cgroup.devices import STANDARD

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
}  # fmt: skip
# key of --security-opt → JSON path; mask= is a matter of single entries, and unmask= leaves nothing to explain
_SECURITY = {
    "seccomp": "linux.seccomp",
    "no-new-privileges": "process.noNewPrivileges",
    "apparmor": "process.apparmorProfile",
    "label": "process.selinuxLabel",
}
DEFAULT = "default"


def causes(options: RunOptions, config: dict[str, Any]) -> dict[str, str]:
    """JSON path → the words that asked for it, such as ``{"mounts[7]": "-v /src:/src:ro"}``.

    Defaults have no entry, or "default" where a path around them has one.  Made for the causes of a
    plan's steps; :func:`cause_of` looks one up.
    """
    found: dict[str, str] = {}
    for field, paths in _PATHS.items():
        for path in paths if field in options.given else ():
            words = " ".join(options.given[field])
            found[path] = f"{found[path]} {words}" if field in ("cap_add", "cap_drop") and path in found else words
    if options.uidmap and not options.gidmap:  # one map serves for both
        found["linux.gidMappings"] = found["linux.uidMappings"]
    elif options.gidmap and not options.uidmap:
        found["linux.uidMappings"] = found["linux.gidMappings"]
    if "umask" not in options.given:
        found["process.user.umask"] = DEFAULT
    found.update(_listed(options, config))
    found.update(_security(options, config))
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
    rules = (linux.get("resources") or {}).get("devices") or []
    if asked := [*options.given.get("device", ()), *options.given.get("device_cgroup_rule", ())]:
        for index in range(1 + len(STANDARD), len(rules)):
            yield f"linux.resources.devices[{index}]", " ".join(asked)
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


def _security(options: RunOptions, config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    masked = (config.get("linux") or {}).get("maskedPaths") or []
    places = {mount["destination"]: index for index, mount in enumerate(config.get("mounts") or [])}
    for (key, value), words in zip(options.security_opt, options.given.get("security_opt", ()), strict=False):
        if key in _SECURITY:
            yield _SECURITY[key], words
        elif key == "mask":
            yield from ((f"linux.maskedPaths[{masked.index(path)}]", words) for path in value if path in masked)
        elif key == "proc-opts" and "/proc" in places:
            yield f"mounts[{places['/proc']}]", words
        elif key == "writable-cgroups" and "/sys/fs/cgroup" in places:
            yield f"mounts[{places['/sys/fs/cgroup']}]", words


def cause_of(path: str, known: dict[str, str]) -> str:
    """The words behind ``path`` or the nearest object around it, or ``path`` itself if nobody asked for it."""
    place = path
    while place:
        if place in known:
            return known[place]
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    return path


_CONFIG = ("process", "linux", "mounts", "root", "hooks", "hostname", "domainname")  # keys of config.json


def reason(cause: str, known: dict[str, str], options: RunOptions) -> str:
    """A step's cause for a person: the options as they were given, or "default" for what nobody asked for.

    A cause is a JSON path, several with commas between, a bare option, or says already what it has to say.
    """
    if cause.startswith("--"):
        return " ".join(options.given.get(cause[2:].replace("-", "_"), [cause]))
    words: list[str] = []
    for path in cause.split(", "):
        asked = cause_of(path, known)
        key = path.partition(" ")[0].partition(".")[0].partition("[")[0]
        words.append(DEFAULT if asked == path and key in _CONFIG else asked)
    return ", ".join(dict.fromkeys(words))
