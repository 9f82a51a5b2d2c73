"""From the launcher to the program: candidates, arguments, ids, capabilities, seccomp."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import struct
import subprocess
import sys

import pytest
from launching import MACHINES, failure_of, launch, run

from coracle.linux.launcher import FAILURE, READY, Pointer, Struct, Table, Vector, ignored_signals
from coracle.linux.syscall import NR, syscall

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing ids or the root directory needs root")
every_machine = pytest.mark.parametrize("machine", MACHINES)
SECCOMP_SET_MODE_FILTER = 1
ALLOW, KILL_PROCESS, FAIL_EPERM = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM


@pytest.fixture
def files(tmp_path):
    """Candidates of every kind, by name, as bytes."""
    tmp_path.chmod(0o755)
    (tmp_path / "directory").mkdir()
    for name, mode, text in (
        ("plain", 0o644, "#!/bin/sh\nexit 1\n"),
        ("junk", 0o755, "\0\1\2\3"),
        ("empty", 0o755, ""),
        ("script", 0o755, "#!/bin/sh\necho script $0 $1\n"),
        ("orphan", 0o755, "#!/nonexistent/interpreter\n"),
        ("loop", 0o755, "#!/proc/self/exe\n"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    names = ("missing", "plain", "junk", "empty", "script", "orphan", "loop", "directory", "plain/below")
    return {name: os.fsencode(tmp_path / name) for name in names}


def executing(*candidates: bytes, argv=(b"program", b"argument"), envp=()):
    def build(table: Table) -> None:
        table.step = 3
        table.reset_signals(ignored_signals())
        table.execve(candidates, argv, envp)

    return build


@every_machine
@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (["missing"], errno.ENOENT),
        (["plain"], errno.EACCES),
        (["directory"], errno.EACCES),
        (["plain/below"], errno.ENOTDIR),
        (["orphan"], errno.ENOENT),
        (["junk"], errno.ENOEXEC),
        (["empty"], errno.ENOEXEC),
        (["plain", "missing"], errno.EACCES),  # EACCES is what the user needs to hear
        (["missing", "plain"], errno.EACCES),
        (["missing", "plain", "plain/below", "missing"], errno.EACCES),
        (["missing", "plain/below"], errno.ENOTDIR),
        (["plain/below", "missing"], errno.ENOENT),
        (["plain", "junk", "script"], errno.ENOEXEC),  # a broken program is not passed over
    ],
)
def test_failing_candidates(machine, files, candidates, expected):
    report = failure_of(executing(*(files[name] for name in candidates)), machine)
    assert (report.kind, report.step, report.call) == (FAILURE, 3, "execve")
    assert errno.errorcode[report.errno] == errno.errorcode[expected]


@every_machine
@pytest.mark.parametrize("before", [[], ["missing"], ["plain"], ["missing", "plain/below", "directory", "orphan"]])
def test_first_good_candidate_wins(machine, files, before):
    candidates = [files[name] for name in (*before, "script", "junk")]
    assert run(executing(*candidates), machine) == (0, [], b"script " + files["script"] + b" argument\n")


@every_machine
def test_too_many_arguments_are_reported(machine, files):
    report = failure_of(executing(files["missing"], b"/bin/true", argv=[b"x" * 200_000]), machine)
    assert report.errno == errno.E2BIG


@every_machine
def test_odd_bytes_arrive_unchanged(machine):
    argv = [b"sh", b"-c", b'cat "/proc/$$/cmdline"; exit 0', b"", b"\xff\xfe", b"new\nline", b"'\"$(`", b" ", b""]
    envp = [b"A=b", b"=empty name", b"no equals sign", b"\xff=\x80", b"A=again", b""]
    assert run(executing(b"/bin/sh", argv=argv), machine) == (0, [], b"\0".join(argv) + b"\0")
    status, _, output = run(executing(b"/bin/cat", argv=[b"cat", b"/proc/self/environ"], envp=envp), machine)
    assert (status, output) == (0, b"\0".join(envp) + b"\0")


@every_machine
def test_no_arguments_and_no_environment(machine):
    """The kernel itself turns an empty argv into one empty string (Linux 5.18)."""
    if machine[0] == "aarch64":
        pytest.skip("qemu's user mode has its own idea of an empty argv")
    status, reports, _ = run(executing(b"/bin/true", argv=[]), machine)
    assert (status, reports) == (0, [])


@every_machine
def test_two_thousand_big_arguments_arrive(machine):
    argv = [b"sh", b"-c", b'cat "/proc/$$/cmdline"; exit 0', *(b"%04d" % number + b"x" * 700 for number in range(2000))]
    assert sum(map(len, argv)) > 1_400_000
    assert run(executing(b"/bin/sh", argv=argv), machine) == (0, [], b"\0".join(argv) + b"\0")


def test_script_that_asks_for_the_launcher_gets_no_host_program(files):
    """CVE-2019-5736: #!/proc/self/exe runs the file behind the waiting process, which is the launcher again.

    It walks its table once more, finds its channels closed, and ends without having said anything.
    """
    with launch(executing(files["loop"])) as launched:
        assert launched.reports() == []
        assert launched.output() == b""
        assert launched.wait() == 255


@pytest.mark.root
@needs_root
def test_ids_and_capabilities_change():
    net_bind = 1 << 10

    def build(table):
        for number in range(41):
            if number != 10:
                table.call("prctl", 24, number, 0, 0, 0, ignore=(errno.EINVAL,))  # PR_CAPBSET_DROP
        table.call("prctl", 8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        table.call("setgroups", 2, Struct("2I", 5, 6))
        table.call("setresgid", 1000, 1000, 1000)
        table.call("setresuid", 1000, 1000, 1000)
        table.call("capset", Struct("Ii", 0x20080522, 0), Struct("6I", net_bind, net_bind, net_bind, 0, 0, 0))
        table.call("prctl", 47, 2, 10, 0, 0)  # PR_CAP_AMBIENT_RAISE
        table.call("prctl", 38, 1, 0, 0, 0)
        executing(b"/bin/cat", argv=[b"cat", b"/proc/self/status"])(table)

    status, reports, output = run(build)
    shown = dict(line.split(":\t", 1) for line in output.decode().splitlines())
    assert (status, reports) == (0, [])
    assert shown["Uid"] == shown["Gid"] == "1000\t1000\t1000\t1000"
    assert shown["Groups"].split() == ["5", "6"]
    assert {int(shown[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {net_bind}
    assert shown["NoNewPrivs"] == "1"


def user_namespace_with_one_uid() -> None:
    """Become uid 1000 with all capabilities in a user namespace where 1000 is the only uid."""
    uid, gid = os.geteuid(), os.getegid()
    syscall("unshare", 0x10000000)  # CLONE_NEWUSER
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(fd, text.encode())
        os.close(fd)


@pytest.mark.parametrize("ambient", [False, True])
def test_capabilities_of_a_uid_other_than_0_survive_when_ambient(ambient):
    """The launcher is a program like any other: capabilities(7), transformation during execve."""
    chown, header = 1, struct.pack("Ii", 0x20080522, 0)

    def before():
        user_namespace_with_one_uid()
        if ambient:
            syscall("capset", header, struct.pack("6I", *[0xFFFFFFFF] * 3, *[0x1FF] * 3))
            syscall("prctl", 47, 2, 0, 0, 0)  # PR_CAP_AMBIENT_RAISE CAP_CHOWN

    status, reports, output = run(executing(b"/bin/cat", argv=[b"cat", b"/proc/self/status"]), before=before)
    if b"PermissionError" in output:
        pytest.skip("this user may not make user namespaces")
    shown = dict(line.split(":\t", 1) for line in output.decode().splitlines())
    assert (status, reports, shown["Uid"]) == (0, [], "1000\t1000\t1000\t1000")
    assert int(shown["CapEff"], 16) == (chown if ambient else 0)


def test_signals_are_as_a_program_expects():
    """Neither ignored (Python: SIGPIPE, SIGXFSZ; here also SIGHUP) nor blocked."""

    def before():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGRTMIN})

    status, _, output = run(executing(b"/bin/cat", argv=[b"cat", b"/proc/self/status"]), before=before)
    shown = dict(line.split(":\t", 1) for line in output.decode().splitlines())
    assert status == 0
    assert int(shown["SigIgn"], 16) == int(shown["SigBlk"], 16) == int(shown["SigCgt"], 16) == 0


@pytest.mark.root
@needs_root
def test_works_where_nothing_is_mounted(tmp_path):
    """After pivot_root there may be no /proc and no file at all: in an empty chroot the gate still opens."""
    reader, writer = os.pipe()

    def build(table):
        # as the runtime does: everything that needs files is done before the root directory changes
        ignored = ignored_signals()
        os.chdir(tmp_path)
        syscall("chroot", b".")
        table.gate(reader)
        table.step = 3
        table.reset_signals(ignored)
        table.execve([b"/bin/true"], [b"true"], [])

    try:
        with launch(build, close=(writer,)) as launched:
            assert launched.next_report().kind == READY
            os.write(writer, b"x")
            (report,) = launched.reports()
            assert (report.kind, report.step, report.errno) == (FAILURE, 3, errno.ENOENT)
            assert launched.wait() == 255
    finally:
        os.close(reader)
        os.close(writer)


def program(allowed: list[str], action: int) -> Struct:
    """A struct sock_fprog that allows the named calls and answers all others with ``action``."""
    load_number = struct.pack("HBBI", 0x20, 0, 0, 0)
    compare = [struct.pack("HBBI", 0x15, len(allowed) - at, 0, NR[name]) for at, name in enumerate(allowed)]
    returns = [struct.pack("HBBI", 0x06, 0, 0, value) for value in (action, ALLOW)]
    filled = [load_number, *compare, *returns]
    return Struct("HP", len(filled), Pointer(b"".join(filled)))


def filtered(table: Table, allowed: list[str], action: int) -> None:
    table.call("prctl", 38, 1, 0, 0, 0)
    table.call("seccomp", SECCOMP_SET_MODE_FILTER, 0, program(allowed, action))


def test_filter_that_allows_only_execve_is_loaded_right_before():
    """The program starts and is killed at its first own call; anything in between would have been fatal earlier."""

    def build(table):
        table.reset_signals(ignored_signals())
        filtered(table, ["execve"], KILL_PROCESS)
        table.execve([b"/bin/true"], [b"true"], [])

    with launch(build) as launched:
        assert launched.reports() == []
        assert launched.wait() == -31  # SIGSYS


TRACED = f"""
import sys
sys.path[:0] = {[os.path.dirname(__file__), *sys.path]!r}
from coracle.linux.launcher import Table, ignored_signals
from test_launcher_execve import filtered, KILL_PROCESS
table = Table()
table.reset_signals(ignored_signals())
filtered(table, ["execve"], KILL_PROCESS)
table.execve([b"/nonexistent/true", b"/bin/true"], [b"true"], [])
table.execute()
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_nothing_comes_between_seccomp_and_execve(tmp_path):
    trace = tmp_path / "trace"
    done = subprocess.run(["strace", "-o", trace, sys.executable, "-c", TRACED], capture_output=True, text=True)
    lines = trace.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("execveat("))
    assert '"", ["coracle-init"]' in lines[start]
    calls = [line.partition("(")[0] for line in lines[start:]]
    assert calls[1:7] == ["rt_sigaction", "rt_sigaction", "rt_sigprocmask", "prctl", "seccomp", "execve"], done.stderr
    assert lines[start + 6].startswith('execve("/nonexistent/true"')
    assert lines[start + 7].startswith('execve("/bin/true"')
    assert lines[start + 7].endswith("= 0")
    assert "killed by SIGSYS" in lines[-1]


