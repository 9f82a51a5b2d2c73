"""The mount API by file descriptor: fsopen(2), open_tree(2), move_mount(2), mount_setattr(2), openat2(2).

A mount is made detached, named only by its descriptor, and attached to a target that was opened
with ``RESOLVE_IN_ROOT``.  No path that an image controls is ever handed to the kernel for a
second look-up: that is the answer to CVE-2019-19921, CVE-2021-30465, CVE-2023-27561 and
CVE-2024-45310.  Needs Linux 5.12; overlay lower directories by name need 6.5, see :func:`overlay`.
"""

from __future__ import annotations

import os
from struct import pack

from coracle.linux.syscall import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Option = tuple[str, str | int | None]

AT_FDCWD = -100
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100

# include/uapi/linux/mount.h
ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_ATIME = 0x70  # the mask over the three access time modes
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_IDMAP = 0x100000
ATTR_NOSYMFOLLOW = 0x200000

MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

# mount_namespaces(7), in the words of mount(8) and the runtime-spec
PROPAGATION = {
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "private": MS_PRIVATE,
    "unbindable": MS_UNBINDABLE,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "rprivate": MS_PRIVATE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_SET_FD, FSCONFIG_CMD_CREATE = 0, 1, 5, 6
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

O_PATH = os.O_PATH
EAGAIN = 11
_PATIENCE = 1000


def openat2(directory: int, path: str | bytes, flags: int, resolve: int = RESOLVE_IN_ROOT, mode: int = 0) -> int:
    """Open ``path`` below ``directory`` under ``resolve`` rules; close-on-exec.  :raises OSError:"""
    name = os.fsencode(path) or b"."
    how = pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(_PATIENCE):
        try:
            return syscall("openat2", directory, name, how, 24)
        except OSError as error:
            # EAGAIN: something was renamed or mounted while ".." was resolved (openat2(2))
            if error.errno != EAGAIN:
                raise OSError(error.errno, error.strerror, os.fsdecode(path)) from None
    raise OSError(EAGAIN, os.strerror(EAGAIN), os.fsdecode(path))


def filesystem(kind: str, options: Iterable[Option] = (), attributes: int = 0) -> int:
    """A new, detached file system of type ``kind``; the mount's descriptor.

    An option's value is a string, a descriptor, or None for a flag.  ``source`` is an option
    like the others; without one, mountinfo shows "none".
    :raises OSError: its text is the kernel's own explanation where it left one (fsopen(2)).
    """
    context = syscall("fsopen", kind.encode(), FSOPEN_CLOEXEC)
    try:
        for key, value in options:
            _configure(context, key, value)
        syscall("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)
        return syscall("fsmount", context, FSMOUNT_CLOEXEC, attributes)
    except OSError as error:
        raise OSError(error.errno, _explanation(context) or error.strerror) from None
    finally:
        os.close(context)


def _configure(context: int, key: str, value: str | int | None) -> None:
    if value is None:
        syscall("fsconfig", context, FSCONFIG_SET_FLAG, key.encode(), None, 0)
    elif isinstance(value, int):
        syscall("fsconfig", context, FSCONFIG_SET_FD, key.encode(), None, value)
    else:
        syscall("fsconfig", context, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)


def _explanation(context: int) -> str:
    """The messages that the kernel queued on an fsopen context ("e overlay: ...")."""
    lines = []
    try:
        while line := os.read(context, 1024):
            lines.append(line.decode("utf-8", "replace").strip()[2:])
    except OSError:
        pass
    return "; ".join(lines)


def overlay(lower: Sequence[str], upper: str = "", work: str = "", options: Sequence[Option] = ()) -> int:
    """A detached overlay of ``lower`` (topmost first), writable if ``upper`` and ``work`` are given.

    Before Linux 6.5 all lower directories share one option of at most 255 bytes.  There, the
    directories are named by descriptor, relative to /proc/self/fd, three bytes a layer.
    """
    if _release() < (6, 5):
        return _overlay_by_descriptor(lower, upper, work, options)
    writable: list[Option] = [("upperdir", upper), ("workdir", work)] if upper else []
    layers: list[Option] = [("lowerdir+", path) for path in lower]
    return filesystem("overlay", [("source", "overlay"), *layers, *writable, *options])


def _overlay_by_descriptor(lower: Sequence[str], upper: str, work: str, options: Sequence[Option]) -> int:
    back = os.open(".", O_PATH | os.O_CLOEXEC)
    opened = [os.open(path, O_PATH | os.O_CLOEXEC) for path in (*lower, *((upper, work) if upper else ()))]
    try:
        os.chdir("/proc/self/fd")
        names = [str(fd) for fd in opened]
        writable: list[Option] = [("upperdir", names[-2]), ("workdir", names[-1])] if upper else []
        lowers = ":".join(names[: len(lower)])
        return filesystem("overlay", [("source", "overlay"), ("lowerdir", lowers), *writable, *options])
    finally:
        os.fchdir(back)
        for fd in (*opened, back):
            os.close(fd)


def _release() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or "0")


def clone_tree(directory: int, path: str, recursive: bool = False, nofollow: bool = False) -> int:
    """A detached copy of the mount tree at ``path``: the first half of a bind mount."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (0 if path else AT_EMPTY_PATH)
    flags |= (AT_RECURSIVE if recursive else 0) | (AT_SYMLINK_NOFOLLOW if nofollow else 0)
    try:
        return syscall("open_tree", directory, os.fsencode(path), flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path or None) from None


def attach(mount: int, target: int) -> None:
    """Put the detached ``mount`` on top of the opened directory or file ``target``."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    syscall("move_mount", mount, b"", target, b"", flags)


def set_attributes(
    mount: int, set_: int = 0, clear: int = 0, propagation: int = 0, userns: int = 0, recursive: bool = False
) -> None:
    """mount_setattr(2) on the mount that ``mount`` names, or on its whole tree.

    Setting an access time mode clears the others first, as the call demands.
    """
    if set_ & ATTR_ATIME or clear & ATTR_ATIME:
        clear |= ATTR_ATIME
    attributes = pack("QQQQ", set_ | (ATTR_IDMAP if userns else 0), clear, propagation, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", mount, b"", flags, attributes, len(attributes))


def set_propagation(path: str, propagation: int) -> None:
    """mount(2) with a propagation flag such as ``MS_REC | MS_PRIVATE`` on ``path``."""
    syscall("mount", None, os.fsencode(path), None, propagation, None)


def pivot(root: int) -> None:
    """Make the attached mount ``root`` the root of this mount namespace and let the old one go.

    pivot_root(".", ".") stacks the old root on the new one; detaching "." removes it
    (pivot_root(2), NOTES).  Nothing of the host is reachable by path afterwards.
    """
    old = os.open("/", os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchdir(root)
        syscall("pivot_root", b".", b".")
        os.fchdir(old)
        # The old root must not pass the unmount on to its peers on the host.
        syscall("mount", None, b".", None, MS_REC | MS_PRIVATE, None)
        syscall("umount2", b".", MNT_DETACH)
    finally:
        os.close(old)
    os.chdir("/")


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """``mkdir -p path`` inside ``root``, component by component by descriptor; the last one's O_PATH descriptor.

    Symbolic links on the way resolve inside ``root`` (openat2(2) RESOLVE_IN_ROOT), so that
    no component can lead outside it.
    """
    done = ""
    current = openat2(root, ".", O_PATH | os.O_DIRECTORY)
    for part in (part for part in path.split("/") if part not in ("", ".")):
        done = f"{done}/{part}"
        try:
            following = openat2(root, done, O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            if part != "..":
                try:
                    os.mkdir(part, mode, dir_fd=current)
                except FileExistsError:  # a dangling link, or made by somebody else just now
                    pass
            following = openat2(root, done, O_PATH | os.O_DIRECTORY)
        os.close(current)
        current = following
    return current
