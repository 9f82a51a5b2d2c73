"""Profiles in Docker's file format, for ``--security-opt seccomp=FILE``.

It is the spec's ``linux.seccomp`` with conditions: a rule may ask for or against capabilities, processors and a kernel
version (``includes``, ``excludes``), and ``archMap`` says which other ABIs come with a native one
(docs.docker.com/engine/security/seccomp; github.com/moby/profiles, seccomp).
"""

from __future__ import annotations

import os

from coracle import record
from coracle.errors import SpecError, UsageError
from coracle.linux.seccomp.profile import read_profile
from coracle.runtime.seccomp_profile import ARCHITECTURES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from coracle.runtime.seccomp_profile import Version

# Names of processors in Docker's "arches": Go's, or libseccomp's.
_DOCKER_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}
_PROFILE_KEYS = (
    "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags", "listenerPath",
    "listenerMetadata", "syscalls",
)  # fmt: skip
_RULE_KEYS = ("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes")
_CONDITION_KEYS = ("arches", "caps", "minKernel")


def load_profile(path: str, capabilities: Collection[str], machine: str, kernel_version: Version) -> dict[str, Any]:
    """The file ``path``, in Docker's profile format, as a ``linux.seccomp`` object; arguments as for default_profile.

    :raises UsageError: the file cannot be read.
    :raises ContentError: it is not JSON.
    :raises SpecError: it is not a profile.
    """
    try:
        document = record.load(path)
    except OSError as error:
        raise UsageError(f"cannot read the seccomp profile {path}: {os.strerror(error.errno or 0).lower()}") from None
    return expand_profile(document, path, capabilities, machine, kernel_version)


def expand_profile(
    document: Any, name: str, capabilities: Collection[str], machine: str, kernel_version: Version
) -> dict[str, Any]:
    """A parsed profile in Docker's format for one container: conditions decided, archMap resolved.

    Understands podman's ``defaultErrno`` and ``errno`` ("EPERM") too.  A profile without anything in it, which Docker
    takes for "no filter", is an error: ``seccomp=unconfined`` says that.

    :raises SpecError: naming ``name`` and the JSON path.
    """
    where = f"{name}: seccomp"
    _check_keys(document, _PROFILE_KEYS, where)
    if document.get("architectures") and document.get("archMap"):
        raise SpecError(f"{where}.archMap", "cannot be combined with architectures")
    entries = document.get("syscalls") or []
    if not isinstance(entries, list):
        raise SpecError(f"{where}.syscalls", "must be a list")
    rules = [_rule(entry, f"{where}.syscalls[{index}]") for index, entry in enumerate(entries)]
    profile = _copy(document, ("defaultAction", "flags", "listenerPath", "listenerMetadata"))
    profile |= _errno(document, "defaultErrnoRet", "defaultErrno", where)
    profile["architectures"] = document.get("architectures") or _sub_architectures(document, machine, where)
    # All of them, also those that will not apply, while their indices are those of the file.
    read_profile({**profile, "syscalls": rules}, where)
    facts = (_DOCKER_MACHINES.get(machine, machine), capabilities, kernel_version)
    profile["syscalls"] = [rule for rule, entry in zip(rules, entries, strict=True) if _applies(entry, *facts)]
    return profile


def _rule(entry: Any, where: str) -> dict[str, Any]:
    """One of the file's rules as the spec's, with its conditions checked but not decided."""
    _check_keys(entry, _RULE_KEYS, where)
    for key in ("includes", "excludes"):
        condition = entry.get(key) or {}
        _check_keys(condition, _CONDITION_KEYS, f"{where}.{key}")
        for names in ("arches", "caps"):
            _check_strings(condition.get(names), f"{where}.{key}.{names}")
        if condition.get("minKernel"):
            _version(condition["minKernel"], f"{where}.{key}.minKernel")
    rule = _copy(entry, ("names", "action", "args"))
    if entry.get("name"):
        if entry.get("names"):
            raise SpecError(f"{where}.name", "cannot be combined with names")
        rule["names"] = [entry["name"]]
    return rule | _errno(entry, "errnoRet", "errno", where)


def _applies(entry: dict[str, Any], processor: str, capabilities: Collection[str], kernel_version: Version) -> bool:
    """Whether all of "includes" and nothing of "excludes" is true here, as Docker decides it."""
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    required = (
        processor in (includes.get("arches") or [processor]),
        all(capability in capabilities for capability in includes.get("caps") or ()),
        kernel_version >= _version(includes.get("minKernel") or "0.0"),
    )
    forbidden = (
        processor in (excludes.get("arches") or ()),
        any(capability in capabilities for capability in excludes.get("caps") or ()),
        bool(excludes.get("minKernel")) and kernel_version >= _version(excludes["minKernel"]),
    )
    return all(required) and not any(forbidden)


def _sub_architectures(document: dict[str, Any], machine: str, where: str) -> list[str]:
    """The entry of archMap whose architecture is this machine's, with its subArchitectures."""
    native = ARCHITECTURES.get(machine, [""])[0]
    entries = document.get("archMap") or []
    if not isinstance(entries, list):
        raise SpecError(f"{where}.archMap", "must be a list")
    for index, entry in enumerate(entries):
        place = f"{where}.archMap[{index}]"
        _check_keys(entry, ("architecture", "subArchitectures"), place)
        _check_strings(entry.get("subArchitectures"), f"{place}.subArchitectures")
        if entry.get("architecture") == native:
            return [native, *(entry.get("subArchitectures") or ())]
    return []


def _errno(entry: dict[str, Any], number_key: str, name_key: str, where: str) -> dict[str, Any]:
    """The errno that ``entry`` asks for under the spec's key; podman's name goes before the number."""
    name = entry.get(name_key)
    if not name:
        return _copy(entry, (number_key,))
    import errno

    number = getattr(errno, name, None) if isinstance(name, str) and name.startswith("E") else None
    if number is None:
        raise SpecError(f"{where}.{name_key}", f"unknown errno {name!r}")
    return {number_key: number}


def _version(text: Any, where: str = "") -> Version:
    """ "4.8" as (4, 8)."""
    major, dot, minor = text.partition(".") if isinstance(text, str) else ("", "", "")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise SpecError(where, f"must be a kernel version such as '4.8', not {text!r}")
    return int(major), int(minor)


def _copy(source: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: source[key] for key in keys if source.get(key) is not None}


def _check_keys(value: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict):
        raise SpecError(where, "must be an object")
    if unknown := sorted(set(value).difference(known)):
        raise SpecError(f"{where}.{unknown[0]}", "is not a key of a seccomp profile")


def _check_strings(value: Any, where: str) -> None:
    if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        raise SpecError(where, "must be a list of strings")
