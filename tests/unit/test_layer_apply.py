"""What a layer becomes on disk, and back: whiteouts, lower layers, attributes, compression, diff and export."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coracle.errors import ContentError, KernelError, UnsupportedError
from coracle.image import compression, layer
from coracle.image.diff import diff, export
from coracle.image.layer import Applied, apply
from coracle.image.lower import Lower
from coracle.image.overlay_marks import Rights, detect_rights, is_opaque, is_whiteout
from coracle.image.removal import remove_tree
from coracle.image.tar_reader import Reader
from image_archives import (
    CHAR,
    FIFO,
    directory,
    entry,
    gnu_long,
    link,
    pax,
    symlink,
    tar,
    tree_of,
)

ROOT = os.geteuid() == 0
MTIME = 1_000_000_000


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Unpack a layer into a fresh directory: (path, result)."""
    counter = iter(range(100))

    def unpack(*parts: bytes, lower: list[Path] | None = None, **options: Any) -> tuple[Path, Applied]:
        path = tmp_path / f"layer{next(counter)}"
        path.mkdir()
        below = [str(each) for each in lower] if lower is not None else None
        return path, apply(io.BytesIO(tar(*parts)), str(path), below, **options)

    return unpack


def whiteout(path: Path) -> bool:
    try:
        return is_whiteout(path.lstat())
    except FileNotFoundError:
        return False


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- whiteouts


def test_whiteout_becomes_a_device(make: Any) -> None:
    path, _ = make(directory("d"), entry("d/.wh.gone"))
    assert whiteout(path / "d/gone")
    assert os.listdir(path / "d") == ["gone"]


def test_opaque_becomes_an_attribute(make: Any) -> None:
    path, _ = make(directory("d"), entry("d/.wh..wh..opq"), entry("d/f"))
    assert is_opaque(str(path / "d"))
    assert os.listdir(path / "d") == ["f"]
    assert os.listxattr(path / "d") == [detect_rights().opaque]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_whiteout_never_hides_its_own_layer(make: Any, order: list[int]) -> None:
    parts = [entry("f", b"mine"), entry(".wh.f")]
    path, _ = make(*[parts[n] for n in order])
    assert (path / "f").read_bytes() == b"mine"


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [0, 2, 1]])
def test_a_directory_deleted_and_made_again_is_opaque(make: Any, order: list[int]) -> None:
    parts = [directory("d"), entry("d/f", b"new"), entry(".wh.d")]
    path, _ = make(*[parts[n] for n in order])
    assert is_opaque(str(path / "d"))
    assert (path / "d/f").read_bytes() == b"new"


def test_entries_below_a_whiteout_make_an_opaque_directory(make: Any) -> None:
    path, _ = make(entry(".wh.d"), entry("d/e/f", b"new"))
    assert is_opaque(str(path / "d"))
    assert not is_opaque(str(path / "d/e"))


@pytest.mark.parametrize("late", [False, True])
def test_no_whiteouts_inside_an_opaque_directory(make: Any, late: bool) -> None:
    """readdir would show them (overlayfs filters only directories that it merges)."""
    marks = [entry("d/.wh..wh..opq"), entry("d/.wh.x"), directory("d/e"), entry("d/e/.wh.y")]
    path, _ = make(directory("d"), *(reversed(marks) if late else marks))
    assert os.listdir(path / "d") == ["e"]
    assert os.listdir(path / "d/e") == []


def test_whiteouts_where_nothing_is_below(make: Any) -> None:
    base, _ = make(directory("d"), entry("d/f"), lower=[])
    path, applied = make(directory("d"), entry("d/.wh.f"), directory("n"), entry("n/.wh.f"), lower=[base])
    assert whiteout(path / "d/f")
    assert os.listdir(path / "n") == []
    assert applied.dependent


def test_opaque_root(make: Any) -> None:
    """overlayfs ignores the mark on a layer's root, so what lies below is hidden by name."""
    bottom, _ = make(entry("a"), entry("b"), directory("d"), entry("d/x"), lower=[])
    middle, _ = make(entry(".wh.a"), entry("c"), lower=[bottom])
    path, applied = make(entry(".wh..wh..opq"), directory("d"), entry("d/y"), entry("b"), lower=[middle, bottom])
    assert applied.dependent
    assert not whiteout(path / "a"), "hidden already"
    assert whiteout(path / "c")
    assert not whiteout(path / "b")
    assert is_opaque(str(path / "d"))


