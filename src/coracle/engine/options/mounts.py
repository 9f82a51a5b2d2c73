"""-v, --mount and --tmpfs, in docker's and podman's spellings, as :class:`Mount` records.

docs.docker.com/engine/storage/bind-mounts, podman-run(1).
"""

from __future__ import annotations

import os

from coracle.engine.options import values
from coracle.engine.options.parser import boolean
from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BIND = "bind"
TMPFS = "tmpfs"

PROPAGATIONS = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"))
# Options of a mount as such, and the one that each takes back (mount(8)).
_OPPOSITES = {"noexec": "exec", "nosuid": "suid", "nodev": "dev", "ro": "rw", "noatime": "atime", "sync": "async"}
_OPPOSITES |= {value: key for key, value in _OPPOSITES.items()}
_ATIME = frozenset(("relatime", "norelatime", "strictatime", "nostrictatime", "nodiratime", "diratime"))
MOUNT_FLAGS = frozenset(_OPPOSITES) | _ATIME
_TMPFS_VALUES = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "huge"))
_CONSISTENCY = frozenset(("consistent", "cached", "delegated", "default"))  # Docker Desktop only, ignored on Linux
_RECURSION = {"enabled": "", "disabled": "ro", "writable": "ro", "readonly": "rro"}


class Mount:
    """One file system to be mounted, as asked for.

    ``kind`` is BIND or TMPFS, ``source`` an absolute host path for a bind, ``target`` an absolute path in
    the container.  ``options`` are further mount options in OCI's words.  ``create`` makes a missing
    source directory, as docker's -v does.  ``readonly`` is "" for writable, "ro", or "rro" for docker's
    default since 25.0: with all mounts below.  ``relabel`` is "", "shared" or "private" (SELinux).
    """

    __slots__ = ("create", "kind", "options", "propagation", "readonly", "recursive", "relabel", "source", "target")

    def __init__(self, kind: str, source: str, target: str) -> None:
        self.kind = kind
        self.source = source
        self.target = target
        self.options: list[str] = []
        self.create = False
        self.readonly = ""
        self.recursive = True
        self.propagation = "rprivate"
        self.relabel = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mount) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Mount({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


def target_path(text: str) -> str:
    """Where a mount goes: absolute, and not the root itself."""
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"an absolute path in the container instead of {text!r}")
    path = values.clean(text)
    if path == "/":
        raise ValueError("a destination other than '/'")
    return path


def bind_source(text: str) -> str:
    """Host path of a bind; a name without slash would be a volume."""
    if not text.startswith(("/", "./", "../")) and text not in (".", ".."):
        raise UsageError(
            f"named volume {text!r} is not supported yet: only directories and files of this host",
            f"for the directory in the working directory write ./{text}",
        )
    return os.path.abspath(text)


def volume(text: str) -> Mount:
    """``source:target[:options]`` of -v."""
    parts = text.split(":")
    if len(parts) == 1 and text.startswith("/"):
        raise UsageError(
            f"anonymous volume {text!r} is not supported yet", f"write SOURCE:{text}, or --tmpfs {text} for memory"
        )
    if not 2 <= len(parts) <= 3 or not all(parts) or "\0" in text:
        raise ValueError("source:target[:options]")
    mount = Mount(BIND, bind_source(parts[0]), target_path(parts[1]))
    mount.create = True
    seen: set[str] = set()
    for word in parts[2].split(",") if len(parts) == 3 else []:
        kind = _volume_word(mount, word)
        if kind in seen:
            raise ValueError(f"options that do not contradict each other at {word!r}")
        seen.add(kind)
    return mount


def _volume_word(mount: Mount, word: str) -> str:
    """Apply one option of -v; returns the kind of the option, of which there may be one."""
    if word in ("ro", "rw"):
        mount.readonly = "rro" if word == "ro" else ""
        return "write"
    if word in PROPAGATIONS:
        mount.propagation = word
        return "propagation"
    if word in ("z", "Z"):
        mount.relabel = "shared" if word == "z" else "private"
        return "relabel"
    if word in ("bind", "rbind"):
        mount.recursive = word == "rbind"
        return "recursion"
    if word in ("nocopy", "copy") or word in _CONSISTENCY:
        return f"={word}"  # nothing is ever copied into a bind mount
    if word in MOUNT_FLAGS or word in ("idmap", "ridmap"):
        mount.options.append(word)
        return _OPPOSITES.get(word, word) if word in ("exec", "suid", "dev") else word
    raise _unknown(word)


def _unknown(word: str) -> Exception:
    """The complaint about ``word``, an option of a mount."""
    if word in ("U", "chown"):
        return UsageError(f"mount option {word} is not supported yet: it changes the owner of all files of the source")
    if word == "O" or word.startswith(("upperdir=", "workdir=")):
        return UsageError(f"mount option {word} is not supported yet: overlay volumes")
    return ValueError(
        f"known mount options (ro, rw, z, Z, rshared, rslave, nosuid, noexec, nodev, ...) instead of {word!r}"
    )


def tmpfs(text: str) -> Mount:
    """``target[:options]`` of --tmpfs."""
    target, colon, options = text.partition(":")
    mount = Mount(TMPFS, "tmpfs", target_path(target))
    mount.options = tmpfs_options(options.split(",") if colon and options else [])
    return mount


def tmpfs_options(words: list[str]) -> list[str]:
    """Options of a tmpfs: docker's nosuid, nodev, noexec unless ``words`` say otherwise; the last word wins."""
    kept = {word: word for word in ("noexec", "nosuid", "nodev", "rprivate")}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in _TMPFS_VALUES:
            kept[key] = f"{key}={_tmpfs_value(key, value)}"
        elif word in MOUNT_FLAGS or word in PROPAGATIONS or word in ("tmpcopyup", "noswap"):
            kept.pop(_OPPOSITES.get(word, "rprivate" if word in PROPAGATIONS else ""), None)
            kept[word] = word
        elif word not in ("notmpcopyup", "defaults"):
            raise ValueError(f"tmpfs options such as size=64m, mode=1777 or exec instead of {word!r} (tmpfs(5))")
    return list(kept.values())


def _tmpfs_value(key: str, value: str) -> str:
    """``value`` if the kernel's tmpfs understands it for ``key`` (tmpfs(5)), which answers with a bare EINVAL."""
    number = value[:-1] if value[-1:].lower() in "kmg%" and key in ("size", "nr_inodes", "nr_blocks") else value
    if key == "huge":
        return values.choice("never", "always", "within_size", "advise")(value)
    if not values.is_decimal(number) or (key == "mode" and set(number) & set("89")):
        raise ValueError(f"{key} as a number{' in octal' if key == 'mode' else ''} instead of {value!r}")
    return value


# --mount: key → (mount types it belongs to, converter, field); docker's cli/opts/mount.go, podman-run(1).
_ANY, _BINDS, _MEMORY = (BIND, TMPFS), (BIND,), (TMPFS,)
_KEYS: dict[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "source": (_BINDS, values.non_empty),
    "target": (_ANY, target_path),
    "readonly": (_ANY, boolean),
    "consistency": (_ANY, values.choice(*_CONSISTENCY)),
    "bind-propagation": (_BINDS, values.choice(*sorted(PROPAGATIONS))),
    "bind-nonrecursive": (_BINDS, boolean),
    "bind-recursive": (_BINDS, values.choice(*_RECURSION)),
    "bind-create-src": (_BINDS, boolean),
    "relabel": (_BINDS, values.choice("shared", "private")),
    "idmap": (_BINDS, boolean),
    "tmpfs-size": (_MEMORY, values.size),
    "tmpfs-mode": (_MEMORY, values.integer(0, 7777, "an octal mode such as 1777")),
    "tmpcopyup": (_MEMORY, boolean),
    "notmpcopyup": (_MEMORY, boolean),
    "noswap": (_MEMORY, boolean),
}
_SPELLINGS = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}


