"""A layer archive becomes an overlay lower directory (image-spec layer.md, "Applying Changesets").

Archive and directory speak different languages for deletions: ``.wh.name`` and ``.wh..wh..opq``
there, character device 0:0 and the opaque attribute here (whiteouts.py).
"""

from __future__ import annotations

import hashlib
import os
from errno import EFBIG, EINVAL, ENAMETOOLONG
from stat import S_IFBLK, S_IFCHR, S_IFIFO, S_ISDIR
from typing import TYPE_CHECKING

from coracle.errors import ContentError
from coracle.image import tar_header, whiteouts
from coracle.image.attributes import Attributes
from coracle.image.compression import decompress, pieces_of
from coracle.image.content import disk_error
from coracle.image.lower import Lower
from coracle.image.overlay_marks import Rights, detect_rights, is_whiteout
from coracle.image.tar_header import Entry, show
from coracle.image.tar_reader import Limits, Reader
from coracle.image.tree import Directory, Tree, clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coracle.image.content import Readable

_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1  # include/linux/kdev_t.h


class Applied:
    """What came of a layer.

    ``diff_id`` is the sha256 digest of the uncompressed archive, ``size`` the bytes of its files,
    ``entries`` their number, ``notes`` one line per kind of thing that could not be done exactly,
    ``dependent`` whether the directory is right only above the same lower layers.
    """

    __slots__ = ("dependent", "diff_id", "entries", "notes", "size")

    def __init__(self, diff_id: str, size: int, entries: int, notes: list[str], dependent: bool) -> None:
        self.diff_id = diff_id
        self.size = size
        self.entries = entries
        self.notes = notes
        self.dependent = dependent


def apply(
    stream: Readable,
    directory: str,
    lower: Sequence[str] | None = None,
    limits: Limits | None = None,
    rights: Rights | None = None,
    algorithm: str = "sha256",
) -> Applied:
    """Unpack the layer archive ``stream``, compressed or not, into the empty ``directory``.

    ``lower`` are the directories of the layers below, the topmost first; None if they are not
    known, when whiteouts are all kept.  The whole stream is read, also past the end of the archive,
    so that the diff_id covers all of it.
    :raises ContentError: for damage, tricks and excess; ``directory`` is then half full, and the caller's to remove.
    :raises UnsupportedError: for a compression that this Python does not have.
    :raises KernelError: for a full disk and the like.
    """
    limits = limits or Limits.from_environment()
    hasher = hashlib.new(algorithm)
    pieces = _hashed(decompress(pieces_of(stream), max_ratio=limits.ratio), hasher.update)
    reader = Reader(pieces, limits)
    tree = Tree(directory, rights or detect_rights(), Lower(lower or ()))
    try:
        tree.start()
        for entry in reader:
            _add(tree, entry, reader)
        reader.drain()
        whiteouts.finish(tree, lower is not None)
    finally:
        tree.close()
    notes = [_note(why, *counted) for why, counted in tree.setter.notes.items()]
    return Applied(f"{algorithm}:{hasher.hexdigest()}", reader.size, reader.entries, notes, tree.dependent)


def _note(why: str, count: int, first: str) -> str:
    return f"{first} {why}" if count == 1 else f"{count} entries {why}, first {first}"


def _hashed(pieces: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for piece in pieces:
        update(piece)
        yield piece


def _add(tree: Tree, entry: Entry, reader: Reader) -> None:
    """One entry, with the errors that its own words cause told apart from those of the disk."""
    path = clean(entry.name)
    try:
        _place(tree, path, entry, reader)
    except OSError as error:
        if error.errno in (ENAMETOOLONG, EINVAL, EFBIG):
            raise ContentError(f"cannot unpack /{show(path)}: {(error.strerror or '').lower()}") from error
        raise disk_error(error, "unpack", f"/{show(path)}") from error


def _place(tree: Tree, path: bytes, entry: Entry, reader: Reader) -> None:
    parent, _, name = path.rpartition(b"/")
    if not path:
        _root(tree, entry)
    elif whiteouts.concerns(path):
        whiteouts.mark(tree, parent, name)
    else:
        directory = tree.directory(parent)
        make = _MAKERS[entry.kind]
        try:
            make(tree, directory, path, name, entry, reader)
        except FileExistsError:
            _replace(tree, path, entry, reader)


def _replace(tree: Tree, path: bytes, entry: Entry, reader: Reader) -> None:
    """Of two entries with one path the last wins; two directories are one."""
    parent, _, name = path.rpartition(b"/")
    if entry.kind == tar_header.DIRECTORY:
        info = os.stat(name, dir_fd=tree.directory(parent).fd, follow_symlinks=False)
        if S_ISDIR(info.st_mode):
            directory = tree.directory(path)
            tree.setter.clear_xattrs(directory.fd)
            tree.set_directory(directory, _attributes(entry), path)
            return
    if entry.kind == tar_header.LINK and _links_itself(tree, path, entry):
        return
    was_whiteout = tree.displace(path)
    _MAKERS[entry.kind](tree, tree.directory(parent), path, name, entry, reader)
    if was_whiteout and entry.kind == tar_header.DIRECTORY:
        tree.mark_opaque(tree.directory(path))


def _attributes(entry: Entry) -> Attributes:
    return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)


def _root(tree: Tree, entry: Entry) -> None:
    if entry.kind != tar_header.DIRECTORY:
        raise ContentError("the archive replaces the root directory by something else")
    directory = tree.directory(b"")
    tree.setter.clear_xattrs(directory.fd)
    tree.set_directory(directory, _attributes(entry), b"")


