"""Users by name and number from the image's own files, and reading those files out of a stack of layers."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle.engine.user import MAXIMUM_SIZE, User, needs_files, read_in_layers, resolve
from coracle.errors import ContentError, CoracleError, KernelError, UsageError
from coracle.linux import mount

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
app:x:1000:1001:App:/home/app:/bin/bash
app:x:2000:2001:second of the name:/home/second:/bin/bash
2000:x:30:30:a number as a name:/home/number:/bin/sh
same:x:1000:5:same number as app:/home/same:/bin/sh
nohome:x:40:40
short:x:41
huge:x:4294967296:1::/:/bin/sh
minus:x:-1:0::/:/bin/sh
plus:x:+5:0::/:/bin/sh
blank:x: 7:0::/:/bin/sh
word:x:seven:0::/:/bin/sh
empty:x::::/:/bin/sh
nul\0:x:0:0::/:/bin/sh
relative:x:50:50::home:/bin/sh
+nis
:x:0:0::/:/bin/sh
dos:x:60:60::/home/dos:/bin/sh\r
"""
GROUP = b"""root:x:0:
app:x:1001:
wheel:x:10:root,app
audio:x:63:app,other
video:x:44:other
broken:x:ten:app
huge:x:99999999999:app
33:x:34:
nomembers:x:70
"""


def find(specification: str, *extra: str) -> User:
    return resolve(specification, extra, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("specification", "uid", "gid", "groups", "home"),
    [
        # Recorded from docker 20.10 with these files, except where a comment says so.
        ("", 0, 0, [0, 10], "/root"),
        ("root", 0, 0, [0, 10], "/root"),
        ("0", 0, 0, [0, 10], "/root"),
        ("app", 1000, 1001, [1001, 10, 63], "/home/app"),
        ("1000", 1000, 1001, [1001, 10, 63], "/home/app"),
        ("app:", 1000, 1001, [1001, 10, 63], "/home/app"),
        ("app:8", 1000, 8, [8], "/home/app"),
        ("app:wheel", 1000, 10, [10], "/home/app"),
        (":8", 0, 8, [8], "/root"),
        (":app", 0, 1001, [1001], "/root"),
        ("7:8", 7, 8, [8], "/"),
        ("7", 7, 0, [0], "/"),
        ("7:app", 7, 1001, [1001], "/"),
        ("2000", 2000, 2001, [2001, 10, 63], "/home/second"),  # a number is never a name
        ("app:33", 1000, 33, [33], "/home/app"),
        ("nohome", 40, 40, [40], "/"),
        ("relative", 50, 50, [50], "/"),  # docker hands out HOME=home
        ("dos", 60, 60, [60], "/home/dos"),
        ("1", 1, 1, [1], "/usr/sbin"),  # CVE-2026-30892: crun 1.19 to 1.26 made this user 0
        ("2147483647:2147483647", 2147483647, 2147483647, [2147483647], "/"),
    ],
)
def test_resolution(specification: str, uid: int, gid: int, groups: list[int], home: str) -> None:
    user = find(specification)
    assert (user.uid, user.gid, user.groups, user.home) == (uid, gid, groups, home)


@pytest.mark.parametrize(
    ("specification", "line"),
    [
        ("nobody", "unable to find user nobody: no such user in the container's /etc/passwd"),
        ("app:nobody", "unable to find group nobody: no such group in the container's /etc/group"),
        ("2147483648", "user 2147483648 is out of range"),
        ("4294967295", "user 4294967295 is out of range"),
        ("4294967296", "user 4294967296 is out of range"),  # CVE-2026-46680: was looked up as a name
        ("0" * 11, "user 00000000000 is out of range"),
        ("0:2147483648", "group 2147483648 is out of range"),
        ("-1", "unable to find user -1"),
        ("+5", "unable to find user \\+5"),  # docker takes it for 5
        ("5x", "unable to find user 5x"),
        ("٣", "unable to find user ٣"),
        (" app", "unable to find user  app"),
        ("app:1:2", "unable to find group 1:2"),  # docker drops the third part
        ("huge", "unable to find user huge"),
        ("minus", "unable to find user minus"),
        ("plus", "unable to find user plus"),
        ("word", "unable to find user word"),  # docker's Atoi makes this user 0
        ("empty", "unable to find user empty"),  # and this one
        ("short", "unable to find user short"),
        ("app:broken", "unable to find group broken"),
        ("app\0", "user 'app\\\\x00' contains a control character"),
        ("app\n", "contains a control character"),
    ],
)
def test_refusals(specification: str, line: str) -> None:
    with pytest.raises(UsageError, match=line):
        find(specification)


