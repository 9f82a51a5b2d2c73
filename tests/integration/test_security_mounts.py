"""Attacks on the mounts of a container by what an image or a shared volume holds: links, planted devices, swaps.

CVE-2019-19921, CVE-2021-30465, CVE-2023-27561, CVE-2023-28642, CVE-2024-45310 (destinations through links),
CVE-2025-31133 (/dev/null), CVE-2025-52565 (/dev/console, /dev/pts/ptmx), CVE-2025-52881 (writes below /proc),
CVE-2026-41579 and CVE-2026-47766 (/dev).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import pytest
from containers import mounts_below
from on_terminal import OnTerminal

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


class Victim:
    """A directory of the host that nothing may happen to, and a link to it that climbs out of any root."""

    def __init__(self, directory):
        self.path = directory / "victim"
        self.path.mkdir()
        (self.path / "file").write_text("host")
        self.mounts = self._mounts()
        self.climbing = "../" * 12 + str(self.path)[1:]

    @staticmethod
    def _mounts():
        with open("/proc/self/mountinfo") as lines:
            return sorted(" ".join(line.split()[4:5]) for line in lines if "/enclosure" not in line)

    def unharmed(self):
        return (
            os.listdir(self.path) == ["file"]
            and (self.path / "file").read_text() == "host"
            and (mounts_below(str(self.path)) == [])
        )


@pytest.fixture
def victim(store):
    return Victim(store.directory)


@pytest.fixture
def source(store):
    directory = store.directory / "source"
    directory.mkdir()
    (directory / "inside").write_text("of the volume")
    return directory


# --- links where something is to be mounted -----------------------------------------------------

LINKS = {
    "absolute": lambda victim: str(victim.path),
    "climbing": lambda victim: victim.climbing,
    "through /proc": lambda victim: f"/proc/1/root{victim.path}",
    "through a descriptor": lambda victim: "/proc/self/fd/3",
    "host's working directory": lambda victim: "/proc/self/cwd",
    "to itself": lambda victim: "vol",
}


@pytest.mark.parametrize("below", ["", "/new", "/new/deep", "/../new"])
@pytest.mark.parametrize("kind", LINKS)
def test_volume_onto_a_link(own_root, store, victim, source, kind, below):
    (own_root / "vol").symlink_to(LINKS[kind](victim))
    result = store.run("--rm", "-v", f"{source}:/vol{below}", "--rootfs", own_root, "sh", "-c", "touch /vol/x; true")
    assert victim.unharmed(), result
    assert not os.path.exists(f"{victim.path.parent}/new")
    if result.code:
        assert (result.code, result.err.count("\n")) == (125, 1), result


@pytest.mark.parametrize("destination", ["/a/../../../../..{victim}", "/{climbing}", "//{climbing}/x"])
def test_volume_that_climbs(own_root, store, victim, source, destination):
    place = destination.format(victim=victim.path, climbing=victim.climbing)
    result = store.run("--rm", "-v", f"{source}:{place}", "--rootfs", own_root, "true")
    assert victim.unharmed(), result


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
@pytest.mark.parametrize("kind", ["absolute", "climbing", "inside", "file", "dangling"])
def test_file_systems_of_the_kernel_onto_links(own_root, store, victim, place, kind):
    """/proc and /sys only on directories; /dev resolves inside the root, and nothing is made outside of it."""
    shutil.rmtree(own_root / place, ignore_errors=True)
    target = {"absolute": victim.path, "climbing": victim.climbing, "inside": "/tmp", "dangling": "/nowhere/at/all"}
    if kind == "file":
        (own_root / place).write_text("")
    else:
        (own_root / place).symlink_to(target[kind])
    result = store.run("--rm", "--rootfs", own_root, "sh", "-c", "cat /proc/mounts")
    assert victim.unharmed(), result
    if place != "dev" or kind == "file":
        assert (result.code, result.err.count("\n")) == (125, 1), result
        assert f"/{place}" in result.err


# --- /dev ---------------------------------------------------------------------------------------


def no_dev(spec_mounts):
    return [mount for mount in spec_mounts if not mount["destination"].startswith("/dev")]


def bundle_without_dev(store, root, *arguments, **process):
    from coracle.runtime.spec.default import default_spec

    return store.bundle(root, *arguments, mounts=no_dev(default_spec()["mounts"]), process=process)


@pytest.mark.parametrize("kind", ["absolute", "climbing", "component"])
def test_dev_as_a_link_without_a_mount(own_root, store, victim, kind):
    """Default devices and links are made through one descriptor of /dev, opened inside the root."""
    (own_root / "dev").symlink_to({"absolute": victim.path, "climbing": victim.climbing, "component": "/up/dev"}[kind])
    (own_root / "up").symlink_to(victim.climbing)
    store.oci("run", "--bundle", bundle_without_dev(store, own_root, "true"), "c")
    assert victim.unharmed()


@pytest.mark.parametrize("name", ["null", "zero", "tty", "fd", "stdin", "ptmx", "core"])
@pytest.mark.parametrize("what", ["link", "file", "directory"])
def test_planted_devices(own_root, store, victim, name, what):
    """Something else where a device or link is to be made: an error, or left alone; never followed."""
    (own_root / "dev").mkdir()
    place = own_root / "dev" / name
    if what == "link":
        place.symlink_to(f"{victim.climbing}/file")
    elif what == "file":
        place.write_text("planted")
    else:
        place.mkdir()
    result = store.oci("run", "--bundle", bundle_without_dev(store, own_root, "sh", "-c", "echo x > /dev/null"), "c")
    assert victim.unharmed(), result
    if what == "file" and name in ("null", "zero", "tty"):
        assert result.code == 1 and f"/dev/{name}" in result.err, result


def test_masks_do_not_come_from_the_image(own_root, store, victim):
    """CVE-2025-31133: the image's /dev/null is a link to a file that would then be bound over the masked paths."""
    sensitive = "/proc/sys/kernel/core_pattern"
    for target in (sensitive, f"{victim.climbing}/file", "/etc/passwd"):
        (own_root / "dev/null").unlink(missing_ok=True)
        (own_root / "dev").mkdir(exist_ok=True)
        (own_root / "dev/null").symlink_to(target)
        script = "stat -c '%t:%T' /proc/keys /proc/timer_list; cat /proc/keys; (echo x > /proc/timer_list) 2>&1; mount"
        result = store.run("--rm", "-v", f"{own_root}/dev:/dev", "--rootfs", own_root, "sh", "-c", script)
        assert "1:3\n1:3\n" in result.out and f" {sensitive} " not in result.out, result
        assert victim.unharmed()


