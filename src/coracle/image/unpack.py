"""From a manifest to a run-ready image: each layer unpacked once, checked, and shared.

A layer is normally kept under its diff_id and shared by all images that contain it.  One that is
right only above certain lower layers (it relies on a directory or file of theirs; layer.py calls it
dependent) is kept under its chain id (image-spec config.md, "Layer ChainID") instead.

It is unpacked in ``ingest/`` and renamed when complete and verified: a crash leaves garbage
there and never half a layer.  Two processes that want the same layer wait for one another.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from coracle import record
from coracle.errors import ContentError, NotFoundError
from coracle.image import config as image_config
from coracle.image import index, layer, manifest
from coracle.image.content import Ingest, Store, digest_of, disk_errors, exclusive
from coracle.image.ready import ReadyImage
from coracle.image.removal import remove_tree
from coracle.linux.syscall import syscall

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from coracle.image.manifest import Descriptor, Manifest, Platform
    from coracle.paths import Paths

    Warn = Callable[[str], None]

_RECORD = "layer.json"


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """The chain id of each layer, which names it together with everything below (image-spec config.md)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def layer_record(paths: Paths, key: str) -> dict[str, Any] | None:
    """What is known of the unpacked layer ``key`` (``diff_id``, ``size``, ``entries``, ``dependent``), or None."""
    try:
        found = record.load(f"{paths.layer(key)}/{_RECORD}")
    except (FileNotFoundError, ContentError):
        return None
    return found if isinstance(found, dict) else None


def _find(paths: Paths, diff_id: str, chain_id: str) -> str:
    """The key under which the layer is there already, or nothing."""
    known = layer_record(paths, diff_id)
    if known is not None and (diff_id == chain_id or not known.get("dependent")):
        return diff_id
    return chain_id if layer_record(paths, chain_id) is not None else ""


def unpack(ingest: Ingest, blobs: Sequence[Descriptor], diff_ids: Sequence[str], warn: Warn) -> list[str]:
    """Unpack what is missing of an image; the keys of its layer directories, the lowest first.

    :raises ContentError: if a layer's content does not have its diff_id, or is hostile.
    """
    if len(blobs) != len(diff_ids):
        raise ContentError(f"the image has {len(blobs)} layers but {len(diff_ids)} diff_ids")
    keys: list[str] = []
    for blob, diff_id, chain_id in zip(blobs, diff_ids, chain_ids(diff_ids), strict=True):
        key = _find(ingest.paths, diff_id, chain_id)
        if not key:
            with exclusive(f"{ingest.paths.ingest()}/{diff_id.partition(':')[2]}.lock"):
                key = _find(ingest.paths, diff_id, chain_id) or _unpack_one(ingest, blob, diff_id, chain_id, keys, warn)
        keys.append(key)
    return keys


def unpack_base(ingest: Ingest, blob: Descriptor, warn: Warn) -> str:
    """Unpack a layer whose diff_id is not known yet and which has nothing below; its diff_id."""
    work = ingest.path()
    try:
        with disk_errors("unpack layer", blob.digest):
            applied = _apply(ingest, blob, work, (), "sha256", warn)
            with exclusive(f"{ingest.paths.ingest()}/{applied.diff_id.partition(':')[2]}.lock"):
                if not _find(ingest.paths, applied.diff_id, applied.diff_id):
                    _publish(ingest.paths, work, applied.diff_id, applied)
    finally:
        remove_tree(work)
    return applied.diff_id


def _unpack_one(ingest: Ingest, blob: Descriptor, diff_id: str, chain_id: str, below: Sequence[str], warn: Warn) -> str:
    work = ingest.path()
    try:
        with disk_errors("unpack layer", diff_id):
            lower = [f"{ingest.paths.layer(key)}/diff" for key in reversed(below)]
            applied = _apply(ingest, blob, work, lower, diff_id.partition(":")[0], warn)
            if applied.diff_id != diff_id:
                raise ContentError(f"layer {blob.digest} is not what the image says: its diff_id is {applied.diff_id}")
            key = chain_id if applied.dependent else diff_id
            _publish(ingest.paths, work, key, applied)
    except NotFoundError:
        raise ContentError(f"layer {blob.digest} is missing from the image") from None
    finally:
        remove_tree(work)
    return key


