"""One control group across all hierarchies: create, join, freeze, signal, delete.

What cgroups(7) makes hard, kept in one place:
- Version 1 cpuset: a new group has no CPUs and refuses processes until it gets some.
- Version 2: a controller must be enabled in every parent's cgroup.subtree_control, which the kernel refuses while
  that parent has processes of its own ("no internal processes").
- Removal fails with EBUSY for a moment after the last process died, and as long as there are child
  groups, which the payload may have made, a thousand levels deep if it is hostile.
- Moving a process costs 5-13 ms of grace period by way of ``cgroup.procs`` and 0.03 ms by ``tasks``, see
  :meth:`Cgroup.join_files`.
"""

from __future__ import annotations

import os

from coracle.errors import CoracleError, KernelError, SpecError
from coracle.linux.cgroup import creation, files
from coracle.linux.cgroup.hierarchy import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from coracle.linux.cgroup.hierarchy import Hierarchies
    from coracle.linux.cgroup.settings import Setting

_SIGKILL = 9


class Cgroup:
    """One group, by the same path in each hierarchy.

    ``directories``  hierarchy name → directory; co-mounted controllers share one
    ``made``         the directories that :meth:`create` makes, parents first; :meth:`delete`
                     removes these and no others.  Known after :meth:`prepare`, so that it can be
                     recorded before anything exists.
    ``tops``         hierarchy name → mount point
    ``required``     the version 2 controllers that its limits need, see :meth:`limits`
    """

    __slots__ = ("directories", "kind", "made", "path", "required", "tops")

    def __init__(self, path: str, hierarchies: Hierarchies) -> None:
        """The group ``path``: absolute ones are below each mount, relative ones below our own group.

        On pure version 2 a relative path starts at the parent of our own group, because groups
        with processes cannot pass controllers on.
        :raises SpecError: for an empty path, the root group, or ``..``.
        """
        self.path = _checked(path)
        self.kind = hierarchies.kind
        self.made: list[str] | None = None
        self.required: set[str] = set()
        self.tops = dict(hierarchies.mounts)
        self.directories: dict[str, str] = {}
        for name, mount in hierarchies.mounts.items():
            base = "" if path.startswith("/") else hierarchies.own[name].rstrip("/")
            if base and self.kind == "v2":
                base = base.rpartition("/")[0]
            self.directories[name] = f"{mount}{base}/{self.path}"

    # -- what is recorded of a running container, and read back without looking at any mount table

    def record(self) -> dict[str, Any]:
        """Everything needed to find the group again, as JSON data."""
        return {
            "path": self.path,
            "kind": self.kind,
            "directories": dict(self.directories),
            "tops": dict(self.tops),
            "made": self.made,
        }

    @classmethod
    def from_record(cls, data: dict[str, Any]) -> Cgroup:
        """The group that :meth:`record` described."""
        if "unit" in data and cls is Cgroup:
            from coracle.linux.cgroup.systemd import ScopeGroup

            return ScopeGroup.from_record(data)
        group = cls.__new__(cls)
        group.path = data["path"]
        group.kind = data["kind"]
        group.directories = dict(data["directories"])
        group.tops = dict(data["tops"])
        group.made = data["made"]
        group.required = set()
        return group

    def below(self, path: str) -> Cgroup:
        """The child group ``path``, such as one that the payload made.  :raises SpecError: for ``..``."""
        child = Cgroup.__new__(Cgroup)
        relative = _checked(path)
        child.path = f"{self.path}/{relative}"
        child.directories = {name: f"{directory}/{relative}" for name, directory in self.directories.items()}
        child.kind, child.tops, child.made, child.required = self.kind, self.tops, None, set()
        return child

    def restrict(self, names: Collection[str]) -> None:
        """Keep only the hierarchies ``names``: those a user without root may write (delegation)."""
        self.directories = {name: path for name, path in self.directories.items() if name in names}

    def unique(self) -> dict[str, str]:
        """``directories`` without the second names of co-mounted controllers."""
        first: dict[str, str] = {}
        for name, directory in self.directories.items():
            first.setdefault(directory, name)
        return {name: directory for directory, name in first.items()}

    def unified_directory(self) -> str | None:
        """The version 2 directory, for CLONE_INTO_CGROUP, freezing and killing; None on pure version 1."""
        return self.directories.get(UNIFIED)

    def _legacy(self) -> list[str]:
        return [directory for name, directory in self.unique().items() if name != UNIFIED]

    def exists(self) -> bool:
        """Whether the group is there in any hierarchy."""
        return any(os.path.isdir(directory) for directory in self.directories.values())

    def read(self, hierarchy: str, file: str) -> str:
        """The text of a control file, empty if it or the hierarchy is absent; a Reader for ``settings()``."""
        directory = self.directories.get(hierarchy)
        return files.read_if_there(f"{directory}/{file}") if directory else ""

    def controllers(self) -> dict[str, str]:
        """Controller (by its version 1 name) → the hierarchy that serves it here.

        A controller of version 2 counts if the group's parents have it, or could be told to
        pass it on.  cpuacct, freezer and devices need no controller there.
        """
        served = {name: name for name in self.directories if name != UNIFIED and "=" not in name}
        if UNIFIED in self.directories:
            for name in creation.available(self):
                served.setdefault("blkio" if name == "io" else name, UNIFIED)
            for name in ("devices", "cpuacct", "freezer"):
                served.setdefault(name, UNIFIED)
        return served

    # -- create

    def prepare(self) -> list[str]:
        """Find out which directories have to be made; looks, changes nothing."""
        if self.made is None:
            self.made = creation.absent_directories(self)
        return self.made

    def create(self) -> None:
        """Make the group in every hierarchy, ready for processes; on failure nothing is left behind.

        A group that exists already is used if it is empty, and not deleted later.
        :raises ConflictError: if it has processes, or it or a parent is frozen (joining would hang).
        :raises KernelError: if the kernel refuses.
        """
        planned = self.prepare()
        self.made = []
        try:
            for directory in self.unique().values():
                if directory not in planned:
                    creation.refuse_occupied(directory)
            creation.make_directories(self, planned, self.made)
            creation.inherit_cpuset(self)
            self.enable()
            creation.refuse_frozen(self)
        except BaseException as failure:
            self._abandon()
            if isinstance(failure, OSError):
                code, path = failure.errno or 0, str(failure.filename or self.path)
                raise KernelError(code, "make control group", path) from failure
            raise

    def enable(self) -> None:
        """Have version 2 provide the controllers :attr:`required`, and all others where it is alone.

        Part of :meth:`create`; a running group needs it when an update limits something new.
        :raises KernelError: for a required one.
        """
        if UNIFIED in self.directories:
            creation.enable_controllers(self)

    def _abandon(self) -> None:
        try:
            self.delete(0.2)
        except CoracleError:
            pass  # the failure that led here says more

    def create_shell(self) -> list[str]:
        """What :meth:`create` does, as shell lines."""
        return creation.shell(self)

    # -- limits

    def limits(
        self, resources: Mapping[str, Any], updating: bool = False, missing: list[Setting] | None = None
    ) -> list[Setting]:
        """The writes that ``resources`` asks of this group (:func:`~coracle.linux.cgroup.settings.settings`).

        Takes note of the version 2 controllers they need, so call it before :meth:`create`, or, when
        ``updating`` a running group, :meth:`enable` after it.
        """
        from coracle.linux.cgroup.settings import settings, unified_controllers

        wanted = settings(resources, self.controllers(), self.read if updating else None, missing)
        self.required |= unified_controllers(wanted)
        return wanted

    # -- processes

    def join_files(self, unified: bool = False) -> list[str]:
        """The files to which a single-threaded process writes "0" to move itself here.

        On version 1 that is ``tasks``: for one's own single task the kernel (5.16) skips the lock that
        waits for a grace period, where ``cgroup.procs`` takes 5-13 ms.  Version 2 is entered by
        CLONE_INTO_CGROUP, which needs no lock either; ``unified`` adds its file for where that cannot be had.
        """
        joined = [f"{directory}/tasks" for directory in self._legacy()]
        if unified and UNIFIED in self.directories:
            joined.append(f"{self.directories[UNIFIED]}/cgroup.procs")
        return joined

    def add(self, pid: int) -> None:
        """Move another process here, with all its threads.  :raises KernelError:"""
        from coracle.linux.cgroup import processes

        for directory in self.unique().values():
            processes.move(pid, directory)

    def processes(self, recursive: bool = True) -> list[int]:
        """Process ids in the group (and its child groups), as this pid namespace sees them."""
        from coracle.linux.cgroup import processes

        for name in (UNIFIED, "pids", "freezer", "devices", *self.directories):
            if name in self.directories:
                directory = self.directories[name]
                return sorted(processes.below(directory) if recursive else processes.of(directory))
        return []

    # -- freeze

    @property
    def frozen(self) -> bool:
        """Whether every process of the group is stopped by a freezer of either version."""
        unified, legacy = self.directories.get(UNIFIED), self.directories.get("freezer")
        return bool(
            (unified and "frozen 1" in files.read_if_there(f"{unified}/cgroup.events"))
            or (legacy and files.read_if_there(f"{legacy}/freezer.state").startswith("FROZEN"))
        )

    def freeze(self, timeout: float = 5.0) -> None:
        """Stop all processes, and return when they have stopped.

        :raises KernelError: EBUSY if they have not after ``timeout`` seconds (one is in an
            uninterruptible call); they run again then.  EOPNOTSUPP if there is no freezer.
        """
        from coracle.linux.cgroup import freezer

        freezer.freeze(self, timeout)

    def thaw(self) -> None:
        """Let all processes run again; harmless if they do.  :raises KernelError:"""
        from coracle.linux.cgroup import freezer

        freezer.thaw(self)

    # -- kill

    def kill(self, signal: int = _SIGKILL) -> None:
        """Send ``signal`` to every process of the group and of its child groups.

        SIGKILL goes through cgroup.kill where there is one (version 2, Linux 5.14): atomic, no process
        can fork away from it.  Otherwise the group is frozen meanwhile, and thawed on every way out.
        :raises KernelError: if a signal is refused.
        """
        from coracle.linux.cgroup import freezer

        freezer.kill(self, signal)

    @property
    def populated(self) -> bool:
        """Whether a process is left in the group or below it."""
        unified = self.directories.get(UNIFIED)
        if unified:
            return "populated 1" in files.read_if_there(f"{unified}/cgroup.events")
        return bool(self.processes())

    def wait_empty(self, timeout: float) -> bool:
        """Wait until no process is left; False if one still is after ``timeout`` seconds."""
        from coracle.linux.cgroup import freezer

        return freezer.wait_empty(self, timeout)

    # -- delete

    def delete(self, timeout: float = 2.0) -> None:
        """Remove what :meth:`create` made, with child groups that the payload made below it.

        A group that is gone already is fine.  EBUSY is retried for ``timeout`` seconds in all, since a
        dying process counts for a moment after its parent was told; parents are removed if empty.
        :raises KernelError: EBUSY if processes remain; names their ids.
        """
        from coracle.linux.cgroup import removal

        removal.remove(self, timeout)

    def delete_shell(self) -> list[str]:
        """What :meth:`delete` does, as shell lines."""
        from coracle.linux.cgroup import removal

        return removal.shell(self)

    # -- what it used

    def stats(self) -> dict[str, Any]:
        """Usage by controller, in the shape of the data of ``runc events --stats``."""
        from coracle.linux.cgroup import statistics

        return statistics.collect(self.controllers(), self.directories)

    def oom_kills(self) -> int:
        """How many processes the kernel has killed here for memory."""
        from coracle.linux.cgroup import memory

        hierarchy = self.controllers().get("memory")
        return memory.oom_kills(self.directories[hierarchy], hierarchy == UNIFIED) if hierarchy else 0


def _checked(path: str) -> str:
    """``path`` without empty and ``.`` parts, relative."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SpecError("linux.cgroupsPath", f"{path!r} contains ..")
    if not parts:
        raise SpecError("linux.cgroupsPath", f"{path!r} names the root group, which cannot be limited")
    if not path.isprintable():
        raise SpecError("linux.cgroupsPath", f"{path!r} contains control characters")
    return "/".join(parts)
