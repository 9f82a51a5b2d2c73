"""Usage read from control files of both versions, in the shape of ``runc events --stats``."""

from __future__ import annotations

import pytest

from coracle.linux.cgroup import files, statistics
from coracle.linux.cgroup.memory import oom_kills

MAX = (1 << 64) - 1


def fill(directory, contents):
    for name, text in contents.items():
        (directory / name).write_text(text)


def collect(tmp_path, controllers):
    return statistics.collect(controllers, dict.fromkeys({*controllers.values(), "unified"}, str(tmp_path)))


def test_v2(tmp_path) -> None:
    fill(
        tmp_path,
        {
            "cpu.stat": "usage_usec 100\nuser_usec 60\nsystem_usec 40\n"
            "nr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
            "cpu.pressure": "some avg10=0.50 avg60=0.00 avg300=1.25 total=99\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
            "memory.current": "1000\n",
            "memory.max": "5000\n",
            "memory.peak": "2000\n",
            "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\n",
            "memory.swap.current": "10\n",
            "memory.swap.max": "100\n",
            "memory.stat": "anon 600\nfile 400\n",
            "pids.current": "4\n",
            "pids.max": "max\n",
            "pids.events": "max 6\n",
            "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nunknown\n",
            "hugetlb.2MB.current": "8\n",
            "hugetlb.2MB.rsvd.current": "9\n",
            "hugetlb.2MB.events": "max 1\n",
            "cpuset.cpus.effective": "0-2,5\n",
            "cpuset.mems.effective": "0\n",
        },
    )
    names = ("cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb", "cpuset")
    data = collect(tmp_path, dict.fromkeys(names, "unified"))
    assert data == {
        "cpu": {
            "usage": {"total": 100000, "kernel": 40000, "user": 60000},
            "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 7000},
            "psi": {
                "some": {"avg10": 0.5, "avg60": 0.0, "avg300": 1.25, "total": 99},
                "full": {"avg10": 0.0, "avg60": 0.0, "avg300": 0.0, "total": 0},
            },
        },
        "cpuset": {"cpus": [0, 1, 2, 5], "mems": [0]},
        "memory": {
            "cache": 400,
            "usage": {"limit": 5000, "usage": 1000, "max": 2000, "failcnt": 3},
            "swap": {"limit": 5100, "usage": 1010, "max": 0, "failcnt": 0},
            "kernel": {},
            "kernelTCP": {},
            "raw": {"anon": 600, "file": 400},
        },
        "pids": {"current": 4, "limit": 0, "failcnt": 6},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 8, "minor": 0, "op": "Read", "value": 1},
                {"major": 8, "minor": 0, "op": "Write", "value": 2},
                {"major": 8, "minor": 0, "op": "Discard", "value": 5},
            ],
            "ioServicedRecursive": [
                {"major": 8, "minor": 0, "op": "Read", "value": 3},
                {"major": 8, "minor": 0, "op": "Write", "value": 4},
                {"major": 8, "minor": 0, "op": "Discard", "value": 6},
            ],
        },
        "hugetlb": {"2MB": {"usage": 9, "max": 0, "failcnt": 1}},
    }
    assert oom_kills(str(tmp_path), True) == 2


def test_v2_without_limits(tmp_path) -> None:
    fill(
        tmp_path,
        {"memory.current": "1\n", "memory.max": "max\n", "memory.swap.current": "2\n", "memory.swap.max": "max\n"},
    )
    memory = collect(tmp_path, {"memory": "unified"})["memory"]
    assert memory["usage"]["limit"] == memory["swap"]["limit"] == MAX
    assert memory["swap"]["usage"] == 3


def test_v1(tmp_path) -> None:
    fill(
        tmp_path,
        {
            "cpuacct.usage": "500\n",
            "cpuacct.usage_percpu": "300 200 \n",
            "cpuacct.usage_all": "cpu user system\n0 100 200\n1 150 50\n",
            "cpuacct.stat": "user 3\nsystem 4\n",
            "cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 7\n",
            "memory.usage_in_bytes": "1000\n",
            "memory.max_usage_in_bytes": "2000\n",
            "memory.limit_in_bytes": "9223372036854771712\n",
            "memory.failcnt": "3\n",
            "memory.memsw.usage_in_bytes": "1010\n",
            "memory.stat": "cache 400\nrss 600\n",
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
            "pids.current": "4\n",
            "pids.max": "20\n",
            "blkio.bfq.io_serviced_recursive": "Total 0\n",
            "blkio.throttle.io_service_bytes_recursive": "254:16 Read 4096\n254:16 Total 4096\nTotal 4096\n",
            "blkio.throttle.io_serviced_recursive": "254:16 Read 1\n254:16 Total 1\nTotal 1\n",
            "hugetlb.2MB.usage_in_bytes": "0\n",
            "hugetlb.2MB.max_usage_in_bytes": "4\n",
            "hugetlb.2MB.failcnt": "2\n",
            "cpuset.cpus": "0-1\n",
            "cpuset.sched_relax_domain_level": "-1\n",
        },
    )
    data = collect(
        tmp_path, {name: name for name in ("cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb", "cpuset")}
    )
    assert data["cpu"] == {
        "usage": {
            "total": 500,
            "percpu": [300, 200],
            "percpu_kernel": [200, 50],
            "percpu_user": [100, 150],
            "kernel": 40_000_000,
            "user": 30_000_000,
        },
        "throttling": {"periods": 5, "throttledPeriods": 2, "throttledTime": 7},
    }
    assert data["memory"]["usage"] == {"limit": 9223372036854771712, "usage": 1000, "max": 2000, "failcnt": 3}
    assert data["memory"]["swap"]["usage"] == 1010
    assert data["memory"]["cache"] == 400
    assert data["pids"] == {"current": 4, "limit": 20, "failcnt": 0}
    assert data["blkio"]["ioServicedRecursive"] == [
        {"major": 254, "minor": 16, "op": "Read", "value": 1},
        {"major": 254, "minor": 16, "op": "Total", "value": 1},
    ]
    assert data["hugetlb"] == {"2MB": {"usage": 0, "max": 4, "failcnt": 2}}
    assert (data["cpuset"]["cpus"], data["cpuset"]["sched_relax_domain_level"]) == ([0, 1], -1)
    assert oom_kills(str(tmp_path), False) == 5


def test_no_controllers_still_has_every_section(tmp_path) -> None:
    assert statistics.collect({}, {}) == {"cpu": {}, "cpuset": {}, "memory": {}, "pids": {}, "blkio": {}, "hugetlb": {}}


def test_a_group_that_is_gone_counts_nothing(tmp_path) -> None:
    gone = {name: str(tmp_path / "gone") for name in ("memory", "hugetlb", "blkio")}
    data = statistics.collect({name: name for name in gone}, gone)
    assert data["memory"]["usage"] == {"limit": 0, "usage": 0, "max": 0, "failcnt": 0}
    assert data["hugetlb"] == {}


@pytest.mark.parametrize(("text", "number"), [("5\n", 5), ("max\n", MAX), ("-1\n", -1), ("", 0), ("garbage", 0)])
def test_number(text, number) -> None:
    assert files.number(text) == number


@pytest.mark.parametrize(("text", "members"), [("0-2,5\n", [0, 1, 2, 5]), ("\n", []), ("7", [7])])
def test_ranges(text, members) -> None:
    assert files.ranges(text) == members
