"""A container's output as Docker's json-file format: one JSON object a line, bounded in size.

    {"log":"hello\\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}

A line without its end is written after 16 KiB, as Docker does.  When the file reaches its size it
becomes ``<log>.1`` and so on, so that a chatty container cannot fill the disk.
"""

from __future__ import annotations

import os
from _json import encode_basestring_ascii
from time import gmtime, strftime, time_ns

PARTIAL = 16384
STREAMS = {b"1": "stdout", b"2": "stderr"}


class Log:
    """The log file ``path``, rotated at ``size`` bytes with ``files`` files kept in all."""

    __slots__ = ("fd", "files", "partial", "path", "size", "torn", "written")

    def __init__(self, path: str, size: int, files: int) -> None:
        self.path = path
        self.size = size
        self.files = max(files, 1)
        self.partial = {stream: bytearray() for stream in STREAMS}
        self.torn = False
        self._open()

    def _open(self) -> None:
        """Open the file; on a disk that has no room even for that, go without until there is."""
        try:
            self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
            self.written = os.fstat(self.fd).st_size
        except OSError:
            self.fd, self.written = -1, 0

    def write(self, stream: bytes, data: bytes) -> None:
        """Add output of ``stream`` (``b"1"`` or ``b"2"``); whole lines are written at once."""
        waiting = self.partial[stream]
        waiting += data
        end = waiting.rfind(b"\n") + 1
        lines = [line + b"\n" for line in bytes(waiting[:end]).split(b"\n")[:-1]]
        del waiting[:end]
        while len(waiting) >= PARTIAL:
            lines.append(bytes(waiting[:PARTIAL]))
            del waiting[:PARTIAL]
        if lines:
            self._append(stream, lines)

    def end(self, stream: bytes) -> None:
        """Write a last line that has no end."""
        if self.partial[stream]:
            self._append(stream, [bytes(self.partial[stream])])
            self.partial[stream].clear()

    def _append(self, stream: bytes, lines: list[bytes]) -> None:
        now = time_ns()
        stamp = strftime("%Y-%m-%dT%H:%M:%S", gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"
        tail = f',"stream":"{STREAMS[stream]}","time":"{stamp}"}}\n'
        entries: list[str] = []
        length = 0
        for line in lines:
            entry = f'{{"log":{encode_basestring_ascii(line.decode("utf-8", "replace"))}{tail}'
            if self.size and self.written + length + len(entry) > self.size and self.written + length:
                self._put(entries)
                self._rotate()
                entries, length = [], 0
            entries.append(entry)
            length += len(entry)  # all of it is ASCII
        self._put(entries)

    def _put(self, entries: list[str]) -> None:
        """Write ``entries``.  A full disk must not stop the container: what is lost is its log."""
        if self.fd < 0:
            self._open()
        text = ("\n" if self.torn else "") + "".join(entries)
        try:
            done = os.write(self.fd, text.encode())
        except OSError:
            return
        self.torn = done < len(text)  # the next entry has to begin a line
        self.written += done

    def _rotate(self) -> None:
        self._close()
        try:
            for number in range(self.files - 1, 0, -1):
                older = f"{self.path}.{number - 1}" if number > 1 else self.path
                if os.path.exists(older):
                    os.rename(older, f"{self.path}.{number}")
            if self.files == 1:
                os.truncate(self.path, 0)
        except OSError:  # grows on, rather than losing what was said
            pass
        self.torn = False
        self._open()

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self) -> None:
        """Write what is left and close the file."""
        for stream in STREAMS:
            self.end(stream)
        self._close()
