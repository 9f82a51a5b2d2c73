"""The help page of a table of options, in the manner of docker's."""

from __future__ import annotations

from textwrap import wrap

from coracle.engine.options.parser import FLAG, LIST, MAP, REFUSED, SPLIT, Option, Table

_LONGEST_LEFT = 34


def _left(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    metavar = f" {option.metavar}" if option.kind != FLAG and option.metavar else ""
    return f"  {short}--{option.name}{metavar}"


def _right(option: Option) -> str:
    repeatable = " (repeatable)" if option.kind in (LIST, MAP, SPLIT) else ""
    shown = (option.kind == FLAG and option.default is True) or (isinstance(option.default, str) and option.default)
    default = f" (default {str(option.default).lower() if option.kind == FLAG else option.default})" if shown else ""
    return f"{option.help}{repeatable}{default}"


def help_text(table: Table, usage: str, description: str, width: int = 100) -> str:
    """The page for ``table``: usage line, description, and the options of each group in aligned columns.

    ``width`` is the number of columns of the terminal; no line is longer, except for very long names.
    """
    visible = [
        (title, [option for option in group if option.kind != REFUSED]) for title, group in table.groups if title
    ]
    lefts = [_left(option) for _, group in visible for option in group]
    column = min(max(map(len, lefts), default=0), _LONGEST_LEFT) + 2
    lines = [f"Usage:  {usage}", "", *wrap(description, width)]
    for title, group in visible:
        lines += ["", f"{title}:"]
        for option in group:
            lines += _row(_left(option), wrap(_right(option), max(width - column, 20)), column)
    return "\n".join(lines) + "\n"


def _row(left: str, right: list[str], column: int) -> list[str]:
    first = [] if len(left) < column - 1 else [left]
    head = "" if first else left
    rows = [f"{head if index == 0 else '':<{column}}{text}" for index, text in enumerate(right)]
    return first + rows
