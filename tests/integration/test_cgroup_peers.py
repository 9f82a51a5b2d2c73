"""The same linux.resources through runc and crun and through us leave the same values in the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest
from cgroup_processes import HIERARCHIES, forever, groups, legacy, root  # noqa: F401

from coracle.linux.cgroup.devices import STANDARD
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import detect
from coracle.linux.cgroup.settings import settings

BUSYBOX = "/bin/busybox"
pytestmark = [
    pytest.mark.root,
    pytest.mark.peer,
    root,
    legacy,
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason="needs busybox-static for a root file system"),
]

MIB = 1 << 20
HUGETLB = "/sys/fs/cgroup/hugetlb"
RESOURCES = {
    "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "reservation": 32 * MIB, "swappiness": 10},
    "cpu": {"shares": 512, "quota": 50000, "period": 200000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 20},
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ],
}
FILES = {
    "memory": (
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.soft_limit_in_bytes",
        "memory.swappiness",
        "memory.oom_control",
        "memory.use_hierarchy",
    ),
    "cpu": ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.rt_runtime_us", "cpu.idle"),
    "cpuset": ("cpuset.cpus", "cpuset.mems"),
    "pids": ("pids.max",),
    "blkio": ("blkio.throttle.read_bps_device",),
}
# Each runtime adds devices of its own taste to the list: runc the tun device, crun the console.
TASTES = {"c 10:200 rwm", "c 5:1 rwm"}


def values(group: Cgroup):
    return {name: group.read(hierarchy, name) for hierarchy, names in FILES.items() for name in names}


def devices(group: Cgroup):
    return set(group.read("devices", "devices.list").splitlines()) - TASTES


def bundle(directory, path: str) -> None:
    (directory / "rootfs/bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, directory / "rootfs/bin/busybox")
    for name in ("proc", "dev"):
        (directory / "rootfs" / name).mkdir()
    spaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    process = {"args": ["/bin/busybox", "sleep", "100"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]}
    spec = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": path, "namespaces": spaces, "resources": RESOURCES},
    }
    (directory / "config.json").write_text(json.dumps(spec))


@pytest.fixture
def peer(tmp_path, request):
    """(group of a container that the runtime ``request.param`` started, its name, its command line)."""
    if not shutil.which(request.param):
        pytest.skip(f"{request.param} is not installed")
    path, name = f"/coracle-test-peer-{os.getpid()}", f"coracle-test-{os.getpid()}"
    bundle(tmp_path, path)
    command = [request.param, "--root", str(tmp_path / "state")]
    # crun takes hybrid mode only with every controller of its list mounted: do that in a mount namespace of its own.
    line = f"mkdir -p {HUGETLB}; mount -t cgroup -o hugetlb hugetlb {HUGETLB} 2>/dev/null; "
    inside = ["unshare", "-m", "sh", "-c", f'{line if request.param == "crun" else ""}exec "$@"', "sh"]
    # The directory below it is everybody's, and removing it would take the mounts of others away.
    point_is_ours = request.param == "crun" and not os.path.exists(HUGETLB)
    with open(tmp_path / "errors", "w") as errors:  # no pipe: the container keeps its standard error
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": errors}
        start = subprocess.run([*inside, *command, "run", "-d", "-b", str(tmp_path), name], **quiet, check=False)
    if point_is_ours:
        _remove_mount_point()
    try:
        if start.returncode:
            pytest.skip(
                f"{request.param} cannot run a container here: {(tmp_path / 'errors').read_text().strip()[-200:]}"
            )
        yield Cgroup(path, detect()), name, command
    finally:
        subprocess.run([*inside, *command, "delete", "-f", name], capture_output=True, check=False)
        if point_is_ours:
            _remove_mount_point()


def _remove_mount_point() -> None:
    try:
        os.rmdir(HUGETLB)
    except OSError:
        pass  # somebody else uses it


@pytest.mark.parametrize("peer", ["runc", "crun"], indirect=True)
def test_same_files_same_values(peer, groups) -> None:  # noqa: F811
    theirs, _, _ = peer
    ours = groups.new()
    for item in settings(RESOURCES | {"devices": [*RESOURCES["devices"], *STANDARD]}, ours.controllers()):
        item.apply(ours.directories, pytest.fail)
    expected = values(theirs)
    assert expected["memory.limit_in_bytes"] == f"{64 * MIB}\n", "the peer did not apply the limits"
    assert values(ours) == expected
    assert devices(ours) == devices(theirs)


@pytest.mark.parametrize("peer", ["runc"], indirect=True)
def test_statistics_have_the_shape_and_the_numbers_of_runc(peer) -> None:
    group, name, command = peer
    done = subprocess.run([*command, "events", "--stats", name], capture_output=True, text=True, check=True)
    theirs, ours = json.loads(done.stdout)["data"], group.stats()

    def compare(wanted, have, where: str) -> None:
        for key, value in wanted.items():
            assert key in have, f"{where}.{key} is missing"
            if isinstance(value, dict):
                compare(value, have[key], f"{where}.{key}")
            else:
                assert isinstance(have[key], type(value)), f"{where}.{key}"

    for section in ("cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"):
        compare(theirs[section], ours[section], section)
    for section, path in (
        ("memory", ("usage", "limit")),
        ("memory", ("swap", "limit")),
        ("memory", ("raw", "pgmajfault")),
    ):
        key, inner = path
        assert ours[section][key][inner] == theirs[section][key][inner]
    assert {key: ours["pids"][key] for key in ("current", "limit")} == theirs["pids"]
    assert ours["cpuset"] == theirs["cpuset"]
    operations = [
        (entry["major"], entry.get("minor", 0), entry["op"]) for entry in theirs["blkio"].get("ioServicedRecursive", [])
    ]
    assert [
        (entry["major"], entry["minor"], entry["op"]) for entry in ours["blkio"]["ioServicedRecursive"]
    ] == operations


@pytest.mark.parametrize("peer", ["runc"], indirect=True)
def test_a_foreign_group_can_be_frozen_and_killed(peer) -> None:
    """Groups that somebody else made work too, even where nobody joined them by CLONE_INTO_CGROUP."""
    group, name, command = peer
    assert len(group.processes()) == 1
    group.freeze()
    assert group.frozen
    group.kill()
    assert group.wait_empty(5)
    group.delete()  # not ours: stays
    assert group.exists()
    state = subprocess.run([*command, "state", name], capture_output=True, text=True, check=True)
    assert json.loads(state.stdout)["status"] == "stopped"