def test_added_groups_come_last_and_once() -> None:
    assert find("app", "video", "77", "wheel", "77").groups == [1001, 10, 63, 44, 77]
    assert find("7:8", "audio").groups == [8, 63]
    with pytest.raises(UsageError, match="unable to find group nope"):
        find("app", "nope")


def test_without_files_only_numbers_work() -> None:
    assert resolve("", (), None, None) == User(0, 0, [0], "/")
    assert resolve("5:6", ["7"], None, None) == User(5, 6, [6, 7], "/")
    with pytest.raises(UsageError, match="the container has no /etc/passwd"):
        resolve("app", (), None, None)
    with pytest.raises(UsageError, match="the container has no /etc/group"):
        resolve("5:app", (), None, None)


def test_needs_files() -> None:
    assert not needs_files("5:6") and not needs_files("5:6", ["7"])
    assert needs_files("5") and needs_files("") and needs_files("a:6") and needs_files("5:6", ["a"])


def test_a_name_that_is_not_utf8() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert resolve(name, (), b"caf\xe9:x:9:9::/x:/bin/sh\n", b"").uid == 9


def test_too_many_groups() -> None:
    lines = b"".join(b"g%d:x:%d:root\n" % (number, number) for number in range(1, 65540))
    with pytest.raises(UsageError, match="the kernel's limit is 65536"):
        resolve("root", (), PASSWD, lines)


@given(st.binary(max_size=80), st.binary(max_size=80), st.text(max_size=8))
def test_hostile_files_never_crash_nor_give_odd_ids(passwd: bytes, group: bytes, specification: str) -> None:
    try:
        user = resolve(specification, (), passwd, group)
    except CoracleError:
        return
    for number in (user.uid, user.gid, *user.groups):
        assert 0 <= number < 1 << 31


@given(st.binary(max_size=40))
def test_no_damaged_line_makes_a_name_root(rest: bytes) -> None:
    """Only a line with a sound uid of 0 may do that."""
    try:
        user = resolve("evil", (), b"evil:x:" + rest + b"\n", b"")
    except CoracleError:
        return
    assert user.uid != 0 or rest.split(b":")[0].strip(b"0") == b""


# -- reading in layers ----------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> list[Path]:
    """Three layers, topmost first, and a secret outside of them."""
    (tmp_path / "passwd").write_text("outside")
    layers = [tmp_path / name for name in ("top", "middle", "bottom")]
    for layer in layers:
        layer.mkdir()
    return layers


def put(layer: Path, path: str, text: str) -> Path:
    file = layer / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def read(stack: list[Path], path: str = "/etc/passwd") -> bytes | None:
    return read_in_layers([str(layer) for layer in stack], path)


def test_the_topmost_file_wins(stack: list[Path]) -> None:
    put(stack[2], "etc/passwd", "bottom")
    assert read(stack) == b"bottom"
    put(stack[1], "etc/passwd", "middle")
    assert read(stack) == b"middle"
    (stack[0] / "etc").mkdir()
    assert read(stack) == b"middle"


def test_absent(stack: list[Path]) -> None:
    assert read(stack) is None
    assert read([]) is None
    put(stack[1], "etc", "a file instead of a directory")
    put(stack[2], "etc/passwd", "hidden by the file above")
    assert read(stack) is None


def test_a_directory_above_a_file_hides_it(stack: list[Path]) -> None:
    put(stack[1], "etc", "file")
    put(stack[2], "etc/passwd", "hidden")
    put(stack[0], "etc/group", "x")
    assert read(stack) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are device nodes, which only root can make")
