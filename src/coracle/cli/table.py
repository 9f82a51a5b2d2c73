"""Output in columns, and times and sizes as people say them."""

from __future__ import annotations

from time import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_SPANS = ((31536000, "year"), (2592000, "month"), (604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"))
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``rows`` below ``heads``, each column as wide as its widest cell plus three, as docker's."""
    widths = [max(len(row[index]) for row in (heads, *rows)) + 3 for index in range(len(heads))]
    lines = []
    for row in (heads, *rows):
        lines.append("".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)


def seconds_of(stamp: str) -> float:
    """Seconds since the epoch of an RFC 3339 time in UTC; 0 if it is none."""
    from calendar import timegm
    from time import strptime

    try:
        return timegm(strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return 0


def ago(stamp: str) -> str:
    """How long ago, such as ``3 minutes``."""
    seconds = max(0, int(time() - seconds_of(stamp)))
    for span, name in _SPANS:
        if seconds >= span:
            count = seconds // span
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{seconds} second{'s' if seconds != 1 else ''}"


def size(count: int) -> str:
    """Bytes in decimal units with three digits, as docker's."""
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g}{_UNITS[unit]}"


def shorten(text: str, width: int) -> str:
    """``text``, cut with an ellipsis if it is longer than ``width``."""
    return text if len(text) <= width else text[: width - 1] + "…"
