"""The content store: an OCI image layout whose blobs are verified before they can be seen.

A blob is written to ``ingest/``, hashed on the way, synced, and renamed to its digest: a reader
sees all of it or nothing.  Whoever adds content works inside an :class:`Ingest`, which holds the
store's shared lock so that nothing is collected under his hands, and whose directory, if it
outlives its maker, tells the next one that there is garbage.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from errno import EDQUOT, EIO, ENOSPC
from typing import TYPE_CHECKING, Protocol

from coracle import record
from coracle.errors import ContentError, CoracleError, KernelError, NotFoundError, UsageError
from coracle.image import index
from coracle.image.manifest import MAX_DOCUMENT, Descriptor
from coracle.image.reference import is_digest
from coracle.image.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coracle.paths import Paths

CHUNK = 1 << 20  # bytes a read; larger ones gain nothing (measured), smaller ones cost calls

_HINTS = {
    ENOSPC: "free some space: 'coracle rmi' images that are no longer used",
    EDQUOT: "the disk quota of this user is used up",
    EIO: "the disk reports damage; see the kernel log",
}


class Readable(Protocol):
    """What content is read from: a file, a socket's file, a decompressor."""

    def read(self, size: int, /) -> bytes: ...


@contextmanager
def disk_errors(what: str, path: str) -> Iterator[None]:
    """Turn an OSError into one line that names ``what`` was done, to which ``path``, and what helps."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, what, path) from error


def disk_error(error: OSError, what: str, path: str) -> KernelError:
    """The same for a caught one."""
    code = error.errno or EIO
    return KernelError(code, what, path, _HINTS.get(code, ""))


def digest_of(data: bytes) -> str:
    """The sha256 digest of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def check_digest(digest: str) -> str:
    """``digest`` itself.  :raises UsageError: if it is not one; it is about to become part of a path."""
    if not is_digest(digest):
        raise UsageError(f"{digest!r:.100} is not a digest such as sha256:<64 hexadecimal digits>")
    return digest


def sync_directory(path: str) -> None:
    """Make the names in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def exclusive(path: str) -> Iterator[None]:
    """Hold a lock file that exists only while somebody holds or wants it."""
    while True:
        lock = record.Lock(path)
        lock.acquire()
        if os.fstat(lock.fd).st_nlink:
            break
        lock.release()  # its last holder removed it between our open and our lock
    try:
        yield
    finally:
        os.unlink(path)
        lock.release()


class Store:
    """Blobs by digest, below ``paths.images()``."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths

    def path(self, digest: str) -> str:
        """Where the blob ``digest`` is or would be."""
        algorithm, _, encoded = check_digest(digest).partition(":")
        return f"{self.paths.images()}/blobs/{algorithm}/{encoded}"

    def has(self, digest: str) -> bool:
        return os.path.exists(self.path(digest))

    def size(self, digest: str) -> int:
        """Bytes of the stored blob.  :raises NotFoundError:"""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise _missing(digest) from None

    def open(self, digest: str) -> int:
        """A read-only descriptor of the blob.  :raises NotFoundError:"""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _missing(digest) from None

    def read(self, digest: str, limit: int = MAX_DOCUMENT) -> bytes:
        """The whole blob, hashed again: a document that rotted on disk is not believed.

        :raises NotFoundError: :raises ContentError: if it is larger than ``limit`` bytes or damaged.
        """
        if self.size(digest) > limit:
            raise ContentError(f"blob {digest} is larger than {limit} bytes")
        data = record.read(self.path(digest))
        algorithm, _, encoded = digest.partition(":")
        if hashlib.new(algorithm, data).hexdigest() != encoded:
            raise ContentError(f"blob {digest} is damaged on disk", "remove the image and load or pull it again")
        return data

    def delete(self, digest: str) -> None:
        """Remove the blob if it is there."""
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            pass

    def digests(self) -> Iterator[str]:
        """Every stored blob's digest."""
        blobs = f"{self.paths.images()}/blobs"
        for algorithm in os.listdir(blobs) if os.path.isdir(blobs) else ():
            for encoded in os.listdir(f"{blobs}/{algorithm}"):
                if is_digest(f"{algorithm}:{encoded}"):
                    yield f"{algorithm}:{encoded}"


