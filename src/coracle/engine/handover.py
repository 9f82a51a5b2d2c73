"""Handing a process that waits at its gate over to a monitor: its standard files, its end, its client."""

from __future__ import annotations

import _socket
import marshal
import os

from coracle.errors import CoracleError
from coracle.record import dumps
from coracle.runtime.foreground import confirm
from coracle.runtime.monitor import ATTACHED, EXIT, HAND_OVER, receive, send_with_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.runtime.spawn import Child
    from coracle.step import Plan, World


class StandardFiles:
    """The pipes or the terminal between a process and its monitor.

    ``kept`` are the monitor's ends: the terminal's master, or standard input (if interactive),
    output and error.
    """

    __slots__ = ("_ours", "_theirs", "kept", "terminal")

    def __init__(self, terminal: bool, interactive: bool, world: World) -> None:
        self.kept: list[int] = []
        self.terminal = terminal
        if terminal:
            kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
            self._ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
            self._theirs = theirs
            world.values["send console"] = lambda master: send_with_descriptors(theirs, b"T", [master])
        else:
            self._make_pipes(interactive, world)

    def _make_pipes(self, interactive: bool, world: World) -> None:
        given: list[int] = []
        if interactive:
            read_end, write_end = os.pipe()
            self.kept.append(write_end)
            given.append(read_end)
        else:
            given.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for _ in range(2):
            read_end, write_end = os.pipe()
            self.kept.append(read_end)
            given.append(write_end)
        world.values["standard files"] = given
        for number, fd in enumerate(given):
            world.fds[f"standard file {number}"] = fd

    def collect(self) -> list[int]:
        """The monitor's ends, once the child has made its terminal."""
        if self.terminal:
            self._theirs.close()
            self.kept = receive(self._ours)[1]
            self._ours.close()
        return self.kept


def hand_over(link: _socket.socket, task: dict[str, Any], descriptors: list[int], files: StandardFiles) -> None:
    """Give the monitor at ``link`` the process of ``task``; see :class:`coracle.runtime.monitor.Monitor`.

    The descriptors live on in the socket until the monitor has them: there is nothing to wait for.
    :raises CoracleError: if the monitor is gone.
    """
    kept = files.collect()
    try:
        send_with_descriptors(link, HAND_OVER + marshal.dumps(task), [*descriptors, *kept])
    except OSError:
        raise CoracleError("the container's monitor died") from None
    for fd in kept:
        os.close(fd)


def open_gate(opener: int, plan: Plan, child: Child, link: _socket.socket) -> None:
    """Let the process become its program, and wait until it has.

    :raises CoracleError: if it cannot; the client has been told the exit code.
    """
    os.write(opener, b"1")
    os.close(opener)
    try:
        confirm(plan, child, ours=False)
    except CoracleError as error:
        link.send(EXIT + bytes([error.exit_code]))
        raise


def tell_client(
    link: _socket.socket, identifier: str, task: dict[str, Any], detach: bool, keys: bytes, proxy: bool
) -> None:
    """Let the client attach, or go."""
    if detach:
        link.send(EXIT + bytes([0]))
        return
    terms = {
        "id": identifier,
        "terminal": task["terminal"],
        "interactive": task["interactive"],
        "keys": keys.hex(),
        "proxy": proxy and not task["terminal"],
    }
    link.send(ATTACHED + dumps(terms).encode())
