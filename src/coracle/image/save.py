"""``coracle save``: images as docker-archive, oci-archive or an OCI layout directory.

All three are one OCI layout; a docker-archive has ``manifest.json`` on top, as Docker itself
writes since version 25, so docker, podman and skopeo of any age can read it.  The bytes depend on
the images alone: no times, no random order.  Blobs are hashed once more on their way out.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from coracle import record
from coracle.errors import ConflictError, ContentError, UsageError
from coracle.image import index, manifest, tar_writer, unpack
from coracle.image.content import CHUNK, Store, disk_errors
from coracle.image.ready import lease
from coracle.image.reference import parse as parse_reference
from coracle.image.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coracle.image.manifest import Descriptor, Manifest
    from coracle.image.tar_writer import Writable
    from coracle.paths import Paths

DOCKER_ARCHIVE = "docker-archive"
OCI_ARCHIVE = "oci-archive"
OCI_DIRECTORY = "oci-dir"
FORMATS = (DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIRECTORY)
_CONTAINERD_NAME = "io.containerd.image.name"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class _Chosen:
    """One image to save: its manifest, and under which canonical names."""

    def __init__(self, descriptor: Descriptor, image: Manifest) -> None:
        self.descriptor = descriptor
        self.image = image
        self.names: list[str] = []

    def blobs(self) -> Iterator[Descriptor]:
        yield from (self.descriptor, self.image.config, *self.image.layers)


def save(paths: Paths, names: Sequence[str], out: str | Writable, format: str = DOCKER_ARCHIVE) -> None:
    """Write the images ``names`` (names or ids) to ``out``: a path, or a file object for the two archives.

    A path is written beside its place and renamed when complete; an existing file is replaced, an
    existing directory must be empty.  An image asked for by id is saved without names.
    :raises NotFoundError: :raises UsageError: :raises ConflictError: for a directory that is not empty.
    """
    if format not in FORMATS:
        raise UsageError(f"unknown archive format {format!r}", f"known are {', '.join(FORMATS)}")
    if not names:
        raise UsageError("save needs the name of at least one image")
    with lease(paths):
        chosen = _choose(paths, names)
        if format == OCI_DIRECTORY:
            if not isinstance(out, str):
                raise UsageError("an OCI layout directory needs a path to write to")
            _save_directory(paths, chosen, out)
        elif isinstance(out, str):
            _save_file(paths, chosen, out, format)
        else:
            _save_archive(paths, chosen, out, format)


def _choose(paths: Paths, names: Sequence[str]) -> list[_Chosen]:
    entries = index.read(paths)
    store = Store(paths)
    chosen: dict[str, _Chosen] = {}
    for text in names:
        entry = index.find(entries, text)
        descriptor = manifest.parse_descriptor(entry.document, "images/index.json entry")
        descriptor, image = unpack.choose(store, descriptor, manifest.host_platform())
        plain = manifest.Descriptor(descriptor.media_type or image.media_type, descriptor.digest, descriptor.size)
        item = chosen.setdefault(plain.digest, _Chosen(plain, image))
        if entry.name and not index.found_by_id(entry, text) and "@" not in entry.name and entry.name not in item.names:
            item.names.append(entry.name)
    return list(chosen.values())


def _save_file(paths: Paths, chosen: list[_Chosen], out: str, format: str) -> None:
    partial = f"{out}.{os.getpid()}.partial"
    with disk_errors("write", out):
        try:
            with open(partial, "xb") as file:
                _save_archive(paths, chosen, file, format)
                file.flush()
                os.fsync(file.fileno())
            os.rename(partial, out)
        finally:
            if os.path.exists(partial):
                os.unlink(partial)


def _save_archive(paths: Paths, chosen: list[_Chosen], out: Writable, format: str) -> None:
    writer = tar_writer.Writer(out)
    documents = [("index.json", _index(chosen, format)), ("oci-layout", _LAYOUT)]
    if format == DOCKER_ARCHIVE:
        documents.append(("manifest.json", _docker_manifest(chosen)))
    algorithms = sorted({blob.digest.partition(":")[0] for item in chosen for blob in item.blobs()})
    for directory in ("blobs/", *(f"blobs/{algorithm}/" for algorithm in algorithms)):
        writer.entry(directory.encode(), tar_writer.DIRECTORY, 0o755)
    for name, size, pieces in _blobs(paths, chosen):
        writer.entry(name.encode(), tar_writer.FILE, 0o644, size=size)
        writer.content(pieces, size)
    for name, data in documents:
        writer.entry(name.encode(), tar_writer.FILE, 0o644, size=len(data))
        writer.content(iter([data]), len(data))
    writer.end()


def _save_directory(paths: Paths, chosen: list[_Chosen], out: str) -> None:
    out = os.path.abspath(out)
    if os.path.lexists(out) and (not os.path.isdir(out) or os.listdir(out)):
        raise ConflictError(f"{out} exists already", "name a new or an empty directory")
    partial = f"{out}.{os.getpid()}.partial"
    with disk_errors("write", out):
        os.mkdir(partial)
        try:
            for name, _, pieces in _blobs(paths, chosen):
                os.makedirs(os.path.dirname(f"{partial}/{name}"), exist_ok=True)
                _write(f"{partial}/{name}", pieces)
            _write(f"{partial}/oci-layout", iter([_LAYOUT]))
            _write(f"{partial}/index.json", iter([_index(chosen, OCI_DIRECTORY)]))
            os.rename(partial, out)
        finally:
            remove_tree(partial)


def _write(path: str, pieces: Iterator[bytes]) -> None:
    with open(path, "xb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _blobs(paths: Paths, chosen: list[_Chosen]) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Name, size and content of each blob, once, in the order of their digests."""
    store = Store(paths)
    blobs = {blob.digest: blob for item in chosen for blob in item.blobs()}
    for digest in sorted(blobs):
        if not store.has(digest):
            raise ContentError(f"blob {digest} is missing from the store", "load or pull the image again")
        size = store.size(digest)
        if size != blobs[digest].size:
            raise ContentError(f"blob {digest} is damaged on disk: it has {size} of {blobs[digest].size} bytes")
        yield f"blobs/{digest.replace(':', '/')}", size, _verified(store, digest)


