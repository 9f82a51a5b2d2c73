"""Which images exist: ``index.json`` of the OCI layout, and looking one up in it.

Every image is one descriptor per name, or one without a name.  The name is the canonical
reference in the annotation ``org.opencontainers.image.ref.name`` (image-spec annotations.md),
so that ``skopeo inspect oci:<images>:docker.io/library/debian:12`` finds it.  An annotation of
ours repeats the image id (the digest of the config), which saves ``run`` the manifest.
"""

from __future__ import annotations

import os

from coracle import record
from coracle.errors import ConflictError, ContentError, KernelError, NotFoundError, UsageError
from coracle.image.reference import HEX, has_registry, is_digest, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from coracle.image.reference import Reference
    from coracle.paths import Paths

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_ID = "io.coracle.image.id"
# The digest under which a registry served the image: that of an index, when the image came out of one.
SOURCE_DIGEST = "io.coracle.image.source-digest"
MEDIA_TYPE = "application/vnd.oci.image.index.v1+json"


class Entry:
    """One descriptor of ``index.json``.  ``name`` is empty for an image without a name.

    ``image_id`` is empty when another tool wrote the descriptor; ``document`` is what stands in the file.
    """

    __slots__ = ("digest", "document", "image_id", "name", "source_digest")

    def __init__(self, document: dict[str, Any]) -> None:
        annotations = document.get("annotations") or {}
        if not is_digest(document.get("digest")) or not isinstance(annotations, dict):
            raise ContentError("images/index.json: an entry without a valid digest")
        self.document = document
        self.digest: str = document["digest"]
        self.image_id = _annotation(annotations, IMAGE_ID)
        if not is_digest(self.image_id):
            self.image_id = ""
        self.source_digest = _annotation(annotations, SOURCE_DIGEST)
        self.name = _annotation(annotations, REF_NAME)
        if self.name and not self.image_id:
            self.name = _canonical(self.name)

    def digests(self) -> tuple[str, str]:
        """The digests by which ``name@digest`` may ask for this image."""
        return (self.digest, self.source_digest)


def _annotation(annotations: dict[str, Any], key: str) -> str:
    value = annotations.get(key)
    return value if isinstance(value, str) else ""


def _canonical(name: str) -> str:
    """Names written by other tools may be short; what is no reference at all names nothing here."""
    try:
        return parse(name).canonical()
    except UsageError:
        return ""


def path(paths: Paths) -> str:
    """The file ``index.json`` of the store."""
    return f"{paths.images()}/index.json"


def _load(paths: Paths) -> dict[str, Any]:
    try:
        document = record.load(path(paths))
    except FileNotFoundError:
        return {"schemaVersion": 2, "mediaType": MEDIA_TYPE, "manifests": []}
    except OSError as error:
        raise KernelError(error.errno or 0, "read the image index", path(paths)) from error
    if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
        raise ContentError(f"{path(paths)} is not an OCI image index")
    return document


def read(paths: Paths) -> list[Entry]:
    """All entries, in the order of the file; empty when there is no store yet.

    :raises ContentError: if the index is damaged.
    """
    return [Entry(item) for item in _load(paths)["manifests"] if isinstance(item, dict)]


class Edit:
    """``with Edit(paths) as edit:`` changes ``edit.entries`` under the lock; an exception leaves the file as it was."""

    __slots__ = ("_document", "_lock", "_paths", "entries")

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lock = record.Lock(paths.images_lock())
        self.entries: list[Entry] = []

    def __enter__(self) -> Edit:
        self._lock.acquire()
        try:
            self._document = _load(self._paths)
            self.entries = read(self._paths)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._document["manifests"] = [entry.document for entry in self.entries]
                record.save(path(self._paths), self._document, mode=0o644, durable=True)
        finally:
            self._lock.release()

    def put(self, descriptor: dict[str, Any], image_id: str, name: str = "", source_digest: str = "") -> None:
        """Make ``name`` mean the image; without a name, keep the image as a nameless one.

        What ``name`` meant before stays, as Docker does, as a nameless image.
        """
        document: dict[str, Any] = {
            key: descriptor[key] for key in ("mediaType", "digest", "size", "platform") if key in descriptor
        }
        document["annotations"] = {REF_NAME: name} if name else {}
        document["annotations"][IMAGE_ID] = image_id
        if source_digest:
            document["annotations"][SOURCE_DIGEST] = source_digest
        if name:
            self.remove_name(name)
        elif any(entry.image_id == image_id for entry in self.entries):
            return
        self.entries = [entry for entry in self.entries if entry.name or entry.image_id != image_id]
        self.entries.append(Entry(document))

    def adopt(self, entry: Entry, image_id: str) -> None:
        """Note the image id of an entry that another tool wrote, and its name in full."""
        for number, candidate in enumerate(self.entries):
            if (candidate.digest, candidate.name) == (entry.digest, entry.name):
                annotations = {**(candidate.document.get("annotations") or {}), IMAGE_ID: image_id}
                if entry.name:
                    annotations[REF_NAME] = entry.name
                self.entries[number] = Entry({**candidate.document, "annotations": annotations})

    def remove_name(self, name: str) -> bool:
        """Take ``name`` away; an image that loses its last name stays as a nameless one.  False if unknown."""
        old = next((entry for entry in self.entries if entry.name == name), None)
        if old is None:
            return False
        self.entries.remove(old)
        if not any(entry.digest == old.digest for entry in self.entries):
            annotations = old.document["annotations"]
            kept = {key: value for key, value in annotations.items() if key not in (REF_NAME, SOURCE_DIGEST)}
            self.entries.append(Entry({**old.document, "annotations": kept}))
        return True


