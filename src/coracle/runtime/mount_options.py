"""The ``options`` of a mount: words to attributes, propagation and file system data.

The words are those of runtime-spec 1.3 (config.md, "Linux mount options") and mount(8); those it
does not know belong to the file system.  Later words win over earlier ones.
"""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.mount import (
    ATTR_ATIME,
    ATTR_NOATIME,
    ATTR_NODEV,
    ATTR_NODIRATIME,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_NOSYMFOLLOW,
    ATTR_RDONLY,
    ATTR_STRICTATIME,
    PROPAGATION,
)
from coracle.record import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Data = tuple[str, str | None]
    IdMapping = dict[str, int]

# word → (attributes to set, to clear, and to forget if an earlier word set them).  The access
# time modes share a field, which has to be cleared as a whole (mount_setattr(2), MOUNT_ATTR__ATIME).
ATTRIBUTES = {
    "ro": (ATTR_RDONLY, 0, 0),
    "rw": (0, ATTR_RDONLY, ATTR_RDONLY),
    "nosuid": (ATTR_NOSUID, 0, 0),
    "suid": (0, ATTR_NOSUID, ATTR_NOSUID),
    "nodev": (ATTR_NODEV, 0, 0),
    "dev": (0, ATTR_NODEV, ATTR_NODEV),
    "noexec": (ATTR_NOEXEC, 0, 0),
    "exec": (0, ATTR_NOEXEC, ATTR_NOEXEC),
    "nosymfollow": (ATTR_NOSYMFOLLOW, 0, 0),
    "symfollow": (0, ATTR_NOSYMFOLLOW, ATTR_NOSYMFOLLOW),
    "nodiratime": (ATTR_NODIRATIME, 0, 0),
    "diratime": (0, ATTR_NODIRATIME, ATTR_NODIRATIME),
    "noatime": (ATTR_NOATIME, ATTR_ATIME, ATTR_ATIME),
    "atime": (0, ATTR_ATIME, ATTR_NOATIME),
    "strictatime": (ATTR_STRICTATIME, ATTR_ATIME, ATTR_ATIME),
    "nostrictatime": (0, ATTR_ATIME, ATTR_STRICTATIME),
    "relatime": (0, ATTR_ATIME, ATTR_ATIME),
    "norelatime": (0, 0, 0),  # relatime is what the kernel does when no other mode is asked for (mount(2))
}
RECURSIVE = {f"r{word}": entry for word, entry in ATTRIBUTES.items()}

# Flags of the superblock; fsconfig(2) knows them by the same words (fs/fs_context.c), opposite by opposite.
_SUPERBLOCK = {
    "sync": "", "async": "sync", "dirsync": "", "lazytime": "", "nolazytime": "lazytime", "mand": "", "nomand": "mand",
}  # fmt: skip
# Words that change nothing here: defaults, what only mount(8) or fstab(5) care about, and what is
# internal to a file system by now (``iversion``: include/linux/iversion.h).
_NO_EFFECT = frozenset(
    ("defaults", "silent", "loud", "iversion", "noiversion", "auto", "noauto", "nofail", "nouser", "_netdev")
)
# Words that set an attribute of MountOptions; the last two lines are crun's.
_SWITCHES = {
    "bind": ("bind",), "rbind": ("bind", "rbind"), "remount": ("remount",), "tmpcopyup": ("tmpcopyup",),
    "idmap": ("idmap",), "ridmap": ("idmap", "ridmap"),
    "src-nofollow": ("nofollow",), "copy-symlink": ("copy_symlink",), "dest-nofollow": ("destination_nofollow",),
}  # fmt: skip

KNOWN = tuple(sorted({*ATTRIBUTES, *RECURSIVE, *PROPAGATION, *_SUPERBLOCK, *_NO_EFFECT, *_SWITCHES}))


