"""The command line of coracle-oci: the lines that podman, containerd and people write, and its messages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coracle import __version__
from coracle.cli import oci, oci_events, oci_exec, oci_print, oci_update
from coracle.cli.oci_options import COMMANDS, GLOBAL, check_choice, number, parse
from coracle.cli.oci_report import Report
from coracle.errors import CoracleError, KernelError, NotFoundError, SpecError, UnsupportedError, UsageError
from coracle.linux import signals
from coracle.runtime import lifecycle

SOURCE = Path(oci.__file__).parents[2]
ID = "c277e14e7a7d2def2a7de1544120ed97694fc68a5d6a076567630764b0fe4e87"
BUNDLE = f"/var/lib/containers/storage/overlay-containers/{ID}/userdata"
SHIM = ["--root", "/run/containerd/runc/moby", "--log", "/run/x/log.json", "--log-format", "json"]


def read(line):
    """Name of the command, global options, options and arguments of a command line."""
    settings, rest = parse(line, GLOBAL, ordered=True)
    command = COMMANDS[rest[0]]
    return rest[0], settings, *parse(rest[1:], command.options, command.ordered)


# command lines as conmon 2.1, podman 4.3, containerd 1.6 (dockerd 20.10) write them, recorded with a wrapper
RECORDED = [
    (
        ["--log-format=json", "--log", "/l", "create", "--bundle", BUNDLE, "--pid-file", "/p", ID],
        ("create", {"log-format": "json", "log": "/l"}, {"bundle": BUNDLE, "pid-file": "/p"}, [ID]),
    ),
    (
        [
            "--systemd-cgroup",
            "create",
            "--bundle",
            "/b",
            "--pid-file",
            "/p",
            "--console-socket",
            "/tmp/conmon-term.A",
            ID,
        ],
        (
            "create",
            {"systemd-cgroup": True},
            {"bundle": "/b", "pid-file": "/p", "console-socket": "/tmp/conmon-term.A"},
            [ID],
        ),
    ),
    (
        ["create", "--bundle", "/b", "--no-new-keyring", "--no-pivot", "--preserve-fds", "2", ID],
        ("create", {}, {"bundle": "/b", "no-new-keyring": True, "no-pivot": True, "preserve-fds": "2"}, [ID]),
    ),
    (["start", ID], ("start", {}, {}, [ID])),
    (
        ["--log-format=json", "--log", "/l", "exec", "--pid-file", "/p", "--process", "/j", "--detach", ID],
        (
            "exec",
            {"log-format": "json", "log": "/l"},
            {"pid-file": "/p", "process": "/j", "detach": True},
            [ID],
        ),
    ),
    (
        ["exec", "--pid-file", "/p", "--process", "/j", "--detach", "--tty", "--console-socket", "/s", ID],
        (
            "exec",
            {},
            {"pid-file": "/p", "process": "/j", "detach": True, "tty": True, "console-socket": "/s"},
            [ID],
        ),
    ),
    (["pause", ID], ("pause", {}, {}, [ID])),
    (["resume", ID], ("resume", {}, {}, [ID])),
    (["update", "--resources=/var/tmp/podman1", ID], ("update", {}, {"resources": "/var/tmp/podman1"}, [ID])),
    (["kill", ID, "9"], ("kill", {}, {}, [ID, "9"])),
    (["kill", "--all", ID, "15"], ("kill", {}, {"all": True}, [ID, "15"])),
    (["delete", "--force", ID], ("delete", {}, {"force": True}, [ID])),
    (["state", ID], ("state", {}, {}, [ID])),
    (["features"], ("features", {}, {}, [])),
    (
        [*SHIM, "create", "--bundle", "/b", "--pid-file", "/b/init.pid", "--console-socket", "/s", "t1"],
        (
            "create",
            {"root": "/run/containerd/runc/moby", "log": "/run/x/log.json", "log-format": "json"},
            {"bundle": "/b", "pid-file": "/b/init.pid", "console-socket": "/s"},
            ["t1"],
        ),
    ),
    (
        [*SHIM, "--systemd-cgroup", "exec", "--process", "/tmp/p", "--detach", "--pid-file", "/p", "t1"],
        (
            "exec",
            {
                "root": "/run/containerd/runc/moby",
                "log": "/run/x/log.json",
                "log-format": "json",
                "systemd-cgroup": True,
            },
            {"process": "/tmp/p", "detach": True, "pid-file": "/p"},
            ["t1"],
        ),
    ),
    (
        [*SHIM, "ps", "--format", "json", "t1"],
        (
            "ps",
            {"root": "/run/containerd/runc/moby", "log": "/run/x/log.json", "log-format": "json"},
            {"format": "json"},
            ["t1"],
        ),
    ),
    (["events", "--stats", "t1"], ("events", {}, {"stats": True}, ["t1"])),
    (["update", "--resources=-", "t1"], ("update", {}, {"resources": "-"}, ["t1"])),
    (["list", "--format=json"], ("list", {}, {"format": "json"}, [])),
    (["--rootless=true", "state", "t1"], ("state", {"rootless": "true"}, {}, ["t1"])),
    (["--cgroup-manager=disabled", "start", "t1"], ("start", {"cgroup-manager": "disabled"}, {}, ["t1"])),
    # the validation suite
    (["create", "--pid-file", "p", "--bundle", "b", "i"], ("create", {}, {"pid-file": "p", "bundle": "b"}, ["i"])),
    (["kill", "i", "TERM"], ("kill", {}, {}, ["i", "TERM"])),
    # people, and crun's own tests
    (["run", "-b", "/b", "-d", "--keep", "x"], ("run", {}, {"bundle": "/b", "detach": True, "keep": True}, ["x"])),
    (["run", "x", "--bundle=/b"], ("run", {}, {"bundle": "/b"}, ["x"])),
    (["create", "-bundle", "/b", "-f", "c.json", "x"], ("create", {}, {"bundle": "/b", "config": "c.json"}, ["x"])),
    (["create", "-b/b", "x"], ("create", {}, {"bundle": "/b"}, ["x"])),
    (["delete", "x", "-f"], ("delete", {}, {"force": True}, ["x"])),
    (["delete", "-fr", ".*"], ("delete", {}, {"force": True, "regex": True}, [".*"])),
    (["delete", "--force=false", "x"], ("delete", {}, {"force": False}, ["x"])),
    (["kill", "--", "-x", "KILL"], ("kill", {}, {}, ["-x", "KILL"])),
    (
        ["exec", "-dt", "-u", "0:0", "-e", "A=b", "--env=C=d", "-g", "5", "-c", "CAP_KILL", "x", "ls", "-l", "--all"],
        (
            "exec",
            {},
            {
                "detach": True,
                "tty": True,
                "user": "0:0",
                "env": ["A=b", "C=d"],
                "additional-gids": ["5"],
                "cap": ["CAP_KILL"],
            },
            ["x", "ls", "-l", "--all"],
        ),
    ),
    (["ps", "-f", "table", "x", "-o", "pid"], ("ps", {}, {"format": "table"}, ["x", "-o", "pid"])),
    (["exec", "--tty=true", "x", "sh"], ("exec", {}, {"tty": True}, ["x", "sh"])),
]


@pytest.mark.parametrize(("line", "meaning"), RECORDED, ids=[" ".join(line)[:60] for line, _ in RECORDED])
def test_command_lines_of_callers(line, meaning):
    assert read(line) == meaning


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["create", "--bogus", "x"], "unknown option --bogus"),
        (["create", "--bogus=1", "x"], "unknown option --bogus"),
        (["create", "-z", "x"], "unknown option -z"),
        (["delete", "-fz", "x"], "unknown option -z in -fz"),
        (["create", "---bundle", "x"], "unknown option ---bundle"),
        (["create", "x", "--bundle"], "option --bundle needs a value"),
        (["create", "x", "-b"], "option --bundle needs a value"),
        (["delete", "--force=maybe", "x"], "option --force is true or false, not 'maybe'"),
        (["--bogus", "create"], "unknown option --bogus"),
    ],
)
def test_wrong_options(line, text):
    with pytest.raises(UsageError) as caught:
        read(line)
    assert str(caught.value) == text


def test_tables_are_sound():
    for name, command in {"": None, **COMMANDS}.items():
        table = command.options if command else GLOBAL
        shorts = [short for short, _, _ in table.values() if short]
        assert len(shorts) == len(set(shorts)), name
        assert "help" in table, name
        assert all(text and not text.endswith(".") for _, _, text in table.values()), name
    assert set(COMMANDS) == set(oci._ACTIONS)


def test_numbers_and_choices():
    assert number({"preserve-fds": "3"}, "preserve-fds") == 3
    assert number({}, "preserve-fds") == 0
    for text in ("-1", "x", "", "1.5", "٣", "9" * 30):
        with pytest.raises(UsageError):
            number({"preserve-fds": text}, "preserve-fds")
    assert check_choice({}, GLOBAL, "log-format", "text") == "text"
    with pytest.raises(UsageError, match="option --log-format is text or json, not 'xml'"):
        check_choice({"log-format": "xml"}, GLOBAL, "log-format", "text")


# what the commands hand to the runtime


@pytest.fixture
def calls(monkeypatch):
    """Record the calls into the runtime instead of making containers."""
    from coracle.runtime import exec as exec_module

    recorded = []

    def recorder(name, result):
        return lambda *arguments, **named: recorded.append((name, arguments, named)) or result

    results = {"create": 4711, "run": 7, "state": {"status": "running", "id": "x", "ociVersion": "1.3.0", "pid": 3}}
    for name in ("create", "start", "state", "kill", "delete", "run", "pause", "resume", "update"):
        monkeypatch.setattr(lifecycle, name, recorder(name, results.get(name)))
    monkeypatch.setattr(lifecycle, "list_containers", lambda root: [{"id": "ab"}, {"id": "bc"}, {"id": "cd"}])
    monkeypatch.setattr(lifecycle, "processes", lambda root, identifier: [1, 20, os.getpid()])
    monkeypatch.setattr(lifecycle, "stats", lambda root, identifier: {"pids": {"current": 1}})
    monkeypatch.setattr(exec_module, "exec_process", recorder("exec", 5))
    return recorded


def test_create_passes_everything_on(calls):
    line = ["--root", "/r", "--systemd-cgroup", "--cgroup-manager=systemd", "create", "-b", "/b", "--config", "c.json"]
    line += ["--console-socket", "/s", "--pid-file", "/p", "--no-pivot", "--no-new-keyring", "--preserve-fds", "4", "x"]
    assert oci.main(line) == 0
    [(name, arguments, named)] = calls
    options = named.pop("options")
    assert (name, arguments, named) == ("create", ("x", "/b", "/r"), {})
    assert {slot: getattr(options, slot) for slot in options.__slots__ if slot != "warn"} == {
        "console_socket": "/s",
        "pid_file": "/p",
        "no_pivot": True,
        "new_keyring": False,
        "preserve_fds": 4,
        "systemd_cgroup": True,
        "cgroup_manager": "systemd",
        "config": "c.json",
    }


def test_defaults_of_create(calls, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert oci.main(["create", "x"]) == 0
    [(_, arguments, named)] = calls
    assert arguments == ("x", ".", "/run/coracle-oci")
    assert named["options"].new_keyring
    assert (named["options"].preserve_fds, named["options"].config) == (0, "")


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (["start", "x"], ("start", ("/r", "x"), {})),
        (["kill", "x"], ("kill", ("/r", "x", 15, False), {})),
        (["kill", "-a", "x", "SIGUSR1"], ("kill", ("/r", "x", 10, True), {})),
        (["pause", "x"], ("pause", ("/r", "x"), {})),
        (["resume", "x"], ("resume", ("/r", "x"), {})),
    ],
)
def test_simple_commands(calls, line, call):
    assert oci.main(["--root=/r", *line]) == 0
    assert calls == [call]


def test_delete_takes_a_regular_expression(calls):
    assert oci.main(["delete", "-f", "--regex", "^.?b"]) == 0
    assert [(arguments[1], arguments[2]) for _, arguments, _ in calls] == [("ab", True), ("bc", True)]
    assert oci.main(["delete", "--regex", "("]) == 1


def test_run_returns_the_programs_exit_code(calls):
    assert oci.main(["--root=/r", "run", "-d", "--keep", "x"]) == 7
    [(_, arguments, named)] = calls
    assert arguments == ("x", ".", "/r")
    assert (named["detach"], named["keep"]) == (True, True)


def test_exec_with_a_process_file(calls, tmp_path):
    file = tmp_path / "process.json"
    file.write_text(json.dumps({"cwd": "/", "args": ["id"], "user": None}))
    line = ["exec", "--process", str(file), "--detach", "--tty", "--console-socket", "/s", "--pid-file", "/p"]
    assert oci.main(["--root=/r", *line, "--preserve-fds=2", "--cgroup", "sub", "x"]) == 5
    [(_, arguments, named)] = calls
    assert arguments == ("/r", "x", {"cwd": "/", "args": ["id"], "terminal": True})
    named.pop("warn")
    assert named == {
        "detach": True,
        "console_socket": "/s",
        "pid_file": "/p",
        "preserve_fds": 2,
        "cgroup": "sub",
        "ignore_paused": False,
    }


def test_update_reads_options_and_files(calls, tmp_path):
    assert oci.main(["--root=/r", "update", "--memory", "1m", "x"]) == 0
    assert calls[0][1][:3] == ("/r", "x", {"memory": {"limit": 1 << 20}})
    file = tmp_path / "resources"
    file.write_text('{"pids": {"limit": 5}, "memory": null}')
    assert oci.main(["update", "--memory", "ignored", "-r", str(file), "x"]) == 0
    assert calls[1][1][2] == {"pids": {"limit": 5}}


def test_state_has_runcs_order(calls, capfd):
    assert oci.main(["state", "x"]) == 0
    output = capfd.readouterr().out
    assert list(json.loads(output)) == ["ociVersion", "id", "pid", "status"]
    assert output.startswith('{\n  "ociVersion": "1.3.0",\n')


def test_list_formats(calls, capfd):
    assert oci.main(["list", "-q"]) == 0
    assert capfd.readouterr().out == "ab\nbc\ncd\n"
    assert oci.main(["list", "--format", "json"]) == 0
    assert [state["id"] for state in json.loads(capfd.readouterr().out)] == ["ab", "bc", "cd"]
    assert oci.main(["list"]) == 0
    assert capfd.readouterr().out.splitlines()[:2] == [
        "ID          PID         STATUS      BUNDLE      CREATED     OWNER",
        "ab",
    ]


def test_table_is_that_of_runc():
    states = [
        {"id": "a-longer-identifier", "pid": 7, "status": "running", "bundle": "/b", "created": "now", "owner": "me"}
    ]
    assert oci_print.list_table(states).splitlines() == [
        "ID                    PID         STATUS      BUNDLE      CREATED     OWNER",
        "a-longer-identifier   7           running     /b          now         me",
    ]


def test_ps_formats(calls, capfd):
    assert oci.main(["ps", "-f", "json", "x"]) == 0
    assert json.loads(capfd.readouterr().out) == [1, 20, os.getpid()]
    assert oci.main(["ps", "x"]) == 0
    title, *lines = capfd.readouterr().out.splitlines()
    assert "PID" in title.split() or title == "PID"
    assert any(str(os.getpid()) in line.split() for line in lines)


def test_ps_without_a_pid_column(calls, capfd, tmp_path, monkeypatch):
    (tmp_path / "ps").write_text("#!/bin/sh\necho USER\n")
    (tmp_path / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/bin:/usr/bin")
    assert oci.main(["ps", "x"]) == 1
    assert "no PID column" in capfd.readouterr().err
    monkeypatch.setenv("PATH", "/nonexistent")
    assert oci.main(["ps", "x"]) == 0
    assert capfd.readouterr().out == f"PID\n1\n20\n{os.getpid()}\n"


def test_events_print_one_line(calls, capfd):
    assert oci.main(["events", "--stats", "x"]) == 0
    assert json.loads(capfd.readouterr().out) == {"type": "stats", "id": "x", "data": {"pids": {"current": 1}}}


def test_events_end_with_the_container(monkeypatch, capfd):
    answers = [{"n": 1}, {"n": 2}]

    def stats(root, identifier):
        if not answers:
            raise NotFoundError("gone")
        return answers.pop(0)

    monkeypatch.setattr(lifecycle, "stats", stats)
    monkeypatch.setattr(oci_events.Container, "open", oci_events.Container)  # no group: nothing to watch
    assert oci.main(["events", "--interval", "1ms", "x"]) == 0
    assert [json.loads(line)["data"]["n"] for line in capfd.readouterr().out.splitlines()] == [1, 2]
    assert oci.main(["events", "x"]) == 1  # it was not there from the start


# parts


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9), ("KILL", 9), ("SIGKILL", 9), ("kill", 9), ("TERM", 15), ("HUP", 1), ("SYS", 31), ("64", 64),
        ("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmin+30", 64), ("RTMAX-1", 63), ("RTMAX", 64), ("IOT", 6), ("POLL", 29),
    ],
)  # fmt: skip
def test_signals(text, number):
    assert signals.signal_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-9", "SIG", "FOO", "RTMIN+31", "RTMAX+1", "RTMIN-1", "RTMIN+", "9x", "٩", "RTMIN+٣", "999"]
)
def test_unknown_signals(text):
    with pytest.raises(UsageError, match="unknown signal"):
        signals.signal_number(text)


def test_signal_names_are_those_of_the_system():
    import signal

    ours = signals.SIGNALS
    for member in signal.Signals:
        name = member.name.removeprefix("SIG")
        assert ours.get(name, {"RTMIN": 34, "RTMAX": 64}.get(name)) == member.value, name


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("1m30s", 90), ("500ms", 0.5), ("0.5s", 0.5), ("1h", 3600)])
def test_durations(text, seconds):
    assert oci_events.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "0s", "-5s", "1.2.3s", ".s", "inf", "9" * 20 + "s", "5s "])
def test_wrong_durations(text):
    with pytest.raises(UsageError, match="is a duration"):
        oci_events.duration(text)


@pytest.mark.parametrize(
    ("options", "resources"),
    [
        ({"memory": "512"}, {"memory": {"limit": 512}}),
        ({"memory": "2k", "memory-swap": "-1"}, {"memory": {"limit": 2048, "swap": -1}}),
        ({"memory-reservation": "3MB"}, {"memory": {"reservation": 3 << 20}}),
        ({"memory": "1GiB"}, {"memory": {"limit": 1 << 30}}),
        ({"memory": "7b"}, {"memory": {"limit": 7}}),
        ({"cpu-share": "512", "cpu-quota": "-1", "cpuset-cpus": "0-1"},
         {"cpu": {"shares": 512, "quota": -1, "cpus": "0-1"}}),
        ({"cpu-period": "1", "cpu-rt-period": "2", "cpu-rt-runtime": "3", "cpu-idle": "1", "cpu-burst": "0"},
         {"cpu": {"period": 1, "realtimePeriod": 2, "realtimeRuntime": 3, "idle": 1, "burst": 0}}),
        ({"blkio-weight": "500", "pids-limit": "-1"}, {"blockIO": {"weight": 500}, "pids": {"limit": -1}}),
        ({"kernel-memory": "1m", "kernel-memory-tcp": "2m", "cpuset-mems": "0"},
         {"memory": {"kernel": 1 << 20, "kernelTCP": 2 << 20}, "cpu": {"mems": "0"}}),
    ],
)  # fmt: skip
def test_update_options(options, resources):
    assert oci_update.update_resources(options) == resources


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, UsageError),
        ({"memory": "x"}, UsageError),
        ({"memory": "1bb"}, UsageError),
        ({"memory": "1kk"}, UsageError),
        ({"memory": "-5"}, UsageError),
        ({"memory": ""}, UsageError),
        ({"pids-limit": "1k"}, UsageError),
        ({"pids-limit": "-"}, UsageError),
        ({"pids-limit": "-2"}, SpecError),
        ({"blkio-weight": "2000"}, SpecError),
        ({"l3-cache-schema": "L3:0=f"}, UnsupportedError),
    ],
)
def test_wrong_update_options(options, error):
    with pytest.raises(error):
        oci_update.update_resources(options)


def own():
    return {
        "process": {
            "args": ["sleep"],
            "cwd": "/home",
            "env": ["A=1"],
            "terminal": True,
            "user": {"uid": 5, "gid": 6, "additionalGids": [7]},
            "capabilities": {"bounding": ["CAP_KILL"], "inheritable": ["CAP_CHOWN"], "ambient": None},
        }
    }


def test_exec_builds_on_the_containers_process():
    options = {"env": ["A=2", "B="], "user": "1", "additional-gids": ["8"], "cap": ["CAP_KILL", "CAP_SETUID"]}
    assert oci_exec.exec_process(options, ["ls", "-l"], own) == {
        "args": ["ls", "-l"],
        "cwd": "/home",
        "env": ["A=1", "A=2", "B="],
        "terminal": False,
        "user": {"uid": 1, "gid": 6, "additionalGids": [7, 8]},
        "capabilities": {
            "bounding": ["CAP_KILL", "CAP_SETUID"],
            "effective": ["CAP_KILL", "CAP_SETUID"],
            "permitted": ["CAP_KILL", "CAP_SETUID"],
            "inheritable": ["CAP_CHOWN"],  # CVE-2022-29162: what is added is never inheritable
        },
    }


def test_exec_replaces_what_is_asked_for():
    options = {"user": "1:2", "cwd": "/x", "apparmor": "p", "process-label": "l", "no-new-privs": True, "tty": True}
    process = oci_exec.exec_process(options, ["ls"], own)
    assert process["user"] == {"uid": 1, "gid": 2, "additionalGids": [7]}
    assert (process["cwd"], process["apparmorProfile"], process["selinuxLabel"]) == ("/x", "p", "l")
    assert process["noNewPrivileges"] is process["terminal"] is True


def test_exec_in_a_container_without_process():
    assert oci_exec.exec_process({}, ["ls"], dict) == {
        "cwd": "/", "args": ["ls"], "terminal": False, "env": [], "user": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    "user", ["", "root", "1abc", "0x0", "-1", "+1", " 1", "1:", ":1", "1:x", "1:2:3", "4294967295", "٣"]
)
def test_user_is_numbers_only(user):
    """CVE-2026-30892: what is not a number must never become uid 0."""
    with pytest.raises(UsageError, match="is not a user"):
        oci_exec.exec_process({"user": user}, ["ls"], own)


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, []),
        ({"process": "/nonexistent"}, ["ls"]),
        ({"process": "/nonexistent", "env": ["A=b"]}, []),
        ({"process": "/nonexistent", "user": "0"}, []),
    ],
)
def test_exec_takes_a_command_or_a_file(options, command):
    with pytest.raises(UsageError):
        oci_exec.exec_process(options, command, own)


@pytest.mark.parametrize("text", ["[]", "{}", '{"cwd": "x", "args": ["a"]}', '"x"'])
def test_exec_checks_the_file(text, tmp_path):
    file = tmp_path / "p"
    file.write_text(text)
    with pytest.raises(SpecError, match=r"^process"):
        oci_exec.exec_process({"process": str(file)}, [], own)


# messages and exit codes


def test_report_in_json(tmp_path, capfd):
    log = tmp_path / "log"
    report = Report(str(log), "json")
    report.warning("first")
    report.error('second "quoted" \udcff\nline')
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [(entry["level"], entry["msg"]) for entry in entries] == [
        ("warning", "first"),
        ("error", 'second "quoted" \ufffd\nline'),
    ]
    for entry in entries:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["time"])
    assert os.fsencode(capfd.readouterr().err.rstrip("\n")).startswith(b'coracle-oci: second "quoted" ')


def test_report_in_text(tmp_path, capfd):
    log = tmp_path / "log"
    log.write_text("before\n")
    Report(f"file:{log}").error("bad \u00e4")
    assert re.fullmatch(r'before\ntime="[^"]+" level=error msg="bad \\u00e4"\n', log.read_text())
    assert capfd.readouterr().err == "coracle-oci: bad \u00e4\n"


def test_report_without_a_log(capfd):
    Report().warning("w\nx")
    Report(level="error").warning("hidden")
    assert capfd.readouterr().err == "coracle-oci: warning: w x\n"
    Report(form="json").error("e")
    assert json.loads(capfd.readouterr().err)["msg"] == "e"


def test_report_survives_a_log_that_cannot_be_written(capfd):
    Report("/nonexistent/log").error("bad")
    assert capfd.readouterr().err == (
        "coracle-oci: cannot write to the log /nonexistent/log: No such file or directory\ncoracle-oci: bad\n"
    )
    if os.path.exists("/dev/full"):
        Report("/dev/full").error("bad")
        assert capfd.readouterr().err == "coracle-oci: bad\n"


@pytest.mark.parametrize("log", ["journald:x", "syslog:x"])
def test_other_logs_are_refused(log, capfd):
    assert oci.main(["--log", log, "list"]) == 1
    assert "is a file" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ([], 1, "no command given"),
        (["bogus"], 1, "unknown command 'bogus'"),
        (["--bogus"], 1, "unknown option --bogus"),
        (["create", "--bogus", "x"], 1, "unknown option --bogus"),
        (["state"], 1, "state takes ID, got 0 arguments"),
        (["start", "x", "y"], 1, "start takes ID, got 2 arguments"),
        (["list", "x"], 1, "list takes no arguments, got 1 arguments"),
        (["state", "../x"], 1, 'container id "../x" is not valid'),
        (["create", ".x"], 1, 'container id ".x" is not valid'),
        (["exec", "x"], 255, "exec needs a command, or --process"),
        (["exec"], 255, "exec takes ID"),
        (["state", "x"], 1, "container x does not exist"),
        (["start", "x"], 1, "container x does not exist"),
        (["kill", "x"], 1, "container x does not exist"),
        (["delete", "x"], 1, "container x does not exist"),
        (["exec", "x", "ls"], 255, "container x does not exist"),
        (["kill", "x", "FOO"], 1, "unknown signal 'FOO'"),
        (["list", "-f", "xml"], 1, "option --format is table or json, not 'xml'"),
        (["--cgroup-manager=x", "list"], 1, "option --cgroup-manager is cgroupfs or systemd or disabled, not 'x'"),
        (["--log-format", "x", "list"], 1, "option --log-format"),
        (["create", "-b", "/nonexistent", "x"], 1, "/nonexistent/config.json: No such file or directory"),
        (["create", "--preserve-fds", "-1", "x"], 1, "option --preserve-fds"),
        (["run", "--pidfd-socket", "/s", "x"], 1, "option --pidfd-socket is for create"),
        (["update", "x"], 1, "update needs an option"),
        (["events", "--interval", "x", "x"], 1, "option --interval is a duration"),
    ],
)
def test_one_line_and_an_exit_code(line, code, text, capfd, tmp_path):
    assert oci.main(["--root", str(tmp_path / "state"), *line]) == code
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"coracle-oci: {text}"), output.err
    assert output.err.count("\n") == 1
    assert not list((tmp_path / "state").glob("*/*"))


def test_delete_force_of_a_missing_container(tmp_path, capfd):
    assert oci.main(["--root", str(tmp_path), "delete", "--force", "x"]) == 0
    assert capfd.readouterr() == ("", "")


def test_the_log_gets_what_the_caller_looks_for(tmp_path):
    log = tmp_path / "log"
    assert oci.main(["--root", str(tmp_path), "--log", str(log), "--log-format=json", "start", "x"]) == 1
    [entry] = [json.loads(line) for line in log.read_text().splitlines()]
    assert entry["level"] == "error"
    assert entry["msg"].startswith("container x does not exist")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KernelError(1, "mount a new proc on /proc"), "mount a new proc on /proc: operation not permitted"),
        (CoracleError("bad", "do this"), "bad (do this)"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ZeroDivisionError("oops"), "internal error: ZeroDivisionError: oops (--debug shows where)"),
    ],
)
def test_whatever_goes_wrong_is_one_line(error, text, monkeypatch, capfd):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(lifecycle, "start", fail)
    assert oci.main(["start", "x"]) == 1
    assert capfd.readouterr().err == f"coracle-oci: {text}\n"


def test_debug_shows_where(monkeypatch):
    monkeypatch.setattr(lifecycle, "start", lambda root, identifier: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        oci.main(["--debug", "start", "x"])


@pytest.mark.parametrize("line", [["--version"], ["-v"]])
def test_version(line, capfd):
    assert oci.main(line) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"coracle-oci version {__version__}"
    assert lines[1] == "spec: 1.3.0"


@pytest.mark.parametrize("line", [["--help"], ["-h"], ["help"]])
def test_main_help_lists_all_commands(line, capfd):
    assert oci.main(line) == 0
    output = capfd.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\S", output, re.MULTILINE), name
    for name in GLOBAL:
        assert f"--{name}" in output


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_lists_all_options(name, capfd):
    assert oci.main([name, "--help"]) == 0
    output = capfd.readouterr().out
    assert output.startswith(f"Usage: coracle-oci {name} [OPTIONS]")
    for option in COMMANDS[name].options:
        assert f"--{option}" in output
    assert max(map(len, output.splitlines())) <= 130
    assert oci.main(["help", name]) == 0
    assert capfd.readouterr().out == output


def test_spec_is_written_once(tmp_path, capfd):
    from coracle.runtime.spec import load

    assert oci.main(["spec", "--bundle", str(tmp_path)]) == 0
    load(str(tmp_path))
    assert oci.main(["spec", "--bundle", str(tmp_path)]) == 1
    assert "config.json exists already (remove it first)" in capfd.readouterr().err
    assert oci.main(["spec", "-b", str(tmp_path), "-f", "rootless.json", "--rootless"]) == 0
    assert load(str(tmp_path), "rootless.json")["linux"]["uidMappings"]


def test_features_are_json(capfd):
    assert oci.main(["features"]) == 0
    assert json.loads(capfd.readouterr().out)["ociVersionMax"] == "1.3.0"


def test_explain_prints_the_plan(tmp_path, capfd):
    (tmp_path / "rootfs").mkdir()
    assert oci.main(["spec", "-b", str(tmp_path)]) == 0
    line = ["--cgroup-manager=disabled", "explain", "-b", str(tmp_path)]
    assert oci.main(line) == 0
    prose = capfd.readouterr().out
    assert oci.main([*line, "--as", "json", "x"]) == 0
    steps = json.loads(capfd.readouterr().out)["steps"]
    assert len(steps) > 20
    assert "mount a new proc on /proc" in prose
    assert prose.rstrip().splitlines()[-1].lstrip(" 0123456789.").startswith(steps[-1]["prose"])
    assert any(step["fields"].get("destination") == "/proc" for step in steps)
    assert oci.main([*line, "--as=shell"]) == 0
    script = capfd.readouterr().out
    assert script.startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0
    assert oci.main([*line, "--as", "html"]) == 1


@pytest.mark.parametrize(
    ("uid", "runtime", "root"),
    [
        (0, "/run/user/0", "/run/coracle-oci"),
        (1000, "/run/user/1000", "/run/user/1000/coracle-oci"),
        (1000, "", "/tmp/coracle-run-1000/coracle-oci"),
        (1000, "relative", "/tmp/coracle-run-1000/coracle-oci"),
    ],
)
def test_default_root(uid, runtime, root, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert oci.default_root() == root


def program(*words, **more):
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from coracle.cli.oci import main; raise SystemExit(main())"
    )
    return subprocess.run([sys.executable, "-I", "-S", "-c", code, *words], text=True, stderr=subprocess.PIPE, **more)


def test_nobody_reads_the_output():
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        result = program("features", stdout=write_end)
    finally:
        os.close(write_end)
    assert (result.returncode, result.stderr) == (1, "")


def test_the_front_end_imports_nothing_expensive():
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        "import coracle.cli.oci, coracle.cli.oci_exec, coracle.linux.signals\n"
        "print(*sys.modules)"
    )
    output = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    forbidden = (
        "re json typing enum dataclasses pathlib subprocess signal socket argparse logging contextlib collections"
    )
    assert not set(output.split()) & set(
        f"{forbidden} functools ctypes tempfile shutil coracle.runtime.lifecycle".split()
    )
