"""Owner, mode, times and extended attributes of unpacked files: what may be set, and what cannot be."""

from __future__ import annotations

import os
from errno import EINVAL
from stat import S_IMODE
from typing import TYPE_CHECKING

from coracle.image.overlay_marks import CONTROL_PREFIXES
from coracle.image.tar_header import show

if TYPE_CHECKING:
    from coracle.image.overlay_marks import Rights

_SET_UID, _SET_GID = 0o4000, 0o2000
_MAX_REASONS = 32
# Attributes that a layer may set; everything else under security.* and trusted.* is the host's business.
_KEPT_XATTRS = (b"user.", b"security.capability", b"system.posix_acl_")


class Attributes:
    """Owner, mode, modification time and extended attributes of something new."""

    __slots__ = ("gid", "mode", "mtime_ns", "uid", "xattrs")

    def __init__(self, mode: int, uid: int, gid: int, mtime_ns: int, xattrs: dict[bytes, bytes] | None) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.xattrs = xattrs


class Setter:
    """Gives files their attributes as far as ``rights`` go.

    ``notes`` counts by reason what could not be done exactly, with the first path it happened to.
    """

    def __init__(self, rights: Rights) -> None:
        self.rights = rights
        self.notes: dict[str, tuple[int, str]] = {}

    def note(self, reason: str, path: bytes) -> None:
        """Count something that was not done as the archive wanted."""
        if len(self.notes) >= _MAX_REASONS and reason not in self.notes:
            reason = "changed in some other way"  # reasons may name attributes: do not let them pile up
        count, first = self.notes.get(reason, (0, ""))
        self.notes[reason] = (count + 1, first or show(b"/" + path))

    def owner_mode(self, mode: int, uid: int, gid: int, owned: bool) -> int:
        """``mode`` as it may be: a set-id bit that would give another id than archived is dropped."""
        if not owned:
            mode &= ~((_SET_UID if uid else 0) | (_SET_GID if gid else 0))
        return mode

    def set_attributes(self, fd: int, attributes: Attributes, path: bytes) -> int:
        """Owner, mode and extended attributes of an opened file or directory; the mode that was set.

        In this order: chown(2) clears set-id bits, and both it and writing clear capabilities.
        """
        owned = self.own(fd, attributes.uid, attributes.gid, path)
        mode = self.owner_mode(attributes.mode, attributes.uid, attributes.gid, owned)
        os.fchmod(fd, mode)
        if attributes.xattrs:
            for name, value in attributes.xattrs.items():
                self._set_xattr(fd, name, value, path)
        return mode

    def own(self, target: int | bytes, uid: int, gid: int, path: bytes, parent: int | None = None) -> bool:
        """Change the owner of a descriptor, or of a name in ``parent``; False if this process cannot."""
        if not self.rights.owner:
            if uid or gid:
                self.note("kept as this user's own: other owners need a range of uids (subuid(5))", path)
            return False
        try:
            if isinstance(target, int):
                os.fchown(target, uid, gid)
            else:
                os.chown(target, uid, gid, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            self.note(f"kept as root's: uids such as {uid}:{gid} are not mapped into this user namespace", path)
            return False
        return True

    def _set_xattr(self, fd: int, name: bytes, value: bytes, path: bytes) -> None:
        if name.startswith(CONTROL_PREFIXES):
            self.note("without an attribute that would steer overlayfs", path)
        elif not _is_kept(name) or b"\0" in name:
            self.note(f"without the attribute {show(name)}", path)
        else:
            try:
                os.setxattr(fd, name, value)
            except OSError as error:  # no support in the file system, no right, or no such id here
                self.note(f"without the attribute {show(name)} ({error.strerror})", path)

    def attributes_of(self, info: os.stat_result, path: str) -> Attributes:
        """The attributes of a file of another layer, for one of this layer to have the same."""
        names = [os.fsencode(name) for name in os.listxattr(path)]
        xattrs = {name: os.getxattr(path, name) for name in names if _is_kept(name)}
        # Where all files are this user's, they stand for root's.
        uid, gid = (info.st_uid, info.st_gid) if self.rights.owner else (0, 0)
        return Attributes(S_IMODE(info.st_mode), uid, gid, info.st_mtime_ns, xattrs)

    def clear_xattrs(self, fd: int) -> None:
        """Take away what a former entry or a lower layer set, but not overlayfs's own marks."""
        for name in os.listxattr(fd):
            if _is_kept(os.fsencode(name)):
                os.removexattr(fd, name)


def _is_kept(name: bytes) -> bool:
    return name.startswith(_KEPT_XATTRS) and not name.startswith(CONTROL_PREFIXES)
