"""The directory that a layer is unpacked into: nothing an archive says can reach outside it.

Every path is split into a parent and a last component.  The parent is opened by openat2(2) with
RESOLVE_IN_ROOT, so a symbolic link in the way resolves inside the tree, as it will in the
container, and can lead nowhere else; the last component is made with O_EXCL or its like and is
never followed.  No path is looked up twice: everything is done to the opened descriptor.
(CVE-2007-4559, CVE-2014-9357, CVE-2021-29136, CVE-2021-32760, CVE-2025-47290.)

Opened directories are kept for the next entries.  Closing one restores its modification time,
which filling it changed, so that no list of all directories is needed however many there are.
"""

from __future__ import annotations

import os
from errno import EACCES, EAGAIN, ELOOP, ENOENT, ENOTDIR, EXDEV
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG
from typing import TYPE_CHECKING

from coracle.errors import ContentError
from coracle.image.attributes import Attributes, Setter
from coracle.image.overlay_marks import is_whiteout, make_whiteout
from coracle.image.removal import remove_at
from coracle.image.tar_header import show
from coracle.linux.mount import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2

if TYPE_CHECKING:
    from coracle.image.lower import Lower
    from coracle.image.overlay_marks import Rights

_INSIDE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_MAX_OPEN = 100  # of the 1024 descriptors that a shell usually allows
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """An opened directory of the tree, and what to restore when it is closed."""

    __slots__ = ("fd", "mode", "mtime_ns")

    def __init__(self, fd: int, mtime_ns: int, mode: int = -1) -> None:
        self.fd = fd
        self.mtime_ns = mtime_ns
        self.mode = mode  # to be set at closing, or -1

    def close(self) -> None:
        try:
            os.utime(self.fd, ns=(self.mtime_ns, self.mtime_ns))
            if self.mode >= 0:
                os.fchmod(self.fd, self.mode)
        finally:
            os.close(self.fd)