def test_aufs_leftovers_are_skipped(make: Any) -> None:
    path, applied = make(entry(".wh..wh.aufs"), directory(".wh..wh.plnk"), entry(".wh..wh.plnk/1.2", b"x"), entry("f"))
    assert os.listdir(path) == ["f"]
    assert any("aufs" in note for note in applied.notes)


# -- relying on lower layers


def test_missing_parents_look_like_the_ones_below(make: Any) -> None:
    base, _ = make(directory("etc", mode=0o711, mtime=77), directory("etc/apt", mode=0o2750, mtime=88), lower=[])
    path, applied = make(entry("etc/apt/f"), lower=[base])
    assert (mode(path / "etc"), (path / "etc").stat().st_mtime) == (0o711, 77)
    assert (mode(path / "etc/apt"), (path / "etc/apt").stat().st_mtime) == (0o2750, 88)
    assert applied.dependent


def test_missing_parents_alone(make: Any) -> None:
    path, applied = make(entry("a/b/c", b"x"))
    assert mode(path / "a") == mode(path / "a/b") == 0o755
    assert applied.dependent


def test_a_parent_that_is_a_symlink_below_becomes_a_directory(make: Any) -> None:
    """As in docker and podman, which unpack into the layer's own directory too."""
    base, _ = make(directory("usr/lib"), symlink("lib", "usr/lib"), lower=[])
    path, _ = make(entry("lib/x"), lower=[base])
    assert (path / "lib").is_dir() and not (path / "lib").is_symlink()


def test_the_root_looks_like_the_one_below(make: Any) -> None:
    base, _ = make(directory("./", mode=0o555), lower=[])
    path, applied = make(entry("f"), lower=[base])
    assert mode(path) == 0o555
    assert applied.dependent
    plain, applied = make(entry("f"), lower=[make(entry("g"), lower=[])[0]])
    assert (mode(plain), applied.dependent) == (0o755, False)


def test_hard_link_to_a_lower_layer_copies_up(make: Any) -> None:
    base, _ = make(directory("d", mode=0o700), entry("d/f", b"content", mode=0o640, mtime=99), lower=[])
    path, applied = make(link("g", "d/f"), lower=[base])
    assert (path / "g").read_bytes() == b"content"
    assert (mode(path / "g"), (path / "g").stat().st_mtime) == (0o640, 99)
    assert (path / "d/f").samefile(path / "g")
    assert mode(path / "d") == 0o700
    assert applied.dependent
    assert (base / "d/f").stat().st_nlink == 1


def test_hard_link_to_a_symlink_below(make: Any) -> None:
    base, _ = make(symlink("s", "/etc/passwd"), lower=[])
    path, _ = make(link("g", "s"), lower=[base])
    assert os.readlink(path / "g") == "/etc/passwd"


def test_hard_link_to_something_deleted_below(make: Any) -> None:
    base, _ = make(entry("f"), lower=[])
    middle, _ = make(entry(".wh.f"), lower=[base])
    with pytest.raises(ContentError, match="does not exist"):
        make(link("g", "f"), lower=[middle, base])


def test_a_lower_symlink_leads_nowhere(make: Any, tmp_path: Path) -> None:
    """A link of a lower layer must not let a hard link copy a file of the host."""
    (tmp_path / "secret").write_text("x")
    base, _ = make(symlink("d", str(tmp_path)), lower=[])
    with pytest.raises(ContentError, match="does not exist"):
        make(link("g", "d/secret"), lower=[base])


def test_lower_view(make: Any) -> None:
    bottom, _ = make(directory("d"), entry("d/a"), entry("d/b"), directory("o"), entry("o/a"), entry("f"), lower=[])
    parts = [directory("d"), entry("d/.wh.a"), directory("o"), entry("o/.wh..wh..opq"), entry("o/n"), entry(".wh.f")]
    top, _ = make(*parts, lower=[bottom])
    view = Lower([str(top), str(bottom)])

    def there(path: bytes) -> bool:
        fd = view.find(path)
        if fd is not None:
            os.close(fd)
        return fd is not None

    assert [there(path) for path in (b"d/a", b"d/b", b"o/a", b"o/n", b"f", b"f/x", b"none", b"")] == [
        False, True, False, True, False, False, False, True,
    ]  # fmt: skip
    assert view.names(b"") == {b"d", b"o"}
    assert view.names(b"d") == {b"b"}
    assert view.names(b"o") == {b"n"}
    assert view.is_directory(b"d") and not view.is_directory(b"d/b") and not view.is_directory(b"f")


# -- attributes


