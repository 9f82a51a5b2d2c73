"""A table of options, and the parser that reads an argument vector by it.

The grammar is POSIX.1-2017 12.2 with GNU long options, as docker(1) reads it: ``--name value``,
``--name=value``, clusters of short flags (``-it``), a value glued to its short option
(``-m64m``, ``-eA=b``), ``--flag=false``, ``--`` ends the options.  ``argparse`` would cost
10 ms on the start path of every container.
"""

from __future__ import annotations

from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

FLAG = "flag"  # takes no value, but --flag=false is understood
VALUE = "value"  # the last use wins
LIST = "list"  # every use adds one element
SPLIT = "split"  # every use adds elements separated by commas
MAP = "map"  # every use adds one key; its converter returns (key, value)
REFUSED = "refused"  # known to docker or podman; ``help`` completes "--name ..." to the reason why not

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def boolean(text: str) -> bool:
    """A truth value in the spellings that docker's flags accept (Go's strconv.ParseBool)."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


class Option:
    """One row of a table.

    ``convert`` turns the text into the value that is stored in ``field``; it raises
    ``ValueError`` with the words that complete "expected ...", or a ready UsageError.
    ``metavar`` names the value in the help and in the complaint about a missing one.
    """

    __slots__ = ("convert", "default", "field", "help", "kind", "metavar", "name", "short")

    def __init__(
        self,
        name: str,
        short: str,
        kind: str,
        convert: Callable[[str], Any],
        default: Any,
        metavar: str,
        help: str,
        field: str = "",
    ) -> None:
        self.name = name
        self.short = short
        self.kind = kind
        self.convert = convert
        self.default = default
        self.metavar = metavar
        self.help = help
        self.field = field or name.replace("-", "_")


class Options:
    """What an argument vector asked for, one attribute per field of the table.

    ``given`` keeps the user's own words for each field that was given: ``{"memory": ["-m 64m"]}``.
    """

    given: dict[str, list[str]]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Table:
    """Options in groups, in the order of the help page, with the class that holds their values."""

    __slots__ = ("aliases", "factory", "groups", "long", "short")

    def __init__(
        self,
        groups: Sequence[tuple[str, Sequence[Option]]],
        aliases: dict[str, str] | None = None,
        factory: type[Any] = Options,
    ) -> None:
        """``aliases`` maps other long names to the names of options; the help does not show them."""
        self.groups = groups
        self.aliases = aliases or {}
        self.factory = factory
        self.long = {option.name: option for _, group in groups for option in group}
        self.short = {option.short: option for option in self.long.values() if option.short}

    def defaults(self) -> Any:
        """A fresh ``factory`` object as if nothing had been given: for front doors without a command line."""
        options = self.factory()
        options.given = {}
        for option in self.long.values():
            default = option.default
            if option.kind != REFUSED:
                setattr(options, option.field, default.copy() if isinstance(default, (list, dict)) else default)
        return options

    def find(self, name: str) -> Option:
        """The option ``--name``.  :raises UsageError: with the nearest name that exists, or the reason of a refusal."""
        option = self.long.get(self.aliases.get(name, name))
        if option is None:
            raise UsageError(f"unknown option --{name}", self.suggestion(name))
        return self._usable(option, f"--{name}")

    def find_short(self, letter: str, argument: str) -> Option:
        """The option ``-letter``, which stands in ``argument``.  :raises UsageError:"""
        option = self.short.get(letter)
        if option is None:
            place = f" in {argument}" if len(argument) > 2 else ""
            raise UsageError(f"unknown option -{letter}{place}", self.suggestion(argument.lstrip("-")))
        return self._usable(option, f"-{letter}, --{option.name}")

    def suggestion(self, name: str) -> str:
        """ "did you mean --memory?" for a misspelt name, or nothing when no name is near."""
        from difflib import get_close_matches  # costs 10 ms, and only a mistake pays for it

        names = [option.name for option in self.long.values() if option.kind != REFUSED]
        nearest = get_close_matches(name, [*names, *self.aliases], 1, 0.6)
        return f"did you mean --{nearest[0]}?" if nearest else ""

    @staticmethod
    def _usable(option: Option, spelling: str) -> Option:
        if option.kind == REFUSED:
            raise UsageError(f"{spelling} {option.help}")
        return option


def parse(table: Table, argv: Sequence[str], interspersed: bool = False) -> tuple[Any, list[str]]:
    """Read ``argv`` (without the command's own name) into a ``table.factory`` object and the positional arguments.

    Options stop at the first positional argument, which for ``run`` is the image: what follows
    belongs to the container.  ``interspersed`` lets them follow positional arguments, as for ``ps``.

    :raises UsageError: naming the option, the value, and what would be right.
    """
    options = table.defaults()
    positional: list[str] = []
    rest = list(reversed(argv))
    while rest:
        argument = rest.pop()
        if argument == "--":
            break
        if argument.startswith("--"):
            _read_long(table, options, argument, rest)
        elif argument.startswith("-") and len(argument) > 1:
            _read_short(table, options, argument, rest)
        else:
            positional.append(argument)
            if not interspersed:
                break
    positional.extend(reversed(rest))
    return options, positional


def _read_long(table: Table, options: Any, argument: str, rest: list[str]) -> None:
    name, equals, text = argument[2:].partition("=")
    option = table.find(name)
    if option.kind == FLAG:
        text = text if equals else "true"
    elif not equals:
        text = _next(option, f"--{name}", rest)
    _store(options, option, f"--{name}", text, f"--{name} {text}" if option.kind != FLAG or equals else f"--{name}")


def _read_short(table: Table, options: Any, argument: str, rest: list[str]) -> None:
    letters = argument[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = table.find_short(letter, argument)
        if option.kind == FLAG and not letters.startswith("="):
            _store(options, option, f"-{letter}", "true", f"-{letter}")
            continue
        text = letters.removeprefix("=") if letters else _next(option, f"-{letter}", rest)
        _store(options, option, f"-{letter}", text, f"-{letter} {text}")
        return


def _next(option: Option, spelling: str, rest: list[str]) -> str:
    if not rest:
        raise UsageError(f"option {spelling} needs a value", f"{spelling} {option.metavar.upper()}: {option.help}")
    return rest.pop()


def _store(options: Any, option: Option, spelling: str, text: str, words: str) -> None:
    pieces = text.split(",") if option.kind == SPLIT else [text]
    try:
        values = [option.convert(piece) for piece in pieces]
    except ValueError as error:
        raise UsageError(f"invalid value {text!r} for {spelling}: expected {error}") from None
    options.given.setdefault(option.field, []).append(words)
    if option.kind == MAP:
        getattr(options, option.field).update(values)
    elif option.kind in (LIST, SPLIT):
        getattr(options, option.field).extend(values)
    else:
        setattr(options, option.field, values[0])
