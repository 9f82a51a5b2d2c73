"""Broken bundles for coracle-oci create: one line that names the place in config.json, exit code 1, nothing left."""

from __future__ import annotations

import copy
import json
import os

import pytest

from coracle.runtime.spec.default import default_spec

pytestmark = pytest.mark.root

DELETE = object()


def changed(spec, path, value):
    """``spec`` with the value at ``path``, such as ``process.args[0]``, replaced."""
    spec = copy.deepcopy(spec)
    keys = [int(key) if key.isdigit() else key for key in path.replace("[", ".").replace("]", "").split(".")]
    place = spec
    for key in keys[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    if value is DELETE:
        del place[keys[-1]]
    elif isinstance(place, list) and keys[-1] == len(place):
        place.append(value)
    else:
        place[keys[-1]] = value
    return spec


# place in the config, value, what the message must hold
CONFIGS = [
    ("ociVersion", DELETE, "ociVersion"), ("ociVersion", "x", "ociVersion"), ("ociVersion", "2.0.0", "ociVersion"),
    ("ociVersion", 1, "ociVersion"), ("root", DELETE, "root"), ("root", "rootfs", "root"),
    ("root.path", DELETE, "root.path"),
    ("root.path", "", "root"), ("root.path", "no-such-root", "no-such-root"),
    ("root.path", "config.json", "config.json"),
    ("root.readonly", "yes", "root.readonly"),
    ("process.args", DELETE, "process.args"), ("process.args", [], "process.args"),
    ("process.args", "true", "process.args"),
    ("process.args", [1], "process.args[0]"), ("process.args", ["a\0b"], "process.args[0]"),
    ("process.args", [""], ""),
    ("process.cwd", DELETE, "process.cwd"), ("process.cwd", "relative", "process.cwd"),
    ("process.cwd", "/etc/passwd", "/etc/passwd"),
    ("process.env", ["A\0=b"], "process.env"), ("process.env", "A=b", "process.env"),
    ("process.env", {"A": "b"}, "process.env"),
    ("process.user", "root", "process.user"), ("process.user.uid", -1, "process.user.uid"),
    ("process.user.uid", "0", "process.user.uid"), ("process.user.uid", 1.5, "process.user.uid"),
    ("process.user.uid", 2**33, "process.user.uid"), ("process.user.additionalGids", [-1], "additionalGids[0]"),
    ("process.user.umask", -1, "umask"), ("process.terminal", "yes", "process.terminal"),
    ("process.terminal", True, "console-socket"), ("process.oomScoreAdj", 2000, "oomScoreAdj"),
    ("process.capabilities.bounding", ["CAP_FLY"], "CAP_FLY"),
    ("process.capabilities", ["CAP_KILL"], "process.capabilities"),
    ("process.rlimits", [{"type": "RLIMIT_HAIR", "soft": 1, "hard": 1}], "RLIMIT_HAIR"),
    ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}], "rlimits[0]"),
    ("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}] * 2, "rlimits[1]"),
    ("process.scheduler", {"policy": "SCHED_MAGIC"}, "SCHED_MAGIC"),
    ("process.ioPriority", {"class": "X"}, "ioPriority"),
    ("hostname", 5, "hostname"), ("hostname", "x" * 80, "host"), ("hostname", "a\0b", "hostname"),
    ("mounts", {}, "mounts"), ("mounts[0]", "x", "mounts[0]"),
    ("mounts[0].destination", DELETE, "mounts[0].destination"),
    ("mounts[7]", {"destination": "/x", "type": "bind", "options": ["bind"]}, "mounts[7]"),
    ("mounts[7]", {"destination": "/x", "type": "bind", "source": "/nonexistent", "options": ["bind"]}, "/nonexistent"),
    ("mounts[7]", {"destination": "/x", "type": "magic", "source": "x"}, "magic"),
    ("mounts[7]", {"destination": "/x", "type": "tmpfs", "source": "x", "options": ["color=red"]}, "color"),
    ("mounts[7]", {"destination": "/x", "type": "tmpfs", "source": "x", "options": ["size=large"]}, "size"),
    ("mounts[7]", {"destination": "/x", "type": "tmpfs", "source": "x", "options": "size=1m"}, "mounts[7].options"),
    ("mounts[7]", {"destination": "/etc/passwd", "type": "tmpfs", "source": "x"}, "/etc/passwd"),
    ("mounts[7]", {"destination": "/etc/passwd/x", "type": "tmpfs", "source": "x"}, "/etc/passwd"),
    ("mounts[7]", {"destination": "/x", "type": "bind", "source": "/tmp", "options": ["bind", "idmap"]}, "mounts[7]"),
    ("linux", [], "linux"), ("linux.namespaces", "pid", "linux.namespaces"),
    ("linux.namespaces", [{}], "namespaces[0]"),
    ("linux.namespaces", [{"type": "magic"}], "magic"), ("linux.namespaces", [{"type": "pid"}] * 2, "namespaces[1]"),
    ("linux.namespaces", [{"type": "pid", "path": "relative"}], "namespaces[0].path"),
    ("linux.namespaces[0]", {"type": "pid", "path": "/nonexistent"}, "/nonexistent"),
    ("linux.namespaces[0]", {"type": "pid", "path": "/etc/passwd"}, "/etc/passwd"),
    ("linux.namespaces[0]", {"type": "pid", "path": "/proc/1/ns/mnt"}, "namespace"),
    ("linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 1}], "uidMappings"),
    ("linux.uidMappings", [{"containerID": 0}], "uidMappings[0]"), ("linux.cgroupsPath", 5, "cgroupsPath"),
    ("linux.devices", [{"path": "relative", "type": "c", "major": 1, "minor": 3}], "devices[0].path"),
    ("linux.devices", [{"path": "/dev/x", "type": "q", "major": 1, "minor": 3}], "devices[0].type"),
    ("linux.devices", [{"path": "/dev/x", "type": "c"}], "devices[0]"),
    ("linux.resources.memory", {"limit": "64m"}, "memory.limit"),
    ("linux.resources.pids", {"limit": "x"}, "pids.limit"),
    ("linux.resources.memory", {"limit": 1}, "memory"), ("linux.resources.cpu", {"cpus": "9999"}, "cpu"),
    ("linux.resources.cpu", {"quota": -5}, "cpu"), ("linux.resources.unified", {"../x": "1"}, "unified"),
    ("linux.resources.devices", [{"allow": "yes"}], "devices[0]"),
    ("linux.sysctl", {"kernel.panic": "1"}, "kernel.panic"),
    ("linux.sysctl", {"net.ipv4.no_such": "1"}, "no_such"), ("linux.sysctl", ["x"], "linux.sysctl"),
    ("linux.maskedPaths", ["relative"], "maskedPaths[0]"), ("linux.readonlyPaths", "x", "readonlyPaths"),
    ("linux.rootfsPropagation", "sideways", "rootfsPropagation"),
    ("linux.personality", {"domain": "DOS"}, "personality"),
    ("linux.seccomp", {}, "linux.seccomp"), ("linux.seccomp", {"defaultAction": "SCMP_ACT_DANCE"}, "SCMP_ACT_DANCE"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["VAX"]}, "VAX"),
    ("linux.seccomp", {"defaultAction": "SCMP_ACT_NOTIFY"}, "listenerPath"),
    ("linux.timeOffsets", {"boottime": {"secs": 1}}, "timeOffsets"), ("linux.intelRdt", "x", "intelRdt"),
    ("hooks", [], "hooks"), ("hooks.prestart", [{}], "prestart[0].path"),
    ("hooks.prestart", [{"path": "x"}], "prestart[0].path"),
    ("hooks.prestart", [{"path": "/nonexistent"}], "/nonexistent"),
    ("hooks.createRuntime", [{"path": "/etc/passwd"}], "/etc/passwd"),
    ("hooks.createRuntime", [{"path": "/bin/false"}], "exit status 1"),
    ("hooks.createContainer", [{"path": "/bin/nothing"}], "/bin/nothing"),
    ("hooks.prestart", [{"path": "/bin/sleep", "args": ["sleep", "20"], "timeout": 1}], "timeout"),
    ("hooks.prestart", [{"path": "/bin/true", "timeout": 0}], "timeout"), ("annotations", ["x"], "annotations"),
    ("annotations", {"a": 1}, "annotations"),
]  # fmt: skip


