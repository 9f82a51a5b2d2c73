"""OCI ``linux.resources`` (runtime-spec 1.3, config-linux.md) as a list of control file writes.

:func:`settings` is pure: it looks at no file, so that a plan can be printed without root and
compared in a test.  What the kernel may refuse is said by each :class:`Setting` itself: the
likely cause of an errno, and what a missing file means.

Which limits must hold: a limit that somebody wrote down and that this kernel cannot enforce is an error,
never a silent hope.  Three kinds of values are preferences and only warn: weights and
swappiness (they order, they do not bound; docker too discards ``--blkio-weight`` with a warning),
kernel memory (deprecated by the spec, a no-op in the kernel since 5.16), and the OOM
killer's switch, which version 2 does not have.
"""

from __future__ import annotations

from coracle.errors import KernelError, SpecError, UnsupportedError
from coracle.linux.cgroup import files
from coracle.linux.shell import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    Reader = Callable[[str, str], str]  # (hierarchy, file) → the present text, "" if absent

# What it means that the file of a setting does not exist.
FAIL = "fail"
WARN = "warn"
IGNORE = "ignore"

_ENOENT, _EACCES, _EBUSY, _EINVAL, _EROFS, _EOPNOTSUPP, _EPERM = 2, 13, 16, 22, 30, 95, 1
_ABSENT = (_ENOENT, _EOPNOTSUPP)
_HINTS = {
    _EPERM: "this group is not delegated to us, or we are in a user namespace",
    _EACCES: "this group is not delegated to us, or the value exceeds the parent group's",
    _EROFS: "the cgroup file system is mounted read-only here",
}


class Setting:
    """One write to one control file.

    ``hierarchy``    names the directory, as in ``Cgroup.directories``; empty: no hierarchy has the file
    ``cause``        the JSON path that asked
    ``absent``       what a missing file means: FAIL, WARN or IGNORE
    ``otherwise``    the setting to make instead where the file is missing
    ``must_exceed``  a file of current usage that the value has to be above (``memory.checkBeforeUpdate``)
    ``hints``        errno → likely cause, before the general ones
    """

    __slots__ = ("absent", "cause", "file", "hierarchy", "hints", "must_exceed", "otherwise", "value")

    def __init__(
        self,
        hierarchy: str,
        file: str,
        value: str,
        cause: str,
        absent: str = FAIL,
        otherwise: Setting | None = None,
        must_exceed: str = "",
        hints: dict[int, str] | None = None,
    ) -> None:
        self.hierarchy = hierarchy
        self.file = file
        self.value = value
        self.cause = cause
        self.absent = absent
        self.otherwise = otherwise
        self.must_exceed = must_exceed
        self.hints = hints or {}

    def path(self, directories: Mapping[str, str]) -> str:
        """The control file, given the group's directory in each hierarchy; its bare name where there is none."""
        directory = directories.get(self.hierarchy)
        return f"{directory}/{self.file}" if directory else self.file

    def apply(self, directories: Mapping[str, str], warn: Callable[[str], None]) -> None:
        """Write the value.

        :raises KernelError: if the kernel refuses it.
        :raises UnsupportedError: if the file does not exist and the limit has to hold.
        :raises SpecError: if the value is not above the current usage and has to be.
        """
        if self.hierarchy not in directories:
            self.missing(warn)
            return
        path = self.path(directories)
        self._check_usage(directories)
        try:
            files.write(path, self.value)
        except OSError as error:
            code = error.errno or 0
            if code in _ABSENT and self.otherwise is not None:
                self.otherwise.apply(directories, warn)
            elif code in _ABSENT and (code == _ENOENT or self.absent != FAIL):
                self.missing(warn)
            else:
                raise KernelError(code, f"{self.cause}: {self.prose()}", path, self.hint(code)) from error

    def _check_usage(self, directories: Mapping[str, str]) -> None:
        if self.must_exceed:
            usage = files.number(files.read_if_there(f"{directories[self.hierarchy]}/{self.must_exceed}"))
            if files.number(self.value) <= usage:
                raise SpecError(self.cause, f"{self.value} is not above the {usage} bytes in use", "free memory first")

    def missing(self, warn: Callable[[str], None]) -> None:
        """Deal with a file or hierarchy that does not exist, as ``absent`` says."""
        if self.absent == FAIL:
            raise UnsupportedError(
                f"{self.cause} cannot be enforced: this kernel has no {self.file}", self.hint(_ENOENT)
            )
        if self.absent == WARN:
            warn(f"{self.cause} is not enforced: this kernel has no {self.file}")

    def prose(self) -> str:
        """What it does, as one sentence."""
        value = self.value.replace("\n", "; ")
        return f"set {self.file} to {value}"

    def shell(self, directories: Mapping[str, str]) -> list[str]:
        """The same write as shell lines."""
        if self.hierarchy not in directories:
            return []
        path = quote(self.path(directories))
        line = f"echo {quote(self.value)} > {path}"
        if self.otherwise is not None:
            instead = " && ".join(self.otherwise.shell(directories)) or ":"
            return [f"if [ -e {path} ]; then {line}; else {instead}; fi"]
        return [line if self.absent == FAIL else f"[ ! -e {path} ] || {line}"]

    def hint(self, errno: int) -> str:
        """The likely cause of ``errno``, and what to do."""
        return self.hints.get(errno) or _HINTS.get(errno, "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Setting) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key()[:4])

    def _key(self) -> tuple[object, ...]:
        return (self.hierarchy, self.file, self.value, self.cause, self.absent, self.must_exceed, self.otherwise)

    def __repr__(self) -> str:
        return f"Setting({self.hierarchy}: {self.file} = {self.value!r} for {self.cause})"


class Place:
    """Where one controller's settings go, and what stands there now.

    ``hierarchy`` is the controller's own name on version 1 and ``unified`` on version 2.
    """

    __slots__ = ("_reader", "hierarchy")

    def __init__(self, hierarchy: str, reader: Reader | None = None) -> None:
        self.hierarchy = hierarchy
        self._reader = reader

    @property
    def unified(self) -> bool:
        return self.hierarchy == "unified"

    def current(self, file: str) -> int | None:
        """The present value of ``file`` when updating a group, None for a new group."""
        text = self._reader(self.hierarchy, file) if self._reader else ""
        return files.number(text.split()[0], -1) if text.strip() else None


# (section of linux.resources, its keys or none for all of them, controller); a controller's
# module is imported only when one of its keys is there.
_CPU = ("shares", "quota", "period", "burst", "realtimeRuntime", "realtimePeriod", "idle")
_PARTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("pids", (), "pids"),
    ("memory", (), "memory"),
    ("blockIO", (), "blkio"),
    ("cpu", _CPU, "cpu"),
    ("cpu", ("cpus", "mems"), "cpuset"),
    ("hugepageLimits", (), "hugetlb"),
    ("network", ("classID",), "net_cls"),
    ("network", ("priorities",), "net_prio"),
    ("rdma", (), "rdma"),
    ("devices", (), "devices"),
    ("unified", (), "unified"),
)
_LISTS = ("hugepageLimits", "devices")
_V1_ONLY = {
    "net_cls": "cgroup v2 has no such controller: match the cgroup itself in nftables (socket cgroupv2)",
    "net_prio": "cgroup v2 has no such controller: set priorities in nftables (meta priority)",
}


