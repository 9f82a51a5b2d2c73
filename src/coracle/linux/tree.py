"""Copying a directory tree by descriptors, so that nothing in it can lead the copy elsewhere."""

from __future__ import annotations

import os
from stat import S_ISDIR, S_ISLNK, S_ISREG

O_PATH = os.O_PATH


def copy_up(source: int, target: int) -> None:
    """Copy the tree below the O_PATH descriptor ``source`` into the empty directory ``target``."""
    original = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source)
    try:
        for name in os.listdir(original):
            _copy_entry(original, target, name)
        _copy_attributes(os.fstat(original), target, ".")
    finally:
        os.close(original)


def _copy_entry(source: int, target: int, name: str) -> None:
    info = os.stat(name, dir_fd=source, follow_symlinks=False)
    if S_ISDIR(info.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
        below = os.open(name, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            for entry in os.listdir(inner):
                _copy_entry(inner, below, entry)
        finally:
            os.close(inner)
            os.close(below)
    elif S_ISREG(info.st_mode):
        _copy_file(source, target, name)
    elif S_ISLNK(info.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
        return
    else:
        os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
    _copy_attributes(info, target, name)


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
    try:
        while os.sendfile(writer, reader, None, 1 << 20):
            pass
    finally:
        os.close(reader)
        os.close(writer)


def _copy_attributes(info: os.stat_result, target: int, name: str) -> None:
    os.chown(name, info.st_uid, info.st_gid, dir_fd=target)
    os.chmod(name, info.st_mode & 0o7777, dir_fd=target)
    os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target)
