"""The run-time record of a container: ``<root>/<id>/state.json`` beside its start gate and its config.

state.json   what is known; written atomically before and after the process is made
config.json  the spec as it was at create, whatever happens to the bundle's copy later
exec.fifo    the start gate: there until ``start`` has opened it
lock         held while one command changes the container
"""

from __future__ import annotations

import os
from time import gmtime, strftime, time_ns

from coracle.errors import ConflictError, ContentError, NotFoundError
from coracle.linux.process import is_alive, start_time
from coracle.record import Lock, load, save
from coracle.runtime.identifier import check_identifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OCI_VERSION = "1.3.0"
_RECORD = ("pid", "started", "bundle", "rootfs", "created", "annotations", "cgroup", "mounts")
DOOMED = ".removed."  # the names of state directories on their way out begin so
CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"


def discard(directory: str) -> None:
    """Delete a state directory that was renamed to be deleted; somebody else may be at it too."""
    try:
        for name in os.listdir(directory):
            try:
                os.unlink(f"{directory}/{name}")
            except FileNotFoundError:
                pass
        os.rmdir(directory)
    except FileNotFoundError:
        pass


def now() -> str:
    """The time as RFC 3339 with nanoseconds, in UTC."""
    nanoseconds = time_ns()
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(nanoseconds // 10**9)) + f".{nanoseconds % 10**9:09d}Z"


class Container:
    """One container of the runtime, in the state directory ``root``.

    ``pid`` 0 means that it is being created; ``started`` is the start time of ``pid`` in clock
    ticks, so that a reused pid is never mistaken for it.
    """

    __slots__ = (
        "annotations",
        "bundle",
        "cgroup",
        "created",
        "identifier",
        "mounts",
        "pid",
        "root",
        "rootfs",
        "started",
    )

    def __init__(self, root: str, identifier: str) -> None:
        self.root = root
        self.identifier = check_identifier(identifier)
        self.pid = 0
        self.started = 0
        self.bundle = ""
        self.rootfs = ""
        self.created = ""
        self.annotations: dict[str, str] = {}
        self.cgroup: dict[str, Any] = {}
        self.mounts: list[str] = []

    @property
    def directory(self) -> str:
        return f"{self.root}/{self.identifier}"

    @property
    def gate(self) -> str:
        return f"{self.directory}/exec.fifo"

    @property
    def config(self) -> str:
        return f"{self.directory}/config.json"

    def lock(self) -> Lock:
        """The lock for changes of this container's state."""
        return Lock(f"{self.directory}/lock")

    def claim(self) -> None:
        """Make the state directory, which gives the name one owner.

        :raises ConflictError: if the identifier is taken.
        """
        os.makedirs(self.root, 0o700, exist_ok=True)
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            raise ConflictError(f"container {self.identifier} already exists", f"in {self.root}") from None

    def save(self) -> None:
        """Write the record; readers see the old one or this one."""
        save(f"{self.directory}/state.json", {name: getattr(self, name) for name in _RECORD})

    @classmethod
    def open(cls, root: str, identifier: str) -> Container:
        """The existing container ``identifier``.  :raises NotFoundError:"""
        container = cls(root, identifier)
        try:
            record = load(f"{container.directory}/state.json")
        except (FileNotFoundError, NotADirectoryError, ContentError):
            if os.path.isdir(container.directory):  # between claim and the first save, or killed there; or damaged
                return container
            raise NotFoundError(f"container {identifier} does not exist", f"in {root}") from None
        for name in _RECORD:
            if name in record:
                setattr(container, name, record[name])
        return container

    def remove(self) -> None:
        """Delete the state directory: by one rename it is gone, whatever happens then."""
        doomed = f"{self.root}/{DOOMED}{self.identifier}.{os.getpid()}"
        discard(doomed)
        os.rename(self.directory, doomed)
        discard(doomed)

    def alive(self) -> bool:
        """Whether the container's first process is still there."""
        return is_alive(self.pid, self.started)

    def adopt(self, pid: int) -> None:
        """Remember and write down ``pid`` as the container's first process."""
        self.pid = pid
        self.started = start_time(pid)
        self.save()

    def status(self) -> str:
        """One of the runtime-spec's states, read from the kernel, never from a stored flag."""
        if not self.pid:
            return CREATING
        if not self.alive():
            return STOPPED
        if os.path.exists(self.gate):
            return CREATED
        from coracle.runtime.group import reopen

        group = reopen(self.cgroup)
        return PAUSED if group is not None and group.frozen else RUNNING

    def report(self, status: str = "") -> dict[str, Any]:
        """The state as the runtime-spec describes it (runtime.md, "State")."""
        status = status or self.status()
        report: dict[str, Any] = {"ociVersion": OCI_VERSION, "id": self.identifier, "status": status}
        if status != STOPPED:
            report["pid"] = self.pid
        report["bundle"] = self.bundle
        if self.annotations:
            report["annotations"] = self.annotations
        return report
