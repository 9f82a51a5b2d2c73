"""``coracle run``: the program, its exit code, user, environment, standard files, records."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import time

import pytest
from containers import wait_until

pytestmark = pytest.mark.root

# options, shell command, the standard output (a regular expression for all of it, without the last newline)
PROCESS = {
    "arguments are passed as they are": ((), ("printf", "[%s]", "a b", "", "*", "--rm"), r"\[a b\]\[\]\[\*\]\[--rm\]"),
    "the environment is docker's": ((), "env | cut -d= -f1 | sort | tr '\\n' ' '", "HOME HOSTNAME PATH PWD SHLVL "),
    "PATH": ((), "echo $PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    "-e": (("-e", "A=b=c", "-e", "B="), "echo [$A][${B-unset}]", r"\[b=c\]\[\]"),
    "-e of the caller's environment": (
        ("-e", "HOME", "-e", "NOBODY_HAS_THIS"),
        "env | grep NOBODY; echo ${HOME%%/store-*}",
        "{playground}",
    ),
    "-w": (("-w", "/tmp"), "pwd", "/tmp"),
    "-w makes the directory": (("-w", "/work/deep"), "pwd", "/work/deep"),
    "root's home": ((), "echo $HOME", "/root"),
    "-u by number": (("-u", "1000:1001"), "id -u; id -g; echo $HOME", "1000\n1001\n/home/web"),
    "-u by name, with groups": (("-u", "web"), "id -u; id -g; id -G", "1000\n1001\n1001 50"),
    "-u with a group's name": (("-u", "web:staff"), "id -u; id -g", "1000\n50"),
    "-u unknown number": (("-u", "4321"), "id -u; id -g; echo $HOME", "4321\n0\n/"),
    "--group-add": (("-u", "4321", "--group-add", "staff", "--group-add", "77"), "id -G", "0 50 77"),
    "--entrypoint": (("--entrypoint", "/bin/echo"), ("a", "b"), "a b"),
    "--umask": (("--umask", "0077"), "umask", "0077"),
    "the default umask": ((), "umask", "0022"),
    "--tz": (("--tz", "UTC"), "echo $TZ", "UTC"),
    "--env-file": (("--env-file", "{directory}/env"), "echo $FROM_FILE", "x y"),
    "first process is process 1": ((), "echo $$", "1"),
    "no signal is ignored or blocked": ((), "grep -E 'Sig(Ign|Blk)' /proc/self/status | cut -f2", "0+\n0+"),
    "own session": ((), "cut -d' ' -f5,6 /proc/1/stat", "1 1"),
    "-u has no capabilities": (("-u", "web"), "grep CapEff /proc/self/status | cut -f2", "0+"),
}


@pytest.mark.parametrize("case", PROCESS)
def test_the_program_and_its_surroundings(shared_store, busybox, case):
    options, command, expected = PROCESS[case]
    (shared_store.directory / "env").write_text("# comment\nFROM_FILE=x y\n")
    words = [word.format(directory=shared_store.directory) for word in options]
    program = ("sh", "-c", command) if isinstance(command, str) else command
    result = shared_store.run("--rm", *words, "--rootfs", busybox, *program)
    assert re.fullmatch(expected.format(playground=shared_store.directory.parent), result.out.removesuffix("\n")), (
        result
    )
    assert (result.code, result.err) == (0, "")


EXITS = {
    "0": (0, ("true",)),
    "7": (7, ("sh", "-c", "exit 7")),
    "255": (255, ("sh", "-c", "exit 255")),
    "killed": (137, ("sh", "-c", "kill -9 $$; sleep 5"), ("--init",)),
    "terminated": (143, ("sh", "-c", "kill -TERM $$"), ("--init",)),
    "segmentation fault": (139, ("sh", "-c", "kill -SEGV $$"), ("--init",)),
    "real time signal": (128 + 40, ("sh", "-c", "kill -40 $$"), ("--init",)),
    "not found": (127, ("nothing-of-this-name",)),
    "not found by path": (127, ("/bin/nothing",)),
    "not executable": (126, ("/etc/passwd",)),
    "a directory": (126, ("/etc",)),
    "engine": (125, ("true",), ("--memory", "1k")),
}


@pytest.mark.parametrize("name", EXITS)
def test_exit_code(shared_store, busybox, name):
    code, command, options = (*EXITS[name], ())[:3]
    shared_store.run("--rm", *options, "--rootfs", busybox, *command, code=code)


def test_standard_input_only_with_interactive(shared_store, busybox):
    assert shared_store.run("--rm", "--rootfs", busybox, "cat", stdin=b"text", code=0).out == ""
    assert shared_store.run("--rm", "-i", "--rootfs", busybox, "cat", stdin=b"text", code=0).out == "text"


def test_bytes_pass_unchanged_in_both_directions(shared_store, busybox):
    data = bytes(range(256)) * 1000 + b"\0\r\n\xff"
    assert shared_store.run("--rm", "-i", "--rootfs", busybox, "cat", stdin=data, code=0).bytes == data


def test_output_and_error_stay_apart(shared_store, busybox):
    result = shared_store.run("--rm", "--rootfs", busybox, "sh", "-c", "echo out; echo err >&2", code=0)
    assert (result.out, result.err) == ("out\n", "err\n")


def test_standard_files_can_be_opened_again(shared_store, busybox):
    command = "echo one > /dev/stdout; echo two > /dev/stderr; echo three > /proc/self/fd/1"
    result = shared_store.run("--rm", "-u", "web", "--rootfs", busybox, "sh", "-c", command, code=0)
    assert (result.out, result.err) == ("one\nthree\n", "two\n")


def test_without_rm_the_container_stays_until_it_is_removed(clean_store, busybox):
    clean_store.run("--name", "kept", "--rootfs", busybox, "sh", "-c", "echo said; exit 3", code=3)
    (row,) = json.loads(clean_store.command("ps", "-a", "--format", "json", code=0).out)
    assert (row["name"], row["status"]) == ("kept", "exited")
    assert "Exited (3)" in row["description"]
    assert clean_store.command("logs", "kept", code=0).out == "said\n"
    assert clean_store.groups() == []
    clean_store.command("rm", "kept", code=0)


def test_detached_with_log_name_and_cidfile(clean_store, busybox):
    store, cidfile = clean_store, clean_store.directory / "cid"
    script = "echo out; echo err >&2; printf unfinished; sleep 30"
    words = ("-d", "--name", "web.1", "--cidfile", cidfile, "--rootfs", busybox, "sh", "-c", script)
    started = time.monotonic()
    identifier = store.run(*words, code=0).out.strip()
    assert time.monotonic() - started < 20
    assert re.fullmatch("[0-9a-f]{64}", identifier)
    assert cidfile.read_text() == identifier
    assert store.identifier("web.1") == identifier
    log = store.root / f"containers/{identifier}/log"
    assert wait_until(lambda: log.exists() and log.read_text().count("\n") >= 2)
    assert store.run("--name", "web.1", "--rootfs", busybox, "true").code == 125
    store.command("rm", "-f", "web.1", code=0)
    records = store.command("ps", "-aq", code=0).out
    assert records == ""


def test_a_log_tells_streams_and_times(store, busybox):
    store.run("--name", "logged", "--rootfs", busybox, "sh", "-c", "echo out; echo err >&2; printf half", code=0)
    identifier = store.identifier("logged")
    entries = [json.loads(line) for line in (store.root / f"containers/{identifier}/log").read_text().splitlines()]
    assert sorted((entry["stream"], entry["log"]) for entry in entries) == [
        ("stderr", "err\n"), ("stdout", "half"), ("stdout", "out\n"),
    ]  # fmt: skip
    assert all(re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$", entry["time"]) for entry in entries)
    result = store.command("logs", "logged", code=0)
    assert (result.out, result.err) == ("out\nhalf", "err\n")


def test_a_log_is_bounded(store, busybox):
    options = ("--name", "noisy", "--log-opt", "max-size=100k", "--log-opt", "max-file=2")
    store.run(*options, "--rootfs", busybox, "sh", "-c", "yes 0123456789 | head -n 180000", code=0)
    identifier = store.identifier("noisy")
    logs = [path for path in (store.root / f"containers/{identifier}").iterdir() if path.name.startswith("log")]
    assert len(logs) == 2
    assert sum(path.stat().st_size for path in logs) <= 2 * 100 * 1024
    assert store.command("logs", "noisy", code=0).out.endswith("0123456789\n")


def test_no_log(store, busybox):
    store.run("--name", "quiet", "--log-driver", "none", "--rootfs", busybox, "echo", "x", code=0)
    identifier = store.identifier("quiet")
    assert not (store.root / f"containers/{identifier}/log").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_forwarded(clean_store, busybox, number):
    script = f"trap 'echo caught; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    process = clean_store.start("--rm", "--rootfs", busybox, "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    assert process.wait(20) == 9
    assert process.stdout.read() == b"caught\n"


@pytest.mark.parametrize("option", ["--init", "--init=false"])
def test_init_reaps_orphans(clean_store, busybox, option):
    clean_store.run("-d", "--name", "idle", option, "--rootfs", busybox, "sleep", "100", code=0)
    orphan = "(sleep 0.1 & exec true); sleep 0.4; ps -o stat,comm"
    listed = clean_store.command("exec", "idle", "sh", "-c", orphan, code=0).out
    assert ("Z" in listed) is (option != "--init"), listed
    clean_store.command("rm", "-f", "idle", code=0)


def test_init_forwards_signals(clean_store, busybox):
    script = "trap 'exit 4' TERM; echo pid $$; while :; do sleep 0.05; done"
    words = ("--rm", "--init", "--rootfs", busybox, "sh", "-c", script)
    process = clean_store.start(*words, stdout=subprocess.PIPE)
    assert process.stdout.readline() not in (b"pid 1\n", b"")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 4


def test_stop_signal(clean_store, busybox):
    script = "trap 'echo got QUIT; exit 5' QUIT; echo ready; while :; do sleep 0.05; done"
    words = ("-d", "--name", "polite", "--stop-signal", "SIGQUIT", "--rootfs", busybox, "sh", "-c", script)
    clean_store.run(*words, code=0)
    assert wait_until(lambda: "ready" in clean_store.command("logs", "polite").out)
    clean_store.command("stop", "polite", code=0)
    assert "got QUIT" in clean_store.command("logs", "polite").out
    assert clean_store.command("wait", "polite").out == "5\n"
    clean_store.command("rm", "polite", code=0)


def test_the_end_of_process_1_ends_all_others(clean_store, busybox):
    clean_store.run("--rm", "--rootfs", busybox, "sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & exit 6", code=6)
    assert clean_store.processes() == {}


def test_the_caller_may_close_his_standard_files(clean_store, busybox):
    command = clean_store.run_words("--rm", "--rootfs", busybox, "sh", "-c", "ls /proc/1/fd; true")
    script = shlex.join(command)
    for closed in ("0<&-", "0<&- 2>&-"):
        result = subprocess.run(["sh", "-c", f"{script} {closed}"], env=clean_store.environment, stdout=subprocess.PIPE)
        assert (result.returncode, result.stdout.split()) == (0, [b"0", b"1", b"2"]), closed
    assert subprocess.run(["sh", "-c", f"{script} >&-"], env=clean_store.environment).returncode == 0
    result = subprocess.run(
        ["sh", "-c", f"{script.replace('--rm', '--no-such-option')} >&- 2>&-"], env=clean_store.environment
    )
    assert result.returncode == 125


def test_exec_shares_everything_with_the_container(clean_store, busybox):
    words = ("-d", "--name", "main", "-m", "64m", "-e", "A=b", "-h", "here", "-w", "/tmp", "--rootfs", busybox)
    clean_store.run(*words, "sleep", "100", code=0)
    script = "hostname; pwd; echo $A; cat /proc/self/cgroup | grep -c ':/$'; ps -o comm | grep -c sleep; exit 8"
    result = clean_store.command("exec", "main", "sh", "-c", script, code=8)
    lines = result.out.splitlines()
    assert (lines[:3], lines[4]) == (["here", "/tmp", "b"], "1")
    assert int(lines[3]) > 0
    assert clean_store.command("exec", "-i", "main", "cat", stdin=b"in", code=0).out == "in"
    assert clean_store.command("exec", "-u", "web", "main", "id", "-u", code=0).out == "1000\n"
    assert clean_store.command("exec", "main", "nothing").code == 127
    assert clean_store.command("exec", "main", "/etc").code == 126
    clean_store.command("rm", "-f", "main", code=0)
