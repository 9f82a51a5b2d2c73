"""The merged file system of a container, as an archive."""

from __future__ import annotations

import os
import sys

from coracle.engine.container import PAUSED, RUNNING, Container
from coracle.errors import UnsupportedError
from coracle.image.diff import export
from coracle.linux import mount
from coracle.linux.namespace import CLONE_NEWNS, unshare


def export_container(container: Container, path: str) -> None:
    """Write what the container's root shows to ``path``, or to standard output if it is empty.

    A file is complete or absent.  Volumes and other mounts are left out, as by docker.
    :raises UnsupportedError: for a container of this machine's clone that does not run.
    """
    directory = open_root(container)
    root = f"/proc/self/fd/{directory}"
    try:
        if not path:
            export(root, sys.stdout.buffer)
            return
        temporary = f"{path}.{os.getpid()}.new"
        try:
            with open(temporary, "wb") as out:
                export(root, out)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    finally:
        os.close(directory)


def open_root(container: Container) -> int:
    """A directory descriptor of the container's root, without what is mounted inside.

    A running container's is taken from its first process, another one's layers are mounted
    for this process alone.
    """
    process = container.process()
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if container.status() in (RUNNING, PAUSED) and process is not None:
        from coracle.linux.namespace import setns

        namespace = os.open(f"/proc/{process['pid']}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        unshare(CLONE_NEWNS)
        setns(namespace)
        tree = mount.clone_tree(mount.AT_FDCWD, "/")
        setns(here)
        return os.open(".", flags, dir_fd=tree)
    lower = container.record["lower"]
    upper = f"{container.directory}/upper"
    if not os.path.isdir(upper) or lower == ["/"]:
        if lower and lower != ["/"]:
            return os.open(lower[0], flags)
        raise UnsupportedError("cannot export a clone of this machine that does not run", "export it while it runs")
    unshare(CLONE_NEWNS)
    options: list[tuple[str, str | int | None]] = [("userxattr", None)] if container.record["maps"] else []
    return os.open(".", flags, dir_fd=mount.overlay([upper, *lower], options=options))
