"""Removing a container: its group, its directories, its name.  Each part may be gone already."""

from __future__ import annotations

import os

from coracle.engine.container import Container, release_name
from coracle.errors import CoracleError
from coracle.image.removal import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
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


def remove_directories(paths: Paths, identifier: str) -> None:
    """Delete the container's directories; its record goes first, so that nobody takes the rest for a container."""
    for directory in (paths.state(identifier), paths.container(identifier)):
        doomed = f"{directory}.removed"
        try:
            os.rename(directory, doomed)
        except FileNotFoundError:
            pass
        remove_tree(doomed)


def remove(container: Container) -> None:
    """Delete everything of a container that does not run.

    :raises CoracleError: if something of it cannot be deleted.
    """
    process = container.process()
    name = ""
    try:
        name = container.name
    except CoracleError:  # killed half-way through an earlier removal
        pass
    if process:
        remove_group(process.get("cgroup") or {})
    if name:
        release_name(container.paths, name, container.identifier)
    remove_directories(container.paths, container.identifier)
