"""Which processes are in a group, and moving one there (cgroups(7), cgroup.procs)."""

from __future__ import annotations

import os
from time import sleep

from coracle.errors import KernelError
from coracle.linux.cgroup import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ENOENT, _EINVAL, _ENODEV, _EOPNOTSUPP = 2, 22, 19, 95
# Gone, gone after the file was opened, or a threaded group, whose processes its domain lists.
_NOBODY = (_ENOENT, _ENODEV, _EOPNOTSUPP)


def of(directory: str) -> list[int]:
    """Processes of one group; those outside of our pid namespace read as 0 and are left out."""
    try:
        words = files.read(f"{directory}/cgroup.procs").split()
    except OSError as error:
        if error.errno in _NOBODY:
            return []
        raise
    return [int(word) for word in words if word != "0"]


def below(directory: str) -> Iterator[int]:
    """Processes of a group and of its descendants, while groups may come and go."""
    stack = [directory]
    while stack:
        current = stack.pop()
        yield from of(current)
        try:
            with os.scandir(current) as entries:
                stack += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # removed meanwhile


def move(pid: int, directory: str) -> None:
    """Move process ``pid`` with all its threads into a group.  :raises KernelError:"""
    path = f"{directory}/cgroup.procs"
    for patience in range(5):
        try:
            files.write(path, str(pid))
        except OSError as error:
            # EINVAL: the process is still being forked (TASK_NEW)
            if error.errno != _EINVAL or patience == 4:
                raise KernelError(error.errno or 0, f"move process {pid} to", path) from error
            sleep(0.01)
        else:
            return
