"""Control groups for somebody without root."""

from __future__ import annotations

import os

import pytest
from cgroup_processes import HIERARCHIES, forever, groups, root, unified  # noqa: F401

from coracle.errors import KernelError
from coracle.linux.cgroup import delegation
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import detect

NOBODY = 65534


def as_user(action) -> str:
    """What ``action`` returns when an ordinary user runs it."""
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(send, action().encode())
        except BaseException as error:
            os.write(send, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


@pytest.mark.skipif(not HIERARCHIES.mounts, reason="no cgroup file system is mounted here")
@pytest.mark.skipif(os.geteuid() != 0, reason="a group of our own may be delegated to this user")
def test_nothing_is_delegated_and_the_reasons_are_said() -> None:
    def look() -> str:
        found = delegation.examine(Cgroup("/coracle-test-user/x", detect()))
        return f"{found.writable} {sorted(found.refused)} {found.refused.get('memory', found.refused.get('unified'))}"

    answer = as_user(look)
    assert answer.startswith(f"[] {sorted(HIERARCHIES.mounts)} ")
    assert answer.endswith(f"is not delegated to user {NOBODY}")


@pytest.mark.skipif(not HIERARCHIES.mounts, reason="no cgroup file system is mounted here")
@pytest.mark.skipif(os.geteuid() != 0, reason="a group of our own may be delegated to this user")
def test_create_says_who_could() -> None:
    def create() -> str:
        group = Cgroup(f"/coracle-test-user-{os.getpid()}", detect())
        try:
            group.create()
        except KernelError as error:
            return f"{error} left={group.made}"
        return "made"

    answer = as_user(create)
    assert answer.startswith("make control group /sys/fs/cgroup/")
    assert "permission denied (this group is not delegated to us" in answer
    assert answer.endswith("left=[]")


@pytest.mark.root
@root
@unified
def test_a_delegated_group_can_be_used_by_its_owner(groups) -> None:  # noqa: F811
    """The user makes child groups and moves processes in them, but the limits stay root's."""
    group = groups.new("unified")
    delegation.give(group, NOBODY, NOBODY)
    inside = group.below("theirs")

    def work() -> str:
        found = delegation.examine(inside)
        if found.refused:
            return str(found)
        inside.create()
        # The common ancestor of where we are and where we go is the delegated group itself only if we
        # start inside of it; so the first process is root's to place (cgroups(7), Delegation).
        return f"{inside.made} {os.access(group.directories['unified'] + '/cgroup.procs', os.W_OK)}"

    assert as_user(work) == f"['{inside.directories['unified']}'] True"
    owner = os.stat(group.directories["unified"])
    assert (owner.st_uid, owner.st_gid) == (NOBODY, NOBODY)
    assert os.stat(f"{group.directories['unified']}/cgroup.max.depth").st_uid == 0
    group.delete()
    assert not group.exists()
