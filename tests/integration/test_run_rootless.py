"""``coracle run`` by ordinary users: one with ranges of subordinate ids, one with his own id alone."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from containers import wait_until
from on_terminal import OnTerminal

# What has to be the same for everybody: options, command, output.
CASES = {
    "root inside": ((), "id -u; id -g; grep CapEff /proc/self/status | cut -f2", r"0\n0\n00000000a80425fb"),
    "its own processes": ((), "echo $$; ls /proc | grep -c '^[0-9]'", r"1\n[1-4]"),
    "namespaces": (
        (), "for n in cgroup ipc mnt net pid uts user; do readlink /proc/self/ns/$n; done | wc -l", "7"),
    "environment": (("-e", "A=b", "-w", "/tmp"), "echo $A; pwd", r"b\n/tmp"),
    "host name": (("-h", "box"), "hostname; grep -c box /etc/hosts", r"box\n1"),
    "loopback": ((), "ls /sys/class/net; ping -c1 -w2 127.0.0.1 >/dev/null; echo $?", r"lo\n[01]"),
    "devices": (
        (), "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; test -t 0; echo $?",
        r"3\n2\n1"),
    "/dev/shm": (("--shm-size", "1m"), "touch /dev/shm/x; df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
    "tmpfs": (("--tmpfs", "/t"), "touch /t/x && ls /t", "x"),
    "read-only": (("--read-only",), "touch /x 2>&1 | grep -c Read-only", "1"),
    "masked": ((), "cat /proc/keys /proc/timer_list | wc -c; touch /proc/sys/kernel/panic 2>&1 | grep -c Read-only",
               r"0\n1"),
    "seccomp": ((), "grep Seccomp: /proc/self/status | cut -f2", "2"),
    "no-new-privileges": (
        ("--security-opt", "no-new-privileges"), "grep NoNew /proc/self/status | cut -f2", "1"),
    "capabilities": (
        ("--cap-drop", "ALL", "--cap-add", "KILL"), "grep CapEff /proc/self/status | cut -f2", "0000000000000020"),
    "ulimit": (("--ulimit", "nofile=99"), "ulimit -n", "99"),
    "sysctl": (("--sysctl", "net.ipv4.ip_forward=1"), "cat /proc/sys/net/ipv4/ip_forward", "1"),
    "network host": (("--network", "host"), "readlink /proc/self/ns/net", re.escape(os.readlink("/proc/self/ns/net"))),
    "pid host": (("--pid", "host"), "readlink /proc/self/ns/pid", re.escape(os.readlink("/proc/self/ns/pid"))),
    "time offset": (("--time-offset", "boottime=100"), "cat /proc/self/timens_offsets | tail -1", r"boottime +100 +0"),
    "init": (("--init",), "test $$ != 1 && echo other", "other"),
    "standard files": (("-i",), "cat; echo e >/dev/stderr; echo o >/dev/stdout", "typedo"),
}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("name", CASES)
def test_options(user_store, user_root, name):
    options, script, expected = CASES[name]
    result = user_store.run("--rm", *options, "--rootfs", user_root, "sh", "-c", script, stdin=b"typed")
    assert re.fullmatch(expected, result.out.removesuffix("\n")), result
    assert "Traceback" not in result.err and _errors(result) == [], result
    assert user_store.settled() == []


def _errors(result):
    """Lines of the engine's but warnings."""
    return [line for line in result.err.splitlines() if line.startswith("coracle: ") and "warning" not in line]


@pytest.mark.root
def test_exit_codes(user_store, user_root):
    for code, command in ((0, ["true"]), (7, ["sh", "-c", "exit 7"]), (127, ["nothing"]), (126, ["/etc/passwd"])):
        user_store.run("--rm", "--rootfs", user_root, *command, code=code)
    user_store.run("--rm", "--no-such-option", "--rootfs", user_root, "true", code=125)
    assert user_store.settled() == []


@pytest.mark.root
def test_files_belong_to_the_caller(user_store, user_root, tenant):
    shared = user_store.directory / "shared"
    shared.mkdir()
    os.chown(shared, tenant.uid, tenant.gid)
    user_store.run("--rm", "-v", f"{shared}:/x", "--rootfs", user_root, "sh", "-c", "echo mine > /x/file", code=0)
    info = (shared / "file").stat()
    assert (info.st_uid, info.st_gid) == (tenant.uid, tenant.gid)


