"""Runs a launcher's table in a real process: what the tests of linux/launcher share."""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterable
from functools import partial

import pytest

from coracle.linux.launcher import FAILURE, Report, Table, read_report
from coracle.linux.syscall import MACHINE, syscall

TIMEOUT = 20.0
QEMU = {name: shutil.which(f"qemu-{name}-static") for name in ("x86_64", "aarch64")}

Build = Callable[[Table], object]


def machine_parameter(name: str, *qemu_options: str) -> object:
    """One way to run a launcher: natively, or under qemu's user mode for another machine."""
    missing = name != MACHINE and QEMU[name] is None
    marks = [pytest.mark.skipif(missing, reason=f"qemu-{name}-static is not installed (Debian: qemu-user-static)")]
    return pytest.param((name, *qemu_options), id=" ".join((name, *qemu_options)), marks=marks)


# -p sets the page size: the largest that aarch64 kernels are built with
MACHINES = [machine_parameter("x86_64"), machine_parameter("aarch64"), machine_parameter("aarch64", "-p", "65536")]


def read_until_end(fd: int, size: int = 1 << 16) -> bytes:
    """Everything from ``fd`` up to end of file; fails instead of hanging."""
    data = b""
    while chunk := read_some(fd, size):
        data += chunk
    return data


def read_some(fd: int, size: int = 1 << 16) -> bytes:
    ready, _, _ = select.select([fd], [], [], TIMEOUT)
    assert ready, f"nothing to read for {TIMEOUT} s"
    return os.read(fd, size)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"not within {TIMEOUT} s: {what}"
        time.sleep(0.005)


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def signal_bit(mask: str, number: int) -> bool:
    return bool(int(mask, 16) >> number - 1 & 1)


class Launched:
    """A launcher that runs, or ran.  Use as a context manager: nothing is left behind."""

    def __init__(self, pid: int, machine: str, report_fd: int, output_fd: int) -> None:
        self.machine = machine
        self.pid = pid
        self.report_fd = report_fd
        self.output_fd = output_fd
        self._status: int | None = None

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._status is None:
            for pid in (*children(self.pid), self.pid):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.report_fd)
        os.close(self.output_fd)

    def next_report(self) -> Report:
        (report,) = read_report(read_some(self.report_fd, 16), self.machine)
        return report

    def reports(self) -> list[Report]:
        """All reports up to the end of file: until the program runs or the launcher has ended."""
        return read_report(read_until_end(self.report_fd), self.machine)

    def output(self) -> bytes:
        """What the program wrote, up to its end."""
        return read_until_end(self.output_fd)

    def wait(self) -> int:
        """The exit status, negative for a signal."""
        if self._status is None:
            fd = os.pidfd_open(self.pid)
            try:
                ready, _, _ = select.select([fd], [], [], TIMEOUT)
                assert ready, f"the launcher did not end within {TIMEOUT} s"
            finally:
                os.close(fd)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


def launch(
    build: Build,
    machine: tuple[str, ...] = (MACHINE,),
    before: Callable[[], object] | None = None,
    listen: bool = True,
    report: bool = True,
    close: Iterable[int] = (),
) -> Launched:
    """Fork, let the child fill a table by ``build`` and become its launcher.

    ``before`` runs in the child first; without ``listen`` nobody has the reading end of the
    report pipe, without ``report`` the launcher has none; ``close`` are descriptors that the
    child must not have.
    """
    report_fd, report_writer = os.pipe()
    output_fd, output_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for fd in (report_fd, output_fd, *close):
                os.close(fd)
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(output_writer, 1)
            os.dup2(output_writer, 2)
            syscall("close_range", 3, 0xFFFF_FFFF, 4)  # CLOSE_RANGE_CLOEXEC: whatever the test runner left open
            if before:
                before()
            table = Table(machine[0])
            build(table)
            become = table.execute if machine[0] == MACHINE else partial(emulate, table, machine)
            become(report_writer if report else -1)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(99)
    os.close(report_writer)
    os.close(output_writer)
    if not listen:
        os.close(report_fd)
        report_fd = os.open("/dev/null", os.O_RDONLY)
    return Launched(pid, machine[0], report_fd, output_fd)


def emulate(table: Table, machine: tuple[str, ...], report_fd: int) -> None:
    """Become qemu running the launcher: it needs a real file, which goes with the process."""
    fd = os.memfd_create("image", 0)
    os.write(fd, table.build(report_fd))
    for kept in table.channels(report_fd):
        os.set_inheritable(kept, True)
    qemu = QEMU[machine[0]]
    assert qemu
    os.execv(qemu, [qemu, *machine[1:], f"/proc/self/fd/{fd}"])


def run(build: Build, machine: tuple[str, ...] = (MACHINE,), **options: object) -> tuple[int, list[Report], bytes]:
    """Launch and wait: exit status, reports, output."""
    with launch(build, machine, **options) as launched:  # type: ignore[arg-type]
        reports, output = launched.reports(), launched.output()
        return launched.wait(), reports, output


def failure_of(build: Build, machine: tuple[str, ...] = (MACHINE,), **options: object) -> Report:
    """The one failure that ``build``'s table must end with."""
    status, reports, output = run(build, machine, **options)
    assert (status, output) == (255, b"")
    assert [report.kind for report in reports] == [FAILURE]
    return reports[0]
