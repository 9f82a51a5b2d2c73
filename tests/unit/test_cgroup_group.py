"""Groups on layouts of every kind, in a tree that behaves like cgroup file systems."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest
from cgroup_tree import CgroupTree

from coracle import record
from coracle.errors import ConflictError, KernelError, SpecError
from coracle.linux.cgroup import delegation
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import Hierarchies

LEGACY = ("cpu,cpuacct", "cpuset", "memory", "freezer", "pids")


@pytest.fixture
def v1(tmp_path, monkeypatch):
    return CgroupTree(tmp_path, monkeypatch, LEGACY)


@pytest.fixture
def hybrid(tmp_path, monkeypatch):
    return CgroupTree(tmp_path, monkeypatch, LEGACY, "hugetlb")


@pytest.fixture
def v2(tmp_path, monkeypatch):
    return CgroupTree(tmp_path, monkeypatch, (), "cpu io memory pids")


def directories(tree):
    tops = [*tree.tops, *([tree.unified] if tree.unified else [])]
    return sorted(str(path.relative_to(tree.base)) for top in tops for path in top.rglob("*") if path.is_dir())


# -- paths


def test_absolute_path_is_below_the_mount(hybrid) -> None:
    group = Cgroup("/a//b/./c", hybrid.hierarchies("/mine"))
    assert group.path == "a/b/c"
    assert group.directories["memory"] == f"{hybrid.base}/memory/a/b/c"
    assert group.unified_directory() == f"{hybrid.base}/unified/a/b/c"
    assert group.directories["cpu"] == group.directories["cpuacct"] == f"{hybrid.base}/cpu,cpuacct/a/b/c"


def test_relative_path_is_below_our_own_group(hybrid) -> None:
    group = Cgroup("b/c", hybrid.hierarchies("/mine"))
    assert set(group.directories.values()) == {
        *(f"{top}/mine/b/c" for top in hybrid.tops),
        f"{hybrid.unified}/mine/b/c",
    }


def test_relative_path_on_v2_is_beside_us(v2) -> None:
    assert Cgroup("b", v2.hierarchies("/user/session")).unified_directory() == f"{v2.unified}/user/b"
    assert Cgroup("b", v2.hierarchies("/")).unified_directory() == f"{v2.unified}/b"


@pytest.mark.parametrize("path", ["", "/", ".", "//.", "a/../b", "/..", "a\nb"])
def test_bad_paths(path) -> None:
    with pytest.raises(SpecError, match=r"linux.cgroupsPath"):
        Cgroup(path, Hierarchies({}, {}))


def test_below_refuses_to_leave(v1) -> None:
    group = Cgroup("/a", v1.hierarchies())
    assert group.below("x/y").directories["memory"] == f"{v1.base}/memory/a/x/y"
    with pytest.raises(SpecError):
        group.below("../b")


# -- create and delete


def test_create_and_delete_v1(v1) -> None:
    group = Cgroup("/a/b", v1.hierarchies())
    planned = list(group.prepare())
    group.create()
    assert group.made == planned
    assert directories(v1) == sorted(f"{top}/a{end}" for top in LEGACY for end in ("", "/b"))
    assert (v1.base / "cpuset/a/b/cpuset.cpus").read_text() == "0-3\n"
    assert (v1.base / "cpuset/a/b/cpuset.mems").read_text() == "0\n"
    group.delete()
    assert directories(v1) == []
    group.delete()


def test_cpuset_is_inherited_through_an_empty_parent(v1) -> None:
    os.mkdir(v1.base / "cpuset/a")
    (v1.base / "cpuset/a/cpuset.mems").write_text("0\n")
    Cgroup("/a/b", v1.hierarchies()).create()
    assert (v1.base / "cpuset/a/cpuset.cpus").read_text() == "0-3\n"
    assert (v1.base / "cpuset/a/b/cpuset.cpus").read_text() == "0-3\n"
    written = [path for path, _ in v1.written]
    assert "cpuset/a/cpuset.mems" not in written


def test_delete_leaves_what_was_there_before(hybrid) -> None:
    os.mkdir(hybrid.base / "memory/a")
    os.mkdir(hybrid.base / "memory/a/b")
    group = Cgroup("/a/b", hybrid.hierarchies())
    group.create()
    group.delete()
    assert directories(hybrid) == ["memory/a", "memory/a/b"]


def test_delete_keeps_a_parent_that_others_use(v1) -> None:
    first, second = Cgroup("/pod/1", v1.hierarchies()), Cgroup("/pod/2", v1.hierarchies())
    first.create()
    second.create()
    first.delete()
    assert (v1.base / "memory/pod/2").exists()
    assert not (v1.base / "memory/pod/1").exists()
    second.delete()
    assert directories(v1) == sorted(f"{top}/pod" for top in LEGACY)  # not made by the second


def test_delete_removes_what_the_payload_made(v2) -> None:
    group = Cgroup("/a", v2.hierarchies())
    group.create()
    for path in ("x", "x/y", "z"):
        os.mkdir(v2.unified / "a" / path)
    group.delete()
    assert directories(v2) == []


def test_delete_gives_up_in_time_and_names_the_processes(v2) -> None:
    group = Cgroup("/a", v2.hierarchies())
    group.create()
    os.mkdir(v2.unified / "a/x")
    (v2.unified / "a/x/cgroup.procs").write_text("4711\n4712\n")
    with pytest.raises(KernelError, match=r"device or resource busy \(processes still in it: 4711 4712\)") as caught:
        group.delete(0.05)
    assert caught.value.errno == errno.EBUSY
    (v2.unified / "a/x/cgroup.procs").write_text("")
    group.delete(0.05)
    assert directories(v2) == []


def test_delete_survives_a_hostile_depth(tmp_path, monkeypatch) -> None:
    """Deeper than PATH_MAX allows a path to be, and than Python allows recursion."""
    depth = 1500
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("dd", dir_fd=fd)
        deeper = os.open("dd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    group = Cgroup("/top", Hierarchies({"pids": str(tmp_path)}, {"pids": "/"}))
    group.made = [str(top)]
    group.delete(30)
    assert not top.exists()


def test_parent_that_vanishes_meanwhile_is_made_again(v1) -> None:
    group = Cgroup("/pod/2", v1.hierarchies())
    os.mkdir(v1.base / "memory/pod")
    group.prepare()
    shutil.rmtree(v1.base / "memory/pod")
    group.create()
    assert (v1.base / "memory/pod/2").exists()
    group.delete()
    assert directories(v1) == []


def test_failure_half_way_leaves_nothing(v1, monkeypatch) -> None:
    group = Cgroup("/a/b", v1.hierarchies())

    def full(path, *rest, **named):
        if str(path).endswith("memory/a/b"):
            raise OSError(errno.ENOSPC, "full", path)
        v1.mkdir(path, *rest, **named)

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(
        KernelError, match=r"make control group .*memory/a/b: no space left on device \(the kernel has no more"
    ):
        group.create()
    assert directories(v1) == []


def test_two_at_once_do_not_remove_each_others_group(v1) -> None:
    mine, theirs = Cgroup("/a", v1.hierarchies()), Cgroup("/a", v1.hierarchies())
    mine.prepare()
    theirs.prepare()
    theirs.create()
    with pytest.raises(ConflictError, match="was made by someone else just now"):
        mine.create()
    assert (v1.base / "pids/a").exists()
    mine.delete()
    assert (v1.base / "pids/a").exists()


def test_occupied_group_is_refused(v1) -> None:
    os.mkdir(v1.base / "pids/a")
    (v1.base / "pids/a/cgroup.procs").write_text("1\n2\n")
    with pytest.raises(ConflictError, match="pids/a already has 2 processes"):
        Cgroup("/a", v1.hierarchies()).create()
    assert directories(v1) == ["pids/a"]


@pytest.mark.parametrize(
    ("file", "text"), [("freezer/a/freezer.state", "FREEZING\n"), ("unified/a/cgroup.events", "frozen 1\n")]
)
def test_frozen_group_is_refused(hybrid, file, text) -> None:
    group = Cgroup("/a", hybrid.hierarchies())
    for top in (*hybrid.tops, hybrid.unified):
        os.mkdir(top / "a")
    (hybrid.base / file).write_text(text)
    with pytest.raises(ConflictError, match="frozen"):
        group.create()


def test_record_survives_json_and_another_process(hybrid) -> None:
    group = Cgroup("/a/b", hybrid.hierarchies())
    planned = list(group.prepare())
    text = record.dumps(group.record())
    group.create()
    again = Cgroup.from_record(record.loads(text))
    assert again.record() == group.record()
    assert again.made == planned
    again.delete()
    assert directories(hybrid) == []


# -- version 2 controllers


def test_v2_controllers_are_enabled_down_to_the_parent(v2) -> None:
    group = Cgroup("/a/b", v2.hierarchies())
    assert group.controllers() == {
        "cpu": "unified",
        "blkio": "unified",
        "memory": "unified",
        "pids": "unified",
        "devices": "unified",
        "cpuacct": "unified",
        "freezer": "unified",
    }
    wanted = group.limits({"memory": {"limit": 64}, "blockIO": {"weight": 100}})
    assert group.required == {"memory", "io"}
    group.create()
    assert [path for path, _ in v2.written] == ["cgroup/cgroup.subtree_control", "cgroup/a/cgroup.subtree_control"]
    assert (v2.unified / "a/b/cgroup.subtree_control").read_text() == ""
    for item in wanted:
        item.apply(group.directories, pytest.fail)
    assert (v2.unified / "a/b/memory.max").read_text() == "64\n"
    assert (v2.unified / "a/b/io.weight").read_text() == "910\n"
    v2.written.clear()
    Cgroup("/a/c", v2.hierarchies()).create()
    assert v2.written == []  # all there already


def test_v2_parent_with_processes(v2) -> None:
    os.mkdir(v2.unified / "a")
    (v2.unified / "a/cgroup.procs").write_text("7\n")
    limited = Cgroup("/a/b", v2.hierarchies())
    limited.limits({"memory": {"limit": 64}})
    with pytest.raises(KernelError, match=r"enable the memory controller in .*processes in .*/a itself forbid it"):
        limited.create()
    Cgroup("/a/b", v2.hierarchies()).create()  # nothing required: as good as it gets


def test_hybrid_enables_only_what_is_required(hybrid) -> None:
    group = Cgroup("/a", hybrid.hierarchies())
    assert group.controllers()["hugetlb"] == "unified"
    assert group.controllers()["memory"] == "memory"
    group.create()
    assert (hybrid.unified / "cgroup.subtree_control").read_text() == ""
    group.delete()
    again = Cgroup("/a", hybrid.hierarchies())
    again.limits({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "unified": {"cgroup.max.depth": "1"}})
    again.create()
    assert (hybrid.unified / "cgroup.subtree_control").read_text() == "hugetlb"


def test_an_update_may_need_another_controller(hybrid) -> None:
    group = Cgroup("/a", hybrid.hierarchies())
    group.create()
    found = Cgroup.from_record(group.record())
    found.limits({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, updating=True)
    found.enable()
    assert (hybrid.unified / "cgroup.subtree_control").read_text() == "hugetlb"


def test_controllers_that_a_read_only_parent_withholds(v2, monkeypatch) -> None:
    os.mkdir(v2.unified / "user")
    (v2.unified / "cgroup.subtree_control").write_text("memory pids")
    real = os.access
    top = f"{v2.unified}/cgroup.subtree_control"
    monkeypatch.setattr(os, "access", lambda path, mode, **rest: path != top and real(path, mode, **rest))
    served = Cgroup("/user/x", v2.hierarchies()).controllers()
    assert "memory" in served and "cpu" not in served


# -- the same as shell lines


@pytest.mark.parametrize("kind", ["v1", "hybrid"])
def test_shell_makes_and_removes_the_same(kind, request) -> None:
    tree = request.getfixturevalue(kind)
    group = Cgroup("/a b/c", tree.hierarchies())
    creation, deletion = group.create_shell(), group.delete_shell()
    group.create()
    wanted = directories(tree)
    for top in tree.tops:
        shutil.rmtree(top / "a b")
    if tree.unified:
        shutil.rmtree(tree.unified / "a b")
    subprocess.run(["sh", "-ec", "\n".join(line for line in creation if line.startswith("mkdir"))], check=True)
    assert directories(tree) == wanted
    subprocess.run(["sh", "-ec", "\n".join(deletion)], check=True)
    assert directories(tree) == []


def test_shell_passes_controllers_on(v2) -> None:
    lines = Cgroup("/a/b", v2.hierarchies()).create_shell()
    assert lines[0] == f"mkdir -p {v2.unified}/a/b"
    assert f"echo +memory > {v2.unified}/cgroup.subtree_control" in lines
    assert f"echo +memory > {v2.unified}/a/cgroup.subtree_control" in lines
    assert not any("/a/b/cgroup" in line for line in lines)


# -- joining and listing


def test_join_files(hybrid) -> None:
    group = Cgroup("/a", hybrid.hierarchies())
    legacy = [f"{top}/a/tasks" for top in hybrid.tops]
    assert group.join_files() == legacy
    assert group.join_files(unified=True) == [*legacy, f"{hybrid.unified}/a/cgroup.procs"]


def test_processes_skip_foreign_ones_and_walk_down(v2) -> None:
    group = Cgroup("/a", v2.hierarchies())
    group.create()
    os.mkdir(v2.unified / "a/x")
    (v2.unified / "a/cgroup.procs").write_text("30\n0\n")
    (v2.unified / "a/x/cgroup.procs").write_text("7\n")
    assert group.processes() == [7, 30]
    assert group.processes(recursive=False) == [30]
    assert Cgroup("/gone", v2.hierarchies()).processes() == []


def test_freeze_times_out_and_thaws(v2, monkeypatch) -> None:
    group = Cgroup("/a", v2.hierarchies())
    group.create()
    monkeypatch.setattr(v2, "refuse", {})
    real = v2.write
    stuck: list[str] = []

    def never_frozen(path, value):
        if path.endswith("cgroup.freeze"):
            stuck.append(value)
        else:
            real(path, value)

    monkeypatch.setattr("coracle.linux.cgroup.files.write", never_frozen)
    with pytest.raises(KernelError, match="uninterruptible") as caught:
        group.freeze(0.05)
    assert caught.value.errno == errno.EBUSY
    assert stuck == ["1", "0"]


def test_freeze_without_any_freezer(tmp_path, monkeypatch) -> None:
    tree = CgroupTree(tmp_path, monkeypatch, ("memory",))
    group = Cgroup("/a", tree.hierarchies())
    group.create()
    with pytest.raises(KernelError, match="needs cgroup v2"):
        group.freeze()
    assert not group.frozen


def test_kill_v1_thaws_even_if_a_signal_is_refused(v1, monkeypatch) -> None:
    group = Cgroup("/a", v1.hierarchies())
    group.create()
    (v1.base / "pids/a/cgroup.procs").write_text("30\n")

    def refused(pid, signal):
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "kill", refused)
    with pytest.raises(KernelError, match="send signal 9 to process 30"):
        group.kill()
    states = [value for path, value in v1.written if path.endswith("freezer.state")]
    assert states == ["FROZEN", "THAWED"]
    assert (v1.base / "freezer/a/freezer.state").read_text() == "THAWED\n"


def test_kill_of_a_missing_group_is_fine(hybrid) -> None:
    Cgroup("/gone", hybrid.hierarchies()).kill()


# -- delegation


def test_delegation_names_what_is_refused(hybrid, monkeypatch) -> None:
    group = Cgroup("/a/b", hybrid.hierarchies())
    assert delegation.delegated(group)
    allowed = str(hybrid.unified)
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode, **rest: str(path).startswith(allowed) and real(path, mode, **rest)
    )
    found = delegation.examine(group)
    assert found.writable == ["unified"]
    assert sorted(found.refused) == ["cpu", "cpuacct", "cpuset", "freezer", "memory", "pids"]
    assert "is not delegated to user" in found.refused["memory"]
    assert not delegation.delegated(group)
    group.restrict(found.writable)
    group.create()
    assert directories(hybrid) == ["unified/a", "unified/a/b"]


def test_group_restricted_to_nothing_does_nothing(v1) -> None:
    group = Cgroup("/a", v1.hierarchies())
    group.restrict([])
    group.create()
    assert (group.processes(), group.join_files(), group.frozen, group.populated, group.exists()) == (
        [],
        [],
        False,
        False,
        False,
    )
    assert group.controllers() == {}
    group.kill()
    group.delete()
    assert directories(v1) == []
