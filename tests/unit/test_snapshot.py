"""A container's own directories: made like the image's root, mounted again later, removed whatever is in them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

from coracle.errors import ContentError, KernelError
from coracle.image import ready, removal, snapshot
from coracle.image.load import load
from coracle.image.ready import ReadyImage
from coracle.image.removal import remove_tree
from coracle.paths import Paths
from image_archives import digest, directory, docker_archive, entry, tar

BASE = tar(directory("./", mode=0o751, mtime=1234), entry("f", b"1"))
TOP = tar(entry("g", b"2"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path / "root"), str(tmp_path / "run"))


@pytest.fixture
def image(paths: Paths, tmp_path: Path) -> ReadyImage:
    (tmp_path / "archive").write_bytes(docker_archive([BASE, TOP], ["x"]))
    load(paths, str(tmp_path / "archive"))
    return ready.resolve(paths, "x")


def test_prepare(paths: Paths, image: ReadyImage) -> None:
    os.makedirs(paths.container("c"))
    made = snapshot.prepare(paths, "c", image)
    assert [os.listdir(lower) for lower in made.lower] == [["g"], ["f"]], "topmost first, as overlayfs wants them"
    assert made.upper == f"{paths.container('c')}/upper" and made.work == f"{paths.container('c')}/work"
    info = os.stat(made.upper)
    assert (stat.S_IMODE(info.st_mode), int(info.st_mtime)) == (0o751, 1234)
    again = snapshot.existing(paths, "c")
    assert (again.lower, again.upper, again.work) == (made.lower, made.upper, made.work)
    assert [pin.image_id for pin in snapshot.pins(paths)] == [image.id]


def test_prepare_twice(paths: Paths, image: ReadyImage) -> None:
    os.makedirs(paths.container("c"))
    snapshot.prepare(paths, "c", image)
    (Path(paths.container("c")) / "upper/precious").touch()
    with pytest.raises(KernelError) as caught:
        snapshot.prepare(paths, "c", image)
    assert caught.value.errno == errno.EEXIST
    assert os.listdir(f"{paths.container('c')}/upper") == ["precious"]


def test_prepare_without_the_container_directory(paths: Paths, image: ReadyImage) -> None:
    with pytest.raises(KernelError):
        snapshot.prepare(paths, "c", image)


def test_prepare_cleans_up(paths: Paths, image: ReadyImage, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(paths.container("c"))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(snapshot.record, "save", fail)
    with pytest.raises(KernelError, match="no space"):
        snapshot.prepare(paths, "c", image)
    assert os.listdir(paths.container("c")) == []


def test_existing_without_a_record(paths: Paths) -> None:
    with pytest.raises(ContentError, match="no record of its image"):
        snapshot.existing(paths, "c")


def test_remove(paths: Paths, image: ReadyImage) -> None:
    os.makedirs(paths.container("c"))
    made = snapshot.prepare(paths, "c", image)
    Path(made.upper, "d").mkdir()
    Path(made.upper, "d/f").touch()
    Path(made.work, "work").mkdir(mode=0)  # as overlayfs leaves it
    snapshot.remove(paths, "c")
    assert os.listdir(paths.container("c")) == []
    assert snapshot.pins(paths) == []
    snapshot.remove(paths, "c")


def test_usage(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(bytes(100_000))
    os.link(tmp_path / "d/f", tmp_path / "g")
    size, count = snapshot.usage(str(tmp_path))
    assert count == 2, "the directory and one file"
    assert 100_000 <= size < 150_000


# -- removal


def test_remove_tree_of_nothing(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "nothing"))
    remove_tree(str(tmp_path / "no/parent"))


def test_remove_tree_of_a_file_and_a_link(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "kept").mkdir()
    (tmp_path / "l").symlink_to(tmp_path / "kept")
    remove_tree(str(tmp_path / "f"))
    remove_tree(str(tmp_path / "l"))
    assert os.listdir(tmp_path) == ["kept"]


def test_links_inside_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").touch()
    (tmp_path / "t").mkdir()
    (tmp_path / "t/l").symlink_to(tmp_path / "kept")
    (tmp_path / "t/up").symlink_to("..")
    remove_tree(str(tmp_path / "t"))
    assert os.listdir(tmp_path / "kept") == ["f"]


def test_directories_without_permissions(tmp_path: Path) -> None:
    for name in ("t", "t/a", "t/a/b", "t/c"):
        (tmp_path / name).mkdir()
    (tmp_path / "t/a/b/f").touch()
    (tmp_path / "t/c/f").touch()
    for name, mode in (("t/a/b", 0), ("t/a", 0), ("t/c", 0o500), ("t", 0o400)):
        (tmp_path / name).chmod(mode)
    remove_tree(str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []


def test_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    os.close(os.open(bytes(tmp_path / "t") + b"/\xff\n", os.O_CREAT))
    os.mkfifo(tmp_path / "t/fifo")
    remove_tree(str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []


def test_deeper_than_any_path(tmp_path: Path) -> None:
    """A container can nest directories without limit by going down step by step."""
    (tmp_path / "t").mkdir()
    here = os.open(tmp_path / "t", os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(os.open("f", os.O_CREAT, dir_fd=below))
        os.close(here)
        here = below
    os.close(here)
    before = len(os.listdir("/proc/self/fd"))
    remove_tree(str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_wide_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_BATCH", 10)
    for n in range(105):
        (tmp_path / f"t/{n}").mkdir(parents=True)
        (tmp_path / f"t/{n}/f").touch()
    remove_tree(str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []


def test_two_removers_at_once(tmp_path: Path) -> None:
    for n in range(400):
        (tmp_path / f"t/{n % 20}/{n}").mkdir(parents=True)
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                remove_tree(str(tmp_path / "t"))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert os.listdir(tmp_path) == []


def test_errors_name_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/f").touch()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(removal.os, "unlink", fail)
    with pytest.raises(KernelError) as caught:
        remove_tree(str(tmp_path / "t"))
    assert str(tmp_path / "t") in str(caught.value)


def test_layers_are_where_the_paths_say(paths: Paths, image: ReadyImage) -> None:
    assert sorted(os.listdir(paths.layers())) == sorted(layer[7:] for layer in image.layers)
    assert image.layers[0] == digest(BASE)
    assert subprocess.run(["test", "-e", f"{paths.layer(image.layers[0])}/diff/f"], check=False).returncode == 0
