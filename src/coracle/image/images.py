"""The verbs on images: list, tag, remove, prune, inspect, history.

All of them read the store as it is on disk and return plain data; printing is the command line's.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from coracle.errors import ConflictError, ContentError, CoracleError, NotFoundError, UsageError
from coracle.image import collect as collector
from coracle.image import config as image_config
from coracle.image import index, manifest, unpack
from coracle.image.content import Store
from coracle.image.ready import lease, load, resolve
from coracle.image.reference import Reference
from coracle.image.reference import parse as parse_reference
from coracle.image.snapshot import pins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from coracle.image.collect import Freed
    from coracle.image.config import ImageConfig
    from coracle.paths import Paths

    Used = Iterable[str] | Callable[[], Iterable[str]]

_NEVER = "0001-01-01T00:00:00Z"  # Go's zero time, which Docker prints


class Image:
    """One row of ``coracle images``.

    ``reference`` is None for an image without a name, ``id`` the digest of its config, ``digest``
    that of its manifest, ``created`` RFC 3339 or empty, ``size`` in bytes of unpacked files,
    ``labels`` the config's.  ``problem`` says why the rest is empty when the content is damaged.
    """

    __slots__ = ("created", "digest", "id", "labels", "problem", "reference", "size")

    def __init__(self, entry: index.Entry) -> None:
        self.reference: Reference | None = parse_reference(entry.name) if entry.name else None
        self.id = entry.image_id
        self.digest = entry.digest
        self.created = ""
        self.size = 0
        self.labels: dict[str, str] = {}
        self.problem = ""


def list_images(paths: Paths) -> list[Image]:
    """All images, one row per name, the newest first; a damaged one is listed with its problem.

    Of an image that another tool brought and nobody has run yet, the size is that of its blobs.
    """
    rows = [_row(paths, entry) for entry in index.read(paths)]
    return sorted(rows, key=lambda row: row.created, reverse=True)


def _row(paths: Paths, entry: index.Entry) -> Image:
    row = Image(entry)
    ready = load(paths, entry)
    if ready is not None:
        row.created, row.size, row.labels = ready.created, ready.size, ready.config.get("Labels", {})
        return row
    try:
        _, image, config = _documents(Store(paths), entry)
    except CoracleError as error:
        row.problem = str(error)
        return row
    row.id, row.created = image.config.digest, config.text("created")
    row.size, row.labels = sum(layer.size for layer in image.layers), config.run.get("Labels", {})
    return row


def _documents(store: Store, entry: index.Entry) -> tuple[manifest.Descriptor, manifest.Manifest, ImageConfig]:
    """Manifest and config of an entry.  :raises ContentError: if one is missing or damaged."""
    descriptor = manifest.parse_descriptor(entry.document, "images/index.json entry")
    try:
        descriptor, image = unpack.choose(store, descriptor, manifest.host_platform())
        return descriptor, image, image_config.parse(store.read(image.config.digest))
    except NotFoundError as error:
        raise ContentError(f"image {entry.name or entry.digest} is incomplete: {error.message}", error.hint) from None


def tag(paths: Paths, source: str, target: str) -> str:
    """Give the image ``source`` (a name or id) the further name ``target``; its canonical form.

    A name in use moves, as in Docker; the image that had it stays.
    :raises NotFoundError: :raises UsageError: also for a target with a digest.
    """
    reference = parse_reference(target)
    if reference.digest:
        raise UsageError(f"cannot tag as {target!r}: a digest names content, it cannot be given")
    with lease(paths):
        image = resolve(paths, source)
        with index.Edit(paths) as edit:
            entry = next((item for item in edit.entries if item.digest == image.digest), None)
            if entry is None:  # removed in this very moment
                raise index.not_found(edit.entries, source)
            edit.put(entry.document, image.id, reference.canonical())
    return reference.canonical()


class Removed:
    """What ``remove`` did: ``untagged`` canonical names, ``deleted`` image ids, and what was ``freed`` of it."""

    __slots__ = ("deleted", "freed", "untagged")

    def __init__(self) -> None:
        self.untagged: list[str] = []
        self.deleted: list[str] = []
        self.freed: Freed | None = None


def _in_use(paths: Paths, used: Used) -> set[str]:
    """Ids of the images that containers stand on: those we are told of, and those that are pinned."""
    return set(used() if callable(used) else used) | {pin.image_id for pin in pins(paths)}


def remove(paths: Paths, name_or_id: str, used: Used = (), force: bool = False) -> Removed:
    """Take a name away, and with the last one the image; by id, all its names.

    ``used`` gives the ids of images that containers use beyond those pinned by snapshot.prepare; a
    callable is asked while the index is locked.  Such an image stays, without a name, even with ``force``.
    ``freed`` is None if somebody uses the store right now; then the garbage stays for the next time.
    :raises NotFoundError: :raises ConflictError: if containers use the image, or an id has several names,
        and ``force`` is not set.
    """
    removed = Removed()
    index.find(index.read(paths), name_or_id)
    with index.Edit(paths) as edit:
        in_use = _in_use(paths, used)
        entry = index.find(edit.entries, name_or_id)
        same = [item for item in edit.entries if _same(item, entry)]
        names = [item.name for item in same if item.name]
        by_name = entry.name != "" and not index.found_by_id(entry, name_or_id)
        going = [entry.name] if by_name else names
        last = len(going) == len(names)
        _check_removable(name_or_id, entry, by_name, names, last and entry.image_id in in_use, force)
        for name in going:
            edit.remove_name(name)
        removed.untagged = going
        if last and entry.image_id not in in_use:
            edit.entries = [item for item in edit.entries if not _same(item, entry)]
            removed.deleted = [entry.image_id or entry.digest]
    removed.freed = collector.collect(paths, wait=False)
    return removed


def _same(one: index.Entry, other: index.Entry) -> bool:
    return one.digest == other.digest or (one.image_id != "" and one.image_id == other.image_id)


def _check_removable(text: str, entry: index.Entry, by_name: bool, names: list[str], used: bool, force: bool) -> None:
    if force:
        return
    if not by_name and len(names) > 1:
        familiar = ", ".join(parse_reference(name).familiar() for name in names)
        raise ConflictError(f"image {text} has several names: {familiar}", "remove them one by one, or use --force")
    if used:
        identifier = entry.image_id.partition(":")[2][:12]
        raise ConflictError(
            f"image {text} ({identifier}) is used by a container", "remove the container first, or use --force"
        )


def prune(paths: Paths, used: Used = (), all_unused: bool = False) -> Removed:
    """Remove images without a name that no container uses, with ``all_unused`` also those with one; collect garbage.

    See :func:`remove` for ``used`` and ``freed``.
    """
    removed = Removed()
    if not os.path.isdir(paths.images()):
        removed.freed = collector.Freed()
        return removed
    with index.Edit(paths) as edit:
        in_use = _in_use(paths, used)
        going = [item for item in edit.entries if item.image_id not in in_use and (all_unused or not item.name)]
        edit.entries = [item for item in edit.entries if item not in going]
        removed.untagged = [item.name for item in going if item.name]
        kept = {item.image_id for item in edit.entries}
        removed.deleted = sorted({item.image_id or item.digest for item in going} - kept)
    removed.freed = collector.collect(paths, wait=False)
    return removed


class _Documents:
    """An image with its manifest and config read from the store."""

    def __init__(self, paths: Paths, name_or_id: str) -> None:
        self.entries = index.read(paths)
        self.entry = index.find(self.entries, name_or_id)
        self.descriptor, self.image, self.config = _documents(Store(paths), self.entry)
        self.ready = load(paths, self.entry) or unpack.make_ready(paths, self.entry)

    def references(self) -> list[Reference]:
        same = [item for item in self.entries if item.name and _same(item, self.entry)]
        return [parse_reference(item.name) for item in same]

    def repo_digests(self) -> list[str]:
        """``name@digest`` for what came from a registry, under the digest that the registry knows."""
        digests = {
            f"{parse_reference(item.name).familiar_name()}@{item.source_digest}"
            for item in self.entries
            if item.name and item.source_digest and _same(item, self.entry)
        }
        return sorted(digests)


def inspect(paths: Paths, name_or_id: str) -> dict[str, Any]:
    """The image in the shape of ``docker image inspect``.  :raises NotFoundError: :raises ContentError:"""
    found = _Documents(paths, name_or_id)
    document, ready = found.config.document, found.ready
    history = found.config.history
    lower = ready.lower_directories(paths)
    graph = {"UpperDir": lower[0], **({"LowerDir": ":".join(lower[1:])} if lower[1:] else {})} if lower else {}
    return {
        "Id": ready.id,
        "RepoTags": [reference.familiar() for reference in found.references() if reference.tag],
        "RepoDigests": found.repo_digests(),
        "Parent": "",
        "Comment": str(history[-1].get("comment") or "") if history else "",
        "Created": ready.created or _NEVER,
        "DockerVersion": document.get("docker_version") or "",
        "Author": document.get("author") or "",
        "Config": _inspect_config(ready.config),
        "Architecture": ready.architecture,
        **({"Variant": ready.variant} if ready.variant else {}),
        "Os": ready.os,
        "Size": ready.size,
        "GraphDriver": {"Data": graph or None, "Name": "overlay"},
        "RootFS": {"Type": "layers", "Layers": found.config.diff_ids},
        "Metadata": {"LastTagTime": _NEVER},
        "Descriptor": {
            "mediaType": found.image.media_type,
            "digest": found.descriptor.digest,
            "size": found.descriptor.size,
        },
    }


# The fields that Docker prints even when they are empty, with what it prints then
_ALWAYS: dict[str, Any] = {"User": "", "Env": None, "Cmd": None, "Volumes": None, "WorkingDir": "", "Entrypoint": None}


def _inspect_config(config: dict[str, Any]) -> dict[str, Any]:
    return {**_ALWAYS, "OnBuild": None, "Labels": None, **config}


def history(paths: Paths, name_or_id: str) -> list[dict[str, Any]]:
    """The steps the image was built in, the newest first, in the shape of Docker's ``GET /images/{name}/history``.

    ``Id`` is the image's own for the newest step and ``<missing>`` for the others; ``Size`` is in bytes.
    """
    found = _Documents(paths, name_or_id)
    sizes = [(unpack.layer_record(paths, key) or {}).get("size", 0) for key in found.ready.layers]
    steps = found.config.history or [{} for _ in sizes]
    rows = []
    for step in steps:
        size = 0 if step.get("empty_layer") or not sizes else sizes.pop(0)
        rows.append(
            {
                "Id": "<missing>",
                "Created": step.get("created") or _NEVER,
                "CreatedBy": step.get("created_by") or "",
                "Size": size,
                "Comment": step.get("comment") or "",
                "Tags": None,
            }
        )
    rows.reverse()
    if rows:
        tags = [reference.familiar() for reference in found.references()]
        rows[0].update(Id=found.ready.id, Tags=tags or None)
    return rows