def _apply(
    ingest: Ingest, blob: Descriptor, work: str, lower: Sequence[str], algorithm: str, warn: Warn
) -> layer.Applied:
    os.mkdir(work, 0o700)
    os.mkdir(f"{work}/diff", 0o755)
    with os.fdopen(ingest.store.open(blob.digest), "rb", buffering=0) as stream:
        applied = layer.apply(stream, f"{work}/diff", lower, algorithm=algorithm)
    for note in applied.notes:
        warn(f"layer {applied.diff_id.partition(':')[2][:12]}: {note}")
    return applied


def _publish(paths: Paths, work: str, key: str, applied: layer.Applied) -> None:
    fields = ("diff_id", "size", "entries", "dependent", "notes")
    record.save(f"{work}/{_RECORD}", {field: getattr(applied, field) for field in fields}, durable=True)
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # All files at once: after a power cut a layer is whole or absent, never full of empty files.
        syscall("syncfs", fd)
    finally:
        os.close(fd)
    target = paths.layer(key)
    if os.path.lexists(target):  # damaged: it has no readable record
        os.rename(target, f"{work}.damaged")
        remove_tree(f"{work}.damaged")
    os.rename(work, target)


def choose(store: Store, descriptor: Descriptor, platform: Platform) -> tuple[Descriptor, Manifest]:
    """The manifest for ``platform``, through any nested indexes.

    :raises NotFoundError: if there is none; :raises ContentError: for a malformed or endless document.
    """
    for _ in range(manifest.MAX_NESTING):
        document = manifest.parse(store.read(descriptor.digest), descriptor.media_type)
        if isinstance(document, manifest.Manifest):
            document.check_runnable()
            return descriptor, document
        descriptor = manifest.select(document.manifests, platform)
    raise ContentError(f"the image index is nested more than {manifest.MAX_NESTING} times")


def make(ingest: Ingest, image: Manifest, warn: Warn) -> dict[str, Any]:
    """Unpack the image and write its run-ready record, which is returned (see ready.ReadyImage)."""
    settings = image_config.parse(ingest.store.read(image.config.digest))
    layers = unpack(ingest, image.layers, settings.diff_ids, warn)
    records = [layer_record(ingest.paths, key) or {} for key in layers]
    document = {
        "id": image.config.digest,
        "os": settings.text("os") or "linux",
        "architecture": settings.text("architecture"),
        "variant": settings.text("variant"),
        "created": settings.text("created"),
        "size": sum(int(known.get("size", 0)) for known in records),
        "layers": layers,
        "config": settings.run,
    }
    with disk_errors("write", ingest.paths.ready()):
        record.save(ingest.paths.ready_image(image.config.digest), document, durable=True)
    return document


def make_ready(paths: Paths, entry: index.Entry, warn: Warn = lambda _: None) -> ReadyImage:
    """The run-ready record of an entry that has none: another tool wrote it, or its layers were lost.

    :raises ContentError: if the content is damaged or not an image.
    """
    descriptor = manifest.parse_descriptor(entry.document, "images/index.json entry")
    with Ingest(paths) as ingest:
        try:
            _, image = choose(ingest.store, descriptor, manifest.host_platform())
            document = make(ingest, image, warn)
        except NotFoundError as error:
            raise ContentError(
                f"image {entry.name or entry.digest} is incomplete: {error.message}", error.hint
            ) from None
        if entry.image_id != document["id"]:
            with index.Edit(paths) as edit:
                edit.adopt(entry, document["id"])
    return ReadyImage(document, entry.digest, entry.name)
