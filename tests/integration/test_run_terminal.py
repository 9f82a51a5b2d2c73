"""``coracle run -t``: a terminal between two terminals; keys, sizes, signals, jobs of a shell."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess

import pytest
from containers import wait_until
from on_terminal import OnTerminal

pytestmark = pytest.mark.root
CTRL_C, CTRL_P, CTRL_Q, CTRL_Z = b"\x03", b"\x10", b"\x11", b"\x1a"


def on_terminal(store, *words):
    return OnTerminal(store.run_words(*words), store.environment)


def test_a_shell_as_people_use_it(clean_store, busybox):
    with on_terminal(clean_store, "--rm", "-it", "--rootfs", busybox, "sh") as terminal:
        terminal.expect(b"# ")
        terminal.send(b"stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo all$((1))\n")
        assert b"40 120\r\n/dev/pts/0\r\n" in terminal.expect(b"all1")
        terminal.resize(30, 99)
        terminal.send(b"sleep 0.2; stty size\n")
        terminal.expect(b"30 99")
        terminal.send(b"exit 5\n")
        assert terminal.wait() == 5
        assert terminal.is_restored()


def test_a_change_of_size_is_signalled(clean_store, busybox):
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    with on_terminal(clean_store, "--rm", "-it", "--rootfs", busybox, "sh", "-c", script) as terminal:
        terminal.expect(b"ready")
        terminal.resize(11, 22)
        terminal.expect(b"11 22")
        clean_store.command("rm", "-f", clean_store.command("ps", "-q").out.strip())
        assert terminal.wait() == 137


def test_ctrl_c_goes_to_the_program_and_not_to_the_client(clean_store, busybox):
    script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done"
    with on_terminal(clean_store, "--rm", "-it", "--rootfs", busybox, "sh", "-c", script) as terminal:
        terminal.expect(b"ready")
        terminal.send(CTRL_C)
        terminal.expect(b"caught")
        assert terminal.wait() == 3 and terminal.is_restored()


def test_detach_keys(clean_store, busybox):
    words = ("--name", "left", "-it", "--rootfs", busybox, "cat")
    with on_terminal(clean_store, *words) as terminal:
        terminal.send(b"typed\n")
        terminal.expect(b"typed\r\ntyped")
        terminal.send(CTRL_P + b"x\n")  # a sequence that is broken off reaches the program
        terminal.expect(b"^Px\r\n\x10x")
        terminal.send(CTRL_P + CTRL_Q)
        assert terminal.wait() == 0 and terminal.is_restored()
    assert "Up" in clean_store.command("ps").out
    clean_store.command("rm", "-f", "left", code=0)


@pytest.mark.parametrize(("keys", "typed"), [("ctrl-x,y", b"\x18y"), ("a", b"a")])
def test_own_detach_keys(clean_store, busybox, keys, typed):
    words = ("--name", "left", "--detach-keys", keys, "-it", "--rootfs", busybox, "cat")
    with on_terminal(clean_store, *words) as terminal:
        terminal.send(CTRL_P + b"z\n")
        terminal.expect(b"\x10z")
        terminal.send(typed)
        assert terminal.wait() == 0
    clean_store.command("rm", "-f", "left", code=0)


def test_terminal_without_interactive_takes_no_keys(clean_store, busybox):
    script = 'test -t 1 && echo terminal; read -t 1 line; echo "[$line]"'
    with on_terminal(clean_store, "--rm", "-t", "--rootfs", busybox, "sh", "-c", script) as terminal:
        terminal.send(b"typed\n")
        terminal.expect(b"terminal")
        terminal.expect(b"[]")
        assert terminal.wait() == 0 and terminal.is_restored()


def test_interactive_terminal_needs_a_terminal(clean_store, busybox):
    result = clean_store.run("--rm", "-it", "--rootfs", busybox, "true", code=125)
    assert "not a terminal" in result.err and result.err.count("\n") == 1


def test_terminal_with_output_to_a_pipe(clean_store, busybox):
    result = clean_store.run("--rm", "-t", "--rootfs", busybox, "sh", "-c", "test -t 1 && echo yes", code=0)
    assert result.out == "yes\r\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_killed_client_leaves_the_terminal_as_it_was(clean_store, busybox, number):
    with on_terminal(clean_store, "--name", "left", "-it", "--rootfs", busybox, "cat") as terminal:
        terminal.send(b"typed\n")
        terminal.expect(b"typed\r\ntyped")
        assert not terminal.is_restored()
        terminal.signal(number)
        assert terminal.wait() in (-number, 128 + number)
        assert terminal.is_restored()
    clean_store.command("rm", "-f", "left", code=0)


def test_hanging_up_detaches(clean_store, busybox):
    with on_terminal(clean_store, "--name", "left", "-it", "--rootfs", busybox, "cat") as terminal:
        terminal.send(b"typed\n")
        terminal.expect(b"typed\r\ntyped")
        os.close(terminal.slave)
        os.close(terminal.master)
        terminal.wait()
        terminal.master, terminal.slave = os.pipe()
    assert "Up" in clean_store.command("ps").out
    clean_store.command("rm", "-f", "left", code=0)


@pytest.fixture
def job_shell(clean_store):
    """bash with job control on a terminal, in which commands are typed."""
    environment = {**clean_store.environment, "PS1": "prompt> ", "TERM": "dumb"}
    with OnTerminal(["bash", "--norc", "--noprofile", "-i"], environment) as terminal:
        terminal.expect(b"prompt> ")
        yield terminal
        terminal.send(b"exit\n")
        terminal.wait()


def typed(store, *words):
    return shlex.join(store.run_words(*words)).encode()


def test_stopping_and_continuing_the_client(clean_store, busybox, job_shell):
    """Without a terminal Ctrl-Z stops the client alone; its output waits until it is in the foreground again."""
    script = "echo started; sleep 0.5; echo later; exit 6"
    job_shell.send(typed(clean_store, "--rm", "--rootfs", busybox, "sh", "-c", script) + b"\n")
    job_shell.expect(b"\r\nstarted")
    job_shell.send(CTRL_Z)
    job_shell.expect(b"Stopped")
    job_shell.expect(b"prompt> ")
    assert clean_store.processes(), "the container goes on"
    job_shell.send(b"sleep 1; fg\n")
    job_shell.expect(b"\r\nlater")
    job_shell.expect(b"prompt> ")
    job_shell.send(b"echo code $?\n")
    job_shell.expect(b"code 6")


def test_a_job_in_the_background_runs_to_its_end(clean_store, busybox, job_shell):
    job_shell.send(typed(clean_store, "--rm", "--rootfs", busybox, "sh", "-c", "echo o$((1))k") + b" & wait $!\n")
    job_shell.expect(b"o1k")
    job_shell.send(b"\necho co$((1))de $?\n")
    job_shell.expect(b"co1de 0")


def test_a_job_in_the_background_that_wants_the_terminal_is_stopped_until_it_has_it(clean_store, busybox, job_shell):
    """tcsetattr(3) from the background stops a process by SIGTTOU; it is not a failure."""
    job_shell.send(typed(clean_store, "--rm", "-it", "--rootfs", busybox, "sh") + b" &\n")
    job_shell.send(b"while ! jobs | grep -q Stopped; do sleep 0.1; done; echo st$((1))pped\n")
    job_shell.expect(b"st1pped")
    job_shell.send(b"fg\n")
    job_shell.send(b"echo in$((1))side; exit\n")
    job_shell.expect(b"in1side")
    job_shell.expect(b"prompt> ")
    job_shell.send(b"echo out$((1))side\n")
    job_shell.expect(b"out1side")


def test_no_process_of_a_container_is_in_the_callers_session(clean_store, busybox):
    process = clean_store.start("--rm", "--rootfs", busybox, "sleep", "100")
    assert wait_until(lambda: any(line.strip() == "sleep 100" for line in clean_store.processes().values()))
    sessions = {pid: os.getsid(pid) for pid in clean_store.processes() if pid != process.pid}
    assert len(sessions) == 2 and os.getsid(0) not in sessions.values(), "the monitor's and the container's"
    process.terminate()  # sleep as process 1 ignores TERM
    clean_store.command("rm", "-f", clean_store.command("ps", "-q").out.strip(), code=0)
    assert process.wait(20) == 137


def test_exec_with_a_terminal(clean_store, busybox):
    clean_store.run("-d", "--name", "main", "--rootfs", busybox, "sleep", "100", code=0)
    with OnTerminal(clean_store.words("main", "exec", "-it", "main", "sh"), clean_store.environment) as terminal:
        terminal.expect(b"# ")
        terminal.send(b"tty; stty size; exit 4\n")
        terminal.expect(b"/dev/pts/0\r\n40 120")
        assert terminal.wait() == 4 and terminal.is_restored()
    subprocess.run(clean_store.words("main", "rm", "-f", "main"), env=clean_store.environment, check=True)
