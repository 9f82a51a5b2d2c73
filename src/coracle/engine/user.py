"""Who a container runs as: names resolved by the image's own files, never by the host's.

Rules of docker's ``-u`` (github.com/moby/sys/user, GetExecUser), read strictly: a number is ASCII
digits only and is never looked up as a name, out of range is an error and not a name
(CVE-2026-30892: "1" became user 0; CVE-2026-46680: 4294967297 became a name), a line of passwd
that is damaged is skipped instead of meaning user 0.
"""

from __future__ import annotations

import os

from coracle.errors import ContentError, KernelError, UsageError
from coracle.linux import mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAXIMUM_ID = (1 << 31) - 1  # docker's and runc's limit; -1 would mean "leave unchanged" to setresuid(2)
MAXIMUM_GROUPS = 65536  # NGROUPS_MAX (setgroups(2))
MAXIMUM_SIZE = 1 << 20
_LINKS = 8

_WHITEOUT = os.makedev(0, 0)


class User:
    """A resolved user.  ``groups`` are all supplementary gids, ``gid`` among them, as docker sets them."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, uid: int = 0, gid: int = 0, groups: Sequence[int] = (), home: str = "/", name: str = "") -> None:
        self.uid = uid
        self.gid = gid
        self.groups = list(groups)
        self.home = home
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, User) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"User({self.uid}, {self.gid}, {self.groups}, {self.home!r}, {self.name!r})"


def _number(text: bytes) -> int | None:
    """``text`` as an id, or None when it is not one."""
    if not text.isdigit() or len(text) > 10 or int(text) > MAXIMUM_ID:
        return None
    return int(text)


def _identifier(text: str, kind: str) -> int | None:
    """``text`` of the command line or image as an id, None if it is a name.  :raises UsageError: out of range"""
    if not (text.isascii() and text.isdigit()):
        return None
    number = _number(text.encode())
    if number is None:
        raise UsageError(f"{kind} {text} is out of range", f"0 to {MAXIMUM_ID}")
    return number


def _lines(data: bytes | None, fields: int) -> Iterator[list[bytes]]:
    """Lines of passwd(5) or group(5) with at least ``fields`` fields; comments and NIS lines have no valid id."""
    for line in (data or b"").split(b"\n"):
        parts = line.strip().split(b":")
        if len(parts) >= fields and parts[0] and b"\0" not in line:
            yield parts


def _users(passwd: bytes | None) -> Iterator[tuple[bytes, int, int, bytes]]:
    """name, uid, gid, home of each sound line of passwd(5)."""
    for parts in _lines(passwd, 4):
        uid, gid = _number(parts[2]), _number(parts[3])
        if uid is not None and gid is not None:
            yield parts[0], uid, gid, parts[5] if len(parts) > 5 else b""


def _groups(group: bytes | None) -> Iterator[tuple[bytes, int, list[bytes]]]:
    """name, gid, members of each sound line of group(5)."""
    for parts in _lines(group, 3):
        gid = _number(parts[2])
        if gid is not None:
            yield parts[0], gid, parts[3].split(b",") if len(parts) > 3 else []


def needs_files(specification: str, group_add: Sequence[str] = ()) -> bool:
    """Whether :func:`resolve` has any use for /etc/group; without, /etc/passwd only gives the home directory."""
    user, _, group = specification.partition(":")
    return not (user.isdigit() and group.isdigit() and all(name.isdigit() for name in group_add))


def resolve(specification: str, group_add: Sequence[str], passwd: bytes | None, group: bytes | None) -> User:
    """Resolve ``name|uid[:group|gid]`` ("" means user 0) and the names of --group-add.

    ``passwd`` and ``group`` are the container's own files, None where it has none.  Without an
    explicit group the supplementary groups are those of /etc/group that list the user.

    :raises UsageError: unknown name, or an id out of range.
    """
    if "\0" in specification or "\n" in specification:
        raise UsageError(f"user {specification!r} contains a control character")
    name, _, group_name = specification.partition(":")
    user = _find_user(name, passwd)
    if group_name:
        user.gid = _find_group(group_name, group)
        groups: list[int] = []
    else:
        groups = [gid for _, gid, members in _groups(group) if user.name and os.fsencode(user.name) in members]
    groups += [_find_group(extra, group) for extra in group_add]
    user.groups = list(dict.fromkeys([user.gid, *groups]))
    if len(user.groups) > MAXIMUM_GROUPS:
        raise UsageError(
            f"user {specification or '0'} is in {len(user.groups)} groups", f"the kernel's limit is {MAXIMUM_GROUPS}"
        )
    return user


def _find_user(name: str, passwd: bytes | None) -> User:
    wanted = _identifier(name, "user") if name else 0
    encoded = os.fsencode(name)
    for entry, uid, gid, home in _users(passwd):
        if uid == wanted if wanted is not None else entry == encoded:
            path = os.fsdecode(home)
            return User(uid, gid, (), path if path.startswith("/") else "/", os.fsdecode(entry))
    if wanted is None:
        where = (
            "no such user in the container's /etc/passwd" if passwd is not None else "the container has no /etc/passwd"
        )
        raise UsageError(f"unable to find user {name}: {where}", "a number works without an entry")
    return User(wanted, 0)


def _find_group(name: str, group: bytes | None) -> int:
    number = _identifier(name, "group")
    if number is not None:
        return number
    encoded = os.fsencode(name)
    for entry, gid, _ in _groups(group):
        if entry == encoded:
            return gid
    where = "no such group in the container's /etc/group" if group is not None else "the container has no /etc/group"
    raise UsageError(f"unable to find group {name}: {where}", "a number works without an entry")


# -- reading a file out of a stack of layers ------------------------------------------------------


def read_in_layers(directories: Sequence[str], path: str) -> bytes | None:
    """The regular file ``path`` in the overlay of ``directories`` (topmost first), or None if there is none.

    No mount is needed, and nothing outside the directories can be reached: each path is opened by
    openat2(2) below one layer, without following links; symbolic links are resolved here, over the
    whole stack.  Whiteouts and opaque directories hide what is below them (overlayfs.rst).

    :raises ContentError: not a regular file, larger than 1 MiB, or too many symbolic links.
    """
    roots: list[int] = []
    try:
        for directory in directories:
            roots.append(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        return _read(roots, path)
    except OSError as error:
        raise KernelError(error.errno or 0, "read", f"{path} of the image") from error
    finally:
        for root in roots:
            os.close(root)


def _read(roots: list[int], path: str) -> bytes | None:
    pending = [part for part in reversed(path.split("/")) if part]
    walked: list[tuple[str, list[int]]] = []  # directory name, the layers that it is merged from
    links = 0
    while pending:
        part = pending.pop()
        if part in (".", ".."):
            del walked[-1 if part == ".." else len(walked) :]
            continue
        layers, top = _merge(walked[-1][1] if walked else roots, [*(name for name, _ in walked), part])
        if top < 0:
            return None
        kind = os.fstat(top).st_mode & 0o170000
        if kind == 0o120000:
            links += 1
            link = _target(top)
            if links > _LINKS:
                raise ContentError(f"{path} of the image: more than {_LINKS} symbolic links")
            walked = [] if link.startswith("/") else walked
            pending += [piece for piece in reversed(link.split("/")) if piece]
        elif pending:
            os.close(top)
            if kind != 0o040000:
                return None
            walked.append((part, layers))
        else:
            return _content(top, path)
    raise ContentError(f"{path} of the image is not a regular file")


def _target(fd: int) -> str:
    """Target of the symbolic link behind the O_PATH descriptor ``fd``, which is closed."""
    try:
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


def _open(root: int, parts: list[str]) -> int:
    """``parts`` below ``root`` by O_PATH, or -1; a link in the middle is "not here", for the stack resolves links."""
    resolve = mount.RESOLVE_IN_ROOT | mount.RESOLVE_NO_SYMLINKS | mount.RESOLVE_NO_MAGICLINKS
    try:
        return mount.openat2(root, "/".join(parts), os.O_PATH | os.O_NOFOLLOW, resolve)
    except (FileNotFoundError, NotADirectoryError):
        return -1
    except OSError as error:
        if error.errno == 40:  # ELOOP
            return -1
        raise


def _merge(layers: list[int], parts: list[str]) -> tuple[list[int], int]:
    """The layers whose directory ``parts`` is part of the merged one, and a descriptor of the topmost entry or -1."""
    kept: list[int] = []
    top = -1
    for root in layers:
        fd = _open(root, parts)
        if fd < 0:
            continue
        status = os.fstat(fd)
        directory = status.st_mode & 0o170000 == 0o040000
        whiteout = status.st_mode & 0o170000 == 0o020000 and status.st_rdev == _WHITEOUT
        last = not directory or _is_opaque(fd)
        if directory:
            kept.append(root)
        if top < 0 and not whiteout:
            top = fd
        else:
            os.close(fd)
        if last:
            break
    return kept, top


def _is_opaque(fd: int) -> bool:
    """Whether the directory hides the layers below it; root's stores use trusted.*, others user.* (userxattr)."""
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            if os.getxattr(f"/proc/self/fd/{fd}", name) == b"y":
                return True
        except OSError:
            continue
    return False


def _content(fd: int, path: str) -> bytes:
    """All bytes of the regular file behind the O_PATH descriptor ``fd``, which is closed."""
    try:
        status = os.fstat(fd)
        if (status.st_mode & 0o170000) != 0o100000:
            raise ContentError(f"{path} of the image is not a regular file")
        # The same inode, so that nothing can be swapped in; O_NONBLOCK should it be a FIFO all the same.
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(fd)
    try:
        data = b""
        while len(data) <= MAXIMUM_SIZE and (piece := os.read(file, MAXIMUM_SIZE + 1 - len(data))):
            data += piece
    finally:
        os.close(file)
    if len(data) > MAXIMUM_SIZE:
        raise ContentError(f"{path} of the image is larger than 1 MiB")
    return data
