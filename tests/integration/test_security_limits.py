"""What a program in a container must not be able to do, and names that must not become paths.

CVE-2026-30892 (users), CVE-2022-29162 (inheritable capabilities), CVE-2023-25809 and CVE-2022-0492 (control groups),
sysctls of the machine, system calls, devices, the caller's terminal, hooks.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from containers import BUSYBOX
from on_terminal import OnTerminal

from coracle.linux.cgroup.hierarchy import detect

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


# --- names that must not become something else ------------------------------------------------------

USERS = [
    "::", "0:0:0", "root:root:root", "-1", "+5", "0x0", "1e3", "1_0", " 0", "0 ", "4294967295", "4294967296",
    "99999999999999999999", "-0", "0\n", "web\nroot", "\u0660", "²", "１", "no-such-user",
    "web:no-such-group", "web:-1", "../root", "/etc/passwd", "0:4294967296",
]  # fmt: skip


@pytest.mark.parametrize("user", USERS)
def test_users_that_are_none(shared_store, busybox, user):
    """Nobody becomes root by an accident of parsing."""
    result = shared_store.run("--rm", "-u", user, "--rootfs", busybox, "id", "-u")
    assert (result.code, result.out, result.err.count("\n")) == (125, "", 1), result


@pytest.mark.parametrize(("user", "uid"), [("", "0"), (":", "0"), (":1000", "0"), ("1000:", "1000")])
def test_users_without_a_half(shared_store, busybox, user, uid):
    """As docker reads them: nobody said a user, or a group."""
    result = shared_store.run("--rm", "-u", user, "--rootfs", busybox, "id", "-u")
    assert result.code == 125 or result.out.strip() == uid, result


def test_users_that_are_none_by_exec(store, busybox):
    store.run("-d", "--name", "c", "--rootfs", busybox, "sleep", "100", code=0)
    store.oci("create", "--bundle", store.bundle(busybox, "sleep", "100"), "o", code=0)
    store.oci("start", "o", code=0)
    for user in USERS:
        result = store.command("exec", "-u", user, "c", "id", "-u")
        assert (result.code, result.out) == (125, ""), (user, result)
        result = store.oci("exec", "--user", user, "o", "id", "-u")
        assert result.code != 0 and result.out == "", (user, result)


IDENTIFIERS = [
    "../x",
    "a/b",
    "/abs",
    ".",
    "..",
    ".hidden",
    "a\nb",
    "a b",
    "x" * 2000,
    "a\0b"[:1] + "\u00e4",
    "*",
    "a:b",
    "",
]


@pytest.mark.parametrize("identifier", IDENTIFIERS)
def test_identifiers_with_tricks(store, busybox, identifier):
    bundle = store.bundle(busybox, "true")
    for words in (["create", "--bundle", bundle], ["run", "--bundle", bundle], ["delete"], ["state"], ["start"]):
        result = store.oci(*words, "--", identifier)
        assert result.code == 1 and result.err.count("\n") == 1, (words, result)
    name = identifier.lstrip("/") or "."  # docker itself puts a slash in front of names
    if name != "abs":
        result = store.run("--rm", "--name", name, "--rootfs", busybox, "true", code=125)
    assert result.err.count("\n") == 1
    assert store.settled() == [] and not os.path.exists(store.directory / "x")


CGROUPS = ["/../../outside", "/coracle-it/../../outside", "../../outside", "/a/./../../outside", "/..", ".."]


@pytest.mark.parametrize("path", CGROUPS)
def test_control_groups_that_climb(store, busybox, path):
    result = store.oci("create", "--bundle", store.bundle(busybox, "true", linux={"cgroupsPath": path}), "c", code=1)
    assert "cgroupsPath" in result.err and result.err.count("\n") == 1
    result = store.run("--rm", "--cgroup-parent", path, "--rootfs", busybox, "true", code=125)
    assert result.err.count("\n") == 1
    for top in set(detect().mounts.values()):
        assert not os.path.exists(f"{top}/outside") and not os.path.exists(f"{os.path.dirname(top)}/outside")
    assert store.settled() == []


@pytest.mark.parametrize("path", ["..", "../..", "/..", "a/../..", "memory:../..", "/a/../../.."])
def test_exec_into_control_groups_that_climb(store, busybox, path):
    store.oci("create", "--bundle", store.bundle(busybox, "sleep", "100"), "c", code=0)
    store.oci("start", "c", code=0)
    result = store.oci("exec", "--cgroup", path, "c", "true")
    assert result.code != 0 and result.err.count("\n") == 1, result


SYSCTLS = [
    "kernel.core_pattern", "kernel/core_pattern", "vm.overcommit_memory", "kernel.panic", "fs.file-max",
    "kernel.pid_max",
    "net/../kernel/core_pattern", "net.../kernel.core_pattern", "kernel.shm/../core_pattern", "net", "net.", ".net",
    "net.ipv4.ip_forward/../../../kernel/panic", "fs.mqueue/../../vm/swappiness", "kernel.msgmax/../panic",
    "../../self/x",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSCTLS)
def test_sysctls_of_the_machine(store, busybox, name):
    watched = ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/panic", "/proc/sys/vm/overcommit_memory")
    before = [Path(path).read_text() for path in watched]
    result = store.run("--rm", "--sysctl", f"{name}=7", "--rootfs", busybox, "true", code=125)
    assert result.err.count("\n") == 1
    bundle = store.bundle(busybox, "true", linux={"sysctl": {name: "7"}})
    assert store.oci("run", "--bundle", bundle, "c", code=1).err.count("\n") == 1
    assert [Path(path).read_text() for path in watched] == before
    assert store.settled() == []


def test_sysctls_need_a_namespace_of_the_containers_own(store, busybox):
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        before = file.read()
    words = ("--sysctl", "net.ipv4.ip_forward=1", "--rootfs", busybox, "true")
    store.run("--rm", "--network", "host", *words, code=125)
    spaces = [{"type": kind} for kind in ("mount", "pid")]
    bundle = store.bundle(
        busybox, "true", linux={"namespaces": spaces, "sysctl": {"net.ipv4.ip_forward": "1"}}, hostname=""
    )
    store.oci("run", "--bundle", bundle, "c", code=1)
    spaces.append({"type": "network", "path": "/proc/self/ns/net"})
    bundle = store.bundle(
        busybox, "true", linux={"namespaces": spaces, "sysctl": {"net.ipv4.ip_forward": "1"}}, hostname=""
    )
    store.oci("run", "--bundle", bundle, "c", code=1)
    with open("/proc/sys/net/ipv4/ip_forward") as file:
        assert file.read() == before


# --- rights ------------------------------------------------------------------------------------------


def capabilities(status):
    return {name: int(mask, 16) for name, mask in re.findall(r"^Cap(\w+):\s*(\w+)$", status, re.M)}


def test_nothing_is_inheritable(store, busybox):
    """CVE-2022-29162, CVE-2022-24769: file capabilities would be gained by users who should have none."""
    show = ("grep", "Cap", "/proc/self/status")
    store.run("-d", "--name", "c", "--cap-add", "ALL", "--rootfs", busybox, "sleep", "100", code=0)
    bundle = store.bundle(busybox, "sleep", "100")
    store.oci("create", "--bundle", bundle, "o", code=0)
    store.oci("start", "o", code=0)
    for result in (
        store.command("exec", "c", *show), store.command("exec", "-u", "web", "c", *show),
        store.command("exec", "--privileged", "c", *show), store.oci("exec", "o", *show),
        store.oci("exec", "--cap", "CAP_NET_ADMIN", "o", *show), store.oci("exec", "--user", "1000", "o", *show),
    ):  # fmt: skip
        found = capabilities(result.out)
        assert found["Inh"] == 0, result
    assert capabilities(store.command("exec", "-u", "web", "c", *show).out)["Eff"] == 0


def test_exec_has_the_same_filter_and_no_more_rights_than_the_container(store, busybox):
    options = ("--cap-drop", "ALL", "--security-opt", "no-new-privileges")
    store.run("-d", "--name", "c", *options, "--rootfs", busybox, "sleep", "100", code=0)
    status = store.command("exec", "c", "cat", "/proc/self/status", code=0).out
    assert set(capabilities(status).values()) == {0}
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status


SYSTEM_CALLS = r"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
flags = {"user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000}
calls = {
    "keyctl": (250, 0, 0, 0), "add_key": (248, b"user", b"x", b"y", 1, 0), "request_key": (249, b"user", b"x", 0, 0),
    "mount": (165, b"none", b"/mnt", b"tmpfs", 0, 0), "umount2": (166, b"/proc/keys", 0),
    "pivot_root": (155, b"/", b"/"),
    "unshare user": (272, flags["user"]), "unshare mount": (272, flags["mount"]), "setns": (308, 0, 0),
    "bpf": (321, 0, 0, 0), "perf_event_open": (298, 0, 0, 0, 0, 0), "kexec_load": (246, 0, 0, 0, 0),
    "init_module": (175, 0, 0, 0), "finit_module": (313, 0, 0, 0), "delete_module": (176, b"x", 0),
    "reboot": (169, 0, 0, 0, 0), "swapon": (167, b"/x", 0), "swapoff": (168, b"/x"), "acct": (163, b"/x"),
    "open_by_handle_at": (304, 0, 0, 0), "iopl": (172, 3), "ioperm": (173, 0, 1, 1), "settimeofday": (164, 0, 0),
    "userfaultfd": (323, 0), "quotactl": (179, 0, 0, 0, 0), "move_mount": (429, 0, 0, 0, 0, 0),
    "fsopen": (430, b"proc", 0),
    "open_tree": (428, 0, b"/", 1), "mount_setattr": (442, 0, 0, 0, 0, 0),
    "clone user": (56, flags["user"] | 17, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0), "kcmp": (312, 1, 1, 0, 0, 0), "sethostname": (170, b"x", 1),
    "clone3": (435, 0, 0), "io_uring_setup": (425, 1, 0), "personality 32": (135, 0x0040000),
}
for name, (number, *arguments) in calls.items():
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    print(name, result, os.strerror(ctypes.get_errno()) if result < 0 else "", sep=":")
    if name.startswith("clone") and result == 0:
        os._exit(0)
"""
# Not filtered by docker's profile, or only for want of a capability: what the kernel itself says is right, too.
REFUSED = {"Operation not permitted", "Function not implemented", "Permission denied"}
HARMLESS = {"process_vm_readv", "kcmp"}  # allowed since Linux 4.8, where they follow ptrace's rules


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
def test_system_calls_are_refused(store):
    result = store.run("--rm", "host", sys.executable, "-c", SYSTEM_CALLS, code=0)
    answers = {line.split(":")[0]: line.split(":")[1:] for line in result.lines}
    allowed = {name: answer for name, answer in answers.items() if answer[1] not in REFUSED}
    assert set(allowed) <= HARMLESS, allowed
    assert answers["clone3"][1] == "Function not implemented", "so that the C library falls back to clone"
    assert len(answers) > 30


