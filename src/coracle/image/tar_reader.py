"""Reading tar archives that strangers wrote: v7, ustar, pax and GNU, one pass, bounded memory.

Not ``tarfile``: it reads a header of any size into memory, decodes names that are bytes, keeps
every member, and takes 20 µs an entry where this takes 10 (docs/decisions/image-store.md).  Where
dialects disagree the reading is that of Go's archive/tar, since Docker, containerd and podman
are built on it: two readers that see different files in one archive are an attack.

Sources: POSIX.1-2017 pax, GNU tar manual "Basic Tar Format", image-spec layer.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from coracle.errors import ContentError
from coracle.image.tar_header import (
    BLOCK,
    FILE,
    GNU_NAME,
    GNU_TARGET,
    KINDS,
    LONG_LINK,
    LONG_NAME,
    MAX_META,
    MAX_SPARSE,
    PAX,
    SIZE,
    SKIPPED,
    SPARSE,
    SUN_PAX,
    TYPE,
    ZEROS,
    Entry,
    Fields,
    padded,
    parse_decimal,
    parse_entry,
    parse_header,
    parse_number,
    parse_pax,
    show,
    until_zero,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class Limits:
    """How much of a layer is believed: ``entries``, ``size`` in bytes of all files, decompression ``ratio``."""

    __slots__ = ("entries", "ratio", "size")

    def __init__(self, entries: int = 1_000_000, size: int = 128 << 30, ratio: int = 200) -> None:
        self.entries = entries
        self.size = size
        self.ratio = ratio

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, or ``CORACLE_MAX_LAYER_ENTRIES`` and ``CORACLE_MAX_LAYER_BYTES``."""
        limits = cls()
        for name, variable in (("entries", "CORACLE_MAX_LAYER_ENTRIES"), ("size", "CORACLE_MAX_LAYER_BYTES")):
            value = os.environ.get(variable, "")
            if value.isascii() and value.isdigit():
                setattr(limits, name, int(value))
        return limits


class Pieces:
    """A seekable file as pieces, which the reader may also skip in."""

    def __init__(self, fd: int, size: int = 1 << 16) -> None:
        self.fd = fd
        self.size = size
        self.position = 0
        self.end = os.fstat(fd).st_size

    def __iter__(self) -> Pieces:
        return self

    def __next__(self) -> bytes:
        piece = os.pread(self.fd, self.size, self.position)
        if not piece:
            raise StopIteration
        self.position += len(piece)
        return piece

    def skip(self, count: int) -> None:
        self.position += count
        if self.position > self.end:
            raise _truncated()


def _truncated() -> ContentError:
    return ContentError("the tar archive is truncated")


