"""``coracle run``: what the container's file systems are, and what of the host is in them."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
from containers import mounts_below, wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def source(shared_store, tmp_path_factory):
    """A directory of the host with a file in it."""
    directory = tmp_path_factory.mktemp("source")
    (directory / "file").write_text("content\n")
    return directory


def shell(store, busybox, options, script, code=0):
    return store.run("--rm", *options, "--rootfs", busybox, "sh", "-c", script, code=code)


# options, shell command, output
PLACES = {
    "-v": (("-v", "{source}:/there"), "cat /there/file; echo new > /there/made", "content"),
    "-v of a file": (("-v", "{source}/file:/etc/thing"), "cat /etc/thing", "content"),
    "-v relative": (("-v", "./:/there:ro"), "ls /there | grep -c .", None),
    "-v ro": (("-v", "{source}:/there:ro"), "echo x > /there/y || cat /there/file", "content"),
    "-v nested places": (
        ("-v", "{source}/file:/a/b/c", "-v", "{source}:/a/b"), "cat /a/b/c; ls /a/b", "content\nc\nfile"),
    "-v nosuid,nodev,noexec": (
        ("-v", "{source}:/x:nosuid,nodev,noexec"), "grep ' /x ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1-4",
        "rw,nosuid,nodev,noexec"),
    "--mount bind": (("--mount", "type=bind,source={source},target=/m"), "cat /m/file", "content"),
    "--mount readonly": (
        ("--mount", "type=bind,src={source},dst=/m,readonly"), "touch /m/x 2>/dev/null; ls /m", "file"),
    "--mount tmpfs": (
        ("--mount", "type=tmpfs,dst=/m,tmpfs-size=1m,tmpfs-mode=700"),
        "stat -c %a /m; df -k /m | tail -1 | awk '{{print $2}}'", "700\n1024"),
    "--tmpfs": (
        ("--tmpfs", "/t"), "touch /t/x && grep ' /t ' /proc/mounts | cut -d' ' -f3,4 | cut -d, -f1-4",
        "tmpfs rw,nosuid,nodev,noexec"),
    "--tmpfs size,mode": (
        ("--tmpfs", "/t:size=2m,mode=1770,exec"),
        "stat -c %a /t; df -k /t | tail -1 | awk '{{print $2}}'", "1770\n2048"),
    "--read-only": (("--read-only",), "touch /x 2>&1; touch /dev/shm/x /dev/x && echo both", None),
    "--read-only with --read-only-tmpfs": (
        ("--read-only", "--read-only-tmpfs"), "touch /tmp/x /run/x /var/tmp/x && echo written", "written"),
    "--read-only with -v": (
        ("--read-only", "-v", "{source}:/there"), "touch /there/new && echo written", "written"),
    "--shm-size": (("--shm-size", "3m"), "df -k /dev/shm | tail -1 | awk '{{print $2}}'", "3072"),
    "the default shm": ((), "df -k /dev/shm | tail -1 | awk '{{print $2}}'", "65536"),
    "--device": (("--device", "/dev/loop0:/dev/renamed"), "stat -c '%t:%T %F' /dev/renamed", "7:0 block special file"),
    "/dev": ((), "ls /dev | tr '\\n' ' '",
             "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "),
    "/dev/null and zero work": (
        ("-u", "web"), "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; cat /dev/null",
        "3\n4"),
    "hostname in /etc/hosts": (
        ("-h", "box"), "grep -c box /etc/hosts; cat /etc/hostname", "1\nbox"),
    "--add-host": (("--add-host", "other:10.1.2.3"), "grep other /etc/hosts", "10.1.2.3\tother"),
    "--no-hosts": (("--no-hosts",), "grep -c . /etc/hosts", None),
    "--dns": (("--dns", "10.9.9.9", "--dns-search", "example.org"), "grep -E '9.9.9|example' /etc/resolv.conf",
              None),
    "/proc is of this pid namespace": ((), "ls /proc | grep -E '^[0-9]+$' | wc -l", None),
}  # fmt: skip

PATTERNS = {
    "--read-only": lambda out: "Read-only file system" in out and "both" in out,
    "--dns": lambda out: "nameserver 10.9.9.9" in out and "search example.org" in out,
    "--no-hosts": lambda out: out.strip() in ("", "0"),
    "-v relative": lambda out: int(out) > 0,
    "/proc is of this pid namespace": lambda out: int(out) <= 5,
}


@pytest.mark.parametrize("name", PLACES)
def test_places(shared_store, busybox, source, name):
    options, script, expected = PLACES[name]
    result = shell(shared_store, busybox, [word.format(source=source) for word in options], script.format(), None)
    matches = PATTERNS.get(name) or (lambda out: out.removesuffix("\n") == expected)
    assert matches(result.out), result
    assert "coracle:" not in result.err


def test_v_makes_a_missing_directory_and_mount_does_not(shared_store, busybox, source):
    shell(shared_store, busybox, ("-v", f"{source}/new/deep:/x"), "echo y > /x/y")
    assert (source / "new/deep/y").read_text() == "y\n"
    result = shared_store.run(
        "--rm", "--mount", f"type=bind,src={source}/missing,dst=/x", "--rootfs", busybox, "true", code=125
    )
    assert "missing" in result.err and not (source / "missing").exists()


def test_ro_holds_for_everything_below(shared_store, busybox, source):
    """docker's -v SRC:DST:ro is recursive since 25.0."""
    below = source / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        (below / "inner").write_text("x")
        script = "cat /x/below/inner; touch /x/below/new || echo refused"
        assert shell(shared_store, busybox, ("-v", f"{source}:/x:ro"), script).out == "xrefused\n"
        shell(shared_store, busybox, ("-v", f"{source}:/x"), "touch /x/below/new")
        assert (below / "new").exists()
    finally:
        subprocess.run(["umount", below], check=True)