def test_modes_and_times(make: Any) -> None:
    path, _ = make(
        directory("d", mode=0o1777, mtime=5),
        entry("d/f", b"x", mode=0o4755, mtime=6),
        pax((b"mtime", b"7.123456789")),
        entry("d/g", mode=0o000),
        symlink("d/s", "f", mtime=8),
        entry("d/p", kind=FIFO, mode=0o622, mtime=9),
    )
    assert (mode(path / "d"), (path / "d").stat().st_mtime) == (0o1777, 5), "also after it was filled"
    assert (mode(path / "d/f"), (path / "d/f").stat().st_mtime) == (0o4755, 6)
    assert (mode(path / "d/g"), (path / "d/g").stat().st_mtime_ns) == (0, 7_123_456_789)
    assert (path / "d/s").lstat().st_mtime == 8
    assert (mode(path / "d/p"), (path / "d/p").stat().st_mtime) == (0o622, 9)


def test_directory_times_survive_coming_back(make: Any) -> None:
    """More directories than are kept open, filled in turns, described before, between and after."""
    parts = [directory(f"d{n}", mtime=n) for n in range(150)]
    parts += [entry(f"d{n}/f{turn}") for turn in range(2) for n in range(300)]
    parts += [directory(f"d{n}", mtime=n) for n in range(150, 300)]
    path, _ = make(*parts)
    assert [(path / f"d{n}").stat().st_mtime for n in range(300)] == list(range(300))


def test_directories_without_permissions(make: Any) -> None:
    path, _ = make(
        directory("a", mode=0), directory("a/b", mode=0o500), entry("a/b/c", b"x"),
        *[directory(f"d{n}") for n in range(150)],  # enough to have the first ones closed
        entry("a/b/d", b"y"), link("a/b/e", "a/b/c"),
    )  # fmt: skip
    assert mode(path / "a") == 0
    (path / "a").chmod(0o700)
    assert mode(path / "a/b") == 0o500
    assert sorted(os.listdir(path / "a/b")) == ["c", "d", "e"]


def test_user_xattrs(make: Any) -> None:
    path, _ = make(
        pax((b"SCHILY.xattr.user.a", b"1\0\xff")), directory("d"), pax((b"SCHILY.xattr.user.b", b"2")), entry("f")
    )
    try:
        assert os.getxattr(path / "d", "user.a") == b"1\0\xff"
        assert os.getxattr(path / "f", "user.b") == b"2"
    except OSError as error:
        assert error.errno == errno.ENODATA and not _user_xattrs(path)


def _user_xattrs(path: Path) -> bool:
    try:
        os.setxattr(path, "user.probe", b"")
    except OSError:
        return False
    return True


def test_a_second_entry_clears_the_attributes_of_the_first(make: Any) -> None:
    path, _ = make(
        pax((b"SCHILY.xattr.user.a", b"1")), directory("d"), entry("d/.wh..wh..opq"), directory("d", mode=0o700)
    )
    assert mode(path / "d") == 0o700
    assert os.listxattr(path / "d") == [detect_rights().opaque]


def test_without_rights_owners_are_noted_and_set_ids_dropped(make: Any) -> None:
    rights = Rights(False, detect_rights().override, detect_rights().opaque)
    path, applied = make(
        entry("mine", mode=0o4755), entry("other", mode=0o6755, uid=33, gid=44), entry("third", mode=0o2755, uid=33),
        rights=rights,
    )  # fmt: skip
    assert mode(path / "mine") == 0o4755
    assert mode(path / "other") == 0o755, "would become set-uid root in the container"
    assert mode(path / "third") == 0o2755
    assert {(path / name).stat().st_uid for name in os.listdir(path)} == {os.geteuid()}
    assert applied.notes == [note for note in applied.notes if note.startswith("2 entries kept as this user's own")]
    assert len(applied.notes) == 1 and "/other" in applied.notes[0]


@pytest.mark.skipif(not detect_rights().owner, reason="only root may give files away and make devices")
def test_owners_devices_and_capabilities(make: Any) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    path, applied = make(
        pax((b"SCHILY.xattr.security.capability", capability), (b"uid", b"3000000000")),
        entry("ping", b"x", mode=0o6755, gid=44),
        entry("null", kind=CHAR, mode=0o666, major=1, minor=3, uid=5),
        symlink("s", "x", uid=6, gid=7),
        directory("d", uid=8),
    )
    info = (path / "ping").stat()
    assert (info.st_uid, info.st_gid, mode(path / "ping")) == (3_000_000_000, 44, 0o6755)
    assert os.getxattr(path / "ping", "security.capability") == capability
    assert ((path / "null").stat().st_rdev, mode(path / "null")) == (os.makedev(1, 3), 0o666)
    assert (path / "null").stat().st_uid == 5
    assert ((path / "s").lstat().st_uid, (path / "s").lstat().st_gid) == (6, 7)
    assert (path / "d").stat().st_uid == 8
    assert applied.notes == []


