"""Device rules (runtime-spec, config-linux.md, Allowed Device List; cgroup-v1/devices.rst).

Version 1 takes them one by one, in the order listed.  Version 2 has no such files: the rules
become one eBPF program (:mod:`~coracle.linux.cgroup.device_program`), attached to the group.

In the program a later rule wins over an earlier one, for each of read, write and mknod separately, and what
no rule mentions is denied.  On version 1 the kernel keeps a default and a list of exceptions to
it: a rule for all devices sets the default and empties the list, any other edits the list, and
without a first rule for all devices the default is the parent group's.
"""

from __future__ import annotations

from coracle.errors import KernelError, SpecError
from coracle.linux.cgroup.settings import Place, Setting, integer, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_EPERM, _EINVAL, _ENOENT = 1, 22, 2
_HINTS = {
    _EPERM: "device rules need root outside of any user namespace, and cannot exceed the parent group's",
    _EINVAL: "the parent group denies devices itself: allow single devices instead of all",
}
_TYPES = ("a", "b", "c")
ANY = -1
_MAX_NUMBER = (1 << 31) - 1  # the kernel's own are smaller: 12 and 20 bits (linux/kdev_t.h)


class Rule:
    """One device rule: ``kind`` a, b or c, numbers or :data:`ANY`, ``access`` of the letters r, w, m."""

    __slots__ = ("access", "allow", "cause", "kind", "major", "minor")

    def __init__(self, allow: bool, kind: str, major: int, minor: int, access: str, cause: str = "") -> None:
        self.allow = allow
        self.kind = kind
        self.major = major
        self.minor = minor
        self.access = access
        self.cause = cause

    @property
    def everything(self) -> bool:
        """Whether it speaks of every access to every device."""
        return self.kind == "a" and self.major == self.minor == ANY and set(self.access) == set("rwm")

    def __str__(self) -> str:
        """The kernel's notation, such as ``c 1:3 rwm``."""
        numbers = ("*" if number == ANY else str(number) for number in (self.major, self.minor))
        return f"{self.kind} {':'.join(numbers)} {self.access}"

    def __repr__(self) -> str:
        return f"Rule({'allow' if self.allow else 'deny'} {self})"


def _allow(kind: str, major: int, minor: int, access: str) -> dict[str, Any]:
    numbers = {key: number for key, number in (("major", major), ("minor", minor)) if number != ANY}
    return {"allow": True, "type": kind, **numbers, "access": access}


# What programs expect to be able to use: mknod of anything (opening it is another matter), null, zero,
# full, random, urandom, tty, ptmx and the pseudo terminals, of which the console is one
# (admin-guide/devices.txt).  For a caller that appends them to ``linux.resources.devices``.
STANDARD = (
    _allow("c", ANY, ANY, "m"),
    _allow("b", ANY, ANY, "m"),
    _allow("c", 1, 3, "rwm"),
    _allow("c", 1, 5, "rwm"),
    _allow("c", 1, 7, "rwm"),
    _allow("c", 1, 8, "rwm"),
    _allow("c", 1, 9, "rwm"),
    _allow("c", 5, 0, "rwm"),
    _allow("c", 5, 2, "rwm"),
    _allow("c", 136, ANY, "rwm"),
)


def rules(section: Sequence[Any]) -> list[Rule]:
    """The rules of ``linux.resources.devices``, checked.  :raises SpecError: naming the entry."""
    result = []
    for index, entry in enumerate(section):
        where = f"linux.resources.devices[{index}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("allow"), bool):
            raise SpecError(where, "needs allow: true or false")
        kind = text(entry, "type", where) or "a"
        access = text(entry, "access", where) or "rwm"
        if kind not in _TYPES:
            raise SpecError(f"{where}.type", f"{kind!r} is not a, b or c")
        if not set("rwm").issuperset(access):
            raise SpecError(f"{where}.access", f"{access!r} is not of the letters r, w, m")
        given = (integer(entry, key, where, ANY, _MAX_NUMBER) for key in ("major", "minor"))
        major, minor = (ANY if number is None else number for number in given)
        rule = Rule(entry["allow"], kind, major, minor, access, where)
        # The v1 file takes any rule of type a for all access to all devices, whatever follows the letter.
        kinds = (kind,) if kind != "a" or rule.everything else ("b", "c")
        result += [Rule(rule.allow, single, rule.major, rule.minor, access, where) for single in kinds]
    return result


def settings(section: Sequence[Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """Writes to devices.allow and devices.deny, or one :class:`DeviceFilter`."""
    listed = rules(section)
    if place.unified:
        return [DeviceFilter(place.hierarchy, listed, "linux.resources.devices")]
    return [
        Setting(place.hierarchy, "devices.allow" if rule.allow else "devices.deny", str(rule), rule.cause, hints=_HINTS)
        for rule in listed
    ]


class DeviceFilter(Setting):
    """The version 2 setting: attach a program instead of writing a file.  ``value`` lists its rules."""

    __slots__ = ("rules",)

    def __init__(self, hierarchy: str, listed: list[Rule], cause: str) -> None:
        lines = (f"{'allow' if rule.allow else 'deny'} {rule}" for rule in listed)
        super().__init__(hierarchy, "device program", "\n".join(lines), cause)
        self.rules = listed

    def apply(self, directories: Mapping[str, str], warn: Callable[[str], None]) -> None:
        """Attach the program in place of the one attached before.  :raises KernelError:"""
        from coracle.linux.cgroup import device_program

        if self.hierarchy not in directories:
            self.missing(warn)
            return
        directory = directories[self.hierarchy]
        try:
            device_program.attach(directory, device_program.build(self.rules))
        except OSError as error:
            code = error.errno or 0
            raise KernelError(code, f"{self.cause}: {self.prose()}", directory, self.hint(code)) from error

    def prose(self) -> str:
        return f"attach an eBPF program with {len(self.rules)} device rules"

    def shell(self, directories: Mapping[str, str]) -> list[str]:
        """Comments: no tool at hand can assemble and attach it."""
        where = directories.get(self.hierarchy, "")
        return [f"# bpf(2): a BPF_CGROUP_DEVICE program on {where}; the last matching rule wins, otherwise deny:"] + [
            f"#   {line}" for line in self.value.splitlines()
        ]

    def hint(self, errno: int) -> str:
        if errno == _EPERM:
            return "eBPF needs CAP_BPF outside of any user namespace, and before Linux 5.11 a large RLIMIT_MEMLOCK"
        if errno == _EINVAL:
            return "the kernel needs CONFIG_CGROUP_BPF (Linux 4.15)"
        return super().hint(errno)
