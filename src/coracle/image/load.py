"""``coracle load``: images from docker-archive, oci-archive and OCI layout directories.

The formats: image-spec image-layout.md; "docker save" with ``manifest.json`` (Docker Image
Specification v1.2), where Docker from 25 on writes both into one archive, and the layout counts.
Everything is stored and unpacked first; then one edit of the index makes all images visible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coracle import record
from coracle.errors import ContentError, NotFoundError, UnsupportedError, UsageError
from coracle.image import config as image_config
from coracle.image import files as archive_files
from coracle.image import index, manifest, unpack
from coracle.image.compression import decompress, detect, pieces_of
from coracle.image.content import Ingest
from coracle.image.manifest import Descriptor, Index, Manifest
from coracle.image.reference import parse as parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coracle.image.content import Readable
    from coracle.image.files import Files
    from coracle.image.manifest import Platform
    from coracle.image.unpack import Warn
    from coracle.paths import Paths

_CONTAINERD_NAME = "io.containerd.image.name"
_MAX_IMAGES = 1000
_LAYER_TYPES = {"": manifest.OCI_LAYER, "gzip": manifest.OCI_LAYER_GZIP, "zstd": manifest.OCI_LAYER_ZSTD}


class Loaded:
    """An image that came in: ``id`` (digest of the config), ``digest`` (of the manifest), canonical ``names``."""

    __slots__ = ("digest", "id", "names")

    def __init__(self, image_id: str, digest: str, names: list[str]) -> None:
        self.id = image_id
        self.digest = digest
        self.names = names


class _Found:
    """An image of the archive whose blobs are stored."""

    def __init__(self, descriptor: Descriptor, image: Manifest, names: list[str]) -> None:
        self.descriptor = descriptor
        self.image = image
        self.names = names


def load(
    paths: Paths,
    source: str | int,
    name: str = "",
    platform: Platform | None = None,
    warn: Warn = lambda _: None,
) -> list[Loaded]:
    """Bring in all images of ``source``, a path or an open descriptor (standard input is 0).

    ``name`` replaces the names in an archive of one image; ``platform`` picks from multi-platform
    images, by default this machine's.
    :raises ContentError: for what is no image archive, damaged or hostile; nothing is visible then.
    :raises UnsupportedError: for formats of the past; :raises NotFoundError: if no platform fits.
    """
    forced = parse_reference(name).canonical() if name else ""
    with Ingest(paths) as ingest:
        files = archive_files.open_files(ingest, source)
        try:
            found = _find(ingest, files, platform or manifest.host_platform(), warn)
        finally:
            files.close()
        if forced:
            if len(found) != 1:
                raise UsageError(f"the archive has {len(found)} images, so they cannot all be named {name}")
            found[0].names = [forced]
        for item in found:
            unpack.make(ingest, item.image, warn)
        return publish(paths, [(item.descriptor, item.image.config.digest, item.names) for item in found])


def publish(paths: Paths, images: list[tuple[Descriptor, str, list[str]]]) -> list[Loaded]:
    """Make images visible, all in one edit of the index: (manifest, image id, names) each."""
    with index.Edit(paths) as edit:
        for descriptor, image_id, names in images:
            for each in names or [""]:
                edit.put(descriptor.document, image_id, each)
    return [Loaded(image_id, descriptor.digest, names) for descriptor, image_id, names in images]


def _find(ingest: Ingest, files: Files, platform: Platform, warn: Warn) -> list[_Found]:
    if archive_files.has(files, "index.json"):
        return _from_layout(ingest, files, platform, warn)
    if archive_files.has(files, "manifest.json"):
        return [_from_docker(ingest, files, item) for item in _docker_manifest(files)]
    if archive_files.has(files, "repositories"):
        raise UnsupportedError(
            "the archive is in Docker's format from before 1.10 (repositories, no manifest.json)",
            "load it into a current Docker or podman and save it again",
        )
    raise ContentError(
        "not an image archive: it has neither index.json nor manifest.json",
        "a plain root file system comes in with 'coracle import'",
    )


# -- OCI layouts


def _from_layout(ingest: Ingest, files: Files, platform: Platform, warn: Warn) -> list[_Found]:
    top = manifest.parse(archive_files.read(files, "index.json"))
    if not isinstance(top, Index) or not top.manifests:
        raise ContentError("index.json of the image layout lists no images")
    if len(top.manifests) > _MAX_IMAGES:
        raise ContentError(f"index.json lists {len(top.manifests)} images, at most {_MAX_IMAGES} are read")
    found: dict[str, _Found] = {}
    for name, descriptor in _choose(top.manifests, platform):
        chosen, image = _fetch(ingest, files, descriptor, platform)
        item = found.setdefault(chosen.digest, _Found(chosen, image, []))
        item.names += [name] if name and name not in item.names else []
    _name_by_docker_manifest(files, found, warn)
    return list(found.values())


def _choose(descriptors: list[Descriptor], platform: Platform) -> Iterator[tuple[str, Descriptor]]:
    """The named images, each for one platform; those without a name are one image if they state platforms."""
    groups: dict[str, list[Descriptor]] = {}
    for descriptor in descriptors:
        groups.setdefault(_layout_name(descriptor), []).append(descriptor)
    for name, group in groups.items():
        if name or any(item.document.get("platform") for item in group):
            yield name, manifest.select(group, platform)
        else:
            for descriptor in group:
                yield name, descriptor


def _layout_name(descriptor: Descriptor) -> str:
    """The canonical name in the annotations: containerd's and Docker's own key, or podman's and skopeo's."""
    for key in (_CONTAINERD_NAME, index.REF_NAME):
        value = descriptor.annotations.get(key)
        if isinstance(value, str) and value:
            return _canonical(value)
    return ""


def _canonical(name: str) -> str:
    try:
        return parse_reference(name).canonical()
    except UsageError as error:
        raise ContentError(f"the archive has an image with an {error.message}") from None


def _fetch(ingest: Ingest, files: Files, descriptor: Descriptor, platform: Platform) -> tuple[Descriptor, Manifest]:
    """Store the image that ``descriptor`` leads to; its manifest."""
    for _ in range(manifest.MAX_NESTING):
        if descriptor.size > manifest.MAX_DOCUMENT:
            raise ContentError(f"manifest {descriptor.digest} is larger than {manifest.MAX_DOCUMENT} bytes")
        _put(ingest, files, descriptor)
        document = manifest.parse(ingest.store.read(descriptor.digest), descriptor.media_type)
        if isinstance(document, Manifest):
            document.check_runnable()
            for blob in (document.config, *document.layers):
                _put(ingest, files, blob)
            return Descriptor(document.media_type, descriptor.digest, descriptor.size), document
        descriptor = manifest.select(document.manifests, platform)
    raise ContentError(f"the image index is nested more than {manifest.MAX_NESTING} times")


def _put(ingest: Ingest, files: Files, descriptor: Descriptor) -> None:
    if ingest.store.has(descriptor.digest):
        return  # verified when it was stored
    try:
        source = files.open(f"blobs/{descriptor.digest.replace(':', '/')}")
    except NotFoundError:
        raise ContentError(f"blob {descriptor.digest} is missing from the image") from None
    ingest.put(source, expected=descriptor)


def _name_by_docker_manifest(files: Files, found: dict[str, _Found], warn: Warn) -> None:
    """Docker's archives carry the names a second time, by config; they help where the layout has none."""
    if all(item.names for item in found.values()) or not archive_files.has(files, "manifest.json"):
        return
    try:
        listed = _docker_manifest(files)
    except ContentError as error:
        warn(f"names are missing: {error}")
        return
    for item in found.values():
        encoded = item.image.config.digest.partition(":")[2]
        for document in listed:
            if encoded in document["Config"] and not item.names:
                item.names = [_canonical(tag) for tag in document["RepoTags"]]


