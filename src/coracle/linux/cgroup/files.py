"""Reading and writing control files: one open, one system call, no buffering.

A buffered ``open(...).write()`` reports the kernel's refusal at close, or never.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

UNLIMITED = (1 << 64) - 1  # how "max" is reported as a number, as runc does


def write(path: str, value: str) -> None:
    """Write ``value`` in one write(2), as every control file demands.  :raises OSError:"""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def read(path: str) -> str:
    """The text of a control file.  :raises OSError:"""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    finally:
        os.close(fd)


def read_if_there(path: str) -> str:
    """The text of a control file, or nothing if this kernel or group does not have it."""
    try:
        return read(path)
    except OSError:
        return ""


def number(text: str, unlimited: int = UNLIMITED) -> int:
    """One number of a control file; ``max`` is ``unlimited`` and an absent file's empty text 0."""
    word = text.strip()
    if word == "max":
        return unlimited
    return int(word) if word.lstrip("-").isdigit() else 0


def pairs(text: str) -> dict[str, int]:
    """A "flat keyed" file (cgroup-v2.rst, Format): ``KEY VALUE`` lines."""
    result = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        result[key] = number(value)
    return result


def nested(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A "nested keyed" file (cgroup-v2.rst, Format): ``KEY SUB=VALUE SUB=VALUE`` lines."""
    for line in text.splitlines():
        key, *rest = line.split()
        yield key, dict(word.split("=", 1) for word in rest if "=" in word)


def ranges(text: str) -> list[int]:
    """The members of a cpuset list such as ``0-2,7`` (cpuset(7), List format)."""
    members: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            members.extend(range(int(first), int(last or first) + 1))
    return members