def test_sparse_files(make: Any) -> None:
    records = [(b"GNU.sparse.size", b"10000000"), (b"GNU.sparse.map", b"0,3,9000000,2")]
    path, applied = make(pax(*records), entry("f", b"abcde"))
    data = (path / "f").read_bytes()
    assert (len(data), data[:3], data[9_000_000:9_000_002], data.count(0)) == (10_000_000, b"abc", b"de", 9_999_995)
    assert (path / "f").stat().st_blocks * 512 < 1_000_000
    assert applied.size == 10_000_000


def test_a_sparse_file_that_is_all_hole(make: Any) -> None:
    path, _ = make(pax((b"GNU.sparse.size", b"5000"), (b"GNU.sparse.map", b"5000,0")), entry("f"), entry("g", b"x"))
    assert (path / "f").read_bytes() == bytes(5000)


def test_result(make: Any) -> None:
    import hashlib

    parts = [directory("d"), entry("d/f", b"12345"), entry("g", b"678")]
    _, applied = make(*parts)
    assert applied.diff_id == f"sha256:{hashlib.sha256(tar(*parts)).hexdigest()}"
    assert (applied.size, applied.entries, applied.notes, applied.dependent) == (8, 3, [], False)


def test_sha512(make: Any) -> None:
    assert make(entry("f"), algorithm="sha512")[1].diff_id.startswith("sha512:")


# -- compression


def _zstd(data: bytes) -> bytes:
    tool = subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True)
    return tool.stdout


@pytest.mark.parametrize(
    "compress",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:]),
        lambda data: gzip.compress(data) + bytes(1000),
        lambda data: bz2.compress(data[:700]) + bz2.compress(data[700:]),
        lambda data: lzma.compress(data[:700]) + lzma.compress(data[700:]),
    ],
    ids=["gzip", "bzip2", "xz", "gzip members", "gzip padded", "bzip2 streams", "xz streams"],
)
def test_compressions(tmp_path: Path, compress: Any) -> None:
    plain = tar(entry("a", os.urandom(3_000_000)), entry("b", bytes(3_000_000)))
    results = []
    for number, data in enumerate((plain, compress(plain))):
        (tmp_path / str(number)).mkdir()
        results.append(apply(io.BytesIO(data), str(tmp_path / str(number))))
    assert results[0].diff_id == results[1].diff_id
    assert (tmp_path / "0/a").read_bytes() == (tmp_path / "1/a").read_bytes()


def test_zstd_without_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "zstd_module", lambda: None)
    with pytest.raises(UnsupportedError) as caught:
        apply(io.BytesIO(b"\x28\xb5\x2f\xfd" + bytes(100)), str(tmp_path))
    assert "backports.zstd" in caught.value.hint


class _FakeZstd:
    """The interface of compression.zstd on top of bz2: the glue can be tested where no module is installed."""

    ZstdFile = object
    ZstdDecompressor = bz2.BZ2Decompressor


@pytest.mark.parametrize("module", ["compression.zstd", "backports.zstd", "zstandard"])
def test_zstd(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compression._first_module(module)
    if found is None:
        pytest.skip(f"{module} is not installed")
    monkeypatch.setattr(compression, "zstd_module", lambda: found)
    plain = tar(entry("a", b"hello"))
    apply(io.BytesIO(_zstd(plain[:700]) + _zstd(plain[700:])), str(tmp_path))
    assert (tmp_path / "a").read_bytes() == b"hello"


def test_zstd_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "zstd_module", lambda: _FakeZstd)
    stage = compression._unzstd(iter([bz2.compress(b"hello " * 100_000), bz2.compress(b"world")]))
    assert b"".join(stage) == b"hello " * 100_000 + b"world"


def test_detect() -> None:
    assert [compression.detect(head) for head in (b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"\x5a\x2a\x4d\x18", b"x")] == [
        "gzip", "bzip2", "xz", "zstd", "",
    ]  # fmt: skip


# -- errors of the disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_errors_are_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(layer.os, "write", fail)
    with pytest.raises(KernelError) as caught:
        apply(io.BytesIO(tar(entry("f", b"x"))), str(tmp_path))
    assert caught.value.errno == code
    assert "/f" in str(caught.value)