@pytest.mark.parametrize("path", ["etc/passwd", "etc"])
def test_whiteouts(stack: list[Path], path: str) -> None:
    put(stack[2], "etc/passwd", "hidden")
    (stack[1] / path).parent.mkdir(exist_ok=True)
    os.mknod(stack[1] / path, 0o600 | 0o020000, os.makedev(0, 0))
    assert read(stack) is None
    put(stack[0], "etc/passwd", "above")
    assert read(stack) == b"above"


def test_opaque_directories(stack: list[Path]) -> None:
    put(stack[2], "etc/passwd", "hidden")
    put(stack[1], "etc/group", "x")
    assert read(stack) == b"hidden"
    try:
        os.setxattr(stack[1] / "etc", "user.overlay.opaque", b"y")
    except OSError:
        pytest.skip("this file system keeps no user.* attributes")
    assert read(stack) is None
    assert read(stack, "/etc/group") == b"x"


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("etc/passwd", "/usr/lib/passwd"),
        ("etc/passwd", "../usr/lib/passwd"),
        ("etc/passwd", "../../../../usr/lib/passwd"),  # ".." stops at the root of the container
        ("etc/passwd", "/usr/./lib//passwd"),
        ("etc", "usr/lib"),
        ("etc", "/usr/lib"),
    ],
)
def test_links_are_resolved_over_the_whole_stack(stack: list[Path], link: str, target: str) -> None:
    put(stack[2], "usr/lib/passwd", "through a link")
    (stack[0] / link).parent.mkdir(exist_ok=True)
    (stack[0] / link).symlink_to(target)
    assert read(stack) == b"through a link"


@pytest.mark.parametrize("target", ["/passwd", "../../passwd", "../../../../../../passwd"])
def test_links_do_not_leave_the_container(stack: list[Path], target: str) -> None:
    (stack[0] / "etc").mkdir()
    (stack[0] / "etc/passwd").symlink_to(target)
    assert read(stack) is None


def test_links_to_the_host_by_absolute_path(stack: list[Path], tmp_path: Path) -> None:
    (stack[0] / "etc").symlink_to(tmp_path)
    assert read(stack) is None
    (stack[0] / "etc").unlink()
    (stack[0] / "etc").symlink_to("/proc/self/root/etc")
    assert read(stack) is None


def test_loops_end(stack: list[Path]) -> None:
    (stack[0] / "etc").mkdir()
    (stack[0] / "etc/passwd").symlink_to("passwd")
    with pytest.raises(ContentError, match="more than 8 symbolic links"):
        read(stack)


def test_eight_links_are_allowed(stack: list[Path]) -> None:
    put(stack[1], "etc/p8", "end")
    for number in range(1, 8):
        (stack[0] / "etc").mkdir(exist_ok=True)
        (stack[0] / f"etc/p{number}").symlink_to(f"p{number + 1}")
    (stack[0] / "etc/passwd").symlink_to("p1")
    assert read(stack) == b"end"


def test_only_regular_files(stack: list[Path]) -> None:
    (stack[0] / "etc/passwd").mkdir(parents=True)
    with pytest.raises(ContentError, match="/etc/passwd of the image is not a regular file"):
        read(stack)
    os.rmdir(stack[0] / "etc/passwd")
    os.mkfifo(stack[0] / "etc/passwd")  # must not block either
    with pytest.raises(ContentError, match="not a regular file"):
        read(stack)


@pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are root's to make")
def test_devices_are_not_read(stack: list[Path]) -> None:
    (stack[0] / "etc").mkdir()
    os.mknod(stack[0] / "etc/passwd", 0o600 | 0o020000, os.makedev(1, 5))
    with pytest.raises(ContentError, match="not a regular file"):
        read(stack)


def test_size_limit(stack: list[Path]) -> None:
    put(stack[0], "etc/passwd", "x" * MAXIMUM_SIZE)
    assert len(read(stack) or b"") == MAXIMUM_SIZE
    put(stack[0], "etc/passwd", "x" * (MAXIMUM_SIZE + 1))
    with pytest.raises(ContentError, match="larger than 1 MiB"):
        read(stack)


