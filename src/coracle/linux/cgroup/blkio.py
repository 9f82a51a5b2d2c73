"""The block I/O controller: blkio on version 1, io on version 2 (cgroup-v1/blkio-controller.rst; cgroup-v2.rst, IO)."""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.settings import WARN, Place, Setting, integer, required

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Entry = dict[str, Any]

_WHERE = "linux.resources.blockIO"
_EINVAL, _ENODEV, _EOPNOTSUPP = 22, 19, 95
_DEVICE_HINT = "major:minor must be a whole disk that exists, not a partition"
_THROTTLE_HINTS = {_ENODEV: _DEVICE_HINT, _EINVAL: _DEVICE_HINT}
_WEIGHT_HINTS = {
    _EINVAL: "weights go from 10 to 1000",
    _ENODEV: _DEVICE_HINT,
    _EOPNOTSUPP: "the disk's scheduler is not BFQ",
}

# key of blockIO → (file on version 1, key in io.max)
_THROTTLES = {
    "throttleReadBpsDevice": ("blkio.throttle.read_bps_device", "rbps"),
    "throttleWriteBpsDevice": ("blkio.throttle.write_bps_device", "wbps"),
    "throttleReadIOPSDevice": ("blkio.throttle.read_iops_device", "riops"),
    "throttleWriteIOPSDevice": ("blkio.throttle.write_iops_device", "wiops"),
}


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """Weights, which only warn where no scheduler honours them, and throttles, which must hold."""
    result = []
    weight = integer(section, "weight", _WHERE, 0, 1000)
    if weight:
        result.append(_weight(place, "weight", "", weight, f"{_WHERE}.weight"))
    leaf = integer(section, "leafWeight", _WHERE, 0, 1000)
    if leaf:
        result.append(_leaf(place, "leaf_weight", str(leaf), f"{_WHERE}.leafWeight"))
    for index, entry in enumerate(section.get("weightDevice") or ()):
        result += _device_weights(place, entry, f"{_WHERE}.weightDevice[{index}]")
    for key, (file, word) in _THROTTLES.items():
        for index, entry in enumerate(section.get(key) or ()):
            result.append(_throttle(place, entry, file, word, f"{_WHERE}.{key}[{index}]"))
    return result


def _device(entry: Entry, where: str) -> str:
    if not isinstance(entry, dict):
        raise SpecError(where, "is not an object")
    return f"{required(entry, 'major', where)}:{required(entry, 'minor', where)}"


def _throttle(place: Place, entry: Entry, file: str, word: str, where: str) -> Setting:
    device, rate = _device(entry, where), required(entry, "rate", where)
    if place.unified:
        value = f"{device} {word}={rate or 'max'}"  # 0 takes a limit away on version 1
        return Setting(place.hierarchy, "io.max", value, where, hints=_THROTTLE_HINTS)
    return Setting(place.hierarchy, file, f"{device} {rate}", where, hints=_THROTTLE_HINTS)


def _weight(place: Place, name: str, device: str, weight: int, cause: str) -> Setting:
    """CFQ's file (before 5.0) or BFQ's on version 1; on version 2 BFQ's, or the general one with its own scale."""
    front = f"{device} " if device else ""
    value = f"{front}{weight}"
    if place.unified:
        general = Setting(place.hierarchy, "io.weight", f"{front}{io_weight(weight)}", cause, WARN, hints=_WEIGHT_HINTS)
        return Setting(place.hierarchy, "io.bfq.weight", value, cause, WARN, general, hints=_WEIGHT_HINTS)
    bfq = Setting(place.hierarchy, f"blkio.bfq.{name}", value, cause, WARN, hints=_WEIGHT_HINTS)
    return Setting(place.hierarchy, f"blkio.{name}", value, cause, WARN, bfq, hints=_WEIGHT_HINTS)


def _leaf(place: Place, name: str, value: str, cause: str) -> Setting:
    """Leaf weights were CFQ's and went with it in Linux 5.0."""
    return Setting("" if place.unified else place.hierarchy, f"blkio.{name}", value, cause, WARN, hints=_WEIGHT_HINTS)


def _device_weights(place: Place, entry: Entry, where: str) -> list[Setting]:
    device = _device(entry, where)
    weight, leaf = (integer(entry, key, where, 0, 1000) for key in ("weight", "leafWeight"))
    if not weight and not leaf:
        raise SpecError(where, "needs weight or leafWeight")
    result = []
    if weight:
        result.append(_weight(place, "weight_device", device, weight, f"{where}.weight"))
    if leaf:
        result.append(_leaf(place, "leaf_weight_device", f"{device} {leaf}", f"{where}.leafWeight"))
    return result


def io_weight(weight: int) -> int:
    """io.weight (1-10000) for a blkio weight (10-1000), linearly, as runc and crun do."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


# Of version 1, the first that knows anything: BFQ, CFQ, then the throttling layer, which every kernel has.
_BYTES_AND_COUNTS = (
    ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"),
    ("blkio.io_service_bytes_recursive", "blkio.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
)
_IO_STAT = (("Read", "rbytes", "rios"), ("Write", "wbytes", "wios"), ("Discard", "dbytes", "dios"))


def statistics(directory: str, unified: bool) -> dict[str, Any]:
    """Bytes and requests by device and operation."""
    read = _unified_counters if unified else _legacy_counters
    sizes, counts = read(directory)
    return {"ioServiceBytesRecursive": sizes, "ioServicedRecursive": counts}


def _entry(device: str, operation: str, value: int) -> Entry:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": value}


def _unified_counters(directory: str) -> tuple[list[Entry], list[Entry]]:
    sizes, counts = [], []
    for device, values in files.nested(files.read_if_there(f"{directory}/io.stat")):
        if ":" in device:
            sizes += [_entry(device, name, files.number(values.get(size, "0"))) for name, size, _ in _IO_STAT]
            counts += [_entry(device, name, files.number(values.get(count, "0"))) for name, _, count in _IO_STAT]
    return sizes, counts


def _legacy_counters(directory: str) -> tuple[list[Entry], list[Entry]]:
    result: tuple[list[Entry], list[Entry]] = ([], [])
    for size_file, count_file in _BYTES_AND_COUNTS:
        result = _table(directory, size_file), _table(directory, count_file)
        if result[1]:
            break
    return result


def _table(directory: str, file: str) -> list[Entry]:
    rows = [line.split() for line in files.read_if_there(f"{directory}/{file}").splitlines()]
    return [_entry(row[0], row[1], int(row[2])) for row in rows if len(row) == 3]
