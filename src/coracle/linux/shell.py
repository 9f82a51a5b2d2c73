"""Quoting for the shell lines that explain a step (POSIX.1-2017, Shell Command Language, 2.2)."""

from __future__ import annotations

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-")


def quote(word: str) -> str:
    """``word`` as one shell word."""
    if word and _PLAIN.issuperset(word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def command(*words: str) -> str:
    """A command line of quoted words."""
    return " ".join(quote(word) for word in words)


def in_root(path: str) -> str:
    """``path`` of the container as a shell word below the script's $ROOT."""
    return '"$ROOT"' + quote("/" + path.lstrip("/"))
