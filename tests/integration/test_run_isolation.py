"""``coracle run``: namespaces, capabilities, filters, what is hidden, sysctls, clocks."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from containers import wait_until

from coracle.linux import capability

pytestmark = pytest.mark.root

DEFAULT = {
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}  # fmt: skip
ALL = {name.removeprefix("CAP_") for name in capability.names(capability.own().bounding)}


def read(store, busybox, path, *options):
    return store.run("--rm", *options, "--rootfs", busybox, "cat", path, code=0).out


CAPABILITIES = {
    "the default": ((), DEFAULT),
    "--cap-drop ALL": (("--cap-drop", "ALL"), set()),
    "--cap-drop ALL --cap-add": (("--cap-drop", "ALL", "--cap-add", "NET_ADMIN"), {"NET_ADMIN"}),
    "--cap-drop one": (("--cap-drop", "cap_chown,mknod"), DEFAULT - {"CHOWN", "MKNOD"}),
    "--cap-add ALL": (("--cap-add", "ALL"), ALL),
    "--cap-add ALL --cap-drop": (("--cap-add", "ALL", "--cap-drop", "SYS_ADMIN"), ALL - {"SYS_ADMIN"}),
    "--privileged": (("--privileged",), ALL),
}


@pytest.mark.parametrize("name", CAPABILITIES)
def test_capabilities(shared_store, busybox, name):
    options, expected = CAPABILITIES[name]
    status = read(shared_store, busybox, "/proc/self/status", *options)
    sets = {key: int(value, 16) for key, value in re.findall(r"^Cap(\w+):\t(\w+)$", status, re.M)}
    found = {key: {name.removeprefix("CAP_") for name in capability.names(mask)} for key, mask in sets.items()}
    assert found == {"Inh": set(), "Prm": expected, "Eff": expected, "Bnd": expected, "Amb": set()}


def test_a_user_keeps_only_the_bounding_set(shared_store, busybox):
    status = read(shared_store, busybox, "/proc/self/status", "-u", "web")
    masks = dict(re.findall(r"^Cap(\w+):\t(\w+)$", status, re.M))
    assert {key for key, mask in masks.items() if int(mask, 16)} == {"Bnd"}


NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "uts", "user", "time")
MODES = {
    "the default": ((), {"cgroup", "ipc", "mnt", "net", "pid", "uts"}),
    "--network host": (("--network", "host"), {"cgroup", "ipc", "mnt", "pid", "uts"}),
    "--pid host": (("--pid", "host"), {"cgroup", "ipc", "mnt", "net", "uts"}),
    "--ipc host": (("--ipc", "host"), {"cgroup", "mnt", "net", "pid", "uts"}),
    "--uts host": (("--uts", "host"), {"cgroup", "ipc", "mnt", "net", "pid"}),
    "--cgroupns host": (("--cgroupns", "host"), {"ipc", "mnt", "net", "pid", "uts"}),
    "--userns private": (
        ("--userns", "private", "--uidmap", "0:100000:65536"), {"cgroup", "ipc", "mnt", "net", "pid", "uts", "user"}),
    "--time-offset": (("--time-offset", "boottime=5"), {"cgroup", "ipc", "mnt", "net", "pid", "uts", "time"}),
    "all eight": (
        ("--userns", "private", "--uidmap", "0:100000:65536", "--time-offset", "boottime=5"), set(NAMESPACES)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODES)
def test_namespaces(shared_store, busybox, name):
    options, expected = MODES[name]
    script = "for n in cgroup ipc mnt net pid uts user time; do readlink /proc/self/ns/$n; done"
    result = shared_store.run("--rm", *options, "--rootfs", busybox, "sh", "-c", script, code=0)
    own = {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    found = dict(zip(NAMESPACES, result.lines, strict=True))
    assert {name for name in NAMESPACES if found[name] != own[name]} == expected, result


def test_namespaces_of_another_container(clean_store, busybox):
    clean_store.run("-d", "--name", "first", "--ipc", "shareable", "--rootfs", busybox, "sleep", "100", code=0)
    script = (
        "ps -o comm | grep -c sleep;"
        " for n in pid ipc; do (readlink /proc/1/ns/$n; readlink /proc/self/ns/$n) | sort -u | wc -l; done"
    )
    options = ("--pid", "container:first", "--ipc", "container:first")
    result = clean_store.run("--rm", *options, "--rootfs", busybox, "sh", "-c", script)
    assert result.out.split() == ["1", "1", "1"], result
    clean_store.command("rm", "-f", "first", code=0)
    assert clean_store.run("--rm", "--pid", "container:first", "--rootfs", busybox, "true").code == 125


def test_user_namespace_maps(shared_store, busybox):
    options = (
        "--userns",
        "private",
        "--uidmap",
        "0:100000:1000",
        "--uidmap",
        "1000:200000:100",
        "--gidmap",
        "0:300000:5000",
    )
    script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /proc/1; touch /tmp/x && stat -c %u /tmp/x"
    lines = shared_store.run("--rm", *options, "--tmpfs", "/tmp", "--rootfs", busybox, "sh", "-c", script, code=0).lines
    assert [line.split() for line in lines[:3]] == [
        ["0", "100000", "1000"], ["1000", "200000", "100"], ["0", "300000", "5000"],
    ]  # fmt: skip
    assert lines[3:] == ["0", "0", "0"]


def test_host_name(shared_store, busybox):
    script = "hostname; cat /proc/sys/kernel/domainname; echo $HOSTNAME"
    options = ("--hostname", "box", "--domainname", "example.org")
    assert shared_store.run("--rm", *options, "--rootfs", busybox, "sh", "-c", script, code=0).lines == [
        "box", "example.org", "box",
    ]  # fmt: skip
    assert re.fullmatch("[0-9a-f]{12}\n", shared_store.run("--rm", "--rootfs", busybox, "hostname", code=0).out)


def test_network_is_loopback_only(shared_store, busybox):
    script = "ls /sys/class/net; cat /sys/class/net/lo/flags; ping -c1 -w2 127.0.0.1 >/dev/null && echo answers"
    assert shared_store.run("--rm", "--rootfs", busybox, "sh", "-c", script, code=0).lines == ["lo", "0x9", "answers"]


def test_time_offset(shared_store, busybox):
    options = ("--time-offset", "boottime=1000000", "--time-offset", "monotonic=2000000")
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    shown = float(read(shared_store, busybox, "/proc/uptime", *options).split()[0])
    assert 1_000_000 <= shown - before < 1_000_100
    script = "cat /proc/self/timens_offsets"
    lines = shared_store.run("--rm", *options, "--rootfs", busybox, "sh", "-c", script, code=0).lines
    assert [line.split() for line in lines] == [["monotonic", "2000000", "0"], ["boottime", "1000000", "0"]]


SYSCTLS = {
    "net": (("--sysctl", "net.ipv4.ip_forward=1"), "/proc/sys/net/ipv4/ip_forward", "1"),
    "ipc": (("--sysctl", "kernel.shm_rmid_forced=1"), "/proc/sys/kernel/shm_rmid_forced", "1"),
    "mqueue": (("--sysctl", "fs.mqueue.msg_max=33"), "/proc/sys/fs/mqueue/msg_max", "33"),
    "default: low ports": ((), "/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    "default: ping": ((), "/proc/sys/net/ipv4/ping_group_range", "0\t2147483647"),
}


@pytest.mark.parametrize("name", SYSCTLS)
def test_sysctl(shared_store, busybox, name):
    options, path, value = SYSCTLS[name]
    with open(path) as file:
        before = file.read()
    assert read(shared_store, busybox, path, *options).strip() == value
    with open(path) as file:
        assert file.read() == before


SECURITY = {
    "seccomp by default": ((), "grep Seccomp: /proc/self/status | cut -f2", "2"),
    "seccomp=unconfined": (("--security-opt", "seccomp=unconfined"), "grep Seccomp: /proc/self/status | cut -f2", "0"),
    "seccomp of a file": (
        ("--security-opt", "seccomp={directory}/profile.json"), "mkdir /tmp/x; echo $?", "1"),
    "--privileged has no filter": (("--privileged",), "grep Seccomp: /proc/self/status | cut -f2", "0"),
    "privileges can be gained": ((), "grep NoNewPrivs /proc/self/status | cut -f2", "0"),
    "no-new-privileges": (
        ("--security-opt", "no-new-privileges"), "grep NoNewPrivs /proc/self/status | cut -f2", "1"),
    "no-new-privileges with a user and the filter": (
        ("--security-opt", "no-new-privileges", "-u", "web"),
        "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status | cut -f2 | tr '\\n' ' '", "1 2 "),
    "mask=": (("--security-opt", "mask=/proc/version:/etc/group:/etc"), "cat /proc/version; ls /etc | wc -l", "0"),
    "unmask=": (
        ("--security-opt", "unmask=/proc/keys"), "grep -c -E ' /proc/keys ' /proc/mounts", "0"),
    "unmask=ALL": (("--security-opt", "unmask=ALL"), "grep -c -E ' /proc/(keys|sys) ' /proc/mounts", "0"),
    "systempaths=unconfined": (
        ("--security-opt", "systempaths=unconfined"), "grep -c -E ' /proc/(keys|sys) ' /proc/mounts", "0"),
    "label=disable": (("--security-opt", "label=disable"), "echo ok", "ok"),
    "apparmor=unconfined": (("--security-opt", "apparmor=unconfined"), "echo ok", "ok"),
    "proc-opts": (
        ("--security-opt", "proc-opts=hidepid=2"), "grep -c '^proc /proc .*hidepid' /proc/mounts", "1"),
    "writable-cgroups": (
        ("--security-opt", "writable-cgroups"), "grep /sys/fs/cgroup /proc/mounts | grep -c ' rw,'", r"[1-9]\d*"),
    "--personality": (("--personality", "LINUX32"), "uname -m", "i[36]86|armv.*"),
}  # fmt: skip


@pytest.mark.parametrize("name", SECURITY)
def test_security_options(shared_store, busybox, name):
    options, script, expected = SECURITY[name]
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (shared_store.directory / "profile.json").write_text(json.dumps(profile))
    words = [word.format(directory=shared_store.directory) for word in options]
    result = shared_store.run("--rm", *words, "--rootfs", busybox, "sh", "-c", script)
    assert re.fullmatch(expected, result.out.removesuffix("\n")), result


def test_set_user_id_programs_work_unless_new_privileges_are_forbidden(own_root, shared_store):
    program = own_root / "set-user-id/su"
    program.parent.mkdir()
    program.write_bytes((own_root / "bin/busybox").read_bytes())
    program.chmod(0o4755)
    options = ("--rm", "-u", "web", "--entrypoint", "/set-user-id/su", "--rootfs", own_root)
    assert "must be suid" not in shared_store.run(*options, "nobody-of-this-name").err
    assert (
        "must be suid" in shared_store.run("--security-opt", "no-new-privileges", *options, "nobody-of-this-name").err
    )


def test_pid_host_ends_with_its_first_process_only(clean_store, busybox):
    """Without a pid namespace of its own nothing but the group tells who belongs to the container."""
    clean_store.run("--rm", "--pid", "host", "--rootfs", busybox, "sh", "-c", "sleep 300 & exit 3", code=3)
    assert wait_until(lambda: not clean_store.processes(), 10), clean_store.processes()
