"""One attack a test: nothing outside the directory changes, and the error is one clear line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coracle.errors import ContentError, CoracleError
from coracle.image import compression
from coracle.image.layer import Applied, apply
from coracle.image.removal import remove_tree
from coracle.image.tar_reader import Limits
from image_archives import (
    BLOCK_DEVICE,
    CHAR,
    FIFO,
    GNU,
    directory,
    entry,
    gnu_long,
    header,
    link,
    pad,
    pax,
    symlink,
    tar,
    tree_of,
)

KEPT = b"not for the archive"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory beside the layer's with things worth attacking; afterwards it must be as it was."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "secret").write_bytes(KEPT)
    (place / "secret").chmod(0o600)
    (place / "directory").mkdir()
    before = tree_of(place)
    yield place
    assert tree_of(place) == before


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    path = tmp_path / "layer"
    path.mkdir()
    return path


def unpack(path: Path, *parts: bytes, limits: Limits | None = None, lower: list[str] | None = None) -> Applied:
    return apply(io.BytesIO(tar(*parts)), str(path), lower if lower is not None else [], limits)


def refused(path: Path, *parts: bytes, problem: str, limits: Limits | None = None) -> None:
    with pytest.raises(ContentError) as caught:
        unpack(path, *parts, limits=limits)
    text = str(caught.value)
    assert problem in text, text
    assert text.isprintable() and len(text) < 500


def test_dot_dot(layer: Path, outside: Path) -> None:
    refused(layer, entry("../outside/secret", b"x"), problem="leads out of the archive")


def test_dot_dot_behind_a_directory(layer: Path, outside: Path) -> None:
    refused(layer, directory("a"), entry("a/../../outside/secret", b"x"), problem="leads out of the archive")


def test_dot_dot_inside_is_harmless(layer: Path, outside: Path) -> None:
    unpack(layer, directory("a"), entry("a/../b", b"x"))
    assert (layer / "b").read_bytes() == b"x"


def test_absolute_path_is_relative_to_the_layer(layer: Path, outside: Path) -> None:
    unpack(layer, entry(f"{outside}/secret", b"x"))
    assert (layer / str(outside)[1:] / "secret").read_bytes() == b"x"


def test_symlink_swap(layer: Path, outside: Path) -> None:
    refused(layer, symlink("a", str(outside)), entry("a/secret", b"x"), problem="leads nowhere in this layer")


def test_symlink_swap_relative(layer: Path, outside: Path) -> None:
    refused(layer, symlink("a", "../outside"), entry("a/secret", b"x"), problem="leads nowhere in this layer")


def test_symlink_swap_of_a_filled_directory(layer: Path, outside: Path) -> None:
    """The directory is open already when it is replaced: the old descriptor must not be used any more."""
    refused(
        layer,
        directory("a"),
        entry("a/one"),
        symlink("a", str(outside)),
        entry("a/secret", b"x"),
        problem="leads nowhere in this layer",
    )
    assert (layer / "a").is_symlink()


def test_symlink_chain(layer: Path, outside: Path) -> None:
    parts = [directory("d"), symlink("d/up", "../.."), symlink("far", "d/up/outside"), entry("far/secret", b"x")]
    refused(layer, *parts, problem="leads nowhere in this layer")


def test_symlink_circle(layer: Path, outside: Path) -> None:
    refused(layer, symlink("a", "b"), symlink("b", "a"), entry("a/x"), problem="circle")


def test_symlink_to_a_file_in_the_way(layer: Path, outside: Path) -> None:
    refused(layer, entry("f"), symlink("a", "f"), entry("a/x"), problem="no directory")


def test_absolute_symlink_resolves_inside(layer: Path, outside: Path) -> None:
    """As it will in the container; distroless images and merged-/usr archives need it."""
    unpack(layer, directory("usr/lib"), symlink("lib", "/usr/lib"), entry("lib/x", b"1"))
    assert (layer / "usr/lib/x").read_bytes() == b"1"


def test_proc_magic_links_are_only_names(layer: Path, outside: Path) -> None:
    refused(layer, symlink("a", "/proc/self/cwd"), entry("a/x", b"x"), problem="leads nowhere in this layer")
    assert not Path("x").exists()


def test_file_through_existing_symlink_replaces_it(layer: Path, outside: Path) -> None:
    unpack(layer, symlink("a", str(outside / "secret")), entry("a", b"x"))
    assert not (layer / "a").is_symlink()
    assert (layer / "a").read_bytes() == b"x"


def test_directory_over_symlink_replaces_it(layer: Path, outside: Path) -> None:
    unpack(layer, symlink("a", str(outside)), directory("a", mode=0o711), entry("a/secret", b"x"))
    assert stat.S_IMODE((layer / "a").lstat().st_mode) == 0o711
    assert (layer / "a/secret").read_bytes() == b"x"


def test_device_and_fifo_over_symlink_replace_it(layer: Path, outside: Path) -> None:
    unpack(layer, symlink("p", str(outside / "secret")), entry("p", kind=FIFO, mode=0o666))
    assert stat.S_ISFIFO((layer / "p").lstat().st_mode)


def test_hard_link_to_outside(layer: Path, outside: Path) -> None:
    refused(layer, link("a", "../outside/secret"), problem="leads out of the archive")


def test_hard_link_to_absolute_path(layer: Path, outside: Path) -> None:
    refused(layer, link("a", str(outside / "secret")), problem="does not exist")


def test_hard_link_through_symlink(layer: Path, outside: Path) -> None:
    refused(layer, symlink("a", str(outside)), link("b", "a/secret"), problem="does not exist")


def test_hard_link_to_symlink_links_the_symlink(layer: Path, outside: Path) -> None:
    unpack(layer, symlink("a", str(outside / "secret")), link("b", "a", mode=0o777))
    assert (layer / "b").is_symlink()
    assert (layer / "a").lstat().st_ino == (layer / "b").lstat().st_ino


def test_writing_over_a_hard_link_to_a_symlink(layer: Path, outside: Path) -> None:
    """CVE-2021-32760: link to a link, then a mode or content through it."""
    unpack(layer, symlink("a", str(outside / "secret")), link("b", "a"), entry("b", b"x", mode=0o777))
    assert not (layer / "b").is_symlink()
    assert (layer / "a").is_symlink()


def test_hard_link_to_directory(layer: Path, outside: Path) -> None:
    refused(layer, directory("d"), link("a", "d"), problem="directory")
    refused(layer, link("b", "/"), problem="directory")


def test_hard_link_to_itself(layer: Path, outside: Path) -> None:
    unpack(layer, entry("a", b"x"), link("a", "a"))
    assert (layer / "a").read_bytes() == b"x"
    refused(layer, link("b", "b"), problem="does not exist")


def test_hard_link_over_its_own_target_by_another_path(layer: Path, outside: Path) -> None:
    unpack(layer, directory("d"), symlink("l", "d"), entry("d/a", b"x"), link("l/a", "d/a"))
    assert (layer / "d/a").read_bytes() == b"x"


def test_hard_link_to_a_whiteout(layer: Path, outside: Path) -> None:
    refused(layer, entry(".wh.gone"), link("a", "gone"), problem="does not exist")


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."])
def test_whiteouts_of_nothing_and_of_parents(layer: Path, outside: Path, name: str) -> None:
    refused(layer, directory("d"), entry(name), problem="hides nothing")


def test_whiteout_as_a_directory_name(layer: Path, outside: Path) -> None:
    refused(layer, entry(".wh.d/x", b"x"), problem="hides nothing")


def test_whiteout_through_symlink(layer: Path, outside: Path) -> None:
    refused(layer, symlink("a", "../outside"), entry("a/.wh.secret"), problem="leads nowhere")


def test_opaque_through_symlink(layer: Path, outside: Path) -> None:
    refused(layer, symlink("a", "../outside"), entry("a/.wh..wh..opq"), problem="leads nowhere")


def test_the_device_that_is_a_whiteout(layer: Path, outside: Path) -> None:
    applied = unpack(layer, entry("etc", kind=CHAR, major=0, minor=0))
    assert os.listdir(layer) == []
    assert any("0:0" in note for note in applied.notes)


def test_attributes_that_steer_overlayfs(layer: Path, outside: Path) -> None:
    """With a redirect, a directory would show any other of the layers below; metacopy does the same for files."""
    steering = [
        (b"SCHILY.xattr.trusted.overlay.redirect", b"/root"),
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.overlay.redirect", b"/root"),
        (b"SCHILY.xattr.user.overlay.metacopy", b""),
        (b"SCHILY.xattr.trusted.other", b"x"),
        (b"SCHILY.xattr.security.selinux", b"x"),
        (b"LIBARCHIVE.xattr.user.overlay.whiteout", b""),
    ]
    applied = unpack(layer, pax(*steering), directory("d"), pax(*steering), entry("f"))
    assert os.listxattr(layer / "d") == os.listxattr(layer / "f") == []
    assert any("steer overlayfs" in note for note in applied.notes)


def test_the_root_cannot_be_replaced(layer: Path, outside: Path) -> None:
    for part in (symlink("./", str(outside)), entry("/", b"x"), entry("a/..", b"x"), link(".", "x")):
        if part[156:157] == b"0":  # a file whose name ends in a slash is a directory of old
            continue
        refused(layer, part, problem="replaces the root")


def test_file_over_directory_and_directory_over_file(layer: Path, outside: Path) -> None:
    unpack(
        layer,
        directory("a"),
        entry("a/b/c", b"1"),
        entry("a", b"2"),
        directory("a"),
        entry("a/d", b"3"),
    )
    assert os.listdir(layer / "a") == ["d"]


def test_below_a_file(layer: Path, outside: Path) -> None:
    refused(layer, entry("a", b"x"), entry("a/b", b"x"), problem="no directory")


def test_duplicates_last_wins(layer: Path, outside: Path) -> None:
    unpack(layer, entry("a", b"1"), symlink("a", "x"), entry("a", kind=FIFO), entry("a", b"4", mode=0o600))
    assert (layer / "a").read_bytes() == b"4"
    assert stat.S_IMODE((layer / "a").stat().st_mode) == 0o600


def test_a_replaced_file_does_not_change_its_other_links(layer: Path, outside: Path) -> None:
    unpack(layer, entry("a", b"1"), link("b", "a"), entry("a", b"2"))
    assert (layer / "b").read_bytes() == b"1"


def test_zero_bytes_in_names(layer: Path, outside: Path) -> None:
    refused(layer, pax((b"path", b"a\0b")), entry("x"), problem="zero byte")
    refused(layer, pax((b"linkpath", b"a\0b")), symlink("x", "y"), problem="without a target")


def test_empty_symlink(layer: Path, outside: Path) -> None:
    refused(layer, symlink("x", ""), problem="without a target")


@pytest.mark.parametrize("name", [b"n" * 256, b"d/" + b"n" * 4000])
def test_names_too_long_for_the_kernel(layer: Path, outside: Path, name: bytes) -> None:
    with pytest.raises(ContentError):
        unpack(layer, gnu_long(name), entry("x", magic=GNU))


def test_very_deep_directories(layer: Path, outside: Path) -> None:
    deep = b"d/" * 1990
    unpack(layer, gnu_long(deep + b"f"), entry("x", b"bottom", magic=GNU))
    with pytest.raises(ContentError, match="more than Linux allows"):
        unpack(layer, gnu_long(b"d/" * 3000 + b"f"), entry("x", magic=GNU))
    remove_tree(str(layer))  # pytest itself cannot


def test_names_that_are_not_utf_8_and_full_of_control_characters(layer: Path, outside: Path) -> None:
    unpack(layer, entry(b"\xff\xfe\n\x1b[31m", b"1"))
    assert os.listdir(bytes(layer)) == [b"\xff\xfe\n\x1b[31m"]
    refused(layer, symlink(b"\xff\n\x1b[31m", "nowhere"), entry(b"\xff\n\x1b[31m/x"), problem="\\xff\\n\\x1b")


def test_owner_out_of_range(layer: Path, outside: Path) -> None:
    refused(layer, entry("a", uid=b"\x80\0\0\0\xff\xff\xff\xff"), problem="out of range")


def test_device_numbers_out_of_range(layer: Path, outside: Path) -> None:
    refused(layer, entry("a", kind=BLOCK_DEVICE, major=4096), problem="out of range")
    refused(layer, entry("a", kind=CHAR, minor=1 << 20), problem="out of range")


def test_special_files_in_the_way_are_not_opened(layer: Path, outside: Path) -> None:
    """A FIFO with the name of a directory must not make us wait for a writer."""
    refused(layer, entry("a", kind=FIFO), entry("a/b", b"x"), problem="no directory")


def test_truncated(layer: Path, outside: Path) -> None:
    whole = tar(entry("a", b"x" * 5000))
    for length in (100, 512, 1000, 5000):
        with pytest.raises(ContentError, match="truncated"):
            apply(io.BytesIO(whole[:length]), str(layer))


def test_not_a_tar(layer: Path, outside: Path) -> None:
    for data in (b"PK\x03\x04" * 1000, b"#!/bin/sh\n" * 100, bytes(range(256)) * 4):
        with pytest.raises(ContentError):
            apply(io.BytesIO(data), str(layer))


def test_garbage_after_the_end_is_hashed_but_not_read(layer: Path, outside: Path) -> None:
    import hashlib

    data = tar(entry("a")) + entry("b") + b"garbage" * 1000
    applied = apply(io.BytesIO(data), str(layer))
    assert os.listdir(layer) == ["a"]
    assert applied.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_damaged_compression(layer: Path, outside: Path, compress: object) -> None:
    whole = compress(tar(entry("a", os.urandom(200_000))))  # type: ignore[operator]
    flipped = whole[:50_000] + bytes(200) + whole[50_200:]
    for data in (whole[:-1], whole[: len(whole) // 2], flipped, whole + b"garbage after the end"):
        with pytest.raises(ContentError):
            apply(io.BytesIO(data), str(layer))


class Bomb:
    """An endless gzip member: zeros that compress a thousandfold."""

    def __init__(self) -> None:
        engine = zlib.compressobj(9, zlib.DEFLATED, 31)
        self.head = engine.compress(header("f", size=b"\x80" + (1 << 45).to_bytes(11, "big"))) + engine.flush(
            zlib.Z_FULL_FLUSH
        )
        self.body = engine.compress(bytes(1 << 24)) + engine.flush(zlib.Z_FULL_FLUSH)
        self.given = 0

    def read(self, size: int) -> bytes:
        data, self.head = (self.head or self.body), b""
        self.given += len(data)
        return data


def test_decompression_bomb(layer: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "RATIO_FLOOR", 64 << 20)
    bomb = Bomb()
    with pytest.raises(ContentError, match="decompression bomb"):
        apply(bomb, str(layer), limits=Limits(size=1 << 50))
    assert bomb.given < 4 << 20
    assert (layer / "f").stat().st_size < 200 << 20


def test_bomb_by_size(layer: Path, outside: Path) -> None:
    with pytest.raises(ContentError, match="more than 1000000 bytes"):
        apply(Bomb(), str(layer), limits=Limits(size=1_000_000))
    assert os.listdir(layer) == []


def test_too_many_entries(layer: Path, outside: Path) -> None:
    refused(layer, *[entry(f"f{n}") for n in range(60)], problem="50 entries or more", limits=Limits(entries=50))


def test_sparse_bomb(layer: Path, outside: Path) -> None:
    records = [(b"GNU.sparse.size", b"9000000000000000000"), (b"GNU.sparse.map", b"0,1")]
    refused(layer, pax(*records), entry("f", b"x"), problem="more than")


def test_pax_bomb(layer: Path, outside: Path) -> None:
    refused(layer, entry("x", bytes(2 << 20), b"x"), entry("f"), problem="extended tar header has")


def test_reasons_do_not_pile_up(layer: Path, outside: Path) -> None:
    parts = [pax((b"SCHILY.xattr.security.x%d" % n, b"v")) + entry(f"f{n}") for n in range(200)]
    assert len(unpack(layer, *parts).notes) < 40


def test_memory_stays_bounded(layer: Path, outside: Path) -> None:
    """8000 entries in 1500 directories, coming back to each: no list of them may grow with the archive."""
    import tracemalloc

    class Endless:
        def __init__(self) -> None:
            self.parts = (entry(f"d{n % 1500}/f{n}") for n in range(8000))
            self.done = False

        def read(self, size: int) -> bytes:
            return next(self.parts, b"")

    tracemalloc.start()
    try:
        apply(Endless(), str(layer))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


_COMPONENT = st.sampled_from(["a", "b", "..", ".", "", "l", ".wh.a", ".wh..wh..opq", ".wh.", "outside", "secret"])
_PATH = st.lists(_COMPONENT, min_size=1, max_size=4).map("/".join)
_ENTRY = st.one_of(
    st.builds(lambda p, d: entry(p, d), _PATH, st.binary(max_size=20)),
    st.builds(directory, _PATH),
    st.builds(symlink, _PATH, _PATH | st.just("../../outside") | st.just("/")),
    st.builds(link, _PATH, _PATH),
    st.builds(lambda p: entry(p, kind=FIFO), _PATH),
)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(_ENTRY, max_size=12))
def test_no_sequence_of_entries_gets_out(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    base = tmp_path_factory.mktemp("fuzz")
    (base / "outside/a").mkdir(parents=True)
    (base / "outside/secret").write_bytes(KEPT)
    (base / "layer").mkdir()
    before = tree_of(base / "outside")
    fds = len(os.listdir("/proc/self/fd"))
    try:
        unpack(base / "layer", *parts)
    except CoracleError as error:
        assert isinstance(error, ContentError), error
    assert tree_of(base / "outside") == before
    assert sorted(os.listdir(base)) == ["layer", "outside"]
    assert len(os.listdir("/proc/self/fd")) == fds


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8))
def test_no_damage_gets_out(tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]) -> None:
    base = tmp_path_factory.mktemp("fuzz")
    (base / "layer").mkdir()
    data = bytearray(tar(directory("d"), entry("d/f", b"x" * 700), symlink("l", "d"), link("h", "d/f"), pad(b"")))
    for at, value in flips:
        data[at % len(data)] = value
    try:
        apply(io.BytesIO(bytes(data)), str(base / "layer"))
    except CoracleError as error:
        assert isinstance(error, ContentError), error
    assert os.listdir(base) == ["layer"]
