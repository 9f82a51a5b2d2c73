"""--cap-add, --cap-drop and --security-opt (capabilities(7), docs.docker.com/reference/cli/docker/container/run)."""

from __future__ import annotations

import os

from coracle.engine.options import values
from coracle.engine.options.parser import boolean
from coracle.linux.capability import NUMBERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ALL = "ALL"

_LABEL_PARTS = ("user", "role", "type", "level", "filetype", "nested", "disable")


def capability(text: str) -> str:
    """A capability in the kernel's spelling, or ALL; docker and podman ignore case and a missing CAP_."""
    name = text.upper()
    if name in (ALL, "CAP_ALL"):
        return ALL
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in NUMBERS:
        raise ValueError("a capability of capabilities(7) such as NET_ADMIN, or ALL")
    return name


def _paths(text: str) -> list[str]:
    """Absolute paths (or shell patterns) separated by colons."""
    paths = text.split(":")
    if not all(path.startswith("/") and "\0" not in path for path in paths):
        raise ValueError("absolute paths separated by colons")
    return [values.clean(path) for path in paths]


def _unmask(text: str) -> list[str]:
    return [ALL] if text.upper() == ALL else _paths(text)


def _seccomp(text: str) -> str:
    """``unconfined``, ``default`` (docker says ``builtin``), or the absolute path of a profile."""
    if text in ("unconfined", "default", "builtin"):
        return "default" if text == "builtin" else text
    return os.path.abspath(values.non_empty(text))


def _label(text: str) -> list[str]:
    kind, colon, content = text.partition(":")
    if kind not in _LABEL_PARTS or (kind in ("disable", "nested")) == bool(colon and content):
        raise ValueError("label=disable or label=user|role|type|level|filetype:VALUE")
    return [text]


def _proc_options(text: str) -> list[str]:
    """Options of the /proc mount (proc(5)); others would fail with a bare EINVAL in the kernel."""
    words = text.split(",")
    for word in words:
        if word.partition("=")[0] not in ("hidepid", "gid", "subset", "nosuid", "nodev", "noexec", "ro", "rw"):
            raise ValueError("hidepid=, gid= or subset=pid")
    return words


_KEYS: dict[str, Callable[[str], Any]] = {
    "seccomp": _seccomp,
    "apparmor": values.non_empty,
    "label": _label,
    "mask": _paths,
    "unmask": _unmask,
    "proc-opts": _proc_options,
    "no-new-privileges": boolean,
    "systempaths": values.choice("unconfined"),
    "writable-cgroups": boolean,
}


def security_option(text: str) -> tuple[str, Any]:
    """One --security-opt as (key, value); ``key:value`` is docker's old spelling of ``key=value``."""
    if text in ("no-new-privileges", "writable-cgroups"):
        return text, True
    if text == "disable":  # docker's old spelling
        return "label", ["disable"]
    key, separator, value = text.partition("=")
    if key not in _KEYS:
        key, separator, value = text.partition(":")
    if not separator or key not in _KEYS:
        raise ValueError(f"one of {', '.join(f'{name}=' for name in _KEYS)}")
    return key, _KEYS[key](value)


class Security:
    """All --security-opt of one container together.

    ``seccomp`` is "" when nothing was said, else as :func:`_seccomp` returns it.
    """

    __slots__ = (
        "apparmor",
        "labels",
        "mask",
        "no_new_privileges",
        "proc_options",
        "seccomp",
        "unmask",
        "writable_cgroups",
    )

    def __init__(self, options: list[tuple[str, Any]]) -> None:
        self.seccomp = ""
        self.apparmor = ""
        self.labels: list[str] = []
        self.mask: list[str] = []
        self.unmask: list[str] = []
        self.proc_options: list[str] = []
        self.no_new_privileges = False
        self.writable_cgroups = False
        for key, value in options:
            field = _FIELDS[key]
            if isinstance(value, list):
                getattr(self, field).extend(value)
            elif key == "systempaths":
                self.unmask.append(ALL)
            else:
                setattr(self, field, value)


_FIELDS = {key: key.replace("-", "_") for key in _KEYS}
_FIELDS |= {"label": "labels", "proc-opts": "proc_options"}
