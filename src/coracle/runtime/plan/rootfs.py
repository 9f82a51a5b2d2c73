"""The root file system: what is mounted where, in which order (runtime-spec config.md, "Root" and "Mounts")."""

from __future__ import annotations

import os

from coracle.errors import SpecError
from coracle.linux.namespace import IdMap
from coracle.runtime import group as groups
from coracle.runtime.mount_options import mount_options
from coracle.runtime.steps import devices, hooks, masks, mounts, rootfs, settings
from coracle.runtime.steps.cgroup import CgroupMount
from coracle.runtime.steps.namespaces import SetDomainname, SetHostname
from coracle.step import CHILD, ENTER, HOST, READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.runtime.mount_options import MountOptions
    from coracle.runtime.plan.namespaces import Spaces
    from coracle.runtime.plan.request import Request
    from coracle.step import Step

# Nothing may be mounted below /proc but these, which container platforms replace by virtual files (lxcfs).
_PROC_ALLOWED = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
        "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip


def steps(request: Request, spaces: Spaces) -> list[Step]:
    """All steps from the first mount to the pivot and what is written after it."""
    mounted = "mount" in spaces.new or "mount" in spaces.joined
    plan: list[Step] = []
    plan += _root(request, mounted)
    if request.process("oomScoreAdj") is not None or request.linux("sysctl") or request.labels:
        plan.append(settings.PrivateProc("docs/security.md, CVE-2025-52881"))
    if (score := request.process("oomScoreAdj")) is not None:
        plan.append(settings.OomScore(score, "process.oomScoreAdj"))
    plan += _mounts(request, mounted)
    plan += _devices(request)
    if cwd := request.process("cwd"):
        plan.append(rootfs.WorkingDirectory(cwd, "process.cwd"))
    plan += _hooks(request)
    plan += _masks(request)
    plan += _enter(request, mounted)
    return _opened_early(plan, spaces.own_user)


def _root(request: Request, mounted: bool) -> list[Step]:
    path = os.path.join(request.bundle, request.spec["root"]["path"])
    if not mounted:
        return [rootfs.PlainRoot(path, "root.path")]
    propagation = request.linux("rootfsPropagation", "rslave")
    outside = propagation if propagation in ("rshared", "shared", "rslave", "slave") else "rprivate"
    outside = {"shared": "rshared", "slave": "rslave"}.get(outside, outside)
    root = request.root or rootfs.BindRoot(path, "root.path")
    return [rootfs.PrivatePropagation(outside, "linux.rootfsPropagation"), root]


def _mounts(request: Request, mounted: bool) -> list[Step]:
    plan: list[Step] = []
    late: list[Step] = []
    for index, entry in enumerate(request.spec.get("mounts") or []):
        cause = f"mounts[{index}]"
        step = _mount(request, entry, cause)
        plan.append(step)
        if isinstance(step, mounts.NewFilesystem) and step.fills_late():
            late.append(mounts.ReadonlyMount(step.destination, cause))
    return plan + late


def _mount(request: Request, entry: dict[str, Any], cause: str) -> mounts.Mount:
    destination = "/" + entry["destination"].lstrip("/")
    _check_below_proc(destination, entry, cause)
    options = mount_options(entry.get("options") or [])
    kind = entry.get("type") or ("bind" if options.bind or options.rbind else "none")
    if kind == "bind" or options.bind or options.rbind:
        source = os.path.join(request.bundle, entry["source"])
        uids, gids = _id_maps(request, entry, options)
        return mounts.Bind(source, destination, options, cause, uids, gids)
    if kind in ("cgroup", "cgroup2"):
        return _cgroup_mount(request, destination, options, cause)
    return mounts.NewFilesystem(kind, entry.get("source") or kind, destination, options, cause)


def _check_below_proc(destination: str, entry: dict[str, Any], cause: str) -> None:
    """Below /proc nothing but virtual files may be covered: attr/exec or sys would be written to by the engine."""
    normal = os.path.normpath(destination)
    if normal.startswith("/proc/") and normal not in _PROC_ALLOWED and entry.get("type") != "proc":
        raise SpecError(cause, f"cannot mount {normal}: below /proc only files such as /proc/meminfo may be covered")


def _id_maps(request: Request, entry: dict[str, Any], options: MountOptions) -> tuple[list[IdMap], list[IdMap]]:
    """Maps of an idmapped mount: its own, or with the option alone those of the container."""
    if entry.get("uidMappings"):
        return tuple([IdMap.from_spec(m) for m in entry[key]] for key in ("uidMappings", "gidMappings"))  # type: ignore[return-value]
    if options.idmap or options.ridmap:
        maps = [[IdMap.from_spec(m) for m in request.linux(key, [])] for key in ("uidMappings", "gidMappings")]
        return maps[0], maps[1]
    return [], []


