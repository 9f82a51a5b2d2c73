"""A plan as prose, as a shell script that does the same, or as JSON.

Nothing here knows a single step: each says for itself what it does.  The script runs as root on
the tools of util-linux, iproute2 and libcap2-bin (capsh), so that anybody can read, change and try it.
"""

from __future__ import annotations

from coracle.linux.namespace import NAMESPACES
from coracle.linux.shell import command, quote
from coracle.record import dumps
from coracle.step import CHILD, ENTER, HOST, INIT, JOIN, PARENT, READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.step import Plan, Step

_HEADINGS = {
    HOST: "On the host",
    JOIN: "In the new process, before it has namespaces of its own to fill",
    PARENT: "On the host, about the new process",
    CHILD: "In the new process: build its world",
    READY: "On the host, when all mounts are there",
    ENTER: "In the new process: enter its world",
    INIT: "In the last moments before the program, as raw system calls",
}


def prose(plan: Plan) -> str:
    """Numbered sentences, grouped by where they happen, each with its cause."""
    lines: list[str] = []
    place = ""
    for number, step in enumerate(_in_order(plan), 1):
        if step.place != place:
            place = step.place
            lines += ["", f"{_HEADINGS[place]}:"]
        lines.append(f"{number:4}. {step.prose()}  [{step.cause}]")
    return "\n".join(lines[1:]) + "\n"


def _in_order(plan: Plan) -> list[Step]:
    return [step for place in _HEADINGS for step in plan.at(place)]


def as_json(plan: Plan) -> str:
    """A document with one object a step: place, step, cause, prose, shell lines, and its own fields."""
    steps: list[dict[str, Any]] = [
        {
            "place": step.place,
            "step": type(step).__name__,
            "cause": step.cause,
            "prose": step.prose(),
            "shell": step.shell(),
            "fields": {name: plain(value) for name, value in step.fields().items()},
        }
        for step in _in_order(plan)
    ]
    return dumps({"explainVersion": 1, "steps": steps}, 2) + "\n"


def plain(value: Any) -> Any:
    """``value`` as JSON data; objects of our own show their text."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return repr(value)


def shell(plan: Plan, title: str = "") -> str:
    """A script for /bin/sh that makes the same container and becomes its program."""
    lines = ["#!/bin/sh", f"# {title or 'a container, step by step'}", "# Run as root.", "set -eu", ""]
    lines += _commented(plan.at(HOST))
    lines += _commented(plan.at(JOIN))
    lines += ["", "# New namespaces; the rest runs inside, with this script's own standard files.", *_unshare(plan), ""]
    lines += _commented([*plan.at(CHILD), *plan.at(READY), *plan.at(ENTER)])
    lines += _finale(plan)
    return "\n".join([*lines, "INSIDE", ""])


def _commented(steps: list[Step]) -> list[str]:
    lines: list[str] = []
    for step in steps:
        if body := step.shell():
            lines += [f"# {step.prose()} [{step.cause}]", *body]
    return lines


def _unshare(plan: Plan) -> list[str]:
    """nsenter(1) for what exists, unshare(1) for what is new, and a shell that reads the rest of the script."""
    joined: list[str] = []
    options: list[str] = []
    for step in [*plan.at(JOIN), *plan.at(PARENT), *plan.at(CHILD)]:
        name, fields = type(step).__name__, step.fields()
        if name == "JoinNamespace":
            joined.append(f"{NAMESPACES[fields['kind']][2]}={fields['path']}")
        elif name == "NewNamespaces":
            options += [NAMESPACES[kind][2] for kind in fields["kinds"]]
        elif name == "NewCgroupNamespace":
            options.append("--cgroup")
        elif name == "TimeOffsets":
            options += ["--time", *(f"--{clock}={offset[0]}" for clock, offset in fields["offsets"].items())]
        elif name == "WriteIdMaps":
            options += [f"--map-users={m.outside},{m.inside},{m.size}" for m in fields["uids"]]
            options += [f"--map-groups={m.outside},{m.inside},{m.size}" for m in fields["gids"]]
            options.append("--setuid=0 --setgid=0")
    enter = [command("nsenter", *joined) + " \\"] if joined else []
    fork = ["--fork", "--kill-child"] if "--pid" in options or "--time" in options else []
    line = f"exec unshare {' '.join(['--propagation=unchanged', *options, *fork])} /bin/sh -eu /dev/fd/3 3<<'INSIDE'"
    if enter:
        return [f"exec {enter[0]}", "  " + line.removeprefix("exec ")]
    return [line]


def _finale(plan: Plan) -> list[str]:
    """What the launcher does: plain lines first, then one capsh(1) that changes root, drops rights and executes."""
    steps = plan.at(INIT)
    lines, arguments = [], []
    for step in steps:
        body = step.shell()
        plain_lines = [line for line in body if not line.startswith("--")]
        arguments += [line for line in body if line.startswith("--")]
        if plain_lines:
            lines += [f"# {step.prose()} [{step.cause}]", *plain_lines]
    last = steps[-1]
    fields = last.fields()
    if "arguments" not in fields:
        return lines
    environment, cwd, program = fields["environment"], fields["cwd"], fields["arguments"]
    # Bounding set first, while CAP_SETPCAP is there; ids next to last; capabilities of the program last.
    order = ("--drop", "--inh", "--gid", "--groups", "--uid", "--addamb", "--no-new-privs")
    sorted_arguments = sorted(arguments, key=lambda word: order.index(word.partition("=")[0]))
    lines.append(f"# {last.prose()}: change root, drop rights and execute, in one process")
    run = f"exec env -i {command(*environment)} capsh --quiet --chroot=. {' '.join(map(quote, sorted_arguments))}"
    if cwd == "/":
        return [*lines, f"{run} --shell={quote(program[0])} -- {command(*program[1:])}".rstrip()]
    script = 'cd "$0" && exec "$@"'
    return [*lines, f"{run} --shell=/bin/sh -- -c {quote(script)} {command(cwd, *program)}"]