ESCAPES = [
    "echo x > /proc/sysrq-trigger", "echo x > /proc/sys/kernel/core_pattern", "echo x > /proc/sys/vm/drop_caches",
    "echo x > /sys/kernel/uevent_helper", "echo 1 > /sys/kernel/mm/ksm/run", "touch /sys/fs/cgroup/x",
    "mkdir /sys/fs/cgroup/x",
    "mkdir /sys/fs/cgroup/memory/x", "for f in /sys/fs/cgroup/*/release_agent; do echo x > $f && exit; done; false",
    "echo x > /sys/fs/cgroup/memory/notify_on_release", "echo 0 > /sys/fs/cgroup/unified/cgroup.procs",
    "mount -o remount,rw /sys", "mount -o remount,rw /proc/sys", "umount /proc/keys", "mount -t tmpfs t /mnt",
    "mount --bind / /mnt", "cat /proc/kcore | head -c 1 | grep -q .",
    "echo -1000 > /proc/1/oom_score_adj",
    "hostname other", "date -s 2001-01-01; test $(date +%Y) = 2001", "chroot / mount -t proc p /mnt",
    "ip link add x type dummy",
    "modprobe dummy",
    "mknod /m b {disk} && head -c 1 /m | grep -q .", "mknod /m c 1 1 && head -c 1 /m", "mknod /m c 1 11 && echo x > /m",
    "mknod /m c 10 237 && echo x > /m", "mknod /m c 4 1 && echo x > /m", "losetup /dev/loop0 /bin/busybox",
    "swapon /swap",
    "dmesg -c", "reboot -f", "unshare -U true", "unshare -m true", "nsenter -t 1 -m -p true && readlink /proc/1/root/x",
]  # fmt: skip


