"""Verbs on existing containers: stop, kill, wait, remove; and making sense of what a crash left."""

from __future__ import annotations

import os
import select
from fcntl import LOCK_EX, flock

from coracle.engine.container import DEAD, EXITED, PAUSED, RUNNING, Container, release_ownerless
from coracle.engine.removal import discard, remove, remove_group
from coracle.errors import ConflictError, CoracleError
from coracle.linux import process as processes
from coracle.linux.signals import signal_number
from coracle.record import Lock
from coracle.runtime.group import reopen
from coracle.runtime.state import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.paths import Paths

SIGTERM, SIGKILL = 15, 9
KILLED = 137
_SETTLE_MS = 10_000  # how long a monitor may take to write down the end of its container


def reconcile(container: Container) -> str:
    """The status of ``container``, after tidying up behind a monitor that was killed.

    A container whose first process and monitor are both gone without a word gets exit code 137
    and loses its group; one with ``--rm`` is removed, as its monitor would have done.
    """
    status = container.status()
    if status != EXITED or container.is_monitored():
        return status
    process = container.process()  # read again: from here on no monitor changes it
    if process is None:
        return status
    remove_group(process.get("cgroup") or {})
    if container.record.get("remove"):
        remove(container)
        return DEAD
    try:
        container.save_exit(KILLED, now(), error="the monitor was killed")
        _forget(container)
    except OSError:  # a full disk; the next command tries again
        pass
    return EXITED


def _forget(container: Container) -> None:
    try:
        os.unlink(f"{container.run_directory}/state.json")
    except FileNotFoundError:
        pass


def sweep(paths: Paths) -> None:
    """Remove what killed commands left before it became a container, or while they removed one."""
    for base in (paths.containers(), paths.running()):
        for name in _entries(base):
            if name.endswith(".removed"):
                discard(f"{base}/{name}")
    for name in _entries(paths.containers()):
        if not os.path.exists(f"{paths.containers()}/{name}/container.json"):
            _remove_unborn(Container(paths, name))
    for name in _entries(paths.running()):
        if not os.path.exists(paths.container(name)):
            _remove_unborn(Container(paths, name))
    release_ownerless(paths)


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _remove_unborn(container: Container) -> None:
    """A directory without a record: being made right now (its lock is held) or left by a kill -9.

    Several storage roots may share a run directory; what another root is written down for is left alone.
    """
    if not os.path.isdir(container.paths.running()):
        return
    nursery = os.open(container.paths.running(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lock = Lock(f"{container.run_directory}/lock")
    try:
        flock(nursery, LOCK_EX)  # so that a directory has its lock, or nobody who will take it
        try:
            if not lock.acquire(wait=False):
                return
        except FileNotFoundError:  # there is no such directory
            pass
        origin = container.origin()
        if origin is not None and origin["root"] != container.paths.root:
            return
        if not os.path.exists(f"{container.directory}/container.json"):  # it may have been born and ended meanwhile
            remove(container)
    finally:
        lock.release()
        os.close(nursery)


def kill(container: Container, signal: int) -> None:
    """Signal the container's first process.  :raises ConflictError: if it does not run."""
    process = container.process()
    status = reconcile(container)
    if status not in (RUNNING, PAUSED) or process is None:
        raise ConflictError(f"cannot kill container {container.name}: it is {status}")
    try:
        fd = processes.pidfd(process["pid"], process["started"])
    except ProcessLookupError:
        raise ConflictError(f"cannot kill container {container.name}: it has just ended") from None
    try:
        processes.send_signal(fd, signal)
    finally:
        os.close(fd)
    if signal == SIGKILL and status == PAUSED and (group := reopen(process["cgroup"])):
        group.thaw()


def stop(container: Container, timeout: int | None = None, signal: int = 0) -> None:
    """Ask with the stop signal, wait ``timeout`` seconds (-1: for ever), then kill; returns when it has ended.

    A container that does not run is stopped already.
    """
    process = container.process()
    status = reconcile(container)
    if status not in (RUNNING, PAUSED) or process is None:
        return
    patience = timeout if timeout is not None else container.record.get("stop_timeout")
    patience = 10 if patience is None else patience
    chosen = signal or signal_number(container.record.get("stop_signal") or "TERM")
    try:
        fd = processes.pidfd(process["pid"], process["started"])
    except ProcessLookupError:
        return
    try:
        if status == PAUSED and (group := reopen(process["cgroup"])):
            group.thaw()
        processes.send_signal(fd, chosen)
        if not _ended(fd, patience * 1000 if patience >= 0 else None):
            processes.send_signal(fd, SIGKILL)
            _ended(fd, None)
    except ProcessLookupError:
        pass
    finally:
        os.close(fd)
    settle(container)


def _ended(pidfd: int, milliseconds: int | None) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def settle(container: Container) -> None:
    """Wait until the monitor has written down the end and let go of its lock, or tidy up in its place."""
    deadline = _SETTLE_MS
    poll = select.poll()
    while container.is_monitored() and deadline > 0:
        poll.poll(5)
        deadline -= 5
    if os.path.isdir(container.directory):
        reconcile(container)


def wait(container: Container) -> int:
    """Block until the container has ended; its exit code.  One that was never started is waited for too."""
    poll = select.poll()
    while True:
        process = container.process()
        if process is None:
            ended = container.exit()
            if ended is not None:
                return int(ended["code"])
            if not os.path.isdir(container.directory):
                raise CoracleError(f"container {container.identifier[:12]} was removed while it was waited for")
            poll.poll(50)
            continue
        try:
            fd = processes.pidfd(process["pid"], process["started"])
            _ended(fd, None)
            os.close(fd)
        except ProcessLookupError:
            pass
        settle(container)


def delete(container: Container, force: bool = False) -> None:
    """Remove the container; with ``force`` a running one is killed first.

    :raises ConflictError: if it runs and ``force`` is not set.
    """
    status = reconcile(container) if os.path.exists(f"{container.directory}/container.json") else DEAD
    if status in (RUNNING, PAUSED):
        if not force:
            raise ConflictError(
                f"cannot remove container {container.name}: it is {status}", "stop it first, or use --force"
            )
        stop(container, 0, SIGKILL)
    if os.path.isdir(container.directory):
        remove(container)
