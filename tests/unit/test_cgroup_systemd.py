"""The pure parts of the systemd driver."""

from __future__ import annotations

import pytest

from coracle.errors import SpecError
from coracle.linux.cgroup.systemd import expand_slice, parse, properties
from coracle.linux.cgroup.systemd_bus import unit_object

UNLIMITED = str((1 << 64) - 1)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("system.slice", "system.slice"),
        ("test-a-b.slice", "test.slice/test-a.slice/test-a-b.slice"),
        ("-.slice", ""),
        ("user-1000.slice", "user.slice/user-1000.slice"),
        ("a_b.c.slice", "a_b.c.slice"),
    ],
)
def test_expand_slice(name, path) -> None:
    assert expand_slice(name) == path


@pytest.mark.parametrize(
    "name", ["", ".slice", "a", "a.scope", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "a b.slice", "../x.slice"]
)
def test_expand_slice_refuses(name) -> None:
    with pytest.raises(SpecError):
        expand_slice(name)


@pytest.mark.parametrize(
    ("path", "user", "result"),
    [
        ("system.slice:docker:abc", False, ("system.slice", "docker-abc.scope")),
        (":libpod:abc", False, ("system.slice", "libpod-abc.scope")),
        (":libpod:abc", True, ("user.slice", "libpod-abc.scope")),
        ("machine.slice::abc", False, ("machine.slice", "abc.scope")),
        ("a.slice:x:kube-b.slice", False, ("a.slice", "kube-b.slice")),
        ("", False, ("system.slice", "coracle-id1.scope")),
        ("/coracle/id1", True, ("user.slice", "coracle-id1.scope")),
    ],
)
def test_parse(path, user, result) -> None:
    assert parse(path, "id1", user) == result


@pytest.mark.parametrize(
    "path",
    ["/a/b", "a:b", "a:b:c:d", "a.slice:b:", "a.slice:b:c/d", "a.slice:b:c d", "a.slice:b:" + "c" * 255, "a:b:c"],
)
def test_parse_refuses(path) -> None:
    with pytest.raises(SpecError, match=r"linux.cgroupsPath"):
        parse(path, "id1", False)


def test_unit_object_is_escaped_like_sd_bus_does() -> None:
    assert unit_object("libpod-1a.scope") == "/org/freedesktop/systemd1/unit/libpod_2d1a_2escope"
    assert unit_object("1a.scope") == "/org/freedesktop/systemd1/unit/_31a_2escope"


def test_properties_v2() -> None:
    resources = {
        "memory": {"limit": 64, "swap": 100, "reservation": 32},
        "cpu": {"shares": 1024, "quota": 50500, "period": 100000, "cpus": "0,3,9", "mems": "0"},
        "pids": {"limit": 0},
    }
    assert properties(resources, True) == [
        ("MemoryMax", "t", "64"),
        ("MemorySwapMax", "t", "36"),
        ("MemoryLow", "t", "32"),
        ("CPUWeight", "t", "100"),
        ("CPUQuotaPeriodUSec", "t", "100000"),
        ("CPUQuotaPerSecUSec", "t", "510000"),
        ("AllowedCPUs", "ay", "2", "9", "2"),
        ("AllowedMemoryNodes", "ay", "1", "1"),
        ("TasksMax", "t", "1"),
    ]


def test_properties_v1() -> None:
    resources = {
        "memory": {"limit": -1, "swap": -1},
        "cpu": {"shares": 512, "quota": -1, "cpus": "0"},
        "pids": {"limit": -1},
    }
    assert properties(resources, False) == [
        ("MemoryLimit", "t", UNLIMITED),
        ("CPUShares", "t", "512"),
        ("CPUQuotaPerSecUSec", "t", UNLIMITED),
        ("TasksMax", "t", UNLIMITED),
    ]


def test_no_resources_no_properties() -> None:
    assert properties({}, True) == properties({"memory": None, "cpu": {}}, False) == []
