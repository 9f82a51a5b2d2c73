"""Making a group: directories, the cpuset of version 1, the controllers of version 2."""

from __future__ import annotations

import os

from coracle.errors import ConflictError, KernelError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.hierarchy import UNIFIED
from coracle.linux.shell import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from coracle.linux.cgroup.group import Cgroup

_ENOENT, _EBUSY, _EOPNOTSUPP = 2, 16, 95
_CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
_NOT_CONTROLLERS = {"cgroup", "irq", "device program"}
_NOT_DELEGATED = "this group is not delegated to us: root, or a systemd scope with Delegate=yes, can do it"
_MKDIR_HINTS = {
    1: _NOT_DELEGATED,
    13: _NOT_DELEGATED,
    30: "the cgroup file system is mounted read-only here",
    11: "cgroup.max.descendants or cgroup.max.depth of a parent group is reached",
    28: "the kernel has no more cgroup ids: remove dead groups",
}


def absent_directories(group: Cgroup) -> list[str]:
    """The directories that the group still lacks, parents first."""
    result: list[str] = []
    for name, directory in group.unique().items():
        absent = []
        while directory != group.tops[name] and not os.path.exists(directory):
            absent.append(directory)
            directory = os.path.dirname(directory)
        result += reversed(absent)
    return result


def make_directories(group: Cgroup, planned: Iterable[str], done: list[str]) -> None:
    """mkdir(2) each of ``planned``, appending to ``done`` what really came from us."""
    leaves = set(group.directories.values())
    for directory in planned:
        _make(directory, directory in leaves, done)


def _make(directory: str, leaf: bool, done: list[str]) -> None:
    """Make one directory; parents may vanish with another container's end meanwhile, and are made again."""
    for _ in range(100):
        try:
            os.mkdir(directory, 0o755)
        except FileNotFoundError:
            _make(os.path.dirname(directory), False, done)
        except FileExistsError:
            if leaf:
                raise ConflictError(f"control group {directory} was made by someone else just now") from None
            return
        except OSError as error:
            code = error.errno or 0
            raise KernelError(code, "make control group", directory, _MKDIR_HINTS.get(code, "")) from error
        else:
            done.append(directory)
            return
    raise KernelError(_ENOENT, "make control group", directory, "its parent keeps disappearing")


def refuse_occupied(directory: str) -> None:
    """A group that existed before must be empty: its limits and signals would hit strangers."""
    pids = files.read_if_there(f"{directory}/cgroup.procs").split()
    if pids:
        raise ConflictError(
            f"control group {directory} already has {len(pids)} processes",
            "choose another linux.cgroupsPath, or end them",
        )


def refuse_frozen(group: Cgroup) -> None:
    """A process that joins a frozen group stops in the kernel and nobody can tell why (runc issue 4481)."""
    legacy, unified = group.directories.get("freezer"), group.directories.get(UNIFIED)
    if (legacy and not files.read_if_there(f"{legacy}/freezer.state").startswith("THAWED")) or (
        unified and "frozen 1" in files.read_if_there(f"{unified}/cgroup.events")
    ):
        raise ConflictError(f"control group {group.path} or a parent of it is frozen", "thaw it first")


def _levels(group: Cgroup, name: str) -> list[str]:
    """The directories from the one below the mount's top down to the group's own, in one hierarchy."""
    result = [group.tops[name]]
    for part in group.directories[name][len(result[0]) :].strip("/").split("/"):
        result.append(f"{result[-1]}/{part}")
    return result[1:]


def inherit_cpuset(group: Cgroup) -> None:
    """Give each level of the version 1 cpuset without CPUs or nodes those of its parent (cpuset(7))."""
    if "cpuset" not in group.directories:
        return
    for level in _levels(group, "cpuset"):
        for file in _CPUSET_FILES:
            if not files.read(f"{level}/{file}").strip():
                files.write(f"{level}/{file}", files.read(f"{os.path.dirname(level)}/{file}").strip())


def available(group: Cgroup) -> list[str]:
    """The version 2 controllers that the group has, or would have once its parents pass them on."""
    names = files.read_if_there(f"{group.tops[UNIFIED]}/cgroup.controllers").split()
    for directory in [group.tops[UNIFIED], *_levels(group, UNIFIED)[:-1]]:
        control = f"{directory}/cgroup.subtree_control"
        if not os.path.exists(control):
            break  # this one is still to be made
        if not os.access(control, os.W_OK):
            enabled = files.read_if_there(control).split()
            names = [name for name in names if name in enabled]
    return names


def _wanted(group: Cgroup) -> tuple[set[str], set[str]]:
    """(controllers that must be enabled, those and the ones good to have)"""
    names = group.required - _NOT_CONTROLLERS
    return names, names | (set(available(group)) if group.kind == "v2" else set())


def enable_controllers(group: Cgroup) -> None:
    """Pass controllers on, from the top of the version 2 mount to the group's parent.

    In hybrid mode only what is required: a controller in use on version 2 can no longer be
    mounted as version 1 by somebody else.
    """
    must, wanted = _wanted(group)
    if not wanted:
        return
    for directory in [group.tops[UNIFIED], *_levels(group, UNIFIED)[:-1]]:
        control = f"{directory}/cgroup.subtree_control"
        missing = sorted(wanted.difference(files.read_if_there(control).split()))
        if not missing:
            continue
        try:
            files.write(control, " ".join(f"+{name}" for name in missing))
        except OSError:
            _enable_each(control, [name for name in missing if name in must])


def _enable_each(control: str, names: list[str]) -> None:
    directory = os.path.dirname(control)
    hints = {
        _EBUSY: f"processes in {directory} itself forbid it: move them to a child group",
        _EOPNOTSUPP: f"{directory} is a threaded group",
        13: _NOT_DELEGATED,
    }
    for name in names:
        try:
            files.write(control, f"+{name}")
        except OSError as error:
            code = error.errno or 0
            raise KernelError(code, f"enable the {name} controller in", control, hints.get(code, "")) from error


def shell(group: Cgroup) -> list[str]:
    """Making the group as shell lines."""
    lines = [f"mkdir -p {quote(directory)}" for directory in group.unique().values()]
    if "cpuset" in group.directories:
        for level in _levels(group, "cpuset"):
            for file in _CPUSET_FILES:
                own, above = quote(f"{level}/{file}"), quote(f"{os.path.dirname(level)}/{file}")
                lines.append(f"grep -q . {own} || cat {above} > {own}")
    if UNIFIED in group.directories:
        parents = [group.tops[UNIFIED], *_levels(group, UNIFIED)[:-1]]
        for name in sorted(_wanted(group)[1]):
            lines += [f"echo +{name} > {quote(parent + '/cgroup.subtree_control')}" for parent in parents]
    return lines
