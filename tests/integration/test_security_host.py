"""The clone of this machine and the removal of containers: nothing of the host changes, nothing of others is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

WATCHED = ("/etc", "/usr/bin", "/usr/sbin", "/home", "/opt", "/srv", "/var/spool", "/var/mail", "/usr/share/keyrings")

# Everything that root can do to files, to all that is watched and more.
HAVOC = r"""
import os, shutil, sys
done = 0
def attempt(call, *arguments, **more):
    global done
    try:
        call(*arguments, **more)
        done += 1
    except OSError:
        pass
for top in sys.argv[1:]:
    for directory, folders, files in os.walk(top):
        for number, name in enumerate(files + folders):
            path = f"{directory}/{name}"
            kind = number % 8
            if kind == 0: attempt(os.chmod, path, 0o777)
            elif kind == 1: attempt(os.chown, path, 12345, 12345, follow_symlinks=False)
            elif kind == 2 and os.path.isfile(path): attempt(os.truncate, path, 0)
            elif kind == 3: attempt(os.unlink, path)
            elif kind == 4: attempt(os.rename, path, path + ".moved")
            elif kind == 5: attempt(os.utime, path, (1, 1))
            elif kind == 6: attempt(os.setxattr, path, "trusted.attack", b"1")
            elif kind == 7: attempt(os.link, path, path + ".hard")
        attempt(os.mknod, f"{directory}/node", 0o20666, os.makedev(1, 3))
        attempt(os.symlink, "/etc/shadow", f"{directory}/link")
        attempt(os.mkdir, f"{directory}/made")
    attempt(shutil.rmtree, top, True)
for path in ("/new-file", "/usr/lib/new-file", "/root/new-file", "/var/lib/new-file", "/boot/new-file"):
    attempt(lambda: open(path, "w").close())
attempt(os.rename, "/usr/share", "/usr/share.moved")
os.sync()
print(done)
"""


def picture(tops):
    """Path → what lstat(2) tells of all below ``tops``; the time of the last change of the inode betrays everything."""
    found = {}
    for top in tops:
        for directory, folders, files in os.walk(top):
            for path in (directory, *(f"{directory}/{name}" for name in folders + files)):
                info = os.lstat(path)
                found[path] = (info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_ctime_ns)
    return found


def test_the_clone_never_writes_to_the_host(clean_store):
    # What others do on this machine meanwhile is not the container's: /etc/mtab and the like are left out.
    tops = [top for top in WATCHED if os.path.isdir(top)]
    before = picture(tops)
    result = clean_store.run("--rm", "host", sys.executable, "-c", HAVOC, *tops, code=0)
    after = picture(tops)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    assert changed == [] and int(result.out) > 500, result
    for path in ("/new-file", "/usr/lib/new-file", "/root/new-file", "/var/lib/new-file", "/usr/share.moved"):
        assert not os.path.exists(path)


def test_the_clone_with_all_rights_still_writes_to_its_own_layer(clean_store):
    before = picture(["/home", "/opt", "/srv"])
    clean_store.run("--rm", "--cap-add", "ALL", "host", sys.executable, "-c", HAVOC, "/home", "/opt", "/srv", code=0)
    assert picture(["/home", "/opt", "/srv"]) == before


def test_the_clone_by_an_ordinary_user(user_store):
    before = picture(["/home", "/opt", "/srv", str(user_store.root)] if user_store.root.exists() else ["/home", "/opt"])
    python = user_store.interpreter
    user_store.run("--rm", "host", python, "-c", HAVOC, "/home", "/opt", "/srv")
    assert picture([top for top in ("/home", "/opt") if os.path.isdir(top)]) == {
        path: value for path, value in before.items() if path.startswith(("/home", "/opt"))
    }


def test_the_clone_shows_nothing_of_other_containers(busybox, store):
    """Records, layers, logs, sockets, names: by path, through /proc, by mounting again, and as process or mount."""
    identifier = store.detach(
        "--name", "secret", "-e", "PASSWORD=hidden", "--rootfs", busybox, "sh", "-c", "echo hidden; sleep 99"
    )
    script = (
        f"ls -A {store.root} {store.run_directory}; cat {store.root}/containers/{identifier}/*;"
        f"ls -A /proc/1/root{store.root} /proc/self/root{store.run_directory} {store.root}/../{store.root.name};"
        f"touch {store.root}/x; rmdir {store.root}; mv {store.root} /moved;"
        f"grep -r hidden /proc/*/environ /proc/*/cmdline; cat /proc/mounts | grep {identifier}; ps ax"
    )
    result = store.run("--rm", "host", "sh", "-c", script)
    shown = "\n".join(line for line in result.lines if line and not line.endswith(":") and "grep" not in line)
    assert "hidden" not in shown and "sleep 99" not in shown and "container.json" not in shown, result
    assert not [line for line in shown.splitlines() if identifier in line and "overlay" in line]
    store.command("rm", "-f", "secret", code=0)


def test_the_clone_shows_nothing_of_the_usual_stores(store):
    """Also where other users of this machine's root keep their containers."""
    made = [path for path in ("/var/lib/coracle", "/run/coracle") if not os.path.exists(path)]
    for path in ("/var/lib/coracle", "/run/coracle"):
        os.makedirs(f"{path}/containers", exist_ok=True)
    try:
        assert store.run("--rm", "host", "ls", "-A", "/var/lib/coracle", "/run/coracle").lines == [
            "/run/coracle:", "", "/var/lib/coracle:",
        ]  # fmt: skip
    finally:
        for path in made:
            subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


