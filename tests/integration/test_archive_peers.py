"""Archives that podman, skopeo, umoci and docker write are loaded; what we save is accepted by all of them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from enclosure import Enclosure
from peers import Docker, Podman, missing

from coracle.image import images, ready
from coracle.image.diff import export
from coracle.image.load import load
from coracle.image.removal import remove_tree
from coracle.image.rootfs import import_rootfs
from coracle.image.save import save
from coracle.paths import Paths
from image_archives import (
    BLOCK_DEVICE,
    CHAR,
    FIFO,
    Layout,
    digest,
    directory,
    entry,
    gnu_long,
    link,
    pax,
    symlink,
    tar,
    tree_of,
)

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(300)]

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ROOTFS = tar(
    directory("./", mode=0o755), directory("bin", mtime=77), entry("bin/busybox", b"\x7fELF" * 5000, mode=0o755),
    link("bin/sh", "bin/busybox", mode=0o755), link("bin/ls", "bin/busybox", mode=0o755),
    entry("bin/su", b"su", mode=0o4755),
    pax((b"SCHILY.xattr.security.capability", CAPABILITY)), entry("bin/ping", b"p", mode=0o755, gid=5),
    directory("dev"), entry("dev/null", kind=CHAR, mode=0o666, major=1, minor=3),
    entry("dev/disk", kind=BLOCK_DEVICE, mode=0o660, gid=6, major=8, minor=1), entry("dev/fifo", kind=FIFO, mode=0o600),
    directory("tmp", mode=0o1777), directory("home/u", uid=1000, gid=1000, mode=0o2750),
    entry("home/u/f", b"mine", uid=1000, gid=1000, mode=0o600, mtime=12345), symlink("lib", "usr/lib", uid=7),
    directory("empty", mode=0o700), entry("zero", mode=0), gnu_long(b"d/" + b"l" * 200), entry("x", b"long"),
    pax((b"path", "ünïcode".encode())), entry("x", b"name"), pax((b"uid", b"4000000")), entry("big-uid", b"u"),
)  # fmt: skip
TOP = tar(directory("etc"), entry("etc/new", b"new"), entry("bin/.wh.su"), directory("bin", mtime=78),
          directory("home"), entry("home/.wh..wh..opq"))  # fmt: skip
CONFIG = {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "A=b c"], "Labels": {"l": "v"}, "ExposedPorts": {"80/tcp": {}},
          "Volumes": {"/v": {}}, "WorkingDir": "/w", "User": "1000", "StopSignal": "SIGINT"}  # fmt: skip


def need(*programs: str) -> None:
    if absent := [program for program in programs if missing(program)]:
        pytest.skip(f"not installed: {', '.join(absent)}")


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    yield Paths(str(tmp_path / "root"), str(tmp_path / "run"))
    remove_tree(str(tmp_path / "root"))


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs.tar"
    path.write_bytes(ROOTFS)
    return path


@pytest.fixture(scope="module")
def place() -> Iterator[Enclosure]:
    with Enclosure() as each:
        yield each


@pytest.fixture(scope="module")
def podman(place: Enclosure) -> Podman:
    need("podman", "crun")
    return Podman(place)


@pytest.fixture(scope="module")
def docker(place: Enclosure) -> Iterator[Docker]:
    need("docker", "dockerd", "runc")
    with Docker(place) as each:
        yield each


def checked(process: subprocess.CompletedProcess[str]) -> str:
    assert process.returncode == 0, process.stderr
    return process.stdout


def skopeo(*arguments: str) -> str:
    need("skopeo")
    return checked(
        subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False)
    )


def layer_tree(paths: Paths, name: str, layer: int = 0) -> dict[str, Any]:
    tree = tree_of(Path(ready.resolve(paths, name).lower_directories(paths)[layer]))
    return {path: fields for path, fields in tree.items() if path != "."}


def two_layers(tmp_path: Path, paths: Paths) -> None:
    """An image of our own with two layers and a full config."""
    layout = Layout()
    layout.image([ROOTFS, TOP], "test/two:1", compress=True, config=CONFIG, author="me")
    (tmp_path / "two.tar").write_bytes(layout.archive())
    load(paths, str(tmp_path / "two.tar"))


# -- theirs to us


@pytest.mark.parametrize("format", ["docker-archive", "oci-archive"])
def test_podman_save(paths: Paths, podman: Podman, place: Enclosure, rootfs: Path, format: str) -> None:
    name = f"localhost/from-podman:{format}"
    with rootfs.open("rb") as file:
        checked(podman.run("import", "--change", 'CMD ["/bin/sh"]', "--change", "ENV A=b", "-", name, stdin=file))
    checked(podman.run("save", "--format", format, "-o", f"{place.directory}/out.{format}", name))
    (loaded,) = load(paths, str(place.seen / f"out.{format}"))
    assert loaded.names == [name]
    inspected = json.loads(checked(podman.run("image", "inspect", name)))[0]
    image = ready.resolve(paths, name)
    assert image.id == f"sha256:{inspected['Id']}"
    assert image.config["Cmd"] == ["/bin/sh"] and image.config["Env"] == ["A=b"]
    theirs = inspected["GraphDriver"]["Data"]["UpperDir"].replace(str(place.directory), str(place.seen), 1)
    trees = [layer_tree(paths, name), {k: v for k, v in tree_of(Path(theirs)).items() if k != "."}]
    for tree in trees:  # a directory that the archive does not list: podman dates it now
        tree["home"] = tree["d"] = ()
    assert trees[0] == trees[1]


def test_podman_several_images_in_one_archive(paths: Paths, podman: Podman, place: Enclosure, rootfs: Path) -> None:
    names = ["localhost/m:1", "localhost/m:2", "quay.io/a/b:x"]
    for name in names:
        with rootfs.open("rb") as file:
            checked(podman.run("import", "--message", name, "-", name, stdin=file))
    checked(podman.run("save", "--multi-image-archive", "-o", f"{place.directory}/multi.tar", *names))
    loaded = load(paths, str(place.seen / "multi.tar"))
    assert sorted(each.names[0] for each in loaded) == sorted(names)


def test_podman_save_from_a_pipe(paths: Paths, podman: Podman, rootfs: Path) -> None:
    with rootfs.open("rb") as file:
        checked(podman.run("import", "-", "localhost/piped:1", stdin=file))
    with podman.popen("save", "localhost/piped:1", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        load(paths, process.stdout.fileno())
    assert ready.resolve(paths, "piped:1").name == "localhost/piped:1"


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_skopeo_copies(paths: Paths, tmp_path: Path, transport: str) -> None:
    need("skopeo")
    source = Paths(str(tmp_path / "source"), str(tmp_path / "source-run"))
    two_layers(tmp_path, source)
    skopeo("copy", f"oci:{source.images()}:docker.io/test/two:1", f"{transport}:{tmp_path}/copy:test/two:1")
    load(paths, str(tmp_path / "copy"))
    ours, theirs = ready.resolve(source, "test/two:1"), ready.resolve(paths, "test/two:1")
    assert (ours.id, ours.layers, ours.config) == (theirs.id, theirs.layers, theirs.config)


def test_skopeo_copies_straight_into_the_store(paths: Paths, tmp_path: Path) -> None:
    need("skopeo")
    source = Paths(str(tmp_path / "source"), str(tmp_path / "source-run"))
    two_layers(tmp_path, source)
    two_layers(tmp_path, paths)
    skopeo("copy", f"oci:{source.images()}:docker.io/test/two:1", f"oci:{paths.images()}:quay.io/other/name:2")
    assert ready.resolve(paths, "quay.io/other/name:2").id == ready.resolve(paths, "test/two:1").id
    images.remove(paths, "test/two:1")
    assert ready.resolve(paths, "quay.io/other/name:2").config == CONFIG


def test_umoci_layouts(paths: Paths, tmp_path: Path) -> None:
    need("umoci")
    layout = f"{tmp_path}/layout"
    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:1"], check=True)
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle"], check=True, capture_output=True)
    (tmp_path / "bundle/rootfs/f").write_text("from umoci")
    subprocess.run(["umoci", "repack", "--image", f"{layout}:1", tmp_path / "bundle"], check=True, capture_output=True)
    subprocess.run(["umoci", "config", "--image", f"{layout}:1", "--config.cmd", "x"], check=True)
    load(paths, layout, name="from-umoci")
    image = ready.resolve(paths, "from-umoci")
    assert image.config["Cmd"] == ["x"]
    assert (Path(image.lower_directories(paths)[0]) / "f").read_text() == "from umoci"


def test_docker_save(paths: Paths, docker: Docker, place: Enclosure, rootfs: Path) -> None:
    with rootfs.open("rb") as file:
        checked(docker.run("import", "--change", 'CMD ["/bin/sh"]', "-", "from/docker:1", stdin=file))
    checked(docker.run("tag", "from/docker:1", "from/docker:2"))
    checked(docker.run("save", "-o", f"{place.directory}/docker.tar", "from/docker:1", "from/docker:2"))
    (loaded,) = load(paths, str(place.seen / "docker.tar"))
    assert sorted(loaded.names) == ["docker.io/from/docker:1", "docker.io/from/docker:2"]
    inspected = json.loads(checked(docker.run("image", "inspect", "from/docker:1")))[0]
    ours = images.inspect(paths, "from/docker:1")
    for key in ("Id", "RepoTags", "Created", "Comment", "Author", "Architecture", "Os", "RootFS"):
        assert ours[key] == inspected[key], key
    for key, value in ours["Config"].items():
        assert inspected["Config"][key] == value, key
    theirs = inspected["GraphDriver"]["Data"]["UpperDir"].replace(str(place.directory), str(place.seen), 1)
    trees = [layer_tree(paths, "from/docker:1"), {k: v for k, v in tree_of(Path(theirs)).items() if k != "."}]
    for tree in trees:
        tree["home"] = tree["d"] = ()
    assert trees[0] == trees[1]


# -- ours to them


@pytest.mark.parametrize("format", ["docker-archive", "oci-archive", "oci-dir"])
def test_skopeo_inspects(paths: Paths, tmp_path: Path, format: str) -> None:
    two_layers(tmp_path, paths)
    out = tmp_path / "out"
    save(paths, ["test/two:1"], str(out), format)
    transport = {"docker-archive": "docker-archive", "oci-archive": "oci-archive", "oci-dir": "oci"}[format]
    name = "" if format == "docker-archive" else ":docker.io/test/two:1"
    config = json.loads(skopeo("inspect", "--config", f"{transport}:{out}{name}"))
    assert config["config"] == CONFIG
    assert config["rootfs"]["diff_ids"] == [digest(ROOTFS), digest(TOP)]
    skopeo("copy", f"{transport}:{out}{name}", f"dir:{tmp_path}/copied")
    manifest = json.loads((tmp_path / "copied/manifest.json").read_text())
    assert len(manifest["layers"]) == 2


def test_skopeo_inspects_the_store(paths: Paths, tmp_path: Path) -> None:
    two_layers(tmp_path, paths)
    images.tag(paths, "test/two:1", "debian:12")
    for name in ("docker.io/test/two:1", "docker.io/library/debian:12"):
        found = json.loads(skopeo("inspect", f"oci:{paths.images()}:{name}"))
        assert found["Digest"] == ready.resolve(paths, name).digest
    need("umoci")
    stat = subprocess.run(
        ["umoci", "list", "--layout", paths.images()], capture_output=True, text=True, check=True
    ).stdout.split()
    assert sorted(stat) == ["docker.io/library/debian:12", "docker.io/test/two:1"]


@pytest.mark.parametrize("format", ["docker-archive", "oci-archive"])
def test_podman_loads(paths: Paths, podman: Podman, place: Enclosure, tmp_path: Path, format: str) -> None:
    two_layers(tmp_path, paths)
    save(paths, ["test/two:1"], str(place.seen / f"ours.{format}"), format)
    checked(podman.run("load", "-i", f"{place.directory}/ours.{format}"))
    inspected = json.loads(checked(podman.run("image", "inspect", "docker.io/test/two:1")))[0]
    assert f"sha256:{inspected['Id']}" == ready.resolve(paths, "test/two:1").id
    assert {key: inspected["Config"][key] for key in CONFIG} == CONFIG
    checked(podman.run("rmi", "-f", "docker.io/test/two:1"))


@pytest.mark.parametrize("several", [False, True])
def test_docker_loads(paths: Paths, docker: Docker, place: Enclosure, tmp_path: Path, several: bool) -> None:
    two_layers(tmp_path, paths)
    names = ["test/two:1"]
    if several:
        images.tag(paths, "test/two:1", "quay.io/x/y:z")
        with (tmp_path / "rootfs.tar").open("wb") as file:
            file.write(ROOTFS)
        with (tmp_path / "rootfs.tar").open("rb") as file:
            import_rootfs(paths, file, "third:3")
        names += ["quay.io/x/y:z", "third:3"]
    save(paths, names, str(place.seen / "ours.tar"))
    checked(docker.run("load", "-i", f"{place.directory}/ours.tar"))
    for name in names:
        inspected = json.loads(checked(docker.run("image", "inspect", name)))[0]
        ours = images.inspect(paths, name)
        for key in ("Id", "RepoTags", "Created", "Comment", "Author", "Architecture", "Os", "RootFS"):
            assert ours[key] == inspected[key], key
        assert 0 <= inspected["Size"] - ours["Size"] < 10, "overlay2 counts the text of symbolic links"
    theirs = checked(docker.run("history", "--no-trunc", "--format", "{{.CreatedBy}}|{{.Comment}}", names[0]))
    ours_rows = [f"{row['CreatedBy']}|{row['Comment']}" for row in images.history(paths, names[0])]
    assert theirs.splitlines() == ours_rows
    checked(docker.run("rmi", "-f", *names))


def test_export_is_what_podman_imports(paths: Paths, podman: Podman, place: Enclosure, tmp_path: Path) -> None:
    with (tmp_path / "rootfs.tar").open("wb") as file:
        file.write(ROOTFS)
    with (tmp_path / "rootfs.tar").open("rb") as file:
        import_rootfs(paths, file, "x")
    lower = ready.resolve(paths, "x").lower_directories(paths)[0]
    with (place.seen / "exported.tar").open("wb") as out:
        export(lower, out)
    checked(podman.run("import", f"{place.directory}/exported.tar", "localhost/exported:1"))
    inspected = json.loads(checked(podman.run("image", "inspect", "localhost/exported:1")))[0]
    theirs = inspected["GraphDriver"]["Data"]["UpperDir"].replace(str(place.directory), str(place.seen), 1)
    assert {k: v for k, v in tree_of(Path(theirs)).items() if k != "."} == layer_tree(paths, "x")


def test_names_of_temporary_files_do_not_stay(paths: Paths, tmp_path: Path) -> None:
    two_layers(tmp_path, paths)
    save(paths, ["test/two:1"], str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path)) == ["out", "root", "two.tar"]