def _fields(text: str) -> list[str]:
    if '"' not in text:
        return text.split(",")
    from _csv import Error, reader  # quoting is rare: only it pays for the parser

    try:
        (fields,) = reader([text], strict=True)
    except (Error, ValueError):
        raise ValueError("fields separated by commas, quoted as in CSV (RFC 4180)") from None
    return list(fields)


def mount(text: str) -> Mount:
    """``type=bind|tmpfs,key=value,...`` of --mount."""
    given: dict[str, Any] = {}
    flags: list[str] = []
    for field in _fields(text):
        key, equals, value = field.partition("=")
        key = _SPELLINGS.get(key, key)
        if key == "type":
            given[key] = value.lower()
        elif key == "readwrite":
            given["readonly"] = not boolean(value if equals else "true")
        elif key in _KEYS:
            convert = _KEYS[key][1]
            if not equals and convert is not boolean:
                raise ValueError(f"a value after {key}=")
            given[key] = convert(value if equals else "true")
        elif key in MOUNT_FLAGS and not equals:
            flags.append(key)
        else:
            raise _unknown(key)
    return _assemble(given, flags)


def _assemble(given: dict[str, Any], flags: list[str]) -> Mount:
    kind = given.pop("type", "volume")
    if kind not in _ANY:
        raise UsageError(f"--mount type={kind} is not supported yet: only type=bind and type=tmpfs")
    if "target" not in given:
        raise ValueError("a target=PATH")
    if kind == BIND and "source" not in given:
        raise ValueError("a source=PATH")
    for key in given:
        if kind not in _KEYS[key][0]:
            raise ValueError(f"keys of type={kind} instead of {key}")
    return _bind(given, flags) if kind == BIND else _memory(given, flags)


def _bind(given: dict[str, Any], flags: list[str]) -> Mount:
    source = given["source"]
    if not source.startswith(("/", "./", "../")) and source not in (".", ".."):
        raise ValueError(f"an absolute source path instead of {source!r}")
    mount = Mount(BIND, os.path.abspath(source), given["target"])
    mount.options = [*flags, *(["idmap"] if given.get("idmap") else [])]
    mount.create = given.get("bind-create-src", False)
    recursion = given.get("bind-recursive", "enabled")
    mount.recursive = not given.get("bind-nonrecursive", False) and recursion != "disabled"
    mount.propagation = given.get("bind-propagation", "rprivate")
    mount.relabel = given.get("relabel", "")
    if given.get("readonly"):
        mount.readonly = _RECURSION[recursion] or "rro"
    elif recursion == "readonly":
        raise ValueError("readonly together with bind-recursive=readonly")
    return mount


def _memory(given: dict[str, Any], flags: list[str]) -> Mount:
    mount = Mount(TMPFS, "tmpfs", given["target"])
    words = [*flags, *(["ro"] if given.get("readonly") else [])]
    if given.get("tmpfs-size"):
        words.append(f"size={given['tmpfs-size']}")
    if "tmpfs-mode" in given:
        words.append(f"mode={given['tmpfs-mode']}")
    words += [name for name in ("tmpcopyup", "noswap") if given.get(name)]
    mount.options = tmpfs_options(words)
    return mount
