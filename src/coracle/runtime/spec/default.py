"""The config that ``coracle-oci spec`` writes: a shell in the bundle's rootfs, to be edited."""

from __future__ import annotations

import os

from coracle.runtime.spec import OCI_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CAPABILITIES = ("CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE")

# Kernel interfaces that tell about the host or control it (docs/security.md).
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap",
    "/sys/firmware",
)  # fmt: skip
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def default_spec(rootless: bool = False) -> dict[str, Any]:
    """A valid config.json; ``rootless`` adapts it to a user namespace that maps the caller to root.

    Such a user has no group 5 for the terminals, no network namespace's sysfs to mount, and may
    not write device rules.
    """
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READONLY),
    }
    if rootless:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    else:
        linux["namespaces"].append({"type": "network"})
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": OCI_VERSION,
        "process": _process(),
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "coracle",
        "mounts": _mounts(rootless),
        "linux": linux,
    }


def _process() -> dict[str, Any]:
    return {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    }


def _mounts(rootless: bool) -> list[dict[str, Any]]:
    terminals = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    locked = ["nosuid", "noexec", "nodev"]
    sys = ("none", "/sys", ["rbind", *locked, "rro"]) if rootless else ("sysfs", "sysfs", [*locked, "ro"])
    table = (
        ("/proc", "proc", "proc", locked),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", terminals if rootless else [*terminals, "gid=5"]),
        ("/dev/shm", "tmpfs", "shm", [*locked, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", locked),
        ("/sys", *sys),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*locked, "relatime", "ro"]),
    )
    return [
        {"destination": destination, "type": kind, "source": source, "options": list(options)}
        for destination, kind, source, options in table
    ]
