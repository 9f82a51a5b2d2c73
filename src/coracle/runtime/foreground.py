"""Waiting for a program in the foreground: pass signals on, return what it returned."""

from __future__ import annotations

import os
import select
from _signal import SIG_DFL, set_wakeup_fd, signal  # type: ignore[import-not-found]

from coracle.linux import launcher
from coracle.linux.process import send_signal
from coracle.runtime.spawn import REPORT, Child, launch_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.step import Plan

# Signals that a terminal or a supervisor sends to ask a program for something (signal(7)).
FORWARDED = (1, 2, 3, 10, 12, 14, 15, 18, 28)
SIGKILL, SIGCHLD = 9, 17


def confirm(plan: Plan, child: Child, ours: bool = True) -> None:
    """Wait until the launcher has become the program; ``ours`` says that the child is this process's.

    :raises CoracleError: that says why it could not.
    """
    while packet := child.link.recv(4096):
        if packet.startswith(REPORT):
            report = launcher.read_report(packet)[0]
            if report.kind == launcher.FAILURE:
                if ours:
                    reap(child)
                raise launch_error(plan, report, child.note)
    child.link.close()


def reap(child: Child) -> int:
    """Wait for the child's end; its exit code, 128 + n after signal n."""
    _, status = os.waitpid(child.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def wait(child: Child) -> int:
    """Forward signals to the child until it ends; its exit code."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    previous = set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in FORWARDED:
        signal(number, _noted)
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    poll.register(child.pidfd, select.POLLIN)
    try:
        while True:
            ready = dict(poll.poll())
            if read_end in ready:
                for number in os.read(read_end, 64):
                    _forward(child, number)
            if child.pidfd in ready:
                return reap(child)
    finally:
        set_wakeup_fd(previous)
        for number in FORWARDED:
            signal(number, SIG_DFL)
        os.close(read_end)
        os.close(write_end)


def _noted(_number: int, _frame: object) -> None:
    """The wake-up descriptor has it."""


def _forward(child: Child, number: int) -> None:
    try:
        send_signal(child.pidfd, number)
    except ProcessLookupError:
        pass
