"""A plan as numbered sentences, for a person who wants to know what a container is."""

from __future__ import annotations

import re
import textwrap

from coracle.explain.order import HEADINGS, in_order

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from coracle.step import Plan, Step

# Kinds of steps that come in long runs and say the same each time but for one word.
_FOLDED = ("Mask", "MakeDevice", "ReadonlyPath", "SetCgroup", "Sysctl")
_FOLD_FROM = 3
_LONG_NUMBER = re.compile(r"\b[0-9a-f]{64}\b")
_INDENT = 7  # "  47. "


def prose(plan: Plan, reason: Callable[[str], str] = str, width: int = 0) -> str:
    """Numbered sentences, grouped by where they happen, each with its cause in brackets.

    ``reason`` turns a step's cause into the user's own words; ``width`` is where lines are wrapped,
    0 for not at all.  The numbers are the positions in the JSON document.
    """
    lines: list[str] = []
    place = ""
    for number, steps in _folded(in_order(plan), reason):
        if steps[0].place != place:
            place = steps[0].place
            lines += ["", HEADINGS[place]]
        lines += _item(number, steps, reason, width)
    return "\n".join(lines[1:]) + "\n"


def _folded(steps: list[Step], reason: Callable[[str], str]) -> Iterator[tuple[int, list[Step]]]:
    """Runs of steps that are told in one sentence, with the number of the first."""
    start = 0
    while start < len(steps):
        end = start + 1
        while end < len(steps) and _alike(steps[start], steps[end], reason):
            end += 1
        if end - start < _FOLD_FROM:
            end = start + 1
        yield start + 1, steps[start:end]
        start = end


def _alike(one: Step, other: Step, reason: Callable[[str], str]) -> bool:
    if type(one) is not type(other) or one.place != other.place or type(one).__name__ not in _FOLDED:
        return False
    same_file = one.fields().get("file") == other.fields().get("file")
    return same_file and reason(one.cause) == reason(other.cause)


def _item(number: int, steps: list[Step], reason: Callable[[str], str], width: int) -> list[str]:
    label = f"{number:4}. "
    if len(steps) > 1:
        label = f"{number:4}-{number + len(steps) - 1}. "
    text = f"{label}{short(_sentence([step.prose() for step in steps]))}  [{short(reason(steps[0].cause))}]"
    if not width:
        return [text]
    indent = " " * _INDENT
    return textwrap.wrap(
        text, max(width, 40), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True, expand_tabs=False, replace_whitespace=False,
    )  # fmt: skip


def _sentence(sentences: list[str]) -> str:
    """One sentence for several that differ in a few words: "mask a", "mask b" become "mask a, b"."""
    if len(set(sentences)) == 1:
        return sentences[0]
    split = [sentence.split(" ") for sentence in sentences]
    front = _common(split)
    back = _common([words[front:][::-1] for words in split])
    middles = [" ".join(words[front : len(words) - back]) for words in split]
    return " ".join([*split[0][:front], ", ".join(middles), *split[0][len(split[0]) - back :]])


def _common(lists: list[list[str]]) -> int:
    """How many words all ``lists`` begin with."""
    return next((n for n, words in enumerate(zip(*lists, strict=False)) if len(set(words)) > 1), min(map(len, lists)))


def short(text: str) -> str:
    """``text`` with ids and digests of 64 digits cut to the twelve that are shown elsewhere."""
    return _LONG_NUMBER.sub(lambda match: match[0][:12], text)
