"""``--init``: the launcher as the parent of the program, on a subreaper or as PID 1."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

import pytest
from launching import MACHINES, Launched, children, launch, read_some, run, status_of, wait_until

from coracle.linux.launcher import READY, Table, ignored_signals
from coracle.linux.syscall import MACHINE, syscall

every_machine = pytest.mark.parametrize("machine", MACHINES)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a new pid namespace needs root")
ENVIRONMENT = [b"PATH=/usr/bin:/bin"]

# Blocks everything, says its pid, then names each signal that it gets, until SIGTERM.
LISTENER = b"""
import os, _signal
mask = set(range(1, 65)) - {32, 33}
_signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
os.write(1, b"%d\\n" % os.getpid())
while True:
    number = int(_signal.sigwait(mask))
    os.write(1, b"%d\\n" % number)
    if number == 15:
        os._exit(11)
"""


def subreaper() -> None:
    syscall("prctl", 36, 1, 0, 0, 0)  # kept by execve(2)


def executing(argv: list[bytes], **reaping: object):
    def build(table: Table) -> None:
        table.step = 1
        table.reap(**reaping)  # type: ignore[arg-type]
        table.step = 2
        table.reset_signals(ignored_signals())
        table.execve([argv[0]], argv, ENVIRONMENT)

    return build


def shell(script: bytes, *arguments: bytes, **reaping: object):
    return executing([b"/bin/sh", b"-c", script, b"sh", *arguments], **reaping)


def listener(**reaping: object):
    return executing([os.fsencode(sys.executable), b"-I", b"-S", b"-c", LISTENER], **reaping)


def read_line(launched: Launched) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(launched.output_fd, 1) if select.select([launched.output_fd], [], [], 20)[0] else b""
        assert chunk, f"no line, only {line!r}"
        line += chunk
    return line[:-1]


@every_machine
@pytest.mark.parametrize("code", [0, 1, 127, 128, 255])
def test_exit_status_is_the_childs(machine, code):
    assert run(shell(b"exit %d" % code), machine, before=subreaper) == (code, [], b"")


def test_every_exit_status_passes():
    for code in range(256):
        assert run(executing([b"/bin/sh", b"-c", b"exit %d" % code])) == (code, [], b"")


@every_machine
@pytest.mark.parametrize("number", [1, 2, 9, 15])
def test_death_by_a_signal_is_128_and_its_number(machine, number):
    assert run(shell(b"kill -%d $$" % number), machine) == (128 + number, [], b"")


def test_every_deadly_signal_passes(tmp_path):
    """Also those that dump core: the flag in the wait status is not part of the number."""
    harmless = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
    stopping = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    for number in signal.valid_signals() - harmless - stopping:
        build = executing([os.fsencode(sys.executable), b"-ISc", b"import os; os.kill(os.getpid(), %d)" % number])
        status, _, _ = run(build, before=lambda: (os.chdir(tmp_path), signal.signal(signal.SIGINT, signal.SIG_DFL)))
        # Python turns these into something of its own
        assert status == {signal.SIGINT: 130, signal.SIGPIPE: 0, signal.SIGXFSZ: 0}.get(number, 128 + number)


@every_machine
def test_failed_execve_is_reported_by_the_child_and_passed_on(machine):
    status, (report,), _ = run(executing([b"/nonexistent"]), machine)
    assert (status, report.step, report.call) == (255, 2, "execve")


@every_machine
def test_start_of_the_program_is_end_of_file(machine):
    """The init must not hold the report descriptor, or nobody would learn that the program runs."""
    with launch(shell(b"exec sleep 30"), machine) as launched:
        assert launched.reports() == []
        wait_until(lambda: len(children(launched.pid)) == 1, "the program runs")
        os.kill(launched.pid, signal.SIGTERM)
        assert launched.wait() == 128 + signal.SIGTERM


def test_init_holds_no_channel():
    reader, writer = os.pipe()

    def build(table):
        table.gate(reader)
        table.reap()
        table.execve([b"/bin/sleep"], [b"sleep", b"30"], [])

    try:
        with launch(build, close=(writer,)) as launched:
            assert launched.next_report().kind == READY
            os.write(writer, b"x")
            assert launched.reports() == []
            held = [os.readlink(f"/proc/{launched.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{launched.pid}/fd")]
            assert os.readlink(f"/proc/self/fd/{reader}") not in held
            assert len([name for name in held if name.startswith("pipe:")]) == 2  # stdout and stderr
    finally:
        os.close(reader)
        os.close(writer)


def test_child_starts_with_an_ordinary_signal_state():
    status, _, output = run(executing([b"/bin/cat", b"/proc/self/status"]))
    shown = dict(line.split(":\t", 1) for line in output.decode().splitlines())
    assert status == 0
    assert int(shown["SigIgn"], 16) == int(shown["SigBlk"], 16) == int(shown["SigPnd"], 16) == 0


def test_every_signal_is_forwarded():
    with launch(listener()) as launched:
        child = int(read_line(launched))
        assert children(launched.pid) == [child]
        unforwarded = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTERM}
        numbers = sorted(set(range(1, 65)) - unforwarded - {32, 33})  # the last two belong to glibc: no sigwait
        for number in numbers:
            os.kill(launched.pid, number)
            assert int(read_line(launched)) == number
        os.kill(launched.pid, signal.SIGTERM)
        assert int(read_line(launched)) == signal.SIGTERM
        assert launched.wait() == 11


@every_machine
def test_term_is_forwarded(machine):
    with launch(shell(b"trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done"), machine) as launched:
        assert read_line(launched) == b"up"
        os.kill(launched.pid, signal.SIGTERM)
        assert launched.wait() == 7


def test_terminal_stop_signals_are_left_alone():
    with launch(listener()) as launched:
        read_line(launched)
        os.kill(launched.pid, signal.SIGTTIN)
        os.kill(launched.pid, signal.SIGTTOU)
        os.kill(launched.pid, signal.SIGTERM)
        assert read_line(launched) == b"15"
        assert launched.wait() == 11


def test_signal_during_the_start_is_not_lost():
    """TERM at any moment after the ready report ends it: blocked, then forwarded, then pending in the child."""

    def build(table):
        table._await_signals()  # from here on nothing can be lost
        table.ready()
        shell(b"exec sleep 30")(table)

    for attempt in range(40):
        with launch(build, before=subreaper) as launched:
            assert launched.next_report().kind == READY
            time.sleep(attempt / 40_000)
            os.kill(launched.pid, signal.SIGTERM)
            assert launched.wait() == 128 + signal.SIGTERM


@pytest.mark.parametrize("group", [False, True])
def test_group(group):
    """With ``group`` a signal reaches the children of the program too."""
    script = b"exec 2>/dev/null; (trap 'echo inner; exit' USR1; echo up; while :; do sleep 0.05; done) & "
    script += b"trap 'echo outer' USR1; echo up; while :; do wait; done"
    with launch(shell(script, group=group), before=subreaper) as launched:
        assert [read_line(launched), read_line(launched)] == [b"up", b"up"]
        os.kill(launched.pid, signal.SIGUSR1)
        heard = {read_line(launched)} | ({read_line(launched)} if group else set())
        assert heard == ({b"outer", b"inner"} if group else {b"outer"})
        (child,) = children(launched.pid)
        os.killpg(child, signal.SIGKILL)
        assert launched.wait() == 128 + signal.SIGKILL


@every_machine
def test_child_leads_a_group_of_its_own(machine):
    def own_group(launched: Launched) -> bool:
        return [os.getpgid(child) for child in children(launched.pid)] == children(launched.pid) != []

    with launch(shell(b"exec sleep 30"), machine) as launched:
        wait_until(lambda: own_group(launched), "the child leads its group")
        assert os.getpgid(launched.pid) != children(launched.pid)[0]
        os.kill(launched.pid, signal.SIGTERM)
        assert launched.wait() == 143


@every_machine
def test_orphans_are_reaped(machine):
    """Ten double-forked processes die while the program lives: none may stay a zombie."""
    script = b"for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.1 & sleep 0.05 &) ; done; echo up; read line < $1; exit 5"
    reader, writer = os.pipe()

    try:
        name = b"/proc/%d/fd/%d" % (os.getpid(), reader)
        with launch(shell(script, name), machine, before=subreaper) as launched:
            assert read_line(launched) == b"up"
            (child, *_) = children(launched.pid)
            wait_until(lambda: children(launched.pid) == [child], "all orphans are reaped")
            assert status_of(child)["State"].startswith("S")
            os.write(writer, b"\n")
            assert launched.wait() == 5
    finally:
        os.close(reader)
        os.close(writer)


def test_sigchld_ignored_before_does_not_lose_the_status():
    def before():
        subreaper()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    assert run(shell(b"exit 9"), before=before)[0] == 9


def test_stopped_and_continued_child_is_not_an_end():
    with launch(shell(b"kill -STOP $$; exit 6")) as launched:
        wait_until(lambda: bool(children(launched.pid)), "the program runs")
        (child,) = children(launched.pid)
        wait_until(lambda: status_of(child)["State"].startswith("T"), "the program is stopped")
        time.sleep(0.02)
        assert status_of(launched.pid)["State"].startswith("S")
        os.kill(launched.pid, signal.SIGCONT)  # forwarded like any other
        assert launched.wait() == 6


def test_init_ends_with_the_child_and_leaves_orphans_to_others():
    with launch(shell(b"sleep 30 & echo $!; exit 4"), before=subreaper) as launched:
        orphan = int(read_line(launched))
        assert launched.wait() == 4
        os.kill(orphan, signal.SIGKILL)


def test_memory_of_the_init():
    with launch(shell(b"exec sleep 30")) as launched:
        launched.reports()
        with open(f"/proc/{launched.pid}/smaps_rollup") as file:
            sizes = {words[0]: int(words[1]) for line in file if (words := line.split())[-1] == "kB"}
        assert 0 < sizes["Pss:"] < 100, sizes
        assert os.readlink(f"/proc/{launched.pid}/exe") == "/memfd:coracle (deleted)"
        os.kill(launched.pid, signal.SIGTERM)
        launched.wait()


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("script", [b"exit 3", b"sleep 30 & (sleep 0.01 &); exit 3"], ids=["alone", "with others"])
def test_as_pid_1(script):
    """PID 1 of a namespace: no signal has a default action there, and its end takes everybody with it."""
    pid = os.fork()
    if pid == 0:
        try:
            syscall("unshare", 0x20000000)  # CLONE_NEWPID
            with launch(shell(b"test $PPID = 1 && " + script)) as launched:
                launched.reports()
                os._exit(launched.wait())
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


@pytest.mark.root
@needs_root
def test_pid_1_forwards_what_the_kernel_would_drop():
    pid = os.fork()
    if pid == 0:
        try:
            syscall("unshare", 0x20000000)
            with launch(shell(b"trap 'exit 8' TERM; echo up; while :; do sleep 0.05; done")) as launched:
                read_line(launched)
                os.kill(launched.pid, signal.SIGTERM)
                os._exit(launched.wait())
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 8


class Terminal:
    """An interactive shell below the init, on a terminal of its own."""

    def __init__(self, argv: list[bytes]) -> None:
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                table = Table(MACHINE)
                table.reap()
                table.reset_signals(ignored_signals())
                table.execve([argv[0]], argv, [*ENVIRONMENT, b"PS1=READY> "])
                table.execute()
            finally:
                os._exit(99)
        self.seen = b""

    def expect(self, text: bytes) -> None:
        while text not in self.seen:
            try:
                self.seen += read_some(self.master)
            except OSError:  # EIO: the last process on the terminal is gone
                raise AssertionError(f"{text!r} did not come: {self.seen!r}") from None
        self.seen = self.seen.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def foreground(self) -> int:
        return struct.unpack("i", fcntl.ioctl(self.master, termios.TIOCGPGRP, bytes(4)))[0]

    def await_foreground(self, name: str) -> None:
        """Wait until program ``name`` runs there: before its execve a shell's child may still ignore the keys."""

        def runs() -> bool:
            try:
                return status_of(self.foreground())["Name"] == name
            except FileNotFoundError:
                return False

        wait_until(runs, f"{name} is in the foreground")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("argv", [[b"/bin/sh", b"-i"], [b"/bin/bash", b"--norc", b"-i"]], ids=["sh", "bash"])
