"""A command on a pseudo-terminal, talked to as a person would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable
from typing import Any

Start = Callable[..., "subprocess.Popen[Any]"]


def _take_terminal() -> None:
    """In the child: make stdin the controlling terminal, or no change of the window's size is ever signalled."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """``start`` is called with the terminal as stdin, stdout and stderr; the window has 40 rows and 120 columns."""

    def __init__(self, start: Start, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        subprocess.run(["stty", "rows", "40", "cols", "120"], stdin=slave, check=True)
        self.process = start(*arguments, stdin=slave, stdout=slave, stderr=slave, preexec_fn=_take_terminal)
        os.close(slave)
        self.output = b""

    def expect(self, text: bytes, seconds: float = 20) -> None:
        """Read until ``text`` has come.  :raises AssertionError: when it does not in time."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            if time.monotonic() > deadline or not self._read(0.2):
                raise AssertionError(f"no {text!r} in {self.output!r}")

    def _read(self, seconds: float) -> bool:
        """Read what is there or comes within ``seconds``; False after the end."""
        if select.select([self.master], [], [], seconds)[0]:
            try:
                self.output += os.read(self.master, 4096)
            except OSError:  # EIO: the last writer has closed the slave
                return False
        return True

    def send(self, text: bytes) -> None:
        os.write(self.master, text)

    def resize(self, rows: int, columns: int) -> None:
        subprocess.run(["stty", "rows", str(rows), "cols", str(columns)], stdin=self.master, check=True)

    def finish(self, seconds: float = 30) -> tuple[int, bytes]:
        """Wait for the command's end: its exit status and all that came."""
        deadline = time.monotonic() + seconds
        while self._read(0.2) and time.monotonic() < deadline:
            pass
        status = self.process.wait(max(1, deadline - time.monotonic()))
        os.close(self.master)
        return status, self.output