def settings(
    resources: Mapping[str, Any],
    controllers: Mapping[str, str],
    reader: Reader | None = None,
    missing: list[Setting] | None = None,
) -> list[Setting]:
    """The writes that ``resources`` asks for, in the order in which the kernel accepts them.

    ``controllers`` maps a controller's version 1 name to the hierarchy that serves it
    (``Cgroup.controllers()``).  ``reader`` gives the present values when a running
    group is updated, which decides orders such as swap before memory.  Limits whose controller is
    missing are collected in ``missing``, for the caller to warn about once, or else refused.
    :raises SpecError: for a value of the wrong type or out of range; names its JSON path.
    :raises UnsupportedError: for a limit without a controller, unless ``missing`` is given.
    """
    result: list[Setting] = []
    for section, keys, controller in _PARTS:
        part = _part(resources, section)
        if not part or (keys and not any(part.get(key) is not None for key in keys)):
            continue
        if controller == "unified":
            place = Place("unified", reader)
        else:
            place = Place(controllers.get(controller, ""), reader)
        for setting in _module(controller)(part, place, controllers):
            if setting.hierarchy or setting.absent != FAIL:
                result.append(setting)
            elif missing is None:
                raise _unavailable(setting, controller, bool(place.hierarchy))
            else:
                missing.append(setting)
    return result


def _part(resources: Mapping[str, Any], section: str) -> Any:
    part = resources.get(section)
    if part is not None and not isinstance(part, list if section in _LISTS else dict):
        raise SpecError(f"linux.resources.{section}", f"is not {'a list' if section in _LISTS else 'an object'}")
    return part


def unified_controllers(wanted: Iterable[Setting]) -> set[str]:
    """The version 2 controllers that these settings write to."""
    return {setting.file.partition(".")[0] for setting in wanted if setting.hierarchy == "unified"}


def _module(controller: str) -> Callable[[Any, Place, Mapping[str, str]], list[Setting]]:
    module = __import__(f"coracle.linux.cgroup.{controller}", None, None, ["settings"])
    function: Callable[[Any, Place, Mapping[str, str]], list[Setting]] = module.settings
    return function


def _unavailable(setting: Setting, controller: str, mounted: bool) -> UnsupportedError:
    """The error for a limit that no mounted hierarchy can hold."""
    if mounted:
        return UnsupportedError(
            f"{setting.cause} cannot be enforced: there is no {setting.file}", setting.hint(_ENOENT)
        )
    hint = _V1_ONLY.get(controller) or (
        f"if /proc/cgroups has it, mount -t cgroup -o {controller} cgroup /sys/fs/cgroup/{controller}, "
        "or on cgroup v2 enable it in the parents' cgroup.subtree_control"
    )
    return UnsupportedError(f"{setting.cause} cannot be enforced: the {controller} controller is not available", hint)


def integer(section: Mapping[str, Any], key: str, where: str, low: int = -1, high: int = (1 << 64) - 1) -> int | None:
    """``section[key]`` as a number from ``low`` to ``high``, None if it is not there.

    :raises SpecError: naming ``where.key``.
    """
    value = section.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"{where}.{key}", f"{value!r} is not a whole number")
    if not low <= value <= high:
        raise SpecError(f"{where}.{key}", f"{value} is not between {low} and {high}")
    return value


def text(section: Mapping[str, Any], key: str, where: str) -> str:
    """``section[key]`` as one line of text, empty if it is not there.  :raises SpecError: for anything else."""
    value = section.get(key, "")
    if not isinstance(value, str) or not value.isprintable():
        raise SpecError(f"{where}.{key}", f"{value!r} is not a line of text")
    return value


def required(section: Mapping[str, Any], key: str, where: str, low: int = 0) -> int:
    """Like :func:`integer` for a key that must be there."""
    value = integer(section, key, where, low)
    if value is None:
        raise SpecError(where, f"needs {key}")
    return value


def limit(value: int, unified: bool) -> str:
    """A limit as the kernel writes it: no limit is ``-1`` on version 1 and ``max`` on version 2."""
    return "max" if unified and value < 0 else str(value)
