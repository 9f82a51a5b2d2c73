"""Control groups: which kind, which controllers, and whether this user may use them."""

from __future__ import annotations

import os

from coracle.engine.doctor.check import Finding, Subject, degraded, first_line, ok
from coracle.linux.cgroup.hierarchy import UNIFIED, Hierarchies, detect

_WANTED = {
    "memory": "-m", "pids": "--pids-limit", "cpu": "--cpus", "cpuset": "--cpuset-cpus", "io": "--device-read-bps",
}  # fmt: skip
_V1_NAMES = {"io": "blkio"}
_SLICE = "/etc/systemd/system/user@.service.d/delegate.conf"


def kind(_subject: Subject) -> Finding:
    found = detect()
    if found.kind == "none":
        fix = "mount -t cgroup2 none /sys/fs/cgroup"
        return degraded("no hierarchy is mounted: no limits, no pause, no statistics", fix)
    return ok({"v1": "version 1", "hybrid": "version 1 with version 2 beside it", "v2": "version 2"}[found.kind])


def controllers(_subject: Subject) -> Finding:
    """Controllers that exist at all, wherever they are."""
    present = _present(detect())
    absent = [name for name in _WANTED if name not in present]
    if absent:
        what = ", ".join(f"{name} ({_WANTED[name]})" for name in absent)
        fix = (
            "add cgroup_enable=memory to the kernel's command line"
            if absent == ["memory"]
            else "a kernel with CONFIG_CGROUPS and its controllers"
        )
        return degraded(f"no {what}", fix)
    return ok(", ".join(sorted(present)))


def _present(found: Hierarchies) -> set[str]:
    names = {name for name in found.mounts if name != UNIFIED and "=" not in name}
    names |= {name for name, old in _V1_NAMES.items() if old in names}
    if UNIFIED in found.mounts:
        names |= set(first_line(f"{found.mounts[UNIFIED]}/cgroup.controllers").split())
    return names


def delegation(subject: Subject) -> Finding:
    """Whether limits can be set: for a user, whether systemd handed him a group with controllers."""
    found = detect()
    if found.kind == "none":
        return degraded("no control groups", "see above")
    if subject.is_root:
        closed = sorted(point for point in {*found.mounts.values()} if not os.access(point, os.W_OK))
        if closed:
            return degraded(
                f"read-only: {', '.join(closed)}", "mount -o remount,rw, or give the outer container --privileged"
            )
        return ok("root can make groups")
    if found.kind != "v2":
        fix = "boot with systemd.unified_cgroup_hierarchy=1, or run as root"
        return degraded("version 1 is root's alone: no limits for this user", fix)
    own = f"{found.mounts[UNIFIED]}{found.own[UNIFIED]}"
    if not os.access(own, os.W_OK):
        fix = "run in a user session of systemd, such as: systemd-run --user --scope coracle ..."
        return degraded(f"{own} belongs to somebody else: no limits for this user", fix)
    handed = set(first_line(f"{own}/cgroup.controllers").split())
    absent = [name for name in ("cpu", "memory", "pids") if name not in handed]
    if absent:
        text = "[Service]\\nDelegate=cpu cpuset io memory pids\\n"
        directory = os.path.dirname(_SLICE)
        fix = f"as root: mkdir -p {directory}; printf '{text}' > {_SLICE}; systemctl daemon-reload; log in again"
        return degraded(f"not handed to this user: {', '.join(absent)}", fix)
    return ok(f"this user has {', '.join(sorted(handed))}")


def swap(_subject: Subject) -> Finding:
    """--memory-swap needs swap accounting (cgroup-v1/memory.rst, cgroup-v2.rst)."""
    found = detect()
    if "memory" in found.mounts:
        there = os.path.exists(f"{found.mounts['memory']}/memory.memsw.limit_in_bytes")
    else:
        there = os.path.exists("/proc/swaps")
    if not there:
        return degraded("not accounted: --memory-swap has no effect", "add swapaccount=1 to the kernel's command line")
    return ok("accounted")
