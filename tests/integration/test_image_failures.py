"""The image store when things go wrong for real: a full disk, kill -9 at any time, everybody at once."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coracle.errors import ConflictError, ContentError, CoracleError, KernelError, NotFoundError
from coracle.image import images, index, ready
from coracle.image.content import Ingest, Store
from coracle.image.layer import apply
from coracle.image.load import load
from coracle.paths import Paths
from image_archives import digest, directory, docker_archive, entry, tar, tree_of


def layer(seed: int, files: int, size: int) -> bytes:
    chooser = random.Random(seed)
    return tar(directory("d"), *[entry(f"d/{n}", chooser.randbytes(size)) for n in range(files)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
@pytest.mark.parametrize("megabytes", [0.8, 1.6, 4], ids=["first layer's files", "second blob", "first blob"])
def test_full_disk(small_disk: Path, tmp_path: Path, megabytes: float) -> None:
    paths = Paths(str(small_disk / "root"), str(small_disk / "run"))
    small, big = layer(1, 3, 1000), layer(2, 200, int(megabytes * (1 << 20) / 200))
    (tmp_path / "small").write_bytes(docker_archive([small], ["small"]))
    (tmp_path / "big").write_bytes(docker_archive([big, layer(3, 200, len(big) // 200)], ["big"]))
    load(paths, str(tmp_path / "small"))
    before = tree_of(small_disk)
    with pytest.raises(KernelError) as caught:
        load(paths, str(tmp_path / "big"))
    assert "no space left on device" in str(caught.value)
    assert "coracle rmi" in caught.value.hint
    after = tree_of(small_disk)
    assert after.keys() == before.keys()
    assert ready.resolve(paths, "small").layers == [digest(small)]
    images.remove(paths, "small")
    load(paths, str(tmp_path / "small"))


def test_killed_at_any_time(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path / "root"), str(tmp_path / "run"))
    layers = [layer(n, 300, 3000) for n in range(3)]
    (tmp_path / "archive").write_bytes(docker_archive(layers, ["x"]))
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from coracle.paths import Paths; from coracle.image.load import load; import coracle.image.unpack\n"
        "sys.stdout.write('ready'); sys.stdout.flush()\n"
        f"load(Paths({paths.root!r}, {paths.run!r}), {str(tmp_path / 'archive')!r})\n"
    )
    killed = 0
    for attempt in range(25):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.read(5) == b"ready"
            time.sleep(attempt * 0.008)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
        try:
            image = ready.resolve(paths, "x")
        except NotFoundError:
            with Ingest(paths):  # what the next command does first
                pass
            assert list(Store(paths).digests()) == os.listdir(paths.layers()) == []
        else:
            assert image.layers == [digest(each) for each in layers]
            for lower in image.lower_directories(paths):
                assert len(os.listdir(f"{lower}/d")) == 300
            images.remove(paths, "x")
        assert os.listdir(paths.ingest()) == []
    assert killed >= 5
    load(paths, str(tmp_path / "archive"))


def _work(paths: Paths, archives: list[str], seed: int, deadline: float) -> None:
    """Load, tag, resolve and remove at random; only the errors that must be expected are accepted."""
    chooser = random.Random(seed)
    while time.monotonic() < deadline:
        number = chooser.randrange(len(archives))
        action = chooser.choice(["load", "load", "resolve", "tag", "remove", "prune"])
        try:
            if action == "load":
                load(paths, archives[number])
            elif action == "resolve":
                with ready.lease(paths):
                    image = ready.resolve(paths, f"x:{number}")
                    for lower in image.lower_directories(paths):
                        assert len(os.listdir(f"{lower}/d")) == 40
            elif action == "tag":
                images.tag(paths, f"x:{number}", f"t:{chooser.randrange(5)}")
            elif action == "remove":
                images.remove(paths, f"x:{number}", force=True)
            else:
                images.prune(paths)
        except (NotFoundError, ConflictError):
            pass
        except CoracleError as error:
            # Between reading the index and the record, another may have removed the image.
            assert "incomplete" in str(error) or "is missing" in str(error), error


def test_everybody_at_once(tmp_path: Path) -> None:
    paths = Paths(str(tmp_path / "root"), str(tmp_path / "run"))
    archives = []
    for number in range(3):
        layers = [layer(100, 40, 500), layer(number, 40, 500), layer(100 + number, 40, 500)]
        (tmp_path / str(number)).write_bytes(docker_archive(layers, [f"x:{number}"]))
        archives.append(str(tmp_path / str(number)))
    deadline = time.monotonic() + 4
    workers = [multiprocessing.Process(target=_work, args=(paths, archives, seed, deadline)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    for number, archive in enumerate(archives):
        load(paths, archive)
        assert all(
            len(os.listdir(f"{lower}/d")) == 40
            for lower in ready.resolve(paths, f"x:{number}").lower_directories(paths)
        )
    images.prune(paths, all_unused=True)
    assert index.read(paths) == list(Store(paths).digests()) == os.listdir(paths.layers()) == []
    assert os.listdir(paths.ingest()) == os.listdir(paths.ready()) == []


def test_entries_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at the limit, in bounded memory; a tenth of the default million, to save a minute."""
    monkeypatch.setenv("CORACLE_MAX_LAYER_ENTRIES", "100000")
    hundred = b"".join(entry("f", kind=b"6") for _ in range(100))

    class Endless:
        def read(self, size: int) -> bytes:
            return hundred

    (tmp_path / "layer").mkdir()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                apply(Endless(), str(tmp_path / "layer"))
            except ContentError as error:
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                status = 0 if "100000 entries or more" in str(error) and grown < 20_000 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.listdir(tmp_path / "layer") == ["f"]
