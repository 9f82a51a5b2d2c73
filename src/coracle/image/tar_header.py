"""Headers of tar archives: one block of fixed fields, and the pax records that override it.

Where dialects disagree the reading is that of Go's archive/tar, since Docker, containerd and podman
are built on it: two readers that see different files in one archive are an attack.

Sources: POSIX.1-2017 pax, GNU tar manual "Basic Tar Format", libarchive tar(5).
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from coracle.errors import ContentError

Fields = tuple[Any, ...]  # of a header block, by the numbers below

BLOCK = 512
MAX_META = 1 << 20  # bytes of one pax header or GNU long name, as in Go's archive/tar
MAX_SPARSE = 1 << 16  # pieces of one sparse file
_MAX_ID = (1 << 32) - 2  # the highest uid_t that is an id; -1 means "leave it" to chown(2)
_MAX_SECONDS = 1 << 40  # a year 36812; kernels clamp far below

FILE, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = range(7)
KINDS = {
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
PAX, SUN_PAX, _GLOBAL, LONG_NAME, LONG_LINK, _LABEL, SPARSE = b"xXgLKVS"
# Keys for GNU long names among the pax records; they win over pax, as in Go
GNU_NAME, GNU_TARGET = b"\0name", b"\0target"
SKIPPED = frozenset((_GLOBAL, _LABEL))

# name mode uid gid size mtime checksum type linkname magic user group major minor prefix
_HEADER = Struct("100s8s8s8s12s12s8sB100s8s32s32s8s8s155s12x")
NAME, MODE, UID, GID, SIZE, MTIME, CHECKSUM, TYPE, TARGET, MAGIC, USER, GROUP, MAJOR, MINOR, PREFIX = range(15)
ZEROS = bytes(BLOCK)
_POSIX = b"ustar\0"
_STAR_TRAILER = b"tar\0"


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


def parse_entry(block: bytes, fields: Fields, pax: dict[bytes, bytes]) -> tuple[Entry, int]:
    """The member that a header describes, and the size of its content in the archive.

    :raises ContentError: for numbers that are none, or out of range.
    """
    entry = Entry(until_zero(fields[NAME]), KINDS[fields[TYPE]])
    if fields[MAGIC][:6] == _POSIX and (prefix := _ustar_prefix(block, fields[PREFIX])):
        entry.name = prefix + b"/" + entry.name
    entry.mode = parse_number(fields[MODE], "mode") & 0o7777
    entry.uid = parse_number(fields[UID], "uid")
    entry.gid = parse_number(fields[GID], "gid")
    entry.mtime_ns = _parse_signed(fields[MTIME]) * 1_000_000_000
    # Only files have content, whatever the size field says: so does Go's reader.
    size = parse_number(fields[SIZE], "size") if entry.kind == FILE else 0
    if entry.kind in (LINK, SYMLINK):
        entry.target = until_zero(fields[TARGET])
    elif entry.kind in (CHARACTER, BLOCK_DEVICE):
        entry.device = (parse_number(fields[MAJOR], "major"), parse_number(fields[MINOR], "minor"))
    if pax:
        size = _apply_pax(entry, pax, size)
    if entry.kind == FILE and entry.name.endswith(b"/"):  # as v7 wrote directories
        entry.kind, size = DIRECTORY, 0
    if entry.uid > _MAX_ID or entry.gid > _MAX_ID:  # CVE-2024-40635: such ids wrapped around to root
        raise ContentError(f"{show(entry.name)}: owner {entry.uid}:{entry.gid} is out of range")
    return entry, size


def padded(size: int) -> int:
    """``size`` rounded up to whole blocks."""
    return size + -size % BLOCK


def until_zero(field: bytes) -> bytes:
    """The text of a field that a zero byte may end."""
    return field.partition(b"\0")[0]


def _ustar_prefix(block: bytes, prefix: bytes) -> bytes:
    """The ustar prefix; Schilling's star uses its last 24 bytes for access times."""
    return until_zero(prefix[:131] if block[508:512] == _STAR_TRAILER else prefix)


def parse_header(block: bytes) -> Fields:
    """The fields of a header block.  :raises ContentError: if its checksum is wrong."""
    fields = _HEADER.unpack(block)
    stated = parse_number(fields[CHECKSUM], "checksum")
    # The checksum is taken with its own field as blanks; some old tars summed signed characters.
    if stated != sum(block) - sum(fields[CHECKSUM]) + 256:
        signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 256
        if stated != signed:
            raise ContentError("not a tar archive, or damaged: a header has a wrong checksum")
    return fields


def parse_number(field: bytes, what: str) -> int:
    """Octal digits, or GNU's base-256 with the top bit set.  :raises ContentError: also for negative ones."""
    text = field.rstrip(b"\0 ")
    if text.isdigit() and b"8" not in text and b"9" not in text:  # by far the most frequent form
        return int(text, 8)
    value = _base256(field) if field[0] & 0x80 else _octal(field, what)
    if value < 0:
        raise ContentError(f"a tar header has a negative {what}")
    return value


def _octal(field: bytes, what: str) -> int:
    text = until_zero(field).strip(b" ")
    if not text:
        return 0
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise ContentError(f"a tar header has a {what} that is no number: {show(text)}")
    return int(text, 8)


def _base256(field: bytes) -> int:
    value = int.from_bytes(field, "big")
    bits = 8 * len(field)
    return value - (1 << bits) if field[0] == 0xFF else value & ~(1 << (bits - 1))


def _parse_signed(field: bytes) -> int:
    """A modification time in seconds, which may lie before 1970; clamped."""
    value = _base256(field) if field[0] & 0x80 else parse_number(field, "time")
    return max(-_MAX_SECONDS, min(value, _MAX_SECONDS))


def parse_decimal(text: bytes, what: str) -> int:
    """A decimal number as pax writes it.  :raises ContentError:"""
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


def parse_pax(data: bytes, pax: dict[bytes, bytes], sparse_records: list[int]) -> None:
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
            sparse_records.append(parse_decimal(value, "sparse map"))
        pax[key] = value
        at = end


_XATTR = b"SCHILY.xattr."
_LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."


def _apply_pax(entry: Entry, pax: dict[bytes, bytes], size: int) -> int:
    """Overrides from the extended header; the archived size.  An empty value takes the header's (POSIX)."""
    if name := pax.get(GNU_NAME) or pax.get(b"GNU.sparse.name") or pax.get(b"path"):
        entry.name = name
    if entry.kind in (LINK, SYMLINK) and (target := pax.get(GNU_TARGET) or pax.get(b"linkpath")):
        entry.target = target
    if value := pax.get(b"uid"):
        entry.uid = parse_decimal(value, "uid")
    if value := pax.get(b"gid"):
        entry.gid = parse_decimal(value, "gid")
    if value := pax.get(b"mtime"):
        entry.mtime_ns = _pax_time(value)
    if (value := pax.get(b"size")) and entry.kind == FILE:
        size = parse_decimal(value, "size")
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
        return unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :]), b64decode(
            value + b"=" * (-len(value) % 4), validate=True
        )
    except ValueError as error:
        raise ContentError(f"an extended tar header has a damaged attribute: {error}") from None
