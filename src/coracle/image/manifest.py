"""Manifests and indexes from outside: parsed, checked, and only then believed.

Sources of the rules: image-spec manifest.md, image-index.md, descriptor.md; Docker's
"Image Manifest V 2, Schema 2".  A document that could be read as two different things is refused
(CVE-2021-41190), and so is any digest that is not strictly a digest (CVE-2024-3727).
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from coracle.errors import ContentError, NotFoundError, UnsupportedError, UsageError
from coracle.image.reference import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_DOCUMENT = 4 << 20  # bytes; distribution-spec: registries accept manifests of at least 4 MiB
MAX_LAYERS = 500  # overlayfs stacks no more (fs/overlayfs/params.c, OVL_MAX_STACK)
MAX_NESTING = 8  # index within index within ...

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

MANIFESTS = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
INDEXES = frozenset((OCI_INDEX, DOCKER_LIST))
CONFIGS = frozenset((OCI_CONFIG, DOCKER_CONFIG))
LAYERS = frozenset(
    (
        OCI_LAYER,
        OCI_LAYER_GZIP,
        OCI_LAYER_ZSTD,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        DOCKER_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    )
)

# uname(2) machine → architecture, variant in Go's words (GOARCH), which image-spec prescribes
MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "loongarch64": ("loong64", ""),
    "mips64": ("mips64le", ""),
}


class Descriptor:
    """A pointer to content: media type, digest and size in bytes; ``document`` keeps every field as it came."""

    __slots__ = ("digest", "document", "media_type", "size")

    def __init__(self, media_type: str, digest: str, size: int, document: dict[str, Any] | None = None) -> None:
        self.media_type = media_type
        self.digest = digest
        self.size = size
        self.document: dict[str, Any] = (
            document if document is not None else {"mediaType": media_type, "digest": digest, "size": size}
        )

    @property
    def annotations(self) -> dict[str, Any]:
        annotations: dict[str, Any] = self.document.get("annotations") or {}
        return annotations

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descriptor) and self.document == other.document

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Descriptor({self.media_type!r}, {self.digest!r}, {self.size})"


class Platform:
    """Operating system, architecture and variant, in Go's words."""

    __slots__ = ("architecture", "os", "variant")

    def __init__(self, system: str, architecture: str, variant: str = "") -> None:
        self.os = system
        self.architecture = architecture
        # image-spec image-index.md, "Platform Variants": arm64 alone means v8, arm alone v7
        self.variant = variant or {"arm64": "v8", "arm": "v7"}.get(architecture, "")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def rank(self, offered: Platform) -> int:
        """How well ``offered`` serves this platform: 0 not at all, more is better; an older variant runs too."""
        if (offered.os, offered.architecture) != (self.os, self.architecture):
            return 0
        if offered.variant == self.variant:
            return 100
        ours, theirs = _generation(self.variant), _generation(offered.variant)
        return 0 if theirs > ours else 1 + theirs


def _generation(variant: str) -> int:
    """``v7`` → 7; amd64 without a variant is its first generation."""
    digits = variant[1:]
    return int(digits) if variant[:1] == "v" and digits.isascii() and digits.isdigit() and len(digits) < 3 else 1


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    return Platform("linux", *MACHINES.get(machine, (machine, "")))


