"""``coracle-oci events``: resource usage as one JSON document a line, in the shape of runc events."""

from __future__ import annotations

import time

from coracle.cli.oci_report import write
from coracle.errors import ConflictError, NotFoundError, UsageError
from coracle.record import dumps
from coracle.runtime import lifecycle

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def once(root: str, identifier: str) -> None:
    """Print the usage now."""
    event = {"type": "stats", "id": identifier, "data": lifecycle.stats(root, identifier)}
    write(1, dumps(event) + "\n")


def follow(root: str, identifier: str, interval: str) -> None:
    """Print the usage now and then every ``interval`` until the container has ended."""
    seconds = duration(interval)
    once(root, identifier)
    while True:
        time.sleep(seconds)
        try:
            once(root, identifier)
        except (ConflictError, NotFoundError):
            return


def duration(text: str) -> float:
    """Seconds in a duration of Go, such as 5s, 1m30s or 0.5s.  :raises UsageError: unless it is positive."""
    seconds, rest = 0.0, text
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = next((place for place, character in enumerate(rest) if character in "0123456789."), len(rest))
        unit, rest = rest[:letters], rest[letters:]
        if unit not in _UNITS or number.count(".") > 1 or not number.strip(".") or len(number) > 15:
            break
        seconds += float(number) * _UNITS[unit]
    else:
        if 0 < seconds < 1e9:
            return seconds
    raise UsageError(f"option --interval is a duration such as 5s or 1m30s, not {text!r}")
