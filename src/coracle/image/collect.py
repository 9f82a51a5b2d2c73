"""Garbage collection: what no entry of the index leads to is deleted.

Mark and sweep under the exclusive store lock, so that nobody adds or relies on content meanwhile.
Killed at any point it leaves less garbage than before and nothing broken: run-ready records go
first, then layers, then blobs, and none of them was reachable.
"""

from __future__ import annotations

import os
from fcntl import LOCK_SH, flock
from typing import TYPE_CHECKING

from coracle import record
from coracle.errors import CoracleError
from coracle.image import config as image_config
from coracle.image import index, manifest
from coracle.image.content import Store
from coracle.image.reference import is_digest
from coracle.image.removal import remove_tree
from coracle.image.snapshot import pins
from coracle.image.unpack import chain_ids

if TYPE_CHECKING:
    from coracle.image.manifest import Descriptor
    from coracle.paths import Paths


class Freed:
    """What a collection deleted: layers and blobs by digest, and ``size`` in bytes of blobs and layers' files."""

    __slots__ = ("blobs", "layers", "size")

    def __init__(self) -> None:
        self.layers: list[str] = []
        self.blobs: list[str] = []
        self.size = 0


class _Marks:
    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.layers: set[str] = set()
        self.images: set[str] = set()


def collect(paths: Paths, wait: bool = True) -> Freed | None:
    """Delete everything unreferenced; None if ``wait`` is false and somebody uses the store right now.

    What containers stand on is kept by their pins (snapshot.prepare), whatever the index says.
    Never call this with ``wait`` while holding a lease: that would wait for itself.
    :raises ContentError: if the index is damaged; then nothing is deleted.
    """
    lock = record.Lock(paths.store_lock())
    if not os.path.isdir(paths.images()) or not lock.acquire(wait):
        return None
    try:
        marks = _mark(paths)
        freed = Freed()
        trash = f"{paths.ingest()}/{os.getpid()}-{os.urandom(6).hex()}"
        os.mkdir(trash, 0o700)
        _sweep_records(paths, marks)
        _sweep_layers(paths, marks, freed, trash)
        _sweep_blobs(paths, marks, freed, trash)
        _sweep_ingest(paths, trash)
        # Deleting may take long, and nobody can see the garbage any more: let others work meanwhile.
        flock(lock.fd, LOCK_SH)
        remove_tree(trash)
        return freed
    finally:
        lock.release()


def _mark(paths: Paths) -> _Marks:
    store = Store(paths)
    marks = _Marks()
    for entry in index.read(paths):
        marks.images.add(entry.image_id)
        marks.layers.update(_ready_layers(paths, entry.image_id))
        _mark_document(store, manifest.parse_descriptor(entry.document, "images/index.json entry"), marks, 0)
    for pin in pins(paths):
        marks.layers.update(pin.layers)
    return marks


def _ready_layers(paths: Paths, image_id: str) -> list[str]:
    """The layers that containers of the image use, even if its manifest has become unreadable."""
    try:
        layers = record.load(paths.ready_image(image_id))["layers"]
    except (OSError, CoracleError, LookupError, TypeError):
        return []
    return [key for key in layers if is_digest(key)] if isinstance(layers, list) else []


def _mark_document(store: Store, descriptor: Descriptor, marks: _Marks, depth: int) -> None:
    """A manifest and what it needs.  One that cannot be read is kept itself; a second load may repair it."""
    if depth > manifest.MAX_NESTING:
        return
    marks.blobs.add(descriptor.digest)
    try:
        document = manifest.parse(store.read(descriptor.digest))
    except CoracleError:
        return
    if isinstance(document, manifest.Index):
        for inner in document.manifests:
            _mark_document(store, inner, marks, depth + 1)
        return
    marks.images.add(document.config.digest)
    marks.blobs.add(document.config.digest)
    marks.blobs.update(layer.digest for layer in document.layers)
    try:
        settings = image_config.parse(store.read(document.config.digest))
    except CoracleError:
        return
    marks.layers.update(settings.diff_ids, chain_ids(settings.diff_ids))


def _sweep_records(paths: Paths, marks: _Marks) -> None:
    kept = {os.path.basename(paths.ready_image(image_id)) for image_id in marks.images}
    for name in os.listdir(paths.ready()):
        if name not in kept:
            os.unlink(f"{paths.ready()}/{name}")


def _sweep_layers(paths: Paths, marks: _Marks, freed: Freed, trash: str) -> None:
    kept = {os.path.basename(paths.layer(key)) for key in marks.layers}
    for name in os.listdir(paths.layers()):
        if name not in kept:
            freed.size += _layer_size(f"{paths.layers()}/{name}")
            os.rename(f"{paths.layers()}/{name}", f"{trash}/layer-{name}")
            freed.layers.append(f"sha256:{name}")


def _sweep_ingest(paths: Paths, trash: str) -> None:
    """What killed processes left: nobody who is alive has anything there while we hold the lock."""
    for name in os.listdir(paths.ingest()):
        if name != os.path.basename(trash):
            os.rename(f"{paths.ingest()}/{name}", f"{trash}/{name}")


def _layer_size(directory: str) -> int:
    try:
        size = record.load(f"{directory}/layer.json").get("size", 0)
    except (OSError, CoracleError, AttributeError):
        return 0
    return size if isinstance(size, int) else 0


def _sweep_blobs(paths: Paths, marks: _Marks, freed: Freed, trash: str) -> None:
    store = Store(paths)
    for digest in list(store.digests()):
        if digest not in marks.blobs:
            freed.size += store.size(digest)
            os.rename(store.path(digest), f"{trash}/{digest}")
            freed.blobs.append(digest)
    with record.Lock(paths.images_lock()):  # what is being written is somebody's who is alive, and has this lock
        for name in os.listdir(paths.images()):
            if name.endswith(".new"):  # left by a writer of index.json that was killed (record.write)
                os.unlink(f"{paths.images()}/{name}")
