"""``coracle-oci events``: resource usage as one JSON document a line, in the shape of runc events."""

from __future__ import annotations

import select
import time

from coracle.cli.oci_report import write
from coracle.errors import ConflictError, NotFoundError, UsageError
from coracle.linux.cgroup.oom import OomWatch
from coracle.record import dumps
from coracle.runtime import lifecycle
from coracle.runtime.group import reopen
from coracle.runtime.state import Container

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def once(root: str, identifier: str) -> None:
    """Print the usage now."""
    event = {"type": "stats", "id": identifier, "data": lifecycle.stats(root, identifier)}
    write(1, dumps(event) + "\n")


def follow(root: str, identifier: str, interval: str) -> None:
    """Print the usage now and then every ``interval``, and each kill for memory, until the container has ended."""
    seconds = duration(interval)
    once(root, identifier)
    group = reopen(Container.open(root, identifier).cgroup)
    watch = OomWatch(group) if group is not None and "memory" in group.controllers() else None
    try:
        while _await(watch, seconds, identifier):
            once(root, identifier)
    except (ConflictError, NotFoundError):
        return
    finally:
        if watch is not None:
            watch.close()


def _await(watch: OomWatch | None, seconds: float, identifier: str) -> bool:
    """Let ``seconds`` pass, reporting kills meanwhile; False once the group is gone."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    if watch is not None:
        poll.register(watch.fileno(), watch.events)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(left * 1000) and watch is not None:
            _report_kills(watch, identifier)
            if watch.gone:
                return False
    if watch is not None:  # version 1 wakes us before it kills, and counts after
        _report_kills(watch, identifier)
    return True


def _report_kills(watch: OomWatch, identifier: str) -> None:
    for _ in range(watch.read()):
        write(1, dumps({"type": "oom", "id": identifier}) + "\n")


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
