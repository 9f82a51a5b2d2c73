"""Commands that end in a monitor: ``run`` and ``exec``.  It is forked before anything else is imported."""

from __future__ import annotations

import _socket
import os

from coracle.cli.main import complain, unforeseen
from coracle.errors import CoracleError
from coracle.runtime import monitor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[_socket.socket], int]


def _may_detach(argv: list[str]) -> bool:
    """Whether the container may go on without its client, so that its monitor has to be small.

    A guess without reading the options: yes for a ``-d`` anywhere; it decides about memory, nothing else.
    """
    return any(word.startswith("--detach") or (word[:1] == "-" != word[1:2] and "d" in word) for word in argv)


def _session(work: Work, small: bool) -> int:
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        ours.close()
        monitor.main(theirs, lambda link: _guarded(work, link), small)
    theirs.close()
    from coracle.engine.attach import client

    return client(ours)


def _guarded(work: Work, link: _socket.socket) -> int:
    try:
        return work(link)
    except CoracleError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BaseException as error:  # the process has another life after this
        complain(unforeseen(error))
        return CoracleError.exit_code


def _warn(text: str) -> None:
    complain(f"warning: {text}")


def _say(line: str) -> None:
    print(line, flush=True)


def run(argv: list[str]) -> int:
    """Create and start a container; the exit code of its program, or 125 to 127."""
    small = _may_detach(argv)

    def work(link: _socket.socket) -> int:
        from coracle.engine import run as engine

        if "--help" in argv and _asks_for_help(argv):
            from coracle.engine.options import RUN
            from coracle.engine.options.help import help_text

            usage = "coracle run [OPTIONS] IMAGE [COMMAND] [ARG...]"
            _say(help_text(RUN, usage, "Create and start a container").rstrip())
            return 0
        return engine.worker(argv, link, _warn, _say, small)

    return _session(work, small)


def _asks_for_help(argv: list[str]) -> bool:
    """Whether ``--help`` stands before the image; ``-h`` is --hostname, as in docker."""
    from coracle.engine.options import parse_run

    return bool(parse_run(argv)[0].help)


def exec_(argv: list[str]) -> int:
    """Run a command in a running container; its exit code, or 125 to 127."""
    small = _may_detach(argv)

    def work(link: _socket.socket) -> int:
        from coracle.engine import exec as engine

        if argv[:1] in (["--help"], ["-h"]):
            from coracle.engine.options.help import help_text

            usage = "coracle exec [OPTIONS] CONTAINER COMMAND [ARG...]"
            _say(help_text(engine.EXEC, usage, "Run a command in a running container").rstrip())
            return 0
        return engine.worker(argv, link, _warn, small)

    return _session(work, small)
