"""Stopping, signalling and waiting for all processes of a group.

cgroup-v2.rst, cgroup.freeze and cgroup.kill; cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import os
import select
from time import monotonic, sleep

from coracle.errors import KernelError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.hierarchy import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.linux.cgroup.group import Cgroup

_ENOENT, _ESRCH, _EBUSY, _ENODEV, _EOPNOTSUPP = 2, 3, 16, 19, 95
_GONE = (_ENOENT, _ENODEV)
_SIGKILL = 9


def freeze(group: Cgroup, timeout: float) -> None:
    """Stop all processes of ``group``; prefers version 2, whose frozen processes can still be killed.

    :raises KernelError: see :meth:`Cgroup.freeze`; the group is thawed then.
    """
    deadline = monotonic() + timeout
    unified, legacy = group.directories.get(UNIFIED), group.directories.get("freezer")
    if unified and os.path.exists(f"{unified}/cgroup.freeze"):
        path, stop = f"{unified}/cgroup.freeze", _freeze_unified
    elif legacy:
        path, stop = f"{legacy}/freezer.state", _freeze_legacy
    else:
        raise KernelError(_EOPNOTSUPP, "freeze", group.path, "needs cgroup v2 (Linux 5.2) or the v1 freezer controller")
    try:
        stopped = stop(path, deadline)
    except OSError as error:
        raise KernelError(error.errno or 0, "freeze", path) from error
    except BaseException:
        thaw(group)
        raise
    if not stopped:
        thaw(group)
        raise KernelError(_EBUSY, "freeze", path, f"not after {timeout:g} s: a process is in an uninterruptible call")


def _freeze_unified(path: str, deadline: float) -> bool:
    files.write(path, "1")
    return _wait_event(f"{os.path.dirname(path)}/cgroup.events", "frozen 1", deadline)


def _freeze_legacy(path: str, deadline: float) -> bool:
    """Write until it holds: FREEZING sticks if a process forks at the wrong moment, and writing again retries."""
    pause = 0.0002
    while True:
        files.write(path, "FROZEN")
        if files.read(path).startswith("FROZEN"):
            return True
        if monotonic() > deadline:
            return False
        sleep(pause)
        pause = min(pause * 2, 0.01)


def _wait_event(path: str, line: str, deadline: float) -> bool:
    """Wait until ``line`` is in cgroup.events, whose changes poll(2) reports as POLLPRI (cgroup-v2.rst)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while True:
            if line in os.pread(fd, 4096, 0).decode():
                return True
            left = deadline - monotonic()
            if left <= 0:
                return False
            # No longer than 50 ms: a change between the read and the poll is reported, but cheap insurance.
            poll.poll(min(left * 1000, 50))
    except OSError as error:
        if error.errno in _GONE:
            return line == "populated 0"
        raise
    finally:
        os.close(fd)


def thaw(group: Cgroup) -> None:
    """Undo both freezers.  :raises KernelError: if one refuses; a group that is gone is fine."""
    for hierarchy, file, value in ((UNIFIED, "cgroup.freeze", "0"), ("freezer", "freezer.state", "THAWED")):
        if hierarchy in group.directories:
            path = f"{group.directories[hierarchy]}/{file}"
            try:
                files.write(path, value)
            except OSError as error:
                if error.errno not in _GONE:
                    raise KernelError(error.errno or 0, "thaw", path) from error


def kill(group: Cgroup, signal: int) -> None:
    """See :meth:`Cgroup.kill`."""
    unified = group.directories.get(UNIFIED)
    if signal == _SIGKILL and unified and _kill_at_once(f"{unified}/cgroup.kill"):
        if "freezer" in group.directories:
            thaw(group)  # what the version 1 freezer stopped dies only when it runs
        return
    signal_all(group, signal)


def _kill_at_once(path: str) -> bool:
    try:
        files.write(path, "1")
    except OSError as error:
        # No such file: an old kernel, or the group is gone and the other way finds nobody.
        # EOPNOTSUPP: a threaded group.
        if error.errno in (*_GONE, _EOPNOTSUPP):
            return False
        raise KernelError(error.errno or 0, "kill all processes by", path) from error
    return True


def signal_all(group: Cgroup, signal: int) -> None:
    """Send ``signal`` to each process while the group is frozen, so that none forks away or is missed.

    Without a freezer (or if it does not take), passes are repeated until they find nobody new.
    """
    was_frozen = group.frozen
    try:
        if not was_frozen:
            freeze(group, 2.0)
        _signal_each(group, signal, set())
    except KernelError as error:
        if error.what != "freeze":
            raise
        _signal_passes(group, signal)
    finally:
        if signal == _SIGKILL or not was_frozen:
            thaw(group)


def _signal_passes(group: Cgroup, signal: int) -> None:
    sent: set[int] = set()
    for _ in range(100):
        if not _signal_each(group, signal, sent):
            return
        sleep(0.001)


def _signal_each(group: Cgroup, signal: int, sent: set[int]) -> bool:
    """Signal those not in ``sent`` yet; whether there were any."""
    new = [pid for pid in group.processes() if pid not in sent]
    for pid in new:
        sent.add(pid)
        try:
            os.kill(pid, signal)
        except ProcessLookupError:
            continue
        except OSError as error:
            raise KernelError(error.errno or 0, f"send signal {signal} to process", str(pid)) from error
    return bool(new)


def wait_empty(group: Cgroup, timeout: float) -> bool:
    """See :meth:`Cgroup.wait_empty`."""
    deadline = monotonic() + timeout
    unified = group.directories.get(UNIFIED)
    if unified:
        return _wait_event(f"{unified}/cgroup.events", "populated 0", deadline) or not group.populated
    pause = 0.001
    while group.processes():
        if monotonic() > deadline:
            return False
        sleep(pause)
        pause = min(pause * 2, 0.02)
    return True
