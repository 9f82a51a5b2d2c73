"""Which control group a container gets, and finding it again from its record."""

from __future__ import annotations

import os

from coracle.errors import UnsupportedError
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import UNIFIED, detect
from coracle.record import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from coracle.linux.cgroup.settings import Setting
    from coracle.runtime.steps.cgroup import Hierarchy


def choose(
    spec: dict[str, Any], identifier: str, systemd: bool, manager: str, warn: Callable[[str], None]
) -> Cgroup | None:
    """The group for ``spec``, not made yet; None where there is no control over groups.

    Limits that were asked for and cannot be had are an error, not a warning.
    :raises UnsupportedError:
    """
    if manager == "disabled":
        return None
    linux = spec.get("linux") or {}
    hierarchies = detect()
    path = linux.get("cgroupsPath") or f"/coracle/{identifier}"
    if systemd or manager == "systemd":
        from coracle.linux.cgroup import systemd as driver

        return driver.scope(path, identifier, hierarchies, linux.get("resources"))
    group = Cgroup(path, hierarchies)
    if os.geteuid() != 0 or _in_user_namespace():
        group.restrict(_delegated(group))
    if group.directories:
        return group
    wanted = sorted(key for key, value in (linux.get("resources") or {}).items() if value and key != "devices")
    if wanted:
        raise UnsupportedError(
            f"cannot limit {', '.join(wanted)}: no control group here may be changed by this user",
            "run as root, or let systemd delegate a group: see coracle doctor",
        )
    return None


def record(group: Cgroup | None) -> dict[str, Any]:
    """What to write down about ``group``, for :func:`reopen`."""
    if group is None:
        return {}
    group.prepare()  # so that the record names the directories that delete has to remove
    return group.record()


def reopen(saved: dict[str, Any]) -> Cgroup | None:
    """The group that :func:`record` described."""
    return Cgroup.from_record(saved) if saved else None


def _delegated(group: Cgroup) -> list[str]:
    """The hierarchies in which this process may make ``group``: a user has what was delegated to him."""
    from coracle.linux.cgroup import delegation

    return list(delegation.examine(group).writable)


def _in_user_namespace() -> bool:
    """Whether root here is somebody else outside (user_namespaces(7): the initial map is the identity)."""
    return read("/proc/self/uid_map").split() != [b"0", b"0", b"4294967295"]


def limits(group: Cgroup, resources: dict[str, Any], updating: bool = False) -> list[Setting]:
    """The writes that ``linux.resources`` asks for in ``group``.

    Device rules are completed by the standard ones, without which no container could use /dev/null
    and no device of ``linux.devices`` could be made, as runc and crun do.
    """
    if rules := resources.get("devices"):
        from coracle.linux.cgroup.devices import STANDARD

        resources = {**resources, "devices": [*rules, *(rule for rule in STANDARD if rule not in rules)]}
    wanted = group.limits(resources, updating)
    if updating:
        group.enable()  # what is limited for the first time may need another controller of cgroup v2
    return wanted


def mounts(group: Cgroup, namespaced: bool) -> list[Hierarchy]:
    """What to mount at /sys/fs/cgroup: (directory name, file system type, options, host directory to bind).

    In a cgroup namespace a fresh mount shows the container's group as its root; without one
    the group's own directory is bound.
    """
    if group.kind == "v2":
        return [("", "cgroup2", [], "" if namespaced else group.directories[UNIFIED])]
    together: dict[str, list[str]] = {}
    for name, directory in group.directories.items():
        together.setdefault(directory, []).append(name)
    tops = group.record()["tops"]
    found: list[Hierarchy] = []
    for directory, names in together.items():
        bound = "" if namespaced else directory
        mounted_as = os.path.basename(tops[names[0]])
        if names == [UNIFIED]:
            found.append((mounted_as, "cgroup2", [], bound))
        else:
            found.append((mounted_as, "cgroup", [_option(name) for name in names], bound))
    return found


def _option(name: str) -> tuple[str, str | None]:
    key, equals, value = name.partition("=")
    return key, value if equals else None
