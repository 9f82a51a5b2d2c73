"""Reading a container's log: json-file records, oldest first, across rotation; with ``follow`` as they come."""

from __future__ import annotations

import os
import select

from coracle.errors import ContentError
from coracle.record import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from coracle.engine.container import Container

_POLL_MS = 100


def read_log(container: Container, follow: bool = False) -> Iterator[tuple[str, str]]:
    """(stream, text) for each record; a line that a crash cut short is left out."""
    path = container.log_path
    number = 1
    while os.path.exists(f"{path}.{number}"):
        number += 1
    for older in range(number - 1, 0, -1):
        yield from _records(f"{path}.{older}")
    yield from _follow(container, path) if follow else _records(path)


def _records(path: str) -> Iterator[tuple[str, str]]:
    if os.path.exists(path):
        with open(path, "rb") as file:
            for line in file:
                yield from _record(line)


def _record(line: bytes) -> Iterator[tuple[str, str]]:
    try:
        entry = loads(line)
        yield entry["stream"], entry["log"]
    except (ContentError, KeyError, TypeError):
        return


def _follow(container: Container, path: str) -> Iterator[tuple[str, str]]:
    """Until the container has ended and its log is read; a rotated file is finished before the new one."""
    sleeper = select.poll()
    ended = False
    waiting = b""
    fd = -1
    try:
        while True:
            if fd < 0 and os.path.exists(path):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            data = os.read(fd, 65536) if fd >= 0 else b""
            waiting += data
            *lines, waiting = waiting.split(b"\n")
            for line in lines:
                yield from _record(line)
            if data:
                continue
            if fd >= 0 and _rotated(fd, path):
                os.close(fd)
                fd = -1
                continue
            if ended:
                return
            ended = not container.is_monitored()
            if not ended:
                sleeper.poll(_POLL_MS)
    finally:
        if fd >= 0:
            os.close(fd)


def _rotated(fd: int, path: str) -> bool:
    try:
        return os.stat(path).st_ino != os.fstat(fd).st_ino
    except FileNotFoundError:
        return False
