"""Results as text."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

from coracle.engine.doctor.check import DEGRADED, MISSING, OK, Result

_MARKS = {OK: "ok", DEGRADED: "degraded", MISSING: "MISSING"}
_COLOURS = {OK: "32", DEGRADED: "33", MISSING: "31"}
_LEFT = 12


def render(results: Iterable[Result], width: int = 100, colour: bool = False, everything: bool = True) -> str:
    """The page of ``coracle doctor``: one line a check, and below it what it is for and what to type if it is not ok.

    ``everything`` False leaves out what is ok.  ``width`` is that of the terminal; commands are not broken.
    """
    lines: list[str] = []
    group = ""
    listed = list(results)
    for result in listed:
        if result.status == OK and not everything:
            continue
        if result.group != group:
            group = result.group
            lines += ["", f"{group}:"]
        lines += _entry(result, width, colour)
    return "\n".join([*lines, "", summary(listed), ""]).lstrip("\n")


def _entry(result: Result, width: int, colour: bool) -> list[str]:
    mark = _MARKS[result.status]
    painted = f"\x1b[{_COLOURS[result.status]}m{mark}\x1b[0m" if colour else mark
    text = wrap(f"{result.name}: {result.found}", max(width - _LEFT, 20)) or [result.name]
    lines = [f"  {painted}{' ' * (_LEFT - 2 - len(mark))}{text[0]}", *(f"{'':{_LEFT}}{line}" for line in text[1:])]
    if result.status != OK:
        lines += [f"{'':{_LEFT}}{line}" for line in wrap(f"for: {result.purpose}", max(width - _LEFT, 20))]
        lines.append(f"{'':{_LEFT}}fix: {result.fix}")
    return lines


def summary(results: Iterable[Result]) -> str:
    """One sentence: whether containers can run here."""
    count = dict.fromkeys(_MARKS, 0)
    for result in results:
        count[result.status] += 1
    if count[MISSING]:
        return f"containers cannot run here: {count[MISSING]} of {sum(count.values())} checks failed"
    if count[DEGRADED]:
        return f"containers can run; {count[DEGRADED]} of {sum(count.values())} checks found something missing"
    return f"containers can run; all {count[OK]} checks passed"