def test_a_mount_made_inside_stays_inside(shared_store, busybox, source):
    script = "mount -t tmpfs tmpfs /x && touch /x/hidden && mkdir /y && mount -t tmpfs tmpfs /y && echo mounted"
    options = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "-v", f"{source}:/x")
    assert shell(shared_store, busybox, options, script).out == "mounted\n"
    assert os.listdir(source) == ["file"] and mounts_below(str(source)) == []


def test_propagation_from_the_host(clean_store, busybox, source):
    """rslave: what the host mounts below shows inside; private, the default: it does not."""
    subprocess.run(["mount", "--bind", source, source], check=True)
    subprocess.run(["mount", "--make-shared", source], check=True)
    (source / "later").mkdir()
    try:
        watch = "touch /x/$HOSTNAME; while ! [ -e /x/go ]; do sleep 0.05; done; ls /x/later"
        slave = clean_store.start(
            "--rm", "-v", f"{source}:/x:rslave", "--rootfs", busybox, "sh", "-c", watch, stdout=subprocess.PIPE
        )
        private = clean_store.start(
            "--rm", "-v", f"{source}:/x", "--rootfs", busybox, "sh", "-c", watch, stdout=subprocess.PIPE
        )
        assert wait_until(lambda: len(os.listdir(source)) == 4)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "later"], check=True)
        (source / "later/seen").touch()
        (source / "go").touch()
        assert slave.communicate(timeout=20)[0] == b"seen\n"
        assert private.communicate(timeout=20)[0] == b""
    finally:
        subprocess.run(["umount", "-R", source], check=True)


def test_the_image_root_is_not_shared_between_containers_of_host(clean_store):
    script = "echo mine > /etc/coracle-test-marker; cat /etc/coracle-test-marker"
    assert clean_store.run("--rm", "host", "sh", "-c", script, code=0).out == "mine\n"
    assert not os.path.exists("/etc/coracle-test-marker")
    clean_store.run("--rm", "host", "test", "-e", "/etc/coracle-test-marker", code=1)


def test_devices_have_the_hosts_owner_and_mode(shared_store, busybox):
    info = os.stat("/dev/loop0")
    out = shell(shared_store, busybox, ("--device", "/dev/loop0"), "stat -c '%a %u %g' /dev/loop0").out
    assert out == f"{stat.S_IMODE(info.st_mode):o} {info.st_uid} {info.st_gid}\n"


def test_privileged_has_all_devices_and_writable_sys(shared_store, busybox):
    script = (
        "ls /dev | wc -l; grep ' /sys ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1; grep -c 'proc/sys ' /proc/mounts"
    )
    lines = shell(shared_store, busybox, ("--privileged",), script, None).lines
    assert int(lines[0]) > 30 and lines[1:] == ["rw", "0"]


def test_every_container_of_a_rootfs_leaves_only_mount_points(own_root, shared_store):
    before = {path for path, _, _ in os.walk(own_root)}
    shared_store.run("--rm", "--rootfs", own_root, "true", code=0)
    made = {os.path.relpath(path, own_root) for path, _, _ in os.walk(own_root)} - {
        os.path.relpath(path, own_root) for path in before
    }
    assert made <= {"dev", "proc", "sys"}, "mount points below /dev and /sys are on file systems of the container"
