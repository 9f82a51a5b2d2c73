"""What the layers below show at one path, by the rules of overlayfs, without mounting them.

A layer may depend on what lies below it: a directory that it does not list itself keeps the mode
and owner of the one below, a hard link may name a file of a lower layer, and a whiteout means
something only inside a directory that the layers share.
"""

from __future__ import annotations

import os
from errno import ELOOP, ENOENT, ENOTDIR
from stat import S_ISDIR
from typing import TYPE_CHECKING

from coracle.image.overlay_marks import is_opaque, is_whiteout
from coracle.linux.mount import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

if TYPE_CHECKING:
    from collections.abc import Sequence

_ABSENT = (ENOENT, ENOTDIR, ELOOP)
_MAX_CACHED = 4096  # directories


class Lower:
    """The merged view of ``directories``, the topmost first.  Symbolic links are never followed."""

    def __init__(self, directories: Sequence[str] = ()) -> None:
        self.directories = list(directories)
        self._cache: dict[bytes, list[str]] = {}

    def find(self, path: bytes) -> int | None:
        """An O_PATH descriptor of what shows at ``path``, to be closed by the caller, or None."""
        found = self._find(path, False)
        return found[0] if found else None

    def is_directory(self, path: bytes) -> bool:
        """Whether a directory shows at ``path``, with which one of a higher layer would merge."""
        fd = self.find(path)
        if fd is None:
            return False
        try:
            return S_ISDIR(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def names(self, path: bytes) -> set[bytes]:
        """The names that show in the directory ``path``; empty if it is none."""
        names: set[bytes] = set()
        gone: set[bytes] = set()
        opened = self._find(path, True)
        try:
            for fd in opened:
                with os.scandir(f"/proc/self/fd/{fd}") as entries:
                    here = [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries]
                names |= {name for name, info in here if not is_whiteout(info)} - gone
                gone |= {name for name, info in here if is_whiteout(info)} - names
        finally:
            for fd in opened:
                os.close(fd)
        return names

    def _find(self, path: bytes, merged: bool) -> list[int]:
        """Descriptors of ``path`` in the layers that show it: the first one, or with ``merged`` all that merge."""
        live = self._live(path.rpartition(b"/")[0]) if path else self.directories
        found: list[int] = []
        for directory in live:
            fd = _open(directory, path)
            if fd is None:
                continue
            info = os.fstat(fd)
            if is_whiteout(info) or (found and not S_ISDIR(info.st_mode)):
                os.close(fd)
                break
            found.append(fd)
            if not merged or not S_ISDIR(info.st_mode) or (path and is_opaque(f"/proc/self/fd/{fd}")):
                break
        return found

    def _live(self, directory: bytes) -> list[str]:
        """The layers in which the directory shows; cached, as one path after another asks for the same."""
        missing = []
        while directory and directory not in self._cache:
            missing.append(directory)
            directory = directory.rpartition(b"/")[0]
        live = self._cache[directory] if directory else self._descend(self.directories, b"")
        if len(self._cache) > _MAX_CACHED:
            self._cache.clear()
        for prefix in reversed(missing):
            live = self._cache[prefix] = self._descend(live, prefix)
        return live

    def _descend(self, live: Sequence[str], prefix: bytes) -> list[str]:
        """Of the layers ``live``, those whose directory ``prefix`` shows."""
        showing = []
        for directory in live:
            fd = _open(directory, prefix)
            if fd is None:
                continue
            try:
                if not S_ISDIR(os.fstat(fd).st_mode):
                    break  # a file or a whiteout hides what is further down
                showing.append(directory)
                if prefix and is_opaque(f"/proc/self/fd/{fd}"):
                    break
            finally:
                os.close(fd)
        return showing


def _open(directory: str, path: bytes) -> int | None:
    top = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(top, path, os.O_PATH | os.O_NOFOLLOW, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None
    finally:
        os.close(top)
