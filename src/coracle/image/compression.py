"""Compressed streams, recognised by their first bytes, as iterators of bounded pieces.

gzip (also of several members, RFC 1952 section 2.2), bzip2 and xz come with Python; zstd needs
Python 3.14 or one of the packages ``backports.zstd`` and ``zstandard``.  A decompressor never
returns more than :data:`PIECE` bytes at once, so that a bomb costs time and not memory, and the
whole stream is refused when its ratio is beyond what honest data reaches.  The package ``isal``
inflates twice as fast as zlib and is used where it is installed.
"""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from coracle.errors import ContentError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coracle.image.content import Readable

    class Decompressor(Protocol):
        """What bz2, lzma and compression.zstd have in common."""

        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...

        def decompress(self, data: bytes, max_length: int = -1, /) -> bytes: ...


PIECE = 1 << 20  # bytes
# Text compresses 5:1, a sparse disk image may reach gzip's own maximum of 1032:1 for a while.
MAX_RATIO = 200
RATIO_FLOOR = 1 << 30  # bytes of output below which the ratio does not matter
_XZ_MEMORY = 1 << 29  # bytes; `xz -9` needs 65 MB


class _Counted:
    """Iterates ``pieces`` and remembers how many bytes went by."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.size += len(piece)
            yield piece


def pieces_of(source: Readable) -> Iterator[bytes]:
    """The content of a file object in pieces of at most :data:`PIECE` bytes."""
    while piece := source.read(PIECE):
        yield piece


def _inflater() -> Callable[[int], Any]:
    module = _first_module("isal.isal_zlib", "zlib")
    return module.decompressobj  # type: ignore[no-any-return]


def _inflate(pieces: Iterator[bytes]) -> Iterator[bytes]:
    inflater = _inflater()
    engine = inflater(31)  # 16 + 15: gzip framing, the largest window
    fresh = False
    for piece in pieces:
        while piece:
            if fresh and not (piece := piece.lstrip(b"\0")):  # tapes and some tools pad the end with zeros
                break
            fresh = False
            yield engine.decompress(piece, PIECE)
            piece = engine.unused_data if engine.eof else engine.unconsumed_tail
            if engine.eof:
                engine, fresh = inflater(31), True
    if not fresh:
        while rest := engine.decompress(b"", PIECE):
            yield rest
        if not engine.eof:
            raise EOFError("it is truncated")


def _frames(make: Callable[[], Decompressor]) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
    """A stage for formats whose streams may follow one another: bzip2, xz, zstd."""

    def stage(pieces: Iterator[bytes]) -> Iterator[bytes]:
        engine = make()
        fresh = False
        for piece in pieces:
            data = piece.lstrip(b"\0") if fresh else piece
            while data or not (engine.needs_input or engine.eof):
                fresh = False
                yield engine.decompress(data, PIECE)
                data = b""
                if engine.eof:
                    data = engine.unused_data.lstrip(b"\0")
                    engine, fresh = make(), True
        if not fresh:
            raise EOFError("it is truncated")

    return stage


def _bunzip2(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import bz2

    return _frames(bz2.BZ2Decompressor)(pieces)


def _unxz(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import lzma

    return _frames(lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))(pieces)


def _unzstd(pieces: Iterator[bytes]) -> Iterator[bytes]:
    module = zstd_module()
    if module is None:
        raise UnsupportedError(
            "this layer is compressed with zstd, which Python knows from version 3.14 on",
            "install the package backports.zstd",
        )
    if hasattr(module, "ZstdFile"):
        return _frames(module.ZstdDecompressor)(pieces)
    return _unzstd_by_reader(module, pieces)


def zstd_module() -> Any:
    """A module that reads zstd, or None."""
    return _first_module("compression.zstd", "backports.zstd", "zstandard")


def _first_module(*names: str) -> Any:
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


class _Joined:
    """A file object over pieces, for libraries that insist on reading."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.rest = b""

    def read(self, size: int) -> bytes:
        if not self.rest:
            self.rest = next(self.pieces, b"")
        data, self.rest = self.rest[:size], self.rest[size:]
        return data


def _unzstd_by_reader(module: Any, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """python-zstandard does not tell a truncated frame from a complete one; the digest of the layer does."""
    reader = module.ZstdDecompressor().stream_reader(_Joined(pieces), read_across_frames=True)
    while piece := reader.read(PIECE):
        yield piece


# The first bytes of each format, and its name and stage; skippable zstd frames may lead (RFC 8878, 3.1.2)
_FORMATS: list[tuple[bytes, str, Callable[[Iterator[bytes]], Iterator[bytes]]]] = [
    (b"\x1f\x8b", "gzip", _inflate),
    (b"\x28\xb5\x2f\xfd", "zstd", _unzstd),
    *((bytes((0x50 + n, 0x2A, 0x4D, 0x18)), "zstd", _unzstd) for n in range(16)),
    (b"BZh", "bzip2", _bunzip2),
    (b"\xfd7zXZ\0", "xz", _unxz),
]
_LONGEST_MAGIC = 6


def detect(head: bytes) -> str:
    """The name of the compression that ``head`` begins with, or the empty string."""
    return next((name for magic, name, _ in _FORMATS if head.startswith(magic)), "")


def decompress(pieces: Iterator[bytes], what: str = "the layer", max_ratio: int = MAX_RATIO) -> Iterator[bytes]:
    """The decompressed pieces; what is not compressed passes through.

    :raises ContentError: for damaged or truncated data, and beyond ``max_ratio`` times its size.
    :raises UnsupportedError: for zstd without a module that reads it.
    """
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _LONGEST_MAGIC:
            break
    source = _Counted(_chain(head, pieces))
    for magic, name, stage in _FORMATS:
        if head.startswith(magic):
            return _guarded(stage, source, name, what, max_ratio)
    return iter(source)


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from rest


def _guarded(
    stage: Callable[[Iterator[bytes]], Iterator[bytes]], source: _Counted, name: str, what: str, max_ratio: int
) -> Iterator[bytes]:
    produced = 0
    try:
        for piece in stage(iter(source)):
            produced += len(piece)
            if produced > RATIO_FLOOR and produced > max_ratio * source.size:
                raise ContentError(
                    f"{what} is a decompression bomb: {source.size} bytes of {name} became more than {produced}"
                )
            if piece:
                yield piece
    except (zlib.error, EOFError, ValueError) as error:
        raise ContentError(f"{what} is damaged {name} data: {error}") from None
    except Exception as error:
        # lzma, bz2 and zstd have error classes of their own, which cannot be named without importing them;
        # a failed read carries an errno, bz2's plain OSError does not.
        if isinstance(error, (ContentError, UnsupportedError)) or getattr(error, "errno", None):
            raise
        raise ContentError(f"{what} is damaged {name} data: {error}") from None
