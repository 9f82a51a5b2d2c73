"""The content store: nothing unverified is ever visible, whoever dies and whoever else is at work."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from coracle.errors import ConflictError, ContentError, CoracleError, KernelError, NotFoundError, UsageError
from coracle.image import content, index
from coracle.image.collect import collect
from coracle.image.content import Ingest, Store, exclusive
from coracle.image.index import Edit, Entry, find
from coracle.image.manifest import Descriptor
from coracle.paths import Paths
from image_archives import digest, entry, tar

IMAGE = "sha256:" + "ab" * 32
OTHER = "sha256:" + "ac" * 32
MANIFEST = "sha256:" + "1f" * 32


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path / "root"), str(tmp_path / "run"))


def blobs(paths: Paths) -> list[str]:
    return sorted(Store(paths).digests())


def is_clean(paths: Paths) -> bool:
    return os.listdir(paths.ingest()) == []


def test_put_and_read(paths: Paths) -> None:
    with Ingest(paths) as ingest:
        descriptor = ingest.put(b"hello", "text/plain")
        assert ingest.store.has(descriptor.digest)
    store = Store(paths)
    assert (descriptor.media_type, descriptor.digest, descriptor.size) == ("text/plain", digest(b"hello"), 5)
    assert store.read(descriptor.digest) == b"hello"
    assert store.size(descriptor.digest) == 5
    with os.fdopen(store.open(descriptor.digest), "rb") as file:
        assert file.read() == b"hello"
    assert blobs(paths) == [descriptor.digest]
    assert is_clean(paths)


def test_the_store_is_an_oci_layout(paths: Paths) -> None:
    with Ingest(paths) as ingest:
        descriptor = ingest.put(b"x")
    images = Path(paths.images())
    assert json.loads((images / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((images / "index.json").read_text())["manifests"] == []
    assert (images / "blobs/sha256" / descriptor.digest[7:]).read_bytes() == b"x"
    assert images.stat().st_mode & 0o077 == 0, "others must not reach setuid files in layers"
    assert Path(paths.layers()).stat().st_mode & 0o077 == 0


def test_streams_of_any_chunking(paths: Paths) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 7))

    with Ingest(paths) as ingest:
        assert ingest.put(Slow(b"x" * 1000)).digest == digest(b"x" * 1000)
        assert ingest.put(io.BytesIO(b"")).digest == digest(b"")


@pytest.mark.parametrize(
    ("data", "expected", "problem"),
    [
        (b"hello", (digest(b"other"), 5), "damaged"),
        (b"hello", (digest(b"hello"), 4), "larger than"),
        (b"hello", (digest(b"hello"), 6), "damaged: it has 5 bytes"),
        (b"", (digest(b"x"), 1), "damaged: it has 0 bytes"),
    ],
)
def test_a_mismatch_leaves_nothing(paths: Paths, data: bytes, expected: tuple[str, int], problem: str) -> None:
    with pytest.raises(ContentError, match=problem), Ingest(paths) as ingest:
        ingest.put(io.BytesIO(data), expected=Descriptor("", *expected))
    assert blobs(paths) == []
    assert is_clean(paths)


def test_an_endless_blob_is_cut_off(paths: Paths) -> None:
    class Endless:
        given = 0

        def read(self, size: int) -> bytes:
            self.given += size
            return bytes(size)

    source = Endless()
    with pytest.raises(ContentError, match="larger than"), Ingest(paths) as ingest:
        ingest.put(source, expected=Descriptor("", digest(b"x"), 100))
    assert source.given <= content.CHUNK


def test_sha512(paths: Paths) -> None:
    wanted = f"sha512:{hashlib.sha512(b'x').hexdigest()}"
    with Ingest(paths) as ingest:
        assert ingest.put(b"x", expected=Descriptor("", wanted, 1)).digest == wanted
    assert Store(paths).read(wanted) == b"x"


@pytest.mark.parametrize("bad", ["", "sha256:", "sha256:../../x", "sha256:" + "0" * 63, "md5:" + "0" * 32, "x"])
def test_what_is_no_digest_never_becomes_a_path(paths: Paths, bad: str) -> None:
    with pytest.raises(UsageError):
        Store(paths).path(bad)


def test_missing_and_damaged_blobs(paths: Paths) -> None:
    with Ingest(paths) as ingest:
        descriptor = ingest.put(b"hello")
    store = Store(paths)
    with pytest.raises(NotFoundError):
        store.read(digest(b"other"))
    with pytest.raises(NotFoundError):
        store.open(digest(b"other"))
    with pytest.raises(ContentError, match="larger"):
        store.read(descriptor.digest, limit=4)
    Path(store.path(descriptor.digest)).write_bytes(b"hellO")
    with pytest.raises(ContentError, match="damaged on disk"):
        store.read(descriptor.digest)
    store.delete(descriptor.digest)
    store.delete(descriptor.digest)
    assert not store.has(descriptor.digest)


def test_full_disk(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with pytest.raises(KernelError) as caught, Ingest(paths) as ingest:
        monkeypatch.setattr(content.os, "write", fail)
        ingest.put(b"x")
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert "rmi" in caught.value.hint
    assert blobs(paths) == []
    assert is_clean(paths)


def test_failure_collects_what_was_stored(paths: Paths) -> None:
    with pytest.raises(RuntimeError), Ingest(paths) as ingest:
        ingest.put(b"one")
        Path(ingest.path()).mkdir()
        raise RuntimeError
    assert blobs(paths) == []
    assert is_clean(paths)


def test_success_of_one_does_not_lose_to_failure_of_another(paths: Paths) -> None:
    with Ingest(paths) as first:
        kept = first.put(b"kept, not yet referenced")
        with pytest.raises(RuntimeError), Ingest(paths):
            raise RuntimeError
        assert first.store.has(kept.digest)
        assert os.path.isdir(first.directory)
        assert collect(paths, wait=False) is None


def test_a_killed_ingest_is_cleaned_by_the_next(paths: Paths) -> None:
    code = (
        f"import os, sys; sys.path[:0] = {sys.path!r}\n"
        "from coracle.paths import Paths; from coracle.image.content import Ingest\n"
        f"ingest = Ingest(Paths({paths.root!r}, {paths.run!r})).__enter__()\n"
        "ingest.put(b'orphan'); open(ingest.path(), 'w').write('half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(blobs(paths)) == 1 and not is_clean(paths)
    with Ingest(paths):
        assert blobs(paths) == []
        assert len(os.listdir(paths.ingest())) == 1
    assert is_clean(paths)


def test_a_live_ingest_is_not_cleaned(paths: Paths) -> None:
    with Ingest(paths) as first:
        Path(first.path()).touch()
        with Ingest(paths) as second:
            assert first.directory != second.directory
        assert os.listdir(first.directory)


def _puts(paths: Paths, number: int) -> None:
    with Ingest(paths) as ingest:
        for n in range(30):
            ingest.put(b"%d" % n)
            ingest.put(b"%d of %d" % (n, number))


def test_many_at_once(paths: Paths) -> None:
    workers = [multiprocessing.Process(target=_puts, args=(paths, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(blobs(paths)) == 30 + 4 * 30
    assert is_clean(paths)


def _counts(lock: str, file: str) -> None:
    for _ in range(200):
        with exclusive(lock):
            value = int(Path(file).read_text())
            Path(file).write_text(str(value + 1))


def test_lock_files_that_come_and_go_still_exclude(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    arguments = (str(tmp_path / "lock"), str(tmp_path / "count"))
    workers = [multiprocessing.Process(target=_counts, args=arguments) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert (tmp_path / "count").read_text() == "800"
    assert os.listdir(tmp_path) == ["count"]


# -- the index


def put(paths: Paths, name: str = "", image_id: str = IMAGE, manifest: str = MANIFEST, source: str = "") -> None:
    index.ensure_layout(paths)
    with Edit(paths) as edit:
        edit.put({"mediaType": "m", "digest": manifest, "size": 1}, image_id, name, source)


def listed(paths: Paths) -> list[tuple[str, str]]:
    return [(each.name, each.image_id[7:9]) for each in index.read(paths)]


def test_no_store_is_an_empty_store(paths: Paths) -> None:
    assert index.read(paths) == []
    assert collect(paths) is None
    with pytest.raises(NotFoundError) as caught:
        find([], "debian")
    assert "coracle load" in caught.value.hint and "coracle import" in caught.value.hint


def test_names_move_and_what_loses_its_last_name_stays(paths: Paths) -> None:
    put(paths, "docker.io/library/a:1")
    put(paths, "docker.io/library/b:1")
    assert listed(paths) == [("docker.io/library/a:1", "ab"), ("docker.io/library/b:1", "ab")]
    put(paths, "docker.io/library/a:1", OTHER, "sha256:" + "2f" * 32)
    assert listed(paths) == [("docker.io/library/b:1", "ab"), ("docker.io/library/a:1", "ac")]
    put(paths, "docker.io/library/b:1", OTHER, "sha256:" + "2f" * 32)
    assert sorted(listed(paths)) == [("", "ab"), ("docker.io/library/a:1", "ac"), ("docker.io/library/b:1", "ac")]
    put(paths, "docker.io/library/c:1")
    assert ("", "ab") not in listed(paths), "it has a name again"


def test_an_image_without_a_name_is_listed_once(paths: Paths) -> None:
    put(paths)
    put(paths)
    assert listed(paths) == [("", "ab")]
    put(paths, "docker.io/library/a:1")
    put(paths)
    assert listed(paths) == [("docker.io/library/a:1", "ab")]


def test_an_exception_leaves_the_index_alone(paths: Paths) -> None:
    put(paths, "docker.io/library/a:1")
    with pytest.raises(RuntimeError), Edit(paths) as edit:
        edit.entries.clear()
        raise RuntimeError
    assert len(listed(paths)) == 1


def test_unknown_fields_survive_an_edit(paths: Paths) -> None:
    put(paths, "docker.io/library/a:1")
    path = Path(index.path(paths))
    document = json.loads(path.read_text())
    document["annotations"] = {"x": "y"}
    document["manifests"][0]["urls"] = ["u"]
    path.write_text(json.dumps(document))
    put(paths, "docker.io/library/b:1")
    document = json.loads(path.read_text())
    assert document["annotations"] == {"x": "y"}
    assert document["manifests"][0]["urls"] == ["u"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifests": 7}', '{"manifests": [{"digest": "../../x"}]}'])
def test_a_damaged_index_is_an_error_and_nothing_is_deleted(paths: Paths, text: str) -> None:
    with Ingest(paths) as ingest:
        ingest.put(b"x")
    Path(index.path(paths)).write_text(text)
    with pytest.raises(ContentError):
        index.read(paths)
    with pytest.raises(ContentError):
        collect(paths)
    assert len(blobs(paths)) == 1


def test_an_unreadable_index_is_one_line(paths: Paths) -> None:
    index.ensure_layout(paths)
    os.unlink(index.path(paths))
    os.mkdir(index.path(paths))
    with pytest.raises(KernelError, match="read the image index"):
        index.read(paths)


def entries(*items: tuple[str, str, str, str]) -> list[Entry]:
    return [
        Entry(
            {
                "digest": manifest,
                "annotations": {
                    key: value
                    for key, value in (
                        (index.REF_NAME, name),
                        (index.IMAGE_ID, image_id),
                        (index.SOURCE_DIGEST, source),
                    )
                    if value
                },
            }
        )
        for name, image_id, manifest, source in items
    ]


A = ("docker.io/library/a:latest", "sha256:" + "abc1" * 16, "sha256:" + "d1" * 32, "sha256:" + "5e" * 32)
B = ("localhost/b:2", "sha256:" + "abd2" * 16, "sha256:" + "d2" * 32, "")
C = ("", "sha256:" + "ffff" * 16, "sha256:" + "d3" * 32, "")
HEX_NAME = ("docker.io/library/fff:latest", "sha256:" + "1234" * 16, "sha256:" + "d4" * 32, "")
FOREIGN = ("short:1", "", "sha256:" + "d5" * 32, "")
RUBBISH = ("what ever", "", "sha256:" + "d6" * 32, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", A),
        ("a:latest", A),
        ("docker.io/library/a", A),
        ("abc1", A),
        ("abc1" * 16, A),
        (A[1], A),
        (A[1][:20], A),
        (A[2], A),
        (f"a@{A[2]}", A),
        (f"a:other@{A[2]}", A),
        (f"a@{A[3]}", A),
        ("b:2", B),
        ("localhost/b:2", B),
        ("abd", B),
        ("ffff", C),
        ("fff", HEX_NAME),  # a name beats an id
        ("short:1", FOREIGN),
        (FOREIGN[2], FOREIGN),
        (RUBBISH[2], RUBBISH),
    ],
)
def test_find(text: str, expected: tuple[str, str, str, str]) -> None:
    assert find(entries(A, B, C, HEX_NAME, FOREIGN, RUBBISH), text).digest == expected[2]


@pytest.mark.parametrize(
    ("text", "error", "problem"),
    [
        ("nothing", NotFoundError, "no such image: nothing"),
        ("b", NotFoundError, "no such image: b"),
        ("docker.io/b:2", NotFoundError, "no such image"),
        ("ab", ConflictError, "ambiguous"),
        ("Upper", UsageError, "lower case"),
        ("sha256:99", NotFoundError, "no such image"),
        (f"b@{A[2]}", NotFoundError, "no such image"),
        ("", UsageError, "empty"),
    ],
)
def test_not_found(text: str, error: type[CoracleError], problem: str) -> None:
    with pytest.raises(error) as caught:
        find(entries(A, B, C), text)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("text", "near"),
    [("debain:12", "debian:12"), ("debian", "debian:12"), ("debian:testing", "debian:12"), ("busybocks", "busybox")],
)
def test_near_names(text: str, near: str) -> None:
    there = entries(
        ("docker.io/library/debian:12", IMAGE, MANIFEST, ""), ("docker.io/library/busybox:latest", OTHER, MANIFEST, "")
    )
    with pytest.raises(NotFoundError) as caught:
        find(there, text)
    assert f"did you mean {near}" in caught.value.hint


def test_foreign_entries_are_adopted(paths: Paths) -> None:
    index.ensure_layout(paths)
    document = {"manifests": [{"mediaType": "m", "digest": MANIFEST, "size": 1, "annotations": {index.REF_NAME: "x"}}]}
    Path(index.path(paths)).write_text(json.dumps(document))
    with Edit(paths) as edit:
        edit.adopt(edit.entries[0], IMAGE)
    assert listed(paths) == [("docker.io/library/x:latest", "ab")]


def _tags(paths: Paths, number: int) -> None:
    for n in range(20):
        put(paths, f"docker.io/library/x{number}:{n}")


def test_edits_do_not_get_lost(paths: Paths) -> None:
    index.ensure_layout(paths)
    workers = [multiprocessing.Process(target=_tags, args=(paths, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(listed(paths)) == 80


def test_readers_never_see_half_an_index(paths: Paths) -> None:
    index.ensure_layout(paths)
    worker = multiprocessing.Process(target=_tags, args=(paths, 1))
    worker.start()
    seen: list[Any] = []
    while worker.is_alive():
        seen.append(len(index.read(paths)))
        time.sleep(0.001)
    worker.join()
    assert seen == sorted(seen)


def test_collect_keeps_what_is_referenced(paths: Paths) -> None:
    with Ingest(paths) as ingest:
        config = ingest.put(b'{"rootfs":{"type":"layers","diff_ids":[]}}')
        layer = ingest.put(tar(entry("f")))
        orphan = ingest.put(b"orphan")
        document = {
            "schemaVersion": 2,
            "config": {"mediaType": "", "digest": config.digest, "size": config.size},
            "layers": [{"mediaType": "", "digest": layer.digest, "size": layer.size}],
        }
        manifest = ingest.put(json.dumps(document).encode())
    put(paths, "docker.io/library/a:1", config.digest, manifest.digest)
    Path(paths.layer(OTHER)).mkdir()
    Path(paths.ready_image(OTHER)).touch()
    Path(f"{paths.images()}/index.json.77.new").touch()
    freed = collect(paths)
    assert freed is not None
    assert (freed.blobs, freed.layers, freed.size) == ([orphan.digest], [OTHER], 6)
    assert blobs(paths) == sorted([config.digest, layer.digest, manifest.digest])
    assert os.listdir(paths.layers()) == os.listdir(paths.ready()) == []
    assert not os.path.exists(f"{paths.images()}/index.json.77.new")
    assert is_clean(paths)
