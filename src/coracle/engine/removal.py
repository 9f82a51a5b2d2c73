"""Removing a container: its group, its directories, its name.  Each part may be gone already."""

from __future__ import annotations

import os
from errno import ENOENT

from coracle.engine.container import Container, names_of, release_name
from coracle.errors import CoracleError, KernelError
from coracle.image.removal import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from coracle.paths import Paths


def remove_group(record: dict[str, Any]) -> None:
    """Delete the control group in ``record``; the plain case takes one rmdir(2) a directory.

    :raises CoracleError: if processes remain in it.
    """
    if not record:
        return
    own = set(record["directories"].values())
    for directory in reversed(record["made"] or []):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:
            if directory not in own:
                continue  # a parent that others use
            from coracle.runtime.group import reopen

            group = reopen(record)
            if group is not None:
                group.kill(9)
                group.delete()
            return


def remove_directories(paths: Paths, identifier: str, names: Sequence[str] = ()) -> None:
    """Delete the container's directories and free its ``names``.

    First it vanishes, by a rename each, then the names are free, then the files are deleted: killed
    in between, it is either still there with its name, or gone but for files that ``sweep`` deletes.
    """
    remove_vanished(vanish(paths, identifier, names))


def vanish(paths: Paths, identifier: str, names: Sequence[str] = ()) -> list[str]:
    """The quick first half of :func:`remove_directories`: nobody sees the container any more; what to delete."""
    doomed = []
    for directory in (paths.container(identifier), paths.state(identifier)):
        try:
            os.rename(directory, f"{directory}.removed")
        except NotADirectoryError:  # the storage root is a file: nothing was made there
            continue
        except FileNotFoundError:
            pass
        doomed.append(f"{directory}.removed")
    for name in names:
        release_name(paths, name, identifier)
    return doomed


def remove_vanished(doomed: list[str]) -> None:
    """The second half: delete the files."""
    for directory in doomed:
        discard(directory)


def discard(directory: str) -> None:
    """Delete a tree that is nobody's any more; another command may be at it at the same time."""
    while True:
        try:
            remove_tree(directory)
            return
        except KernelError as error:
            if error.errno != ENOENT:
                raise


def remove(container: Container) -> None:
    """Delete everything of a container that does not run.

    :raises CoracleError: if something of it cannot be deleted.
    """
    remove_group(container.group())
    try:
        names = [container.name]
    except CoracleError:  # killed before it was written down, or damaged
        names = names_of(container.paths, container.identifier)
    remove_directories(container.paths, container.identifier, names)