def parse_platform(text: str) -> Platform:
    """``linux/arm64/v8``, ``linux/amd64`` or ``arm64`` alone.  :raises UsageError:"""
    parts = text.lower().split("/")
    if not all(parts) or len(parts) > 3:
        raise UsageError(f"invalid platform {text!r}", "write it as os/architecture[/variant], such as linux/arm64")
    if len(parts) == 1:
        parts = ["linux", parts[0]]
    machine = MACHINES.get(parts[1])
    return Platform(parts[0], *machine) if machine and len(parts) == 2 else Platform(*parts)


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``data``; duplicate keys are refused, because parsers disagree on which one counts.

    :raises ContentError: also for more than :data:`MAX_DOCUMENT` bytes and for extreme nesting.
    """
    if len(data) > MAX_DOCUMENT:
        raise ContentError(f"{name} is larger than {MAX_DOCUMENT} bytes")
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ContentError(f"{name} is not valid JSON: {problem}") from None
    if not isinstance(value, dict):
        raise ContentError(f"{name} is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} stands there twice")
    return value


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def parse_descriptor(value: object, where: str) -> Descriptor:
    """A checked descriptor.  :raises ContentError: naming ``where``."""
    if not isinstance(value, dict):
        raise ContentError(f"{where} is not a descriptor object")
    media_type = value.get("mediaType", "")
    size = value.get("size")
    if not isinstance(media_type, str):
        raise ContentError(f"{where}.mediaType is not a string")
    if not is_digest(value.get("digest")):
        raise ContentError(f"{where}.digest is not a sha256 or sha512 digest: {value.get('digest')!r:.100}")
    if type(size) is not int or not 0 <= size < 1 << 63:
        raise ContentError(f"{where}.size is not a size in bytes: {size!r:.100}")
    for key in ("annotations", "platform"):
        if not isinstance(value.get(key, {}), dict | None):
            raise ContentError(f"{where}.{key} is not an object")
    return Descriptor(media_type, value["digest"], size, value)


class Manifest:
    """An image manifest: one config and its layers, lowest first."""

    __slots__ = ("config", "document", "layers", "media_type")

    def __init__(self, document: dict[str, Any], media_type: str) -> None:
        self.document = document
        self.media_type = media_type
        self.config = parse_descriptor(document.get("config"), "manifest config")
        layers = document.get("layers")
        if not isinstance(layers, list):
            raise ContentError("manifest layers is not a list")
        if len(layers) > MAX_LAYERS:
            raise ContentError(f"the manifest has {len(layers)} layers, overlayfs stacks at most {MAX_LAYERS}")
        self.layers = [parse_descriptor(layer, f"manifest layers[{number}]") for number, layer in enumerate(layers)]

    def check_runnable(self) -> None:
        """:raises ContentError: if this is no container image; :raises UnsupportedError: for layers we cannot read."""
        if self.config.media_type not in CONFIGS and self.config.media_type:
            raise ContentError(f"not a container image: its config is of type {self.config.media_type!r:.100}")
        for layer in self.layers:
            if layer.media_type.endswith("+encrypted"):
                raise UnsupportedError(f"layer {layer.digest} is encrypted", "decrypt it with 'skopeo copy' first")
            if layer.media_type and layer.media_type not in LAYERS:
                raise UnsupportedError(f"layer {layer.digest} is of the unknown type {layer.media_type!r:.100}")


class Index:
    """An image index (a manifest list): one manifest per platform."""

    __slots__ = ("document", "manifests", "media_type")

    def __init__(self, document: dict[str, Any], media_type: str) -> None:
        self.document = document
        self.media_type = media_type
        manifests = document.get("manifests")
        if not isinstance(manifests, list):
            raise ContentError("index manifests is not a list")
        self.manifests = [parse_descriptor(item, f"index manifests[{n}]") for n, item in enumerate(manifests)]


def parse(data: bytes, media_type: str = "") -> Manifest | Index:
    """The manifest or index in ``data``.

    ``media_type`` is what the descriptor or the HTTP header said; the document must agree.
    :raises ContentError: for anything malformed or ambiguous; :raises UnsupportedError: for schema 1.
    """
    document = parse_json(data, "manifest")
    version = document.get("schemaVersion")
    if version == 1 or "fsLayers" in document:
        raise UnsupportedError(
            "the manifest is of the obsolete schema 1",
            "push the image again with a current tool, or convert it with 'skopeo copy --format v2s2'",
        )
    if version != 2:
        raise ContentError(f"manifest schemaVersion is {version!r:.100}, expected 2")
    stated = document.get("mediaType") or media_type
    if not isinstance(stated, str):
        raise ContentError("manifest mediaType is not a string")
    if media_type and stated != media_type:
        raise ContentError(f"the manifest says it is {stated!r:.100}, its descriptor says {media_type!r:.100}")
    is_index = "manifests" in document
    if is_index and ("layers" in document or "config" in document):
        raise ContentError("the manifest is ambiguous: it has both 'manifests' and 'layers' or 'config'")
    expected = INDEXES if is_index else MANIFESTS
    if stated and stated not in expected:
        raise ContentError(
            f"a document of type {stated!r:.100} has the fields of {'an index' if is_index else 'a manifest'}"
        )
    if is_index:
        return Index(document, stated or OCI_INDEX)
    return Manifest(document, stated or OCI_MANIFEST)


def _platform_of(descriptor: Descriptor) -> Platform | None:
    """The stated platform, or None; attestations state ``unknown/unknown``."""
    value = descriptor.document.get("platform")
    if not value:
        return None
    parts = [value.get(key) or "" for key in ("os", "architecture", "variant")]
    return Platform(*parts) if all(isinstance(part, str) for part in parts) else Platform("unknown", "unknown")


def _is_attestation(descriptor: Descriptor) -> bool:
    return descriptor.annotations.get("vnd.docker.reference.type") == "attestation-manifest"


def select(descriptors: Sequence[Descriptor], wanted: Platform) -> Descriptor:
    """The descriptor that serves ``wanted`` best; of equals the first (image-spec image-index.md).

    A descriptor that states no platform serves any, after those that fit.
    :raises NotFoundError: listing the platforms there are.
    """
    best: tuple[int, Descriptor] | None = None
    for descriptor in descriptors:
        if _is_attestation(descriptor):
            continue
        offered = _platform_of(descriptor)
        rank = wanted.rank(offered) if offered else 0 if descriptor.media_type in LAYERS else 1
        if rank and (best is None or rank > best[0]):
            best = (rank, descriptor)
    if best is None:
        raise NotFoundError(f"the image has no variant for {wanted}", _available(descriptors))
    return best[1]


def _available(descriptors: Iterable[Descriptor]) -> str:
    platforms = {str(_platform_of(descriptor)) for descriptor in descriptors if not _is_attestation(descriptor)}
    return f"it offers {', '.join(sorted(platforms)[:12])}" if platforms else "its index is empty"
