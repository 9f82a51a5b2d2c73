"""What a string in config.json must look like: each function returns the complaint, or nothing."""

from __future__ import annotations

from coracle.runtime.spec.shape import shown

_DIGITS = frozenset("0123456789")
_SEMVER = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_HOST_NAME_MAX = 64  # __NEW_UTS_LEN, include/uapi/linux/utsname.h
_IFNAMSIZ = 16  # include/uapi/linux/if.h, with the closing NUL


def non_empty(value: str) -> str:
    return "" if value else "must not be empty"


def absolute(value: str) -> str:
    return "" if value.startswith("/") else f"must be an absolute path, is {shown(value)}"


def absolute_or_empty(value: str) -> str:
    """Go's encoding/json writes an unset path as an empty string."""
    return absolute(value) if value else ""


def version(value: str) -> str:
    """A SemVer 2.0.0 version 1.x: the spec is compatible within a major version (config.md)."""
    release, plus, build = value.partition("+")
    release, dash, pre_release = release.partition("-")
    numbers = release.split(".")
    proper = len(numbers) == 3 and all(n == "0" or (_DIGITS.issuperset(n) and n[:1] not in ("", "0")) for n in numbers)
    tails = [tail for mark, tail in ((dash, pre_release), (plus, build)) if mark]
    if not proper or not all(part and _SEMVER.issuperset(part) for tail in tails for part in tail.split(".")):
        return f"must be a version such as 1.3.0, is {shown(value)}"
    return "" if numbers[0] == "1" else f"must be a version 1.x, is {shown(value)}"


def host_name(value: str) -> str:
    """sethostname(2): at most 64 bytes."""
    return "" if len(value.encode(errors="surrogateescape")) <= _HOST_NAME_MAX else "must not be longer than 64 bytes"


def environment(value: str) -> str:
    """environ(7): NAME=value.  Entries without "=" are dropped by some programs and trip others."""
    return "" if value.find("=") > 0 else f"must be NAME=value, is {shown(value)}"


def cgroup_path(value: str) -> str:
    """A path that cannot climb out of the hierarchy; also systemd's slice:prefix:name."""
    return 'must not contain ".."' if ".." in value.replace(":", "/").split("/") else ""


def unified_file(value: str) -> str:
    """The name of a file in the container's cgroup, such as memory.high."""
    if "/" in value or "\0" in value or "." not in value.strip("."):
        return f"must name a cgroup file such as memory.high, is {shown(value)}"
    return ""


def one_line(value: str) -> str:
    """resctrl reads one schema a line: a newline would smuggle in a second one (config-linux.md, "IntelRdt")."""
    return "must not contain a newline" if "\n" in value else ""


def bandwidth_schema(value: str) -> str:
    proper = not value or value.startswith("MB:")
    return one_line(value) or ("" if proper else f'must start with "MB:", is {shown(value)}')


def resctrl_group(value: str) -> str:
    """A directory name, or "/" for the default class (config-linux.md, ``closID``)."""
    if value in (".", "..") or ("/" in value and value != "/"):
        return f'must be the name of a directory or "/", is {shown(value)}'
    return ""


def cpu_list(value: str) -> str:
    """Numbers and ranges, such as 0-3,7 (config.md, ``execCPUAffinity``)."""
    for part in value.split(",") if value.strip() else []:
        ends = [end.strip() for end in part.split("-")]
        proper = len(ends) <= 2 and all(_DIGITS.issuperset(end) and 0 < len(end) < 10 for end in ends)
        if not proper or int(ends[0]) > int(ends[-1]):
            return f"must be a list such as 0-3,7, is {shown(value)}"
    return ""


def huge_page_size(value: str) -> str:
    """The spelling of the hugetlb controller's files: 64KB, 2MB, 1GB."""
    number = value[:-2]
    if value[-2:] in ("KB", "MB", "GB") and _DIGITS.issuperset(number) and number[:1] not in ("", "0"):
        return ""
    return f"must be a size such as 2MB, is {shown(value)}"


def device_access(value: str) -> str:
    return "" if frozenset("rwm").issuperset(value) else f"must consist of r, w and m, is {shown(value)}"


def interface(value: str) -> str:
    """dev_valid_name() of net/core/dev.c, without the templates that only a new name may be."""
    if value in ("", ".", "..") or len(value.encode(errors="surrogateescape")) >= _IFNAMSIZ:
        return f"must be an interface name of 1 to 15 bytes, is {shown(value)}"
    if any(character in "/:\0" or character.isspace() for character in value):
        return f"must be an interface name without blank, slash or colon, is {shown(value)}"
    return ""


def host_interface(value: str) -> str:
    return interface(value) or (f"must be a name, not a template, is {shown(value)}" if "%" in value else "")


def new_interface(value: str) -> str:
    """A new name may end in %d: the kernel numbers it (config-linux.md, "Network Devices")."""
    if not value:  # the host's name is kept
        return ""
    template = value.removesuffix("%d")
    problem = interface(value)
    return problem or (f'must not contain "%", except a closing "%d", is {shown(value)}' if "%" in template else "")


def clock(value: str) -> str:
    """time_namespaces(7)."""
    return "" if value in ("monotonic", "boottime") else "unknown clock, must be monotonic or boottime"