def _verified(store: Store, digest: str) -> Iterator[bytes]:
    algorithm, _, encoded = digest.partition(":")
    hasher = hashlib.new(algorithm)
    fd = store.open(digest)
    left = store.size(digest)
    try:
        while piece := os.read(fd, CHUNK):
            hasher.update(piece)
            left -= len(piece)
            if left <= 0 and hasher.hexdigest() != encoded:
                raise ContentError(f"blob {digest} is damaged on disk", "load or pull the image again")
            yield piece
    finally:
        os.close(fd)


def _docker_annotations(name: str) -> dict[str, str]:
    return {_CONTAINERD_NAME: name, index.REF_NAME: parse_reference(name).tag}


def _oci_annotations(name: str) -> dict[str, str]:
    return {index.REF_NAME: name}


# How each format says a name in index.json: Docker and containerd split it, podman and skopeo want it whole
_ANNOTATIONS: dict[str, Callable[[str], dict[str, str]]] = {
    DOCKER_ARCHIVE: _docker_annotations,
    OCI_ARCHIVE: _oci_annotations,
    OCI_DIRECTORY: _oci_annotations,
}


def _index(chosen: list[_Chosen], format: str) -> bytes:
    descriptors: list[dict[str, Any]] = []
    for item in chosen:
        for name in item.names:
            descriptors.append({**item.descriptor.document, "annotations": _ANNOTATIONS[format](name)})
        if not item.names:
            descriptors.append(item.descriptor.document)
    document = {"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": descriptors}
    return record.dumps(document).encode()


def _docker_manifest(chosen: list[_Chosen]) -> bytes:
    """Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset Format"."""
    images = []
    for item in chosen:
        names = [parse_reference(name).familiar() for name in item.names]
        blob_paths = [f"blobs/{layer.digest.replace(':', '/')}" for layer in item.image.layers]
        config = f"blobs/{item.image.config.digest.replace(':', '/')}"
        images.append({"Config": config, "RepoTags": names or None, "Layers": blob_paths})
    return record.dumps(images).encode()
