"""A launcher that waits: at the gate of a created container, or for ever as an infra process."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import time

import pytest
from launching import MACHINES, Launched, children, launch, read_until_end, run, signal_bit, status_of, wait_until

from coracle.errors import UnsupportedError
from coracle.linux.launcher import FAILURE, READY, Struct, Table, ignored_signals, image, seal
from coracle.linux.syscall import MACHINE, NR, syscall

every_machine = pytest.mark.parametrize("machine", MACHINES)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a new pid namespace needs root")
PR_SET_CHILD_SUBREAPER = 36


class Gate:
    """A pipe whose writing end only the test has."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def launch(self, machine: tuple[str, ...] = (MACHINE,), ready: bool = True, **options: object) -> Launched:
        def build(table: Table) -> None:
            table.step = 2
            table.gate(self.reader, ready)
            table.step = 3
            table.reset_signals(ignored_signals())
            table.execve([b"/bin/echo"], [b"echo", b"started"], [])

        return launch(build, machine, close=(self.writer,), **options)  # type: ignore[arg-type]

    def open(self) -> None:
        os.write(self.writer, b"x")

    def close_writer(self) -> None:
        os.close(self.writer)
        self.writer = -1


@pytest.fixture
def gate():
    made = Gate()
    yield made
    for fd in (made.reader, made.writer):
        if fd >= 0:
            os.close(fd)


def sleeping(pid: int) -> bool:
    return status_of(pid)["State"].startswith("S")


@every_machine
def test_start_opens_the_gate(gate, machine):
    with gate.launch(machine) as launched:
        ready = launched.next_report()
        assert (ready.kind, ready.step) == (READY, 2)
        gate.open()
        assert launched.reports() == []
        assert launched.output() == b"started\n"
        assert launched.wait() == 0


@every_machine
def test_gate_that_was_opened_before_does_not_wait(gate, machine):
    gate.open()
    with gate.launch(machine) as launched:
        assert [report.kind for report in launched.reports()] == [READY]
        assert launched.output() == b"started\n"
        assert launched.wait() == 0


@every_machine
def test_end_of_file_ends_it_quietly(gate, machine):
    with gate.launch(machine) as launched:
        assert launched.next_report().kind == READY
        gate.close_writer()
        assert launched.reports() == []
        assert launched.output() == b""
        assert launched.wait() == 0


@every_machine
def test_gate_without_ready(gate, machine):
    with gate.launch(machine, ready=False) as launched:
        gate.open()
        assert launched.reports() == []
        assert launched.output() == b"started\n"


@every_machine
def test_failure_after_the_gate_is_reported(machine):
    reader, writer = os.pipe()

    def build(table):
        table.gate(reader)
        table.call("close", -1, step=9)

    try:
        with launch(build, machine, close=(writer,)) as launched:
            launched.next_report()
            os.write(writer, b"x")
            (report,) = launched.reports()
            assert (report.kind, report.step, report.errno) == (FAILURE, 9, errno.EBADF)
    finally:
        os.close(reader)
        os.close(writer)


@every_machine
def test_gate_that_cannot_be_read_is_a_failure(machine):
    def build(table):
        table.gate(os.open("/", os.O_RDONLY))

    status, reports, _ = run(build, machine)
    assert (status, [report.kind for report in reports]) == (255, [READY, FAILURE])
    assert (reports[1].errno, reports[1].call) == (errno.EISDIR, "read")


@every_machine
def test_fifo_opened_both_ways_is_a_gate(machine, tmp_path):
    path = tmp_path / "exec.fifo"
    os.mkfifo(path)

    def build(table):
        table.gate(os.open(path, os.O_RDWR))
        table.execve([b"/bin/echo"], [b"echo", b"started"], [])

    with launch(build, machine) as launched:
        launched.next_report()
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # ENXIO if nobody waited
        os.write(writer, b"x")
        os.close(writer)
        assert launched.output() == b"started\n"


