"""Writing tar archives: ustar headers, pax records where ustar is too narrow, and nothing that varies.

The same tree gives the same bytes: no names of users, no access times, whole seconds, one order.
Not ``tarfile``, whose writer takes most of a second for 10 000 files.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Protocol

from coracle.image.tar_header import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_HEADER = Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAGIC = b"ustar\00000"
_BUFFER = 1 << 20
_ROUND = 20 * BLOCK  # POSIX: archives end on a record of 20 blocks
_MAX_OCTAL_ID = 0o7777777
_MAX_OCTAL_SIZE = 0o77777777777


class Writable(Protocol):
    """What an archive is written to."""

    def write(self, data: bytes, /) -> object: ...


class Writer:
    """Call :meth:`entry` for each member, :meth:`content` for a file's data, and :meth:`end`."""

    def __init__(self, out: Writable) -> None:
        self._out = out
        self._buffer = bytearray()
        self.size = 0

    def entry(
        self,
        name: bytes,
        kind: bytes,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        size: int = 0,
        mtime: int = 0,
        target: bytes = b"",
        device: tuple[int, int] = (0, 0),
        xattrs: dict[bytes, bytes] | None = None,
    ) -> None:
        """One header, preceded by an extended one if need be.  ``mtime`` is in seconds, ``size`` in bytes."""
        pax: dict[bytes, bytes] = {b"SCHILY.xattr." + key: value for key, value in (xattrs or {}).items()}
        prefix, short = _split(name)
        if len(short) > 100:
            pax[b"path"], short = name, name[:100]
        if len(target) > 100:
            pax[b"linkpath"] = target
        for key, value, most in (
            (b"uid", uid, _MAX_OCTAL_ID),
            (b"gid", gid, _MAX_OCTAL_ID),
            (b"size", size, _MAX_OCTAL_SIZE),
            (b"mtime", mtime, _MAX_OCTAL_SIZE),
        ):
            if not 0 <= value <= most:
                pax[key] = b"%d" % value
        if pax:
            self._extended(pax)
        ids = (_fit(uid, _MAX_OCTAL_ID), _fit(gid, _MAX_OCTAL_ID))
        numbers = (_fit(size, _MAX_OCTAL_SIZE), _fit(mtime, _MAX_OCTAL_SIZE))
        self._add(_header(short, kind, mode, *ids, *numbers, target[:100], device, prefix))

    def _extended(self, pax: dict[bytes, bytes]) -> None:
        data = b"".join(_record(key, value) for key, value in sorted(pax.items()))
        self._add(_header(b"PaxHeaders", b"x", 0o644, 0, 0, len(data), 0, b"", (0, 0), b""))
        self._add(data)
        self._add(bytes(-len(data) % BLOCK))

    def content(self, pieces: Iterator[bytes], size: int) -> None:
        """Exactly ``size`` bytes: a file that shrank meanwhile is filled with zeros, one that grew is cut."""
        left = size
        for piece in pieces:
            piece = piece[:left]
            self._add(piece)
            left -= len(piece)
            if not left:
                break
        while left:
            step = min(left, _BUFFER)
            self._add(bytes(step))
            left -= step
        self._add(bytes(-size % BLOCK))

    def end(self) -> None:
        """The end marker, padded to a record."""
        self._add(bytes(2 * BLOCK))
        self._add(bytes(-self.size % _ROUND))
        self._flush()

    def _add(self, data: bytes) -> None:
        self.size += len(data)
        if len(data) >= _BUFFER:
            self._flush()
            self._out.write(data)
            return
        self._buffer += data
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._out.write(bytes(self._buffer))
            self._buffer.clear()


def _fit(value: int, most: int) -> int:
    """What stands in the narrow field; the true value stands in the extended header."""
    return max(0, min(value, most))


def _split(name: bytes) -> tuple[bytes, bytes]:
    """``name`` as ustar's prefix and name, if it fits; otherwise whole."""
    if len(name) <= 100:
        return b"", name
    slash = name.find(b"/", max(0, len(name) - 101), -1)
    return (name[:slash], name[slash + 1 :]) if 0 < slash <= 155 else (b"", name)


def _header(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int,
    target: bytes, device: tuple[int, int], prefix: bytes,
) -> bytes:  # fmt: skip
    block = _HEADER.pack(
        name, b"%07o\0" % mode, b"%07o\0" % uid, b"%07o\0" % gid, b"%011o\0" % size, b"%011o\0" % mtime, b" " * 8,
        kind, target, _MAGIC, b"", b"", b"%07o\0" % device[0], b"%07o\0" % device[1], prefix,
    )  # fmt: skip
    return b"%b%06o\0 %b" % (block[:148], sum(block), block[156:])


def _record(key: bytes, value: bytes) -> bytes:
    """``length key=value\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, key, value)
