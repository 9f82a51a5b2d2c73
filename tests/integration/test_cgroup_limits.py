"""Limits that the kernel really enforces, and reads back."""

from __future__ import annotations

import mmap
import os
import select
import subprocess
import time

import pytest
from cgroup_processes import (  # noqa: F401  (groups is a fixture)
    HIERARCHIES,
    forever,
    groups,
    legacy,
    needs,
    needs_unified,
    root,
    unified,
)

from coracle.errors import CoracleError, KernelError, UnsupportedError
from coracle.linux.cgroup import files
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.oom import OomWatch

pytestmark = [pytest.mark.root, root]
MIB = 1 << 20
SERVED = Cgroup("/coracle-test", HIERARCHIES).controllers()
memory_somewhere = pytest.mark.skipif("memory" not in SERVED, reason="no memory controller here")


def apply(group, resources, updating=False):
    """Make the settings; returns the warnings."""
    warnings: list[str] = []
    wanted = group.limits(resources, updating)
    group.enable()
    for item in wanted:
        item.apply(group.directories, warnings.append)
    return warnings


def allocate(size: int) -> int:
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, 4096):
        memory[at] = 1
    return 0


@needs("memory", "cpu", "cpuset", "pids", "blkio")
def test_v1_values_read_back(groups) -> None:  # noqa: F811
    group = groups.new()
    resources = {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB, "kernelTCP": MIB, "swappiness": 10},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000, "burst": 1000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 20},
    }
    assert apply(group, resources) == []
    expected = {
        ("memory", "memory.limit_in_bytes"): 64 * MIB,
        ("memory", "memory.memsw.limit_in_bytes"): 128 * MIB,
        ("memory", "memory.soft_limit_in_bytes"): 32 * MIB,
        ("memory", "memory.kmem.tcp.limit_in_bytes"): MIB,
        ("memory", "memory.swappiness"): 10,
        ("cpu", "cpu.shares"): 512,
        ("cpu", "cpu.cfs_quota_us"): 50000,
        ("cpu", "cpu.cfs_period_us"): 100000,
        ("cpu", "cpu.cfs_burst_us"): 1000,
        ("cpuset", "cpuset.cpus"): 0,
        ("pids", "pids.max"): 20,
    }
    assert {key: int(group.read(*key)) for key in expected} == expected


@needs_unified("memory", "cpu", "cpuset", "pids", "io")
def test_v2_values_read_back(groups) -> None:  # noqa: F811
    group = groups.new()
    resources = {
        "memory": {"limit": 64 * MIB, "swap": 64 * MIB, "reservation": 32 * MIB},
        "cpu": {"shares": 512, "quota": 50000, "period": 200000, "burst": 1000, "cpus": "0", "mems": "0"},
        "pids": {"limit": 20},
        "blockIO": {"weight": 300},
        "unified": {"memory.high": str(48 * MIB), "cgroup.max.depth": "3"},
    }
    apply(group, resources)
    expected = {
        "memory.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
        "memory.high": str(48 * MIB),
        "cpu.weight": "59",
        "cpu.max": "50000 200000",
        "cpu.max.burst": "1000",
        "cpuset.cpus": "0",
        "cpuset.mems": "0",
        "pids.max": "20",
        "cgroup.max.depth": "3",
    }
    if os.path.exists(f"{group.directories['unified']}/memory.swap.max"):
        expected["memory.swap.max"] = "0"
    assert {name: group.read("unified", name).strip() for name in expected} == expected