def _file(tree: Tree, directory: Directory, path: bytes, name: bytes, entry: Entry, reader: Reader) -> None:
    fd = tree.create(directory, name)
    try:
        if entry.sparse is not None:
            _write_sparse(fd, entry, reader)
        else:
            for view in reader.content():
                while view:
                    view = view[os.write(fd, view) :]
        tree.setter.set_attributes(fd, _attributes(entry), path)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(fd)


def _write_sparse(fd: int, entry: Entry, reader: Reader) -> None:
    os.ftruncate(fd, entry.size)
    pieces = iter(entry.sparse or ())
    offset = length = 0
    for view in reader.content():
        while view:
            if not length:
                offset, length = next(pieces)
            written = os.pwrite(fd, view[:length], offset)
            offset += written
            length -= written
            view = view[written:]


def _directory(tree: Tree, directory: Directory, path: bytes, name: bytes, entry: Entry, _: Reader) -> None:
    os.mkdir(name, 0o700, dir_fd=directory.fd)
    tree.set_directory(tree.directory(path), _attributes(entry), path)


def _symlink(tree: Tree, directory: Directory, path: bytes, name: bytes, entry: Entry, _: Reader) -> None:
    if not entry.target or b"\0" in entry.target:
        raise ContentError(f"/{show(path)}: a symbolic link without a target")
    os.symlink(entry.target, name, dir_fd=directory.fd)
    _finish_name(tree, directory, path, name, entry)


def _finish_name(tree: Tree, directory: Directory, path: bytes, name: bytes, entry: Entry) -> bool:
    """Owner and time of what cannot be opened safely; whether the owner could be set."""
    owned = tree.setter.own(name, entry.uid, entry.gid, path, directory.fd)
    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory.fd, follow_symlinks=False)
    for attribute in entry.xattrs or ():
        tree.setter.note(f"without the attribute {show(attribute)}", path)
    return owned


def _special(tree: Tree, directory: Directory, path: bytes, name: bytes, entry: Entry, _: Reader) -> None:
    major, minor = entry.device
    if major > _MAX_MAJOR or minor > _MAX_MINOR:
        raise ContentError(f"/{show(path)}: the device {major}:{minor} is out of range")
    if entry.kind == tar_header.CHARACTER and entry.device == (0, 0):
        tree.setter.note("skipped: the device 0:0 is overlayfs's own mark for deletions", path)
        return
    file_type = {tar_header.CHARACTER: S_IFCHR, tar_header.BLOCK_DEVICE: S_IFBLK, tar_header.FIFO: S_IFIFO}[entry.kind]
    try:
        os.mknod(name, file_type | 0o600, os.makedev(major, minor), dir_fd=directory.fd)
    except PermissionError:
        tree.setter.note("skipped: only root may make devices", path)
        return
    owned = _finish_name(tree, directory, path, name, entry)
    # Not by descriptor: opening a device may do things.  The name is ours, made a moment ago with mknod.
    os.chmod(name, tree.setter.owner_mode(entry.mode, entry.uid, entry.gid, owned), dir_fd=directory.fd)


def _link(tree: Tree, _directory: Directory, path: bytes, name: bytes, entry: Entry, _: Reader) -> None:
    """A hard link takes everything from its target; nothing is set through it (CVE-2021-32760)."""
    target = clean(entry.target)
    if target == path and _links_itself(tree, path, entry):
        return
    parent, _slash, leaf = target.rpartition(b"/")
    if not _has(tree, parent, leaf) and not (target and tree.copy_up(target)):
        raise ContentError(f"/{show(path)}: a hard link to /{show(target)}, which does not exist")
    source = tree.existing(parent)
    try:
        directory = tree.directory(path.rpartition(b"/")[0])
        os.link(leaf, name, src_dir_fd=source, dst_dir_fd=directory.fd, follow_symlinks=False)
    finally:
        os.close(source)


def _has(tree: Tree, parent: bytes, leaf: bytes) -> bool:
    """Whether this layer has something to link to at ``parent/leaf``."""
    try:
        fd = tree.existing(parent)
    except OSError:
        return False
    try:
        info = os.stat(leaf or b".", dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    finally:
        os.close(fd)
    if S_ISDIR(info.st_mode):
        raise ContentError(f"a hard link to the directory /{show(parent + b'/' + leaf)}")
    return not is_whiteout(info)


def _links_itself(tree: Tree, path: bytes, entry: Entry) -> bool:
    """Whether path and target are one file already, by name or by inode: then there is nothing to do."""
    found = []
    for each in (path, clean(entry.target)):
        parent, _, leaf = each.rpartition(b"/")
        try:
            fd = tree.existing(parent)
        except OSError:
            return False
        try:
            info = os.stat(leaf or b".", dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        finally:
            os.close(fd)
        found.append(info)
    return not is_whiteout(found[0]) and found[0].st_ino == found[1].st_ino


_MAKERS: dict[int, Callable[[Tree, Directory, bytes, bytes, Entry, Reader], None]] = {
    tar_header.FILE: _file,
    tar_header.LINK: _link,
    tar_header.SYMLINK: _symlink,
    tar_header.CHARACTER: _special,
    tar_header.BLOCK_DEVICE: _special,
    tar_header.DIRECTORY: _directory,
    tar_header.FIFO: _special,
}