def _missing(digest: str) -> NotFoundError:
    return NotFoundError(f"blob {digest} is not in the store")


class Ingest:
    """``with Ingest(paths) as ingest:`` is the only way to add content.

    Holds the shared store lock and a private directory below ``ingest/``; both are gone
    afterwards.  After an exception, what was stored and is not referenced goes too, unless
    somebody else is adding content at that moment; then the next collection takes it.
    """

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.store = Store(paths)
        self.directory = ""
        self._lease = record.Lock(paths.store_lock(), shared=True)
        self._count = 0

    def __enter__(self) -> Ingest:
        with disk_errors("create the store", self.paths.root):
            index.ensure_layout(self.paths)
            self._recover()
            self._lease.acquire()
            self.directory = f"{self.paths.ingest()}/{os.getpid()}-{os.urandom(6).hex()}"
            os.mkdir(self.directory, 0o700)
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            remove_tree(self.directory)
        finally:
            self._lease.release()
        if kind is not None:
            self._collect()

    def _recover(self) -> None:
        """Somebody's directory whose maker no longer holds the lock: he was killed.  Collect what he left."""
        if os.listdir(self.paths.ingest()):
            self._collect()

    def _collect(self) -> None:
        from coracle.image.collect import collect

        try:
            collect(self.paths, wait=False)
        except CoracleError:  # garbage stays for `prune`; the first error is the one to report
            pass

    def path(self) -> str:
        """A fresh name in the private directory, on the same file system as the store."""
        self._count += 1
        return f"{self.directory}/{self._count}"

    def put(self, source: Readable | bytes, media_type: str = "", expected: Descriptor | None = None) -> Descriptor:
        """Store a blob and return its descriptor; an ``expected`` one must match in digest and size.

        :raises ContentError: on a mismatch, as soon as it is certain; :raises KernelError: for a full disk.
        """
        path = self.path()
        try:
            with disk_errors("store a blob in", self.paths.images()):
                descriptor = self._write(path, source, media_type, expected)
                self._commit(path, descriptor.digest)
        finally:
            if os.path.exists(path):
                os.unlink(path)
        return descriptor

    def _write(self, path: str, source: Readable | bytes, media_type: str, expected: Descriptor | None) -> Descriptor:
        algorithm = expected.digest.partition(":")[0] if expected else "sha256"
        hasher = hashlib.new(algorithm)
        limit = expected.size if expected else None
        size = 0
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            for chunk in _chunks(source):
                size += len(chunk)
                if limit is not None and size > limit:
                    raise ContentError(f"blob {expected.digest if expected else ''} is larger than its {limit} bytes")
                hasher.update(chunk)
                _write_all(fd, chunk)
            os.fsync(fd)
        finally:
            os.close(fd)
        digest = f"{algorithm}:{hasher.hexdigest()}"
        if expected and (size != expected.size or digest != expected.digest):
            found = f"{size} bytes" if size != expected.size else f"the digest {digest}"
            raise ContentError(f"blob {expected.digest} of {expected.size} bytes is damaged: it has {found}")
        return Descriptor(media_type or (expected.media_type if expected else ""), digest, size)

    def _commit(self, path: str, digest: str) -> None:
        target = self.store.path(digest)
        directory = os.path.dirname(target)
        os.makedirs(directory, exist_ok=True)
        os.rename(path, target)  # over an equal blob, should there be one: harmless
        sync_directory(directory)


def _chunks(source: Readable | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    while chunk := source.read(CHUNK):
        yield chunk


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
