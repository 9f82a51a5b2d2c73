"""coracle doctor: every check on the real kernel; nothing stays, nothing hangs, and the page tells the fix."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coracle.engine import rootless
from coracle.engine.doctor import (
    CHECKS,
    Check,
    Finding,
    Result,
    Subject,
    examine,
    groups,
    kernel,
    probe,
    render,
    rights,
    storage,
    subject,
    summary,
    tools,
    worst,
)
from coracle.engine.doctor import check as checks
from coracle.errors import CoracleError
from coracle.paths import Paths

USER = Subject(Paths("/none/root", "/none/run"), 54321, "somebody")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(str(tmp_path / "deep" / "root"), str(tmp_path / "run"))


# -- all checks on this machine -------------------------------------------------------------------


def traces() -> tuple[object, ...]:
    """What could be left behind: mounts, descriptors, children, namespaces, control groups."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = file.read()
    names = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time", "pid_for_children", "time_for_children")
    spaces = [os.readlink(f"/proc/self/ns/{name}") for name in names]
    children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True).stdout
    return mounts, sorted(os.listdir("/proc/self/fd")), spaces, sorted(set(children.split()) - {"ps"})


def test_everything_is_examined_and_nothing_stays(paths: Paths, tmp_path: Path) -> None:
    before = traces()
    started = time.monotonic()
    results = list(examine(paths))
    assert time.monotonic() - started < 30
    assert [result.name for result in results] == [check.name for check in CHECKS]
    assert list(tmp_path.iterdir()) == [] and storage.leftovers(subject(paths)) == []
    assert traces() == before
    for result in results:
        assert result.found and "could not be examined" not in result.found, result
        assert (result.status == checks.OK) == (not result.fix), result


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes an ordinary user, which only root can")
def test_an_ordinary_user_is_told_the_truth(tmp_path: Path) -> None:
    """The checks as user 54321, compared with what this user can really do."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 54321, 54321)
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        os.chmod(directory, 0o711)
    code = (
        "from coracle.engine.doctor import examine; from coracle.paths import Paths; from coracle.record import dumps\n"
        "print(dumps([result.fields() for result in examine(Paths())]))"
    )
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "/usr/bin/python3", "-B", "-c", code],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip("the source tree cannot be read by other users")
    import json

    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    can = subprocess.run(
        ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "unshare", "--user", "--map-root-user", "true"],
        capture_output=True,
    )
    assert (found["user namespaces"]["status"] == "ok") == (can.returncode == 0)
    assert "usermod --add-subuids" in found["subordinate ids"]["fix"]
    assert found["store"]["found"].startswith(f"{home}/.local/share/coracle on ")
    assert list(home.rglob("*")) == []


def test_a_broken_check_is_a_finding(paths: Paths) -> None:
    def broken(_subject: Subject) -> Finding:
        raise PermissionError(errno.EACCES, "permission denied", "/some/file")

    def refused(_subject: Subject) -> Finding:
        raise CoracleError("no luck", "try again")

    rows = (Check("g", "a", "x", broken), Check("g", "b", "x", refused))
    first, second = examine(paths, rows)
    assert (first.status, first.found) == ("degraded", "could not be examined: permission denied (/some/file)")
    assert (second.found, second.fix) == ("could not be examined: no luck", "try again")


# -- the children ---------------------------------------------------------------------------------


def test_values_and_errors_come_back() -> None:
    assert probe.in_child(lambda: "text with \0 and é") == "text with \0 and é"

    def fail() -> str:
        raise OSError(errno.ENOSPC, "full", "/there")

    def refuse() -> str:
        raise CoracleError("refused", "hint")

    with pytest.raises(OSError, match="No space left") as caught:
        probe.in_child(fail)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/there")
    with pytest.raises(CoracleError, match="refused"):
        probe.in_child(refuse)


def test_a_child_that_dies_without_a_word() -> None:
    def die() -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    with pytest.raises(OSError) as caught:
        probe.in_child(die)
    assert caught.value.errno == errno.EIO


def test_a_child_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pids"

    def hang() -> str:
        grandchild = os.fork()
        if grandchild == 0:
            time.sleep(60)
            os._exit(0)
        note.write_text(f"{os.getpid()} {grandchild}")
        time.sleep(60)
        return ""

    started = time.monotonic()
    with pytest.raises(probe.TimedOut):
        probe.in_child(hang, timeout=0.5)
    assert time.monotonic() - started < 5
    child, grandchild = map(int, note.read_text().split())
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and _running(grandchild):
        time.sleep(0.01)
    assert not _running(child) and not _running(grandchild)


def _running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- single checks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "status"),
    [("6.18.44-fc", "ok"), ("6.5", "ok"), ("6.4.0", "degraded"), ("5.12.0-arch1", "degraded"), ("5.11.22", "missing"),
     ("4.18.0-553.el8", "missing"), ("6.6+", "ok")],
)  # fmt: skip
def test_kernel_versions(monkeypatch: pytest.MonkeyPatch, release: str, status: str) -> None:
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((real.sysname, "n", release, "v", real.machine)))
    assert kernel.version(USER).status == status


@pytest.mark.parametrize(
    ("kind", "number", "fix"),
    [
        ("network", errno.ENOSPC, "sysctl -w user.max_net_namespaces=15000"),
        ("time", errno.EINVAL, "a kernel with CONFIG_TIME_NS=y"),
        ("pid", errno.EPERM, "run outside of the sandbox"),
    ],
)
def test_what_to_do_about_a_namespace(monkeypatch: pytest.MonkeyPatch, kind: str, number: int, fix: str) -> None:
    def fail(_function: Callable[[], str]) -> str:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(probe, "in_child", fail)
    found = kernel.one_namespace(kind)(USER)
    assert found.status == ("degraded" if kind == "time" else "missing") and found.fix.startswith(fix)


@pytest.mark.parametrize(
    ("ranges", "status", "words"),
    [
        ({"u": [], "g": []}, "degraded", "none"),
        ({"u": [(100000, 65536)], "g": []}, "degraded", "none"),
        ({"u": [(100000, 1000)], "g": [(100000, 65536)]}, "degraded", "1000 of the usual 65536"),
        ({"u": [(1, 65536), (9, 9)], "g": [(1, 65536)]}, "ok", "65545 users and 65536 groups"),
    ],
)
def test_subordinate_ids(
    monkeypatch: pytest.MonkeyPatch, ranges: dict[str, list[tuple[int, int]]], status: str, words: str
) -> None:
    monkeypatch.setattr(rootless, "subordinate_ids", lambda path, owners: ranges[path[8]])
    found = rights.subordinate_ids(USER)
    assert found.status == status and found.found.startswith(words)
    assert not found.fix or found.fix.endswith("--add-subgids 100000-165535 somebody")


def test_switches_are_named_with_their_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"/proc/sys/kernel/unprivileged_userns_clone": "0", "/proc/sys/user/max_user_namespaces": "9"}
    monkeypatch.setattr(rights, "first_line", lambda path: values.get(path, ""))

    def fail(_function: Callable[[], str]) -> str:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(probe, "in_child", fail)
    found = rights.user_namespaces(USER)
    assert found.status == "missing" and "kernel.unprivileged_userns_clone = 0" in found.found
    assert found.fix == "sysctl -w kernel.unprivileged_userns_clone=1"


def test_missing_capabilities_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from coracle.linux import capability

    root = Subject(USER.paths, 0, "root")

    def holds(mask: int) -> None:
        monkeypatch.setattr(capability, "own", lambda: capability.Sets(0, mask, mask, mask, 0))

    holds(capability.ALL)
    assert rights.capabilities(root).status == "ok"
    holds(capability.ALL & ~(1 << 24))
    assert "without CAP_SYS_RESOURCE" in rights.capabilities(root).found
    holds(capability.ALL & ~(1 << 21))
    assert rights.capabilities(root).status == "missing" and "CAP_SYS_ADMIN" in rights.capabilities(root).found
    assert rights.capabilities(USER).status == "ok"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("ID=debian\n", "apt install uidmap"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf install shadow-utils"),
        ("ID=arch\n", "pacman -S shadow"),
        ("ID=alpine\n", "apk add shadow-uidmap"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper install shadow"),
        ("ID=unheard-of\n", "apt install uidmap"),
        ("", "apt install uidmap"),
    ],
)
def test_packages(tmp_path: Path, text: str, command: str) -> None:
    file = tmp_path / "os-release"
    file.write_text(text)
    assert tools.install("uidmap", str(file)) == command
    assert tools.install("nftables", str(file)).endswith(" nftables")


def test_tools() -> None:
    assert tools.tool("sh", "dash", "nothing works")(USER).status == "ok"
    found = tools.tool("no-such-program", "some-package", "nothing works")(USER)
    assert found.status == "degraded" and found.found == "not installed: nothing works" and "some-package" in found.fix


def test_nearest_directory(tmp_path: Path) -> None:
    assert storage.existing(str(tmp_path / "a" / "b")) == str(tmp_path)
    assert storage.existing("/") == "/"


def test_file_systems() -> None:
    assert storage.file_system("/proc")[0] == "proc"
    assert storage.file_system("/dev/null")[1] in ("/dev", "/dev/null")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_store_that_cannot_be_written() -> None:
    found = storage.store(Subject(Paths("/etc/coracle", "/etc/coracle"), os.geteuid(), "me"))
    assert found.status == "missing" and "CORACLE_ROOT" in found.fix


def test_a_read_only_store() -> None:
    found = storage.store(Subject(Paths("/proc/sys/x", "/x"), 1, "me"))
    assert found.status in ("missing", "degraded")  # not writable, or noexec, as /proc usually is


def test_scratch_removes_even_closed_directories(tmp_path: Path) -> None:
    me = Subject(Paths(str(tmp_path), str(tmp_path)), os.geteuid(), "me")
    with storage.scratch(me) as base:
        (Path(base) / "work" / "work").mkdir(parents=True)
        (Path(base) / "work" / "work" / "file").write_text("x")
        (Path(base) / "link").symlink_to("/etc")
        os.chmod(Path(base) / "work" / "work", 0)
        assert storage.leftovers(me) == [base]
    assert list(tmp_path.iterdir()) == [] and os.path.isdir("/etc")


def test_scratch_removes_after_a_failure(tmp_path: Path) -> None:
    me = Subject(Paths(str(tmp_path), str(tmp_path)), os.geteuid(), "me")
    with pytest.raises(RuntimeError), storage.scratch(me):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_control_groups_of_a_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from coracle.linux.cgroup.hierarchy import Hierarchies

    own = tmp_path / "user.slice"
    own.mkdir()

    def machine(*, handed: str) -> None:
        (own / "cgroup.controllers").write_text(handed)
        monkeypatch.setattr(
            groups, "detect", lambda: Hierarchies({"unified": str(tmp_path)}, {"unified": "/user.slice"})
        )

    machine(handed="cpu io memory pids\n")
    assert groups.delegation(USER).found == "this user has cpu, io, memory, pids"
    machine(handed="memory pids\n")
    found = groups.delegation(USER)
    assert found.status == "degraded" and found.found == "not handed to this user: cpu"
    assert "Delegate=cpu cpuset io memory pids" in found.fix
    monkeypatch.setattr(groups, "detect", lambda: Hierarchies({"memory": "/m"}, {"memory": "/"}))
    assert "systemd.unified_cgroup_hierarchy=1" in groups.delegation(USER).fix
    monkeypatch.setattr(groups, "detect", lambda: Hierarchies({}, {}))
    assert groups.kind(USER).status == "degraded" and groups.controllers(USER).status == "degraded"


# -- the page -------------------------------------------------------------------------------------

RESULTS = [
    Result("Kernel", "version", "everything", "ok", "Linux 6.18", ""),
    Result("Kernel", "time", "--time-offset", "degraded", "cannot be made", "a kernel with CONFIG_TIME_NS=y"),
    Result("Storage", "overlay", "sharing", "missing", "none " * 30, "modprobe overlay"),
]


def test_page() -> None:
    page = render(RESULTS[:2], width=60)
    assert page == (
        "Kernel:\n"
        "  ok        version: Linux 6.18\n"
        "  degraded  time: cannot be made\n"
        "            for: --time-offset\n"
        "            fix: a kernel with CONFIG_TIME_NS=y\n"
        "\n"
        "containers can run; 1 of 2 checks found something missing\n"
    )


def test_page_in_other_forms() -> None:
    short = render(RESULTS, width=60, everything=False)
    assert "version" not in short and "Storage:" in short and "  MISSING   overlay: none" in short
    assert max(map(len, short.splitlines())) <= 60
    assert "\x1b[31mMISSING\x1b[0m" in render(RESULTS, colour=True) and "\x1b" not in short


def test_verdicts() -> None:
    assert summary(RESULTS) == "containers cannot run here: 1 of 3 checks failed"
    assert summary(RESULTS[:1]) == "containers can run; all 1 checks passed"
    assert [worst(RESULTS[:count]) for count in range(4)] == ["ok", "ok", "degraded", "missing"]


def test_names_are_unique_and_every_check_says_what_for() -> None:
    assert len({(check.group, check.name) for check in CHECKS}) == len(CHECKS)
    assert all(check.purpose for check in CHECKS)


def test_doctor_is_not_on_the_start_path() -> None:
    code = "import coracle.engine.container_spec, sys; print('coracle.engine.doctor' in sys.modules)"
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