def test_a_swapped_null_in_a_shared_dev(own_root, store, victim):
    """The same while somebody swaps it, many times a second."""
    (own_root / "dev").mkdir()
    with Swapping(own_root / "dev/null", lambda path: os.mknod(path, 0o20666, os.makedev(1, 3)), "/etc/passwd"):
        for _ in range(25):
            result = store.run(
                "--rm",
                "-v",
                f"{own_root}/dev:/dev",
                "--rootfs",
                own_root,
                "sh",
                "-c",
                "stat -c %t:%T /proc/keys; cat /proc/keys",
            )
            assert result.out in ("1:3\n", "") and "root:" not in result.out, result
    assert victim.unharmed()


@pytest.mark.parametrize("planted", ["/etc/passwd", "/proc/sys/kernel/core_pattern", "{victim}/file", "dangling"])
def test_console_onto_a_planted_link(own_root, store, victim, planted):
    """CVE-2025-52565: /dev/console is a link in a volume that is /dev."""
    dev = store.directory / "dev"
    (dev / "pts").mkdir(parents=True)
    (dev / "console").symlink_to(planted.format(victim=victim.climbing))
    words = store.run_words(
        "--rm", "-it", "-v", f"{dev}:/dev", "--rootfs", own_root, "sh", "-c", "mount; echo end$((1))"
    )
    with OnTerminal(words, store.environment) as terminal:
        terminal.process.wait(20)
        shown = b""
        os.set_blocking(terminal.master, False)
        try:
            shown = os.read(terminal.master, 65536)
        except OSError:
            pass
    for place in (b" on /etc/passwd", b"core_pattern", b"/file "):
        assert place not in shown, shown
    assert victim.unharmed() and (own_root / "etc/passwd").read_text().startswith("root:")


@pytest.mark.parametrize("target", ["/dev/ptmx", "{victim}/file", "/etc/passwd", ""])
def test_planted_terminal_multiplexer(own_root, store, victim, target):
    """A config without devpts: /dev/pts/ptmx of the image may be anything, and must not be used."""
    (own_root / "dev/pts").mkdir(parents=True)
    if target:
        (own_root / "dev/pts/ptmx").symlink_to(target.format(victim=victim.climbing))
    else:
        os.mknod(own_root / "dev/pts/ptmx", 0o20666, os.makedev(5, 2))  # would open the host's terminals
    console = store.directory / "console"
    listener = subprocess.Popen(
        [sys.executable, "-c",
         f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(console)!r}); s.listen(); s.accept()"]
    )  # fmt: skip
    try:
        while not console.exists():
            pass
        bundle = bundle_without_dev(store, own_root, "true", terminal=True)
        result = store.oci("create", "--console-socket", console, "--bundle", bundle, "c")
        assert result.code == 1 and "terminal" in result.err and result.err.count("\n") == 1, result
        assert victim.unharmed() and store.settled() == []
    finally:
        listener.kill()
        listener.wait()


