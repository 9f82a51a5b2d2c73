"""``coracle run``: every limit as the kernel has it, in the container's control group and in its process."""

from __future__ import annotations

import json
import os
import re

import pytest

from coracle.linux.cgroup.hierarchy import detect

MOUNTS = detect().mounts
pytestmark = [pytest.mark.root, pytest.mark.skipif(not MOUNTS, reason="no control groups are mounted here")]

MIB = 1 << 20
LOOP = "/dev/loop0"
# options → {(v1 controller, file): value}, {v2 file: value}
LIMITS = {
    "-m": (("-m", "64m"),
           {("memory", "memory.limit_in_bytes"): str(64 * MIB),
            ("memory", "memory.memsw.limit_in_bytes"): str(128 * MIB)},
           {"memory.max": str(64 * MIB), "memory.swap.max": str(64 * MIB)}),
    "--memory-swap": (("-m", "64m", "--memory-swap", "100m"),
                      {("memory", "memory.memsw.limit_in_bytes"): str(100 * MIB)}, {"memory.swap.max": str(36 * MIB)}),
    "--memory-reservation": (("--memory-reservation", "32m"),
                             {("memory", "memory.soft_limit_in_bytes"): str(32 * MIB)},
                             {"memory.low": str(32 * MIB)}),
    "--memory-swappiness": (("--memory-swappiness", "7"), {("memory", "memory.swappiness"): "7"}, {}),
    "--cpus": (("--cpus", "0.5"),
               {("cpu", "cpu.cfs_quota_us"): "50000", ("cpu", "cpu.cfs_period_us"): "100000"},
               {"cpu.max": "50000 100000"}),
    "--cpu-quota": (("--cpu-quota", "20000", "--cpu-period", "40000"),
                    {("cpu", "cpu.cfs_quota_us"): "20000", ("cpu", "cpu.cfs_period_us"): "40000"},
                    {"cpu.max": "20000 40000"}),
    "--cpu-shares": (("--cpu-shares", "512"), {("cpu", "cpu.shares"): "512"}, {"cpu.weight": r"\d+"}),
    "--cpuset-cpus": (("--cpuset-cpus", "0", "--cpuset-mems", "0"),
                      {("cpuset", "cpuset.cpus"): "0", ("cpuset", "cpuset.mems"): "0"},
                      {"cpuset.cpus": "0", "cpuset.mems": "0"}),
    "--pids-limit": (("--pids-limit", "20"), {("pids", "pids.max"): "20"}, {"pids.max": "20"}),
    "--device-read-bps": (("--device-read-bps", f"{LOOP}:1m"),
                          {("blkio", "blkio.throttle.read_bps_device"): f"7:0 {MIB}"},
                          {"io.max": f"7:0 rbps={MIB} wbps=max riops=max wiops=max"}),
    "--device-write-bps": (("--device-write-bps", f"{LOOP}:1m"),
                           {("blkio", "blkio.throttle.write_bps_device"): f"7:0 {MIB}"},
                           {"io.max": f"7:0 rbps=max wbps={MIB} riops=max wiops=max"}),
    "--device-read-iops": (("--device-read-iops", f"{LOOP}:99"),
                           {("blkio", "blkio.throttle.read_iops_device"): "7:0 99"},
                           {"io.max": "7:0 rbps=max wbps=max riops=99 wiops=max"}),
    "--device-write-iops": (("--device-write-iops", f"{LOOP}:99"),
                            {("blkio", "blkio.throttle.write_iops_device"): "7:0 99"},
                            {"io.max": "7:0 rbps=max wbps=max riops=max wiops=99"}),
    "no limit": ((), {("pids", "pids.max"): "max"}, {"pids.max": "max"}),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_limit_in_the_group(store, busybox, name):
    options, legacy, unified = LIMITS[name]
    identifier = store.detach(*options, "--rootfs", busybox, "sleep", "100")
    directories = store.process(identifier)["cgroup"]["directories"]
    checked = 0
    for (controller, file), value in legacy.items():
        if controller in directories:
            assert _file(directories[controller], file) == value, file
            checked += 1
    for file, value in unified.items():
        if "unified" in directories and os.path.exists(f"{directories['unified']}/{file}"):
            assert re.fullmatch(value, _file(directories["unified"], file)), file
            checked += 1
    store.command("rm", "-f", identifier, code=0)
    assert store.settled() == []
    if not checked:
        pytest.skip("no hierarchy here has this controller")


def _file(directory, name):
    with open(f"{directory}/{name}") as text:
        return text.read().strip()


def test_memory_is_enforced_and_the_record_says_so(store, busybox):
    script = "tail -c 60m /dev/zero"  # tail keeps what it may have to print
    store.run("--name", "fat", "-m", "32m", "--memory-swap", "32m", "--rootfs", busybox, "sh", "-c", script, code=137)
    identifier = store.identifier("fat")
    ended = json.loads((store.root / f"containers/{identifier}/exit.json").read_text())
    assert (ended["code"], ended["oom"]) == (137, True)


def test_pids_limit_is_enforced(shared_store, busybox):
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 2 & done; wait"
    result = shared_store.run("--rm", "--pids-limit", "6", "--rootfs", busybox, "sh", "-c", script)
    assert "can't fork" in result.err and result.code != 0


def test_the_container_is_in_its_group_from_its_first_process_on(shared_store, busybox):
    result = shared_store.run("--rm", "--cgroupns", "host", "--rootfs", busybox, "cat", "/proc/self/cgroup", code=0)
    lines = [line.split(":", 2) for line in result.lines]
    named = [path for _, name, path in lines if (name.split(",")[0] or "unified") in MOUNTS]
    assert named and all(shared_store.group in path for path in named)


def test_cgroups_show_themselves_as_the_root(shared_store, busybox):
    script = "cut -d: -f3 /proc/self/cgroup | sort -u"
    result = shared_store.run("--rm", "-m", "48m", "--rootfs", busybox, "sh", "-c", script, code=0)
    assert result.lines[0] == "/"
    if "memory" in MOUNTS:
        limit = shared_store.run(
            "--rm", "-m", "48m", "--rootfs", busybox, "cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes", code=0
        )
        assert limit.out.strip() == str(48 * MIB)


RLIMITS = {
    "nofile": ("nofile=100:200", "Max open files", ["100", "200"]),
    "one number": ("nofile=111", "Max open files", ["111", "111"]),
    "fsize": ("fsize=4096", "Max file size", ["4096", "4096"]),
    "core": ("core=0", "Max core file size", ["0", "0"]),
    "nproc": ("nproc=50:60", "Max processes", ["50", "60"]),
    "cpu": ("cpu=5:6", "Max cpu time", ["5", "6"]),
    "stack": ("stack=8388608", "Max stack size", ["8388608", "8388608"]),
    # small address spaces break interpreters: nothing of ours may run when they take effect
    "address space": ("as=20000000", "Max address space", ["20000000", "20000000"]),
    "data": ("data=8000000", "Max data size", ["8000000", "8000000"]),
}


@pytest.mark.parametrize("name", RLIMITS)
def test_ulimit(shared_store, busybox, name):
    option, row, expected = RLIMITS[name]
    result = shared_store.run("--rm", "--ulimit", option, "--rootfs", busybox, "cat", "/proc/self/limits", code=0)
    (line,) = [line for line in result.lines if line.startswith(row)]
    assert line[len(row) :].split()[:2] == expected


def test_a_ulimit_above_the_hard_limit_is_clamped_with_a_warning_or_granted(shared_store, busybox):
    result = shared_store.run("--rm", "--ulimit", "nofile=900000", "--rootfs", busybox, "sh", "-c", "ulimit -n", code=0)
    if result.out.strip() != "900000":
        assert int(result.out) > 0
        assert result.err.startswith("coracle: warning: RLIMIT_NOFILE 900000") and result.err.count("\n") == 1


def test_oom_score(shared_store, busybox):
    result = shared_store.run("--rm", "--oom-score-adj", "321", "--rootfs", busybox, "cat", "/proc/self/oom_score_adj")
    assert (result.out, result.err) == ("321\n", "")


def test_a_limit_that_this_kernel_lacks_is_named(shared_store, busybox):
    result = shared_store.run("--rm", "--blkio-weight", "300", "--rootfs", busybox, "true")
    if result.code:
        assert result.code == 125 and "weight" in result.err and result.err.count("\n") == 1


def test_cgroup_parent(store, busybox):
    parent = f"{store.group}/inner"
    identifier = store.detach("--cgroup-parent", parent, "--rootfs", busybox, "sleep", "100")
    directories = store.process(identifier)["cgroup"]["directories"].values()
    assert all(path.endswith(f"{parent}/{identifier}") for path in directories)
    store.command("rm", "-f", identifier, code=0)
    assert store.settled() == []