def test_a_file_larger_than_allowed(tmp_path: Path) -> None:
    """RLIMIT_FSIZE and small file systems answer EFBIG, which is about this file and not about the disk."""
    code = (
        f"import sys, io, resource, signal; sys.path[:0] = {sys.path!r}\n"
        "from image_archives import tar, entry\n"
        "from coracle.image.layer import apply\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"try: apply(io.BytesIO(tar(entry('f', b'x' * 5000))), {str(tmp_path)!r})\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.startswith("ContentError cannot unpack /f: file too large")


# -- back again


def test_round_trip(make: Any) -> None:
    path, _ = make(
        directory("./", mode=0o751, mtime=3),
        directory("d", mode=0o1777, mtime=5), entry("d/f", b"x" * 3000, mode=0o4711 if ROOT else 0o711),
        link("d/g", "d/f"), symlink("d/s", "/no/where"), entry("d/p", kind=FIFO),
        directory("o"), entry("o/.wh..wh..opq"), entry("o/n"),
        entry(".wh.gone"), gnu_long(b"l" * 200), entry("x", b"long"), pax((b"path", b"\xff\xfe")), entry("x"),
        pax((b"SCHILY.xattr.user.a", b"1\0")), entry("attributes"),
    )  # fmt: skip
    out = io.BytesIO()
    written = diff(str(path), out)
    again = path.with_name("again")
    again.mkdir()
    applied = apply(io.BytesIO(out.getvalue()), str(again))
    assert applied.diff_id == written.diff_id
    assert written.size == len(out.getvalue())
    assert tree_of(again) == tree_of(path)


def test_who_has_one_uid_archives_his_own_as_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rights = Rights(False, False, detect_rights().opaque)
    monkeypatch.setattr("coracle.image.diff.detect_rights", lambda: rights)
    (tmp_path / "t").mkdir()
    (tmp_path / "t/f").touch()
    out = io.BytesIO()
    diff(str(tmp_path / "t"), out)
    assert {(each.uid, each.gid) for each in Reader(iter([out.getvalue()]))} == {(0, 0)}


def test_the_order_is_fixed(make: Any, tmp_path: Path) -> None:
    names = [f"{n:03}" for n in range(50)]
    outputs = []
    for order in (names, names[::-1]):
        path, _ = make(*[entry(f"d/{name}", name.encode()) for name in order], directory("d"))
        out = io.BytesIO()
        diff(str(path), out)
        outputs.append(out.getvalue())
    assert outputs[0] == outputs[1]


def test_clamp(make: Any) -> None:
    path, _ = make(entry("old", mtime=50), entry("new", mtime=500), directory("./", mtime=1))
    out = io.BytesIO()
    diff(str(path), out, clamp=100)
    again, _ = make()
    apply(io.BytesIO(out.getvalue()), str(again))
    assert ((again / "old").stat().st_mtime, (again / "new").stat().st_mtime) == (50, 100)


def test_what_cannot_be_in_a_layer(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").touch()
    with pytest.raises(ContentError, match=r"\.wh\."):
        diff(str(tmp_path), io.BytesIO())
    export(str(tmp_path), io.BytesIO())


def test_sockets_are_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        out = io.BytesIO()
        export(str(tmp_path), out)
    assert b"s\0" not in out.getvalue()[512:1024]


def test_redirects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    name = "trusted.overlay.redirect" if ROOT else "user.overlay.redirect"
    try:
        os.setxattr(tmp_path / "d", name, b"/x")
    except OSError:
        pytest.skip("this file system has no such attributes")
    with pytest.raises(UnsupportedError, match="redirect"):
        diff(str(tmp_path), io.BytesIO())


def test_a_swapped_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "secret").write_text("secret content")
    (tmp_path / "t/s").symlink_to(tmp_path / "secret")
    (tmp_path / "t/d").symlink_to(tmp_path)
    out = io.BytesIO()
    export(str(tmp_path / "t"), out)
    assert b"secret content" not in out.getvalue()


def test_deep_trees(make: Any) -> None:
    path, _ = make(gnu_long(b"d/" * 1500 + b"f"), entry("x", b"bottom"))
    out = io.BytesIO()
    diff(str(path), out)
    again, _ = make()
    apply(io.BytesIO(out.getvalue()), str(again))
    assert (again / ("d/" * 1500) / "f").read_bytes() == b"bottom"
    for each in (path, again):  # pytest itself cannot remove them
        remove_tree(str(each))
