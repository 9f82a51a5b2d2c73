"""Layers under a real overlay mount: what is seen is what the image means; judged by umoci, podman and GNU tar."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coracle.image.diff import diff, export
from coracle.image.layer import apply
from coracle.image.load import load
from coracle.image.overlay_marks import detect_rights
from coracle.image.ready import resolve
from coracle.image.removal import remove_tree
from coracle.linux.mount import attach, overlay
from coracle.paths import Paths
from image_archives import (
    CHAR,
    FIFO,
    Layout,
    directory,
    entry,
    gnu_long,
    header,
    link,
    pax,
    symlink,
    tar,
    tree_of,
)

SOURCE = str(Path(__file__).parents[2] / "src")
TESTS = str(Path(__file__).parents[1])

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
BASE = tar(
    directory("./", mode=0o755),
    directory("bin"), entry("bin/sh", b"#!" * 2000, mode=0o755), link("bin/ash", "bin/sh"),
    entry("bin/su", b"su", mode=0o4755), directory("tmp", mode=0o1777),
    pax((b"SCHILY.xattr.security.capability", CAPABILITY)), entry("bin/ping", b"p", mode=0o755),
    directory("dev"), entry("dev/null", kind=CHAR, mode=0o666, major=1, minor=3), entry("dev/fifo", kind=FIFO),
    directory("home", uid=1000, gid=1001), entry("home/f", b"mine", uid=1000, gid=1001, mode=0o600),
    symlink("lib", "usr/lib", uid=3, gid=4), directory("usr/lib", mode=0o711, mtime=5), entry("usr/lib/x", b"x"),
    directory("gone"), entry("gone/a", b"a"), directory("opaque"), entry("opaque/old", b"old"),
    directory("again"), entry("again/old", b"old"), entry("changes", b"file"), directory("turns"), entry("turns/f"),
    gnu_long(b"l" * 200), entry("x", b"long"), pax((b"path", b"\xff\xfe")), entry("x", b"bytes"),
)  # fmt: skip
TOP = tar(
    entry(".wh.gone"), directory("opaque"), entry("opaque/.wh..wh..opq"), entry("opaque/new", b"new"),
    entry(".wh.again"), directory("again"), entry("again/new", b"new"), directory("changes"), entry("changes/f", b"f"),
    entry("turns", b"now a file"), entry("usr/lib/y", b"y"), entry("home/.wh.f"), link("bin/bash", "bin/sh"),
    directory("fresh"), entry("fresh/.wh.nothing"), entry("bin/.wh.su"), entry("bin/su", b"su2", mode=0o755),
)  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    yield Paths(str(tmp_path / "root"), str(tmp_path / "run"))
    remove_tree(str(tmp_path / "root"))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Any]:
    """Mount lower directories, topmost first, with an upper one; everything is unmounted afterwards."""
    places: list[Path] = []

    def mount(lower: Sequence[str]) -> tuple[Path, Path]:
        place, upper, work = (tmp_path / f"{name}{len(places)}" for name in ("merged", "upper", "work"))
        for each in (place, upper, work):
            each.mkdir()
        shutil.copystat(lower[0], upper)
        fd = overlay(lower, str(upper), str(work))
        target = os.open(place, os.O_PATH)
        attach(fd, target)
        os.close(fd)
        os.close(target)
        places.append(place)
        return place, upper

    yield mount
    for place in places:
        subprocess.run(["umount", place], check=True)


def load_layers(paths: Paths, layers: list[bytes], name: str = "x") -> list[str]:
    layout = Layout()
    layout.image(layers, name)
    archive = Path(paths.root).with_name("archive")
    archive.write_bytes(layout.archive())
    load(paths, str(archive))
    return resolve(paths, name).lower_directories(paths)


@pytest.mark.root
def test_overlay_shows_what_the_image_means(paths: Paths, mounted: Any) -> None:
    place, _ = mounted(load_layers(paths, [BASE, TOP]))
    assert not (place / "gone").exists()
    assert os.listdir(place / "opaque") == os.listdir(place / "again") == ["new"]
    assert os.listdir(place / "changes") == ["f"]
    assert (place / "turns").read_bytes() == b"now a file"
    assert os.listdir(place / "home") == os.listdir(place / "fresh") == [], "not even as a ghost"
    assert sorted(os.listdir(place / "usr/lib")) == ["x", "y"]
    assert (stat.S_IMODE((place / "usr/lib").stat().st_mode), (place / "usr/lib").stat().st_mtime) == (0o711, 5)
    assert (place / "bin/su").read_bytes() == b"su2"
    assert (place / "bin/bash").read_bytes() == b"#!" * 2000
    assert (place / "bin/bash").stat().st_ino == (place / "bin/sh").stat().st_ino
    assert os.getxattr(place / "bin/ping", "security.capability") == CAPABILITY
    assert ((place / "home").stat().st_uid, (place / "home").stat().st_gid) == (1000, 1001)
    assert (place / "lib/x").read_bytes() == b"x"


@pytest.mark.root
def test_every_combination_of_two_layers(paths: Paths, mounted: Any) -> None:
    """What stands at one name below, what the layer above does to it, and what must be seen then."""
    below = {
        "nothing": [],
        "file": [entry("@", b"old")],
        "directory": [directory("@"), entry("@/old", b"old")],
        "symlink": [symlink("@", "directory-old")],
    }
    above: dict[str, tuple[list[bytes], Any]] = {
        "nothing": ([], None),
        "file": ([entry("@", b"new")], b"new"),
        "directory": ([directory("@"), entry("@/new", b"new")], ["new"]),
        "symlink": ([symlink("@", "to")], "to"),
        "whiteout": ([entry(".wh.@")], False),
        "whiteout, file": ([entry(".wh.@"), entry("@", b"new")], b"new"),
        "file, whiteout": ([entry("@", b"new"), entry(".wh.@")], b"new"),
        "whiteout, directory": ([entry(".wh.@"), directory("@"), entry("@/new")], {"new"}),
        "directory, whiteout": ([directory("@"), entry("@/new"), entry(".wh.@")], {"new"}),
        "opaque": ([directory("@"), entry("@/.wh..wh..opq"), entry("@/new")], {"new"}),
        "whiteout inside": ([directory("@"), entry("@/.wh.old")], set()),
    }
    untouched = {"nothing": False, "file": b"old", "directory": {"old"}, "symlink": "directory-old"}
    bottom, top, expected = [], [], {}
    for under, parts in below.items():
        for over, (changes, result) in above.items():
            name = f"{under}-{over}".replace(" ", "_").replace(",", "")
            bottom += [rename(part, name) for part in parts]
            top += [rename(part, name) for part in changes]
            merges = under == "directory" and isinstance(result, list)
            expected[name] = {"old", *result} if merges else set(result) if isinstance(result, list) else result
            if result is None:
                expected[name] = untouched[under]
    place, _ = mounted(load_layers(paths, [tar(*bottom), tar(*top)]))
    assert {name: seen(place / name) for name in expected} == expected
    assert set(os.listdir(place)) == {name for name, result in expected.items() if result is not False}


def rename(part: bytes, name: str) -> bytes:
    """The same entry with ``@`` in its name replaced."""
    old = part[:100].rstrip(b"\0").decode()
    target = part[157:257].rstrip(b"\0")
    size = int(part[124:135], 8)
    mode = int(part[100:107], 8)
    return header(old.replace("@", name), part[156:157], size=size, mode=mode, target=target) + part[512:]


def seen(path: Path) -> Any:
    if path.is_symlink():
        return os.readlink(path)
    if path.is_dir():
        return set(os.listdir(path))
    return path.read_bytes() if path.exists() else False


@pytest.mark.root
def test_a_container_s_changes_become_a_layer(paths: Paths, mounted: Any, tmp_path: Path) -> None:
    """diff of a real upper directory, applied over the same image, shows the same tree."""
    lower = load_layers(paths, [BASE, TOP])
    place, upper = mounted(lower)
    (place / "bin/sh").unlink()
    shutil.rmtree(place / "usr/lib")
    (place / "usr/lib").mkdir()
    (place / "usr/lib/z").write_text("z")
    os.chmod(place / "home", 0o700)
    os.rename(place / "changes/f", place / "changes/g")
    os.symlink("x", place / "opaque/link")
    os.mknod(place / "dev/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    os.setxattr(place / "bin/ping", "user.note", b"\0\1")
    os.link(place / "changes/g", place / "changes/h")
    out = io.BytesIO()
    written = diff(str(upper), out)
    layer = tmp_path / "committed"
    layer.mkdir()
    applied = apply(io.BytesIO(out.getvalue()), str(layer), lower)
    assert applied.diff_id == written.diff_id
    again, _ = mounted([str(layer), *lower])
    assert without_ctime(again) == without_ctime(place)


def without_ctime(path: Path) -> dict[str, Any]:
    """Whole seconds are what a layer keeps; the root's own time changes with the mount's upper directory."""
    tree = tree_of(path)
    tree.pop(".")
    return tree


@pytest.mark.root
def test_export_of_a_mounted_container(paths: Paths, mounted: Any, tmp_path: Path) -> None:
    place, _ = mounted(load_layers(paths, [BASE, TOP]))
    (place / "mnt").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place / "mnt"], check=True)
    try:
        (place / "mnt/secret").write_text("of another file system")
        out = io.BytesIO()
        export(str(place), out)
    finally:
        subprocess.run(["umount", place / "mnt"], check=True)
    (tmp_path / "plain").mkdir()
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "-", "-C", tmp_path / "plain"],
        input=out.getvalue(),
        check=True,
    )
    assert not (tmp_path / "plain/mnt/secret").exists()
    ours, theirs = without_ctime(place), without_ctime(tmp_path / "plain")
    for tree in (ours, theirs):
        tree.pop("mnt")
    assert theirs == ours


@pytest.mark.root
def test_a_mount_inside_a_layer_is_not_removed(tmp_path: Path) -> None:
    from coracle.errors import ConflictError

    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/f").touch()
    (tmp_path / "t/m").mkdir(parents=True)
    subprocess.run(["mount", "--bind", tmp_path / "kept", tmp_path / "t/m"], check=True)
    try:
        with pytest.raises(ConflictError, match="mounted inside"):
            remove_tree(str(tmp_path / "t"))
        assert os.listdir(tmp_path / "kept") == ["f"]
    finally:
        subprocess.run(["umount", tmp_path / "t/m"], check=True)
    remove_tree(str(tmp_path / "t"))
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.root
@pytest.mark.skipif(shutil.which("chattr") is None, reason="not installed: chattr")
def test_immutable_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "t/d").mkdir(parents=True)
    for name in ("t/f", "t/d/f"):
        (tmp_path / name).touch()
    for flag, name in (("+i", "t/f"), ("+a", "t/d/f"), ("+i", "t/d")):
        if subprocess.run(["chattr", flag, tmp_path / name], check=False).returncode:
            pytest.skip("this file system or machine has no such flags")
    remove_tree(str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []


# -- judged by others


@pytest.mark.root
@pytest.mark.peer
@pytest.mark.skipif(shutil.which("umoci") is None, reason="not installed: umoci")
def test_same_tree_as_umoci(paths: Paths, mounted: Any, tmp_path: Path) -> None:
    # Without the hard link to the layer below: overlayfs copies its target and breaks the target's other links.
    layers = [BASE, TOP.replace(link("bin/bash", "bin/sh"), b"")]
    layout = Layout()
    layout.image(layers, "judged")
    root = layout.write(tmp_path / "layout")
    subprocess.run(
        ["umoci", "unpack", "--image", f"{root}:judged", tmp_path / "bundle"],
        check=True,
        capture_output=True,
    )
    place, _ = mounted(load_layers(paths, layers))
    ours, theirs = without_ctime(place), without_ctime(tmp_path / "bundle/rootfs")
    for tree in (ours, theirs):  # the time of a directory that the layer does not list, but changes
        for name in ("usr", "home"):
            tree[name] = tree[name][:3]
    assert ours == theirs


@pytest.mark.root
@pytest.mark.peer
def test_same_tree_as_gnu_tar(tmp_path: Path) -> None:
    """A real root file system, as far as one can be had without a network: this machine's /etc and some of /usr."""
    archive = tmp_path / "host.tar"
    source = [name for name in ("etc", "usr/share/zoneinfo", "usr/lib/systemd") if Path("/", name).is_dir()]
    subprocess.run(
        ["tar", "--xattrs", "--one-file-system", "--sparse", "-C", "/", "-cf", archive, *source],
        check=False,
        capture_output=True,
    )
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    with archive.open("rb") as file:
        apply(file, str(tmp_path / "ours"), [])
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive, "-C", tmp_path / "theirs"],
        check=True,
    )
    ours, theirs = without_ctime(tmp_path / "ours"), without_ctime(tmp_path / "theirs")
    for tree in (ours, theirs):
        tree.pop("usr", None), tree.pop("usr/share", None), tree.pop("usr/lib", None)
    assert ours == theirs