class Tree:
    """A directory being filled, with ``lower`` below it.

    ``setter`` gives files their attributes and notes what could not be done exactly.
    ``dependent`` becomes true when the result depends on ``lower`` or would, were there any.
    """

    def __init__(self, directory: str, rights: Rights, lower: Lower) -> None:
        self.rights = rights
        self.lower = lower
        self.dependent = False
        self.whiteouts = 0
        self.opaque_root = False
        self.setter = Setter(rights)
        self.root = os.open(directory, _OPEN_DIRECTORY | os.O_CLOEXEC)
        self._open: dict[bytes, Directory] = {}
        self._by_inode: dict[int, Directory] = {}

    def start(self) -> None:
        """The root, in case the archive does not list it: like the one below, or 0755 root:root.

        The topmost layer's root gives the whole overlay's root its mode and owner.
        """
        directory = self.directory(b"")
        self.set_directory(directory, Attributes(0o755, 0, 0, 0, None), b"")
        below = self.lower.find(b"")
        if below is None:
            return
        try:
            ours, theirs = os.fstat(directory.fd), os.fstat(below)
            if any(getattr(ours, field) != getattr(theirs, field) for field in ("st_mode", "st_uid", "st_gid")):
                self.dependent = True
                self.set_directory(directory, self.setter.attributes_of(theirs, f"/proc/self/fd/{below}"), b"")
        finally:
            os.close(below)

    def close(self) -> None:
        """Restore and close everything that is open."""
        try:
            self.flush()
        finally:
            os.close(self.root)

    def flush(self) -> None:
        """Close all kept directories; necessary before a directory or symbolic link is replaced."""
        directories = list(self._by_inode.values())
        self._open.clear()
        self._by_inode.clear()
        for directory in directories:
            directory.close()

    # -- directories

    def directory(self, path: bytes) -> Directory:
        """The directory ``path``, opened; missing ones on the way are made.

        :raises ContentError: if something on the way is no directory.
        """
        found = self._open.get(path)
        if found is None:
            if len(self._open) >= _MAX_OPEN:
                self.flush()
            try:
                found = self._keep(path, self._resolve(path))
            except OSError as error:
                if error.errno not in (ENOENT, EACCES, ENOTDIR):
                    raise _in_the_way(path, error) from None
                found = self._make_way(path)
        return found

    def existing(self, path: bytes) -> int:
        """A new descriptor of the directory ``path``, which is not made.  :raises OSError:"""
        known = self._open.get(path)
        if known is not None:
            return os.dup(known.fd)
        try:
            return openat2(self.root, path, os.O_PATH | os.O_DIRECTORY, _INSIDE)
        except PermissionError:  # closed to us, who own it
            return os.dup(self._make_way(path).fd)

    def _resolve(self, path: bytes) -> int:
        while True:
            try:
                return openat2(self.root, path, _OPEN_DIRECTORY, _INSIDE)
            except OSError as error:
                if error.errno != EAGAIN:  # somebody renamed something anywhere (openat2(2)): try again
                    raise

    def _keep(self, path: bytes, fd: int) -> Directory:
        info = os.fstat(fd)
        known = self._by_inode.get(info.st_ino)
        if known is not None:  # the same directory by way of a symbolic link
            os.close(fd)
        else:
            known = self._by_inode[info.st_ino] = Directory(fd, info.st_mtime_ns)
            if not self.rights.override and info.st_mode & 0o300 != 0o300:  # not to be filled, as it is
                known.mode = S_IMODE(info.st_mode)
                os.fchmod(fd, known.mode | 0o700)
        self._open[path] = known
        return known

    def _make_way(self, path: bytes) -> Directory:
        """Component by component: make what is missing, enter what is closed to us."""
        parts = path.split(b"/")
        current = self._open.get(b"") or self._keep(b"", self._resolve(b""))
        for count, name in enumerate(parts, 1):
            prefix = b"/".join(parts[:count])
            following = self._open.get(prefix)
            if following is None:
                if len(self._open) >= _MAX_OPEN:
                    self._close_all_but(current)
                try:
                    following = self._keep(prefix, self._step(current, prefix, name))
                except OSError as error:
                    following = self._missing(current, prefix, name, error)
            current = following
        return current

    def _close_all_but(self, kept: Directory) -> None:
        info = os.fstat(kept.fd)
        del self._by_inode[info.st_ino]
        paths = [path for path, directory in self._open.items() if directory is kept]
        self.flush()
        self._by_inode[info.st_ino] = kept
        self._open.update(dict.fromkeys(paths, kept))

    def _step(self, current: Directory, prefix: bytes, name: bytes) -> int:
        """The next component, from the opened one above it; a symbolic link resolves from the root."""
        try:
            return openat2(current.fd, name, _OPEN_DIRECTORY, _INSIDE | RESOLVE_NO_SYMLINKS)
        except OSError as error:
            if error.errno != ELOOP:
                raise
        return self._resolve(prefix)

    def _missing(self, parent: Directory, prefix: bytes, name: bytes, error: OSError) -> Directory:
        if error.errno == EACCES:
            return self._unlock(parent, prefix, name)
        hidden = error.errno == ENOTDIR and is_whiteout(os.stat(name, dir_fd=parent.fd, follow_symlinks=False))
        if error.errno != ENOENT and not hidden:
            raise _in_the_way(prefix, error)
        if hidden:  # a whiteout and then something below it: the directory is new, nothing below shows
            os.unlink(name, dir_fd=parent.fd)
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
        except FileExistsError:
            raise _in_the_way(prefix, error) from None
        made = self._keep(prefix, openat2(parent.fd, name, _OPEN_DIRECTORY, _INSIDE))
        self._inherit(made, prefix)
        if hidden:
            self.mark_opaque(made)
        return made

    def _inherit(self, directory: Directory, path: bytes) -> None:
        """A directory that the layer does not list looks like the one below; by itself, 0755 root:root."""
        self.dependent = True
        attributes = Attributes(0o755, 0, 0, 0, None)
        below = self.lower.find(path)
        if below is not None:
            try:
                info = os.fstat(below)
                if S_ISDIR(info.st_mode):
                    attributes = self.setter.attributes_of(info, f"/proc/self/fd/{below}")
            finally:
                os.close(below)
        self.set_directory(directory, attributes, path)

    def _unlock(self, parent: Directory, path: bytes, name: bytes) -> Directory:
        """Enter a directory whose mode forbids it to us, who own it; closing puts the mode back."""
        closed = openat2(parent.fd, name, os.O_PATH | os.O_DIRECTORY, _INSIDE | RESOLVE_NO_SYMLINKS)
        try:
            info = os.fstat(closed)
            os.chmod(f"/proc/self/fd/{closed}", S_IMODE(info.st_mode) | 0o700)
            directory = self._keep(path, self._step(parent, path, name))
        finally:
            os.close(closed)
        directory.mode = S_IMODE(info.st_mode)
        return directory

    def set_directory(self, directory: Directory, attributes: Attributes, path: bytes) -> None:
        """Give an opened directory its owner, mode and attributes; the time follows at closing."""
        mode = self.setter.set_attributes(directory.fd, attributes, path)
        directory.mtime_ns = attributes.mtime_ns
        if not self.rights.override and mode & 0o700 != 0o700:
            os.fchmod(directory.fd, mode | 0o700)
            directory.mode = mode
        else:
            directory.mode = -1

    def mark_opaque(self, directory: Directory) -> None:
        """Nothing of the directory below shows any more."""
        os.setxattr(directory.fd, self.rights.opaque, b"y")

    # -- other kinds

    def create(self, directory: Directory, name: bytes) -> int:
        """A new file, opened for writing.  :raises FileExistsError:"""
        return os.open(name, _NEW_FILE, 0o600, dir_fd=directory.fd)

    def displace(self, path: bytes) -> bool:
        """Remove what stands at ``path`` so that an entry can take its place; whether it was a whiteout."""
        parent, _, name = path.rpartition(b"/")
        directory = self.directory(parent)
        info = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        if S_ISDIR(info.st_mode) or S_ISLNK(info.st_mode):
            self.flush()
            directory = self.directory(parent)
        if S_ISDIR(info.st_mode):
            remove_at(directory.fd, name)
        else:
            os.unlink(name, dir_fd=directory.fd)
        return is_whiteout(info)

    def white_out(self, parent: bytes, name: bytes) -> None:
        """Hide ``name`` of the layers below.  An entry of this layer stays; a directory no longer merges."""
        directory = self.directory(parent)
        try:
            make_whiteout(directory.fd, name)
            self.whiteouts += 1
        except FileExistsError:
            info = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if S_ISDIR(info.st_mode):
                self.mark_opaque(self.directory(parent + b"/" + name if parent else name))

    def copy_up(self, path: bytes) -> bool:
        """Bring a file of the layers below into this one, so that it can be linked to; False if there is none."""
        below = self.lower.find(path)
        if below is None:
            return False
        try:
            info = os.fstat(below)
            if not (S_ISREG(info.st_mode) or S_ISLNK(info.st_mode)):
                return False
            self.dependent = True
            parent, _, name = path.rpartition(b"/")
            directory = self.directory(parent)
            if S_ISLNK(info.st_mode):
                os.symlink(os.readlink(b"", dir_fd=below), name, dir_fd=directory.fd)
                self.setter.own(name, info.st_uid, info.st_gid, path, directory.fd)
            else:
                self._copy_file(below, self.create(directory, name), info, path)
        finally:
            os.close(below)
        return True

    def _copy_file(self, below: int, fd: int, info: os.stat_result, path: bytes) -> None:
        source = f"/proc/self/fd/{below}"
        reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while os.sendfile(fd, reader, None, 1 << 30):
                pass
            self.setter.set_attributes(fd, self.setter.attributes_of(info, source), path)
            os.utime(fd, ns=(info.st_mtime_ns, info.st_mtime_ns))
        finally:
            os.close(reader)
            os.close(fd)


def clean(name: bytes) -> bytes:
    """The path of an archive member relative to the tree: no leading slash, no ``.``, no ``..``; b"" is the root.

    :raises ContentError: if ``..`` would leave the tree, or the path is longer than the kernel takes.
    """
    if b"\0" in name:
        raise ContentError(f"{show(name)}: the path contains a zero byte")
    if len(name) > 4000:
        raise ContentError(f"{show(name)}: the path has {len(name)} bytes, more than Linux allows")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise ContentError(f"{show(name)}: the path leads out of the archive")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _in_the_way(path: bytes, error: OSError) -> ContentError | OSError:
    reasons = {
        ENOENT: "a symbolic link that leads nowhere in this layer stands in the way",
        ENOTDIR: "something that is no directory stands in the way",
        ELOOP: "symbolic links in the way lead in a circle",
        EXDEV: "a mount point stands in the way",
    }
    reason = reasons.get(error.errno or 0)
    return ContentError(f"cannot unpack into /{show(path)}: {reason}") if reason else error
