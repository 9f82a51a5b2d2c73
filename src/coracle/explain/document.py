"""A plan as a JSON document, for programs."""

from __future__ import annotations

from coracle.explain.order import in_order
from coracle.record import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.step import Plan, Step

VERSION = 1  # of the document; it changes when a key changes its meaning or goes


def as_json(plan: Plan) -> str:
    """``{"explainVersion": 1, "steps": [...]}`` with one object a step, in the order of their execution.

    Each has ``place``, ``step`` (its kind), ``cause`` (JSON path of the config, or an option), ``prose``,
    ``shell`` (lines of its own), ``shellWords`` (its share in lines that serve several steps) and
    ``fields``, its data.
    """
    return dumps({"explainVersion": VERSION, "steps": [_object(step) for step in in_order(plan)]}, 2) + "\n"


def _object(step: Step) -> dict[str, Any]:
    return {
        "place": step.place,
        "step": type(step).__name__,
        "cause": step.cause,
        "prose": step.prose(),
        "shell": step.shell(),
        "shellWords": step.shell_words(),
        "fields": {name: plain(value) for name, value in step.fields().items()},
    }


def plain(value: Any) -> Any:
    """``value`` as JSON data.  Objects show their fields if they tell them, or else their text."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value)]
    fields = getattr(value, "fields", None)
    return plain(fields()) if fields else str(value)