@pytest.mark.parametrize("kind", ["pipe", "fifo", "nanosleep"])
def test_signals_do_not_open_the_gate(kind, tmp_path):
    """Stopped, continued, told of a new window size: the read goes on where it was."""
    path = tmp_path / "exec.fifo"
    os.mkfifo(path)
    reader, writer = os.pipe()

    def build(table):
        if kind == "nanosleep":  # which the kernel does not restart by itself in every case
            table.call("nanosleep", Struct("qq", 0, 300_000_000), None, retry=True)
        table.gate(os.open(path, os.O_RDWR) if kind == "fifo" else reader)
        table.execve([b"/bin/echo"], [b"echo", b"started"], [])

    try:
        with launch(build, close=(writer,)) as launched:
            for _ in range(20):
                for number in (signal.SIGWINCH, signal.SIGSTOP, signal.SIGCONT, signal.SIGURG):
                    os.kill(launched.pid, number)
                time.sleep(0.005)
            assert launched.next_report().kind == READY
            os.kill(launched.pid, signal.SIGSTOP)
            os.kill(launched.pid, signal.SIGCONT)
            target = os.open(path, os.O_WRONLY) if kind == "fifo" else os.dup(writer)
            os.write(target, b"x")
            os.close(target)
            assert launched.output() == b"started\n"
            assert launched.wait() == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_terminating_signals_end_a_waiting_launcher(gate):
    with gate.launch() as launched:
        launched.next_report()
        os.kill(launched.pid, signal.SIGTERM)
        assert launched.wait() == -signal.SIGTERM


def test_nobody_listening_to_ready_does_not_matter(gate):
    with gate.launch(listen=False) as launched:
        gate.open()
        assert launched.output() == b"started\n"


def test_host_program_cannot_be_reached_or_changed(gate):
    """CVE-2019-5736: the file behind the waiting process is the launcher, it is sealed, and no python is mapped."""
    with gate.launch() as launched:
        launched.next_report()
        exe = f"/proc/{launched.pid}/exe"
        assert os.readlink(exe) == "/memfd:coracle (deleted)"
        with open(f"/proc/{launched.pid}/maps") as file:
            mapped = {line.split(maxsplit=5)[5].strip() for line in file if len(line.split()) > 5}
        assert {name for name in mapped if not name.startswith("[")} == {"/memfd:coracle (deleted)"}
        # ETXTBSY while it runs; where the kernel allows the open, the seals refuse the write
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
            with pytest.raises(OSError) as failed:
                os.write(os.open(exe, flags), b"#!")
            assert failed.value.errno in (errno.ETXTBSY, errno.EPERM)
        with pytest.raises(OSError) as failed:
            os.truncate(exe, 0)
        assert failed.value.errno in (errno.ETXTBSY, errno.EPERM)
        held = os.open(exe, os.O_RDONLY)
        gate.open()
        assert launched.wait() == 0
    try:  # the classic attack: keep a descriptor, wait for the program to end, open it again for writing
        again = os.open(f"/proc/self/fd/{held}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.write(again, b"#!")
        with pytest.raises(PermissionError):
            os.ftruncate(again, 0)
        os.close(again)
    finally:
        os.close(held)


def test_memory_of_a_waiting_launcher(gate):
    with gate.launch() as launched:
        launched.next_report()
        with open(f"/proc/{launched.pid}/smaps_rollup") as file:
            sizes = {words[0]: int(words[1]) for line in file if (words := line.split())[-1] == "kB"}
    assert 0 < sizes["Pss:"] < 100, sizes


def test_what_ps_shows_of_a_waiting_launcher(gate):
    with gate.launch() as launched:
        launched.next_report()
        with open(f"/proc/{launched.pid}/cmdline", "rb") as file:
            assert file.read() == b"coracle-init\0"
        with open(f"/proc/{launched.pid}/environ", "rb") as file:
            assert file.read() == b""


@pytest.mark.skipif(MACHINE != "x86_64", reason="reads the registers of x86_64")
def test_all_six_argument_registers_are_set():
    """No call here takes six arguments, but /proc/PID/syscall shows all registers of the one that sleeps."""

    def build(table):
        table.call("nanosleep", Struct("qq", 60, 0), None, 3, 1 << 40, -1, 0x55)

    with launch(build) as launched:
        wait_until(lambda: os.readlink(f"/proc/{launched.pid}/exe").startswith("/memfd"), "the launcher runs")
        wait_until(lambda: sleeping(launched.pid), "the launcher sleeps")
        with open(f"/proc/{launched.pid}/syscall") as file:
            number, *words = (int(word, 0) for word in file.read().split())
    assert number == NR["nanosleep"]
    assert words[1:6] == [0, 3, 1 << 40, (1 << 64) - 1, 0x55]
    assert image.DATA_ADDRESS < words[0] < image.DATA_ADDRESS + 0x1000
    assert image.CODE_ADDRESS < words[7] < image.CODE_ADDRESS + 0x1000


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        (resource.RLIMIT_AS, 300 << 10),
        (resource.RLIMIT_DATA, 0),
        (resource.RLIMIT_STACK, 16384),  # with less the kernel's own random stack offset kills any program, by chance
        (resource.RLIMIT_STACK, 1 << 20),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_CORE, 0),
    ],
    ids=str,
)
def test_starts_under_small_limits(limit, value):
    table = Table()
    table.call("getpid", save=True)
    table.call("close", -1, tolerant=True)
    table.call("exit_group", 42)
    built = table.build()
    pid = os.fork()
    if pid == 0:
        try:
            fd = seal(built)
            resource.setrlimit(limit, (value, value))
            os.execve(fd, [b"launcher"], {})
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("value", [0, 1, 2])
def test_memfd_noexec(value):
    """vm.memfd_noexec belongs to a pid namespace: 1 needs MFD_EXEC, 2 forbids programs in memory altogether."""
    if not os.path.exists("/proc/sys/vm/memfd_noexec"):
        pytest.skip("this kernel has no vm.memfd_noexec (Linux 6.3)")

    def attempt() -> int:
        with open("/proc/sys/vm/memfd_noexec", "w") as file:
            file.write(str(value))
        table = Table()
        table.call("exit_group", 42)
        try:
            table.execute()
        except UnsupportedError as error:
            return 2 if "memfd_noexec" in error.hint else 3
        return 4

    pid = os.fork()
    if pid == 0:
        syscall("unshare", 0x20000000)  # CLONE_NEWPID
        inner = os.fork()
        if inner == 0:
            try:
                os._exit(attempt())
            finally:
                os._exit(99)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (42 if value < 2 else 2)


