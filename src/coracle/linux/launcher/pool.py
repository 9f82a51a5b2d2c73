"""Arguments that point to something, and the memory of the launcher that holds what they point to."""

from __future__ import annotations

import struct

from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeAlias

    Argument: TypeAlias = "int | bytes | Pointer | Vector | Struct | None"

MASK = 0xFFFF_FFFF_FFFF_FFFF


class Pointer:
    """Address of a copy of ``data``, aligned to 8 bytes."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class Vector:
    """Address of an array of pointers to NUL-terminated copies of ``items``, with NULL at its end: an argv."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[bytes]) -> None:
        self.items = items


class Struct:
    """Address of a C structure; ``form`` as in the struct module with native alignment, ``P`` for a pointer.

    ``Struct("HP", count, Pointer(program))`` is a struct sock_fprog.
    """

    __slots__ = ("fields", "form")

    def __init__(self, form: str, *fields: Argument) -> None:
        self.form = form
        self.fields = fields


class Pool:
    """Bytes that will lie at ``address``, which grow as arguments are placed and never move."""

    __slots__ = ("address", "data")

    def __init__(self, address: int, reserved: int) -> None:
        self.address = address
        self.data = bytearray(reserved)

    def place(self, value: Argument) -> int:
        """The 64 bits of an argument; what it points to is copied into the pool.

        :raises UsageError: for a NUL byte in a string.
        """
        placer = _PLACERS.get(type(value))
        return placer(self, value) if placer else value & MASK  # type: ignore[operator]  # a bool, an IntEnum

    def align(self) -> int:
        """Fill up to a multiple of 8 bytes; the address there."""
        self.data += bytes(-len(self.data) & 7)
        return self.address + len(self.data)

    def _place_int(self, value: int) -> int:
        return value & MASK

    def _place_nothing(self, _value: None) -> int:
        return 0

    def _place_string(self, value: bytes) -> int:
        if 0 in value:
            raise UsageError(f"a NUL byte in {value[:80]!r}")
        address = self.address + len(self.data)
        self.data += value
        self.data.append(0)
        return address

    def _place_bytes(self, data: bytes) -> int:
        address = self.align()
        self.data += data
        return address

    def _place_pointer(self, value: Pointer) -> int:
        return self._place_bytes(value.data)

    def _place_vector(self, value: Vector) -> int:
        items = value.items
        strings = b"\0".join(items) + b"\0" if items else b""
        if strings.count(0) != len(items):
            raise UsageError(f"a NUL byte in {next(item for item in items if 0 in item)[:80]!r}")
        address = self.address + len(self.data)
        self.data += strings
        addresses = []
        for item in items:
            addresses.append(address)
            address += len(item) + 1
        return self._place_bytes(struct.pack(f"<{len(items) + 1}Q", *addresses, 0))

    def _place_struct(self, value: Struct) -> int:
        fields = [field if isinstance(field, int) else self.place(field) for field in value.fields]
        return self._place_bytes(struct.pack(value.form, *fields))


_PLACERS: dict[type, Callable[[Pool, Any], int]] = {
    int: Pool._place_int,
    type(None): Pool._place_nothing,
    bytes: Pool._place_string,
    Pointer: Pool._place_pointer,
    Vector: Pool._place_vector,
    Struct: Pool._place_struct,
}
