"""What ``coracle-oci`` prints for people: help, version, tables.  Not for the paths that must be fast."""

from __future__ import annotations

import subprocess
import sys

from coracle import __version__
from coracle.cli.oci_options import COMMANDS, GLOBAL, Command
from coracle.cli.oci_report import PROGRAM
from coracle.errors import CoracleError
from coracle.runtime.spec import OCI_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from coracle.cli.oci_options import Table

# Column titles of runc list, and where each comes from in a state
_LIST = (
    ("ID", "id"),
    ("PID", "pid"),
    ("STATUS", "status"),
    ("BUNDLE", "bundle"),
    ("CREATED", "created"),
    ("OWNER", "owner"),
)


def version() -> str:
    """In the lines of runc --version, which dockerd and podman take apart."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{PROGRAM} version {__version__}\nspec: {OCI_VERSION}\npython: {python}\n"


def main_help() -> str:
    commands = _columns((f"  {name}", command.summary) for name, command in COMMANDS.items())
    return (
        f"Usage: {PROGRAM} [OPTIONS] COMMAND [OPTIONS] ...\n\n"
        "Runs containers as the OCI runtime-spec describes them.\n\n"
        f"Commands:\n{commands}\nOptions:\n{_options(GLOBAL)}\n"
        f"'{PROGRAM} COMMAND --help' tells more about a command.\n"
    )


def command_help(name: str, command: Command) -> str:
    usage = " ".join(word for word in (PROGRAM, name, "[OPTIONS]", command.arguments) if word)
    summary = command.summary[0].upper() + command.summary[1:]
    return f"Usage: {usage}\n\n{summary}.\n\nOptions:\n{_options(command.options)}"


def _options(table: Table) -> str:
    rows = []
    for name, (short, argument, text) in table.items():
        value = f" {argument.removesuffix('...')}" if argument else ""
        repeated = "; may be repeated" if argument.endswith("...") else ""
        rows.append((f"  {f'-{short}, ' if short else '    '}--{name}{value}", text + repeated))
    return _columns(rows)


def _columns(rows: Iterable[tuple[str, str]]) -> str:
    rows = list(rows)
    width = max(len(left) for left, _ in rows if len(left) <= 34)
    indent = "\n" + " " * (width + 2)
    return "".join(f"{left.ljust(width)}{'  ' if len(left) <= width else indent}{text}\n" for left, text in rows)


def list_table(states: Sequence[dict[str, Any]]) -> str:
    """The table of runc list: cells are at least 12 wide and 3 apart."""
    rows = [[title for title, _ in _LIST]]
    rows += [[str(state.get(key, "")) for _, key in _LIST] for state in states]
    widths = [max(12, *(len(row[place]) + 3 for row in rows)) for place in range(len(_LIST))]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def process_table(pids: Sequence[int], arguments: Sequence[str]) -> str:
    """What ps(1) says about ``pids``, as in runc ps.

    Without a ps command, the pids alone, as in crun ps.
    :raises CoracleError: if ps fails or prints no PID column.
    """
    try:
        listing = subprocess.run(["ps", *(arguments or ["-ef"])], capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        return "".join(f"{pid}\n" for pid in ("PID", *pids))
    if listing.returncode:
        raise CoracleError(f"ps failed: {' '.join(listing.stderr.split()) or listing.returncode}")
    title, *lines = listing.stdout.splitlines() or [""]
    if "PID" not in title.split():
        raise CoracleError("ps prints no PID column", "choose options of ps(1) that do")
    place = title.split().index("PID")
    wanted = {str(pid) for pid in pids}
    return "".join(
        f"{line}\n" for line in [title, *(line for line in lines if wanted & set(line.split()[place : place + 1]))]
    )