def paused(machine: tuple[str, ...] = (MACHINE,), **options: object) -> Launched:
    return launch(Table.pause, machine, **options)  # type: ignore[arg-type]


@every_machine
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pause_ends_when_asked(machine, number):
    with paused(machine) as launched:
        assert launched.reports() == []  # the report descriptor is closed once it sleeps
        os.kill(launched.pid, number)
        assert launched.wait() == 0


def test_pause_asked_at_once_still_ends_well():
    """A signal between the mask and the wait is not lost."""
    for delay in range(10):
        with paused() as launched:
            wait_until(lambda: b"coracle-init" in cmdline(launched.pid), "the launcher runs")
            time.sleep(delay / 20_000)
            os.kill(launched.pid, signal.SIGTERM)
            assert launched.wait() in (0, -signal.SIGTERM)


def cmdline(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def test_pause_ignores_everything_else():
    with paused() as launched:
        launched.reports()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGALRM, signal.SIGTSTP, 34, 64):
            os.kill(launched.pid, number)
        os.kill(launched.pid, signal.SIGSTOP)
        os.kill(launched.pid, signal.SIGCONT)
        wait_until(lambda: sleeping(launched.pid), "the launcher sleeps again")
        os.kill(launched.pid, signal.SIGTERM)
        assert launched.wait() == 0


def test_pause_reaps_what_it_is_given():
    """As a subreaper it inherits orphans, also with SIGCHLD ignored before, and none stays a zombie."""
    reader, writer = os.pipe()

    def before():
        syscall("prctl", PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        for number in range(5):
            if os.fork() == 0:
                if os.fork() == 0:
                    time.sleep(0.05 * number)
                    os.write(writer, struct.pack("i", os.getpid()))
                os._exit(0)

    with paused(before=before) as launched:
        os.close(writer)
        orphans = [pid for (pid,) in struct.iter_unpack("i", read_until_end(reader))]
        os.close(reader)
        assert len(orphans) == 5
        wait_until(lambda: children(launched.pid) == [], "all orphans are reaped")
        assert not signal_bit(status_of(launched.pid)["SigIgn"], signal.SIGCHLD)
