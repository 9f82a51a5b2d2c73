"""Wrong command lines: one line on standard error, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import stat
import struct

import pytest
from containers import Store

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def one_store(playground):
    """One store for all cases: what is left of any is seen by the next."""
    directory = playground / "bad-input"
    directory.mkdir()
    store = Store(directory)
    store.run("--rm", "--rootfs", "/nonexistent", "true")
    yield store
    store.destroy()


# options and image and command (ROOT: a busybox root), what the message must hold
WRONG = {
    # options
    "unknown option": (("--no-such-option", "ROOT", "true"), "no-such-option"),
    "unknown option with a near one": (("--memry", "1g", "ROOT", "true"), "--memory"),
    "unknown short option": (("-Z", "ROOT", "true"), "-Z"),
    "option without value": (("--name",), "--name"),
    "value for a flag": (("--rm=maybe", "ROOT", "true"), "--rm"),
    "no image": ((), "image"),
    "no image after options": (("--rm",), "image"),
    "empty image": (("",), "image"),
    "missing image": (("no-such-image:1", "true"), "no-such-image"),
    "image that is no reference": (("UPPER//case::x", "true"), "UPPER"),
    "not supported": (("--restart", "always", "ROOT", "true"), "--restart"),
    "named volume": (("-v", "data:/data", "ROOT", "true"), "named volume"),
    "bridge network": (("--network", "web", "ROOT", "true"), "--network"),
    # limits
    "memory of nothing": (("-m", "lots", "ROOT", "true"), "'lots' for -m"),
    "memory too small": (("-m", "1k", "ROOT", "true"), "minimum"),
    "negative memory": (("-m", "-5m", "ROOT", "true"), "'-5m' for -m"),
    "swap below memory": (("-m", "64m", "--memory-swap", "32m", "ROOT", "true"), "memory-swap"),
    "swap alone": (("--memory-swap", "64m", "ROOT", "true"), "memory"),
    "too many cpus": (("--cpus", "10000", "ROOT", "true"), "CPU"),
    "negative cpus": (("--cpus", "-1", "ROOT", "true"), "cpus"),
    "cpus and quota": (("--cpus", "1", "--cpu-quota", "5000", "ROOT", "true"), "--cpus"),
    "cpu that is not there": (("--cpuset-cpus", "9999", "ROOT", "true"), "cpuset"),
    "cpuset of words": (("--cpuset-cpus", "all", "ROOT", "true"), "cpuset"),
    "pids of words": (("--pids-limit", "few", "ROOT", "true"), "pids-limit"),
    "unknown ulimit": (("--ulimit", "hair=1", "ROOT", "true"), "hair"),
    "ulimit soft above hard": (("--ulimit", "nofile=200:100", "ROOT", "true"), "nofile"),
    "block device that is none": (("--device-read-bps", "/dev/null:1m", "ROOT", "true"), "/dev/null"),
    "blkio weight": (("--blkio-weight", "5", "ROOT", "true"), "blkio-weight"),
    "oom score": (("--oom-score-adj", "5000", "ROOT", "true"), "oom-score-adj"),
    "shm size": (("--shm-size", "tiny", "ROOT", "true"), "shm-size"),
    # process
    "user without name": (("-u", "nobody-here", "ROOT", "true"), "nobody-here"),
    "group without name": (("--group-add", "no-group-here", "ROOT", "true"), "no-group-here"),
    "relative directory": (("-w", "relative", "ROOT", "true"), "relative"),
    "directory that is a file": (("-w", "/etc/passwd", "ROOT", "true"), "/etc/passwd"),
    "env file that is missing": (("--env-file", "/nonexistent", "ROOT", "true"), "/nonexistent"),
    "env file that is a directory": (("--env-file", "/etc", "ROOT", "true"), "/etc"),
    "env file with nonsense": (("--env-file", "NONSENSE", "ROOT", "true"), "line 2"),
    "env without name": (("-e", "=x", "ROOT", "true"), "=x"),
    "umask": (("--umask", "999", "ROOT", "true"), "umask"),
    "stop signal": (("--stop-signal", "SIGNOTHING", "ROOT", "true"), "SIGNOTHING"),
    "detach keys": (("--detach-keys", "ctrl-?x", "ROOT", "true"), "detach-keys"),
    "no command": (("ROOT",), "command"),
    "empty command": (("ROOT", ""), ""),
    # root
    "root that is missing": (("--rootfs", "/nonexistent/root", "true"), "/nonexistent/root"),
    "root that is a file": (("--rootfs", "/etc/passwd", "true"), "/etc/passwd"),
    "empty root": (("--rootfs", "", "true"), ""),
    # mounts
    "volume without destination": (("-v", "/tmp", "ROOT", "true"), "volume"),
    "volume onto the root": (("-v", "/tmp:/", "ROOT", "true"), "'/'"),
    "volume to a relative place": (("-v", "/tmp:there", "ROOT", "true"), "there"),
    "volume with an unknown option": (("-v", "/tmp:/x:sideways", "ROOT", "true"), "sideways"),
    "volumes at one place": (("-v", "/tmp:/x", "-v", "/var:/x", "ROOT", "true"), "/x"),
    "mount without type": (("--mount", "src=/tmp", "ROOT", "true"), "mount"),
    "mount of unknown type": (("--mount", "type=magic,dst=/x", "ROOT", "true"), "magic"),
    "mount of a missing source": (("--mount", "type=bind,src=/nonexistent,dst=/x", "ROOT", "true"), "/nonexistent"),
    "tmpfs of unknown option": (("--tmpfs", "/x:color=red", "ROOT", "true"), "color"),
    "tmpfs of a bad size": (("--tmpfs", "/x:size=large", "ROOT", "true"), "size"),
    "file onto a directory": (("-v", "/etc/passwd:/tmp", "ROOT", "true"), "/tmp"),
    "directory onto a file": (("-v", "/tmp:/etc/passwd", "ROOT", "true"), "/etc/passwd"),
    "below a file": (("-v", "/tmp:/etc/passwd/below", "ROOT", "true"), "/etc/passwd"),
    # isolation
    "unknown capability": (("--cap-add", "CAP_FLY", "ROOT", "true"), "CAP_FLY"),
    "unknown security option": (("--security-opt", "safety=yes", "ROOT", "true"), "safety"),
    "profile that is missing": (("--security-opt", "seccomp=/nonexistent", "ROOT", "true"), "/nonexistent"),
    "profile that is no JSON": (("--security-opt", "seccomp=NONSENSE", "ROOT", "true"), "JSON"),
    "profile with an unknown action": (("--security-opt", "seccomp=PROFILE", "ROOT", "true"), "SCMP_ACT_DANCE"),
    "device that is missing": (("--device", "/dev/nonexistent", "ROOT", "true"), "/dev/nonexistent"),
    "device that is none": (("--device", "/etc/passwd", "ROOT", "true"), "/etc/passwd"),
    "device rule": (("--device-cgroup-rule", "x y z", "ROOT", "true"), "rule"),
    "sysctl without value": (("--sysctl", "net.ipv4.ip_forward", "ROOT", "true"), "sysctl"),
    "sysctl that is not there": (("--sysctl", "net.ipv4.no_such_thing=1", "ROOT", "true"), "no_such_thing"),
    "sysctl with a bad value": (("--sysctl", "net.ipv4.ip_forward=maybe", "ROOT", "true"), "ip_forward"),
    "pid of a container that is not": (("--pid", "container:nobody", "ROOT", "true"), "nobody"),
    "unknown pid mode": (("--pid", "sideways", "ROOT", "true"), "sideways"),
    "namespace that is a file": (("--pid", "ns:/etc/passwd", "ROOT", "true"), "/etc/passwd"),
    "namespace of another kind": (("--pid", "ns:/proc/self/ns/net", "ROOT", "true"), "namespace"),
    "private user namespace without map": (("--userns", "private", "ROOT", "true"), "--uidmap"),
    "maps that overlap": (
        ("--userns", "private", "--uidmap", "0:1000:10", "--uidmap", "5:2000:10", "ROOT", "true"), "overlap"),
    "clock that is none": (("--time-offset", "realtime=5", "ROOT", "true"), "realtime"),
    "offset beyond the clock": (("--time-offset", "boottime=-99999999999", "ROOT", "true"), "clock"),
    # names
    "name with a slash": (("--name", "a/b", "ROOT", "true"), "a/b"),
    "name in use": (("--name", "TAKEN", "ROOT", "true"), "TAKEN"),
    "cidfile that exists": (("--cidfile", "/etc/passwd", "ROOT", "true"), "/etc/passwd"),
    "cidfile in no directory": (("--cidfile", "/nonexistent/cid", "ROOT", "true"), "/nonexistent"),
    "host name too long": (("-h", "x" * 100, "ROOT", "true"), "at most 64"),
    "host name of the host": (("--uts", "host", "-h", "x", "ROOT", "true"), "--hostname"),
    "address of no host": (("--add-host", "x:nowhere", "ROOT", "true"), "nowhere"),
    "log option": (("--log-opt", "color=red", "ROOT", "true"), "color"),
}  # fmt: skip

STARTS = {  # command → exit code, what the message must hold
    "not in PATH": (["no-such-program"], 127, "$PATH"),
    "no such file": (["/bin/no-such-program"], 127, "no such file"),
    "below a file": (["/etc/passwd/x"], 127, "/etc/passwd/x"),
    "a directory": (["/etc"], 126, "directory"),
    "not executable": (["/etc/passwd"], 126, "permission denied"),
    "not executable in PATH": (["plain"], 126, "permission denied"),
    "empty file": (["/bad/empty"], 126, "empty"),
    "neither ELF nor script": (["/bad/text"], 126, "neither"),
    "script with carriage returns": (["/bad/dos"], 126, "carriage return"),
    "script without its interpreter": (["/bad/orphan"], 126, "/no/interpreter"),
    "script of a script of nothing": (["/bad/chain"], 126, "/bad/orphan"),
    "truncated ELF": (["/bad/truncated"], 126, "truncated"),
    "ELF of another machine": (["/bad/foreign"], 126, "s390x"),
    "ELF without its loader": (["/bad/loader"], 126, "/no/ld.so"),
    "device": (["/dev/null"], 126, "permission denied"),
    "link to itself": (["/bad/loop"], 126, "symbolic links"),
    "unreadable directory": (["/bad/closed/program"], 126, "permission denied"),
    "too long a name": (["/" + "x" * 300], 126, "too long"),
}


@pytest.fixture(scope="module")
def bad_root(playground):
    """A root with every kind of file that cannot be executed."""
    from containers import make_root

    root = make_root(playground / "bad-root")
    bad = root / "bad"
    bad.mkdir()
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    foreign = (
        header[:5] + b"\x02" + header[6:] + struct.pack(">HHIQQQIHHHHHH", 2, 22, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0)
    )
    interpreter = b"/no/ld.so\0"
    program = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400000, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 3, 4, 120, 0x400078, 0x400078, len(interpreter), len(interpreter), 1)
    for name, content in {
        "empty": b"", "text": b"just text\n", "dos": b"#!/bin/sh\r\necho x\r\n", "orphan": b"#!/no/interpreter\n",
        "chain": b"#!/bad/orphan\n", "truncated": header, "foreign": foreign,
        "loader": header + program + segment + interpreter,
    }.items():  # fmt: skip
        (bad / name).write_bytes(content)
        (bad / name).chmod(0o755)
    (root / "bin/plain").write_text("#!/bin/sh\n")
    (bad / "loop").symlink_to("loop")
    (bad / "closed").mkdir(mode=0o700)
    (bad / "closed/program").symlink_to("/bin/busybox")
    return root


def check(store, result, code, part):
    assert result.code == code, result
    assert result.out == "" and result.err.startswith("coracle: ") and result.err.endswith("\n"), result
    assert result.err.count("\n") == 1, result
    for word in ("Traceback", "internal error"):
        assert word not in result.err
    assert part in result.err, result
    assert store.settled() == []


@pytest.mark.parametrize("case", WRONG)
def test_wrong_command_line(one_store, busybox, case):
    words, part = WRONG[case]
    nonsense, profile = one_store.directory / "nonsense", one_store.directory / "profile"
    nonsense.write_text("A=b\nthis is not a name\n")
    profile.write_text('{"defaultAction": "SCMP_ACT_DANCE"}')
    if "TAKEN" in words:
        one_store.run("--name", "TAKEN", "--rootfs", busybox, "true", code=0)
    known = {
        "NONSENSE": str(nonsense),
        "seccomp=NONSENSE": f"seccomp={nonsense}",
        "seccomp=PROFILE": f"seccomp={profile}",
    }
    line = [item for word in words for item in (["--rootfs", busybox] if word == "ROOT" else [known.get(word, word)])]
    result = one_store.run(*line)
    if "TAKEN" in words:
        one_store.command("rm", "TAKEN", code=0)
    code = 127 if case == "empty command" else 125
    check(one_store, result, code, part)


@pytest.mark.parametrize("case", STARTS)
@pytest.mark.parametrize("options", [(), ("--init",)], ids=["", "init"])
def test_programs_that_cannot_start(one_store, bad_root, case, options):
    command, code, part = STARTS[case]
    user = ("-u", "1000") if case == "unreadable directory" else ()
    check(one_store, one_store.run("--rm", *options, *user, "--rootfs", bad_root, *command), code, part)


@pytest.mark.parametrize("case", STARTS)
def test_commands_that_cannot_start_by_exec(store, bad_root, case):
    command, code, part = STARTS[case]
    store.run("-d", "--name", "c", "--rootfs", bad_root, "sleep", "60", code=0)
    user = ("-u", "1000") if case == "unreadable directory" else ()
    result = store.command("exec", *user, "c", *command)
    assert (result.code, result.err.count("\n")) == (code, 1) and part in result.err, result


OTHERS = {
    "unknown command": (["fly"], 125, "fly"),
    "exec without command": (["exec", "x"], 125, "exec"),
    "exec in nothing": (["exec", "nobody", "true"], 125, "nobody"),
    "logs of nothing": (["logs", "nobody"], 125, "nobody"),
    "rm of nothing": (["rm", "nobody"], 1, "nobody"),
    "rm without name": (["rm"], 125, "rm"),
    "stop of nothing": (["stop", "nobody"], 1, "nobody"),
    "kill with a bad signal": (["kill", "-s", "NOTHING", "nobody"], 125, "NOTHING"),
    "wait for nothing": (["wait", "nobody"], 125, "nobody"),
    "ps with a word": (["ps", "what"], 125, "what"),
    "ps of a bad form": (["ps", "--format", "poem"], 125, "poem"),
    "explain of nothing": (["explain", "run", "--rm", "no-such-image"], 125, "no-such-image"),
    "explain of a bad option": (["explain", "run", "--bad", "x"], 125, "--bad"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_commands(one_store, case):
    words, code, part = OTHERS[case]
    check(one_store, one_store.command(*words), code, part)


def test_everything_stays_as_it_was(one_store, busybox):
    """Not only the store: no directory of a bind source, no device, no changed mode of what was tried above."""
    assert not os.path.exists("/nonexistent") and stat.S_IMODE(os.stat("/dev/null").st_mode) == 0o666
    assert sorted(path.name for path in one_store.root.iterdir()) == ["containers", "names", "store.lock"]
