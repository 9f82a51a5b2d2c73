"""Small JSON files, written atomically and locked one by one.

``json`` costs 10 ms to import; its C accelerator alone costs 0.5 ms, so that is what the hot
path uses (design of the start path in docs/decisions/0002-raw-syscalls.md).
"""

from __future__ import annotations

import os
from _json import encode_basestring_ascii, make_scanner
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from coracle.errors import ContentError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WHITESPACE = " \t\n\r"


class _Grammar:
    """What json.decoder.JSONDecoder gives its C scanner: plain Python values, NaN refused."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")


_scan = make_scanner(_Grammar)  # type: ignore[arg-type]


def loads(text: str | bytes, name: str = "JSON") -> Any:
    """Parse one JSON document.

    :raises ContentError: naming ``name`` and the position, for anything that is not JSON.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        start = len(text) - len(text.lstrip(_WHITESPACE))
        value, end = _scan(text, start)
        if text[end:].strip(_WHITESPACE):
            raise ValueError(f"unexpected text after the document at character {end}")
    except StopIteration as error:
        raise ContentError(f"{name} is not valid JSON: unexpected end or character at {error.value}") from None
    except (ValueError, RecursionError, SystemError) as error:
        raise ContentError(f"{name} is not valid JSON: {_reason(text, error)}") from None
    return value


def _reason(text: str | bytes, error: Exception) -> str:
    """What ``error`` says.  For some mistakes the scanner wants json.decoder, and gives up without it (SystemError)."""
    if not isinstance(error, SystemError):
        return str(error)
    import json

    try:
        json.loads(text)
    except ValueError as better:
        return str(better)
    return "it cannot be read"


def dumps(value: Any, indent: int = 0) -> str:
    """``value`` as compact JSON, or indented by ``indent`` spaces per level; key order is kept."""
    parts: list[str] = []
    _write(value, parts, "\n" if indent else "", " " * indent)
    return "".join(parts)


def _write(value: Any, parts: list[str], newline: str, indent: str) -> None:
    if value is None or value is True or value is False:
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, str):
        parts.append(encode_basestring_ascii(value))
    elif isinstance(value, (int, float)):
        if value - value != 0:  # infinities and NaN
            raise ValueError(f"{value} is not JSON")
        parts.append(repr(value))
    elif isinstance(value, dict):
        _write_items(value.items(), "{", "}", parts, newline, indent)
    elif isinstance(value, (list, tuple)):
        _write_items(((None, item) for item in value), "[", "]", parts, newline, indent)
    else:
        raise TypeError(f"not JSON: {type(value).__name__}")


def _write_items(items: Any, opening: str, closing: str, parts: list[str], newline: str, indent: str) -> None:
    parts.append(opening)
    inner = newline + indent if newline else ""
    separator = inner
    for key, item in items:
        parts.append(separator)
        if key is not None:
            parts.append(encode_basestring_ascii(str(key)) + (": " if newline else ":"))
        _write(item, parts, inner, indent)
        separator = "," + inner
    if separator.startswith(","):
        parts.append(newline)
    parts.append(closing)


def load(path: str) -> Any:
    """The JSON document in the file ``path``.  :raises OSError: :raises ContentError:"""
    return loads(read(path), path)


def read(path: str) -> bytes:
    """All bytes of the file ``path``.  :raises OSError:"""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError as error:  # a directory, a disk that fails: read(2) does not say of what
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def save(path: str, value: Any, mode: int = 0o600, durable: bool = False) -> None:
    """Replace ``path`` by ``value`` as JSON: readers see the old document or the new one, never half."""
    write(path, dumps(value, 1).encode() + b"\n", mode, durable)


def write(path: str, data: bytes, mode: int = 0o600, durable: bool = False) -> None:
    """Replace the file ``path`` atomically.

    ``durable`` adds fsync, for what must survive a power cut; records below a run directory
    do not, they are gone with the boot anyway.  A full disk leaves the old file as it was.
    """
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if durable:
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


class Lock:
    """An advisory lock on the file ``path`` (flock(2)), freed by the kernel when its holder dies."""

    __slots__ = ("fd", "path", "shared")

    def __init__(self, path: str, shared: bool = False) -> None:
        self.path = path
        self.shared = shared
        self.fd = -1

    def acquire(self, wait: bool = True) -> bool:
        """Take the lock; with ``wait=False`` return False when someone else holds it."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(fd, (LOCK_SH if self.shared else LOCK_EX) | (0 if wait else LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            return False
        self.fd = fd
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
