"""Dockerfile instructions that change an image's config: ``import --change``, ``commit --change``.

Semantics as in the Dockerfile reference: CMD and ENTRYPOINT take a JSON list or a shell line, ENV and
LABEL take ``key=value`` words with quotes, or the old form ``key the rest``.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from coracle.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Config = dict[str, Any]

_SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d*)?)(ns|us|ms|s|m|h)", re.ASCII)
_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def apply(config: Config, changes: Iterable[str]) -> Config:
    """``config`` with ``changes`` applied in order; the argument stays as it is.

    :raises UsageError: naming the instruction that is unknown or malformed.
    """
    changed = {key: value.copy() if isinstance(value, (list, dict)) else value for key, value in config.items()}
    for line in changes:
        name, _, rest = line.strip().partition(" ")
        instruction = _INSTRUCTIONS.get(name.upper())
        if instruction is None:
            raise UsageError(f"--change {line!r}: {name!r} changes no config", f"known are {' '.join(_INSTRUCTIONS)}")
        try:
            instruction(changed, rest.strip())
        except ValueError as error:
            raise UsageError(f"--change {line!r}: {error}") from None
    return changed


def _json_list(text: str) -> list[str] | None:
    """The JSON form: only if all of ``text`` is a list of strings; anything else is a shell line."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _words(text: str) -> list[str]:
    if not text:
        raise ValueError("it needs an argument")
    return shlex.split(text)


def _command(key: str) -> Callable[[Config, str], None]:
    def change(config: Config, text: str) -> None:
        value = _json_list(text)
        config[key] = value if value is not None else [*(config.get("Shell") or _SHELL), text]

    return change


def _text(key: str) -> Callable[[Config, str], None]:
    def change(config: Config, text: str) -> None:
        if not text:
            raise ValueError("it needs an argument")
        config[key] = text

    return change


def _pairs(text: str) -> list[tuple[str, str]]:
    if not _has_equals(text):
        key, _, value = text.partition(" ")
        if not value:
            raise ValueError("it needs key=value")
        return [(key, value.strip())]
    pairs = [word.partition("=") for word in _words(text)]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise ValueError("every word must be key=value")
    return [(key, value) for key, _, value in pairs]


def _has_equals(text: str) -> bool:
    """Whether the first word has one; in the old form, ``ENV key it's anything``, quotes mean nothing."""
    try:
        return "=" in next(iter(shlex.split(text)), "")
    except ValueError:
        return "=" in text.partition(" ")[0]


def _env(config: Config, text: str) -> None:
    variables: list[str] = config.setdefault("Env", [])
    for key, value in _pairs(text):
        variables[:] = [item for item in variables if item.partition("=")[0] != key] + [f"{key}={value}"]


def _label(config: Config, text: str) -> None:
    config.setdefault("Labels", {}).update(_pairs(text))


def _expose(config: Config, text: str) -> None:
    for word in _words(text):
        match = _PORT.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not match or not 0 < first <= last < 65536:
            raise ValueError(f"{word!r} is not a port, such as 80 or 53/udp")
        for port in range(first, last + 1):
            config.setdefault("ExposedPorts", {})[f"{port}/{(match[3] or 'tcp').lower()}"] = {}


def _volume(config: Config, text: str) -> None:
    listed = _json_list(text)
    for path in listed if listed is not None else _words(text):
        if not path:
            raise ValueError("a volume needs a path")
        config.setdefault("Volumes", {})[path] = {}


def _workdir(config: Config, text: str) -> None:
    if not text:
        raise ValueError("it needs a path")
    current = config.get("WorkingDir") or "/"
    config["WorkingDir"] = text if text.startswith("/") else f"{current.rstrip('/')}/{text}"


def _onbuild(config: Config, text: str) -> None:
    if not text:
        raise ValueError("it needs an instruction")
    config.setdefault("OnBuild", []).append(text)


def _shell(config: Config, text: str) -> None:
    value = _json_list(text)
    if not value:
        raise ValueError("it must be a JSON list")
    config["Shell"] = value


def _nanoseconds(text: str) -> int:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 30s or 1m30s")
    return sum(int(float(number) * _UNITS[unit]) for number, unit in parts)


_HEALTH_OPTIONS: dict[str, tuple[str, Callable[[str], int]]] = {
    "--interval": ("Interval", _nanoseconds),
    "--timeout": ("Timeout", _nanoseconds),
    "--start-period": ("StartPeriod", _nanoseconds),
    "--start-interval": ("StartInterval", _nanoseconds),
    "--retries": ("Retries", int),
}


def _healthcheck(config: Config, text: str) -> None:
    check: Config = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option.partition("=")
        if name not in _HEALTH_OPTIONS:
            raise ValueError(f"unknown option {name}")
        key, convert = _HEALTH_OPTIONS[name]
        check[key] = convert(value)
        text = text.lstrip()
    kind, _, command = text.partition(" ")
    if kind.upper() == "NONE" and not command:
        config["Healthcheck"] = {"Test": ["NONE"]}
        return
    if kind.upper() != "CMD" or not command.strip():
        raise ValueError("it must be NONE or CMD and a command")
    listed = _json_list(command.strip())
    check["Test"] = ["CMD", *listed] if listed is not None else ["CMD-SHELL", command.strip()]
    config["Healthcheck"] = check


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _command("Cmd"),
    "ENTRYPOINT": _command("Entrypoint"),
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _text("StopSignal"),
    "USER": _text("User"),
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
