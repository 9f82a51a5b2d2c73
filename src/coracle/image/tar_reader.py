"""Reading tar archives that strangers wrote: v7, ustar, pax and GNU, one pass, bounded memory.

Not ``tarfile``: it reads a header of any size into memory, decodes names that are bytes, keeps
every member, and takes 23 µs an entry where this takes less than half (docs/decisions).  Where
dialects disagree the reading is that of Go's archive/tar, since Docker, containerd and podman
are built on it: two readers that see different files in one archive are an attack.

Sources: POSIX.1-2017 pax, GNU tar manual "Basic Tar Format", image-spec layer.md.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, Any

from coracle.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
MAX_META = 1 << 20  # bytes of one pax header or GNU long name, as in Go's archive/tar
MAX_SPARSE = 1 << 16  # pieces of one sparse file
_MAX_ID = (1 << 32) - 2  # the highest uid_t that is an id; -1 means "leave it" to chown(2)
_MAX_SECONDS = 1 << 40  # a year 36812; kernels clamp far below

FILE, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = range(7)
_KINDS = {
    ord("0"): FILE,
    0: FILE,
    ord("7"): FILE,  # contiguous file: nobody has such disks any more
    ord("S"): FILE,  # GNU sparse
    ord("1"): LINK,
    ord("2"): SYMLINK,
    ord("3"): CHARACTER,
    ord("4"): BLOCK_DEVICE,
    ord("5"): DIRECTORY,
    ord("6"): FIFO,
}
_PAX, _SUN_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK, _LABEL, _SPARSE = b"xXgLKVS"
# Keys for GNU long names among the pax records; they win over pax, as in Go
_GNU_NAME, _GNU_TARGET = b"\0name", b"\0target"
_SKIPPED = frozenset((_GLOBAL, _LABEL))

# name mode uid gid size mtime checksum type linkname magic user group major minor prefix
_HEADER = Struct("100s8s8s8s12s12s8sB100s8s32s32s8s8s155s12x")
_ZEROS = bytes(BLOCK)
_POSIX = b"ustar\0"
_STAR_TRAILER = b"tar\0"


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


class Entry:
    """One member.  ``name`` and ``target`` are bytes as archived; ``size`` is the logical size in bytes.

    ``sparse`` lists (offset, length) of the pieces that the archive holds, or is None for a whole
    file; ``offset`` is where the content starts in the archive.
    """

    __slots__ = (
        "device", "gid", "kind", "mode", "mtime_ns", "name", "offset", "size", "sparse", "target", "uid", "xattrs",
    )  # fmt: skip

    def __init__(self, name: bytes, kind: int) -> None:
        self.name = name
        self.kind = kind
        self.mode = self.uid = self.gid = self.size = self.mtime_ns = self.offset = 0
        self.target = b""
        self.device = (0, 0)
        self.xattrs: dict[bytes, bytes] | None = None
        self.sparse: list[tuple[int, int]] | None = None


def show(name: bytes) -> str:
    """``name`` fit for an error message: one line, bounded, unprintable characters escaped."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 120 else f"{text[:60]}...{text[-50:]}"


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

    def _more(self) -> None:
        self._base += len(self._data)
        self._at = 0
        self._data = b""
        try:
            self._data = next(self._pieces)
        except StopIteration:
            raise _truncated() from None

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
        if self._at == len(self._data):
            try:
                self._more()
            except ContentError:
                return False
        self._skip(padding)
        return True

    def _block(self) -> bytes | None:
        """The next header block, or None at the end of the file."""
        if self._at == len(self._data):
            try:
                self._more()
            except ContentError:
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
            if block is None or block == _ZEROS:
                if pax:
                    raise ContentError("the tar archive ends after an extended header")
                self._check_end(block)
                return None
            self.entries += 1
            if self.entries >= self._limits.entries:
                raise ContentError(
                    f"the archive has {self.entries} entries or more", "raise CORACLE_MAX_LAYER_ENTRIES if you trust it"
                )
            fields = _parse_header(block)
            kind = fields[7]
            if kind in _KINDS:
                return self._entry(block, fields, pax, sparse_records)
            self._meta(kind, _number(fields[4], "size"), pax, sparse_records)

    def _check_end(self, block: bytes | None) -> None:
        """Two blocks of zeros end an archive; so does the end of the file (Go accepts both, and nothing else)."""
        if block is not None:
            following = self._block()
            if following is not None and following != _ZEROS:
                raise ContentError("the tar archive goes on after a block of zeros")

    def _meta(self, kind: int, size: int, pax: dict[bytes, bytes], sparse_records: list[int]) -> None:
        """A header that describes the next one, or nothing of ours."""
        if kind in _SKIPPED:
            self._skip(_padded(size))
            return
        if kind not in (_PAX, _SUN_PAX, _LONG_NAME, _LONG_LINK):
            raise ContentError(f"the tar archive has an entry of the unknown type {chr(kind)!r}")
        if size > MAX_META:
            raise ContentError(f"an extended tar header has {size} bytes, {MAX_META} are allowed")
        data = self._take(_padded(size))[:size]
        if kind in (_PAX, _SUN_PAX):
            _parse_pax(data, pax, sparse_records)
        else:
            pax[_GNU_NAME if kind == _LONG_NAME else _GNU_TARGET] = _text(data)

    def _entry(
        self, block: bytes, fields: tuple[Any, ...], pax: dict[bytes, bytes], sparse_records: list[int]
    ) -> Entry:
        name, mode, uid, gid, size_field, mtime, _, kind, target, magic = fields[:10]
        entry = Entry(_text(name), _KINDS[kind])
        if magic[:6] == _POSIX and (prefix := _prefix(block, fields[14])):
            entry.name = prefix + b"/" + entry.name
        entry.mode = _number(mode, "mode") & 0o7777
        entry.uid = _number(uid, "uid")
        entry.gid = _number(gid, "gid")
        entry.mtime_ns = _signed(mtime) * 1_000_000_000
        size = _number(size_field, "size") if entry.kind == FILE else 0
        if entry.kind in (LINK, SYMLINK):
            entry.target = _text(target)
        elif entry.kind in (CHARACTER, BLOCK_DEVICE):
            entry.device = (_number(fields[12], "major"), _number(fields[13], "minor"))
        if pax:
            size = _apply_pax(entry, pax, size)
        if entry.kind == FILE and entry.name.endswith(b"/"):  # as v7 wrote directories
            entry.kind, size = DIRECTORY, 0
        if entry.uid > _MAX_ID or entry.gid > _MAX_ID:  # CVE-2024-40635: such ids wrapped around to root
            raise ContentError(f"{show(entry.name)}: owner {entry.uid}:{entry.gid} is out of range")
        self._start(entry, size)
        if kind == _SPARSE:
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

    def _start(self, entry: Entry, size: int) -> None:
        entry.size = self._left = size
        self._padding = -size % BLOCK

    # -- sparse files (GNU tar manual, appendix "Storing Sparse Files")

    def _gnu_sparse(self, entry: Entry, block: bytes) -> None:
        pieces: list[int] = []
        fields, more = block[386:482], block[482]
        real_size = _number(block[483:495], "real size")
        while True:
            for at in range(0, len(fields) - 23, 24):
                if fields[at]:
                    pieces += (_number(fields[at : at + 12], "offset"), _number(fields[at + 12 : at + 24], "length"))
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
            numbers = [_decimal(number, "sparse map") for number in pax[b"GNU.sparse.map"].split(b",") if number]
        else:
            numbers = records
        self._set_sparse(entry, numbers, _decimal(size, "GNU.sparse.realsize"))

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
                wanted = 1 + 2 * _decimal(text.partition(b"\n")[0], "sparse map")
        return [_decimal(line, "sparse map") for line in text.split(b"\n")[1:wanted]]

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