@pytest.mark.root
def test_other_users_need_ranges(user_store, user_root, tenant):
    result = user_store.run("--rm", "-u", "web", "--rootfs", user_root, "id", "-u")
    if tenant.ranges:
        assert (result.code, result.out) == (0, "1000\n"), result
    else:
        assert result.code == 125 and result.err.count("\n") == 1 and "user 1000" in result.err, result
    assert user_store.settled() == []


@pytest.mark.root
def test_host_is_cloned_without_a_trace(user_store, tenant):
    script = "echo x > /etc/coracle-user-test 2>&1; cat /etc/coracle-user-test; cat /etc/os-release | wc -l; echo $HOME"
    result = user_store.run("--rm", "host", "sh", "-c", script)
    assert result.code == 0 and not _errors(result), result
    assert not os.path.exists("/etc/coracle-user-test")
    assert int(result.lines[-2]) > 0
    assert user_store.settled() == []


@pytest.mark.root
def test_nothing_of_the_host_can_be_written(user_store, user_root):
    """Root inside is the user outside: what he may not do, it may not."""
    script = "touch /h/etc/new /h/root/new /h/new; chmod 777 /h/etc/passwd"
    before = os.stat("/etc/passwd").st_mode
    result = user_store.run("--rm", "-v", "/:/h", "--rootfs", user_root, "sh", "-c", script)
    assert os.stat("/etc/passwd").st_mode == before and not os.path.exists("/etc/new"), result


@pytest.mark.root
def test_detached_logs_stop_and_remove(user_store, user_root):
    script = "trap 'exit 3' TERM; echo said; while :; do sleep 0.05; done"
    identifier = user_store.detach("--name", "mine", "--rootfs", user_root, "sh", "-c", script)
    assert re.fullmatch("[0-9a-f]{64}", identifier)
    assert wait_until(lambda: user_store.command("logs", "mine").out == "said\n")
    assert "mine" in user_store.command("ps").out
    assert user_store.command("exec", "mine", "sh", "-c", "echo $$; id -u").lines[1:] == ["0"]
    user_store.command("stop", "mine", code=0)
    assert "Exited (3)" in user_store.command("ps", "-a").out
    user_store.command("rm", "mine", code=0)
    assert user_store.settled() == []


@pytest.mark.root
def test_terminal(user_store, user_root):
    words = user_store.run_words("--rm", "-it", "--rootfs", user_root, "sh")
    with OnTerminal(words, user_store.environment) as terminal:
        terminal.expect(b"# ")
        terminal.send(b"tty; stty size; exit 4\n")
        terminal.expect(b"/dev/pts/0\r\n40 120")
        assert terminal.wait() == 4 and terminal.is_restored()
    assert user_store.settled() == []


@pytest.mark.root
def test_limits_are_kept_or_refused_but_not_forgotten(user_store, user_root):
    result = user_store.run("--rm", "-m", "64m", "--pids-limit", "20", "--rootfs", user_root, "true")
    if result.code:
        assert result.code == 125 and result.err.count("\n") == 1
        assert "memory" in result.err and "pids" in result.err, result
    assert user_store.settled() == []


def test_whoever_runs_the_tests(clean_store, busybox):
    """Not only root: this one needs no rights at all."""
    result = clean_store.run("--rm", "--rootfs", busybox, "sh", "-c", "id -u; echo $$")
    if result.code == 125 and os.geteuid() and "user namespace" in result.err:
        pytest.skip("this machine keeps user namespaces from ordinary users")
    assert (result.code, result.out) == (0, "0\n1\n"), result


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere")
def test_a_directory_that_the_user_may_not_enter(clean_store):
    result = clean_store.run("--rm", "--rootfs", "/root", "true", code=125)
    assert result.err.count("\n") == 1


@pytest.mark.root
def test_users_cannot_read_each_others_records(user_store, user_root):
    user_store.detach("--name", "secret", "--rootfs", user_root, "sleep", "60")
    (identifier,) = os.listdir(user_store.run_directory / "containers")
    record = user_store.run_directory / "containers" / identifier / "state.json"
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "cat", str(record)]
    seen = subprocess.run(words, capture_output=True, text=True)
    assert seen.returncode != 0 and "Permission denied" in seen.stderr
    user_store.command("rm", "-f", "secret", code=0)
