"""What the properties of config.json demand of each other; the table has checked each alone.

Every function gets a document whose shapes are right and raises a SpecError with a JSON path.
"""

from __future__ import annotations

import os

from coracle.errors import SpecError
from coracle.record import dumps
from coracle.runtime.spec.shape import Fault
from coracle.runtime.spec.sysctl import sysctl_namespace, sysctl_path
from coracle.runtime.spec.table import CONSOLE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]
    Namespaces = dict[str, str]  # type → path, or "" for a new one

_MAX_EXTENTS = 340  # user_namespaces(7): lines of a uid_map
_DEADLINE_MINIMUM = 1024  # sched(7), "SCHED_DEADLINE": nanoseconds


def namespaces_of(linux: Record) -> Namespaces:
    """The namespaces by type.  :raises SpecError: for a type listed twice."""
    found: Namespaces = {}
    for index, namespace in enumerate(linux.get("namespaces", ())):
        kind = namespace["type"]
        if kind in found:
            raise SpecError(f"linux.namespaces[{index}].type", f"duplicate namespace type {dumps(kind)}")
        found[kind] = namespace.get("path", "")
    return found


def check_process(process: Record, where: str = "process") -> None:
    """Arguments, terminal size, limits and scheduling of one process."""
    if not process["args"][0]:
        raise SpecError(f"{where}.args[0]", "must not be empty")
    if process.get("terminal") and process.get("consoleSize") is not None:  # without a terminal it is ignored
        try:
            CONSOLE_SIZE.check(process["consoleSize"])
        except Fault as fault:
            raise fault.located(f"{where}.consoleSize") from None
    _check_rlimits(process.get("rlimits", ()), f"{where}.rlimits")
    if "scheduler" in process:
        _check_scheduler(process["scheduler"], f"{where}.scheduler")


def _check_rlimits(rlimits: list[Record], where: str) -> None:
    seen = set()
    for index, rlimit in enumerate(rlimits):
        kind = rlimit["type"]
        if kind in seen:
            raise SpecError(f"{where}[{index}].type", f"duplicate resource limit {kind}")
        seen.add(kind)
        if rlimit["soft"] > rlimit["hard"]:  # setrlimit(2) EINVAL
            raise SpecError(f"{where}[{index}].soft", f"must not be above the hard limit {rlimit['hard']}")


def _check_scheduler(scheduler: Record, where: str) -> None:
    """sched_setattr(2) and sched(7): which parameters a policy takes."""
    policy = scheduler["policy"]
    priority = scheduler.get("priority", 0)
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= priority <= 99:
            raise SpecError(f"{where}.priority", f"must be between 1 and 99 for {policy}, is {priority}")
    elif priority:
        raise SpecError(f"{where}.priority", f"must be 0 for {policy}, is {priority}")
    times = [scheduler.get(name, 0) for name in ("runtime", "deadline", "period")]
    if policy != "SCHED_DEADLINE":
        for name, value in zip(("runtime", "deadline", "period"), times, strict=True):
            if value:
                raise SpecError(f"{where}.{name}", f"is only for SCHED_DEADLINE, not for {policy}")
        return
    runtime, deadline, period = times
    if runtime < _DEADLINE_MINIMUM:
        raise SpecError(f"{where}.runtime", f"must be at least {_DEADLINE_MINIMUM} nanoseconds, is {runtime}")
    if not runtime <= deadline < 1 << 63:
        raise SpecError(f"{where}.deadline", f"must not be below the runtime {runtime}, is {deadline}")
    if not (deadline <= period < 1 << 63 or period == 0):  # 0: the same as the deadline
        raise SpecError(f"{where}.period", f"must not be below the deadline {deadline}, is {period}")


def check_resources(resources: Record, where: str = "linux.resources") -> None:
    """Resource limits that the table cannot judge one by one."""
    cpu = resources.get("cpu", {})
    if cpu.get("quota", 0) > 0 and cpu.get("burst", 0) > cpu["quota"]:
        raise SpecError(f"{where}.cpu.burst", f"must not be above the quota {cpu['quota']}, is {cpu['burst']}")
    for index, device in enumerate(resources.get("blockIO", {}).get("weightDevice", ())):
        if "weight" not in device and "leafWeight" not in device:
            raise SpecError(f"{where}.blockIO.weightDevice[{index}]", "must have weight or leafWeight")
    for name, limits in resources.get("rdma", {}).items():
        if not limits:
            raise SpecError(f"{where}.rdma[{dumps(name)}]", "must have hcaHandles or hcaObjects")


def check_names(spec: Record, namespaces: Namespaces) -> None:
    """hostname and domainname of the machine itself are not a container's to change."""
    for name in ("hostname", "domainname"):
        if spec.get(name) and "uts" not in namespaces:
            raise SpecError(name, "needs a uts namespace in linux.namespaces")


def check_namespaces(linux: Record, namespaces: Namespaces) -> None:
    """What only makes sense in a namespace of the container's own."""
    needs = (
        ("uidMappings", "user"), ("gidMappings", "user"), ("timeOffsets", "time"), ("netDevices", "network"),
        ("maskedPaths", "mount"), ("readonlyPaths", "mount"),
    )  # fmt: skip
    for name, kind in needs:
        if linux.get(name) and kind not in namespaces:
            raise SpecError(f"linux.{name}", f"needs a {kind} namespace in linux.namespaces")
    if linux.get("timeOffsets") and namespaces["time"]:  # time_namespaces(7): fixed once a process is in it
        raise SpecError("linux.timeOffsets", "cannot be set for a time namespace that is joined by its path")
    for name in ("uidMappings", "gidMappings"):
        _check_mappings(linux.get(name, ()), f"linux.{name}")


