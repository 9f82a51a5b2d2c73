"""Tables run for real: the order of calls, what counts as failure, and what is reported."""

from __future__ import annotations

import errno
import os
import random

import pytest
from launching import MACHINES, failure_of, launch, run

from coracle.linux.launcher import (
    FAILURE,
    READY,
    SAVED,
    VALUE,
    WARNING,
    Pointer,
    Report,
    Struct,
    Table,
    ignored_signals,
)

pytestmark = pytest.mark.parametrize("machine", MACHINES)
AT_FDCWD = -100
O_CLOEXEC = 0o2000000


def say(table: Table, text: bytes) -> None:
    table.call("write", 1, Pointer(text), len(text))


def end(table: Table, status: int = 0) -> None:
    table.call("exit_group", status)


def test_calls_happen_in_order(machine):
    def build(table):
        for letter in b"in order":
            say(table, bytes((letter,)))
        end(table, 7)

    assert run(build, machine) == (7, [], b"in order")


@pytest.mark.parametrize("failing", [0, 1, 5, 9])
def test_failure_names_step_errno_and_call_and_stops(machine, failing):
    def build(table):
        for step in range(10):
            table.step = step
            if step == failing:
                table.call("openat", AT_FDCWD, b"/nonexistent", 0)
            say(table, b"%d" % step)

    status, (report,), output = run(build, machine)
    assert status == 255
    assert (report.kind, report.step, report.errno, report.call) == (FAILURE, failing, errno.ENOENT, "openat")
    assert output == b"".join(b"%d" % step for step in range(failing))


def test_five_arguments_arrive(machine):
    """PR_SET_NO_NEW_PRIVS is EINVAL unless arguments 3 to 5 are 0, prctl(2)."""

    def build(table):
        table.call("prctl", 38, 1, 0, 0, 0)
        table.call("prctl", 38, 1, 0, 0, 1, step=1)

    report = failure_of(build, machine)
    assert (report.step, report.errno) == (1, errno.EINVAL)


def test_structures_are_read(machine):
    def build(table):
        table.call("nanosleep", Struct("qq", 0, 1000), None)
        table.call("nanosleep", Struct("qq", 0, 1_000_000_000), None, step=1)  # a whole second is not allowed here

    report = failure_of(build, machine)
    assert (report.step, report.errno) == (1, errno.EINVAL)


def test_ignored_errno_goes_on_and_others_do_not(machine):
    def build(table):
        table.call("close", -1, ignore=(errno.EPERM, errno.EBADF))
        table.call("close", -1, ignore=(1, 2, 3, 4, 5, 6, 7, errno.EBADF))
        say(table, b"on")
        table.call("close", -1, ignore=(errno.EPERM, errno.ENOENT), step=3)

    status, (report,), output = run(build, machine)
    assert (status, report.step, report.errno, output) == (255, 3, errno.EBADF, b"on")


def test_tolerant_ignores_every_errno(machine):
    def build(table):
        table.call("close", -1, tolerant=True)
        table.call("openat", AT_FDCWD, b"/nonexistent", 0, tolerant=True)
        table.call("mount", None, None, None, 0, None, tolerant=True)
        end(table, 3)

    assert run(build, machine) == (3, [], b"")


def test_warnings_are_reported_and_only_for_errors(machine):
    def build(table):
        table.step = 6
        table.call("close", -1, ignore=(errno.EBADF,), warn=True)
        table.call("getpid", tolerant=True, warn=True)
        table.call("openat", AT_FDCWD, b"/nonexistent", 0, tolerant=True, warn=True)
        say(table, b"on")
        end(table)

    status, reports, output = run(build, machine)
    assert (status, output) == (0, b"on")
    assert [(report.kind, report.step, report.errno, report.call) for report in reports] == [
        (WARNING, 6, errno.EBADF, "close"),
        (WARNING, 6, errno.ENOENT, "openat"),
    ]


def test_expected_value(machine):
    parent = os.getpid()

    def build(table):
        table.call("getppid", expect=parent)
        table.call("write", 1, Pointer(b"two"), 3, expect=3)
        table.call("getppid", expect=parent + 1, step=8)

    status, (report,), output = run(build, machine)
    assert (status, output) == (255, b"two")
    assert (report.kind, report.step, report.errno, report.value) == (FAILURE, 8, 0, parent)


def test_expected_0_is_not_anything(machine):
    report = failure_of(lambda table: table.call("getppid", expect=0), machine)
    assert report.value == os.getpid()


def test_saved_result_is_the_next_calls_argument(machine, tmp_path):
    path = os.fsencode(tmp_path / "label")

    def build(table):
        table.call("openat", AT_FDCWD, path, os.O_WRONLY | os.O_CREAT | O_CLOEXEC, 0o600, save=True)
        table.call("write", SAVED, Pointer(b"unconfined"), 10)
        table.call("close", SAVED)
        table.call("write", SAVED, Pointer(b"closed by now"), 13, step=1)

    report = failure_of(build, machine)
    assert (report.step, report.errno) == (1, errno.EBADF)
    assert (tmp_path / "label").read_bytes() == b"unconfined"