def test_job_control(argv):
    with Terminal(argv) as terminal:
        terminal.expect(b"READY> ")
        (child,) = children(terminal.pid)
        assert terminal.foreground() == child != terminal.pid
        terminal.type(b"echo in $((20 + 3)); sleep 30; echo after\n")
        terminal.expect(b"in 23")
        terminal.await_foreground("sleep")
        terminal.type(b"\x03")  # interrupts the job, not the shell
        terminal.expect(b"READY> ")
        terminal.type(b"sleep 31\n")
        terminal.await_foreground("sleep")
        terminal.type(b"\x1a")
        terminal.expect(b"READY> ")
        terminal.type(b"jobs\n")
        terminal.expect(b"Stopped")
        terminal.type(b"kill -9 %1\nexit 21\nexit 21\n")  # the first may be refused: "you have stopped jobs"
        wait_until(lambda: status_of(terminal.pid)["State"].startswith("Z"), "the shell ends")
        assert terminal.wait() == 21


def test_hang_up_reaches_the_program():
    with Terminal([b"/bin/sh", b"-c", b"trap 'exit 33' HUP; echo up; while :; do sleep 0.05; done"]) as terminal:
        terminal.expect(b"up")
        os.kill(terminal.pid, signal.SIGHUP)
        assert terminal.wait() == 33


def test_interrupt_key_reaches_a_plain_program():
    with Terminal([b"/bin/sleep", b"30"]) as terminal:
        terminal.await_foreground("sleep")
        terminal.type(b"\x03")
        assert terminal.wait() == 128 + signal.SIGINT
