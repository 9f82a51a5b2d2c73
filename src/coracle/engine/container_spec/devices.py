"""Device nodes and device rules (runtime-spec config-linux.md#devices)."""

from __future__ import annotations

from coracle.errors import UsageError
from coracle.linux.cgroup.devices import STANDARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.engine.container_spec.host import Device, Host
    from coracle.engine.options import RunOptions

# Everything is denied but the default devices of the runtime spec and mknod, which CAP_MKNOD guards.
# docker's list plus what runc adds behind it; docker's extra "deny 10:229" follows from the first line.
DENY_ALL: dict[str, Any] = {"allow": False, "access": "rwm"}
ALLOW_ALL: dict[str, Any] = {"allow": True, "access": "rwm"}


def _rule(kind: str, major: int, minor: int, access: str) -> dict[str, Any]:
    """A rule that allows; "a", -1 and -1 mean all devices, and are left out."""
    result: dict[str, Any] = {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}
    return {key: value for key, value in result.items() if value not in ("a", -1)}


def _node(device: Device, path: str) -> dict[str, Any]:
    return {
        "path": path,
        "type": device.kind,
        "major": device.major,
        "minor": device.minor,
        "fileMode": device.mode & 0o777,
        "uid": device.uid,
        "gid": device.gid,
    }


def _asked_for(options: RunOptions, host: Host) -> list[tuple[Device, str, str]]:
    """The devices of --device as (device, path inside, access); a directory means all devices below it."""
    found = []
    for source, target, access in options.device:
        try:
            device = host.device(source)
        except OSError as error:
            raise UsageError(f"--device {source}: {(error.strerror or str(error)).lower()}") from None
        if device is not None:
            found.append((device, target, access))
            continue
        below = host.devices(source) if host.is_directory(source) else []
        if not below:
            raise UsageError(f"--device {source} is not a device and no directory with devices")
        found += [(one, target.rstrip("/") + one.path[len(source.rstrip("/")) :], access) for one in below]
    return found


def devices(options: RunOptions, host: Host) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """``linux.devices`` and ``linux.resources.devices``.

    --privileged means every device of the host and no rules.  Owner and permissions are the
    node's on the host.

    :raises UsageError: a --device that does not exist or is none.
    """
    asked = _asked_for(options, host)
    nodes: dict[str, dict[str, Any]] = {}
    if options.privileged:
        nodes = {device.path: _node(device, device.path) for device in host.devices("/dev")}
        rules = [ALLOW_ALL]
    else:
        rules = [DENY_ALL, *STANDARD]
        rules += [_rule(one.kind, one.major, one.minor, access) for one, _, access in asked if one.kind != "p"]
        rules += [_rule(*rule) for rule in options.device_cgroup_rule]
    nodes |= {target: _node(device, target) for device, target, _ in asked}
    return list(nodes.values()), rules


def renamed_devices(options: RunOptions, nodes: list[dict[str, Any]], host: Host) -> list[dict[str, Any]]:
    """Bind mounts for those ``nodes`` that have another name on the host; they are taken out of ``nodes``.

    Nodes cannot be made in a user namespace.  The runtime binds the host's node of the same name
    there, but the spec has no room for another one.
    """
    sources = {target: device.path for device, target, _ in _asked_for(options, host) if device.path != target}
    nodes[:] = [node for node in nodes if node["path"] not in sources]
    words = ["bind", "nosuid", "noexec", "rprivate"]
    return [
        {"destination": target, "type": "bind", "source": source, "options": list(words)}
        for target, source in sources.items()
    ]
