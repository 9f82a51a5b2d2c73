"""Cache allocation groups, on a directory that stands for resctrl: this kind of file system needs a CPU that has it."""

from __future__ import annotations

import pytest

from coracle.errors import SpecError, UnsupportedError
from coracle.runtime.plan.resources import resctrl_mount
from coracle.runtime.steps.affinity import cpu_set
from coracle.runtime.steps.rdt import JoinRdt, RdtGroup
from coracle.step import World


def test_group_is_made_filled_joined_and_taken_back(tmp_path):
    world = World(pytest.fail)
    path = tmp_path / "web"
    path.mkdir()
    (path / "schemata").write_text("")
    monitoring = path / "mon"
    group = RdtGroup(str(path), ["L3:0=f", "MB:0=50"], str(monitoring), "linux.intelRdt")
    group.do(world)
    assert (path / "schemata").read_text() == "L3:0=f\nMB:0=50\n"
    for directory in (path, monitoring):
        (directory / "tasks").write_text("")
    world.pids["child"] = 4711
    JoinRdt([str(path), str(monitoring)], "linux.intelRdt").do(world)
    assert (path / "tasks").read_text() == (monitoring / "tasks").read_text() == "4711"
    (monitoring / "tasks").unlink()
    group.undo(world)
    assert path.is_dir() and not monitoring.exists(), "only what was made is removed"


def test_without_resctrl_the_error_says_how_to_get_it(tmp_path):
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    with pytest.raises(UnsupportedError, match="mount -t resctrl"):
        resctrl_mount(str(mountinfo))
    mountinfo.write_text("22 1 0:5 / /sys/fs/resctrl rw - resctrl resctrl rw\n")
    assert resctrl_mount(str(mountinfo)) == "/sys/fs/resctrl"


@pytest.mark.parametrize(("text", "cpus"), [("0", {0}), ("0-2,5", {0, 1, 2, 5}), (" 1 , 3 ", {1, 3})])
def test_cpu_sets(text, cpus):
    assert cpu_set(text, "where") == cpus


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1,,2", "99999"])
def test_wrong_cpu_sets_name_their_place(text):
    with pytest.raises(SpecError, match=r"process\.execCPUAffinity"):
        cpu_set(text, "process.execCPUAffinity.initial")