@pytest.fixture
def runtime(store, busybox):
    spec = default_spec()
    del spec["process"]["rlimits"]
    spec["process"] |= {"terminal": False, "args": ["true"]}
    spec["root"] = {"path": str(busybox)}
    spec["linux"]["cgroupsPath"] = f"{store.group}/c"
    store.spec = spec
    store.path = store.directory / "bundle"
    store.path.mkdir()
    return store


def refuse(runtime, part, *options):
    result = runtime.oci(*options, "create", "--bundle", runtime.path, "c")
    assert result.code == 1 and result.out == "", result
    assert result.err.startswith("coracle-oci: ") and result.err.count("\n") == 1, result
    assert "internal" not in result.err and "Traceback" not in result.err and part in result.err, result
    assert runtime.settled() == []
    assert [name for name in os.listdir(runtime.state) if name != ".seccomp"] == [] if runtime.state.exists() else True


@pytest.mark.parametrize(
    "number", range(len(CONFIGS)), ids=[f"{path} {number}" for number, (path, _, _) in enumerate(CONFIGS)]
)
def test_broken_value(runtime, number):
    path, value, part = CONFIGS[number]
    (runtime.path / "config.json").write_text(json.dumps(changed(runtime.spec, path, value)))
    refuse(runtime, part)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "5",
        '"text"',
        "{}",
        '{"ociVersion": "1.0.0",}',
        "\ufeff",
        "{'a': 1}",
        '{"a": NaN}',
        "[" * 100_000,
    ],
    ids=["empty", "cut", "null", "array", "number", "string", "no keys", "comma", "mark", "quotes", "NaN", "deep"],
)
def test_not_a_config(runtime, text):
    (runtime.path / "config.json").write_text(text)
    refuse(runtime, "" if text in ("null", "[]", "5", '"text"', "{}") else "config.json")