def test_missing_layer(stack: list[Path]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KernelError, match=r"^read /etc/passwd of the image: no such file or directory"):
        read([stack[0], stack[0] / "gone"])
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_stays_open(stack: list[Path]) -> None:
    put(stack[2], "usr/lib/passwd", "x")
    put(stack[1], "etc/group", "y")
    (stack[0] / "etc").mkdir()
    (stack[0] / "etc/passwd").symlink_to("../usr/lib/passwd")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/etc/passwd", "/etc/group", "/etc/none", "/etc/group/x", "/none/x"):
        read(stack, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_root_itself(stack: list[Path]) -> None:
    with pytest.raises(ContentError, match="not a regular file"):
        read(stack, "/")


# -- compared with the kernel's own overlay -------------------------------------------------------


def _random_layer(layer: Path, random: Random) -> None:
    """A few of everything that can be at /etc, /etc/passwd, /usr, /usr/passwd and /link."""
    layer.mkdir()
    for directory in ("etc", "usr"):
        what = random.choice(["nothing", "directory", "directory", "directory", "opaque", "whiteout", "file", "link"])
        place = layer / directory
        if what in ("directory", "opaque"):
            place.mkdir()
            if what == "opaque":
                os.setxattr(place, "trusted.overlay.opaque", b"y")
            entry = random.choice(["nothing", "file", "whiteout", "link", "far link", "directory"])
            _random_entry(place / "passwd", entry, random)
        elif what != "nothing":
            _random_entry(place, what, random)
    _random_entry(layer / "link", random.choice(["nothing", "link", "far link", "whiteout"]), random)


def _random_entry(place: Path, what: str, random: Random) -> None:
    if what == "file":
        place.write_text(f"{place} {random.random()}")
    elif what == "directory":
        place.mkdir()
    elif what == "whiteout":
        os.mknod(place, 0o600 | 0o020000, os.makedev(0, 0))
    elif what == "link":
        place.symlink_to(
            random.choice(["usr", "/usr", "etc", "../usr", "passwd", "/link", "../link", "../../usr/passwd"])
        )
    elif what == "far link":
        place.symlink_to(
            random.choice(["/usr/passwd", "../usr/passwd", "/etc/./../usr/passwd", "/etc/passwd", "/none/x"])
        )


def _open_patiently(tree: int, path: str) -> int:
    """openat2(2), again while EAGAIN: ".." cannot be judged while somebody renames or mounts something."""
    for _ in range(1000):
        try:
            return mount.openat2(tree, path, os.O_RDONLY | os.O_NONBLOCK)
        except BlockingIOError:
            continue
    raise AssertionError("this machine renames and mounts all the time")


def _by_kernel(layers: list[str], path: str) -> bytes | str | None:
    """Read ``path`` through a real overlay mount, confined to it as a container is."""
    tree = mount.overlay(layers)
    try:
        fd = _open_patiently(tree, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return "loop" if error.errno == 40 else str(error)
    finally:
        os.close(tree)
    try:
        return os.read(fd, 1 << 16)
    except IsADirectoryError:
        return "not a regular file"
    finally:
        os.close(fd)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays and makes whiteouts, which is root's")
def test_same_as_a_mounted_overlay(tmp_path: Path) -> None:
    seen = set()
    for seed in range(300):
        random = Random(seed)
        layers = [tmp_path / f"{seed}-{name}" for name in ("top", "middle", "bottom")]
        for layer in layers:
            _random_layer(layer, random)
        names = [str(layer) for layer in layers]
        for path in ("/etc/passwd", "/usr/passwd", "/link", "/link/passwd"):
            expected = _by_kernel(names, path)
            try:
                found: bytes | str | None = read_in_layers(names, path)
            except ContentError as error:
                found = "loop" if "symbolic links" in str(error) else "not a regular file"
            assert found == expected, (seed, path)
            seen.add(type(expected) if not isinstance(expected, str) else expected)
    assert seen == {bytes, type(None), "loop", "not a regular file"}
