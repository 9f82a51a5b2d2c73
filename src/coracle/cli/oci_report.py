"""Errors and warnings of ``coracle-oci``: one line on stderr, and one in the log that the caller reads.

conmon and containerd's shim read the last entry of level "error" from a log in the JSON of runc and
crun: level, msg, time.
"""

from __future__ import annotations

import os

from coracle.errors import UsageError
from coracle.record import dumps

PROGRAM = "coracle-oci"
_LEVELS = ("error", "warning", "debug")


def write(fd: int, text: str) -> None:
    """Write all of ``text`` to ``fd`` at once, past Python's buffers: a fork must not write them a second time."""
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(fd, data) :]


def timestamp() -> str:
    """Now in RFC 3339, as Go reads it."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Report:
    """Where messages go: ``log`` is a path or nothing, ``form`` text or json, ``level`` the last level to report."""

    __slots__ = ("form", "level", "log")

    def __init__(self, log: str = "", form: str = "text", level: str = "warning") -> None:
        if log.startswith(("journald:", "syslog:")):
            raise UsageError(f"option --log is a file, not {log!r}")
        self.log = log.removeprefix("file:")  # crun's spelling
        self.form = form
        self.level = level

    def error(self, text: str) -> None:
        """To the log and to stderr: callers without a log show the latter."""
        logged = self._append("error", text)
        if logged or self.form == "text":
            _to_stderr(f"{PROGRAM}: {_one_line(text)}\n")
        else:
            _to_stderr(self._entry("error", text))

    def warning(self, text: str) -> None:
        """To the log, or to stderr without one: that may be the container's, and only it should write there."""
        if _LEVELS.index("warning") > _LEVELS.index(self.level) or self._append("warning", text):
            return
        _to_stderr(f"{PROGRAM}: warning: {_one_line(text)}\n" if self.form == "text" else self._entry("warning", text))

    def _append(self, level: str, text: str) -> bool:
        if not self.log:
            return False
        try:
            fd = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            _to_stderr(f"{PROGRAM}: cannot write to the log {self.log}: {error.strerror}\n")
            return False
        try:
            write(fd, self._entry(level, text))
        except OSError:  # a full disk must not hide the message itself
            return False
        finally:
            os.close(fd)
        return True

    def _entry(self, level: str, text: str) -> str:
        if self.form == "json":
            return dumps({"level": level, "msg": _plain(text), "time": timestamp()}) + "\n"
        return f'time="{timestamp()}" level={level} msg={dumps(_plain(text))}\n'


def _plain(text: str) -> str:
    """Text for JSON readers, who do not know Python's stand-ins for bytes that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def _to_stderr(text: str) -> None:
    try:
        write(2, text)
    except OSError:  # closed, or nobody reads: there is nowhere left to complain
        pass
