"""coracle-oci on the real kernel: a container's life by command lines, as conmon and containerd would write them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coracle.cli import oci
from coracle.runtime.spec.default import default_spec

BUSYBOX = shutil.which("busybox")
SOURCE = Path(oci.__file__).parents[2]
CODE = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from coracle.cli.oci import main; raise SystemExit(main())"

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(BUSYBOX is None, reason="busybox is not installed (Debian: busybox-static)"),
]


class Runtime:
    """coracle-oci with a state directory and a bundle of its own."""

    def __init__(self, directory):
        self.bundle = directory / "bundle"
        self.root = directory / "state"
        self.log = directory / "log.json"
        self.identifiers = set()
        programs = self.bundle / "rootfs/bin"
        programs.mkdir(parents=True)
        shutil.copy(BUSYBOX, programs / "busybox")
        for name in ("sh", "sleep", "echo", "cat", "id", "true"):
            (programs / name).symlink_to("busybox")

    def config(self, *arguments, **more):
        spec = default_spec()
        del spec["process"]["rlimits"]
        spec["process"] |= {"terminal": False, "args": list(arguments)}
        (self.bundle / "config.json").write_text(json.dumps(spec | more))

    def start_program(self, *words, **more):
        prefix = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            CODE,
            "--root",
            self.root,
            "--log",
            self.log,
            "--log-format",
            "json",
        ]
        return subprocess.Popen([*prefix, *words], stdin=subprocess.DEVNULL, text=True, **more)

    def __call__(self, *words, code=0):
        """Run one command; its standard output.  Output goes to files: a container may keep a pipe open."""
        if words[0] in ("create", "run"):
            self.identifiers.add(words[-1])
        out, err = self.root.with_name("out"), self.root.with_name("err")
        with out.open("w") as stdout, err.open("w") as stderr:
            result = self.start_program(*words, stdout=stdout, stderr=stderr).wait(30)
        assert result == code, err.read_text()
        self.errors = err.read_text()
        return out.read_text()

    def state(self, identifier):
        return json.loads(self("state", identifier))

    def wait_for(self, identifier, status):
        for _ in range(200):
            if self.state(identifier)["status"] == status:
                return
            time.sleep(0.02)
        raise AssertionError(f"{identifier} is {self.state(identifier)['status']}, not {status}")


@pytest.fixture
def runtime(tmp_path):
    runtime = Runtime(tmp_path)
    yield runtime
    for identifier in runtime.identifiers:
        runtime("delete", "--force", identifier)


def test_the_life_of_a_container(runtime, tmp_path):
    runtime.config("sleep", "100")
    pid_file = tmp_path / "pid"
    runtime("create", "--bundle", str(runtime.bundle), "--pid-file", str(pid_file), "life-1")
    state = runtime.state("life-1")
    assert state["status"] == "created"
    assert state["pid"] == int(pid_file.read_text())
    assert list(state)[:5] == ["ociVersion", "id", "pid", "status", "bundle"]
    runtime("start", "life-1")
    runtime.wait_for("life-1", "running")
    assert json.loads(runtime("ps", "--format", "json", "life-1")) == [state["pid"]]
    assert str(state["pid"]) in runtime("ps", "life-1").split()
    assert [entry["id"] for entry in json.loads(runtime("list", "--format=json"))] == ["life-1"]
    assert runtime("list", "-q") == "life-1\n"
    assert "life-1" in runtime("list").splitlines()[1]
    runtime("pause", "life-1")
    assert runtime.state("life-1")["status"] == "paused"
    runtime("resume", "life-1")
    runtime("update", "--pids-limit", "20", "--memory", "64m", "life-1")
    event = json.loads(runtime("events", "--stats", "life-1"))
    assert (event["type"], event["id"]) == ("stats", "life-1")
    assert event["data"]
    runtime("delete", "life-1", code=1)  # not stopped
    runtime("kill", "life-1", "KILL")
    runtime.wait_for("life-1", "stopped")
    runtime("kill", "life-1", "KILL", code=1)
    runtime("delete", "life-1")
    runtime("state", "life-1", code=1)


def test_exec_in_a_container(runtime, tmp_path):
    runtime.config("sleep", "100")
    runtime("run", "--detach", "-b", str(runtime.bundle), "exec-1")
    assert runtime("exec", "exec-1", "echo", "-n", "--all") == "--all"
    line = ["exec", "-u", "1000:1001", "-e", "A=b", "--cwd", "/bin", "exec-1", "sh", "-c", "id; echo $A; pwd; exit 7"]
    assert runtime(*line, code=7) == "uid=1000 gid=1001\nb\n/bin\n"
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"cwd": "/", "args": ["/bin/sh", "-c", "echo from a file"]}))
    assert runtime("exec", "--process", str(process), "exec-1") == "from a file\n"
    runtime("exec", "exec-1", "nonexistent", code=255)
    assert "executable file not found" in runtime.errors  # what podman turns into exit code 127


def test_run_and_its_exit_code(runtime):
    runtime.config("sh", "-c", "echo out; exit 3")
    assert runtime("run", "--bundle", str(runtime.bundle), "run-1", code=3) == "out\n"
    assert runtime("list", "-q") == ""


def test_the_log_names_what_is_wrong(runtime):
    runtime.config("true", root={"path": "missing"})
    runtime("create", "-b", str(runtime.bundle), "log-1", code=1)
    [entry] = [json.loads(line) for line in runtime.log.read_text().splitlines() if '"error"' in line]
    assert "missing" in entry["msg"]
    assert runtime.errors.startswith("coracle-oci: ")
    runtime("state", "log-1", code=1)


def test_the_pidfd_is_sent(runtime, tmp_path):
    runtime.config("sleep", "100")
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(20)
        runtime("create", "-b", str(runtime.bundle), "--pidfd-socket", path, "pidfd-1")
        link, _ = listener.accept()
    with link:
        _, [fd], _, _ = socket.recv_fds(link, 100, 1)
    try:
        [pid] = [line.split()[1] for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines() if "Pid:" in line]
        assert int(pid) == runtime.state("pidfd-1")["pid"]
    finally:
        os.close(fd)


def test_a_config_without_process_can_be_created(runtime):
    runtime.config("sleep", "100")
    spec = json.loads((runtime.bundle / "config.json").read_text())
    del spec["process"]
    (runtime.bundle / "config.json").write_text(json.dumps(spec))
    runtime("create", "-b", str(runtime.bundle), "empty-1")
    assert runtime.state("empty-1")["status"] == "created"


def test_kills_for_memory_are_events(runtime):
    memory = {"limit": 16 << 20, "swap": 16 << 20}
    spec = default_spec()["linux"]
    spec["resources"] = {**(spec.get("resources") or {}), "memory": memory}
    runtime.config("sh", "-c", "sleep 1; cat /dev/zero | busybox tail; sleep 1", linux=spec)
    runtime("run", "--detach", "-b", str(runtime.bundle), "oom-1")
    events = [json.loads(line) for line in runtime("events", "--interval", "500ms", "oom-1").splitlines()]
    assert {"type": "oom", "id": "oom-1"} in events
    assert {event["type"] for event in events} == {"stats", "oom"}


def test_the_seccomp_listener_is_handed_over(runtime, tmp_path):
    """The agent is asked for each mkdir(2) and answers with an errno of its own choice (seccomp_unotify(2))."""
    import array
    import fcntl
    import struct

    linux = default_spec()["linux"]
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}
    linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": str(tmp_path / "agent"),
        "listenerMetadata": "whose",
        "syscalls": [rule],
    }
    for hardened in (False, True):  # without and with no_new_privs the filter is loaded at different moments
        runtime.config("sh", "-c", "busybox mkdir /x; echo $?", linux=linux)
        config = json.loads((runtime.bundle / "config.json").read_text())
        config["process"]["noNewPrivileges"] = hardened
        (runtime.bundle / "config.json").write_text(json.dumps(config))
        name = f"notify-{hardened}"
        with socket.socket(socket.AF_UNIX) as agent:
            agent.bind(str(tmp_path / "agent"))
            agent.listen()
            agent.settimeout(20)
            out = tmp_path / f"out-{hardened}"
            runtime.identifiers.add(name)
            with out.open("w") as stdout:
                process = runtime.start_program("run", "-b", str(runtime.bundle), name, stdout=stdout, stderr=stdout)
                peer, _ = agent.accept()
                message, descriptors, _, _ = socket.recv_fds(peer, 65536, 1)
                state = json.loads(message)
                assert (state["fds"], state["metadata"], state["state"]["id"]) == (["seccompFd"], "whose", name)
                request = array.array("B", bytes(80))  # struct seccomp_notif
                fcntl.ioctl(descriptors[0], 0xC0502100, request)  # SECCOMP_IOCTL_NOTIF_RECV
                identifier = struct.unpack_from("Q", request)[0]
                # -73: an errno that mkdir(2) itself never has
                answer = array.array("B", struct.pack("QqiI", identifier, 0, -73, 0))
                fcntl.ioctl(descriptors[0], 0xC0182101, answer)  # SECCOMP_IOCTL_NOTIF_SEND
                assert process.wait(20) == 0
            assert os.strerror(73) in out.read_text()
            os.close(descriptors[0])
            peer.close()
        (tmp_path / "agent").unlink()


def test_hooks_run_at_their_moments(runtime, tmp_path):
    journal = tmp_path / "journal"
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    journalling = f'grep -o \'"status":"[a-z]*"\' | sed "s/^/$0 /" >> {journal}'
    hooks = {
        kind: [{"path": shutil.which("sh"), "args": ["sh", "-c", journalling, kind], "env": ["PATH=/usr/bin:/bin"]}]
        for kind in kinds
    }
    hooks["startContainer"] = [{"path": "/bin/sh", "args": ["sh", "-c", "echo inside > /hooked"]}]
    runtime.config("sh", "-c", "cat /hooked; sleep 100", hooks=hooks)
    config = json.loads((runtime.bundle / "config.json").read_text())
    config["root"]["readonly"] = False
    (runtime.bundle / "config.json").write_text(json.dumps(config))

    def moments():
        return [line.split()[0] for line in journal.read_text().splitlines()]

    runtime("create", "-b", str(runtime.bundle), "hooks-1")
    assert moments() == ["prestart", "createRuntime", "createContainer"]
    assert not (runtime.bundle / "rootfs/hooked").exists()
    runtime("start", "hooks-1")
    assert (runtime.bundle / "rootfs/hooked").read_text() == "inside\n"
    assert moments()[3:] == ["poststart"]
    runtime("delete", "--force", "hooks-1")
    assert moments()[4:] == ["poststop"]
    text = journal.read_text()
    assert 'createRuntime "status":"created"' in text and 'poststop "status":"stopped"' in text


def test_a_failing_hook_leaves_nothing(runtime):
    runtime.config("sleep", "100", hooks={"createRuntime": [{"path": "/bin/false"}]})
    runtime("create", "-b", str(runtime.bundle), "failing", code=1)
    assert "createRuntime hook /bin/false failed: exit status 1" in runtime.errors
    runtime.identifiers.discard("failing")
    assert runtime("list", "-q") == ""
