"""A descriptor that becomes ready when the kernel kills for memory in a group."""

from __future__ import annotations

import os
import select

from coracle.errors import KernelError, UnsupportedError
from coracle.linux.cgroup import files, memory
from coracle.linux.cgroup.hierarchy import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.linux.cgroup.group import Cgroup


class OomWatch:
    """Wait for out-of-memory kills: register ``fileno()`` for ``events`` with poll(2), then :meth:`read`.

    Version 1 signals an eventfd registered through cgroup.event_control (cgroup-v1/memory.rst, OOM Control);
    version 2 reports a change of memory.events as POLLPRI (cgroup-v2.rst).  Both also wake
    when the group is removed, see :attr:`gone`.
    """

    __slots__ = ("_control", "_directory", "_fd", "_kills", "_unified", "events")

    def __init__(self, group: Cgroup) -> None:
        """:raises UnsupportedError: without a memory controller.  :raises KernelError: if the group is gone."""
        hierarchy = group.controllers().get("memory")
        if not hierarchy:
            raise UnsupportedError("out-of-memory events need the memory controller, and none is mounted")
        self._directory = group.directories[hierarchy]
        self._unified = hierarchy == UNIFIED
        self._control = -1
        self.events = select.POLLPRI if self._unified else select.POLLIN
        try:
            self._kills = memory.oom_kills(self._directory, self._unified)
            self._fd = self._open_unified() if self._unified else self._open_legacy()
        except OSError as error:
            raise KernelError(error.errno or 0, "watch for out-of-memory in", self._directory) from error

    def _open_unified(self) -> int:
        fd = os.open(f"{self._directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        os.pread(fd, 4096, 0)  # poll(2) reports changes since the last read
        return fd

    def _open_legacy(self) -> int:
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._control = os.open(f"{self._directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            files.write(f"{self._directory}/cgroup.event_control", f"{fd} {self._control}")
        except BaseException:
            os.close(fd)
            self.close()
            raise
        return fd

    def fileno(self) -> int:
        """The descriptor to poll for :attr:`events`."""
        return self._fd

    def read(self) -> int:
        """Take note of what happened; how many processes were killed since the last call (0: a false alarm)."""
        try:
            if self._unified:
                os.pread(self._fd, 4096, 0)
            else:
                os.eventfd_read(self._fd)
        except (BlockingIOError, OSError):
            pass  # nothing pending, or the group is gone
        kills = memory.oom_kills(self._directory, self._unified)
        new = max(kills - self._kills, 0)
        self._kills = max(kills, self._kills)
        return new

    @property
    def gone(self) -> bool:
        """Whether the group was removed, so that nothing more will come."""
        return not os.path.isdir(self._directory)

    def close(self) -> None:
        """Stop watching."""
        for name in ("_fd", "_control"):
            fd = getattr(self, name, -1)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