def _padded(size: int) -> int:
    return size + -size % BLOCK


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _prefix(block: bytes, prefix: bytes) -> bytes:
    """The ustar prefix; Schilling's star uses its last 24 bytes for access times."""
    return _text(prefix[:131] if block[508:512] == _STAR_TRAILER else prefix)


def _parse_header(block: bytes) -> tuple[Any, ...]:
    fields = _HEADER.unpack(block)
    stated = _number(fields[6], "checksum")
    # The checksum is taken with its own field as blanks; some old tars summed signed characters.
    if stated != sum(block) - sum(fields[6]) + 256:
        signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
        if stated != signed:
            raise ContentError("not a tar archive, or damaged: a header has a wrong checksum")
    return fields


def _number(field: bytes, what: str) -> int:
    """Octal digits, or GNU's base-256 with the top bit set.  :raises ContentError: also for negative ones."""
    text = field.rstrip(b"\0 ")
    if text.isdigit() and b"8" not in text and b"9" not in text:  # by far the most frequent form
        return int(text, 8)
    value = _base256(field) if field[0] & 0x80 else _octal(field, what)
    if value < 0:
        raise ContentError(f"a tar header has a negative {what}")
    return value


def _octal(field: bytes, what: str) -> int:
    text = _text(field).strip(b" ")
    if not text:
        return 0
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise ContentError(f"a tar header has a {what} that is no number: {show(text)}")
    return int(text, 8)


