"""Processes by descriptor and by (pid, start time), so that a reused pid is never mistaken (pidfd_open(2))."""

from __future__ import annotations

import os
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, sigpending  # type: ignore[import-not-found]

from coracle.linux.syscall import syscall

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


_ENDING = (1, 2, 15)  # SIGHUP, SIGINT, SIGTERM


class Undisturbed:
    """Holds back the signals that ask this process to end, so that nothing stays half made (signal(7)).

    Children inherit the mask: whoever executes a program has to empty it.
    """

    __slots__ = ("before",)

    def __enter__(self) -> Undisturbed:
        self.before = pthread_sigmask(SIG_BLOCK, _ENDING)
        return self

    def asked(self) -> bool:
        """Whether one of them waits."""
        return not sigpending().isdisjoint(_ENDING)

    def __exit__(self, *_exc: object) -> None:
        pthread_sigmask(SIG_SETMASK, self.before)


def unblock_signals() -> None:
    """Let all signals through, as a program may expect at its start."""
    pthread_sigmask(SIG_SETMASK, ())


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2) with one argument; the rest are zero, as newer options demand."""
    return syscall("prctl", option, argument, 0, 0, 0)


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; the second may contain anything (proc(5))."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, 4096).decode("utf-8", "replace")
    finally:
        os.close(fd)
    return text[text.rindex(")") + 2 :].split()


def start_time(pid: int) -> int:
    """Start of ``pid`` in clock ticks since boot, or 0 if there is no such process or it is a zombie."""
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether ``pid`` is still the process that started at ``started``; zombies do not count."""
    return pid > 0 and started > 0 and start_time(pid) == started


def pidfd(pid: int, started: int) -> int:
    """A descriptor of exactly that process.  :raises ProcessLookupError: if it is gone."""
    fd = syscall("pidfd_open", pid, 0)
    if start_time(pid) != started:  # checked after opening: from here on the pid cannot be reused unnoticed
        os.close(fd)
        raise ProcessLookupError(3, "no such process")
    return fd


def send_signal(fd: int, signal: int) -> None:
    """Signal the process behind a pidfd (pidfd_send_signal(2))."""
    syscall("pidfd_send_signal", fd, signal, None, 0)
