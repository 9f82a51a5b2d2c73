"""The files of an image archive, be it a directory or a tar: by name, in any order, nothing unpacked.

Names come from documents inside the archive and are not trusted: in a directory they are
opened below its root, in a tar they are looked up in its table of members, where symbolic links
(docker before 25 wrote layers that occur twice as ``layer.tar -> ../<id>/layer.tar``) lead only to
other members.
"""

from __future__ import annotations

import os
from errno import EISDIR, ELOOP, ENOENT, ENOTDIR
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Protocol

from coracle.errors import ContentError, NotFoundError, UsageError
from coracle.image import tar_header
from coracle.image.compression import decompress, detect, pieces_of
from coracle.image.content import CHUNK, disk_errors
from coracle.image.manifest import MAX_DOCUMENT
from coracle.image.tar_header import show
from coracle.image.tar_reader import Limits, Pieces, Reader
from coracle.image.tree import clean
from coracle.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coracle.image.content import Ingest

_MAX_MEMBERS = 100_000
_MAX_LINKS = 16


class Section:
    """A part of an opened file, readable from its start; several may share one descriptor."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._at = offset
        self._end = offset + size

    def read(self, size: int) -> bytes:
        data = os.pread(self.fd, min(size, self._end - self._at), self._at)
        if not data and self._at < self._end:
            raise ContentError("the archive is truncated")
        self._at += len(data)
        return data

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay unread."""
        return os.pread(self.fd, min(size, self._end - self._at), self._at)


class Files(Protocol):
    """Where the files of an image are read from."""

    def open(self, name: str) -> Section:
        """The file ``name``.  :raises NotFoundError:"""

    def close(self) -> None:
        """Close all descriptors."""


class DirectoryFiles:
    """An OCI layout, or an unpacked archive, on disk."""

    def __init__(self, fd: int) -> None:
        self._root = fd
        self._opened: list[int] = []

    def open(self, name: str) -> Section:
        try:
            fd = openat2(self._root, name, os.O_RDONLY | os.O_NONBLOCK, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR, ELOOP, EISDIR):
                raise
            raise NotFoundError(f"the image has no file {show(os.fsencode(name))}") from None
        # Sections live as long as the source does, one descriptor at a time.
        while self._opened:
            os.close(self._opened.pop())
        self._opened.append(fd)
        info = os.fstat(fd)
        if not S_ISREG(info.st_mode):
            raise ContentError(f"{show(os.fsencode(name))} in the image is not a regular file")
        return Section(fd, 0, info.st_size)

    def close(self) -> None:
        for fd in (*self._opened, self._root):
            os.close(fd)


class TarFiles:
    """A tar archive in a seekable file: its members' places are noted in one pass over the headers."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._members: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}
        for entry in Reader(Pieces(fd), Limits(entries=_MAX_MEMBERS)):
            name = clean(entry.name)
            self._members.pop(name, None)
            self._links.pop(name, None)
            if entry.kind == tar_header.FILE and entry.sparse is None:
                self._members[name] = (entry.offset, entry.size)
            elif entry.kind == tar_header.SYMLINK:
                self._links[name] = os.path.join(os.path.dirname(name), entry.target)
            elif entry.kind == tar_header.LINK:
                self._links[name] = entry.target

    def open(self, name: str) -> Section:
        path = clean(os.fsencode(name))
        for _ in range(_MAX_LINKS):
            if path in self._members:
                return Section(self._fd, *self._members[path])
            if path not in self._links:
                break
            path = clean(self._links[path])
        raise NotFoundError(f"the image archive has no member {show(os.fsencode(name))}")

    def close(self) -> None:
        os.close(self._fd)


def has(files: Files, name: str) -> bool:
    """Whether the archive has the file ``name``."""
    try:
        files.open(name)
    except NotFoundError:
        return False
    return True


def read(files: Files, name: str, limit: int = MAX_DOCUMENT) -> bytes:
    """The whole file ``name``.  :raises NotFoundError: :raises ContentError: beyond ``limit`` bytes."""
    section = files.open(name)
    if section.size > limit:
        raise ContentError(f"{show(os.fsencode(name))} in the image is larger than {limit} bytes")
    data = b""
    while chunk := section.read(CHUNK):
        data += chunk
    return data


def open_files(ingest: Ingest, source: str | int) -> Files:
    """The files of the archive or directory ``source``, a path or a descriptor, compressed or not.

    What cannot be read at random, a pipe or a compressed file, is first copied into the ingest directory.
    :raises UsageError: if the path does not exist; :raises ContentError: if it is no archive.
    """
    fd = os.dup(source) if isinstance(source, int) else _open_path(source)
    try:
        if S_ISDIR(os.fstat(fd).st_mode):
            return DirectoryFiles(fd)
        if not S_ISREG(os.fstat(fd).st_mode) or detect(os.pread(fd, 6, 0)):
            spooled = _spool(ingest, fd)
            os.close(fd)
            fd = spooled
        return TarFiles(fd)
    except BaseException:
        os.close(fd)
        raise


def _open_path(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or '').lower()}") from None


def _spool(ingest: Ingest, fd: int) -> int:
    with disk_errors("copy the archive to", ingest.paths.ingest()):
        copy = os.open(ingest.path(), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in _bounded(decompress(pieces_of(_Descriptor(fd)), "the archive")):
                view = memoryview(piece)
                while view:
                    view = view[os.write(copy, view) :]
        except BaseException:
            os.close(copy)
            raise
    return copy


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    limit = Limits.from_environment().size
    for piece in pieces:
        limit -= len(piece)
        if limit < 0:
            raise ContentError("the archive is larger than CORACLE_MAX_LAYER_BYTES allows")
        yield piece


class _Descriptor:
    """read(2) on a descriptor as a file object's ``read``."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, size: int) -> bytes:
        return os.read(self.fd, size)