# -- users

_AS_USER = """
    import io, os, sys
    sys.path[:0] = [{source!r}, {tests!r}]
    from image_archives import *
    from coracle.paths import Paths
    from coracle.image.load import load
    from coracle.image.ready import resolve
    from coracle.image.images import remove
    paths = Paths(sys.argv[1] + "/root", sys.argv[1] + "/run")
    notes = []
    load(paths, sys.argv[1] + "/archive", warn=notes.append)
    lower = resolve(paths, "x").lower_directories(paths)
    print(*sorted(notes), sep="\\n")
    if len(sys.argv) > 2:
        os.mkdir(sys.argv[1] + "/m")
        options = "userxattr,lowerdir=" + ":".join(lower)
        assert os.system(f"mount -t overlay overlay -o {{options}} {{sys.argv[1]}}/m") == 0
        os.chdir(sys.argv[1] + "/m")
        print(sorted(os.listdir("opaque")), sorted(os.listdir("again")), os.path.exists("gone"), os.listdir("home"))
        os.chdir("/"); os.system("umount " + sys.argv[1] + "/m")
    remove(paths, "x")
    print(os.listdir(paths.layers()), os.listdir(paths.ingest()))
"""


def run_as(command: list[str], place: Path, *more: str) -> list[str]:
    code = textwrap.dedent(_AS_USER).format(source=SOURCE, tests=TESTS)
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    process = subprocess.run(
        [*command, python, "-c", code, str(place), *more],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that another user may use, with an archive of the two layers."""
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="coracle-test-"))
    layout = Layout()
    layout.image([BASE, TOP], "x")
    (path / "archive").write_bytes(layout.archive())
    (path / "archive").chmod(0o644)
    path.chmod(0o777)
    yield path
    remove_tree(str(path))


@pytest.mark.root
def test_as_a_user(place: Path) -> None:
    """One uid: everything becomes his own, devices are left out, and he is told so."""
    lines = run_as(["setpriv", "--reuid", "61234", "--regid", "61234", "--clear-groups"], place)
    text = "\n".join(lines)
    assert "kept as this user's own" in text
    assert "only root may make devices" in text
    assert "security.capability" in text
    assert lines[-1] == "[] []"


def test_in_a_user_namespace(place: Path) -> None:
    """unshare -Ur: root of a single uid, who can mount with userxattr."""
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make user namespaces")
    lines = run_as(["unshare", "-Urm"], place, "mount")
    assert lines[-2:] == ["['new'] ['new'] False []", "[] []"]


# unshare(1) maps ranges only with newuidmap(1) and an entry in /etc/subuid; root may write the map himself.
_WITH_RANGE = """
    import os, sys
    sys.path.insert(0, {source!r})
    from coracle.linux.syscall import syscall
    ready, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        syscall("unshare", 0x10000000 | 0x20000)  # CLONE_NEWUSER | CLONE_NEWNS
        os.write(ready[1], b"x")
        os.read(mapped[0], 1)
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.execvp(sys.argv[1], sys.argv[1:])
    os.read(ready[0], 1)
    for kind in ("uid", "gid"):
        with open(f"/proc/{{child}}/{{kind}}_map", "w") as file:
            file.write("0 200000 65536")
    os.write(mapped[1], b"x")
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.root
def test_in_a_user_namespace_with_a_range(place: Path) -> None:
    """As rootless podman has it: owners are kept, relative to the namespace."""
    os.chown(place, 200000, 200000)
    code = textwrap.dedent(_WITH_RANGE).format(source=SOURCE)
    lines = run_as([sys.executable, "-c", code], place, "mount")
    assert not any("kept as" in line for line in lines)
    assert any("only root may make devices" in line for line in lines)
    assert lines[-2:] == ["['new'] ['new'] False []", "[] []"]


def test_rights_are_what_the_kernel_says() -> None:
    rights = detect_rights()
    with open("/proc/self/uid_map") as file:
        single = sum(int(line.split()[2]) for line in file) == 1
    assert rights.owner is (os.geteuid() == 0 and not single)
