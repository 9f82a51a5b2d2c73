"""config.json: read, checked against runtime-spec 1.3, and refused with the JSON path of what is wrong.

``shape`` is the vocabulary, ``table`` says what each property may be, ``relations`` what they
demand of each other; ``words`` are the closed lists, ``constraint`` the rules for single strings.
"""

from __future__ import annotations

from coracle.errors import ContentError, SpecError
from coracle.record import loads, read
from coracle.runtime.spec import relations
from coracle.runtime.spec.shape import Fault, shown
from coracle.runtime.spec.table import CONFIG, PROCESS, RESOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.runtime.spec.shape import Shape

    Record = dict[str, Any]

OCI_VERSION = "1.3.0"


def load(bundle: str, name: str = "config.json") -> Record:
    """The valid config of the bundle directory ``bundle``; ``name`` may be another file, relative to it.

    :raises SpecError: naming the JSON path of the first wrong value.
    :raises ContentError: if the file is not JSON at all.
    :raises OSError: if it cannot be read.
    """
    spec: Record = load_file(name if name.startswith("/") else f"{bundle}/{name}")
    validate(spec)
    return spec


def load_file(path: str) -> Any:
    """The JSON in ``path``, all of whose strings can be passed on to the kernel."""
    data = read(path)
    value = loads(data, path)
    if b"\\ud" in data or b"\\uD" in data:
        try:
            _check_surrogates(value, "")
        except RecursionError:
            raise ContentError(f"{path} is nested too deeply") from None
    return value


def _check_surrogates(value: Any, where: str) -> None:
    """Half a surrogate pair has no bytes, except those that stand for a byte that is not UTF-8 (PEP 383)."""
    if isinstance(value, str):
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise SpecError(where.lstrip(".") or "document", "must not contain half a surrogate pair") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_surrogates(key, f"{where}.{shown(key)}")
            _check_surrogates(item, f"{where}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_surrogates(item, f"{where}[{index}]")


def validate(spec: Record) -> None:
    """Check a whole config; known properties that are null are removed, as they mean absent.

    A config without ``process`` is valid: only ``start`` needs one (config.md, "Process").
    :raises SpecError: naming the JSON path of the first wrong value.
    """
    _check(CONFIG, spec, "")
    linux = spec.get("linux", {})
    namespaces = relations.namespaces_of(linux)
    if "process" in spec:
        relations.check_process(spec["process"])
    relations.check_names(spec, namespaces)
    relations.check_mounts(spec.get("mounts", ()), namespaces)
    relations.check_namespaces(linux, namespaces)
    relations.check_devices(linux.get("devices", ()))
    relations.check_resources(linux.get("resources", {}))
    if "seccomp" in linux:
        relations.check_seccomp(linux["seccomp"])
    if "sysctl" in linux:
        relations.check_sysctls(spec, namespaces)


def validate_process(process: Record, where: str = "process") -> None:
    """Check a ``process`` object alone, as ``exec`` gets it.  :raises SpecError:"""
    _check(PROCESS, process, where)
    relations.check_process(process, where)


def validate_resources(resources: Record, where: str = "resources") -> None:
    """Check a ``linux.resources`` object alone, as ``update`` gets it.  :raises SpecError:"""
    _check(RESOURCES, resources, where)
    relations.check_resources(resources, where)


def _check(shape: Shape, value: Any, where: str) -> None:
    try:
        shape.check(value)
    except Fault as fault:
        raise fault.located(where or ("" if fault.path else "config.json")) from None
