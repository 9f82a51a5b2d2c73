"""Shapes of JSON values: the vocabulary that the table of config.json is written in.

A shape's ``check`` returns nothing or raises a :class:`Fault`.  The JSON path of a fault is put
together while it travels up, so a correct document pays nothing for it.  Property values that are
null count as absent, as in Go's encoding/json, which wrote most configs; ``check`` removes them
from the document, so that its readers need not know.  Unknown properties are ignored
(runtime-spec config.md, "Extensibility").
"""

from __future__ import annotations

from coracle.errors import SpecError
from coracle.record import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any

    # What a value must be, or nothing: such as 'must be an absolute path, is "tmp"'.
    Constraint = Callable[[str], str]

_NAMES = {
    dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean",
    type(None): "null",
}  # fmt: skip


class Fault(Exception):
    """One wrong value: ``problem``, ``hint`` and, innermost first, the steps of the ``path`` to it."""

    def __init__(self, problem: str, hint: str = "", *path: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.path = list(path)

    def located(self, where: str = "") -> SpecError:
        """The same as an error for people, at its JSON path below ``where``."""
        return SpecError((where + "".join(reversed(self.path))).lstrip("."), self.problem, self.hint)


def shown(value: Any) -> str:
    """``value`` as JSON for a message of one line, cut where it gets long."""
    text = dumps(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def wrong_type(wanted: str, value: Any) -> Fault:
    """The fault "must be a string, is a number"."""
    return Fault(f"must be {wanted}, is {_NAMES[type(value)]}")


class Shape:
    """Anything that can check a JSON value."""

    __slots__ = ()

    def check(self, value: Any) -> None:
        """:raises Fault: if ``value`` does not have this shape."""
        raise NotImplementedError


class Boolean(Shape):
    __slots__ = ()

    def check(self, value: Any) -> None:
        if type(value) is not bool:
            raise wrong_type("a boolean", value)


class Number(Shape):
    """A whole number within bounds, both included."""

    __slots__ = ("high", "low")

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    def check(self, value: Any) -> None:
        if type(value) is not int:
            if type(value) is float:
                raise Fault(f"must be a whole number, is {value}")
            raise wrong_type("a number", value)
        if not self.low <= value <= self.high:
            raise Fault(f"must be between {self.low} and {self.high}, is {value}")


class Text(Shape):
    """A string that can be handed to the kernel, so without NUL, and that satisfies ``constraint``."""

    __slots__ = ("constraint",)

    def __init__(self, constraint: Constraint | None = None) -> None:
        self.constraint = constraint

    def check(self, value: Any) -> None:
        if type(value) is not str:
            raise wrong_type("a string", value)
        if "\0" in value:
            raise Fault("must not contain a NUL character")
        if self.constraint and (problem := self.constraint(value)):
            raise Fault(problem)


class Word(Shape):
    """A string out of ``words``; ``what`` is what they name."""

    __slots__ = ("what", "words")

    def __init__(self, what: str, words: Collection[str]) -> None:
        self.what = what
        self.words = frozenset(words)

    def check(self, value: Any) -> None:
        if type(value) is not str:
            raise wrong_type("a string", value)
        if value not in self.words:
            few = len(self.words) <= 12
            raise Fault(f"unknown {self.what} {shown(value)}", f"one of {', '.join(sorted(self.words))}" if few else "")


class Items(Shape):
    """An array of one shape."""

    __slots__ = ("item",)

    def __init__(self, item: Shape) -> None:
        self.item = item

    def check(self, value: Any) -> None:
        if type(value) is not list:
            raise wrong_type("an array", value)
        check = self.item.check
        for index, item in enumerate(value):
            try:
                check(item)
            except Fault as fault:
                fault.path.append(f"[{index}]")
                raise


class Texts(Items):
    """An array of strings.  The common case, all well, is decided in two calls."""

    __slots__ = ("minimum",)

    def __init__(self, constraint: Constraint | None = None, minimum: int = 0) -> None:
        super().__init__(Text(constraint))
        self.minimum = minimum

    def check(self, value: Any) -> None:
        if type(value) is not list:
            raise wrong_type("an array", value)
        if len(value) < self.minimum:
            raise Fault("must have at least one entry")
        try:
            if "\0" not in "".join(value) and not self.item.constraint:  # type: ignore[attr-defined]
                return
        except TypeError:  # not all are strings: the slow way finds out which
            pass
        super().check(value)


class Words(Items):
    """An array of strings out of ``words``."""

    __slots__ = ("words",)

    def __init__(self, what: str, words: Collection[str]) -> None:
        super().__init__(Word(what, words))
        self.words = frozenset(words)

    def check(self, value: Any) -> None:
        try:
            if type(value) is list and self.words.issuperset(value):
                return
        except TypeError:  # an object or array in it
            pass
        super().check(value)


class Map(Shape):
    """An object with free keys that satisfy ``key``, whose values all have one shape."""

    __slots__ = ("item", "key")

    def __init__(self, item: Shape, key: Constraint | None = None) -> None:
        self.item = item
        self.key = key

    def check(self, value: Any) -> None:
        if type(value) is not dict:
            raise wrong_type("an object", value)
        for key, item in value.items():
            problem = self.key(key) if self.key else ""
            try:
                if problem:
                    raise Fault(problem)
                self.item.check(item)
            except Fault as fault:
                fault.path.append(f"[{dumps(key)}]")
                raise


class Object(Shape):
    """An object: the shape of each known property by name, and which of them must be there."""

    __slots__ = ("properties", "required")

    def __init__(self, properties: Mapping[str, Shape], required: tuple[str, ...] = ()) -> None:
        self.properties = properties
        self.required = required

    def check(self, value: Any) -> None:
        if type(value) is not dict:
            raise wrong_type("an object", value)
        absent = []
        for name, item in value.items():
            shape = self.properties.get(name)
            if shape is None:
                continue
            if item is None:
                absent.append(name)
                continue
            try:
                shape.check(item)
            except Fault as fault:
                fault.path.append(f".{name}")
                raise
        for name in absent:
            del value[name]
        for name in self.required:
            if name not in value:
                raise Fault("is required", "", f".{name}")