class MountOptions:
    """What a list of option words asks for.

    ``attr_set`` and ``attr_clear`` are MOUNT_ATTR_* masks for the mount, ``rec_set`` and
    ``rec_clear`` for the whole tree below it; ``propagation`` are MS_* flags, with MS_REC, in the
    listed order; ``data`` are file system options for fsconfig(2), superblock flags included, but
    never ``ro``, which follows from ``attr_set``.  ``uid_mappings`` and ``gid_mappings`` come from
    crun's ``idmap=uids=...;gids=...``, in the form of the spec plus ``relative`` (0 or 1).
    """

    __slots__ = (
        "attr_clear", "attr_set", "bind", "copy_symlink", "data", "destination_nofollow", "gid_mappings", "idmap",
        "nofollow", "propagation", "rbind", "rec_clear", "rec_set", "remount", "ridmap", "tmpcopyup", "uid_mappings",
    )  # fmt: skip

    def __init__(self) -> None:
        self.attr_set = self.attr_clear = self.rec_set = self.rec_clear = 0
        self.bind = self.rbind = self.remount = self.tmpcopyup = self.idmap = self.ridmap = False
        self.nofollow = self.copy_symlink = self.destination_nofollow = False
        self.propagation: list[int] = []
        self.data: list[Data] = []
        self.uid_mappings: list[IdMapping] = []
        self.gid_mappings: list[IdMapping] = []

    def attribute_words(self) -> list[str]:
        """The per-mount attributes in the words of mount(8), for ``mount -o remount,bind,...``."""
        words = _attribute_words(self.attr_set, self.attr_clear)
        return words + [f"{word}=recursive" for word in _attribute_words(self.rec_set, self.rec_clear)]

    def words(self) -> list[str]:
        """Everything that ``mount -t TYPE -o ...`` takes for a new file system."""
        data = [key if value is None else f"{key}={value}" for key, value in self.data]
        return _attribute_words(self.attr_set, 0) + data

    def fields(self) -> dict[str, Any]:
        """What was asked for, by name, for JSON and for comparison."""
        return {name: getattr(self, name) for name in self.__slots__ if getattr(self, name)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MountOptions) and self.fields() == other.fields()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"MountOptions({', '.join(f'{name}={value!r}' for name, value in self.fields().items())})"


def _attribute_words(set_: int, clear: int) -> list[str]:
    words = [word for word, (on, _, _) in ATTRIBUTES.items() if on and set_ & on == on]
    if clear & ATTR_ATIME and not set_ & ATTR_ATIME:
        words.append("relatime")
    flags = clear & ~ATTR_ATIME
    return words + [word for word, (on, off, _) in ATTRIBUTES.items() if not on and off & flags]


def mount_options(options: Sequence[str], where: str = "options") -> MountOptions:
    """``options`` of a mount, taken apart; ``where`` is their JSON path, for errors.

    :raises SpecError: for a malformed ``idmap=``.
    """
    result = MountOptions()
    for index, word in enumerate(options):
        if entry := ATTRIBUTES.get(word):
            result.attr_set, result.attr_clear = _merge(result.attr_set, result.attr_clear, entry)
        elif entry := RECURSIVE.get(word):
            result.rec_set, result.rec_clear = _merge(result.rec_set, result.rec_clear, entry)
        elif flag := PROPAGATION.get(word):
            result.propagation.append(flag)
        elif names := _SWITCHES.get(word):
            for name in names:
                setattr(result, name, True)
        elif word in _SUPERBLOCK:
            _switch_superblock(result, word)
        elif word.startswith("idmap="):
            result.idmap = True
            _parse_idmap(result, word[6:], f"{where}[{index}]")
        elif word not in _NO_EFFECT and not word.startswith(("x-", "X-")):
            result.data += [_data(part) for part in _split(word) if part]
    return result


def _merge(set_: int, clear: int, entry: tuple[int, int, int]) -> tuple[int, int]:
    on, off, forget = entry
    return (set_ & ~forget) | on, (clear & ~on) | off


def _switch_superblock(result: MountOptions, word: str) -> None:
    opposite = _SUPERBLOCK[word]
    result.data = [entry for entry in result.data if entry != (opposite or word, None)]
    if not opposite:
        result.data.append((word, None))


def _data(word: str) -> Data:
    key, equals, value = word.partition("=")
    return key, value if equals else None


def _split(word: str) -> list[str]:
    """An entry that holds several options, as mount(2)'s data may: cut at commas neither quoted nor escaped."""
    if "," not in word:
        return [word]
    parts, part, quoted, escaped = [], "", False, False
    for character in word:
        if character == "," and not quoted and not escaped:
            parts.append(part)
            part = ""
            continue
        quoted ^= character == '"' and not escaped
        escaped = character == "\\" and not escaped
        part += character
    return [*parts, part]


def _parse_idmap(result: MountOptions, text: str, where: str) -> None:
    """crun(1), "idmap mount options": ``uids=0-1000-10#10-2000-5;gids=@0-0-10``; @: relative to the user namespace."""
    targets = {"uids": result.uid_mappings, "gids": result.gid_mappings}
    for part in text.split(";"):
        name, _, triples = part.partition("=")
        if name not in targets or not triples:
            raise SpecError(where, f"idmap must be uids=...;gids=..., is {dumps(text)}")
        for triple in triples.split("#"):
            numbers = triple.removeprefix("@").split("-")
            if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
                raise SpecError(where, f"idmap ranges are INSIDE-OUTSIDE-SIZE, not {dumps(triple)}")
            inside, outside, size = map(int, numbers)
            relative = int(triple.startswith("@"))
            targets[name].append({"containerID": inside, "hostID": outside, "size": size, "relative": relative})
