"""The resources of ``coracle-oci update``: from a file, or from options."""

from __future__ import annotations

import os

from coracle.errors import SpecError, UnsupportedError, UsageError
from coracle.record import loads
from coracle.runtime.spec import load_file, validate_resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]

# option → section and property of linux.resources
_NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "pids-limit": ("pids", "limit"),
}
_SIZES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_UNITS = "bkmgtp"


def update_resources(options: Record) -> Record:
    """A valid ``linux.resources`` object.  :raises UsageError: :raises SpecError:"""
    if file := options.get("resources"):
        resources = _from_input() if file == "-" else load_file(file)
    else:
        resources = _from_options(options)
    if not isinstance(resources, dict):
        raise SpecError("resources", "must be an object")
    validate_resources(resources)
    return resources


def _from_input() -> Any:
    chunks = []
    while chunk := os.read(0, 1 << 16):
        chunks.append(chunk)
    return loads(b"".join(chunks), "standard input")


def _from_options(options: Record) -> Record:
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if name in options:
            raise UnsupportedError(f"option --{name} is not supported: Intel RDT is set when a container is created")
    resources: Record = {}
    for table, convert in ((_NUMBERS, _number), (_SIZES, _size), (_TEXTS, _text)):
        for option, (section, name) in table.items():
            if option in options:
                resources.setdefault(section, {})[name] = convert(option, options[option])
    if not resources:
        raise UsageError("update needs an option that says what to change")
    return resources


def _text(_option: str, text: str) -> str:
    return text


def _number(option: str, text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise UsageError(f"option --{option} is a number, not {text!r}")
    return int(text)


def _size(option: str, text: str) -> int:
    """Bytes in 512, 512m, 512MB or 512MiB: units of 1024, as everywhere in this field; -1 is no limit."""
    if text == "-1":
        return -1
    lower = text.lower()
    number = lower.rstrip("bi" + _UNITS)
    unit = lower[len(number) :]
    letter = unit[:1] or "b"
    proper = number.isascii() and number.isdigit() and len(number) <= 19
    if not proper or unit not in ("", letter, f"{letter}b", f"{letter}ib") or unit in ("bb", "bib"):
        raise UsageError(f"option --{option} is a size such as 512m, or -1, not {text!r}")
    return int(number) << 10 * _UNITS.index(letter)
