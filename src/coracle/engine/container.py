"""A container of the engine: its records on disk, its name, and what state it is in.

<root>/containers/<id>/container.json  how it was made; written once
                       config.json     the OCI config
                       exit.json       how it last ended
                       log             what it wrote
                       upper/ work/    its own layer, and overlayfs's scratch directory
<run>/containers/<id>/lock             held by whoever makes the container, then by its monitor as long as it lives
                      origin.json      storage root and control group; written before either is there
                      state.json       the process, its group and its monitor, while it runs
<root>/names/<name>                    a link to ../containers/<id>: made in one step, so that a name has one owner

A directory without container.json whose lock is free was left by a killed command (engine/lifecycle, sweep).
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, flock

from coracle.errors import ConflictError, ContentError, NotFoundError, UsageError
from coracle.linux.process import is_alive
from coracle.record import Lock, load, read, save

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.paths import Paths

CREATED, RUNNING, PAUSED, EXITED, DEAD = "created", "running", "paused", "exited", "dead"
_HEX = frozenset("0123456789abcdef")
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")

# Two lists of everyday words: a name that can be said over the phone.
_ADJECTIVES = """
amber bold brave breezy bright brisk calm clear clever coral crisp deep eager early easy fair fast fine fleet
fond free fresh gentle glad golden good grand green happy hardy honest jolly keen kind late light lively long
lucky merry mild misty neat nimble noble old open plain proud pure quick quiet ready rich rosy round salty
sandy silent silver sleek slow smooth snug soft solid spry steady still sunny sure sweet swift tall tidy true
warm wide wild windy wise young
""".split()  # noqa: SIM905 - a list of a hundred quoted words reads worse
_NOUNS = """
anchor bank barge bay beach boat bow buoy canoe cape cliff cloud coast cove creek crew current delta dinghy
dock dune estuary ferry fjord fleet foam fog galley gale gull harbour heron hull inlet island jetty kayak keel
ketch lagoon lake launch ledge lock marina mast oar ocean otter paddle pier pike pond port puffin quay raft
rapids reed reef ridge river rope rudder sail salmon sandbar seal shell shoal shore skiff sloop sound spray
stern strait stream surf swan tern tide trout wave weir wharf whale wind yacht
""".split()  # noqa: SIM905 - a list of a hundred quoted words reads worse


class Container:
    """One container, by its full id."""

    __slots__ = ("_record", "identifier", "paths")

    def __init__(self, paths: Paths, identifier: str) -> None:
        self.paths = paths
        self.identifier = identifier
        self._record: dict[str, Any] | None = None

    @property
    def directory(self) -> str:
        return self.paths.container(self.identifier)

    @property
    def run_directory(self) -> str:
        return self.paths.state(self.identifier)

    @property
    def log_path(self) -> str:
        return f"{self.directory}/log"

    @property
    def record(self) -> dict[str, Any]:
        """How it was made.  :raises NotFoundError: if it is being removed."""
        if self._record is None:
            self._record = self._load(f"{self.directory}/container.json")
            if self._record is None:
                raise NotFoundError(f"no such container: {self.identifier[:12]}")
        return self._record

    @property
    def name(self) -> str:
        return str(self.record["name"])

    @staticmethod
    def _load(path: str) -> dict[str, Any] | None:
        try:
            value: dict[str, Any] = load(path)
        except (FileNotFoundError, NotADirectoryError, ContentError):
            return None
        return value

    def process(self) -> dict[str, Any] | None:
        """The record of the running process, or None."""
        return self._load(f"{self.run_directory}/state.json")

    def origin(self) -> dict[str, Any] | None:
        """``root`` and ``cgroup``, as written down before anything else was made."""
        return self._load(f"{self.run_directory}/origin.json")

    def group(self) -> dict[str, Any]:
        """The record of its control group, {} if it has none."""
        found = self.process() or self.origin() or {}
        return found.get("cgroup") or {}

    def exit(self) -> dict[str, Any] | None:
        """How it last ended: ``code``, ``finished``, ``oom``; or None."""
        return self._load(f"{self.directory}/exit.json")

    def is_monitored(self) -> bool:
        """Whether its monitor lives: the lock is the kernel's word, freed even by kill -9."""
        lock = Lock(f"{self.run_directory}/lock")
        try:
            free = lock.acquire(wait=False)
        except FileNotFoundError:
            return False
        lock.release()
        return not free

    def is_born(self) -> bool:
        """Whether it has been made, or is being made by a process that lives."""
        return os.path.exists(f"{self.directory}/container.json") or self.is_monitored()

    def status(self) -> str:
        """created, running, paused, exited, or dead (its record is unreadable)."""
        if not os.path.exists(f"{self.directory}/container.json"):
            return DEAD
        process = self.process()
        if process and is_alive(process["pid"], process["started"]):
            return self._frozen(process)
        if process is None and self.exit() is None:
            return CREATED
        return EXITED

    @staticmethod
    def _frozen(process: dict[str, Any]) -> str:
        directories = (process.get("cgroup") or {}).get("directories") or {}
        for key, file, mark in (("unified", "cgroup.freeze", b"1"), ("freezer", "freezer.state", b"FRO")):
            if key in directories:
                try:
                    if read(f"{directories[key]}/{file}").startswith(mark):
                        return PAUSED
                except OSError:
                    continue
        return RUNNING

    def save_exit(self, code: int, finished: str, oom: bool = False, error: str = "") -> None:
        save(f"{self.directory}/exit.json", {"code": code, "finished": finished, "oom": oom, "error": error})

    def config(self) -> dict[str, Any]:
        """Its OCI config."""
        value: dict[str, Any] = load(f"{self.directory}/config.json")
        return value


