"""A directory becomes an archive: the upper directory of a container as a layer, a whole root as a plain tar.

The inverse of layer.py, in one fixed order: each directory before what it holds, names sorted by
their bytes.  The tree may change while it is read (a running container) and is not trusted:
everything is opened by descriptor, below the root, without following links.
"""

from __future__ import annotations

import hashlib
import os
from errno import EXDEV
from stat import S_IMODE, S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG
from typing import TYPE_CHECKING

from coracle.errors import ContentError, UnsupportedError
from coracle.image import tar_writer
from coracle.image.content import CHUNK, disk_errors
from coracle.image.overlay_marks import detect_rights, is_opaque, is_whiteout
from coracle.image.tar_header import show
from coracle.linux.mount import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coracle.image.tar_writer import Writable

_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
_MAX_PATH = 4000  # bytes; what layer.py takes back
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_")
_OVERLAY = ("trusted.overlay.", "user.overlay.")
# An upper directory with these is not complete in itself (overlayfs.rst, redirect_dir and metacopy).
_INCOMPLETE = ("redirect", "metacopy")


class Written:
    """The digest of the archive, which is a layer's diff_id, and its size in bytes."""

    __slots__ = ("diff_id", "size")

    def __init__(self, diff_id: str, size: int) -> None:
        self.diff_id = diff_id
        self.size = size


class _Hashing:
    def __init__(self, out: Writable) -> None:
        self.out = out
        self.hasher = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self.hasher.update(data)
        self.out.write(data)


def diff(upper: str, out: Writable, clamp: int | None = None) -> Written:
    """Write the changes in the overlay upper directory ``upper`` to ``out`` as an uncompressed layer.

    ``clamp`` is the latest modification time to state, in seconds (SOURCE_DATE_EPOCH).
    :raises ContentError: for names that a layer cannot hold; :raises UnsupportedError: for redirects.
    """
    return _archive(upper, out, clamp, True)


def export(root: str, out: Writable, clamp: int | None = None) -> Written:
    """Write the tree ``root``, usually a mounted container, to ``out`` as a plain tar; mounts inside are left out."""
    return _archive(root, out, clamp, False)


def _archive(directory: str, out: Writable, clamp: int | None, marks: bool) -> Written:
    hashing = _Hashing(out)
    writer = tar_writer.Writer(hashing)
    with disk_errors("archive", directory):
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _Walk(root, writer, clamp, marks).run()
        finally:
            os.close(root)
        writer.end()
    return Written(f"sha256:{hashing.hasher.hexdigest()}", writer.size)


class _Walk:
    """One pass over a tree.  ``marks`` says to translate overlayfs's marks into whiteouts."""

    def __init__(self, root: int, writer: tar_writer.Writer, clamp: int | None, marks: bool) -> None:
        self.root = root
        self.writer = writer
        self.clamp = clamp
        self.marks = marks
        # A store of a user without a range of uids holds everything as his own, and it stands for root's.
        self.own = (-1, -1) if detect_rights().owner else (os.geteuid(), os.getegid())
        self.links: dict[tuple[int, int], bytes] = {}

    def run(self) -> None:
        pending = [b""]
        while pending:
            pending += reversed(self._directory(pending.pop()))

    def _directory(self, path: bytes) -> list[bytes]:
        """Archive the directory and what it holds; its subdirectories, sorted, still to be done."""
        try:
            fd = openat2(self.root, path, os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
        except OSError as error:
            if error.errno != EXDEV:
                raise
            self._entry(path + b"/", tar_writer.DIRECTORY, os.stat(path, dir_fd=self.root), None)
            return []
        try:
            self._entry(path + b"/" if path else b"./", tar_writer.DIRECTORY, os.fstat(fd), self._xattrs(fd, path))
            if self.marks and path and is_opaque(fd):
                self.writer.entry(path + b"/.wh..wh..opq", tar_writer.FILE, 0)
            directories = []
            for name in sorted(os.fsencode(each) for each in os.listdir(fd)):
                inner = path + b"/" + name if path else name
                if len(inner) > _MAX_PATH:
                    raise ContentError(f"{show(inner)}: the path is too long for an archive")
                if self._other(fd, inner, name):
                    directories.append(inner)
            return directories
        finally:
            os.close(fd)

    def _other(self, directory: int, path: bytes, name: bytes) -> bool:
        """Archive everything but directories; True for a directory."""
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:  # gone since the listing
            return False
        if self.marks and name.startswith(b".wh."):
            raise ContentError(f"/{show(path)}: a layer cannot hold names that start with '.wh.'", "rename it")
        if S_ISDIR(info.st_mode):
            return True
        if self.marks and is_whiteout(info):
            parent, slash, _ = path.rpartition(b"/")
            self.writer.entry(parent + slash + b".wh." + name, tar_writer.FILE, 0)
        elif info.st_nlink > 1 and (first := self.links.setdefault((info.st_dev, info.st_ino), path)) != path:
            self._entry(path, tar_writer.LINK, info, None, first)
        elif S_ISREG(info.st_mode):
            self._file(directory, path, name)
        elif S_ISLNK(info.st_mode):
            self._entry(path, tar_writer.SYMLINK, info, None, os.readlink(name, dir_fd=directory))
        else:
            self._special(path, info)
        return False

    def _special(self, path: bytes, info: os.stat_result) -> None:
        """Devices and FIFOs; a socket means nothing without its process and is left out, as everywhere."""
        for check, kind in (
            (S_ISCHR, tar_writer.CHARACTER),
            (S_ISBLK, tar_writer.BLOCK_DEVICE),
            (S_ISFIFO, tar_writer.FIFO),
        ):
            if check(info.st_mode):
                self._entry(path, kind, info, None)

    def _file(self, directory: int, path: bytes, name: bytes) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = openat2(directory, name, flags, _INSIDE)
        except OSError as error:
            if error.errno != EXDEV:
                raise
            return  # something is mounted on it
        try:
            info = os.fstat(fd)
            if S_ISREG(info.st_mode):  # else it was replaced just now
                self._entry(path, tar_writer.FILE, info, self._xattrs(fd, path), size=info.st_size)
                self.writer.content(_pieces(fd), info.st_size)
        finally:
            os.close(fd)

    def _entry(
        self,
        path: bytes,
        kind: bytes,
        info: os.stat_result,
        xattrs: dict[bytes, bytes] | None,
        target: bytes = b"",
        size: int = 0,
    ) -> None:
        mtime = info.st_mtime_ns // 1_000_000_000
        if self.clamp is not None:
            mtime = min(mtime, self.clamp)
        device = (os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in b"34" else (0, 0)
        uid = 0 if info.st_uid == self.own[0] else info.st_uid
        gid = 0 if info.st_gid == self.own[1] else info.st_gid
        self.writer.entry(path, kind, S_IMODE(info.st_mode), uid, gid, size, mtime, target, device, xattrs)

    def _xattrs(self, fd: int, path: bytes) -> dict[bytes, bytes]:
        found = {}
        for name in os.listxattr(fd):
            if name.startswith(_OVERLAY):
                if self.marks and name.rpartition(".")[2] in _INCOMPLETE:
                    raise UnsupportedError(
                        f"/{show(path)}: the layer refers to those below by {name}",
                        "mount overlays with redirect_dir=off,metacopy=off",
                    )
            elif name.startswith(_KEPT_XATTRS):
                found[os.fsencode(name)] = os.getxattr(fd, name)
        return found


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, CHUNK):
        yield piece
