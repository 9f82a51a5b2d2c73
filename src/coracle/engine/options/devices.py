"""--device and the options that name a device and a number."""

from __future__ import annotations

from coracle.engine.options import values
from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ACCESS = frozenset("rwm")
_DEVICE = "/dev/name[:/dev/name-inside][:rwm]"
_RULE = "a rule such as 'c 42:* rwm'"


def _is_access(text: str) -> bool:
    return bool(text) and _ACCESS.issuperset(text) and len(set(text)) == len(text)


def device(text: str) -> tuple[str, str, str]:
    """``/dev/x[:/dev/y][:rwm]`` as (host path, path inside, access); docker's opts/parse.go."""
    parts = text.split(":")
    if not text.startswith("/") and "=" in text:
        raise UsageError(f"CDI device {text!r} is not supported yet: only device nodes and directories of this host")
    if not 1 <= len(parts) <= 3 or not parts[0].startswith("/") or "\0" in text:
        raise ValueError(_DEVICE)
    access = parts.pop() if len(parts) > 1 and _is_access(parts[-1]) else "rwm"
    if len(parts) == 3 or not parts[-1].startswith("/"):
        raise ValueError(_DEVICE)
    return values.clean(parts[0]), values.clean(parts[-1]), access


def cgroup_rule(text: str) -> tuple[str, int, int, str]:
    """``c 1:3 rwm`` as (type, major, minor, access), with -1 for ``*`` (cgroup-v1/devices.rst)."""
    words = text.split(" ")
    if len(words) != 3 or words[0] not in ("a", "b", "c") or not _is_access(words[2]):
        raise ValueError(_RULE)
    numbers = words[1].split(":")
    if len(numbers) != 2 or not all(
        number == "*" or (values.is_decimal(number) and len(number) < 8) for number in numbers
    ):
        raise ValueError(_RULE)
    major, minor = (-1 if number == "*" else int(number) for number in numbers)
    return words[0], major, minor, words[2]


def with_number(convert: Callable[[str], int], example: str) -> Callable[[str], tuple[str, int]]:
    """A converter for ``/dev/sda:NUMBER`` as (host path, number)."""

    def parse(text: str) -> tuple[str, int]:
        path, _, number = text.partition(":")
        if not path.startswith("/") or "\0" in path:
            raise ValueError(f"a device and a number such as {example}")
        return values.clean(path), convert(number)

    return parse


_positive = values.integer(0, (1 << 63) - 1)
throttle_bytes = with_number(values.size, "/dev/sda:1m")
throttle_operations = with_number(_positive, "/dev/sda:1000")
weight = with_number(values.integer(10, 1000), "/dev/sda:500")