def new_identifier() -> str:
    """64 hexadecimal digits, as Docker's; the first twelve are shown."""
    return os.urandom(32).hex()


def check_name(name: str) -> str:
    """:raises UsageError: if ``name`` is not ``[a-zA-Z0-9][a-zA-Z0-9_.-]*`` (Docker's rule)."""
    if not name or not _NAME.issuperset(name) or name[0] in "_.-":
        raise UsageError(f"container name {name!r} is not valid", "letters, digits, and then _ . - as well")
    if len(name) > 255:
        raise UsageError("container name is longer than 255 characters")
    return name


def random_name() -> str:
    """Two words, such as calm_heron; callers try again when it is taken."""
    first, second = os.urandom(2)
    return f"{_ADJECTIVES[first % len(_ADJECTIVES)]}_{_NOUNS[second % len(_NOUNS)]}"


def claim_name(paths: Paths, identifier: str, wanted: str) -> str:
    """Take ``wanted``, or any free name if it is empty, for ``identifier``, whose directory is there.

    The name of a container that does not exist, or was never finished by a killed command, is free.
    :raises ConflictError: naming the owner.
    """
    os.makedirs(paths.names(), 0o700, exist_ok=True)
    for attempt in range(100):
        name = wanted or random_name() + (f"_{attempt}" if attempt > 9 else "")
        if _claim(paths, identifier, paths.name(name)):
            return name
        if wanted:
            owner = _owner(paths.name(name))
            raise ConflictError(f"the name {name} is already used by container {owner[:12]}", f"coracle rm {name}")
    raise ConflictError("found no free name in 100 attempts", "give one with --name")


def _claim(paths: Paths, identifier: str, path: str) -> bool:
    link = f"../containers/{identifier}"
    try:
        os.symlink(link, path)
        return True
    except FileExistsError:
        if Container(paths, _owner(path)).is_born():
            return False
    guard = _lock_names(paths)
    try:
        if Container(paths, _owner(path)).is_born():
            return False
        _unlink(path)
        os.symlink(link, path)
        return True
    except FileExistsError:
        return False
    finally:
        os.close(guard)


def _lock_names(paths: Paths) -> int:
    """A descriptor that is to be held, and then closed, by whoever takes a name from its owner."""
    guard = os.open(paths.names(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flock(guard, LOCK_EX)
    return guard


def _owner(path: str) -> str:
    """The id behind a name, or "-", which no container has."""
    try:
        return os.path.basename(os.readlink(path)) or "-"
    except OSError:
        return "-"


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def release_name(paths: Paths, name: str, identifier: str) -> None:
    """Give ``name`` back, if it is still this container's."""
    guard = _lock_names(paths)
    try:
        if _owner(paths.name(name)) == identifier:
            _unlink(paths.name(name))
    finally:
        os.close(guard)


def names_of(paths: Paths, identifier: str) -> list[str]:
    """The names of a container whose own record cannot be read."""
    try:
        names = os.listdir(paths.names())
    except FileNotFoundError:
        return []
    return [name for name in names if _owner(paths.name(name)) == identifier]


def release_ownerless(paths: Paths) -> None:
    """Free the names of containers that are gone: removed by a command that was killed just then."""
    try:
        names = os.listdir(paths.names())
    except FileNotFoundError:
        return
    for name in names:
        owner = _owner(paths.name(name))
        if not os.path.isdir(paths.container(owner)):
            release_name(paths, name, owner)


def all_containers(paths: Paths) -> list[Container]:
    """Every container with a readable record, newest first."""
    try:
        names = os.listdir(paths.containers())
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        container = Container(paths, name)
        try:
            if not _HEX.issuperset(name):  # on its way out
                continue
            found.append((str(container.record["created"]), container))
        except NotFoundError:
            continue
    return [container for _, container in sorted(found, key=lambda pair: pair[0], reverse=True)]


def find(paths: Paths, wanted: str) -> Container:
    """The container that a name, an id or a unique prefix of an id means.

    :raises NotFoundError: :raises UsageError: if several ids begin so.
    """
    if wanted and _NAME.issuperset(wanted):
        identifier = _owner(paths.name(wanted))
        if os.path.isdir(paths.container(identifier)):
            return Container(paths, identifier)
        if _HEX.issuperset(wanted):
            try:
                names = os.listdir(paths.containers())
            except FileNotFoundError:
                names = []
            matches = [name for name in names if name.startswith(wanted) and _HEX.issuperset(name)]
            if len(matches) > 1:
                raise UsageError(f"{wanted} means {len(matches)} containers", "give more digits of the id")
            if matches:
                return Container(paths, matches[0])
    raise NotFoundError(f"no such container: {wanted}", "coracle ps -a lists them")
