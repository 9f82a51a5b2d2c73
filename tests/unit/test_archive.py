"""Images come in from archives of every kind and go out again; whatever goes wrong, nothing is visible."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import multiprocessing
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coracle import record
from coracle.errors import ConflictError, ContentError, CoracleError, NotFoundError, UnsupportedError, UsageError
from coracle.image import images, index, ready
from coracle.image.content import Ingest, Store
from coracle.image.load import load
from coracle.image.manifest import OCI_INDEX, parse_platform
from coracle.image.rootfs import import_rootfs
from coracle.image.save import save
from coracle.paths import Paths
from image_archives import (
    Layout,
    digest,
    directory,
    docker_archive,
    entry,
    image_config,
    link,
    symlink,
    tar,
    tree_of,
)

BASE = tar(directory("bin"), entry("bin/true", b"#!", mode=0o755), directory("etc"), entry("etc/f", b"one"))
TOP = tar(directory("etc"), entry("etc/.wh.f"), entry("etc/g", b"two"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path / "root"), str(tmp_path / "run"))


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], str]:
    """Write an archive to a file; its path."""

    def write(data: bytes) -> str:
        path = tmp_path / "archive"
        path.write_bytes(data)
        return str(path)

    return write


def nothing_is_left(paths: Paths) -> bool:
    return (
        index.read(paths) == []
        and list(Store(paths).digests()) == []
        and not any(os.listdir(each) for each in (paths.layers(), paths.ready(), paths.ingest()))
    )


def shown(paths: Paths, name: str) -> set[str]:
    """The regular files that an overlay of the image would show, without mounting it."""
    names: set[str] = set()
    for lower in reversed(ready.resolve(paths, name).lower_directories(paths)):
        for path, (mode, *_) in tree_of(Path(lower)).items():
            if mode.startswith("0o100"):
                names.add(path)
            else:
                names.discard(path)
    return names


LAYOUT = Layout()
LAYOUT.image([BASE, TOP], "docker.io/library/two:1")
GZIPPED = Layout()
GZIPPED.image([BASE, TOP], "docker.io/library/two:1", compress=True)
DOCKER = docker_archive([BASE, TOP], ["two:1"])


@pytest.mark.parametrize(
    "data",
    [
        LAYOUT.archive(),
        GZIPPED.archive(),
        DOCKER,
        gzip.compress(DOCKER),
        lzma.compress(LAYOUT.archive()),
    ],
    ids=["oci", "oci gzip", "docker", "docker.gz", "oci.xz"],
)
def test_load(paths: Paths, put: Any, data: bytes) -> None:
    (loaded,) = load(paths, put(data))
    assert loaded.names == ["docker.io/library/two:1"]
    image = ready.resolve(paths, "two:1")
    assert (image.id, image.digest, image.name) == (loaded.id, loaded.digest, "docker.io/library/two:1")
    assert image.config == {"Cmd": ["/bin/true"]}
    assert image.layers == [digest(BASE), digest(TOP)]
    assert image.size == 8
    assert shown(paths, "two:1") == {"bin/true", "etc/g"}
    assert os.listdir(paths.ingest()) == []


def test_load_directory(paths: Paths, tmp_path: Path) -> None:
    load(paths, str(GZIPPED.write(tmp_path / "layout")))
    assert shown(paths, "two:1") == {"bin/true", "etc/g"}


def test_load_from_a_descriptor(paths: Paths, put: Any) -> None:
    fd = os.open(put(DOCKER), os.O_RDONLY)
    load(paths, fd)
    os.close(fd)
    assert shown(paths, "two:1") == {"bin/true", "etc/g"}


@pytest.mark.parametrize("data", [DOCKER, gzip.compress(DOCKER)], ids=["plain", "gzip"])
def test_load_from_a_pipe(paths: Paths, data: bytes) -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as file:
        writer = threading.Thread(target=lambda: (file.write(data), file.close()))
        writer.start()
        load(paths, read)
        writer.join()
    os.close(read)
    assert shown(paths, "two:1") == {"bin/true", "etc/g"}


def test_the_image_id_is_dockers(paths: Paths, put: Any) -> None:
    config = json.dumps(image_config([BASE, TOP])).encode()
    assert load(paths, put(DOCKER))[0].id == digest(config)
    assert load(paths, put(GZIPPED.archive()))[0].id == digest(config)
    assert len(os.listdir(paths.layers())) == 2, "the layers are shared"


def test_loading_twice_is_harmless(paths: Paths, put: Any) -> None:
    first = load(paths, put(DOCKER))
    before = tree_of(Path(paths.layers()))
    second = load(paths, put(DOCKER))
    assert first[0].digest == second[0].digest
    assert tree_of(Path(paths.layers())) == before
    assert len(index.read(paths)) == 1


def test_a_layer_that_occurs_twice(paths: Paths, put: Any) -> None:
    """Old docker wrote the second one as a symbolic link to the first."""
    load(paths, put(docker_archive([BASE, TOP, BASE], ["x"])))
    assert ready.resolve(paths, "x").layers == [digest(BASE), digest(TOP), digest(BASE)]


def test_several_images_and_names(paths: Paths, put: Any) -> None:
    layout = Layout()
    layout.image([BASE], "docker.io/library/a:1")
    layout.descriptors.append({**layout.descriptors[0], "annotations": {index.REF_NAME: "localhost/b:2"}})
    layout.image([TOP], author="no name")
    loaded = load(paths, put(layout.archive()))
    assert [each.names for each in loaded] == [["docker.io/library/a:1", "localhost/b:2"], []]
    assert ready.resolve(paths, "b:2").id == ready.resolve(paths, "a:1").id
    assert ready.resolve(paths, loaded[1].id[7:19]).name == ""


def test_a_given_name_replaces_the_archives(paths: Paths, put: Any) -> None:
    assert load(paths, put(DOCKER), name="mine")[0].names == ["docker.io/library/mine:latest"]
    layout = Layout()
    layout.image([BASE])
    layout.image([TOP])
    with pytest.raises(UsageError, match="2 images"):
        load(paths, put(layout.archive()), name="mine")


def test_no_tags(paths: Paths, put: Any) -> None:
    (loaded,) = load(paths, put(docker_archive([BASE], None)))
    assert loaded.names == []
    assert ready.resolve(paths, loaded.id).layers == [digest(BASE)]


def docker_25(names: list[str] | None) -> bytes:
    """One archive in both formats; the layout may or may not say the names."""
    layout = Layout()
    descriptor = layout.image([BASE])
    if names:
        descriptor["annotations"] = {"io.containerd.image.name": names[0], index.REF_NAME: "1"}
    config = next(name for name, data in layout.files.items() if b"diff_ids" in data)
    manifest = [{"Config": config, "RepoTags": ["x:1"], "Layers": [f"blobs/sha256/{digest(BASE)[7:]}"]}]
    files = {**layout.all_files(), "manifest.json": json.dumps(manifest).encode()}
    return tar(*(entry(name, data) for name, data in files.items()))


@pytest.mark.parametrize("names", [["docker.io/library/x:1"], None])
def test_docker_25_archives(paths: Paths, put: Any, names: list[str] | None) -> None:
    assert load(paths, put(docker_25(names)))[0].names == ["docker.io/library/x:1"]


def multi_platform(nested: bool) -> bytes:
    layout = Layout()
    descriptors = []
    for architecture, layer in (("s390x", TOP), ("amd64", BASE), ("arm64", TOP)):
        descriptor = layout.image([layer], listed=False, architecture=architecture)
        descriptors.append({**descriptor, "platform": {"os": "linux", "architecture": architecture}})
    if nested:
        layout.document({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}, "docker.io/library/x:1")
    else:
        layout.descriptors = [{**each, "annotations": {index.REF_NAME: "x:1"}} for each in descriptors]
    return layout.archive()


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("platform", "layer"), [("linux/amd64", BASE), ("linux/s390x", TOP)])
def test_platform_choice(paths: Paths, put: Any, nested: bool, platform: str, layer: bytes) -> None:
    (loaded,) = load(paths, put(multi_platform(nested)), platform=parse_platform(platform))
    image = ready.resolve(paths, "x:1")
    assert (image.id, image.layers) == (loaded.id, [digest(layer)])
    assert image.architecture == platform.partition("/")[2]


def test_no_platform_fits(paths: Paths, put: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        load(paths, put(multi_platform(True)), platform=parse_platform("linux/riscv64"))
    assert "linux/s390x" in caught.value.hint
    assert nothing_is_left(paths)


def broken(change: Callable[[Layout], object]) -> bytes:
    layout = Layout()
    layout.image([BASE, TOP], "x:1")
    change(layout)
    return layout.archive()


def edit_blob(layout: Layout, marker: bytes, change: Callable[[bytes], bytes]) -> None:
    name = next(name for name, data in layout.files.items() if name.startswith("blobs") and marker in data)
    layout.files[name] = change(layout.files[name])


def flip_layer(layout: Layout) -> None:
    edit_blob(layout, b"#!", lambda data: data.replace(b"#!", b"!#"))


def drop_layer(layout: Layout) -> None:
    layout.files = {name: data for name, data in layout.files.items() if b"#!" not in data}


def endless_index(layout: Layout) -> None:
    descriptor = layout.descriptors.pop()
    for _ in range(12):
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]}
        descriptor = layout.document(document, listed=False)
    layout.descriptors.append(descriptor)


def wrong_diff_id(layout: Layout) -> None:
    layout.descriptors.clear()
    layout.image([BASE], "x:1", rootfs={"type": "layers", "diff_ids": [digest(TOP)]})


def too_few_diff_ids(layout: Layout) -> None:
    layout.descriptors.clear()
    layout.image([BASE, TOP], "x:1", rootfs={"type": "layers", "diff_ids": [digest(BASE)]})


def hostile_layer(layout: Layout) -> None:
    layout.descriptors.clear()
    layout.image([tar(entry("../../escaped", b"x"))], "x:1")


def second_image_is_bad(layout: Layout) -> None:
    layout.image([tar(entry("../../escaped", b"x"))], "y:1")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "neither index.json nor manifest.json"),
        (tar(), "neither index.json nor manifest.json"),
        (BASE, "coracle import"),
        (b"garbage" * 1000, "tar"),
        (DOCKER[:5000], "truncated"),
        (LAYOUT.archive()[:3000], "truncated"),
        (gzip.compress(DOCKER)[:-4], "truncated"),
        (tar(entry("manifest.json", b"{}")), "not a list of images"),
        (tar(entry("manifest.json", b"[]")), "not a list of images"),
        (tar(entry("manifest.json", b"[7]")), "has no Config"),
        (tar(entry("manifest.json", b'[{"Config":"x","Layers":7}]')), "Layers is not a list"),
        (tar(entry("manifest.json", b'[{"Config":"nowhere"}]')), "no member nowhere"),
        (tar(entry("manifest.json", b'[{"Config":"../../etc/passwd"}]')), "leads out"),
        (tar(symlink("c", "/etc/passwd"), entry("manifest.json", b'[{"Config":"c"}]')), "no member c"),
        (tar(symlink("c", "d"), symlink("d", "c"), entry("manifest.json", b'[{"Config":"c"}]')), "no member c"),
        (tar(link("c", "../x"), entry("manifest.json", b'[{"Config":"c"}]')), "leads out"),
        (tar(entry("manifest.json", b" " * (5 << 20))), "larger than"),
        (docker_archive([BASE], ["Upper:1"]), "lower case"),
        (docker_archive([BASE], ["x:1"], rootfs={"type": "layers", "diff_ids": []}), "1 layers in the archive but 0"),
        (
            docker_archive([BASE], ["x:1"], rootfs={"type": "layers", "diff_ids": [digest(TOP)]}),
            "not what the image says",
        ),
        (docker_archive([tar(entry("../x"))], ["x:1"]), "leads out"),
        (tar(entry("index.json", b"{}")), "schemaVersion"),
        (tar(entry("index.json", b'{"schemaVersion":2,"manifests":[]}')), "no images"),
        (broken(flip_layer), "damaged"),
        (broken(drop_layer), "missing from the image"),
        (broken(endless_index), "nested more than"),
        (broken(wrong_diff_id), "not what the image says"),
        (broken(too_few_diff_ids), "2 layers but 1 diff_ids"),
        (broken(hostile_layer), "leads out"),
        (broken(second_image_is_bad), "leads out"),
        (broken(lambda layout: edit_blob(layout, b"diff_ids", lambda data: data[:-1])), "damaged"),
        (broken(lambda layout: layout.descriptors[0].update(size=7)), "damaged|larger than"),
        (broken(lambda layout: layout.descriptors[0].update(size=5 << 20)), "larger than"),
        (broken(lambda layout: layout.descriptors[0].update(digest="sha256:../../../x")), "digest"),
        (
            broken(lambda layout: layout.descriptors[0].update(annotations={index.REF_NAME: "A B"})),
            "invalid image name",
        ),
    ],
)
def test_bad_archives(paths: Paths, put: Any, tmp_path: Path, data: bytes, problem: str) -> None:
    with pytest.raises(ContentError) as caught:
        load(paths, put(data))
    assert re.search(problem, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert nothing_is_left(paths)
    assert not (tmp_path / "escaped").exists()


def test_damaged_documents_in_a_directory_layout(paths: Paths, tmp_path: Path) -> None:
    root = LAYOUT.write(tmp_path / "layout")
    blob = next((root / "blobs/sha256").iterdir())
    content = blob.read_bytes()
    for replace in (lambda: blob.symlink_to("/etc/passwd"), lambda: os.mkfifo(blob), blob.mkdir, lambda: None):
        blob.unlink()
        replace()
        with pytest.raises(ContentError):
            load(paths, str(root))
        assert nothing_is_left(paths)
        if blob.is_dir():
            blob.rmdir()
            blob.write_bytes(content)


def test_the_format_of_old(paths: Paths, put: Any) -> None:
    with pytest.raises(UnsupportedError) as caught:
        load(paths, put(tar(entry("repositories", b"{}"), entry("x/layer.tar", BASE))))
    assert "1.10" in str(caught.value)
    assert nothing_is_left(paths)


def test_no_such_file(paths: Paths) -> None:
    with pytest.raises(UsageError, match="cannot read /no/such/file: no such file"):
        load(paths, "/no/such/file")


def test_bad_name_is_refused_before_anything_is_read(paths: Paths) -> None:
    with pytest.raises(UsageError):
        load(paths, "/no/such/file", name="Upper")
    assert not os.path.exists(paths.root)


# -- layers that depend on others


def test_dependent_layers_are_kept_apart(paths: Paths, put: Any) -> None:
    """One layer over two different bases: its missing parent directory looks like each of them."""
    bases = [tar(directory("d", mode=mode), entry("d/f", b"%o" % mode)) for mode in (0o700, 0o711)]
    top = tar(link("d/g", "d/f"))
    modes = []
    for number, base in enumerate(bases):
        load(paths, put(docker_archive([base, top], [f"x:{number}"])))
        image = ready.resolve(paths, f"x:{number}")
        upper = Path(image.lower_directories(paths)[0])
        modes.append((oct((upper / "d").stat().st_mode), (upper / "d/g").read_bytes()))
    assert modes == [("0o40700", b"700"), ("0o40711", b"711")]
    assert len(os.listdir(paths.layers())) == 4
    load(paths, put(docker_archive([bases[0], top], ["again"], author="other config")))
    assert len(os.listdir(paths.layers())) == 4


def test_a_dependent_base_is_not_taken_for_a_layer_above(paths: Paths, put: Any) -> None:
    layer = tar(entry("d/f"))
    load(paths, put(docker_archive([layer], ["alone"])))
    load(paths, put(docker_archive([tar(directory("d", mode=0o700)), layer], ["above"])))
    upper = Path(ready.resolve(paths, "above").lower_directories(paths)[0])
    assert oct((upper / "d").stat().st_mode) == "0o40700"


# -- healing


def test_lost_records_and_layers_are_made_again(paths: Paths, put: Any) -> None:
    load(paths, put(GZIPPED.archive()))
    before = tree_of(Path(paths.layers()))
    image = ready.resolve(paths, "two:1")
    os.unlink(paths.ready_image(image.id))
    assert ready.resolve(paths, "two:1").layers == image.layers
    subprocess.run(["rm", "-rf", paths.layer(image.layers[0])], check=True)
    assert ready.resolve(paths, "two:1").layers == image.layers
    Path(paths.ready_image(image.id)).write_text("{")
    os.unlink(f"{paths.layer(image.layers[1])}/layer.json")
    subprocess.run(["rm", "-rf", f"{paths.layer(image.layers[1])}/diff"], check=True)
    assert ready.resolve(paths, "two:1").layers == image.layers
    now = tree_of(Path(paths.layers()))
    assert {k: v for k, v in now.items() if "diff" in k} == {k: v for k, v in before.items() if "diff" in k}


def test_healing_refuses_rotten_blobs(paths: Paths, put: Any) -> None:
    load(paths, put(LAYOUT.archive()))
    image = ready.resolve(paths, "two:1")
    subprocess.run(["rm", "-rf", paths.layer(image.layers[0])], check=True)
    blob = Path(Store(paths).path(digest(BASE)))
    blob.write_bytes(BASE.replace(b"#!", b"!#"))
    with pytest.raises(ContentError, match="not what the image says"):
        ready.resolve(paths, "two:1")
    blob.unlink()
    with pytest.raises(ContentError, match="missing"):
        ready.resolve(paths, "two:1")
    assert os.listdir(paths.ingest()) == []


def test_images_of_other_tools_are_adopted(paths: Paths, put: Any, tmp_path: Path) -> None:
    """skopeo copies straight into the layout; its entry has a short name and no image id."""
    load(paths, put(docker_archive([TOP], ["other"])))
    layout = Layout()
    layout.image([BASE], "mine:1")
    for name, data in layout.files.items():
        path = Path(paths.images()) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    document = json.loads(Path(index.path(paths)).read_text())
    document["manifests"] += layout.descriptors
    Path(index.path(paths)).write_text(json.dumps(document))
    image = ready.resolve(paths, "mine:1")
    assert image.layers == [digest(BASE)]
    entries = {each.name: each for each in index.read(paths)}
    assert entries["docker.io/library/mine:1"].image_id == image.id


# -- import


def test_import(paths: Paths) -> None:
    changes = ['CMD ["sh"]', "ENV A=b", "WORKDIR /w"]
    loaded = import_rootfs(paths, io.BytesIO(BASE), "debian:12", changes, "hello", source="rootfs.tar")
    image = ready.resolve(paths, "debian:12")
    assert image.config == {"Cmd": ["sh"], "Env": ["A=b"], "WorkingDir": "/w"}
    assert (image.os, image.layers, image.id) == ("linux", [digest(BASE)], loaded.id)
    (step,) = images.history(paths, "debian:12")
    assert (step["CreatedBy"], step["Comment"], step["Size"]) == ("coracle import rootfs.tar", "hello", 5)
    assert images.inspect(paths, "debian:12")["Comment"] == "hello"


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (BASE, digest(BASE)),
        (gzip.compress(BASE, mtime=0), digest(gzip.compress(BASE, mtime=0))),
        (lzma.compress(BASE), digest(BASE)),
    ],
    ids=["plain", "gzip", "xz"],
)
def test_import_keeps_the_bytes_where_oci_has_a_type(paths: Paths, data: bytes, stored: str) -> None:
    import_rootfs(paths, io.BytesIO(data), "x")
    assert stored in list(Store(paths).digests())
    assert ready.resolve(paths, "x").layers == [digest(BASE)]


def test_import_is_reproducible(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    first = import_rootfs(paths, io.BytesIO(BASE), "x")
    second = import_rootfs(paths, io.BytesIO(BASE), "y")
    assert first.digest == second.digest
    assert ready.resolve(paths, "x").created == "2020-09-13T12:26:40Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError):
        import_rootfs(paths, io.BytesIO(BASE), "x")


def test_import_dates_as_go_does(paths: Paths) -> None:
    """Docker shows what it parsed, so a trailing zero would make two tools disagree on the same image."""
    created = {ready.resolve(paths, import_rootfs(paths, io.BytesIO(BASE)).id).created for _ in range(30)}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?Z", each) for each in created)


def test_import_without_a_name(paths: Paths) -> None:
    loaded = import_rootfs(paths, io.BytesIO(BASE))
    assert loaded.names == []
    assert ready.resolve(paths, loaded.id[7:15]).id == loaded.id


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "empty"), (b"hello", "truncated"), (b"x" * 5000, "tar"), (tar(entry("../x")), "leads out"),
     (gzip.compress(BASE)[:-9], "truncated"), (tar(entry("f", b"x" * 5000))[:2000], "truncated")],
)  # fmt: skip
def test_bad_imports(paths: Paths, data: bytes, problem: str) -> None:
    with pytest.raises(ContentError, match=problem):
        import_rootfs(paths, io.BytesIO(data), "x")
    assert nothing_is_left(paths)


@pytest.mark.parametrize(
    ("name", "changes"), [("Upper", []), ("x", ["RUN true"]), ("x", ["ENV"]), ("x", ["EXPOSE 99999"])]
)
def test_bad_requests_are_refused_before_anything_is_read(paths: Paths, name: str, changes: list[str]) -> None:
    class Untouched:
        def read(self, size: int) -> bytes:
            raise AssertionError

    with pytest.raises(UsageError):
        import_rootfs(paths, Untouched(), name, changes)
    assert not os.path.exists(paths.root)


# -- save


@pytest.fixture
def stocked(paths: Paths, put: Any) -> Paths:
    load(paths, put(GZIPPED.archive()))
    images.tag(paths, "two:1", "quay.io/a/b:x")
    load(paths, put(docker_archive([BASE], ["one:1"])))
    return paths


@pytest.mark.parametrize("format", ["docker-archive", "oci-archive", "oci-dir"])
def test_save_and_load(stocked: Paths, tmp_path: Path, format: str) -> None:
    out = str(tmp_path / "out")
    save(stocked, ["two:1", "one:1", "quay.io/a/b:x"], out, format)
    other = Paths(str(tmp_path / "other"), str(tmp_path / "other-run"))
    loaded = load(other, out)
    assert sorted(name for each in loaded for name in each.names) == [
        "docker.io/library/one:1", "docker.io/library/two:1", "quay.io/a/b:x",
    ]  # fmt: skip
    for name in ("two:1", "one:1", "quay.io/a/b:x"):
        theirs, ours = ready.resolve(other, name), ready.resolve(stocked, name)
        assert (theirs.id, theirs.digest) == (ours.id, ours.digest)
    assert {k: v for k, v in tree_of(Path(other.layers())).items() if "diff/" in k} == {
        k: v for k, v in tree_of(Path(stocked.layers())).items() if "diff/" in k
    }


def test_save_is_reproducible_and_orderly(stocked: Paths) -> None:
    outputs = []
    for _ in range(2):
        out = io.BytesIO()
        save(stocked, ["two:1"], out)
        outputs.append(out.getvalue())
    assert outputs[0] == outputs[1]
    with tarfile.open(fileobj=io.BytesIO(outputs[0])) as archive:
        names = archive.getnames()
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert names[:2] == ["blobs", "blobs/sha256"] and names[-3:] == ["index.json", "oci-layout", "manifest.json"]
    assert manifest[0]["RepoTags"] == ["two:1"]
    assert all(name in names for name in (manifest[0]["Config"], *manifest[0]["Layers"]))


def test_save_by_id_has_no_names(stocked: Paths, tmp_path: Path) -> None:
    save(stocked, [ready.resolve(stocked, "two:1").id[7:19]], str(tmp_path / "out"))
    other = Paths(str(tmp_path / "other"), str(tmp_path / "other-run"))
    assert load(other, str(tmp_path / "out"))[0].names == []


def test_save_errors(stocked: Paths, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    cases: list[tuple[type[CoracleError], Any]] = [
        (UsageError, lambda: save(stocked, [], "x")),
        (UsageError, lambda: save(stocked, ["two:1"], "x", "zip")),
        (UsageError, lambda: save(stocked, ["two:1"], io.BytesIO(), "oci-dir")),
        (NotFoundError, lambda: save(stocked, ["two:1", "nothing"], str(tmp_path / "out"))),
        (ConflictError, lambda: save(stocked, ["two:1"], str(tmp_path / "full"), "oci-dir")),
        (CoracleError, lambda: save(stocked, ["two:1"], str(tmp_path / "no/such/directory/out"))),
    ]
    for error, call in cases:
        with pytest.raises(error):
            call()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["archive", "full", "root"]


@pytest.mark.parametrize("format", ["docker-archive", "oci-dir"])
def test_save_never_writes_rotten_blobs(stocked: Paths, tmp_path: Path, format: str) -> None:
    layer = gzip.compress(BASE, mtime=0)
    blob = Path(Store(stocked).path(digest(layer)))
    blob.write_bytes(layer[:-3] + b"xyz")
    with pytest.raises(ContentError, match="damaged on disk"):
        save(stocked, ["two:1"], str(tmp_path / "out"), format)
    blob.unlink()
    with pytest.raises(ContentError, match="missing from the store"):
        save(stocked, ["two:1"], str(tmp_path / "out"), format)
    assert not [each.name for each in tmp_path.iterdir() if "out" in each.name]


# -- several at once, and sudden death


def _load(paths: Paths, path: str) -> None:
    load(paths, path)


def test_two_loads_of_one_image_at_once(paths: Paths, put: Any) -> None:
    big = tar(directory("d"), *[entry(f"d/{n}", os.urandom(2000)) for n in range(800)])
    top = tar(entry("top"))
    path = put(docker_archive([big, top], ["x:1"]))
    workers = [multiprocessing.Process(target=_load, args=(paths, path)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert ready.resolve(paths, "x:1").layers == [digest(big), digest(top)]
    assert sorted(os.listdir(paths.layers())) == sorted([digest(big)[7:], digest(top)[7:]])
    assert os.listdir(paths.ingest()) == []
    assert len(index.read(paths)) == 1


def test_kill_at_any_moment(paths: Paths, put: Any) -> None:
    """kill -9 after 1, 2, 3, ... system calls of interest: what is visible is whole, and the next load succeeds."""
    path = put(docker_archive([BASE, TOP], ["x:1"]))
    code = (
        f"import os, sys; sys.path[:0] = {sys.path!r}\n"
        "from coracle.paths import Paths; from coracle.image.load import load\n"
        "left = int(sys.argv[1])\n"
        "def deadly(function):\n"
        "    def wrapper(*a, **k):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if left < 0: os.kill(os.getpid(), 9)\n"
        "        return function(*a, **k)\n"
        "    return wrapper\n"
        "for name in ('rename', 'mkdir', 'unlink', 'fsync', 'write', 'open', 'rmdir'):\n"
        "    setattr(os, name, deadly(getattr(os, name)))\n"
        f"load(Paths({paths.root!r}, {paths.run!r}), {path!r})\n"
    )
    program = compile(code, "killed", "exec")
    survived = False
    for count in range(0, 400, 3):
        child = os.fork()
        if child == 0:
            sys.argv = ["x", str(count)]
            null = os.open("/dev/null", os.O_WRONLY)
            os.dup2(null, 2)
            try:
                exec(program, {})
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        try:
            image = ready.resolve(paths, "x:1")
        except NotFoundError:
            pass
        else:
            assert image.layers == [digest(BASE), digest(TOP)]
            assert shown(paths, "x:1") == {"bin/true", "etc/g"}
        with Ingest(paths):
            pass  # the next command's recovery
        assert os.listdir(paths.ingest()) == []
        survived = os.WEXITSTATUS(status) == 0 and os.WIFEXITED(status)
        if survived:
            break
        if index.read(paths):
            images.prune(paths, all_unused=True)
        assert nothing_is_left(paths)
    assert survived, "the loop must reach the end of a load"


def test_records_are_json(stocked: Paths) -> None:
    image = ready.resolve(stocked, "two:1")
    assert record.load(stocked.ready_image(image.id))["id"] == image.id