def _base256(field: bytes) -> int:
    value = int.from_bytes(field, "big")
    bits = 8 * len(field)
    return value - (1 << bits) if field[0] == 0xFF else value & ~(1 << (bits - 1))


def _signed(field: bytes) -> int:
    """A modification time in seconds, which may lie before 1970; clamped."""
    value = _base256(field) if field[0] & 0x80 else _number(field, "time")
    return max(-_MAX_SECONDS, min(value, _MAX_SECONDS))


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19:
        raise ContentError(f"a tar header has a {what} that is no number: {show(text)}")
    return int(text)


def _pax_time(text: bytes) -> int:
    """``[-]seconds[.fraction]`` in nanoseconds; digits beyond the ninth are cut."""
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    if not (whole or fraction) or not (whole + fraction).isdigit() or text.count(b"-") > 1:
        raise ContentError(f"a tar header has a time that is no number: {show(text)}")
    seconds = min(int(whole or b"0"), _MAX_SECONDS) if len(whole) < 19 else _MAX_SECONDS
    nanoseconds = seconds * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if text.startswith(b"-") else nanoseconds


_SPARSE_NUMBERS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def _parse_pax(data: bytes, pax: dict[bytes, bytes], sparse_records: list[int]) -> None:
    """``length key=value`` records into ``pax``; the map of sparse format 0.0 repeats its keys in order."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        if not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ContentError("an extended tar header has a malformed record")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals:
            raise ContentError("an extended tar header has a record without a key")
        if key in _SPARSE_NUMBERS:
            sparse_records.append(_decimal(value, "sparse map"))
        pax[key] = value
        at = end


_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."


def _apply_pax(entry: Entry, pax: dict[bytes, bytes], size: int) -> int:
    """Overrides from the extended header; the archived size.  An empty value takes the header's (POSIX)."""
    if name := pax.get(_GNU_NAME) or pax.get(b"GNU.sparse.name") or pax.get(b"path"):
        entry.name = name
    if entry.kind in (LINK, SYMLINK) and (target := pax.get(_GNU_TARGET) or pax.get(b"linkpath")):
        entry.target = target
    if value := pax.get(b"uid"):
        entry.uid = _decimal(value, "uid")
    if value := pax.get(b"gid"):
        entry.gid = _decimal(value, "gid")
    if value := pax.get(b"mtime"):
        entry.mtime_ns = _pax_time(value)
    if (value := pax.get(b"size")) and entry.kind == FILE:
        size = _decimal(value, "size")
    for key, value in pax.items():
        if key.startswith(_XATTR):
            entry.xattrs = entry.xattrs or {}
            entry.xattrs[key[len(_XATTR) :]] = value
        elif key.startswith(_LIBARCHIVE_XATTR):
            entry.xattrs = entry.xattrs or {}
            entry.xattrs.setdefault(*_libarchive_xattr(key, value))
    return size


def _libarchive_xattr(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """bsdtar's form: the name percent-encoded, the value in base64."""
    from base64 import b64decode
    from urllib.parse import unquote_to_bytes

    try:
        return unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :]), b64decode(value + b"=" * (-len(value) % 4))
    except ValueError as error:
        raise ContentError(f"an extended tar header has a damaged attribute: {error}") from None
