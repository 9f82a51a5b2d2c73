"""A full disk at every page: either it runs, or it says so in one line and leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from containers import wait_until

pytestmark = pytest.mark.root
PAGE = 4096


@pytest.fixture
def small(store):
    """A store whose storage root and run directory are small file systems; ``free(root, run)`` sets the free pages."""
    disks = []
    for place in (store.root, store.run_directory):
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=400", "tmpfs", place], check=True)
        disks.append(place)
    store.run("--rm", "--rootfs", "/", "--entrypoint", "/bin/true", code=None)  # makes the directories and caches

    def free(*pages):
        for place, count in zip(disks, pages, strict=True):
            filler = place / "filler"
            filler.unlink(missing_ok=True)
            if count is None:
                continue
            info = os.statvfs(place)
            with filler.open("wb") as file:
                file.write(bytes(max(0, info.f_bavail - count) * PAGE))

    store.free = free
    yield store
    free(None, None)
    for place in disks:
        subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.parametrize("pages", range(0, 16))
@pytest.mark.parametrize("place", ["store", "run"])
def test_full_while_it_starts(small, busybox, pages, place):
    small.free(*((pages, None) if place == "store" else (None, pages)))
    result = small.run("--name", "n", "--rootfs", busybox, "echo", "ran")
    if result.code == 125:
        assert result.err.count("\n") == 1 and "no space left" in result.err.lower(), result
        assert names(small) == [] and small.groups() == [] and small.processes() == {}
    else:
        assert (result.code, result.out) == (0, "ran\n"), result
        assert small.command("ps", "-a", code=0).err == ""
        small.free(None, None)
        assert "Exited" in small.command("ps", "-a", code=0).out
        small.command("rm", "-f", "n", code=0)
        assert names(small) == []


def names(store):
    """Everything of containers in both places."""
    return [
        str(path)
        for folder in (store.root / "containers", store.root / "names", store.run_directory / "containers")
        if folder.is_dir()
        for path in folder.iterdir()
    ]


@pytest.mark.parametrize("pages", range(0, 8))
def test_full_when_it_ends(small, busybox, pages):
    """The exit code reaches the caller; what could not be written is made good by the next command."""
    process = small.start(
        "--name", "n", "-i", "--rootfs", busybox, "sh", "-c", "read line; exit 7", stdin=subprocess.PIPE
    )
    assert wait_until(lambda: (small.root / "names/n").is_symlink() and small.processes())
    assert wait_until(lambda: '"status": "running"' in small.command("ps", "--format", "json").out)
    small.free(pages, None)
    process.communicate(b"\n", 20)
    assert process.returncode == 7
    small.free(None, None)
    assert json.loads(small.command("ps", "-a", "--format", "json", code=0).out)[0]["status"] == "exited"
    small.command("rm", "n", code=0)
    assert names(small) == [] and small.groups() == []


def test_full_while_it_writes_its_log(small, busybox):
    """The container goes on, its client hears all of it, and its log is still one."""
    small.free(40, None)
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 3"
    result = small.run("--name", "n", "--rootfs", busybox, "sh", "-c", script, code=3)
    assert result.lines == [f"line {number}" for number in range(20000)]
    small.free(None, None)
    logged = small.command("logs", "n", code=0).out.splitlines()
    assert 0 < len(logged) < 20000
    assert set(logged) <= set(result.lines)
    small.command("rm", "n", code=0)
    assert names(small) == []


def test_no_more_inodes(small, busybox):
    for number in range(400):
        try:
            (small.root / f"inode{number}").touch()
        except OSError:
            break
    result = small.run("--name", "n", "--rootfs", busybox, "true", code=125)
    assert result.err.count("\n") == 1 and "no space left" in result.err.lower()
    assert names(small) == []


def test_a_storage_root_that_cannot_be_written(store, busybox):
    """Read-only file systems: one line, naming the directory."""
    store.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", store.root], check=True)
    result = store.run("--rm", "--rootfs", busybox, "true", code=125)
    assert result.err.count("\n") == 1 and str(store.root) in result.err and "read-only" in result.err, result
    subprocess.run(["umount", store.root], check=True)


@pytest.mark.parametrize("what", ["storage root", "run directory", "containers"])
def test_a_file_where_a_directory_should_be(store, busybox, what):
    place = {"storage root": store.root, "run directory": store.run_directory, "containers": store.root / "containers"}[
        what
    ]
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    result = store.run("--rm", "--rootfs", busybox, "true", code=125)
    assert result.err.count("\n") == 1 and str(place) in result.err and "internal" not in result.err, result


def test_oci_on_a_full_disk(small, busybox):
    small.state = small.run_directory / "oci"
    bundle = small.bundle(busybox, "true")
    outcomes = set()
    for pages in range(0, 12):
        small.free(None, pages)
        result = small.oci("create", "--bundle", bundle, "c")
        outcomes.add(result.code)
        if result.code:
            assert result.err.count("\n") == 1 and "no space left" in result.err.lower(), result
            assert not (small.state / "c").exists() and small.groups() == [] and not small.processes()
        else:
            small.oci("delete", "--force", "c", code=0)
    assert outcomes == {0, 1}