@pytest.mark.parametrize("command", ESCAPES)
@pytest.mark.parametrize(
    "options", [(), ("--cgroupns", "host"), ("--cap-add", "DAC_READ_SEARCH")], ids=["", "cgroupns", "read"]
)
def test_ways_out(shared_store, own_root, command, options):
    info = os.stat("/")
    disk = f"{os.major(info.st_dev)} {os.minor(info.st_dev)}"
    (own_root / "mnt").mkdir()
    script = f"({command.format(disk=disk)}) > /dev/null 2>&1 && echo done"
    result = shared_store.run("--rm", *options, "--rootfs", own_root, "sh", "-c", script)
    assert result.out == "", (command, result)


def test_masked_paths_are_empty_and_cannot_be_changed(shared_store, busybox):
    from coracle.engine.container_spec.host import Host
    from coracle.engine.container_spec.isolation import MASKED, READ_ONLY

    masked = [path for path in [*MASKED, *Host().throttle_directories()] if os.path.exists(path)]
    script = "for p in {}; do if [ -d $p ]; then ls -A $p; touch $p/x; else cat $p; chmod 777 $p; chown 1 $p; fi; done"
    result = shared_store.run("--rm", "--rootfs", busybox, "sh", "-c", script.format(" ".join(masked)))
    assert masked and result.out == "" and result.err.count("Read-only file system") >= len(masked), result
    frozen = [path for path in READ_ONLY if os.path.exists(path)]
    mounts = shared_store.run("--rm", "--rootfs", busybox, "cat", "/proc/mounts", code=0).lines
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts}
    assert frozen and all("ro" in options[path] for path in frozen), mounts
    info = os.stat("/dev/null")
    assert (info.st_mode & 0o777, info.st_uid) == (0o666, 0), "the host's node stands behind the masks"


