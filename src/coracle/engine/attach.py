"""The client's end of a container's monitor: terminal in, output out, until the end or the detach keys."""

from __future__ import annotations

import _socket
import os
import select
from _signal import SIG_DFL, set_wakeup_fd, signal  # type: ignore[import-not-found]
from struct import pack

from coracle.errors import CoracleError
from coracle.record import loads
from coracle.runtime.monitor import ATTACHED, CHUNK, EXIT, INPUT, PACKET, RESIZE, SIGNAL, STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGWINCH = 28
_ENDING = (1, 3, 15)  # what ends a client on a terminal: hang-up, quit, terminate; an interrupt Python raises itself
# What docker's --sig-proxy passes on: everything that can be caught and is not about this process itself.
_PROXIED = tuple(n for n in range(1, 32) if n not in (9, 13, 17, 19, 20, 21, 22, 23, SIGWINCH))


def client(link: _socket.socket) -> int:
    """Follow the monitor at ``link``; the container's exit code, or the worker's.

    :raises CoracleError: if the monitor dies.
    """
    packet = link.recv(PACKET)
    if packet.startswith(EXIT):
        return packet[1]
    if not packet.startswith(ATTACHED):
        raise CoracleError("the container's monitor died before the container was started")
    session = Session(link, loads(packet[1:]))
    try:
        return session.serve()
    finally:
        session.close()


class Session:
    """One attached client.  ``terms``: terminal, interactive, keys (hexadecimal), proxy, id."""

    def __init__(self, link: _socket.socket, terms: dict[str, Any]) -> None:
        self.link = link
        self.terms = terms
        self.keys = bytes.fromhex(terms["keys"])
        self.matched = 0
        self.waiting = b""
        self.restore: list[Any] | None = None
        self.poll = select.poll()
        self.poll.register(link, select.POLLIN)
        self.wake, self.wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.poll.register(self.wake, select.POLLIN)
        set_wakeup_fd(self.wakeup, warn_on_full_buffer=False)
        link.setblocking(False)
        self._catch_signals()
        self.reading = bool(terms["interactive"])
        if terms["terminal"]:
            self._make_raw()
            self._resize()
        self._watch_input()

    def _catch_signals(self) -> None:
        if self.terms["terminal"]:
            for number in (SIGWINCH, *_ENDING):
                signal(number, _noted)
        if self.terms["proxy"]:
            for number in _PROXIED:
                try:
                    signal(number, _noted)
                except (OSError, ValueError):
                    continue

    def _make_raw(self) -> None:
        """Every key goes to the container's terminal, which has its own line discipline (termios(3))."""
        import termios

        if not self.reading or not os.isatty(0):
            return
        self.restore = termios.tcgetattr(0)
        raw: list[Any] = [*self.restore[:6], list(self.restore[6])]
        raw[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
        raw[1] &= ~termios.OPOST
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(0, termios.TCSADRAIN, raw)

    def close(self) -> None:
        """Give the terminal back as it was."""
        if self.restore is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self.restore)
        set_wakeup_fd(-1)

    def _watch_input(self) -> None:
        if self.reading and not self.waiting:
            self.poll.register(0, select.POLLIN)
        else:
            try:
                self.poll.unregister(0)
            except KeyError:
                pass
        self.poll.modify(self.link, select.POLLIN | (select.POLLOUT if self.waiting else 0))

    def serve(self) -> int:
        """Until the container ends, or the user detaches (0)."""
        while True:
            for fd, event in self.poll.poll():
                if fd == self.wake:
                    self._pass_signals()
                elif fd == 0:
                    if self._read_input():
                        return 0
                elif event & (select.POLLIN | select.POLLHUP):
                    code = self._receive()
                    if code is not None:
                        return code
                else:
                    self._send(b"")

    def _receive(self) -> int | None:
        try:
            packet = self.link.recv(PACKET)
        except BlockingIOError:
            return None
        except ConnectionResetError:  # said once, when the monitor went with input unread; its last words come next
            return None
        if packet.startswith(STDOUT):
            _write(1, packet[1:])
        elif packet.startswith(STDERR):
            _write(2, packet[1:])
        elif packet.startswith(EXIT):
            return packet[1]
        elif not packet:
            raise CoracleError("the container's monitor died", f"see coracle ps -a for {self.terms['id'][:12]}")
        return None

    def _read_input(self) -> bool:
        """Pass input on; True when the detach keys were typed."""
        try:
            data = os.read(0, CHUNK)
        except OSError:
            data = b""
        if data and self.terms["terminal"] and self.keys:
            data, detached = self._filter_keys(data)
            if detached:
                return True
            if not data:
                return False
        if not data:
            self.reading = False
        self._send(INPUT + data)
        return False

    def _filter_keys(self, data: bytes) -> tuple[bytes, bool]:
        """``data`` without a begun detach sequence, which is held back until it is complete or broken."""
        passed = bytearray()
        for byte in data:
            if byte == self.keys[self.matched]:
                self.matched += 1
                if self.matched == len(self.keys):
                    return bytes(passed), True
                continue
            passed += self.keys[: self.matched]
            self.matched = 1 if byte == self.keys[0] else 0
            if not self.matched:
                passed.append(byte)
        return bytes(passed), False

    def _send(self, packet: bytes) -> None:
        """Send, or wait until the monitor takes more; meanwhile no input is read."""
        packet = self.waiting or packet
        self.waiting = b""
        try:
            if packet:
                self.link.send(packet)
        except BlockingIOError:
            self.waiting = packet
        except OSError:  # the end comes as a packet or as end of file
            pass
        self._watch_input()

    def _pass_signals(self) -> None:
        for number in os.read(self.wake, 64):
            if number == SIGWINCH:
                self._resize()
            elif self.terms["terminal"]:
                self.close()
                signal(number, SIG_DFL)
                os.kill(os.getpid(), number)
            else:
                try:
                    self.link.send(SIGNAL + bytes([number]))
                except OSError:
                    continue

    def _resize(self) -> None:
        from coracle.linux.terminal import size

        for fd in (0, 1, 2):
            try:
                rows, columns = size(fd)
            except OSError:
                continue
            try:
                self.link.send(RESIZE + pack("HH", rows, columns))
            except OSError:
                pass
            return


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor has it."""


def _write(fd: int, data: bytes) -> None:
    """Write all of ``data``.  :raises BrokenPipeError: nobody reads any more; that ends the client."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody else made this terminal non-blocking
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