def _check_mappings(mappings: list[Record], where: str) -> None:
    """user_namespaces(7), "Defining user and group ID mappings": ranges that end and do not overlap."""
    if len(mappings) > _MAX_EXTENTS:
        raise SpecError(where, f"must not have more than {_MAX_EXTENTS} entries, has {len(mappings)}")
    for side in ("containerID", "hostID"):
        end = 0
        for first, size, index in sorted((mapping[side], mapping["size"], i) for i, mapping in enumerate(mappings)):
            if first < end:
                raise SpecError(f"{where}[{index}].{side}", f"{first} is in another entry's range already")
            end = first + size
            if end > (1 << 32) - 1:
                raise SpecError(f"{where}[{index}].size", f"reaches beyond the last id, {(1 << 32) - 2}")


def check_mounts(mounts: list[Record], namespaces: Namespaces) -> None:
    """What an option needs to be there as well (config.md, "Mounts" and "Linux mount options")."""
    for index, mount in enumerate(mounts):
        where = f"mounts[{index}]"
        mapped = "uidMappings" in mount
        if mapped != ("gidMappings" in mount):
            given, missing = ("uidMappings", "gidMappings") if mapped else ("gidMappings", "uidMappings")
            raise SpecError(f"{where}.{missing}", f"is required with {given}")
        for name in ("uidMappings", "gidMappings"):
            _check_mappings(mount.get(name, ()), f"{where}.{name}")
        options = mount.get("options", ())
        if ("bind" in options or "rbind" in options) and not mount.get("source"):
            raise SpecError(f"{where}.source", "is required for a bind mount")
        if ("idmap" in options or "ridmap" in options) and not mapped and "user" not in namespaces:
            raise SpecError(f"{where}.options", "idmap needs uidMappings and gidMappings, or a user namespace")
        if "tmpcopyup" in options and mount.get("type") != "tmpfs":
            raise SpecError(f"{where}.options", "tmpcopyup needs the type tmpfs")


def check_devices(devices: list[Record]) -> None:
    """All devices but FIFOs have a number (config-linux.md, "Devices")."""
    for index, device in enumerate(devices):
        for name in ("major", "minor"):
            if device["type"] != "p" and name not in device:
                raise SpecError(f"linux.devices[{index}].{name}", f"is required for type {dumps(device['type'])}")


def check_seccomp(seccomp: Record) -> None:
    """Return values only where the action carries one, and a listener for notifications."""
    where = "linux.seccomp"
    rules = [(where, "default", seccomp["defaultAction"], seccomp.get("defaultErrnoRet"))]
    for index, rule in enumerate(seccomp.get("syscalls", ())):
        rules.append((f"{where}.syscalls[{index}]", "", rule["action"], rule.get("errnoRet")))
        if len(rule.get("args", ())) > 6:
            raise SpecError(f"{where}.syscalls[{index}].args", "must not have more than 6 entries")
    for place, default, action, errno in rules:
        if errno is not None and action not in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
            raise SpecError(f"{place}.{'defaultErrnoRet' if default else 'errnoRet'}", f"is not for {action}")
        if action == "SCMP_ACT_NOTIFY" and not seccomp.get("listenerPath"):
            name = "defaultAction" if default else "action"
            raise SpecError(f"{place}.{name}", "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath")
    if seccomp.get("listenerMetadata") and not seccomp.get("listenerPath"):
        raise SpecError(f"{where}.listenerMetadata", "needs linux.seccomp.listenerPath")


def check_sysctls(spec: Record, namespaces: Namespaces) -> None:
    """Each belongs to a namespace that the container does not share with us (as runc and crun demand)."""
    for name in spec["linux"].get("sysctl", ()):
        where = f"linux.sysctl[{dumps(name)}]"
        try:
            path = sysctl_path(name)
        except ValueError:
            raise SpecError(where, "is not the name of a sysctl") from None
        kind = sysctl_namespace(path)
        if not kind:
            raise SpecError(where, "belongs to the whole machine, not to a namespace of the container")
        if kind not in namespaces:
            raise SpecError(where, f"needs a {kind} namespace in linux.namespaces")
        if namespaces[kind] and _is_ours(namespaces[kind], kind):
            raise SpecError(where, f"needs a {kind} namespace other than the runtime's own")
        if path == "kernel/hostname":
            raise SpecError(where, "conflicts with the hostname property, which is there for it")
        if path == "kernel/domainname" and spec.get("domainname"):
            raise SpecError(where, "conflicts with the domainname property")


def _is_ours(path: str, kind: str) -> bool:
    """Whether ``path`` is just another name of the namespace we are in (namespaces(7), st_dev and st_ino)."""
    try:
        theirs, ours = os.stat(path), os.stat(f"/proc/self/ns/{'net' if kind == 'network' else kind}")
    except OSError:  # joining it will fail and say why
        return False
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