def _cgroup_mount(request: Request, destination: str, options: MountOptions, cause: str) -> CgroupMount:
    if request.cgroup is None:
        return CgroupMount([], destination, options, cause)  # an empty directory: no group can be had
    namespaced = any(entry["type"] == "cgroup" for entry in request.linux("namespaces", []))
    return CgroupMount(groups.mounts(request.cgroup, namespaced), destination, options, cause)


def _devices(request: Request) -> list[Step]:
    """Default devices and those of the spec, unless /dev is the host's own, bound."""
    entries = request.spec.get("mounts") or []
    dev = next((entry for entry in entries if os.path.normpath(entry["destination"]) == "/dev"), None)
    if dev and (dev.get("type") == "bind" or {"bind", "rbind"} & set(dev.get("options") or [])):
        return []
    wanted = {device["path"]: device for device in request.linux("devices", [])}
    plan: list[Step] = [
        devices.MakeDevice(path, "c", major, minor, "runtime-spec, default devices")
        for path, major, minor in devices.DEFAULT_DEVICES
        if path not in wanted
    ]
    plan += [
        devices.device_from_spec(device, f"linux.devices[{index}]")
        for index, device in enumerate(request.linux("devices", []))
    ]
    has_pts = any(os.path.normpath(entry["destination"]) == "/dev/pts" for entry in entries)
    plan.append(devices.DevLinks(has_pts, "runtime-spec, dev symbolic links"))
    if request.process("terminal"):
        size = request.process("consoleSize", {})
        plan.append(devices.Terminal(size.get("height", 0), size.get("width", 0), "process.terminal"))
        plan.append(devices.Console("process.terminal"))
    return plan


def _hooks(request: Request) -> list[Step]:
    """prestart and createRuntime hooks in the engine, then createContainer hooks in the child."""
    places = (("prestart", READY), ("createRuntime", READY), ("createContainer", ENTER))
    found = request.spec.get("hooks") or {}
    return [
        hooks.RunHook(kind, entry, f"hooks.{kind}[{index}]", place)
        for kind, place in places
        for index, entry in enumerate(found.get(kind) or [])
    ]


def _masks(request: Request) -> list[Step]:
    masked = request.linux("maskedPaths", [])
    plan: list[Step] = [masks.OpenNull("linux.maskedPaths")] if masked else []
    plan += [masks.Mask(path, f"linux.maskedPaths[{index}]") for index, path in enumerate(masked)]
    frozen = request.linux("readonlyPaths", [])
    return plan + [masks.ReadonlyPath(path, f"linux.readonlyPaths[{index}]") for index, path in enumerate(frozen)]


def _enter(request: Request, mounted: bool) -> list[Step]:
    plan: list[Step] = [
        settings.Sysctl(name, value, f"linux.sysctl.{name}") for name, value in request.linux("sysctl", {}).items()
    ]
    if name := request.spec.get("hostname"):
        plan.append(SetHostname(name, "hostname"))
    if name := request.spec.get("domainname"):
        plan.append(SetDomainname(name, "domainname"))
    if not mounted:
        return [*plan, rootfs.Chroot(os.path.join(request.bundle, request.spec["root"]["path"]), "no mount namespace")]
    plan.append(rootfs.Pivot("root.path") if request.pivot else rootfs.MoveRoot("--no-pivot"))
    if request.spec["root"].get("readonly"):
        plan.append(rootfs.ReadonlyRoot("root.readonly"))
    if propagation := request.linux("rootfsPropagation"):
        plan.append(rootfs.RootPropagation(propagation, "linux.rootfsPropagation"))
    return plan


def _opened_early(plan: list[Step], own_user: bool) -> list[Step]:
    """``plan`` with steps that open sources before their mount's turn comes.

    When the container has a user namespace of its own, the engine opens all of them, if it may: before the child
    exists, with rights that the child lacks.  Otherwise the child opens, before the new root covers the
    host's, what would be another thing afterwards: "/" itself, and binds that propagate, which
    a copy of a mount made private does no more.
    """
    by_engine = own_user and os.geteuid() == 0
    early: list[Step] = []
    for step in plan:
        if isinstance(step, rootfs.Root) and by_engine:
            early.append(rootfs.Preopen("rootfs", "the root file system", step.open, step.cause, step.stage()))
            step.opened = True
        elif isinstance(step, mounts.Bind) and (by_engine or step.propagates() or os.path.realpath(step.source) == "/"):
            key, stage = f"mount {step.destination}", step.stage() if by_engine else []
            place = HOST if by_engine else CHILD
            early.append(rootfs.Preopen(key, step.source, step.open_tree, step.cause, stage, place))
            step.opened = by_engine
    if by_engine:
        return early + plan
    root = next((index for index, step in enumerate(plan) if isinstance(step, rootfs.Root)), 0)
    return [*plan[:root], *early, *plan[root:]]