def test_failure_under_a_filter_needs_write_and_exit_group_only():
    def build(table):
        filtered(table, ["execve", "write", "exit_group"], KILL_PROCESS)
        table.execve([b"/nonexistent"], [b"true"], [])

    assert failure_of(build).errno == errno.ENOENT


@pytest.mark.parametrize(("action", "expected"), [(KILL_PROCESS, -31), (FAIL_EPERM, -4)])
def test_failure_under_a_filter_that_forbids_even_that_ends_it(action, expected):
    """No loop and no way on: SIGSYS from the filter, or SIGILL from the instruction after exit_group."""

    def build(table):
        filtered(table, ["execve"], action)
        table.execve([b"/nonexistent"], [b"true"], [])

    with launch(build) as launched:
        assert launched.reports() == []
        assert launched.wait() == expected


def test_calls_after_an_early_filter_run_under_it():
    """Without no_new_privs the filter comes first; what it denies in the table is a failure of that step."""

    def build(table):
        filtered(table, ["write", "exit_group", "execve", "getpid"], FAIL_EPERM)
        table.call("getpid", step=1)
        table.call("setsid", step=2)

    report = failure_of(build)
    assert (report.step, report.errno, report.call) == (2, errno.EPERM, "setsid")


def test_listener_of_a_filter_is_told_and_can_be_fetched():
    """SECCOMP_FILTER_FLAG_NEW_LISTENER: the descriptor is told, the launcher waits until it was fetched."""
    reader, writer = os.pipe()

    def build(table):
        table.call("prctl", 38, 1, 0, 0, 0)
        table.call("seccomp", SECCOMP_SET_MODE_FILTER, 8, program([], ALLOW), step=4, tell=True)
        table.gate(reader, ready=False)
        table.execve([b"/bin/true"], [b"true"], [])

    fetched = -1
    try:
        with launch(build, close=(writer,)) as launched:
            report = launched.next_report()
            assert (report.kind, report.step) == ("value", 4)
            pidfd = os.pidfd_open(launched.pid)
            fetched = syscall("pidfd_getfd", pidfd, report.value, 0)
            os.close(pidfd)
            assert os.readlink(f"/proc/self/fd/{fetched}") == "anon_inode:seccomp notify"
            os.write(writer, b"x")
            assert launched.wait() == 0
    finally:
        for fd in (reader, writer, fetched):
            if fd >= 0:
                os.close(fd)


def test_vector_is_what_execve_wants_even_without_the_helper():
    def build(table):
        argv = Vector([b"echo", b"raw"])
        table.call("execve", b"/bin/echo", argv, Vector([]))

    assert run(build) == (0, [], b"raw\n")
