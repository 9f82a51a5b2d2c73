"""``coracle run``.  The monitor is forked before anything else is imported, so that it stays small."""

from __future__ import annotations

import os

import _socket

from coracle.cli.main import complain
from coracle.errors import CoracleError
from coracle.runtime import monitor

USAGE = "Usage: coracle run [OPTIONS] IMAGE [COMMAND] [ARG...]"


def run(argv: list[str]) -> int:
    """Create and start a container; the exit code of its program, or 125 to 127."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        ours.close()
        monitor.main(theirs, lambda link: _work(argv, link))
    theirs.close()
    from coracle.engine.attach import client

    return client(ours)


def _work(argv: list[str], link: _socket.socket) -> int:
    """The worker: parse, plan, start.  Its errors are the command's."""
    from coracle.engine import run as engine

    try:
        if wants_help(argv):
            return _help()
        return engine.worker(argv, link, lambda text: complain(f"warning: {text}"), _say)
    except CoracleError as error:
        complain(str(error))
        return error.exit_code


def wants_help(argv: list[str]) -> bool:
    """Whether ``--help`` stands before the image; ``-h`` is --hostname, as in docker."""
    from coracle.engine.options import parse_run

    return "--help" in argv and bool(parse_run(argv)[0].help)


def _help() -> int:
    from coracle.engine.options import RUN
    from coracle.engine.options.help import help_text

    print(help_text(RUN, USAGE, "Create and start a container"), flush=True)
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
