"""Which control group a container gets, and finding it again from its record."""

from __future__ import annotations

from coracle.errors import UnsupportedError
from coracle.linux.cgroup import Cgroup, detect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def choose(
    spec: dict[str, Any], identifier: str, systemd: bool, manager: str, warn: Callable[[str], None]
) -> Cgroup | None:
    """The group for ``spec``, not made yet; None with a warning where there is no control over groups.

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

        return driver.scope(path, identifier, hierarchies)
    group = Cgroup(path, hierarchies)
    if not group.directories or not group.writable():
        wanted = {key: value for key, value in (linux.get("resources") or {}).items() if value and key != "devices"}
        if wanted:
            names = ", ".join(sorted(wanted))
            raise UnsupportedError(
                f"cannot limit {names}: no control group here may be changed by this user",
                "run as root, or let systemd delegate a group: see coracle doctor",
            )
        warn("no control group can be made here: limits, pause and statistics are not available")
        return None
    return group


def record(group: Cgroup | None) -> dict[str, Any]:
    """What to write down about ``group``, for :func:`reopen`."""
    return {} if group is None else group.record()


def reopen(saved: dict[str, Any]) -> Cgroup | None:
    """The group that :func:`record` described."""
    return Cgroup.from_record(saved) if saved else None
