"""list, tag, remove, prune, inspect, history."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coracle.errors import ConflictError, ContentError, CoracleError, NotFoundError, UsageError
from coracle.image import images, index, ready, snapshot
from coracle.image.content import Ingest, Store
from coracle.image.load import load
from coracle.paths import Paths
from image_archives import Layout, digest, directory, docker_archive, entry, tar

BASE = tar(directory("bin"), entry("bin/true", b"12345"))
TOP = tar(entry("top", b"678"))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path / "root"), str(tmp_path / "run"))


@pytest.fixture
def stocked(paths: Paths, tmp_path: Path) -> Paths:
    """two:1 = two:2 over base and top; one:1 over base alone, younger; and one without a name."""
    add(paths, tmp_path, [BASE, TOP], ["two:1", "two:2"], created="2020-01-01T00:00:00Z")
    add(paths, tmp_path, [BASE], ["one:1"], created="2021-01-01T00:00:00Z")
    add(paths, tmp_path, [TOP], None, created="2019-01-01T00:00:00Z")
    return paths


def add(paths: Paths, tmp_path: Path, layers: list[bytes], tags: list[str] | None, **config: Any) -> str:
    (tmp_path / "archive").write_bytes(docker_archive(layers, tags, **config))
    return load(paths, str(tmp_path / "archive"))[0].id


def names(paths: Paths) -> list[str]:
    return [row.reference.familiar() if row.reference else "<none>" for row in images.list_images(paths)]


def layers(paths: Paths) -> list[str]:
    return sorted(os.listdir(paths.layers()))


def container(paths: Paths, name: str, image: str) -> None:
    os.makedirs(paths.container(name))
    snapshot.prepare(paths, name, ready.resolve(paths, image))


# -- list


def test_list(stocked: Paths) -> None:
    rows = images.list_images(stocked)
    assert names(stocked) == ["one:1", "two:1", "two:2", "<none>"]
    assert [row.size for row in rows] == [5, 8, 8, 3]
    assert rows[0].created == "2021-01-01T00:00:00Z"
    assert rows[1].id == rows[2].id != rows[0].id
    assert all(row.problem == "" for row in rows)


def test_list_of_nothing(paths: Paths) -> None:
    assert images.list_images(paths) == []
    assert not os.path.exists(paths.root)


def test_list_shows_damage(stocked: Paths) -> None:
    image = ready.resolve(stocked, "one:1")
    os.unlink(stocked.ready_image(image.id))
    Path(Store(stocked).path(image.digest)).write_text("rot")
    (row,) = [row for row in images.list_images(stocked) if row.problem]
    assert row.reference is not None and row.reference.familiar() == "one:1"
    assert "damaged" in row.problem


def test_list_does_not_unpack(stocked: Paths) -> None:
    """What another tool put there is listed from its documents; the size is that of the blobs."""
    image = ready.resolve(stocked, "one:1")
    os.unlink(stocked.ready_image(image.id))
    (row,) = [row for row in images.list_images(stocked) if row.reference and row.reference.familiar() == "one:1"]
    assert (row.id, row.created, row.size, row.problem) == (image.id, "2021-01-01T00:00:00Z", len(BASE), "")
    assert not os.path.exists(stocked.ready_image(image.id))


def test_labels(paths: Paths, tmp_path: Path) -> None:
    add(paths, tmp_path, [BASE], ["x"], config={"Labels": {"a": "b"}})
    assert images.list_images(paths)[0].labels == {"a": "b"}


# -- tag


def test_tag(stocked: Paths) -> None:
    assert images.tag(stocked, "one:1", "quay.io/x/y") == "quay.io/x/y:latest"
    assert ready.resolve(stocked, "quay.io/x/y").id == ready.resolve(stocked, "one:1").id
    identifier = ready.resolve(stocked, "two:1").id
    images.tag(stocked, identifier[7:19], "quay.io/x/y")
    assert ready.resolve(stocked, "quay.io/x/y").id == identifier
    assert "one:1" in names(stocked)


def test_tagging_an_image_without_a_name_names_it(stocked: Paths) -> None:
    identifier = images.list_images(stocked)[-1].id
    images.tag(stocked, identifier, "named")
    assert "<none>" not in names(stocked)


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [("nothing", "x", NotFoundError), ("one:1", "Upper", UsageError), ("one:1", "x@sha256:" + "0" * 64, UsageError)],
)
def test_tag_errors(stocked: Paths, source: str, target: str, error: type[CoracleError]) -> None:
    before = names(stocked)
    with pytest.raises(error):
        images.tag(stocked, source, target)
    assert names(stocked) == before


# -- remove


def test_remove_one_of_two_names(stocked: Paths) -> None:
    removed = images.remove(stocked, "two:1")
    assert (removed.untagged, removed.deleted) == (["docker.io/library/two:1"], [])
    assert ready.resolve(stocked, "two:2").layers == [digest(BASE), digest(TOP)]


def test_remove_the_last_name(stocked: Paths) -> None:
    identifier = ready.resolve(stocked, "one:1").id
    removed = images.remove(stocked, "one:1")
    assert (removed.untagged, removed.deleted) == (["docker.io/library/one:1"], [identifier])
    assert layers(stocked) == sorted([digest(BASE)[7:], digest(TOP)[7:]]), "the others need them"
    assert not os.path.exists(stocked.ready_image(identifier))
    with pytest.raises(NotFoundError):
        ready.resolve(stocked, "one:1")


def test_remove_all(stocked: Paths) -> None:
    images.remove(stocked, "one:1")
    images.remove(stocked, "two:1")
    removed = images.remove(stocked, "two:2")
    assert removed.freed is not None
    assert removed.freed.layers == [digest(BASE)]
    images.remove(stocked, images.list_images(stocked)[0].id)
    assert list(Store(stocked).digests()) == layers(stocked) == index.read(stocked) == []


def test_remove_by_id(stocked: Paths) -> None:
    two, one = ready.resolve(stocked, "two:1").id, ready.resolve(stocked, "one:1").id
    with pytest.raises(ConflictError, match="several names: two:1, two:2"):
        images.remove(stocked, two[7:19])
    with pytest.raises(ConflictError, match="several names"):
        images.remove(stocked, two[7:])
    assert images.remove(stocked, one[7:]).deleted == [one]
    assert images.remove(stocked, two[7:19], force=True).untagged == [
        "docker.io/library/two:1",
        "docker.io/library/two:2",
    ]


def test_remove_when_used(stocked: Paths) -> None:
    one = ready.resolve(stocked, "one:1")
    for used in ([one.id], lambda: iter([one.id])):
        with pytest.raises(ConflictError, match="used by a container"):
            images.remove(stocked, "one:1", used)
    assert "one:1" in names(stocked)
    removed = images.remove(stocked, "one:1", [one.id], force=True)
    assert (removed.untagged, removed.deleted) == (["docker.io/library/one:1"], [])
    assert ready.resolve(stocked, one.id).name == "", "it stays without a name"
    assert images.remove(stocked, one.id).deleted == [one.id]


def test_one_of_two_names_may_go_even_when_used(stocked: Paths) -> None:
    two = ready.resolve(stocked, "two:1")
    assert images.remove(stocked, "two:1", [two.id]).untagged == ["docker.io/library/two:1"]


def test_remove_knows_prepared_containers_by_itself(stocked: Paths) -> None:
    container(stocked, "c1", "one:1")
    with pytest.raises(ConflictError, match="used by a container"):
        images.remove(stocked, "one:1")
    snapshot.remove(stocked, "c1")
    images.remove(stocked, "one:1")


def test_layers_of_containers_are_never_collected(stocked: Paths) -> None:
    """Even if the index has lost the image."""
    container(stocked, "c1", "one:1")
    Path(index.path(stocked)).write_text('{"schemaVersion":2,"manifests":[]}')
    images.prune(stocked, all_unused=True)
    assert layers(stocked) == [digest(BASE)[7:]]


def test_layers_of_unreadable_images_are_not_collected(stocked: Paths) -> None:
    image = ready.resolve(stocked, "two:1")
    Path(Store(stocked).path(image.digest)).write_text("rot")
    images.prune(stocked)
    assert {digest(BASE)[7:], digest(TOP)[7:]} <= set(layers(stocked))


def test_remove_nothing(stocked: Paths) -> None:
    with pytest.raises(NotFoundError):
        images.remove(stocked, "nothing")


def test_remove_in_an_empty_store(paths: Paths) -> None:
    with pytest.raises(NotFoundError):
        images.remove(paths, "nothing")


def test_removing_while_somebody_loads(stocked: Paths) -> None:
    with Ingest(stocked) as ingest:
        fresh = ingest.put(b"not yet referenced")
        removed = images.remove(stocked, "one:1")
        assert (removed.freed, ingest.store.has(fresh.digest)) == (None, True)
        assert "one:1" not in names(stocked)
    assert images.prune(stocked).freed is not None
    assert not Store(stocked).has(fresh.digest)


def test_a_lease_protects_between_resolve_and_prepare(stocked: Paths) -> None:
    with ready.lease(stocked):
        image = ready.resolve(stocked, "one:1")
        images.remove(stocked, "one:1")
        os.makedirs(stocked.container("c"))
        made = snapshot.prepare(stocked, "c", image)
    images.prune(stocked, all_unused=True)
    assert all(os.path.isdir(lower) for lower in made.lower)


def test_damaged_images_can_be_removed(stocked: Paths) -> None:
    image = ready.resolve(stocked, "one:1")
    os.unlink(stocked.ready_image(image.id))
    os.unlink(Store(stocked).path(image.digest))
    assert images.remove(stocked, "one:1").deleted == [image.id]


def test_remove_by_digest(stocked: Paths) -> None:
    image = ready.resolve(stocked, "one:1")
    assert images.remove(stocked, f"one@{image.digest}").untagged == ["docker.io/library/one:1"]


# -- prune


def test_prune(stocked: Paths) -> None:
    nameless = images.list_images(stocked)[-1].id
    removed = images.prune(stocked)
    assert (removed.untagged, removed.deleted) == ([], [nameless])
    assert names(stocked) == ["one:1", "two:1", "two:2"]


def test_prune_all(stocked: Paths) -> None:
    container(stocked, "c", "two:1")
    images.prune(stocked, all_unused=True)
    assert names(stocked) == ["two:1", "two:2"]
    removed = images.prune(stocked, [], all_unused=True)
    assert removed.deleted == []


def test_prune_takes_garbage_of_the_killed(stocked: Paths) -> None:
    (Path(stocked.ingest()) / "77-dead").mkdir()
    (Path(stocked.ingest()) / "77-dead/file").touch()
    images.prune(stocked)
    assert os.listdir(stocked.ingest()) == []


def test_prune_an_empty_store(paths: Paths) -> None:
    freed = images.prune(paths).freed
    assert freed is not None and freed.size == 0
    assert not os.path.exists(paths.root)


# -- inspect and history

# `docker image inspect` (Docker 28, with ContainerConfig and other fields that it has dropped since left out)
DOCKER_FIELDS = {
    "Id": str, "RepoTags": list, "RepoDigests": list, "Parent": str, "Comment": str, "Created": str,
    "DockerVersion": str, "Author": str, "Config": dict, "Architecture": str, "Os": str, "Size": int,
    "GraphDriver": dict, "RootFS": dict, "Metadata": dict,
}  # fmt: skip


def test_inspect(paths: Paths, tmp_path: Path) -> None:
    config = {"Cmd": ["a"], "Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}, "Labels": {"x": "y"}, "User": "u",
              "Volumes": {"/v": {}}, "WorkingDir": "/w", "StopSignal": "SIGINT", "Entrypoint": ["e"]}  # fmt: skip
    history = [{"comment": "first"}, {"comment": "last"}]
    identifier = add(
        paths, tmp_path, [BASE, TOP], ["x:1", "quay.io/a/b:2"], config=config, author="me", history=history
    )
    found = images.inspect(paths, "x:1")
    assert {key: type(found[key]) for key in DOCKER_FIELDS} == DOCKER_FIELDS
    assert found["Id"] == identifier
    assert found["RepoTags"] == ["x:1", "quay.io/a/b:2"]
    assert {key: found["Config"][key] for key in config} == config
    assert (found["Author"], found["Comment"], found["Size"]) == ("me", "last", 8)
    assert found["RootFS"] == {"Type": "layers", "Layers": [digest(BASE), digest(TOP)]}
    assert found["GraphDriver"]["Data"]["UpperDir"].endswith(f"{digest(TOP)[7:]}/diff")
    assert found["GraphDriver"]["Data"]["LowerDir"].endswith(f"{digest(BASE)[7:]}/diff")
    json.dumps(found)


def test_inspect_by_id_prefix_and_without_names(stocked: Paths) -> None:
    identifier = images.list_images(stocked)[-1].id
    found = images.inspect(stocked, identifier[7:15])
    assert (found["Id"], found["RepoTags"]) == (identifier, [])


def test_repo_digests(stocked: Paths) -> None:
    source = "sha256:" + "77" * 32
    with index.Edit(stocked) as edit:
        entry_ = index.find(edit.entries, "one:1")
        edit.put(entry_.document, entry_.image_id, "quay.io/a/b:1", source)
    assert images.inspect(stocked, "one:1")["RepoDigests"] == [f"quay.io/a/b@{source}"]
    assert ready.resolve(stocked, f"quay.io/a/b@{source}").id == ready.resolve(stocked, "one:1").id


def test_inspect_of_a_damaged_image(stocked: Paths) -> None:
    image = ready.resolve(stocked, "one:1")
    os.unlink(Store(stocked).path(image.digest))
    with pytest.raises(ContentError, match="incomplete"):
        images.inspect(stocked, "one:1")


def test_inspect_scratch(paths: Paths, tmp_path: Path) -> None:
    add(paths, tmp_path, [], ["empty"], history=[{"created_by": "FROM scratch", "empty_layer": True}])
    assert images.inspect(paths, "empty")["GraphDriver"]["Data"] is None
    assert images.history(paths, "empty")[0]["Size"] == 0
    assert ready.resolve(paths, "empty").lower_directories(paths) == []


def test_history(paths: Paths, tmp_path: Path) -> None:
    steps = [
        {"created": "2020-01-01T00:00:00Z", "created_by": "ADD base"},
        {"created_by": "ENV a=b", "empty_layer": True},
        {"created_by": "RUN top", "comment": "c"},
    ]
    identifier = add(paths, tmp_path, [BASE, TOP], ["x:1"], history=steps)
    rows = images.history(paths, "x:1")
    assert [(row["CreatedBy"], row["Size"]) for row in rows] == [("RUN top", 3), ("ENV a=b", 0), ("ADD base", 5)]
    assert [row["Id"] for row in rows] == [identifier, "<missing>", "<missing>"]
    assert rows[0]["Tags"] == ["x:1"]
    assert rows[2]["Created"] == "2020-01-01T00:00:00Z"


def test_history_that_an_image_does_not_have(paths: Paths, tmp_path: Path) -> None:
    add(paths, tmp_path, [BASE, TOP], ["x:1"], history=None)
    assert [row["Size"] for row in images.history(paths, "x:1")] == [3, 5]


# -- cost


def test_what_run_needs_is_cheap_to_import() -> None:
    code = (
        "import sys; bare = set(sys.modules)\n"
        f"sys.path.insert(0, {str(Path(images.__file__).parents[2])!r})\n"
        "import coracle.image.ready, coracle.image.snapshot, coracle.image.index\n"
        "print(*sorted(set(sys.modules) - bare))\n"
    )
    output = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(output.stdout.split())
    ours = {name for name in loaded if name.startswith("coracle.")}
    assert ours == {
        "coracle.errors", "coracle.image", "coracle.image.index", "coracle.image.ready", "coracle.image.reference",
        "coracle.image.removal", "coracle.image.snapshot", "coracle.linux", "coracle.linux.mount",
        "coracle.linux.syscall", "coracle.record",
    }  # fmt: skip
    beside = {"_ctypes", "_json", "_struct", "struct", "fcntl", "errno", "stat", "_stat", "__future__"}
    with_os = {"os", "os.path", "posixpath", "genericpath", "_collections_abc", "abc", "_abc"}
    assert loaded - ours - {"coracle"} - set(sys.builtin_module_names) <= beside | with_os


def test_resolve_opens_two_files(stocked: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = os.open

    def counting(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(os.path.basename(str(path)))
        return original(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", counting)
    image = ready.resolve(stocked, "two:1")
    assert opened == ["index.json", f"{image.id[7:]}.json"]


def _resolve(paths: Paths) -> None:
    for _ in range(50):
        assert ready.resolve(paths, "two:1").layers


def test_resolving_while_tags_change(stocked: Paths) -> None:
    worker = multiprocessing.Process(target=_resolve, args=(stocked,))
    worker.start()
    for n in range(10):
        images.tag(stocked, "one:1", f"t{n}")
        images.remove(stocked, f"t{n}")
    worker.join(60)
    assert worker.exitcode == 0


def test_layout_builder_is_honest(tmp_path: Path) -> None:
    """The archives of these tests are what other tools make, too: skopeo judges in tests/integration."""
    layout = Layout()
    layout.image([BASE], "x")
    assert set(layout.all_files()) >= {"oci-layout", "index.json"}
