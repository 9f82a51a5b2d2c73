"""``coracle doctor``: what this kernel and this user can do."""

from __future__ import annotations

import os
import sys
from shutil import get_terminal_size

from coracle.engine import doctor as checks
from coracle.engine.options import FLAG, VALUE, Option, Table, parse, values
from coracle.engine.options.help import help_text
from coracle.engine.options.parser import boolean
from coracle.errors import UsageError
from coracle.paths import Paths

USAGE = "coracle doctor [OPTIONS]"
TABLE = Table(
    (
        (
            "Options",
            (
                Option("all", "a", FLAG, boolean, False, "", "Show what is well, too"),
                Option("format", "", VALUE, values.choice("text", "json"), "text", "form", "text or json"),
                Option("help", "", FLAG, boolean, False, "", "Print usage"),
            ),
        ),
    )
)


def doctor(argv: list[str]) -> int:
    """Examine this machine; exit code 1 if something that containers need is missing."""
    options, rest = parse(TABLE, argv, interspersed=True)
    if options.help:
        print(help_text(TABLE, USAGE, "Say what this kernel and user can do, and how to fix what is missing"), end="")
        return 0
    if rest:
        raise UsageError(f"doctor takes no arguments, got {rest[0]}")
    results = list(checks.examine(Paths()))
    if options.format == "json":
        from coracle.record import dumps

        print(dumps([result.fields() for result in results], 1))
    else:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(checks.render(results, get_terminal_size((100, 24)).columns, colour, options.all))
    return 1 if checks.worst(results) == checks.MISSING else 0
