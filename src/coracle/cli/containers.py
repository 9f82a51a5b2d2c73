"""Commands on containers that exist: ps, logs, stop, kill, wait, rm."""

from __future__ import annotations

import os
import sys

from coracle.cli.main import complain
from coracle.cli.table import ago, columns, shorten
from coracle.engine import lifecycle
from coracle.engine.container import CREATED, DEAD, EXITED, PAUSED, RUNNING, Container, all_containers, find
from coracle.engine.options import FLAG, VALUE, Option, Table, parse, values
from coracle.engine.options.parser import boolean
from coracle.errors import CoracleError, NotFoundError, UsageError
from coracle.linux.shell import command
from coracle.linux.signals import signal_number
from coracle.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from coracle.engine.options import Options


def _flag(name: str, short: str, line: str) -> Option:
    return Option(name, short, FLAG, boolean, False, "", line)


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("a number of seconds, -1 for ever") from None


def _form(text: str) -> str:
    if text not in ("table", "json"):
        raise ValueError("table or json")
    return text


_HELP = _flag("help", "", "Print usage")
_TIME = Option("time", "t", VALUE, _seconds, None, "seconds", "Seconds to wait before killing", "timeout")
_SIGNAL = Option("signal", "s", VALUE, values.text, "", "signal", "Signal to send")
_TABLES = {
    "ps": (
        (
            _flag("all", "a", "Show all containers (default: those that run)"),
            _flag("quiet", "q", "Only show ids"),
            _flag("no-trunc", "", "Do not shorten anything"),
            Option("format", "", VALUE, _form, "table", "form", "table or json"),
        ),
        "coracle ps [OPTIONS]",
        "List containers",
    ),
    "logs": (
        (_flag("follow", "f", "Go on until the container ends"),),
        "coracle logs [OPTIONS] CONTAINER",
        "Show what a container wrote",
    ),
    "stop": ((_TIME, _SIGNAL), "coracle stop [OPTIONS] CONTAINER...", "Stop containers: signal, wait, kill"),
    "kill": ((_SIGNAL,), "coracle kill [OPTIONS] CONTAINER...", "Send a signal (default KILL) to containers"),
    "wait": ((), "coracle wait CONTAINER...", "Wait until containers end and print their exit codes"),
    "rm": (
        (
            _flag("force", "f", "Kill running containers first; missing ones are fine"),
            _flag("all", "a", "Remove all containers"),
        ),
        "coracle rm [OPTIONS] CONTAINER...",
        "Remove containers",
    ),
}


def _parse(name: str, argv: Sequence[str], least: int = 1) -> tuple[Options, list[str]] | None:
    """Options and arguments of the command ``name``; None if its help was printed.  :raises UsageError:"""
    options, usage, line = _TABLES[name]
    table = Table((("Options", (*options, _HELP)),))
    parsed, rest = parse(table, argv, interspersed=True)
    if parsed.help:
        from coracle.engine.options.help import help_text

        print(help_text(table, usage, line), end="")
        return None
    if len(rest) < least:
        raise UsageError(f"{name} needs the name or id of a container", usage)
    return parsed, rest


def _for_each(names: Sequence[str], verb: Callable[[Container], object]) -> int:
    """Do ``verb`` to each container and print its name as given; go on after an error, which counts."""
    code = 0
    paths = Paths()
    for name in names:
        try:
            verb(find(paths, name))
            print(name, flush=True)
        except CoracleError as error:
            complain(str(error))
            code = 1
    return code


def ps(argv: list[str]) -> int:
    """List containers."""
    parsed = _parse("ps", argv, 0)
    if parsed is None:
        return 0
    options, rest = parsed
    if rest:
        raise UsageError(f"ps takes no arguments, got {rest[0]}")
    paths = Paths()
    lifecycle.sweep(paths)
    rows = []
    for container in all_containers(paths):
        try:
            status = lifecycle.reconcile(container)
            if status != DEAD and (options.all or status in (RUNNING, PAUSED)):
                rows.append(_row(container, status))
        except NotFoundError:  # removed meanwhile
            continue
    if options.quiet:
        print("".join(f"{row['id'] if options.no_trunc else row['id'][:12]}\n" for row in rows), end="")
    elif options.format == "json":
        from coracle.record import dumps

        print(dumps(rows, 1))
    else:
        print(_ps_table(rows, options.no_trunc))
    return 0


