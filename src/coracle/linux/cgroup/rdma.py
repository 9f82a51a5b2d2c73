"""The rdma controller, the same on both versions (cgroup-v1/rdma.rst; cgroup-v2.rst, RDMA)."""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.linux.cgroup.settings import Place, Setting, integer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_HINTS = {22: "no such RDMA device: see /sys/class/infiniband"}
_KEYS = (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))


def settings(section: Mapping[str, Any], place: Place, _controllers: Mapping[str, str]) -> list[Setting]:
    """One write to rdma.max for each device; a limit not given stays as it is."""
    result = []
    for device, limits in section.items():
        where = f"linux.resources.rdma.{device}"
        if not isinstance(limits, dict):
            raise SpecError(where, "is not an object")
        values = [(word, integer(limits, key, where, 0, (1 << 32) - 1)) for key, word in _KEYS]
        words = [f"{word}={value}" for word, value in values if value is not None]
        if not words or not device.isprintable() or " " in device:
            raise SpecError(where, "needs a device name, and hcaHandles or hcaObjects")
        result.append(Setting(place.hierarchy, "rdma.max", " ".join([device, *words]), where, hints=_HINTS))
    return result
