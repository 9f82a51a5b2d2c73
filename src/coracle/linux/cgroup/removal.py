"""Removing a group with all its descendants, without trusting whoever made those."""

from __future__ import annotations

import os
from time import monotonic, sleep

from coracle.errors import KernelError
from coracle.linux.shell import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.linux.cgroup.group import Cgroup

_ENOENT, _EBUSY, _ENODEV, _ENOTEMPTY = 2, 16, 19, 39
_GONE = (_ENOENT, _ENODEV)
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def remove(group: Cgroup, timeout: float) -> None:
    """Remove the directories ``group.made``.  :raises KernelError: see :meth:`Cgroup.delete`."""
    deadline = monotonic() + timeout
    leaves = set(group.directories.values())
    failed: OSError | None = None
    for directory in reversed(group.made or []):
        try:
            if directory in leaves:
                remove_tree(directory, deadline)
            else:
                _try_remove(directory, None)  # a parent that others use by now stays
        except OSError as error:
            failed = failed or error
    if failed:
        pids = group.processes()
        hint = f"processes still in it: {' '.join(map(str, pids[:10]))}" if pids else ""
        raise KernelError(failed.errno or 0, "remove control group", str(failed.filename), hint) from failed


def shell(group: Cgroup) -> list[str]:
    """Removing the group as shell lines."""
    leaves = set(group.directories.values())
    made = group.prepare()
    lines = [f"find {quote(path)} -depth -type d -exec rmdir {{}} +" for path in made if path in leaves]
    return lines + [f"rmdir {quote(path)} 2>/dev/null || :" for path in reversed(made) if path not in leaves]


def remove_tree(directory: str, deadline: float) -> None:
    """Remove a group and its descendants, deepest first; one that is gone is fine.

    One descriptor and one name at a time, because the payload decides how deep it goes: neither
    recursion, nor the length of a path, nor the number of descriptors may be the limit.
    :raises OSError: EBUSY after ``deadline`` (of time.monotonic()), with processes in it.
    """
    if _try_remove(directory, None):
        return
    names: list[str] = []
    fd = os.open(directory, _OPEN)
    try:
        while True:
            if monotonic() > deadline:
                raise OSError(_EBUSY, os.strerror(_EBUSY), directory)
            child = _first_child(fd)
            if child is not None:
                fd = _exchange(fd, child)
                names.append(child)
            elif names:
                fd = _exchange(fd, "..")
                _remove(names.pop(), fd, directory, deadline)
            else:
                break
    finally:
        os.close(fd)
    _remove(directory, None, directory, deadline)


def _first_child(fd: int) -> str | None:
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                return entry.name
    return None


def _exchange(fd: int, name: str) -> int:
    """Exchange ``fd`` for the directory ``name`` of it; ``..`` is safe, since groups cannot be moved."""
    new = os.open(name, _OPEN, dir_fd=fd)
    os.close(fd)
    return new


def _try_remove(name: str, parent: int | None) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        if error.errno in _GONE:
            return True
        if error.errno in (_EBUSY, _ENOTEMPTY):
            return False
        raise
    return True


def _remove(name: str, parent: int | None, top: str, deadline: float) -> None:
    """rmdir(2), again and again while processes are dying in it.  :raises OSError: EBUSY after ``deadline``."""
    pause = 0.0005
    while not _try_remove(name, parent):
        if monotonic() > deadline:
            raise OSError(_EBUSY, os.strerror(_EBUSY), top)
        sleep(pause)
        pause = min(pause * 2, 0.02)
