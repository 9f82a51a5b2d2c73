"""Groups on the kernel at hand: make, join, freeze, kill, delete."""

from __future__ import annotations

import os
import time

import pytest
from cgroup_processes import (  # noqa: F401  (groups is a fixture)
    HIERARCHIES,
    forever,
    fork_forever,
    groups,
    legacy,
    membership,
    needs,
    root,
    ticking,
)

from coracle import record
from coracle.errors import ConflictError, KernelError
from coracle.linux.cgroup import freezer
from coracle.linux.cgroup.group import Cgroup

SERVED = Cgroup("/coracle-test", HIERARCHIES).controllers()
pytestmark = [pytest.mark.root, root]


def limit_processes(group: Cgroup, number: int) -> None:
    wanted = group.limits({"pids": {"limit": number}})
    group.enable()
    for item in wanted:
        item.apply(group.directories, pytest.fail)


def test_join_every_hierarchy(groups) -> None:  # noqa: F811
    group = groups.new()
    pid = groups.child(group, forever)
    joined = membership(pid)
    assert {name: joined[name] for name in group.directories} == dict.fromkeys(group.directories, f"/{group.path}")
    assert group.processes() == [pid]
    assert group.populated
    group.kill()
    assert groups.wait(pid) == -9
    assert group.wait_empty(5)
    assert not group.populated
    group.delete()
    assert not group.exists()
    assert not any(os.path.exists(os.path.dirname(path)) for path in group.directories.values())
    group.delete()


def test_add_moves_a_running_process(groups) -> None:  # noqa: F811
    group, other = groups.new(), groups.new()
    pid = groups.child(group, forever)
    other.add(pid)
    assert (group.processes(), other.processes()) == ([], [pid])
    with pytest.raises(KernelError, match="move process 999999999 to"):
        other.add(999999999)


def test_another_process_finishes_what_the_record_says(groups) -> None:  # noqa: F811
    group = groups.new(create=False)
    group.prepare()
    saved = record.dumps(group.record())  # what a crash right after this would leave
    group.create()
    pid = groups.child(group, forever)
    again = Cgroup.from_record(record.loads(saved))
    assert again.processes() == [pid]
    again.kill()
    groups.wait(pid)
    again.delete()
    assert not group.exists()


@pytest.mark.parametrize("only", [["unified"], ["freezer", "pids"], ["unified", "freezer", "pids"]])
def test_freeze_stops_and_thaw_continues(groups, only) -> None:  # noqa: F811
    if not set(only).issubset(HIERARCHIES.mounts):
        pytest.skip(f"not all of {only} are mounted here")
    group = groups.new(*only)
    with ticking() as (action, ticks):
        groups.child(group, action)
        assert ticks(0.2) > 0
        group.freeze()
        assert group.frozen
        ticks(0.05)  # what was on its way
        assert ticks(0.2) == 0
        group.thaw()
        assert not group.frozen
        assert ticks(0.2) > 0


def test_processes_cannot_join_a_frozen_group_by_surprise(groups) -> None:  # noqa: F811
    group = groups.new()
    group.freeze()
    try:
        below = group.below("x")
        with pytest.raises(ConflictError, match="frozen"):
            below.create()
        assert not below.exists()
        with pytest.raises(ConflictError, match="frozen"):
            Cgroup(f"/{group.path}", HIERARCHIES).create()
    finally:
        group.thaw()


@pytest.mark.skipif("pids" not in SERVED, reason="no pids controller to tame a fork bomb here")
@pytest.mark.parametrize("only", [[], ["freezer", "pids"], ["pids"]], ids=["cgroup.kill", "v1 freezer", "no freezer"])
def test_kill_catches_a_fork_bomb(groups, only) -> None:  # noqa: F811
    if not set(only).issubset(HIERARCHIES.mounts):
        pytest.skip(f"not all of {only} are mounted here")
    group = groups.new(*only)
    limit_processes(group, 30)
    pid = groups.child(group, fork_forever)
    deadline = time.monotonic() + 10
    while len(group.processes()) < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    for _ in range(20 if only == ["pids"] else 1):  # without a freezer one round may lose the race
        group.kill()
        if group.wait_empty(0.5):
            break
    groups.wait(pid)
    assert group.wait_empty(5)
    group.delete()


@needs("freezer")
@pytest.mark.parametrize("frozen_by", ["freezer", "unified"])
def test_kill_of_a_frozen_group(groups, frozen_by) -> None:  # noqa: F811
    if frozen_by not in HIERARCHIES.mounts:
        pytest.skip("cgroup v2 is not mounted here")
    group = groups.new()
    pid = groups.child(group, forever)
    one = Cgroup.from_record(group.record())
    one.restrict([frozen_by])
    one.freeze()
    group.kill()
    assert groups.wait(pid) == -9
    assert not group.frozen


def test_other_signals_reach_every_process(groups) -> None:  # noqa: F811
    group = groups.new()
    pids = [groups.child(group, forever) for _ in range(3)]
    group.kill(15)
    assert [groups.wait(pid) for pid in pids] == [-15] * 3
    assert not group.frozen


def test_delete_with_groups_and_processes_of_the_payload(groups) -> None:  # noqa: F811
    group = groups.new()
    inner = group.below("a/b")
    inner.create()
    group.below("c").create()
    pid = groups.child(inner, forever)
    assert group.processes() == [pid]
    assert group.processes(recursive=False) == []
    with pytest.raises(KernelError, match=rf"processes still in it: {pid}\b") as caught:
        group.delete(0.2)
    assert caught.value.errno == 16
    group.kill()
    groups.wait(pid)
    group.delete()
    assert not group.exists()


def test_delete_of_a_hostile_depth(groups) -> None:  # noqa: F811
    """1400 levels with paths beyond PATH_MAX, as a payload with a writable group can make them."""
    name = "pids" if "pids" in HIERARCHIES.mounts else "unified"
    group = groups.new(name)
    fd = os.open(group.directories[name], os.O_RDONLY)
    try:
        for _ in range(1400):
            os.mkdir("deep", dir_fd=fd)
            deeper = os.open("deep", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
    finally:
        os.close(fd)
    started = time.monotonic()
    group.delete(20)
    assert not group.exists()
    assert time.monotonic() - started < 20


def test_create_refuses_a_group_with_processes(groups) -> None:  # noqa: F811
    group = groups.new()
    groups.child(group, forever)
    again = Cgroup(f"/{group.path}", HIERARCHIES)
    with pytest.raises(ConflictError, match="already has 1 processes"):
        again.create()
    assert group.exists()


@legacy
def test_missing_group_is_harmless(groups) -> None:  # noqa: F811
    group = groups.new(create=False)
    group.kill()
    group.kill(15)
    group.thaw()
    group.delete()
    assert group.wait_empty(1)
    assert (group.processes(), group.frozen, group.oom_kills()) == ([], False, 0)


def test_signals_thaw_when_interrupted(groups, monkeypatch) -> None:  # noqa: F811
    group = groups.new()
    pid = groups.child(group, forever)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(freezer, "_signal_each", interrupted)
    with pytest.raises(KeyboardInterrupt):
        group.kill(15)
    assert not group.frozen
    assert group.processes() == [pid]
