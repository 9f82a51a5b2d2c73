"""What a container executes: ENTRYPOINT x CMD x arguments x --entrypoint.

docs.docker.com/reference/dockerfile/#understand-how-cmd-and-entrypoint-interact and
docs.docker.com/engine/containers/run/#default-entrypoint.
"""

from __future__ import annotations

from coracle.errors import CommandNotFoundError, ContentError, UsageError
from coracle.record import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any


def argv(image: Mapping[str, Any], arguments: Sequence[str], override: str | None = None) -> list[str]:
    """The argument vector of the container's first process.

    ``image`` is the ``config`` of an image configuration, ``arguments`` what follows the image on
    the command line, ``override`` the text of --entrypoint (None when it was not given).
    --entrypoint drops the image's CMD too, even when it is empty, as docker and podman do.

    :raises UsageError: when nothing is left to execute.
    :raises CommandNotFoundError: when the program's name is empty (docker: exit code 127).
    :raises ContentError: when the image's own values are not lists of strings.
    """
    if override is None:
        prefix = _words(image, "Entrypoint")
        rest = list(arguments) or _words(image, "Cmd")
    else:
        prefix = _override(override)
        rest = list(arguments)
    result = [*prefix, *rest]
    if not result:
        raise UsageError("no command specified", "neither the image nor the command line names one")
    if not result[0]:
        raise CommandNotFoundError("the command is an empty word: no such program in the container")
    if any("\0" in word for word in result):
        raise UsageError("the command contains a NUL byte")
    return result


def _override(text: str) -> list[str]:
    """--entrypoint as one word, or as podman's JSON array; docker knows the word only."""
    if text.startswith("["):
        try:
            value = loads(text)
        except ContentError:
            return [text]
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return value
    return [text] if text else []


def _words(image: Mapping[str, Any], key: str) -> list[str]:
    """ENTRYPOINT or CMD: the exec form as it is; the shell form is stored as ["/bin/sh", "-c", text] by the builder.

    A bare string is what docker before 1.10 stored; it is one word, as in docker's StrSlice.
    """
    value = image.get(key) or []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ContentError(f"{key} of the image is not a list of strings")
    return list(value)
