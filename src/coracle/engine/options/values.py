"""Converters from the text of one option to its value.

Each raises ``ValueError`` with the words that complete "expected ...", or a UsageError when
the text is understood but cannot be honoured.  No ``re`` here: it costs 7 ms.
"""

from __future__ import annotations

import os

from coracle.engine.options.parser import boolean
from coracle.errors import UsageError
from coracle.linux import signals
from coracle.linux.rlimit import INFINITY, RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = "bkmgtp"
_SIZE = "a size such as 64m, 1.5g or a number of bytes"
NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
_INT64 = 1 << 63

# docker's --ulimit uses the names of setrlimit(2) in lower case.
_LIMITS = frozenset(name.removeprefix("RLIMIT_").lower() for name in RLIMITS)


def text(value: str) -> str:
    """Any text that can be passed to the kernel, that is without NUL."""
    if "\0" in value:
        raise ValueError("text without NUL bytes")
    return value


def non_empty(value: str) -> str:
    """Text that is not empty."""
    if not value:
        raise ValueError("a value that is not empty")
    return text(value)


def is_decimal(value: str) -> bool:
    """Whether ``value`` is ASCII digits only; ``str.isdigit`` accepts other scripts, ``int`` signs and blanks."""
    return value.isascii() and value.isdigit()


def integer(minimum: int, maximum: int = _INT64 - 1, what: str = "") -> Callable[[str], int]:
    """A converter for whole numbers from ``minimum`` to ``maximum``; ``what`` replaces the standard complaint."""

    def convert(value: str) -> int:
        digits = value[1:] if value.startswith("-") else value
        number = int(value) if is_decimal(digits) and len(digits) < 20 else minimum - 1
        if not minimum <= number <= maximum:
            upper = f"{maximum}" if maximum < _INT64 - 1 else "2^63"
            raise ValueError(what or f"a whole number from {minimum} to {upper}")
        return number

    return convert


def choice(*names: str) -> Callable[[str], str]:
    """A converter that accepts the given words."""

    def convert(value: str) -> str:
        if value not in names:
            raise ValueError(" or ".join(name for name in names if name))
        return value

    return convert


def decimal(value: str, digits: int, what: str) -> int:
    """``value``, a decimal number, in units of 10^-digits; exact, unlike ``float``.  :raises ValueError: ``what``"""
    negative = value.startswith("-")
    whole, _, fraction = value.removeprefix("-").partition(".")
    if not is_decimal(whole + fraction) or len(whole) > 15 or len(fraction) > digits:
        raise ValueError(what)
    number = int((whole or "0") + fraction.ljust(digits, "0"))
    return -number if negative else number


def size(value: str) -> int:
    """Bytes from ``64m``, ``1.5GiB``, ``512``: docker's units are powers of 1024 and ignore case."""
    letters = value.lower().replace(" ", "")
    number = letters.rstrip(_UNITS + "i")
    unit = letters[len(number) :]
    if len(unit) > 1:  # 64mb and 64mib say no more than 64m
        unit = unit.removesuffix("b").removesuffix("i") if unit[0] != "b" else "?"
    power = 0 if not unit else _UNITS.find(unit)
    if not number or number.startswith("-") or power < 0 or len(unit) > 1:
        raise ValueError(_SIZE)
    count = (decimal(number, 6, _SIZE) << 10 * power) // 1_000_000
    if count >= _INT64:
        raise ValueError("a size below 8 EiB")
    return count


def size_or_unlimited(value: str) -> int:
    """Bytes, or -1 for no limit."""
    return -1 if value == "-1" else size(value)


def cpus(value: str) -> int:
    """A number of CPUs such as ``1.5``, in billionths of a CPU (docker's NanoCpus)."""
    what = "a number of CPUs such as 0.5 or 2"
    number = decimal(value, 9, what)
    if number < 0 or 0 < number < 10_000_000:
        raise ValueError(f"{what}, 0.01 at least")
    return number


def cpu_list(value: str) -> str:
    """A cpuset(7) list such as ``0-3,6``."""
    for piece in value.split(","):
        first, dash, last = piece.partition("-")
        ends = (first, last) if dash else (first, first)
        if not all(is_decimal(end) and len(end) < 5 for end in ends) or int(ends[0]) > int(ends[1]):
            raise ValueError("a list such as 0-3,6")
    return value


def numbers_in(cpu_set: str) -> set[int]:
    """The numbers that a valid cpuset(7) list names."""
    numbers: set[int] = set()
    for piece in cpu_set.split(","):
        first, _, last = piece.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def container_name(value: str) -> str:
    """A container name: docker's [a-zA-Z0-9][a-zA-Z0-9_.-]*; it becomes a file name, hence at most 255 bytes."""
    name = value.removeprefix("/")
    if not name or len(name) > 255 or not NAME_LETTERS.issuperset(name) or name[0] in "_.-":
        raise ValueError("letters, digits, '_', '.' and '-', beginning with a letter or digit")
    return name


