"""``coracle explain``: the plan of a command, printed instead of done."""

from __future__ import annotations

import sys

from coracle import explain as views
from coracle.cli.main import complain
from coracle.engine.options import VALUE, Option, Table, parse
from coracle.errors import UsageError
from coracle.linux.shell import command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from coracle.engine.draft import Draft
    from coracle.step import Plan

USAGE = "coracle explain [--as prose|shell|json] COMMAND [OPTIONS] ..."
FORMS = ("prose", "shell", "json")


def _form(text: str) -> str:
    if text not in FORMS:
        raise ValueError("prose, shell or json")
    return text


TABLE = Table(
    (("Options", (Option("as", "", VALUE, _form, "prose", "form", "How to print the plan: prose, shell or json"),)),)
)


def explain(argv: list[str]) -> int:
    """Print the very plan that the command after the options would carry out."""
    if argv[:1] in (["--help"], ["-h"]):
        from coracle.engine.options.help import help_text

        print(help_text(TABLE, USAGE, "Print the plan that a command would carry out, and do nothing"), end="")
        return 0
    options, rest = parse(TABLE, argv)
    if not rest or rest[0] != "run":
        raise UsageError("explain needs a command to explain", "coracle explain run IMAGE COMMAND")
    made, plan, how = _plan_of_run(rest[1:])
    if getattr(options, "as") == "json":
        text = views.as_json(plan)
    elif getattr(options, "as") == "shell":
        text = views.shell(plan, "coracle " + command(*rest), {"ID": made.identifier}, how)
    else:
        text = views.prose(plan, _reasons(made), _width())
    sys.stdout.write(text)
    return 0


def _plan_of_run(argv: list[str]) -> tuple[Draft, Plan, str]:
    """The draft, its plan, and how to carry it out by hand."""
    from coracle.engine.draft import draft
    from coracle.engine.run import complete, enter_namespace
    from coracle.paths import Paths

    paths = Paths()
    maps = enter_namespace()
    made = draft(argv, paths, lambda text: complain(f"warning: {text}"), maps)
    own = "in a user namespace of your own: unshare --user --map-root-user --map-auto sh FILE"
    return made, complete(made, paths), own if maps is not None else "as root"


def _reasons(made: Draft) -> Callable[[str], str]:
    """From a step's cause to the words of the command line."""
    from coracle.engine.container_spec.causes import causes, reason

    known = causes(made.options, made.config)
    known.setdefault("process.args", "the command line" if made.arguments else f"image {made.image}")
    return lambda cause: reason(cause, known, made.options)


def _width() -> int:
    """Columns of the terminal; 0, for no limit, where the text goes elsewhere."""
    if not sys.stdout.isatty():
        return 0
    from shutil import get_terminal_size

    return get_terminal_size().columns