@pytest.fixture
def victim(store):
    directory = store.directory / "victim"
    directory.mkdir()
    (directory / "kept").write_text("kept")
    return directory


def layer_of(store, identifier):
    """The container's own layer, where what it wrote is."""
    found = [path for path in (store.root / "containers" / identifier).rglob("left-by-test") if path.is_file()]
    return found[0].parent


def test_removal_does_not_follow_links(store, victim):
    script = (
        f"cd /; touch left-by-test; ln -s {victim} a; ln -s {victim}/kept b; mkdir -p d/e; ln -s {victim} d/e/f;"
        f"ln -s / root-link; ln -s .. d/up; chmod 000 d/e"
    )
    store.run("--name", "c", "host", "sh", "-c", script, code=0)
    identifier = store.identifier("c")
    layer = layer_of(store, identifier)
    os.replace(layer / "d", layer / "other")
    os.symlink(victim, layer / "d")
    store.command("rm", "c", code=0)
    assert os.listdir(victim) == ["kept"] and (victim / "kept").read_text() == "kept"
    assert store.settled() == []


def test_removal_does_not_go_through_mounts(store, victim):
    """Somebody has mounted something below the container's directory: it says so, and leaves it alone."""
    store.run("--name", "c", "host", "sh", "-c", "touch /left-by-test; mkdir /m", code=0)
    layer = layer_of(store, store.identifier("c"))
    subprocess.run(["mount", "--bind", victim, layer / "m"], check=True)
    try:
        result = store.command("rm", "c")
        assert result.code == 1 and "mounted" in result.err and result.err.count("\n") == 1, result
        assert (victim / "kept").read_text() == "kept"
    finally:
        with open("/proc/self/mountinfo") as lines:
            points = [line.split()[4] for line in lines if line.split()[4].startswith(str(store.root))]
        for point in points:
            subprocess.run(["umount", point], check=True)
    store.command("ps", "-a", code=0)
    store.command("rm", "-f", "c")
    assert store.settled() == [] and (victim / "kept").exists()


def test_removal_while_links_are_swapped(store, victim):
    """Some process of the host exchanges names in the layer while it is deleted."""
    code = (
        "import ctypes, sys, os\nrename = ctypes.CDLL(None).renameat2\n"
        "a, b = (p.encode() for p in sys.argv[1:])\nwhile True: rename(-100, a, -100, b, 2)\n"
    )
    for _ in range(10):
        store.run("--name", "c", "host", "sh", "-c", "cd /; touch left-by-test; mkdir -p s/t/u; touch s/t/u/f", code=0)
        layer = layer_of(store, store.identifier("c"))
        os.symlink(victim, layer / "s/link")
        swapper = subprocess.Popen([sys.executable, "-S", "-c", code, layer / "s/t", layer / "s/link"])
        try:
            store.command("rm", "c")
        finally:
            swapper.kill()
            swapper.wait()
        assert (victim / "kept").read_text() == "kept" and os.listdir(victim) == ["kept"]
        store.command("ps", "-a", code=0)
        store.command("rm", "-f", "c")
    assert store.settled() == []


def test_records_are_the_owners_alone(busybox, store):
    """Environment variables hold secrets; records are not for other users of the machine."""
    identifier = store.detach("--name", "c", "-e", "PASSWORD=hidden", "--rootfs", busybox, "sleep", "99")
    readable = []
    for top in (
        store.root / "containers" / identifier,
        store.run_directory / "containers" / identifier,
        store.root / "names",
    ):
        for path in [top, *Path(top).rglob("*")]:
            if (
                path.is_file()
                and not path.is_symlink()
                and os.stat(path).st_mode & 0o004
                and "hidden" in path.read_text()
            ):
                readable.append(str(path))
    assert readable == []
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    for path in (store.root / "containers" / identifier / "config.json", store.root / "names"):
        assert subprocess.run([*other, "cat" if path.is_file() else "ls", path], capture_output=True).returncode != 0
    store.command("rm", "-f", "c", code=0)
