"""A command on a pseudo terminal of its own session, talked to as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

from containers import TIMEOUT, read_some


def _take_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class OnTerminal:
    """``command`` with a terminal of 40 rows and 120 columns as its standard files; a context manager."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(40, 120)
        self.before = termios.tcgetattr(self.slave)
        self.output = b""
        files = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave}
        self.process = subprocess.Popen(command, env=environment, preexec_fn=_take_terminal, **files)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self.slave):
            try:
                os.close(fd)
            except OSError:
                pass

    def send(self, data: bytes) -> None:
        os.write(self.master, data)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, text: bytes, seconds: float = TIMEOUT) -> bytes:
        """Read until ``text`` has come; what came before it is dropped, and returned with it."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end, f"no {text!r} in {self.output!r}"
            more = read_some(self.master, max(0.1, end - time.monotonic()))
            assert more, f"no {text!r} in {self.output!r} before the end"
            self.output += more
        found, _, self.output = self.output.partition(text)
        return found + text

    def settings(self) -> list[object]:
        return termios.tcgetattr(self.slave)

    def is_restored(self) -> bool:
        return self.settings() == self.before

    def wait(self) -> int:
        return self.process.wait(TIMEOUT)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