# -- docker-archive


def _docker_manifest(files: Files) -> list[dict[str, Any]]:
    """``manifest.json``, checked: a list of images with Config, RepoTags and Layers."""
    data = record.loads(archive_files.read(files, "manifest.json"), "manifest.json")
    if not isinstance(data, list) or not data or len(data) > _MAX_IMAGES:
        raise ContentError("manifest.json of the archive is not a list of images")
    return [_check_docker_image(item, number) for number, item in enumerate(data)]


def _check_docker_image(item: object, number: int) -> dict[str, Any]:
    if not isinstance(item, dict) or not isinstance(item.get("Config"), str):
        raise ContentError(f"manifest.json[{number}] has no Config")
    checked: dict[str, Any] = {"Config": item["Config"]}
    for key in ("RepoTags", "Layers"):
        value = item.get(key) or []
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ContentError(f"manifest.json[{number}].{key} is not a list of strings")
        checked[key] = value
    return checked


def _from_docker(ingest: Ingest, files: Files, item: dict[str, Any]) -> _Found:
    """Store an image of a docker-archive under a manifest of our own: the archive has none."""
    try:
        data = archive_files.read(files, item["Config"])
        settings = image_config.parse(data)
        if len(settings.diff_ids) != len(item["Layers"]) or len(item["Layers"]) > manifest.MAX_LAYERS:
            raise ContentError(
                f"the image has {len(item['Layers'])} layers in the archive but {len(settings.diff_ids)} in its config"
            )
        layers = [_layer(ingest, files, *each) for each in zip(item["Layers"], settings.diff_ids, strict=True)]
    except NotFoundError as error:
        raise ContentError(error.message) from None
    config = ingest.put(data, manifest.OCI_CONFIG)
    descriptor, image = put_manifest(ingest, config, layers)
    return _Found(descriptor, image, [_canonical(tag) for tag in item["RepoTags"]])


def _layer(ingest: Ingest, files: Files, name: str, diff_id: str) -> Descriptor:
    section = files.open(name)
    if not detect(section.peek(6)) and ingest.store.has(diff_id):
        return Descriptor(manifest.OCI_LAYER, diff_id, ingest.store.size(diff_id))
    return put_layer(ingest, section, section.peek(6))


def put_layer(ingest: Ingest, source: Readable, head: bytes) -> Descriptor:
    """Store a layer as it came, or as plain tar if OCI has no media type for its compression."""
    kind = detect(head)
    if kind in _LAYER_TYPES:
        return ingest.put(source, _LAYER_TYPES[kind])
    return ingest.put(_Unpacked(source), manifest.OCI_LAYER)


class _Unpacked:
    """The decompressed stream as a file object; pieces come in whatever size they have."""

    def __init__(self, source: Readable) -> None:
        self.pieces = decompress(pieces_of(source))

    def read(self, _size: int) -> bytes:
        return next(self.pieces, b"")


def put_manifest(ingest: Ingest, config: Descriptor, layers: list[Descriptor]) -> tuple[Descriptor, Manifest]:
    """Store the OCI manifest that ties ``config`` and ``layers`` together; the same input gives the same digest."""
    document = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": config.document,
        "layers": [layer.document for layer in layers],
    }
    descriptor = ingest.put(record.dumps(document).encode(), manifest.OCI_MANIFEST)
    return descriptor, Manifest(document, manifest.OCI_MANIFEST)
