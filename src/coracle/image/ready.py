"""What ``run`` needs of an image, in one small record written when the image came in.

No manifest and no config is parsed at start: ``index.json`` leads from the name to the image id,
``ready/<image id>.json`` holds the config and the layers in order.  Records are derived data:
a missing one, or a missing layer, is made again from the content store.
"""

from __future__ import annotations

import os

from coracle import record
from coracle.errors import ContentError
from coracle.image import index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.paths import Paths


class ReadyImage:
    """An image that can be run: its config and its unpacked layers.

    ``id`` is the digest of the config, ``digest`` that of the manifest, ``name`` the canonical
    name it was found by or empty, ``config`` the inner ``config`` object with Docker's keys
    (``Entrypoint``, ``Cmd``, ``Env``, ...; absent keys are absent), ``layers`` the keys of the layer
    directories from the lowest up, ``size`` the bytes of all unpacked files.
    """

    __slots__ = ("architecture", "config", "created", "digest", "id", "layers", "name", "os", "size", "variant")

    def __init__(self, document: dict[str, Any], digest: str, name: str) -> None:
        self.id: str = document["id"]
        self.digest = digest
        self.name = name
        self.os: str = document["os"]
        self.architecture: str = document["architecture"]
        self.variant: str = document["variant"]
        self.created: str = document["created"]
        self.config: dict[str, Any] = document["config"]
        self.layers: list[str] = document["layers"]
        self.size: int = document["size"]

    def lower_directories(self, paths: Paths) -> list[str]:
        """The lower directories of an overlay mount, the topmost first."""
        return [f"{paths.layer(layer)}/diff" for layer in reversed(self.layers)]


def load(paths: Paths, entry: index.Entry) -> ReadyImage | None:
    """The record of ``entry``, or None if it or one of its layers is missing or damaged."""
    if not entry.image_id:
        return None
    try:
        image = ReadyImage(record.load(paths.ready_image(entry.image_id)), entry.digest, entry.name)
        for directory in image.lower_directories(paths):
            os.stat(directory)
    except (FileNotFoundError, NotADirectoryError, ContentError, KeyError, TypeError):
        return None
    return image


def resolve(paths: Paths, name_or_id: str) -> ReadyImage:
    """The image that ``name_or_id`` means, ready to run.

    Hold :func:`lease` from before this call until the container's own record exists, or
    ``coracle rmi`` in another terminal may take the layers away in between.

    :raises NotFoundError: with a hint on how to get the image.
    :raises UsageError: for a malformed name.
    :raises ContentError: if the image has to be unpacked again and its content is damaged.
    """
    entry = index.find(index.read(paths), name_or_id)
    image = load(paths, entry)
    if image is None:
        from coracle.image.unpack import make_ready

        image = make_ready(paths, entry)
    return image


def lease(paths: Paths) -> record.Lock:
    """A shared lock, to be used with ``with``: while anyone holds it, no image content is collected."""
    os.makedirs(paths.root, 0o711, exist_ok=True)
    return record.Lock(paths.store_lock(), shared=True)