def test_told_results_arrive(machine):
    def build(table):
        table.step = 2
        table.call("getpid", tell=True)
        table.call("getppid", tell=True)
        end(table)

    with launch(build, machine) as launched:
        reports = launched.reports()
        assert [(report.kind, report.step, report.value) for report in reports] == [
            (VALUE, 2, launched.pid),
            (VALUE, 2, os.getpid()),
        ]


def test_ready_is_a_report_of_its_own(machine):
    def build(table):
        table.step = 5
        table.ready()
        table.call("close", -1)

    _, reports, _ = run(build, machine)
    assert [(report.kind, report.step, report.errno) for report in reports] == [(READY, 5, 0), (FAILURE, 5, 9)]


def test_failure_without_a_report_descriptor_still_ends_it(machine):
    def build(table):
        table.ready()
        table.call("close", -1, ignore=(errno.EBADF,), warn=True)
        say(table, b"on")
        table.call("close", -1)

    assert run(build, machine, report=False) == (255, [], b"on")


def test_nobody_listening_does_not_matter(machine):
    """Python ignores SIGPIPE and the launcher inherits that: EPIPE for the reports, and on it goes."""

    def build(table):
        table.ready()
        table.call("close", -1, ignore=(errno.EBADF,), warn=True)
        say(table, b"on")
        table.call("close", -1)

    with launch(build, machine, listen=False) as launched:
        assert launched.output() == b"on"
        assert launched.wait() == 255


def test_program_does_not_inherit_the_channels(machine):
    reader, writer = os.pipe()
    extra = os.open("/dev/null", os.O_RDONLY)

    def build(table):
        os.set_inheritable(extra, True)
        table.gate(reader)
        table.reset_signals(ignored_signals())
        table.execve([b"/bin/sh"], [b"sh", b"-c", b"ls -l /proc/self/fd"], [b"PATH=/usr/bin:/bin"])

    try:
        os.write(writer, b"x")
        status, _, output = run(build, machine, close=(writer,))
        shown = [line.split(" -> ") for line in output.decode().splitlines() if " -> " in line]
        links = {int(name.split()[-1]): target for name, target in shown}
    finally:
        for fd in (reader, writer, extra):
            os.close(fd)
    assert status == 0
    assert links[extra] == "/dev/null"
    assert [fd for fd, target in links.items() if target.startswith("pipe:")] == [1, 2]
    assert not any("memfd:coracle" in target for target in links.values())


class Model:
    """What a table of harmless calls must do, worked out in Python."""

    # name and arguments → result in a process that has 0, 1, 2 open and runs in "/"
    CALLS = (
        ("close", (-1,), -errno.EBADF),
        ("chdir", (b"/",), 0),
        ("chdir", (b"/dev/null",), -errno.ENOTDIR),
        ("chdir", (b"",), -errno.ENOENT),
        ("fcntl", (2, 1, 0), 0),  # F_GETFD
        ("write", (1, Pointer(b"ab"), 2), 2),
        ("setpgid", (-5, 0), -errno.EINVAL),
    )
    ERRNOS = (errno.EBADF, errno.ENOTDIR, errno.ENOENT, errno.EINVAL, errno.EPERM, 133)

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.planned = []
        for step in range(chance.randrange(1, 25)):
            name, arguments, result = chance.choice(self.CALLS)
            modes = {mode: chance.random() < 0.3 for mode in ("warn", "save", "tell")}
            modes["tolerant"] = chance.random() < 0.5
            modes["ignore"] = chance.sample(self.ERRNOS, chance.randrange(len(self.ERRNOS) + 1))
            modes["expect"] = chance.choice((None, None, result, max(result, 0), 12345))
            self.planned.append((step, name, arguments, result, modes))

    def build(self, table: Table) -> None:
        for step, name, arguments, _, modes in self.planned:
            table.call(name, *arguments, step=step, **modes)
        end(table, 42)

    def outcome(self) -> tuple[int, list[tuple], bytes]:
        reports, output = [], b""
        for step, name, _, result, modes in self.planned:
            output += b"ab" if name == "write" else b""
            if result < 0 and (modes["tolerant"] or -result in modes["ignore"]):
                reports += [(WARNING, step, result, name)] if modes["warn"] else []
            elif result >= 0 and modes["tell"]:
                reports.append((VALUE, step, result, name))
            elif result < 0 or modes["expect"] not in (None, result):
                return 255, [*reports, (FAILURE, step, result, name)], output
        return 42, reports, output


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_random_tables_do_what_a_model_says(machine, seed):
    for number in range(seed, seed + 10):
        model = Model(number)
        status, reports, output = run(model.build, machine, before=lambda: os.chdir("/"))
        assert (status, [summary(report) for report in reports], output) == model.outcome(), f"seed {number}"


def summary(report: Report) -> tuple[str, int, int, str]:
    return report.kind, report.step, report.value, report.call
