"""linux.resources → writes, as pure data: order, conversion, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from coracle.errors import KernelError, SpecError, UnsupportedError
from coracle.linux.cgroup.blkio import io_weight
from coracle.linux.cgroup.cpu import shares_to_weight
from coracle.linux.cgroup.memory import swap_only
from coracle.linux.cgroup.settings import FAIL, IGNORE, WARN, Setting, settings, unified_controllers

NAMES = ("pids", "memory", "blkio", "cpu", "cpuset", "hugetlb", "net_cls", "net_prio", "rdma", "devices", "cpuacct")
V1 = {name: name for name in NAMES}
V2 = {name: "unified" for name in NAMES if not name.startswith("net_")}


def written(resources, controllers=V1, present=None):
    """[(hierarchy, file, value)], ``present`` being {file: text} of a running group."""
    reader = (lambda hierarchy, file: present.get(file, "")) if present is not None else None
    return [(item.hierarchy, item.file, item.value) for item in settings(resources, controllers, reader)]


def values(resources, controllers=V1, present=None):
    return [(file, value) for _, file, value in written(resources, controllers, present)]


@pytest.mark.parametrize(
    "resources", [{}, {"memory": {}}, {"memory": None, "cpu": {}, "devices": []}, {"cpu": {"shares": 0}}]
)
def test_nothing_asked_nothing_written_even_without_controllers(resources) -> None:
    assert settings(resources, {}) == []


def test_every_setting_names_its_cause_and_hierarchy() -> None:
    resources = {
        "memory": {"limit": 1 << 20},
        "cpu": {"cpus": "0-1"},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
    }
    assert [(item.hierarchy, item.cause) for item in settings(resources, V1)] == [
        ("memory", "linux.resources.memory.limit"),
        ("cpuset", "linux.resources.cpu.cpus"),
        ("hugetlb", "linux.resources.hugepageLimits[0].limit"),
        ("hugetlb", "linux.resources.hugepageLimits[0].limit"),
    ]
    assert {item.hierarchy for item in settings(resources, V2)} == {"unified"}


# -- pids


@pytest.mark.parametrize(("limit", "text"), [(20, "20"), (-1, "max"), (0, "1"), (1, "1")])
def test_pids(limit, text) -> None:
    for controllers in (V1, V2):
        assert values({"pids": {"limit": limit}}, controllers) == [("pids.max", text)]


# -- memory


def test_memory_v1_of_a_new_group_sets_memory_before_swap() -> None:
    resources = {
        "memory": {"limit": 64, "swap": 128, "reservation": 32, "kernelTCP": 8, "swappiness": 0, "useHierarchy": True}
    }
    assert values(resources) == [
        ("memory.use_hierarchy", "1"),
        ("memory.limit_in_bytes", "64"),
        ("memory.memsw.limit_in_bytes", "128"),
        ("memory.soft_limit_in_bytes", "32"),
        ("memory.kmem.tcp.limit_in_bytes", "8"),
        ("memory.swappiness", "0"),
    ]


@pytest.mark.parametrize(
    ("old_limit", "limit", "swap", "first"),
    [
        (64, 256, 256, "memory.memsw.limit_in_bytes"),  # raising: the sum first
        (64, 32, 64, "memory.memsw.limit_in_bytes"),  # the sum still covers the old limit
        (64, 16, 32, "memory.limit_in_bytes"),  # lowering: memory first
        (64, 64, -1, "memory.memsw.limit_in_bytes"),
        (64, -1, 0, "memory.memsw.limit_in_bytes"),  # no limit of memory means none of both
    ],
)
def test_memory_v1_update_keeps_the_kernels_invariant(old_limit, limit, swap, first) -> None:
    resources = {"memory": {"limit": limit, "swap": swap}}
    result = values(resources, V1, {"memory.limit_in_bytes": f"{old_limit}\n"})
    assert result[0][0] == first
    assert len(result) == 2


def test_memory_v2_limits_swap_alone() -> None:
    assert values({"memory": {"limit": 64, "swap": 128, "reservation": 32}}, V2) == [
        ("memory.swap.max", "64"),
        ("memory.max", "64"),
        ("memory.low", "32"),
    ]
    assert values({"memory": {"limit": -1}}, V2) == [("memory.swap.max", "max"), ("memory.max", "max")]
    assert values({"memory": {"limit": 64, "swap": -1}}, V2) == [("memory.swap.max", "max"), ("memory.max", "64")]


def test_memory_v2_reservation_without_limit_is_no_protection() -> None:
    assert values({"memory": {"reservation": -1}}, V2) == [("memory.low", "0")]


def test_memory_v2_swap_alone_uses_the_present_limit() -> None:
    assert values({"memory": {"swap": 100}}, V2, {"memory.max": "60\n"}) == [("memory.swap.max", "40")]
    assert values({"memory": {"swap": 100}}, V2, {"memory.max": "max\n"}) == [("memory.swap.max", "100")]
    with pytest.raises(SpecError, match=r"memory.swap: needs memory.limit"):
        settings({"memory": {"swap": 100}}, V2)


@pytest.mark.parametrize(("memory", "swap", "only"), [(64, 64, 0), (64, 100, 36), (-1, 5, 5), (64, -1, -1)])
def test_swap_only(memory, swap, only) -> None:
    assert swap_only(memory, swap) == only


@pytest.mark.parametrize("controllers", [V1, V2])
def test_swap_below_memory_is_refused(controllers) -> None:
    with pytest.raises(SpecError, match=r"linux.resources.memory.swap: 32 is below memory.limit 64"):
        settings({"memory": {"limit": 64, "swap": 32}}, controllers)


def test_missing_swap_accounting_matters_only_if_a_limit_is_lost() -> None:
    def absent(limit, swap, controllers):
        return {item.file: item.absent for item in settings({"memory": {"limit": limit, "swap": swap}}, controllers)}

    assert absent(64, 128, V1)["memory.memsw.limit_in_bytes"] == FAIL
    assert absent(64, -1, V1)["memory.memsw.limit_in_bytes"] == IGNORE
    assert absent(64, 128, V2)["memory.swap.max"] == FAIL
    assert absent(64, 64, V2)["memory.swap.max"] == IGNORE  # no swap at all holds by itself


def test_check_before_update() -> None:
    memory = {"limit": 64, "swap": 128, "checkBeforeUpdate": True}
    assert [item.must_exceed for item in settings({"memory": memory}, V2)] == ["", "memory.current"]
    legacy = [item.must_exceed for item in settings({"memory": memory}, V1)]
    assert legacy == ["memory.usage_in_bytes", "memory.memsw.usage_in_bytes"]
    assert all(not item.must_exceed for item in settings({"memory": memory | {"limit": -1, "swap": -1}}, V1))


def test_what_only_v1_has() -> None:
    with pytest.raises(UnsupportedError, match=r"memory.kernelTCP cannot be enforced: .*cgroup v2 has no such limit"):
        settings({"memory": {"kernelTCP": 5}}, V2)
    soft = settings({"memory": {"kernel": 5, "swappiness": 7, "disableOOMKiller": True}}, V2)
    assert [(item.hierarchy, item.file, item.absent) for item in soft] == [
        ("", "memory.kmem.limit_in_bytes", WARN),
        ("", "memory.swappiness", WARN),
        ("", "memory.oom_control", WARN),
    ]
    warnings: list[str] = []
    for item in soft:
        item.apply({"unified": "/nonexistent"}, warnings.append)
    assert [line.partition(" is")[0].rpartition(".")[2] for line in warnings] == [
        "kernel",
        "swappiness",
        "disableOOMKiller",
    ]
    assert settings({"memory": {"kernel": -1, "kernelTCP": -1, "disableOOMKiller": False}}, V2) == []


def test_oom_killer_v1() -> None:
    assert values({"memory": {"disableOOMKiller": True}}) == [("memory.oom_control", "1")]


# -- cpu


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262143, 10000), (262144, 10000), (1 << 40, 10000)],
)
def test_shares_to_weight(shares, weight) -> None:
    assert shares_to_weight(shares) == weight


def test_shares_to_weight_never_falls() -> None:
    weights = [shares_to_weight(shares) for shares in (*range(2, 262145, 97), 262144)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (1, 10000)


def test_cpu_v1() -> None:
    cpu = {"shares": 512, "quota": 5000, "period": 10000, "burst": 100, "realtimeRuntime": 95, "realtimePeriod": 1000}
    assert values({"cpu": cpu}) == [
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "10000"),
        ("cpu.cfs_quota_us", "5000"),
        ("cpu.cfs_burst_us", "100"),
        ("cpu.rt_period_us", "1000"),
        ("cpu.rt_runtime_us", "95"),
    ]


@pytest.mark.parametrize(
    ("quota", "period", "present", "value"),
    [
        (50000, 100000, {}, "50000 100000"),
        (50000, None, {}, "50000"),
        (-1, None, {}, "max"),
        (-1, 50000, {}, "max 50000"),
        (None, 50000, {}, "max 50000"),
        (None, 50000, {"cpu.max": "20000 100000\n"}, "20000 50000"),  # a new period alone keeps the quota
        (None, 50000, {"cpu.max": "max 100000\n"}, "max 50000"),
    ],
)
def test_cpu_v2_bandwidth(quota, period, present, value) -> None:
    assert values({"cpu": {"quota": quota, "period": period}}, V2, present) == [("cpu.max", value)]


def test_cpu_v1_update_shrinks_the_quota_first() -> None:
    cpu = {"cpu": {"quota": 10000, "period": 50000}}
    names = [file for file, _ in values(cpu, V1, {"cpu.cfs_quota_us": "20000\n"})]
    assert names == ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
    for present in ("5000\n", "-1\n"):
        names = [file for file, _ in values(cpu, V1, {"cpu.cfs_quota_us": present})]
        assert names == ["cpu.cfs_period_us", "cpu.cfs_quota_us"]


def test_burst_shrinks_before_the_quota_and_grows_after_it() -> None:
    cpu = {"cpu": {"quota": 10000, "burst": 5000}}
    assert values(cpu, V2, {"cpu.max.burst": "20000\n"})[0][0] == "cpu.max.burst"
    assert values(cpu, V2, {"cpu.max.burst": "0\n"})[-1][0] == "cpu.max.burst"
    with pytest.raises(SpecError, match=r"cpu.burst: 20000 is above quota 10000"):
        settings({"cpu": {"quota": 10000, "burst": 20000}}, V1)


def test_idle_is_set_after_and_cleared_before_the_weight() -> None:
    for controllers, weight in ((V1, ("cpu.shares", "512")), (V2, ("cpu.weight", "59"))):
        assert values({"cpu": {"shares": 512, "idle": 1}}, controllers) == [weight, ("cpu.idle", "1")]
        assert values({"cpu": {"shares": 512, "idle": 0}}, controllers) == [("cpu.idle", "0"), weight]


def test_realtime_is_unsupported_on_v2() -> None:
    with pytest.raises(UnsupportedError, match=r"cpu.realtimeRuntime cannot be enforced"):
        settings({"cpu": {"realtimeRuntime": 10}}, V2)


def test_cpuset() -> None:
    for controllers in (V1, V2):
        assert values({"cpu": {"cpus": "0-1", "mems": "0"}}, controllers) == [
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
        ]
    only = {name: key for name, key in V1.items() if name != "cpu"}
    assert values({"cpu": {"cpus": "0", "mems": ""}}, only) == [("cpuset.cpus", "0")]


# -- block I/O


def test_block_io_v1() -> None:
    block = {
        "weight": 300,
        "leafWeight": 200,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 400}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 1, "rate": 2048}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 2, "rate": 10}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 3, "rate": 0}],
    }
    result = settings({"blockIO": block}, V1)
    assert [(item.file, item.value) for item in result] == [
        ("blkio.weight", "300"),
        ("blkio.leaf_weight", "200"),
        ("blkio.weight_device", "8:0 500"),
        ("blkio.leaf_weight_device", "8:0 400"),
        ("blkio.throttle.read_bps_device", "8:0 1024"),
        ("blkio.throttle.write_bps_device", "8:1 2048"),
        ("blkio.throttle.read_iops_device", "8:2 10"),
        ("blkio.throttle.write_iops_device", "8:3 0"),
    ]
    assert [item.absent for item in result] == [WARN] * 4 + [FAIL] * 4
    assert [item.otherwise.file for item in result if item.otherwise] == ["blkio.bfq.weight", "blkio.bfq.weight_device"]


def test_block_io_v2() -> None:
    block = {
        "weight": 100,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}],
    }
    result = settings({"blockIO": block}, V2)
    assert [(item.file, item.value) for item in result] == [
        ("io.bfq.weight", "100"),
        ("io.bfq.weight", "8:0 1000"),
        ("io.max", "8:0 rbps=1024"),
        ("io.max", "8:0 wiops=max"),
    ]
    instead = [item.otherwise for item in result[:2]]
    assert [(item.file, item.value) for item in instead if item] == [("io.weight", "910"), ("io.weight", "8:0 10000")]
    assert unified_controllers(result) == {"io"}


@pytest.mark.parametrize(("weight", "converted"), [(10, 1), (100, 910), (500, 4950), (1000, 10000)])
def test_io_weight(weight, converted) -> None:
    assert io_weight(weight) == converted


# -- the rest


def test_hugetlb_limits_reservations_too() -> None:
    resources = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}, {"pageSize": "64KB", "limit": 0}]}
    assert values(resources) == [
        ("hugetlb.2MB.rsvd.limit_in_bytes", "4"),
        ("hugetlb.2MB.limit_in_bytes", "4"),
        ("hugetlb.64KB.rsvd.limit_in_bytes", "0"),
        ("hugetlb.64KB.limit_in_bytes", "0"),
    ]
    assert values(resources, V2)[:2] == [("hugetlb.2MB.rsvd.max", "4"), ("hugetlb.2MB.max", "4")]
    assert [item.absent for item in settings(resources, V1)] == [IGNORE, FAIL, IGNORE, FAIL]


def test_network() -> None:
    network = {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}, {"name": "lo", "priority": 0}]}
    assert written({"network": network}) == [
        ("net_cls", "net_cls.classid", "1048577"),
        ("net_prio", "net_prio.ifpriomap", "eth0 500"),
        ("net_prio", "net_prio.ifpriomap", "lo 0"),
    ]
    with pytest.raises(
        UnsupportedError, match=r"network.classID cannot be enforced: the net_cls controller .*nftables"
    ):
        settings({"network": network}, V2)


def test_rdma() -> None:
    rdma = {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "rxe3": {"hcaObjects": 0}}
    for controllers in (V1, V2):
        assert values({"rdma": rdma}, controllers) == [
            ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
            ("rdma.max", "rxe3 hca_object=0"),
        ]


def test_unified_writes_the_unknown_too_line_by_line() -> None:
    unified = {
        "io.max": "259:0 rbps=1\n253:0 rbps=2",
        "memory.future": "7",
        "cgroup.max.depth": "3",
        "hugetlb.1GB.max": "0",
    }
    result = settings({"unified": unified}, V2)
    assert [(item.file, item.value) for item in result] == [
        ("io.max", "259:0 rbps=1"),
        ("io.max", "253:0 rbps=2"),
        ("memory.future", "7"),
        ("cgroup.max.depth", "3"),
        ("hugetlb.1GB.max", "0"),
    ]
    assert unified_controllers(result) == {"io", "memory", "cgroup", "hugetlb"}


def test_unified_needs_the_controller() -> None:
    with pytest.raises(UnsupportedError, match=r"unified.misc.max cannot be enforced: .*no misc controller"):
        settings({"unified": {"misc.max": "1"}}, V2)
    with pytest.raises(UnsupportedError, match=r"memory is on cgroup v1 on this machine"):
        settings({"unified": {"memory.max": "1"}}, V1 | {"freezer": "unified"})
    hybrid = V1 | {"freezer": "unified"}
    assert written({"unified": {"cgroup.max.depth": "1"}}, hybrid) == [("unified", "cgroup.max.depth", "1")]
    with pytest.raises(UnsupportedError):
        settings({"unified": {"cgroup.max.depth": "1"}}, V1)


# -- missing controllers


@pytest.mark.parametrize(
    ("resources", "cause", "controller"),
    [
        ({"memory": {"limit": 1}}, "memory.limit", "memory"),
        ({"pids": {"limit": 1}}, "pids.limit", "pids"),
        ({"cpu": {"quota": 1000}}, "cpu.quota", "cpu"),
        ({"cpu": {"cpus": "0"}}, "cpu.cpus", "cpuset"),
        ({"devices": [{"allow": False}]}, r"devices\[0\]", "devices"),
        ({"rdma": {"a": {"hcaObjects": 1}}}, "rdma.a", "rdma"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, r"hugepageLimits\[0\].limit", "hugetlb"),
    ],
)
def test_a_limit_without_controller_fails_and_names_both(resources, cause, controller) -> None:
    with pytest.raises(
        UnsupportedError, match=f"linux.resources.{cause} cannot be enforced: the {controller} controller"
    ):
        settings(resources, {})
    missing: list[Setting] = []
    assert [item for item in settings(resources, {}, missing=missing) if item.absent == FAIL] == []
    assert missing and missing[0].cause.startswith("linux.resources.")


def test_a_preference_without_controller_warns() -> None:
    result = settings({"cpu": {"shares": 512}, "blockIO": {"weight": 100}}, {})
    warnings: list[str] = []
    for item in result:
        item.apply({}, warnings.append)
        assert (item.path({}), item.shell({})) == (item.file, [])
    assert warnings == [
        "linux.resources.blockIO.weight is not enforced: this kernel has no blkio.weight",
        "linux.resources.cpu.shares is not enforced: this kernel has no cpu.shares",
    ]


# -- bad values


@pytest.mark.parametrize(
    ("resources", "where"),
    [
        ({"memory": {"limit": "64m"}}, "linux.resources.memory.limit"),
        ({"memory": {"limit": True}}, "linux.resources.memory.limit"),
        ({"memory": {"limit": -2}}, "linux.resources.memory.limit"),
        ({"memory": {"swappiness": 101}}, "linux.resources.memory.swappiness"),
        ({"memory": [1]}, "linux.resources.memory"),
        ({"cpu": {"shares": -1}}, "linux.resources.cpu.shares"),
        ({"cpu": {"idle": 2}}, "linux.resources.cpu.idle"),
        ({"cpu": {"cpus": "0\n1"}}, "linux.resources.cpu.cpus"),
        ({"cpu": {"cpus": 1}}, "linux.resources.cpu.cpus"),
        ({"cpu": "x"}, "linux.resources.cpu"),
        ({"pids": {"max": 1}}, "linux.resources.pids"),
        ({"blockIO": {"weight": 1001}}, "linux.resources.blockIO.weight"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}, r"linux.resources.blockIO.weightDevice\[0\]"),
        ({"blockIO": {"weightDevice": ["8:0"]}}, r"linux.resources.blockIO.weightDevice\[0\]"),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8}]}}, r"linux.resources.blockIO.throttleReadBpsDevice\[0\]"),
        ({"hugepageLimits": [{"pageSize": "2mb", "limit": 1}]}, r"linux.resources.hugepageLimits\[0\].pageSize"),
        ({"hugepageLimits": [{"pageSize": "../2MB", "limit": 1}]}, r"linux.resources.hugepageLimits\[0\].pageSize"),
        ({"hugepageLimits": {}, "devices": {"a": 1}}, "linux.resources.hugepageLimits"),
        ({"network": {"classID": 1 << 32}}, "linux.resources.network.classID"),
        (
            {"network": {"priorities": [{"name": "a b", "priority": 1}]}},
            r"linux.resources.network.priorities\[0\].name",
        ),
        ({"rdma": {"a b": {"hcaObjects": 1}}}, "linux.resources.rdma.a b"),
        ({"rdma": {"a": {}}}, "linux.resources.rdma.a"),
        ({"unified": {"../memory.max": "1"}}, "linux.resources.unified"),
        ({"unified": {"memory": "1"}}, "linux.resources.unified.memory"),
        ({"unified": {"memory.max": 1}}, "linux.resources.unified.memory.max"),
        ({"devices": [{"allow": "no"}]}, r"linux.resources.devices\[0\]"),
        ({"devices": [{"allow": True, "type": "p"}]}, r"linux.resources.devices\[0\].type"),
        ({"devices": [{"allow": True, "access": "rwx"}]}, r"linux.resources.devices\[0\].access"),
    ],
)
@pytest.mark.parametrize("controllers", [V1, V2])
def test_bad_values_name_their_path(resources, where, controllers) -> None:
    with pytest.raises(SpecError, match=f"^{where}.*"):
        settings(resources, controllers)


# -- applying one setting


def test_apply_writes_and_shell_says_the_same(tmp_path) -> None:
    (tmp_path / "pids.max").write_text("max\n")
    (item,) = settings({"pids": {"limit": 7}}, V1)
    item.apply({"pids": str(tmp_path)}, pytest.fail)
    assert (tmp_path / "pids.max").read_text().startswith("7")
    (tmp_path / "pids.max").write_text("max\n")
    (line,) = item.shell({"pids": str(tmp_path)})
    subprocess.run(["sh", "-ec", line], check=True)
    assert (tmp_path / "pids.max").read_text() == "7\n"


@pytest.mark.parametrize("there", ["blkio.weight", "blkio.bfq.weight", ""])
def test_apply_takes_the_file_that_exists_and_so_does_the_shell(tmp_path, there) -> None:
    (item,) = settings({"blockIO": {"weight": 300}}, V1)
    directories, warnings = {"blkio": str(tmp_path)}, []
    for act in (
        lambda: item.apply(directories, warnings.append),
        lambda: subprocess.run(["sh", "-ec", "\n".join(item.shell(directories))], check=True),
    ):
        if there:
            (tmp_path / there).write_text("")
        act()
        assert [path.name for path in tmp_path.iterdir()] == ([there] if there else [])
        assert not there or (tmp_path / there).read_text().strip() == "300"
    assert len(warnings) == (0 if there else 1)


def test_a_limit_whose_file_is_missing_fails(tmp_path) -> None:
    (item,) = settings({"memory": {"kernelTCP": 7}}, V1)
    with pytest.raises(
        UnsupportedError, match=r"memory.kernelTCP cannot be enforced: this kernel has no memory.kmem.tcp"
    ):
        item.apply({"memory": str(tmp_path)}, pytest.fail)


def test_a_refusal_carries_errno_path_and_hint(tmp_path) -> None:
    (tmp_path / "pids.max").mkdir()
    (item,) = settings({"pids": {"limit": 7}}, V1)
    with pytest.raises(KernelError) as caught:
        item.apply({"pids": str(tmp_path)}, pytest.fail)
    assert caught.value.errno == 21
    assert caught.value.path == str(tmp_path / "pids.max")
    assert str(caught.value).startswith("linux.resources.pids.limit: set pids.max to 7")


def test_usage_check_before_an_update(tmp_path) -> None:
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("")
    (item,) = settings({"memory": {"limit": 1000, "checkBeforeUpdate": True}}, V2)
    with pytest.raises(SpecError, match=r"memory.limit: 1000 is not above the 1000 bytes in use"):
        item.apply({"unified": str(tmp_path)}, pytest.fail)
    (tmp_path / "memory.current").write_text("999\n")
    item.apply({"unified": str(tmp_path)}, pytest.fail)


def test_kernel_memory_that_reads_back_unchanged_warns(tmp_path) -> None:
    (item,) = settings({"memory": {"kernel": 4096}}, V1)
    name = tmp_path / "memory.kmem.limit_in_bytes"
    name.symlink_to("/dev/null")  # takes the write and keeps nothing
    item.apply({"memory": str(tmp_path)}, pytest.fail)
    name.unlink()
    name.write_text("9223372036854771712\n")  # longer than what is written: the rest of it stays
    warnings: list[str] = []
    item.apply({"memory": str(tmp_path)}, warnings.append)
    assert warnings == ["linux.resources.memory.kernel is not enforced: this kernel ignores memory.kmem.limit_in_bytes"]


def test_settings_are_data() -> None:
    resources = {"memory": {"limit": 64}, "pids": {"limit": 2}}
    assert settings(resources, V1) == settings(resources, V1)
    assert settings(resources, V1) != settings(resources, V2)
    assert hash(settings(resources, V1)[0]) == hash(settings(resources, V1)[0])


def test_imports_stay_cheap_and_only_what_is_asked_for() -> None:
    program = (
        "from coracle.linux.cgroup.settings import settings; from coracle.linux.cgroup import group, hierarchy\n"
        "settings({'pids': {'limit': 2}}, {'pids': 'pids'})\n"
        "print(*sorted(name for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    expensive = (
        "typing re json enum dataclasses pathlib subprocess signal socket argparse logging contextlib collections"
    )
    assert not loaded.intersection([*expensive.split(), "functools", "ctypes", "tempfile", "shutil", "random", "math"])
    ours = {name.rpartition(".")[2] for name in loaded if name.startswith("coracle.linux.cgroup.")}
    assert ours == {"creation", "files", "group", "hierarchy", "pids", "settings"}
