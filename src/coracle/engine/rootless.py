"""The user namespace in which a user without root owns a store and runs containers (user_namespaces(7)).

Two rungs: with ranges in /etc/subuid and /etc/subgid the container has 65536 ids, given by
newuidmap(1); without, it has one, the user's own as root.
"""

from __future__ import annotations

import os

from coracle.errors import CoracleError, UnsupportedError
from coracle.linux import namespace
from coracle.linux.namespace import IdMap
from coracle.linux.process import PR_SET_DUMPABLE, prctl
from coracle.record import read

_SEARCH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin")

Maps = tuple[list[IdMap], list[IdMap]]


def needed() -> bool:
    """Whether this process is an ordinary user who must enter a namespace first."""
    return os.geteuid() != 0


def subordinate_ids(path: str, owners: tuple[str, ...]) -> list[tuple[int, int]]:
    """(first, count) ranges that ``path``, /etc/subuid or /etc/subgid, gives any of ``owners`` (subuid(5))."""
    try:
        text = read(path).decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in owners and fields[1].isdigit() and fields[2].isdigit():
            found.append((int(fields[1]), int(fields[2])))
    return found


def choose_maps() -> Maps:
    """Id maps for this user: himself as root, then his ranges, if newuidmap(1) is there to grant them."""
    uid, gid = os.getuid(), os.getgid()
    owners = (str(uid), _login_name(uid))
    ranges = subordinate_ids("/etc/subuid", owners), subordinate_ids("/etc/subgid", owners)
    if not all(ranges) or not _tool("newuidmap") or not _tool("newgidmap"):
        return [IdMap(0, uid, 1)], [IdMap(0, gid, 1)]
    return _stack(uid, ranges[0]), _stack(gid, ranges[1])


def _stack(own: int, ranges: list[tuple[int, int]]) -> list[IdMap]:
    maps, inside = [IdMap(0, own, 1)], 1
    for first, count in ranges:
        maps.append(IdMap(inside, first, count))
        inside += count
    return maps


def _login_name(uid: int) -> str:
    """The user's name by /etc/passwd; no name service is asked, which may hang (nsswitch.conf(5))."""
    try:
        lines = read("/etc/passwd").decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.split(":")[0] for line in lines if line.split(":")[2:3] == [str(uid)]), "")


def _tool(name: str) -> str:
    return next((f"{place}/{name}" for place in _SEARCH if os.access(f"{place}/{name}", os.X_OK)), "")


def enter() -> Maps:
    """Move this process, which must have one thread, into a new user namespace as its root; the maps it got.

    :raises UnsupportedError: if user namespaces are closed to this user.
    :raises CoracleError: if newuidmap(1) refuses.
    """
    maps = choose_maps()
    ready, done = os.pipe(), os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(ready[1])
        os.close(done[0])
        _map_parent(parent, maps, ready[0], done[1])
    try:
        _unshare()
    finally:
        for fd in (ready[0], ready[1], done[1]):
            os.close(fd)  # closing the write end tells the helper that the namespace is there
    message = os.read(done[0], 4096).decode("utf-8", "replace")
    os.close(done[0])
    os.waitpid(helper, 0)
    if message:
        raise CoracleError(message, "see coracle doctor")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return maps


def _unshare() -> None:
    prctl(PR_SET_DUMPABLE, 1)  # newuidmap opens /proc/PID, which must belong to the user
    try:
        namespace.unshare(namespace.CLONE_NEWUSER)
    except OSError as error:
        raise UnsupportedError(
            f"cannot make a user namespace: {os.strerror(error.errno or 0).lower()}",
            "this machine keeps them from ordinary users: see coracle doctor for the switch, or run as root",
        ) from error


def _map_parent(parent: int, maps: Maps, ready: int, done: int) -> None:
    """In the helper, which stays outside of the namespace: write the maps, or have them written."""
    problem = "cannot write the id maps"
    try:
        os.read(ready, 1)
        problem = _write_maps(parent, maps)
    except OSError as error:
        problem = f"cannot write the id maps: {error.strerror}"
    finally:
        os.write(done, problem.encode())
        os._exit(0)


def _write_maps(parent: int, maps: Maps) -> str:
    if len(maps[0]) == 1:
        namespace.write_file(f"/proc/{parent}/setgroups", "deny")
        namespace.write_file(f"/proc/{parent}/gid_map", f"{maps[1][0]}\n")
        namespace.write_file(f"/proc/{parent}/uid_map", f"{maps[0][0]}\n")
        return ""
    for tool, lines in (("newgidmap", maps[1]), ("newuidmap", maps[0])):
        numbers = [str(n) for line in lines for n in (line.inside, line.outside, line.size)]
        pid = os.posix_spawn(_tool(tool), [tool, str(parent), *numbers], {})
        if os.waitpid(pid, 0)[1]:
            return f"{tool} refused the ranges of /etc/sub{tool[3]}id for this user"
    return ""
