"""How overlayfs marks deletions on disk, and who may write which marks (kernel: filesystems/overlayfs.rst).

A whiteout, "the name below is gone", is a character device 0:0, which every user may make since
Linux 5.8.  An opaque directory, "nothing of the directory below shows", carries an extended
attribute: ``trusted.overlay.opaque`` for a mount by root, ``user.overlay.opaque`` for a mount with
the option ``userxattr``, the only kind that a user namespace can make.
"""

from __future__ import annotations

import os
from errno import ENODATA, ENOTSUP, EPERM
from stat import S_IFCHR, S_ISCHR

TRUSTED = "trusted.overlay.opaque"
USER = "user.overlay.opaque"
# Attributes that steer overlayfs; from an archive they would let it show any file of the lower layers.
CONTROL_PREFIXES = (b"trusted.overlay.", b"user.overlay.")
_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_SYS_ADMIN = 0, 1, 21


def is_whiteout(info: os.stat_result) -> bool:
    return S_ISCHR(info.st_mode) and info.st_rdev == 0


def make_whiteout(directory: int, name: bytes) -> None:
    """:raises FileExistsError: if ``name`` is there already."""
    os.mknod(name, S_IFCHR, 0, dir_fd=directory)


def is_opaque(path: int | str) -> bool:
    """Whether either form of the opaque mark is set on the directory."""
    for attribute in (TRUSTED, USER):
        try:
            if os.getxattr(path, attribute) == b"y":
                return True
        except OSError as error:
            if error.errno not in (ENODATA, ENOTSUP, EPERM):
                raise
    return False


class Rights:
    """What this process may do to files that it unpacks.

    ``owner``: give them to others; ``override``: enter directories whose mode forbids it;
    ``opaque``: the attribute that marks opaque directories for the mounts it can make.
    """

    __slots__ = ("opaque", "override", "owner")

    def __init__(self, owner: bool, override: bool, opaque: str) -> None:
        self.owner = owner
        self.override = override
        self.opaque = opaque


def detect_rights() -> Rights:
    """The rights of the calling process, from its capabilities and its user namespace's id map.

    A namespace that maps a single uid cannot hold anybody else's files (user_namespaces(7)).
    """
    capabilities = 0
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                capabilities = int(line.split()[1], 16)
    with open("/proc/self/uid_map", "rb") as uid_map:
        ranges = [[int(number) for number in line.split()] for line in uid_map]
    everything = ranges == [[0, 0, 0xFFFFFFFF]]  # the initial namespace, or one that equals it
    trusted = everything and bool(capabilities >> _CAP_SYS_ADMIN & 1) and _may_set_trusted()
    return Rights(
        owner=bool(capabilities >> _CAP_CHOWN & 1) and sum(count for _, _, count in ranges) > 1,
        override=bool(capabilities >> _CAP_DAC_OVERRIDE & 1),
        opaque=TRUSTED if trusted else USER,
    )


def _may_set_trusted() -> bool:
    """trusted.* asks for CAP_SYS_ADMIN in the initial namespace (xattr(7)), which only a trial can tell."""
    fd = os.memfd_create("coracle-probe")
    try:
        os.setxattr(fd, "trusted.coracle", b"")
    except OSError as error:
        return error.errno != EPERM
    finally:
        os.close(fd)
    return True