def absolute(value: str) -> str:
    """An absolute path inside the container, without ``.``, ``..`` and double slashes."""
    if not value.startswith("/") or "\0" in value:
        raise ValueError("an absolute path")
    return clean(value)


def clean(path: str) -> str:
    """The shortest spelling of an absolute ``path``, as Go's path.Clean; posixpath keeps a leading ``//``."""
    return "/" + os.path.normpath(path).lstrip("/")


def host_path(value: str) -> str:
    """A path of the host, made absolute from the working directory."""
    return os.path.abspath(non_empty(value))


def pair(value: str) -> tuple[str, str]:
    """``key=value``; docker reads a bare key as one with an empty value."""
    key, _, content = text(value).partition("=")
    if not key:
        raise ValueError("key=value")
    return key, content


def full_pair(value: str) -> tuple[str, str]:
    """``key=value`` where the value must be there."""
    if "=" not in value:
        raise ValueError("key=value")
    return pair(value)


def variable(value: str) -> str:
    """``NAME=value``, or ``NAME`` to pass on the caller's variable."""
    if not text(value).partition("=")[0]:
        raise ValueError("NAME=value, or NAME to pass on your own variable")
    return value


def signal_name(value: str) -> str:
    """A signal by number or by name with or without SIG, as ``SIGTERM`` or, for real-time signals, the number."""
    try:
        return signals.signal_name(signals.signal_number(value))
    except UsageError:
        raise ValueError("a signal such as SIGTERM, TERM or 15") from None


def detach_keys(value: str) -> bytes:
    """The bytes of a key sequence such as ``ctrl-p,ctrl-q`` or ``a``; empty text turns detaching off."""
    keys = bytearray()
    for name in value.split(",") if value else []:
        key = name.removeprefix("ctrl-")
        control = key.upper() if name.startswith("ctrl-") else ""
        if len(key) != 1 or not key.isascii() or (control and not "@" <= control <= "_"):
            raise ValueError("letters or ctrl-<letter>, separated by commas, such as ctrl-p,ctrl-q")
        keys.append(ord(control) - 64 if control else ord(key))
    return bytes(keys)


def ulimit(value: str) -> tuple[str, int, int]:
    """``nofile=1024:2048`` as (name, soft, hard); -1 and ``unlimited`` mean no limit."""
    name, equals, limits = value.partition("=")
    name = name.lower().removeprefix("rlimit_")
    soft, colon, hard = limits.partition(":")
    if not equals or name not in _LIMITS:
        raise ValueError(f"name=soft[:hard] with a name out of {', '.join(sorted(_LIMITS))}")
    limits_of = [_limit(number) for number in (soft, hard if colon else soft)]
    if limits_of[0] > limits_of[1]:
        raise ValueError("a soft limit that is not above the hard limit")
    return name, limits_of[0], limits_of[1]


def _limit(number: str) -> int:
    if number in ("-1", "unlimited"):
        return INFINITY
    if not is_decimal(number) or len(number) > 20 or int(number) > INFINITY:
        raise ValueError("name=soft[:hard] with numbers, -1 for unlimited")
    return int(number)


def time_offset(value: str) -> tuple[str, int]:
    """``monotonic=3600`` or ``boottime=-1.5``, in seconds, as (clock, nanoseconds) (time_namespaces(7))."""
    clock, _, seconds = value.partition("=")
    what = "monotonic=SECONDS or boottime=SECONDS"
    if clock not in ("monotonic", "boottime"):
        raise ValueError(what)
    return clock, decimal(seconds, 9, what)


def id_map(value: str) -> tuple[int, int, int]:
    """``container:host:size`` as three numbers (user_namespaces(7))."""
    parts = value.split(":")
    what = "container:host:size, such as 0:100000:65536"
    if len(parts) == 2:
        parts.append("1")
    if len(parts) != 3 or not all(is_decimal(part) and len(part) < 11 for part in parts):
        raise ValueError(what)
    inside, outside, count = map(int, parts)
    if count == 0 or max(inside, outside) + count > 0xFFFFFFFF:  # (uid_t) -1 means "no change" to setresuid(2)
        raise ValueError(f"{what}, with ids below 4294967295")
    return inside, outside, count


def umask(value: str) -> int:
    """An octal file mode mask."""
    if not is_decimal(value) or len(value) > 4 or "8" in value or "9" in value or int(value, 8) > 0o777:
        raise ValueError("an octal mask such as 0022")
    return int(value, 8)


def ignored_when_true(value: str) -> bool:
    """A flag that docker keeps for old scripts and whose true value is what happens anyway."""
    if not boolean(value):
        raise UsageError("content trust is not supported: only --disable-content-trust=true")
    return True
