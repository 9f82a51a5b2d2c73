"""The order in which a plan's steps happen, and what the places are called."""

from __future__ import annotations

from coracle.step import CHILD, ENTER, HOST, INIT, JOIN, PARENT, READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.step import Plan, Step

HEADINGS = {
    HOST: "On the host, before there is a new process",
    JOIN: "In the new process: enter its control group and its namespaces",
    PARENT: "On the host: what only the outside can do for the new process",
    CHILD: "In the new process, which still sees the host: put its file system together",
    READY: "On the host: now that all mounts are there",
    ENTER: "In the new process: hide, set, and go where the host is out of reach",
    INIT: "In the last moments: give up rights and become the program",
}


def in_order(plan: Plan) -> list[Step]:
    """All steps, in the order in which they are done; it is their place first that decides."""
    return [step for place in HEADINGS for step in plan.at(place)]