class Reader:
    """Iterate to get entries; :meth:`content` gives the data of the last one, what is left is skipped."""

    def __init__(self, pieces: Iterator[bytes], limits: Limits | None = None) -> None:
        self._pieces = pieces
        self._limits = limits or Limits()
        self._data = b""
        self._at = 0
        self._left = 0  # bytes of the current entry's content not yet taken
        self._padding = 0
        self._base = 0  # offset of self._data in the archive
        self.entries = 0
        self.size = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def content(self) -> Iterator[memoryview]:
        """The archived content of the current entry; the memory is valid until the next step."""
        while self._left:
            if self._at == len(self._data):
                self._more()
            view = memoryview(self._data)[self._at : self._at + self._left]
            self._at += len(view)
            self._left -= len(view)
            yield view

    def drain(self) -> None:
        """Read the archive to its very end, past the end marker: a digest covers all of it."""
        self._data = b""
        for _ in self._pieces:
            pass

    # -- the stream

    def _fill(self) -> bool:
        """Get the next piece; False at the end.  What the pieces raise, a decompressor's complaint, passes through."""
        self._base += len(self._data)
        self._at = 0
        self._data = next(self._pieces, b"")
        return bool(self._data)

    def _more(self) -> None:
        if not self._fill():
            raise _truncated()

    def _take(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        end = self._at + count
        if end <= len(self._data):
            taken = self._data[self._at : end]
            self._at = end
            return taken
        parts = [self._data[self._at :]]
        missing = count - len(parts[0])
        self._at = len(self._data)
        while missing:
            self._more()
            part = self._data[:missing]
            self._at = len(part)
            missing -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count:
            step = min(count, len(self._data) - self._at)
            self._at += step
            count -= step
            if count and isinstance(self._pieces, Pieces):
                self._pieces.skip(count)
                self._base += len(self._data) + count
                self._data, self._at, count = b"", 0, 0
            elif count:
                self._more()

    def _skip_padding(self) -> bool:
        """False if the archive ends right here, as some writers leave it."""
        padding, self._padding = self._padding, 0
        if self._at == len(self._data) and not self._fill():
            return False
        self._skip(padding)
        return True

    def _block(self) -> bytes | None:
        """The next header block, or None at the end of the file."""
        if self._at == len(self._data) and not self._fill():
            return None
        return self._take(BLOCK)

    # -- headers

    def _next(self) -> Entry | None:
        if self._left:
            self._skip(self._left)
            self._left = 0
        if self._padding and not self._skip_padding():
            return None
        pax: dict[bytes, bytes] = {}
        sparse_records: list[int] = []
        while True:
            block = self._block()
            if block is None or block == ZEROS:
                if pax:
                    raise ContentError("the tar archive ends after an extended header")
                self._check_end(block)
                return None
            self.entries += 1
            if self.entries >= self._limits.entries:
                raise ContentError(
                    f"the archive has {self.entries} entries or more", "raise CORACLE_MAX_LAYER_ENTRIES if you trust it"
                )
            fields = parse_header(block)
            kind = fields[TYPE]
            if kind in KINDS:
                return self._entry(block, fields, pax, sparse_records)
            self._meta(kind, parse_number(fields[SIZE], "size"), pax, sparse_records)

    def _check_end(self, block: bytes | None) -> None:
        """Two blocks of zeros end an archive; so does the end of the file (Go accepts both, and nothing else)."""
        if block is not None:
            following = self._block()
            if following is not None and following != ZEROS:
                raise ContentError("the tar archive goes on after a block of zeros")

    def _meta(self, kind: int, size: int, pax: dict[bytes, bytes], sparse_records: list[int]) -> None:
        """A header that describes the next one, or nothing of ours."""
        if kind in SKIPPED:
            self._skip(padded(size))
            return
        if kind not in (PAX, SUN_PAX, LONG_NAME, LONG_LINK):
            raise ContentError(f"the tar archive has an entry of the unknown type {chr(kind)!r}")
        if size > MAX_META:
            raise ContentError(f"an extended tar header has {size} bytes, {MAX_META} are allowed")
        data = self._take(padded(size))[:size]
        if kind in (PAX, SUN_PAX):
            parse_pax(data, pax, sparse_records)
        else:
            pax[GNU_NAME if kind == LONG_NAME else GNU_TARGET] = until_zero(data)

    def _entry(self, block: bytes, fields: Fields, pax: dict[bytes, bytes], sparse_records: list[int]) -> Entry:
        entry, size = parse_entry(block, fields, pax)
        entry.size = self._left = size
        self._padding = -size % BLOCK
        if fields[TYPE] == SPARSE:
            self._gnu_sparse(entry, block)
        elif pax:
            self._pax_sparse(entry, pax, sparse_records)
        entry.offset = self._base + self._at
        self.size += entry.size
        if self.size > self._limits.size:
            raise ContentError(
                f"the files of the archive have more than {self._limits.size} bytes, at {show(entry.name)}",
                "raise CORACLE_MAX_LAYER_BYTES if you trust it",
            )
        return entry

    # -- sparse files (GNU tar manual, appendix "Storing Sparse Files")

    def _gnu_sparse(self, entry: Entry, block: bytes) -> None:
        pieces: list[int] = []
        fields, more = block[386:482], block[482]
        real_size = parse_number(block[483:495], "real size")
        while True:
            for at in range(0, len(fields) - 23, 24):
                if fields[at]:
                    pieces += (
                        parse_number(fields[at : at + 12], "offset"),
                        parse_number(fields[at + 12 : at + 24], "length"),
                    )
            if not more:
                break
            if len(pieces) > 2 * MAX_SPARSE:
                raise ContentError(f"{show(entry.name)}: the sparse map has more than {MAX_SPARSE} pieces")
            following = self._take(BLOCK)
            fields, more = following[:504], following[504]
        self._set_sparse(entry, pieces, real_size)

    def _pax_sparse(self, entry: Entry, pax: dict[bytes, bytes], records: list[int]) -> None:
        version = (pax.get(b"GNU.sparse.major", b""), pax.get(b"GNU.sparse.minor", b""))
        size = pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size")
        if size is None or entry.kind != FILE:
            return
        if version == (b"1", b"0"):
            numbers = self._sparse_map(entry)
        elif b"GNU.sparse.map" in pax:
            numbers = [parse_decimal(number, "sparse map") for number in pax[b"GNU.sparse.map"].split(b",") if number]
        else:
            numbers = records
        self._set_sparse(entry, numbers, parse_decimal(size, "GNU.sparse.realsize"))

    def _sparse_map(self, entry: Entry) -> list[int]:
        """Format 1.0: decimal lines before the content, padded to a block: count, offset, length, ..."""
        text = b""
        wanted = 1
        while text.count(b"\n") < wanted:
            if self._left < BLOCK or len(text) > MAX_META:
                raise ContentError(f"{show(entry.name)}: the sparse map is damaged")
            text += self._take(BLOCK)
            self._left -= BLOCK
            if wanted == 1 and b"\n" in text:
                wanted = 1 + 2 * parse_decimal(text.partition(b"\n")[0], "sparse map")
        return [parse_decimal(line, "sparse map") for line in text.split(b"\n")[1:wanted]]

    def _set_sparse(self, entry: Entry, numbers: list[int], real_size: int) -> None:
        pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
        end = 0
        for offset, length in pieces:
            if offset < end or offset + length > real_size:
                raise ContentError(f"{show(entry.name)}: the sparse map overlaps or exceeds the file")
            end = offset + length
        if len(numbers) % 2 or len(pieces) > MAX_SPARSE or sum(length for _, length in pieces) != self._left:
            raise ContentError(f"{show(entry.name)}: the sparse map does not fit the archived data")
        entry.size = real_size
        entry.sparse = [piece for piece in pieces if piece[1]]
