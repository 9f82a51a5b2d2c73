"""Mounts that other container tools need and that nobody else should see: for use in a private mount namespace.

The one odd thing is hugetlb.  On a machine with hybrid cgroups where the hugetlb controller is not mounted as v1,
cgroup2 offers it, and crun refuses to work at all ("cgroups in hybrid mode not supported").  Mounted as v1 it works.
The controller's place is global, though: while the hierarchy exists, /proc/self/cgroup names it in every process.  So
it is mounted for as long as a peer works and taken away properly afterwards.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
PATIENCE = 10  # seconds for the kernel to let go of dead cgroups


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def mount_tmpfs(target: str) -> None:
    mount("-t", "tmpfs", "-o", "mode=755", "private", target)


def hierarchies() -> list[Path]:
    """The root of every mounted cgroup hierarchy: one on a pure v2 machine, a dozen on v1 or hybrid."""
    if (CGROUP / "cgroup.procs").exists():
        return [CGROUP]
    return [path for path in sorted(CGROUP.iterdir()) if (path / "cgroup.procs").exists() and not path.is_symlink()]


def mount_hugetlb() -> bool:
    """Mount the hugetlb controller as v1 where it exists and is not mounted: True when it was done."""
    if (CGROUP / "cgroup.procs").exists() or (CGROUP / "hugetlb/cgroup.procs").exists():
        return False
    if "hugetlb" not in Path("/proc/cgroups").read_text():
        return False
    # A new directory in the host's tmpfs would be visible to all, so the tmpfs is replaced.
    top = Path("/mnt")
    mount_tmpfs(str(top))
    for hierarchy in hierarchies():
        (top / hierarchy.name).mkdir()
        mount("--bind", str(hierarchy), str(top / hierarchy.name))
    (top / "hugetlb").mkdir()
    mount("-t", "cgroup", "-o", "hugetlb", "hugetlb", str(top / "hugetlb"))
    subprocess.run(["umount", "-R", str(CGROUP)], check=True)
    mount("--move", str(top), str(CGROUP))
    return True


def unmount_hugetlb() -> None:
    """Unmount it once the kernel has let go of the last child cgroup.

    A hierarchy whose children are still dying survives its last unmount (cgroup_kill_sb in kernel/cgroup/cgroup.c):
    named in everybody's /proc/self/cgroup, mounted nowhere, and a crun outside makes plain directories in its place.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lines = Path("/proc/cgroups").read_text().splitlines()
        if any(line.split()[0] == "hugetlb" and line.split()[2] == "1" for line in lines):
            break
        time.sleep(0.005)
    subprocess.run(["umount", str(CGROUP / "hugetlb")], check=True)


def top_level_cgroups() -> set[Path]:
    return {entry for root in hierarchies() for entry in root.iterdir() if entry.is_dir()}


def remove_cgroups(before: set[Path], is_ours: Callable[[str], bool]) -> None:
    """Remove top-level cgroups that are ``is_ours`` by name and were not there ``before``, with all below.

    Only empty ones go; for some seconds it is tried again, because a dying process holds its cgroup a little longer.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        left = [entry for entry in top_level_cgroups() - before if is_ours(entry.name)]
        if not left:
            return
        for directory in left:
            for parent, _, _ in os.walk(directory, topdown=False):
                try:
                    os.rmdir(parent)
                except OSError:
                    pass
        time.sleep(0.01)