# --- the caller's terminal and environment -----------------------------------------------------------

INJECT = r"""
import fcntl, os, termios
for fd in range(0, 30):
    try:
        print("TERMINAL", fd, os.ttyname(fd))
    except OSError:
        pass
    try:
        fcntl.ioctl(fd, termios.TIOCSTI, b"x")
        print("INJECTED", fd)
    except OSError:
        pass
try:
    os.open("/dev/tty", os.O_RDWR)
    print("CONTROLLING")
except OSError as error:
    print(error.strerror)
print("session", os.getsid(0), os.getpgrp())
"""


@pytest.mark.parametrize("options", [("--rm",), ("--rm", "-i"), ("-d",)], ids=" ".join)
def test_without_t_the_callers_terminal_is_out_of_reach(store, options):
    words = store.run_words(*options, "--name", "c", "host", sys.executable, "-c", INJECT)
    with OnTerminal(words, store.environment) as terminal:
        assert terminal.wait() == 0
        terminal.send(b"\n")
        if "-d" in options:
            store.command("wait", "c")
            shown = store.command("logs", "c").out.encode()
        else:
            shown = terminal.expect(b"session 0 0") if b"session" in terminal.output else terminal.expect(b"session ")
    assert b"No such device or address" in shown
    assert b"TERMINAL" not in shown and b"INJECTED" not in shown and b"CONTROLLING" not in shown


def test_with_t_the_terminal_is_the_containers_own(store):
    words = store.run_words("--rm", "-t", "host", sys.executable, "-c", INJECT)
    with OnTerminal(words, store.environment) as terminal:
        own = os.ttyname(terminal.slave).encode()
        shown = terminal.expect(b"session ")
    assert b"TERMINAL 0 /dev/pts/0" in shown or b"TERMINAL 0 /dev/console" in shown
    assert own not in shown or own == b"/dev/pts/0"


def test_nothing_of_the_callers_environment_arrives(store, busybox):
    store.environment["SECRET_OF_THE_CALLER"] = "hidden"
    out = store.run("--rm", "--rootfs", busybox, "sh", "-c", "env; cat /proc/*/environ", code=0).out
    assert "hidden" not in out and "CORACLE" not in out and "PYTHON" not in out


def test_hooks_get_the_environment_of_the_config_alone(store, busybox):
    store.environment["SECRET_OF_THE_CALLER"] = "hidden"
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    report = store.directory / "report"
    hook = {"path": BUSYBOX, "args": ["sh", "-c", "echo hook; env; ls /proc/self/fd | wc -l"], "env": ["GIVEN=1"]}
    hook["args"][2] = f"({hook['args'][2]}) >> {report}"
    hooks = {kind: [hook] for kind in kinds if kind != "createContainer"}  # which sees the container's files
    store.oci("run", "--bundle", store.bundle(busybox, "true", hooks=hooks), "c", code=0)
    text = report.read_text()
    assert text.count("hook\n") == 4 and text.count("GIVEN=1") == 4
    assert {line.split("=")[0] for line in text.splitlines() if "=" in line} <= {"GIVEN", "PWD", "SHLVL", "PATH"}, (
        "the last three are the shell's own"
    )
    assert {int(line) for line in text.splitlines() if line.isdigit()} <= {3, 4}


def test_the_keyring_is_the_containers_own(store):
    """Keys are not in any namespace: a session keyring of its own keeps it from the caller's."""
    code = "import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 1))"  # KEYCTL_GET_KEYRING_ID of the session
    words = ("--rm", "--security-opt", "seccomp=unconfined", "host", sys.executable, "-c", code)
    own = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    first, second = (store.run(*words, code=0).out for _ in range(2))
    assert int(first) > 0 and len({own, first, second}) == 3
