"""The order in which a plan's steps happen, and what the places are called."""

from __future__ import annotations

from coracle.step import CHILD, ENTER, HOST, INIT, JOIN, PARENT, READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.step import Plan, Step

HEADINGS = {
    HOST: "On the host",
    JOIN: "In the new process, before it has namespaces of its own to fill",
    PARENT: "On the host, about the new process",
    CHILD: "In the new process: build its world",
    READY: "On the host, when all mounts are there",
    ENTER: "In the new process: enter its world",
    INIT: "In the last moments before the program, as raw system calls",
}


def in_order(plan: Plan) -> list[Step]:
    """All steps, in the order in which they are done; it is their place first that decides."""
    return [step for place in HEADINGS for step in plan.at(place)]