@needs_unified("memory", "cpu")
def test_v2_updates(groups) -> None:  # noqa: F811
    group = groups.new()

    def now(name):
        return group.read("unified", name).strip()

    apply(group, {"cpu": {"quota": 50000, "period": 100000, "burst": 40000}})
    apply(group, {"cpu": {"quota": 20000, "burst": 10000}}, updating=True)
    assert (now("cpu.max"), now("cpu.max.burst")) == ("20000 100000", "10000")
    apply(group, {"cpu": {"period": 40000}}, updating=True)
    assert now("cpu.max") == "20000 40000"
    apply(group, {"cpu": {"quota": -1}}, updating=True)
    assert now("cpu.max") == "max 40000"
    apply(group, {"cpu": {"shares": 2, "idle": 1}}, updating=True)
    assert (now("cpu.weight"), now("cpu.idle")) == ("0", "1")
    apply(group, {"cpu": {"shares": 1024, "idle": 0}}, updating=True)
    assert (now("cpu.weight"), now("cpu.idle")) == ("100", "0")
    apply(group, {"memory": {"limit": 64 * MIB}}, updating=True)
    assert now("memory.max") == str(64 * MIB)

    def hold() -> int:
        memory = mmap.mmap(-1, 20 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.write(b"x" * len(memory))
        return forever()

    groups.child(group, hold)
    deadline = time.monotonic() + 5
    while int(now("memory.current")) < 20 * MIB and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(CoracleError, match=r"memory.limit: 10485760 is not above the \d+ bytes in use"):
        apply(group, {"memory": {"limit": 10 * MIB, "checkBeforeUpdate": True}}, updating=True)
    assert now("memory.max") == str(64 * MIB)
    apply(group, {"memory": {"limit": -1}}, updating=True)
    assert now("memory.max") == "max"


@needs_unified("memory", "pids")
def test_v2_parent_with_processes_is_explained(groups) -> None:  # noqa: F811
    """The "no internal processes" rule: a group with processes cannot pass controllers on."""
    parent = groups.new()
    groups.child(parent, forever)
    child = parent.below("x")
    child.limits({"memory": {"limit": MIB}})
    with pytest.raises(KernelError, match=r"enable the memory controller in .*: move them to a child group"):
        child.create()
    assert not child.exists()


@needs("memory")
def test_memory_updates_in_every_direction(groups) -> None:  # noqa: F811
    group = groups.new("memory")

    def now():
        names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        return tuple(int(group.read("memory", name)) // MIB for name in names)

    apply(group, {"memory": {"limit": 64 * MIB, "swap": 64 * MIB}})
    for limit, swap in ((256, 256), (128, 512), (32, 64), (600, 700), (16, 16)):
        apply(group, {"memory": {"limit": limit * MIB, "swap": swap * MIB}}, updating=True)
        assert now() == (limit, swap)
    with pytest.raises(KernelError, match=r"memory.limit.*set memory.swap as well"):
        apply(group, {"memory": {"limit": 99 * MIB}}, updating=True)
    apply(group, {"memory": {"limit": -1}}, updating=True)
    assert min(now()) > 1 << 40


@needs("cpu")
def test_cpu_updates_against_the_parents_bandwidth(groups) -> None:  # noqa: F811
    """The kernel refuses more than the parent's share at every single write, so the order matters."""
    parent = groups.new("cpu")
    apply(parent, {"cpu": {"quota": 50000, "period": 100000}})
    child = parent.below("x")
    child.create()
    try:
        for quota, period in ((50000, 100000), (5000, 10000), (400000, 800000), (10000, 1000000), (2000, 4000)):
            apply(child, {"cpu": {"quota": quota, "period": period}}, updating=True)
            assert int(child.read("cpu", "cpu.cfs_quota_us")) == quota
            assert int(child.read("cpu", "cpu.cfs_period_us")) == period
        with pytest.raises(KernelError, match="no larger than the parent group's"):
            apply(child, {"cpu": {"quota": 100000, "period": 100000}}, updating=True)
    finally:
        child.delete()


@memory_somewhere
def test_memory_limit_kills_and_the_watch_wakes(groups) -> None:  # noqa: F811
    group = groups.new()
    apply(group, {"memory": {"limit": 20 * MIB, "swap": 20 * MIB}})
    with OomWatch(group) as watch:
        poll = select.poll()
        poll.register(watch.fileno(), watch.events)
        assert poll.poll(0) == []
        assert groups.run(group, lambda: allocate(5 * MIB)) == 0
        assert poll.poll(0) == []
        assert groups.run(group, lambda: allocate(60 * MIB)) == -9
        assert poll.poll(5000)
        assert watch.read() == 1
        assert group.oom_kills() == 1
        assert poll.poll(0) == []
        assert not watch.gone
        group.delete()
        assert poll.poll(5000)
        assert watch.read() == 0
        assert watch.gone
    usage = group.stats()["memory"]["usage"]
    assert usage["usage"] == 0


@memory_somewhere
def test_usage_in_statistics(groups) -> None:  # noqa: F811
    group = groups.new()
    apply(group, {"memory": {"limit": 100 * MIB}, "pids": {"limit": 7}})

    def busy() -> int:
        allocate(30 * MIB)
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        return 0

    before = time.process_time_ns()
    assert groups.run(group, busy) == 0
    groups.child(group, forever)
    data = group.stats()
    assert data["cpu"]["usage"]["total"] >= 150_000_000, before
    assert sum(data["cpu"]["usage"].get("percpu", [])) in (0, data["cpu"]["usage"]["total"])
    assert data["memory"]["usage"]["limit"] == 100 * MIB
    assert data["memory"]["usage"]["max"] >= 30 * MIB
    assert (data["pids"]["current"], data["pids"]["limit"]) == (1, 7)
    if "unified" in group.directories and os.path.exists("/proc/pressure/cpu"):
        assert set(data["cpu"]["psi"]["some"]) == {"avg10", "avg60", "avg300", "total"}


@pytest.mark.skipif("pids" not in SERVED, reason="no pids controller here")
def test_pids_limit(groups) -> None:  # noqa: F811
    group = groups.new()
    apply(group, {"pids": {"limit": 1}})

    def fork() -> int:
        try:
            os.fork()
        except BlockingIOError:
            return 7
        return 0

    assert groups.run(group, fork) == 7


@pytest.mark.skipif("cpuset" not in SERVED, reason="no cpuset controller here")
def test_cpuset_and_its_refusals(groups) -> None:  # noqa: F811
    group = groups.new()
    apply(group, {"cpu": {"cpus": "0"}})
    assert groups.run(group, lambda: 5 if os.sched_getaffinity(0) == {0} else 6) == 5
    for cpus in ("4000", "x", "5-1"):
        with pytest.raises(KernelError, match=r"linux.resources.cpu.cpus: set cpuset.cpus to .*\("):
            apply(group, {"cpu": {"cpus": cpus}})


@needs("devices")
def test_v1_devices_keep_the_listed_order(groups) -> None:  # noqa: F811
    group = groups.new()
    section = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        {"allow": True, "type": "b", "major": 8, "minor": 20, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
    ]
    assert apply(group, {"devices": section}) == []
    lines = group.read("devices", "devices.list").splitlines()
    assert lines == ["c 10:229 rwm", "b 8:20 rwm", "c 1:3 rw"]

    def look() -> int:
        os.close(os.open("/dev/null", os.O_RDWR))
        try:
            os.open("/dev/zero", os.O_RDONLY)
        except PermissionError:
            return 7
        return 8

    assert groups.run(group, look) == 7


def disk() -> tuple[int, int, str]:
    """Major and minor number of some disk, and its device file."""
    disks = [name for name in os.listdir("/sys/block") if name.startswith(("sd", "vd", "nvme"))]
    if not disks:
        pytest.skip("no disk to throttle here")
    major, minor = files.read(f"/sys/block/{disks[0]}/dev").split(":")
    return int(major), int(minor), f"/dev/{disks[0]}"


@needs_unified("io")
def test_v2_io_throttle_and_statistics(groups) -> None:  # noqa: F811
    major, minor, device = disk()
    group = groups.new()
    throttles = {
        "throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": MIB}],
        "throttleWriteIOPSDevice": [{"major": major, "minor": minor, "rate": 50}],
    }
    assert apply(group, {"blockIO": throttles}) == []
    assert group.read("unified", "io.max").split() == f"{major}:{minor} rbps={MIB} wbps=max riops=max wiops=50".split()
    apply(group, {"blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 0}]}}, updating=True)
    assert "rbps=max" in group.read("unified", "io.max")
    apply(group, {"blockIO": {"weight": 300}})
    bfq, general = (group.read("unified", name).split() for name in ("io.bfq.weight", "io.weight"))
    assert bfq[-1:] == ["300"] if bfq else general[-1:] in ([], ["2930"])

    def read_disk() -> int:
        return 0 if len(os.read(os.open(device, os.O_RDONLY), 65536)) == 65536 else 1

    assert groups.run(group, read_disk) == 0
    entries = group.stats()["blkio"]["ioServiceBytesRecursive"]
    values = [
        entry["value"] for entry in entries if (entry["major"], entry["minor"], entry["op"]) == (major, minor, "Read")
    ]
    assert values and values[0] >= 65536


@needs("blkio")
def test_blkio_throttle_and_weights(groups) -> None:  # noqa: F811
    major, minor, _ = disk()
    group = groups.new("blkio")
    throttle = [{"major": major, "minor": minor, "rate": MIB}]
    warnings = apply(group, {"blockIO": {"throttleReadBpsDevice": throttle, "weight": 300, "leafWeight": 10}})
    assert group.read("blkio", "blkio.throttle.read_bps_device").split() == [f"{major}:{minor}", str(MIB)]
    weight = group.read("blkio", "blkio.weight") or group.read("blkio", "blkio.bfq.weight")
    assert (int(weight) == 300) if weight else any("blockIO.weight " in line for line in warnings)
    if not group.read("blkio", "blkio.leaf_weight"):
        assert "linux.resources.blockIO.leafWeight is not enforced: this kernel has no blkio.leaf_weight" in warnings
    with pytest.raises(KernelError, match=r"throttleReadBpsDevice\[0\].*whole disk that exists"):
        apply(group, {"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 1, "rate": 1}]}})


@needs("memory")
def test_kernel_memory_limit_is_set_or_warned_about(groups) -> None:  # noqa: F811
    group = groups.new("memory")
    warnings = apply(group, {"memory": {"kernel": 50 * MIB}})
    text = group.read("memory", "memory.kmem.limit_in_bytes")
    enforced = bool(text) and int(text) == 50 * MIB
    assert enforced == (not warnings)


@needs("net_cls", "net_prio")
def test_network_classes(groups) -> None:  # noqa: F811
    group = groups.new()
    apply(group, {"network": {"classID": 1048577, "priorities": [{"name": "lo", "priority": 5}]}})
    assert int(group.read("net_cls", "net_cls.classid")) == 1048577
    assert "lo 5" in group.read("net_prio", "net_prio.ifpriomap").splitlines()
    with pytest.raises(KernelError, match="interface must exist"):
        apply(group, {"network": {"priorities": [{"name": "nonsense0", "priority": 5}]}})


@needs("hugetlb")
def test_v1_hugetlb(groups) -> None:  # noqa: F811
    group = groups.new("hugetlb")
    assert apply(group, {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}) == []
    assert int(group.read("hugetlb", "hugetlb.2MB.limit_in_bytes")) == 4 * MIB
    assert group.read("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes") in ("", f"{4 * MIB}\n")
    assert group.stats()["hugetlb"]["2MB"] == {"usage": 0, "max": 0, "failcnt": 0}
    with pytest.raises(UnsupportedError, match=r"hugetlb.7MB.limit_in_bytes .*no pages of that size"):
        apply(group, {"hugepageLimits": [{"pageSize": "7MB", "limit": 4 * MIB}]})


@legacy
def test_controller_that_is_not_mounted_fails_clearly(groups) -> None:  # noqa: F811
    group = groups.new("pids")
    with pytest.raises(
        UnsupportedError, match=r"memory.limit cannot be enforced: the memory controller is not available"
    ):
        apply(group, {"memory": {"limit": 1}})


@unified
def test_hybrid_uses_a_controller_that_only_v2_has(groups) -> None:  # noqa: F811
    """hugetlb, where nobody mounted it as version 1."""
    top = HIERARCHIES.mounts["unified"]
    if HIERARCHIES.kind != "hybrid" or "hugetlb" not in files.read(f"{top}/cgroup.controllers").split():
        pytest.skip("no hugetlb controller on cgroup v2 beside cgroup v1 here")
    was_enabled = "hugetlb" in files.read(f"{top}/cgroup.subtree_control").split()
    size = next((name for name in ("2MB", "1GB", "64KB")), "")
    group = groups.new(create=False)
    wanted = group.limits({"hugepageLimits": [{"pageSize": size, "limit": 4 * MIB}]})
    try:
        group.create()
        for item in wanted:
            item.apply(group.directories, pytest.fail)
        assert int(group.read("unified", f"hugetlb.{size}.max")) == 4 * MIB
        assert size in group.stats()["hugetlb"]
    finally:
        group.delete()
        if not was_enabled:  # or else nobody could mount it as version 1 any more
            for directory in (os.path.dirname(group.directories["unified"]), top):
                if os.path.isdir(directory):
                    files.write(f"{directory}/cgroup.subtree_control", "-hugetlb")


def test_shell_lines_do_the_same(groups) -> None:  # noqa: F811
    """The explanation, run as a script, leaves what we leave."""
    resources = {
        "memory": {"limit": 64 * MIB},
        "cpu": {"shares": 512, "quota": 50000, "cpus": "0"},
        "pids": {"limit": 20},
        "blockIO": {"weight": 300},
    }
    resources = {name: part for name, part in resources.items() if {"blockIO": "blkio"}.get(name, name) in SERVED}
    ours, theirs = groups.new(create=False), groups.new(create=False)
    wanted, same = ours.limits(resources), theirs.limits(resources)
    ours.create()
    for item in wanted:
        item.apply(ours.directories, [].append)  # weights may warn, where no scheduler has them
    creation, deletion = theirs.create_shell(), theirs.delete_shell()
    lines = [*creation, *(line for item in same for line in item.shell(theirs.directories))]
    subprocess.run(["sh", "-ec", "\n".join(lines)], check=True)
    theirs.prepare()
    for name, directory in ours.unique().items():
        listed = sorted(os.listdir(directory))
        assert listed == sorted(os.listdir(theirs.directories[name]))
        for file in listed:
            if file in {item.file for item in wanted} or file.startswith("cpuset."):
                assert ours.read(name, file) == theirs.read(name, file), file
    subprocess.run(["sh", "-ec", "\n".join(deletion)], check=True)
    assert not theirs.exists()


def test_unreachable_values_leave_one_clear_line(groups) -> None:  # noqa: F811
    group = groups.new()
    with pytest.raises(CoracleError) as caught:
        apply(group, {"memory": {"limit": 64 * MIB}, "unified": {"memory.nonsense": "1"}})
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("linux.resources.unified.memory.nonsense")
