"""Deleting trees that strangers filled: layers, upper directories, unfinished work.

Everything goes through directory descriptors, so no symbolic link leads out; a mount point
inside is never crossed (openat2(2) RESOLVE_NO_XDEV sees bind mounts of the same file system
too); directories without permissions and files with the immutable flag are handled; the depth
is unlimited, since a container can nest directories far beyond PATH_MAX.
"""

from __future__ import annotations

import os
from errno import EACCES, EBUSY, EISDIR, ENOENT, ENOTDIR, EPERM, EXDEV
from fcntl import ioctl
from struct import pack, unpack

from coracle.errors import ConflictError, KernelError
from coracle.linux.mount import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
# Deeper directories are moved up to the top first: neither descriptors nor the stack grow with depth.
_MAX_DEPTH = 64
_BATCH = 4096  # names held in memory at once

# include/uapi/linux/fs.h
_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_KEEPING_FLAGS = 0x10 | 0x20  # FS_IMMUTABLE_FL, FS_APPEND_FL


def remove_tree(path: str) -> None:
    """Delete ``path`` and all below it; nothing happens if it does not exist.

    :raises ConflictError: at the first mount point inside; what was visited before it is gone by then.
    :raises KernelError: for whatever else the kernel refuses.
    """
    parent, name = os.path.split(path)
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _remove(fd, os.fsencode(name))
    except OSError as error:
        if error.errno in (EXDEV, EBUSY):
            where = f" ({error.filename})" if error.filename else ""
            raise ConflictError(f"cannot remove {path}: something is mounted inside{where}", "unmount it") from error
        raise KernelError(error.errno or 0, "remove", path) from error
    finally:
        os.close(fd)


def _remove(directory: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=directory)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        # Linux answers EISDIR for a directory, POSIX says EPERM, which is also the immutable flag's answer.
        if error.errno not in (EISDIR, EPERM):
            raise
    remove_at(directory, name)


def remove_at(directory: int, name: bytes) -> None:
    """Delete the entry ``name`` of the opened ``directory``, with everything below it.  :raises OSError:"""
    try:
        top = _open(directory, name)
    except OSError as error:
        if error.errno != ENOTDIR:
            raise
        _insist(os.unlink, directory, name)
        return
    try:
        _clear(top, top, 0)
    finally:
        os.close(top)
    _insist(os.rmdir, directory, name)


def _clear(fd: int, top: int, depth: int) -> None:
    """Empty the opened directory.  What is nested too deeply moves to ``top``, whose own loop finds it there."""
    while batch := _some_entries(fd):
        for name, is_directory in batch:
            if not is_directory:
                _insist(os.unlink, fd, name)
            elif depth < _MAX_DEPTH:
                _clear_child(fd, name, top, depth + 1)
            else:
                _rename(fd, name, top, os.urandom(12).hex().encode())


def _clear_child(fd: int, name: bytes, top: int, depth: int) -> None:
    try:
        inner = _open(fd, name)
    except FileNotFoundError:  # somebody else deletes here too
        return
    try:
        _clear(inner, top, depth)
    finally:
        os.close(inner)
    _insist(os.rmdir, fd, name)


def _some_entries(fd: int) -> list[tuple[bytes, bool]]:
    batch = []
    with os.scandir(fd) as entries:
        for entry in entries:
            batch.append((os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)))
            if len(batch) == _BATCH:
                break
    return batch


def _open(directory: int, name: bytes) -> int:
    """The directory ``name`` for reading and, by its owner, for deleting in it; never through a mount."""
    try:
        fd = openat2(directory, name, _DIRECTORY, _INSIDE)
    except OSError as error:
        if error.errno != EACCES:
            raise
        closed = openat2(directory, name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, _INSIDE)
        try:
            os.chmod(f"/proc/self/fd/{closed}", 0o700)
        finally:
            os.close(closed)
        fd = openat2(directory, name, _DIRECTORY, _INSIDE)
    if os.geteuid() and os.fstat(fd).st_mode & 0o300 != 0o300:
        os.fchmod(fd, 0o700)
    return fd


def _insist(delete: Callable[..., None], directory: int, name: bytes) -> None:
    """unlink or rmdir, again without the immutable and append-only flags if those are in the way."""
    try:
        delete(name, dir_fd=directory)
    except OSError as error:
        if error.errno == ENOENT:
            return
        if error.errno != EPERM or not _release(directory, name):
            raise
        delete(name, dir_fd=directory)


def _rename(directory: int, name: bytes, target: int, fresh: bytes) -> None:
    try:
        os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=target)
    except OSError as error:
        if error.errno != EPERM or not _release(directory, name):
            raise
        os.rename(name, fresh, src_dir_fd=directory, dst_dir_fd=target)


def _release(directory: int, name: bytes) -> bool:
    """Clear the flags that forbid deletion on the entry and on its directory (chattr(1)); False if none was set."""
    changed = _clear_flags(directory)
    try:
        # O_NONBLOCK: a FIFO must not make us wait; only regular files and directories carry flags.
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return changed
    try:
        return _clear_flags(fd) or changed
    finally:
        os.close(fd)


def _clear_flags(fd: int) -> bool:
    try:
        (flags,) = unpack("i", ioctl(fd, _FS_IOC_GETFLAGS, pack("i", 0)))
        if not flags & _FS_KEEPING_FLAGS:
            return False
        ioctl(fd, _FS_IOC_SETFLAGS, pack("i", flags & ~_FS_KEEPING_FLAGS))
    except OSError:  # no such ioctl here, or no CAP_LINUX_IMMUTABLE: the first error stands
        return False
    return True
