"""A container of the engine: its records on disk, its name, and what state it is in.

<root>/containers/<id>/container.json  how it was made; written once
                       config.json     the OCI config
                       exit.json       how it last ended
                       log             what it wrote
                       upper/ work/    its own layer, and overlayfs's scratch directory
<run>/containers/<id>/state.json       the process, its group and its monitor, while it runs
                      lock             held by the monitor as long as it lives
<root>/names/<name>                    the id; created exclusively, so that a name has one owner
"""

from __future__ import annotations

import os

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
        except (FileNotFoundError, ContentError):
            return None
        return value

    def process(self) -> dict[str, Any] | None:
        """The record of the running process, or None."""
        return self._load(f"{self.run_directory}/state.json")

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
    """Take ``wanted``, or any free name if it is empty, for ``identifier``.

    The file is created exclusively; one that a killed command left for a container that does not
    exist is taken over.
    :raises ConflictError: naming the owner.
    """
    os.makedirs(paths.names(), 0o700, exist_ok=True)
    for attempt in range(100):
        name = wanted or random_name() + (f"_{attempt}" if attempt > 9 else "")
        path = paths.name(name)
        temporary = f"{path}.{os.getpid()}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, identifier.encode())
            if _link(paths, temporary, path):
                return name
        finally:
            os.close(fd)
            os.unlink(temporary)
        if wanted:
            owner = _owner(path)
            raise ConflictError(f"the name {name} is already used by container {owner[:12]}", f"coracle rm {name}")
    raise ConflictError("found no free name in 100 attempts", "give one with --name")


def _link(paths: Paths, temporary: str, path: str) -> bool:
    for _ in range(2):
        try:
            os.link(temporary, path)
        except FileExistsError:
            owner = _owner(path)
            if owner and os.path.isdir(paths.container(owner)):
                return False
            try:
                os.unlink(path)  # left by a command that was killed before it made the container
            except FileNotFoundError:
                pass
        else:
            return True
    return False


def _owner(path: str) -> str:
    try:
        return read(path).decode()
    except FileNotFoundError:
        return ""


def release_name(paths: Paths, name: str, identifier: str) -> None:
    """Give ``name`` back, if it is still this container's."""
    if _owner(paths.name(name)) == identifier:
        os.unlink(paths.name(name))


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
        if identifier and os.path.isdir(paths.container(identifier)):
            return Container(paths, identifier)
        if _HEX.issuperset(wanted):
            try:
                matches = [name for name in os.listdir(paths.containers()) if name.startswith(wanted)]
            except FileNotFoundError:
                matches = []
            if len(matches) > 1:
                raise UsageError(f"{wanted} means {len(matches)} containers", "give more digits of the id")
            if matches:
                return Container(paths, matches[0])
    raise NotFoundError(f"no such container: {wanted}", "coracle ps -a lists them")
