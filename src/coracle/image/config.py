"""The image config: what the image runs and which layers it is made of (image-spec config.md)."""

from __future__ import annotations

from typing import Any

from coracle.errors import ContentError
from coracle.image.manifest import parse_json
from coracle.image.reference import is_digest


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(item) for item in value)


def _is_text_map(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value  # execve(2) could not pass it on


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


# key of the inner config → (check, what it must be); null means absent, as Go writes it
_FIELDS = {
    "User": (_is_text, "a string"),
    "ExposedPorts": (_is_object, "an object"),
    "Env": (_is_strings, "a list of strings"),
    "Entrypoint": (_is_strings, "a list of strings"),
    "Cmd": (_is_strings, "a list of strings"),
    "Volumes": (_is_object, "an object"),
    "WorkingDir": (_is_text, "a string"),
    "Labels": (_is_text_map, "an object of strings"),
    "StopSignal": (_is_text, "a string"),
    "Shell": (_is_strings, "a list of strings"),
    "OnBuild": (_is_strings, "a list of strings"),
    "Healthcheck": (_is_object, "an object"),
    "ArgsEscaped": (_is_flag, "true or false"),
}
_TOP_TEXTS = ("architecture", "os", "variant", "created", "author")


class ImageConfig:
    """A checked image config.  ``run`` holds the fields of :data:`_FIELDS` that are set, ``document`` all of it."""

    __slots__ = ("diff_ids", "document", "history", "run")

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        for key in _TOP_TEXTS:
            if not isinstance(document.get(key) or "", str):
                raise ContentError(f"image config {key} is not a string")
        rootfs = document.get("rootfs")
        if not isinstance(rootfs, dict) or rootfs.get("type", "layers") != "layers":
            raise ContentError("image config rootfs is missing or not of type 'layers'")
        diff_ids = rootfs.get("diff_ids") or []
        if not isinstance(diff_ids, list) or not all(is_digest(item) for item in diff_ids):
            raise ContentError("image config rootfs.diff_ids is not a list of digests")
        self.diff_ids: list[str] = diff_ids
        history = document.get("history") or []
        if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
            raise ContentError("image config history is not a list of objects")
        self.history: list[dict[str, Any]] = history
        self.run = _check_fields(document.get("config") or {})

    def text(self, key: str) -> str:
        """A top-level string such as ``architecture``, empty if absent."""
        return self.document.get(key) or ""


def _check_fields(config: object) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise ContentError("image config config is not an object")
    checked = {}
    for key, (check, expected) in _FIELDS.items():
        value = config.get(key)
        if value is None:
            continue
        if not check(value):
            raise ContentError(f"image config config.{key} is not {expected}")
        checked[key] = value
    return checked


def parse(data: bytes) -> ImageConfig:
    """The image config in ``data``.  :raises ContentError: naming the field that is wrong."""
    return ImageConfig(parse_json(data, "image config"))
