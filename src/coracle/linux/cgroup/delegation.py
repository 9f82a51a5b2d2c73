"""What somebody without root may do with control groups, and handing a group to somebody (cgroups(7), Delegation)."""

from __future__ import annotations

import os

from coracle.errors import KernelError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.hierarchy import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.linux.cgroup.group import Cgroup

_DELEGATE_LIST = "/sys/kernel/cgroup/delegate"
_DELEGATE_DEFAULT = "cgroup.procs cgroup.threads cgroup.subtree_control"


class Delegation:
    """``writable`` hierarchies for a group, and ``refused`` ones with the reason of each."""

    __slots__ = ("refused", "writable")

    def __init__(self, writable: list[str], refused: dict[str, str]) -> None:
        self.writable = writable
        self.refused = refused

    def __repr__(self) -> str:
        return f"Delegation(writable={self.writable}, refused={self.refused})"


def examine(group: Cgroup) -> Delegation:
    """Find out in which hierarchies this process could make ``group`` and enter it; changes nothing.

    Follow it with ``group.restrict(result.writable)`` and one warning of what is not enforced.
    """
    writable, refused = [], {}
    for name, directory in group.directories.items():
        reason = _refusal(name, directory, group.tops[name])
        if reason:
            refused[name] = reason
        else:
            writable.append(name)
    return Delegation(writable, refused)


def delegated(group: Cgroup) -> bool:
    """Whether this process could make ``group`` in all of its hierarchies."""
    return not examine(group).refused


def _refusal(name: str, directory: str, top: str) -> str:
    """Why the deepest directory that exists cannot take a child and processes from us, or nothing."""
    while not os.path.isdir(directory) and len(directory) > len(top):
        directory = os.path.dirname(directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        if os.statvfs(directory).f_flag & os.ST_RDONLY:
            return f"{directory} is mounted read-only"
        return f"{directory} is not delegated to user {os.geteuid()}"
    # To enter a version 2 group one must be allowed to write cgroup.procs of the common ancestor
    # of the old and the new group; in a delegated tree that is the group found here.
    if name == UNIFIED and not os.access(f"{directory}/cgroup.procs", os.W_OK):
        return f"{directory}/cgroup.procs is not delegated to user {os.geteuid()}"
    return ""


def give(group: Cgroup, uid: int, gid: int) -> None:
    """Let ``uid`` manage the version 2 group from inside: its directory and the files the kernel lists for it.

    Limits stay with us, for their files are not in that list.  :raises KernelError:
    """
    directory = group.directories.get(UNIFIED)
    if not directory:
        return
    names = (files.read_if_there(_DELEGATE_LIST) or _DELEGATE_DEFAULT).split()
    for path in (directory, *(f"{directory}/{name}" for name in names)):
        try:
            os.chown(path, uid, gid)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise KernelError(error.errno or 0, f"give to user {uid}", path) from error
