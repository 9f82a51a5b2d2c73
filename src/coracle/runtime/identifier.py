"""The names of containers."""

from __future__ import annotations

from coracle.errors import UsageError
from coracle.record import dumps

_ALPHANUMERIC = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_LONGEST = 1024


def check_identifier(identifier: str) -> str:
    """``identifier`` itself, if it may name a container.

    It becomes a directory, a cgroup and words on other programs' command lines, so nothing but
    letters, digits and ``_ + - .`` is allowed, and no dot in front (the class of CVE-2026-30892).

    :raises UsageError: otherwise.
    """
    first, rest = identifier[:1], identifier[1:]
    if not first or first.strip(_ALPHANUMERIC + "_+-") or rest.strip(_ALPHANUMERIC + "_+-."):
        rule = "use letters, digits and _ + - . with no dot in front"
        raise UsageError(f"container id {dumps(identifier)} is not valid", rule)
    if len(identifier) > _LONGEST:
        raise UsageError(f"container id is longer than {_LONGEST} characters")
    return identifier