def find(entries: Iterable[Entry], text: str) -> Entry:
    """The entry that ``text`` means: a name, an image id, a manifest digest, or a unique prefix of an id.

    A short name that is not on docker.io is also looked for under ``localhost/``, where podman
    puts what it builds and imports.

    :raises NotFoundError: with the nearest names as its hint.
    :raises UsageError: when ``text`` could be no name and no id.
    :raises ConflictError: when a prefix fits several images.
    """
    entries = list(entries)
    malformed = None
    try:
        found = _by_name(entries, text)
    except UsageError as error:
        found, malformed = None, error
    found = found or _by_id(entries, text)
    if found is None:
        raise malformed if malformed and not text.startswith("sha256:") else not_found(entries, text)
    return found


def found_by_id(entry: Entry, text: str) -> bool:
    """Whether ``text``, which found ``entry``, is its id or a part of it, and not one of its names."""
    encoded = text.removeprefix("sha256:")
    if text == entry.digest or text.startswith("sha256:"):
        return True
    if not HEX.issuperset(encoded) or not entry.image_id.partition(":")[2].startswith(encoded):
        return False
    return len(encoded) == 64 or parse(text).canonical() != entry.name


def _by_name(entries: list[Entry], text: str) -> Entry | None:
    if is_digest(text):
        return None
    reference = parse(text)
    found = _by_reference(entries, reference)
    if found is None and not has_registry(text):
        found = _by_reference(entries, parse(f"localhost/{text}"))
    return found


def _by_reference(entries: list[Entry], reference: Reference) -> Entry | None:
    wanted = reference.canonical()
    for entry in entries:
        if entry.name == wanted:
            return entry
    if not reference.digest:
        return None
    # As in Docker, a digest decides alone and the tag beside it is only for the reader.
    for entry in entries:
        if entry.name and reference.digest in entry.digests() and parse(entry.name).name == reference.name:
            return entry
    return None


def _by_id(entries: list[Entry], text: str) -> Entry | None:
    prefix = text.removeprefix("sha256:")
    if not prefix or not HEX.issuperset(prefix):
        return None
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.image_id.partition(":")[2].startswith(prefix) or entry.digest == text:
            found.setdefault(entry.image_id or entry.digest, entry)
    if len(found) > 1:
        raise ConflictError(f"image id prefix {text} is ambiguous: it fits {len(found)} images", "give more digits")
    return next(iter(found.values()), None)


def not_found(entries: Iterable[Entry], text: str) -> NotFoundError:
    """The error for a missing image, with near names or the verbs that bring images."""
    wanted = text.removesuffix(":latest")
    names = {parse(entry.name).familiar().removesuffix(":latest") for entry in entries if entry.name}
    distances = sorted((_distance(wanted, name), name) for name in names)
    same = [name for name in sorted(names) if name.partition(":")[0] == wanted.partition(":")[0]]  # another tag
    near = (same or [name for distance, name in distances if distance <= 1 + len(wanted) // 4])[:3]
    if near:
        return NotFoundError(f"no such image: {text}", f"did you mean {' or '.join(near)}?")
    return NotFoundError(
        f"no such image: {text}",
        "bring it in with 'coracle load' or 'coracle import'; 'coracle images' lists what is here",
    )


def _distance(one: str, other: str) -> int:
    """How many letters must change to make ``one`` of ``other`` (Levenshtein); ``difflib`` costs 20 ms of imports."""
    row = list(range(len(other) + 1))
    for count, letter in enumerate(one, 1):
        above, row[0] = row[0], count
        for column, opposite in enumerate(other, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (letter != opposite))
    return row[-1]


def ensure_layout(paths: Paths) -> None:
    """Create the store's directories and ``oci-layout`` if they are missing (image-spec image-layout.md)."""
    os.makedirs(paths.root, 0o711, exist_ok=True)
    # Nobody else may look into images and layers: they hold other users' setuid files (CVE-2021-41091).
    for directory in (paths.images(), paths.layers(), paths.ready(), paths.ingest()):
        os.makedirs(directory, 0o700, exist_ok=True)
    os.makedirs(f"{paths.images()}/blobs/sha256", exist_ok=True)
    marker = f"{paths.images()}/oci-layout"
    if os.path.exists(marker) and os.path.exists(path(paths)):
        return
    with Edit(paths):  # it writes an empty index: without index.json the directory is no layout
        record.save(marker, {"imageLayoutVersion": "1.0.0"}, mode=0o644)