def test_bytes_that_are_no_text(runtime):
    (runtime.path / "config.json").write_bytes(b'{"ociVersion": "\xff\xfe"}')
    refuse(runtime, "config.json")


def test_no_config(runtime):
    refuse(runtime, "config.json")


def test_config_that_is_a_directory(runtime):
    (runtime.path / "config.json").mkdir()
    refuse(runtime, "config.json")


def test_no_bundle(runtime):
    runtime.path.rmdir()
    refuse(runtime, "bundle")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--no-such-option",), "no-such-option"),
        (("--log-format", "poem"), "poem"),
        (("--cgroup-manager", "magic"), "magic"),
    ],
)
def test_global_options(runtime, options, part):
    (runtime.path / "config.json").write_text(json.dumps(runtime.spec))
    result = runtime.oci(*options, "create", "--bundle", runtime.path, "c")
    assert result.code == 1 and result.err.count("\n") == 1 and part in result.err, result
    assert runtime.settled() == []


COMMANDS = {
    "nothing": ([], ""), "unknown": (["fly", "c"], "fly"), "create without id": (["create"], "create"),
    "two ids": (["state", "a", "b"], "state"), "start of nothing": (["start", "nobody"], "nobody"),
    "state of nothing": (["state", "nobody"], "nobody"), "delete of nothing": (["delete", "nobody"], "nobody"),
    "kill of nothing": (["kill", "nobody", "TERM"], "nobody"),
    "kill with nonsense": (["kill", "nobody", "FLY"], "FLY"),
    "pause of nothing": (["pause", "nobody"], "nobody"), "exec in nothing": (["exec", "nobody", "true"], "nobody"),
    "update of nothing": (["update", "--memory", "1", "nobody"], "nobody"),
    "ps of nothing": (["ps", "nobody"], "nobody"),
    "update with nonsense": (["update", "--pids-limit", "many", "nobody"], "many"),
    "events of nothing": (["events", "--stats", "nobody"], "nobody"),
    "pid file": (["create", "--pid-file"], "pid-file"),
    "list in a form": (["list", "--format", "poem"], "poem"),
}  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_commands(store, case):
    words, part = COMMANDS[case]
    result = store.oci(*words)
    if case == "nothing":
        assert result.code in (0, 1)
        return
    assert result.code == (255 if words[0] == "exec" else 1), result
    assert result.err.count("\n") == 1 and part in result.err and "internal" not in result.err, result


def test_a_pid_file_that_cannot_be_written(runtime):
    (runtime.path / "config.json").write_text(json.dumps(runtime.spec))
    result = runtime.oci("create", "--pid-file", "/nonexistent/pid", "--bundle", runtime.path, "c", code=1)
    assert "/nonexistent/pid" in result.err and result.err.count("\n") == 1
    assert runtime.settled() == []


def test_an_id_that_is_taken(runtime):
    (runtime.path / "config.json").write_text(json.dumps(runtime.spec))
    runtime.oci("create", "--bundle", runtime.path, "c", code=0)
    result = runtime.oci("create", "--bundle", runtime.path, "c", code=1)
    assert "already exists" in result.err and result.err.count("\n") == 1
    runtime.oci("delete", "--force", "c", code=0)
    assert runtime.settled() == []


WRONG_STATES = {
    "created": [["exec", "c", "true"], ["delete", "c"], ["resume", "c"]],
    "running": [["start", "c"], ["delete", "c"], ["resume", "c"]],
    "stopped": [
        ["start", "c"],
        ["kill", "c", "TERM"],
        ["exec", "c", "true"],
        ["pause", "c"],
        ["update", "--memory", "9m", "c"],
    ],
}


@pytest.mark.parametrize("state", WRONG_STATES)
def test_commands_in_the_wrong_state(runtime, state):
    runtime.spec["process"]["args"] = ["sleep", "100"]
    (runtime.path / "config.json").write_text(json.dumps(runtime.spec))
    runtime.oci("create", "--bundle", runtime.path, "c", code=0)
    if state != "created":
        runtime.oci("start", "c", code=0)
    if state == "stopped":
        runtime.oci("kill", "c", "KILL", code=0)
        while json.loads(runtime.oci("state", "c").out)["status"] != "stopped":
            pass
    for words in WRONG_STATES[state]:
        result = runtime.oci(*words)
        if state == "created" and words[0] == "exec" and result.code == 0:
            continue  # runc and crun run a process in a created container, too
        assert result.code != 0 and result.err.count("\n") == 1 and state in result.err, (words, result)
    runtime.oci("delete", "--force", "c", code=0)
    assert runtime.settled() == []
