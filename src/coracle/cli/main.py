"""The command line ``coracle``: one table of commands, each a function in a module imported when it is used."""

from __future__ import annotations

import os
import sys

from coracle.errors import CoracleError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# command → (module below coracle.cli, function, one line for the help page)
COMMANDS = {
    "run": ("session", "run", "Create and start a container"),
    "exec": ("session", "exec_", "Run a command in a running container"),
    "ps": ("containers", "ps", "List containers"),
    "logs": ("containers", "logs", "Show what a container wrote"),
    "stop": ("containers", "stop", "Stop containers: signal, wait, kill"),
    "kill": ("containers", "kill", "Send a signal to containers"),
    "wait": ("containers", "wait", "Wait until containers end and print their exit codes"),
    "rm": ("containers", "rm", "Remove containers"),
    "images": ("images", "images", "List images"),
    "rmi": ("images", "rmi", "Remove images"),
    "tag": ("images", "tag", "Give an image another name"),
    "import": ("images", "import_", "Make an image from a root file system's archive"),
    "load": ("images", "load", "Load images from an archive or OCI layout"),
    "save": ("images", "save", "Write images to an archive or OCI layout"),
    "export": ("images", "export", "Write a container's file system as a tar archive"),
    "inspect": ("inspect", "inspect", "Show containers or images as JSON"),
    "explain": ("explain", "explain", "Print the plan that a command would carry out, and do nothing"),
    "doctor": ("doctor", "doctor", "Say what this kernel and user can do, and how to fix what is missing"),
    "version": ("version", "version", "Show the version"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code.  Deliberate errors are one line on standard error."""
    arguments = sys.argv[1:] if argv is None else argv
    keep_standard_files()
    try:
        return _dispatch(arguments)
    except CoracleError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads; nothing more to flush there
        return 141
    except Exception as error:
        complain(unforeseen(error))
        return CoracleError.exit_code


def unforeseen(error: BaseException) -> str:
    """One line about an error that nobody has put into words: a full disk, or a mistake of ours and its place."""
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror.lower()}"
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
    return f"internal error: {type(error).__name__}: {error} (in {where})"


def keep_standard_files() -> None:
    """Open what the caller has closed: no socket of ours may get a standard file's number."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is fd
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r"))


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"] and len(arguments) == 2:
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_page())
        return 0
    name = arguments[0]
    if name in ("-v", "--version"):
        name = "version"
    entry = COMMANDS.get(name)
    if entry is None:
        raise UsageError(f"unknown command {name}", _suggestion(name))
    module, function, _ = entry
    command: Callable[[list[str]], int] = getattr(_import(module), function)
    return command(arguments[1:])


def _import(module: str) -> object:
    return __import__(f"coracle.cli.{module}", None, None, ["*"])


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, 1)
    return f"did you mean {near[0]}?" if near else "coracle --help lists the commands"


def help_page() -> str:
    """The page of ``coracle --help``."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{line}" for name, (_, _, line) in COMMANDS.items()]
    return "\n".join(
        [
            "Usage: coracle COMMAND [OPTIONS]",
            "",
            "A container engine in pure Python: no daemon, no root needed, every step explained.",
            "",
            "Commands:",
            *lines,
            "",
            "coracle COMMAND --help says more.  Try: coracle run --rm host cat /etc/os-release",
        ]
    )


def complain(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"coracle: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
