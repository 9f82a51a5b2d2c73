"""The process of ``coracle-oci exec``: from a file, or from the command line on top of the container's own."""

from __future__ import annotations

from coracle.errors import SpecError, UsageError
from coracle.runtime.spec import load_file, validate_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Record = dict[str, Any]

_LARGEST_ID = (1 << 32) - 2
# option → property that it replaces
_REPLACED = {"cwd": "cwd", "apparmor": "apparmorProfile", "process-label": "selinuxLabel"}
_OF_THE_COMMAND = (*_REPLACED, "user", "additional-gids", "env", "cap", "no-new-privs")


def exec_process(options: Record, command: list[str], own: Callable[[], Record]) -> Record:
    """The valid ``process`` object that ``options`` and ``command`` ask for.

    ``own`` gives the config of the container, whose process is the pattern (as in runc and crun).
    :raises UsageError: for contradicting options.
    :raises SpecError: for a wrong process.
    """
    if file := options.get("process"):
        process = _from_file(file, options, command)
    elif command:
        process = _from_command(options, command, own())
    else:
        raise UsageError("exec needs a command, or --process")
    validate_process(process)
    return process


def _from_file(file: str, options: Record, command: list[str]) -> Record:
    """conmon passes --tty besides the file; whatever else changes the process belongs into the file."""
    if command:
        raise UsageError("exec takes a command or --process, not both")
    for name in _OF_THE_COMMAND:
        if name in options:
            raise UsageError(f"option --{name} cannot be used with --process")
    process = load_file(file)
    if not isinstance(process, dict):
        raise SpecError("process", "must be an object")
    if options.get("tty"):
        process["terminal"] = True
    return process


def _from_command(options: Record, command: list[str], config: Record) -> Record:
    process: Record = {"cwd": "/", **(config.get("process") or {})}
    process["args"] = command
    process["terminal"] = options.get("tty", False)
    process["env"] = [*(process.get("env") or []), *options.get("env", [])]
    for option, name in _REPLACED.items():
        if option in options:
            process[name] = options[option]
    if "no-new-privs" in options:
        process["noNewPrivileges"] = options["no-new-privs"]
    process["user"] = _user(options, process.get("user") or {})
    if "cap" in options:
        process["capabilities"] = _capabilities(process.get("capabilities") or {}, options["cap"])
    return process


def _user(options: Record, own: Record) -> Record:
    user: Record = dict(own)
    if "user" in options:
        uid, colon, gid = options["user"].partition(":")
        user["uid"] = _identifier(uid, options["user"])
        if colon:
            user["gid"] = _identifier(gid, options["user"])
    if "additional-gids" in options:
        more = [_identifier(gid, gid) for gid in options["additional-gids"]]
        user["additionalGids"] = [*(user.get("additionalGids") or []), *more]
    return user


def _identifier(text: str, whole: str) -> int:
    """Digits and nothing else: "0x", "" or "1abc" must never mean root (CVE-2026-30892)."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) > _LARGEST_ID:
        raise UsageError(f"{whole!r} is not a user", "give numbers, as UID or UID:GID")
    return int(text)


def _capabilities(own: Record, more: list[str]) -> Record:
    """Never inheritable ones: a program without file capabilities would get them (CVE-2022-29162)."""
    sets: Record = dict(own)
    for name in ("bounding", "effective", "permitted"):
        present = own.get(name) or []
        sets[name] = [*present, *(capability for capability in more if capability not in present)]
    return sets
