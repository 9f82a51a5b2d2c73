"""Deletions in a layer: from the archive's whiteouts to overlayfs's marks (image-spec layer.md, "Whiteouts").

A whiteout hides what lower layers have and never an entry of its own layer, in whatever order the
two come.  After the last entry, marks that overlayfs would not understand are put right.
"""

from __future__ import annotations

import os
from stat import S_ISCHR, S_ISDIR
from typing import TYPE_CHECKING

from coracle.errors import ContentError
from coracle.image.overlay_marks import is_opaque, is_whiteout, make_whiteout
from coracle.image.tar_header import show

if TYPE_CHECKING:
    from coracle.image.tree import Tree

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # aufs's own bookkeeping, which old layers contain and everybody skips


def concerns(path: bytes) -> bool:
    """Whether a component of ``path`` is a whiteout's name."""
    return _WHITEOUT in path and b"/" + _WHITEOUT in b"/" + path


def mark(tree: Tree, parent: bytes, name: bytes) -> None:
    """A whiteout, by its name alone: its type and content mean nothing."""
    if _AUFS in parent or (name.startswith(_AUFS) and name != _OPAQUE):
        tree.setter.note("skipped: aufs's own bookkeeping", (parent + b"/" + name).lstrip(b"/"))
        return
    hidden = name[len(_WHITEOUT) :]
    if not name.startswith(_WHITEOUT) or hidden in (b"", b".", b".."):
        raise ContentError(f"/{show(parent + b'/' + name)}: a whiteout of this name hides nothing that could exist")
    if name != _OPAQUE:
        tree.white_out(parent, hidden)
    elif parent:
        tree.mark_opaque(tree.directory(parent))
        tree.whiteouts += 1  # whiteouts inside have to go, wherever they come in the archive
    else:
        tree.opaque_root = True


def finish(tree: Tree, know_lower: bool) -> None:
    """Call once after the last entry; ``know_lower`` says that the tree was given its lower layers."""
    if tree.opaque_root:
        _hide_lower_root(tree)
    if tree.whiteouts:
        _drop_idle_whiteouts(tree, know_lower)


def _hide_lower_root(tree: Tree) -> None:
    """overlayfs ignores the opaque mark on the root of a layer: hide each name of the lower roots instead."""
    tree.dependent = True
    directory = tree.directory(b"")
    for name in tree.lower.names(b""):
        try:
            make_whiteout(directory.fd, name)
        except FileExistsError:
            if S_ISDIR(os.stat(name, dir_fd=directory.fd, follow_symlinks=False).st_mode):
                tree.mark_opaque(tree.directory(name))


def _drop_idle_whiteouts(tree: Tree, know_lower: bool) -> None:
    """Remove whiteouts where no directory lies below: readdir(3) would show them, as names that do not exist.

    (Seen on Linux 6.18; overlayfs filters whiteouts only in directories that it merges.)
    """
    pending = [(b"", True)]
    while pending:
        path, merged = pending.pop()
        directory = tree.directory(path)
        if merged and path and is_opaque(directory.fd):
            merged = False
        whiteouts, directories = _scan(directory.fd)
        if whiteouts and merged and know_lower and not tree.lower.is_directory(path):
            merged = False
            tree.dependent = True
        for name in () if merged else whiteouts:
            os.unlink(name, dir_fd=directory.fd)
        pending += [(path + b"/" + name if path else name, merged) for name in directories]


def _scan(fd: int) -> tuple[list[bytes], list[bytes]]:
    """The names of the whiteouts and of the subdirectories in the opened directory."""
    whiteouts, directories = [], []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
            elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
                info = entry.stat(follow_symlinks=False)
                if S_ISCHR(info.st_mode) and is_whiteout(info):
                    whiteouts.append(os.fsencode(entry.name))
    return whiteouts, directories
