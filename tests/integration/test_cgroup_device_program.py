"""The eBPF device filter, loaded, attached and obeyed by the real kernel."""

from __future__ import annotations

import os

import pytest
from cgroup_processes import groups, root, unified  # noqa: F401

from coracle.errors import KernelError
from coracle.linux.cgroup import device_program
from coracle.linux.cgroup.devices import STANDARD, DeviceFilter, rules
from coracle.linux.cgroup.settings import settings

pytestmark = [pytest.mark.root, root, unified]

DENY_ALL = {"allow": False, "access": "rwm"}
NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"}
ZERO_READ = {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"}


def use(group, section):
    (item,) = settings({"devices": section}, group.controllers())
    assert isinstance(item, DeviceFilter)
    item.apply(group.directories, pytest.fail)


def attached(group):
    fd = os.open(group.directories["unified"], os.O_RDONLY)
    try:
        return device_program.attached(fd)
    finally:
        os.close(fd)


def opens(groups, group, path, flags):  # noqa: F811
    def attempt() -> int:
        try:
            os.open(path, flags)
        except PermissionError:
            return 1
        return 0

    status = groups.run(group, attempt)
    assert status in (0, 1)
    return status == 0


def test_rules_hold(groups) -> None:  # noqa: F811
    group = groups.new("unified")
    assert opens(groups, group, "/dev/zero", os.O_RDWR)
    use(group, [DENY_ALL, NULL, ZERO_READ])
    assert opens(groups, group, "/dev/null", os.O_RDWR)
    assert opens(groups, group, "/dev/zero", os.O_RDONLY)
    assert not opens(groups, group, "/dev/zero", os.O_WRONLY)
    assert not opens(groups, group, "/dev/zero", os.O_RDWR)
    assert not opens(groups, group, "/dev/full", os.O_RDONLY)


def test_mknod_is_an_access_of_its_own(groups, tmp_path) -> None:  # noqa: F811
    group = groups.new("unified")
    use(group, [DENY_ALL, {"allow": True, "type": "c", "access": "m"}])

    def make() -> int:
        os.mknod(tmp_path / "char", 0o20600, os.makedev(1, 5))
        try:
            os.mknod(tmp_path / "block", 0o60600, os.makedev(7, 0))
        except PermissionError:
            return 7
        return 8

    assert groups.run(group, make) == 7
    assert not opens(groups, group, tmp_path / "char", os.O_RDONLY)


def test_update_replaces_and_leaves_one_program(groups) -> None:  # noqa: F811
    group = groups.new("unified")
    use(group, [DENY_ALL])
    (first,) = attached(group)
    assert not opens(groups, group, "/dev/zero", os.O_RDONLY)
    use(group, [DENY_ALL, ZERO_READ])
    (second,) = attached(group)
    assert second != first
    assert opens(groups, group, "/dev/zero", os.O_RDONLY)


def test_update_without_atomic_replacement(groups, monkeypatch) -> None:  # noqa: F811
    """Kernels before 5.6."""
    monkeypatch.setattr(device_program, "_replace", lambda *_: False)
    group = groups.new("unified")
    use(group, [DENY_ALL])
    use(group, [DENY_ALL, ZERO_READ])
    assert len(attached(group)) == 1
    assert opens(groups, group, "/dev/zero", os.O_RDONLY)


def test_programs_of_others_stay_and_have_their_say(groups, monkeypatch) -> None:  # noqa: F811
    group = groups.new("unified")
    monkeypatch.setattr(device_program, "NAME", b"somebody_else")
    use(group, [DENY_ALL, NULL])
    theirs = attached(group)
    monkeypatch.undo()
    use(group, [DENY_ALL, NULL, ZERO_READ])
    use(group, [DENY_ALL, ZERO_READ])
    assert len(attached(group)) == 2
    assert set(theirs) < set(attached(group))
    assert not opens(groups, group, "/dev/zero", os.O_RDONLY)  # they refuse
    assert not opens(groups, group, "/dev/null", os.O_RDONLY)  # we refuse


def test_the_verifier_takes_what_a_container_has_and_far_more(groups) -> None:  # noqa: F811
    group = groups.new("unified")
    use(group, [DENY_ALL, *STANDARD])
    assert opens(groups, group, "/dev/urandom", os.O_RDONLY)
    many = [
        {"allow": True, "type": "b", "major": 100 + at // 256, "minor": at % 256, "access": "r"} for at in range(500)
    ]
    use(group, [DENY_ALL, *many, NULL])
    assert opens(groups, group, "/dev/null", os.O_RDWR)


def test_a_bad_program_is_refused_with_the_verifiers_reason() -> None:
    with pytest.raises(OSError, match=r"denied: .*R0 !read_ok"):
        device_program.load(b"\x95" + bytes(7))  # exit without a result


def test_a_group_that_is_gone(groups) -> None:  # noqa: F811
    group = groups.new("unified", create=False)
    with pytest.raises(KernelError, match="attach an eBPF program with 1 device rules"):
        use(group, [DENY_ALL])


def test_no_descriptor_leaks(groups) -> None:  # noqa: F811
    group = groups.new("unified")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        device_program.attach(group.directories["unified"], device_program.build(rules([DENY_ALL])))
    assert len(os.listdir("/proc/self/fd")) == before