# --- writes below /proc --------------------------------------------------------------------------


def test_writes_below_proc_cannot_be_redirected(own_root, store):
    """CVE-2025-52881: what is mounted over /proc/sys does not receive what is meant for the kernel."""
    options = ("--sysctl", "net.ipv4.ip_forward=1", "--oom-score-adj", "500", "--tmpfs", "/proc/sys:rw")
    result = store.run("-d", "--name", "c", *options, "--rootfs", own_root, "sleep", "100")
    if result.code == 125:  # refusing such a mount is an answer, too
        assert "/proc/sys" in result.err and result.err.count("\n") == 1
        return
    pid = str(store.process(result.out.strip())["pid"])
    read = ["nsenter", "-t", pid, "-n", "cat", "/proc/sys/net/ipv4/ip_forward"]
    assert subprocess.run(read, capture_output=True, text=True).stdout == "1\n"
    with open(f"/proc/{pid}/oom_score_adj") as file:
        assert file.read() == "500\n"
    assert "net" not in store.command("exec", "c", "ls", "/proc/sys").out
    store.command("rm", "-f", "c", code=0)


@pytest.mark.parametrize(
    "place", ["/proc/self", "/proc/1/attr", "/proc/sys/kernel", "/proc/self/attr/exec", "/proc/keys"]
)
def test_no_volume_below_proc(own_root, store, source, place):
    result = store.run("--rm", "-v", f"{source}:{place}", "--rootfs", own_root, "true", code=125)
    assert result.err.count("\n") == 1 and "/proc" in result.err


def test_a_fake_proc(own_root, store, source, victim):
    """A directory of the user's as /proc: the engine's own writes still reach the kernel, or nobody."""
    (source / "sys/net/ipv4").mkdir(parents=True)
    (source / "sys/net/ipv4/ip_forward").write_text("fake")
    (source / "self").symlink_to(victim.climbing)
    result = store.run(
        "--rm", "-v", f"{source}:/proc", "--sysctl", "net.ipv4.ip_forward=1", "--rootfs", own_root, "true"
    )
    assert (source / "sys/net/ipv4/ip_forward").read_text() == "fake", result
    assert victim.unharmed()


# --- races ---------------------------------------------------------------------------------------


class Swapping:
    """Exchanges ``path`` with a link to ``target`` as fast as it can, in a thread (rename(2), RENAME_EXCHANGE)."""

    CODE = "import ctypes, sys\nrename = ctypes.CDLL(None).renameat2\na, b = (p.encode() for p in sys.argv[1:])\n"
    CODE += "while True: rename(-100, a, -100, b, 2)\n"

    def __init__(self, path, make, target):
        make(path)
        self.other = path.with_name(path.name + ".other")
        self.other.symlink_to(target)
        self.command = [sys.executable, "-S", "-c", self.CODE, str(path), str(self.other)]

    def __enter__(self):
        self.process = subprocess.Popen(self.command)
        return self

    def __exit__(self, *_exc):
        self.process.kill()
        self.process.wait()


@pytest.mark.parametrize("target", ["/", "climbing", "victim"])
def test_a_destination_that_is_swapped(own_root, store, victim, source, target):
    """CVE-2021-30465: the second volume goes to a place in the first, which somebody exchanges by a link."""
    shared = store.directory / "shared"
    shared.mkdir()
    link = {"/": "/", "climbing": victim.climbing, "victim": str(victim.path)}[target]
    before = victim._mounts()
    with Swapping(shared / "a", os.mkdir, link):
        for _ in range(25):
            result = store.run(
                "--rm", "-v", f"{shared}:/shared", "-v", f"{source}:/shared/a/b", "-v", f"{source}:/shared/a/c/d",
                "--tmpfs", "/shared/a/t", "--rootfs", own_root, "true",
            )  # fmt: skip
            assert victim.unharmed() and not os.path.exists("/b") and not os.path.exists("/c"), result
            assert result.code in (0, 125) and result.err.count("\n") <= 1, result
    assert [point for point in victim._mounts() if point not in before and str(store.directory) in point] == []


def test_a_root_that_is_swapped(own_root, store, victim):
    """Directories on the way to a destination, in a root file system that another container writes to."""
    (own_root / "deep").mkdir()
    source = store.directory / "volume"
    source.mkdir()
    with Swapping(own_root / "deep/x", os.mkdir, victim.climbing):
        errors: list[object] = []

        def start() -> None:
            for _ in range(15):
                result = store.run("--rm", "-v", f"{source}:/deep/x/y/z", "--rootfs", own_root, "true")
                if not victim.unharmed() or result.code not in (0, 125):
                    errors.append(result)

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors and victim.unharmed()