def _row(container: Container, status: str) -> dict[str, Any]:
    record = container.record
    return {
        "id": container.identifier,
        "name": record["name"],
        "image": record["image"],
        "command": record["command"],
        "created": record["created"],
        "status": status,
        "description": _describe(container, status),
    }


def _describe(container: Container, status: str) -> str:
    """``Up 3 minutes``, ``Exited (0) 2 hours ago``, as docker says it."""
    if status in (RUNNING, PAUSED):
        process = container.process() or {}
        text = f"Up {ago(process.get('started_at', ''))}"
        if status == PAUSED:
            text += " (paused)"
        return text if container.is_monitored() else text + " (its monitor is gone)"
    if status == EXITED:
        ended = container.exit()
        return f"Exited ({ended['code']}) {ago(ended['finished'])} ago" if ended else "Exited"
    return "Created" if status == CREATED else "Dead"


def _ps_table(rows: list[dict[str, Any]], whole: bool) -> str:
    cells = []
    for row in rows:
        line = command(*row["command"])
        cells.append(
            [
                row["id"] if whole else row["id"][:12],
                row["image"],
                f'"{line if whole else shorten(line, 20)}"',
                f"{ago(row['created'])} ago",
                row["description"],
                row["name"],
            ]
        )
    return columns(["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"], cells)


def logs(argv: list[str]) -> int:
    """Show what a container wrote, standard output and error on the streams they came from."""
    parsed = _parse("logs", argv)
    if parsed is None:
        return 0
    options, rest = parsed
    container = find(Paths(), rest[0])
    from coracle.engine.logs import read_log

    for stream, text in read_log(container, options.follow):
        target = sys.stderr if stream == "stderr" else sys.stdout
        target.write(text)
        target.flush()
    return 0


def stop(argv: list[str]) -> int:
    """Stop containers."""
    parsed = _parse("stop", argv)
    if parsed is None:
        return 0
    options, rest = parsed
    signal = signal_number(options.signal) if options.signal else 0
    return _for_each(rest, lambda container: lifecycle.stop(container, options.timeout, signal))


def kill(argv: list[str]) -> int:
    """Signal containers."""
    parsed = _parse("kill", argv)
    if parsed is None:
        return 0
    options, rest = parsed
    signal = signal_number(options.signal or "KILL")
    return _for_each(rest, lambda container: lifecycle.kill(container, signal))


def wait(argv: list[str]) -> int:
    """Print the exit codes of containers as they end."""
    parsed = _parse("wait", argv)
    if parsed is None:
        return 0
    paths = Paths()
    for name in parsed[1]:
        print(lifecycle.wait(find(paths, name)), flush=True)
    return 0


def rm(argv: list[str]) -> int:
    """Remove containers."""
    parsed = _parse("rm", argv, 0)
    if parsed is None:
        return 0
    options, names = parsed
    if not names and not options.all:
        raise UsageError("rm needs the name or id of a container", _TABLES["rm"][1])
    if os.geteuid() != 0:
        from coracle.engine.rootless import enter

        paths = Paths()
        os.environ.update(CORACLE_ROOT=paths.root, CORACLE_RUN=paths.run)
        enter()  # files of the container's users belong to the namespace's root
    paths = Paths()
    lifecycle.sweep(paths)
    if options.all:
        names = [container.identifier for container in all_containers(paths)]
    if options.force:
        names = [name for name in names if _exists(paths, name)]
    return _for_each(names, lambda container: lifecycle.delete(container, options.force))


def _exists(paths: Paths, name: str) -> bool:
    try:
        find(paths, name)
    except NotFoundError:
        return False
    return True
