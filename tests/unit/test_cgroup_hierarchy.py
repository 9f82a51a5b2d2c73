"""Finding hierarchies from the texts of /proc, as several kinds of machines show them."""

from __future__ import annotations

from coracle.linux.cgroup.hierarchy import detect

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID_MEMBERSHIP = "3:memory:/api/x\n2:cpu,cpuacct:/\n1:name=systemd:/user.slice\n0::/user.slice\n"


def test_hybrid() -> None:
    found = detect(HYBRID, HYBRID_MEMBERSHIP)
    assert found.kind == "hybrid"
    assert found.mounts == {
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
        "name=systemd": "/sys/fs/cgroup/systemd",
        "unified": "/sys/fs/cgroup/unified",
    }
    assert found.own == {
        "cpu": "/",
        "cpuacct": "/",
        "memory": "/api/x",
        "name=systemd": "/user.slice",
        "unified": "/user.slice",
    }


def test_pure_v1() -> None:
    found = detect("\n".join(HYBRID.splitlines()[:-1]), HYBRID_MEMBERSHIP)
    assert found.kind == "v1"
    assert "unified" not in found.mounts


def test_pure_v2() -> None:
    found = detect("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/user.slice/user-1000.slice\n")
    assert (found.kind, found.mounts) == ("v2", {"unified": "/sys/fs/cgroup"})
    assert found.own == {"unified": "/user.slice/user-1000.slice"}


def test_systemds_own_v1_hierarchy_beside_v2_has_no_controllers() -> None:
    mounts = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n2 0 0:2 / /run/sys rw - cgroup none rw,name=systemd\n"
    assert detect(mounts, "1:name=systemd:/\n0::/\n").kind == "v2"


def test_nothing_mounted() -> None:
    found = detect("23 1 254:0 / / rw - ext4 /dev/vda rw\n", HYBRID_MEMBERSHIP)
    assert (found.kind, found.mounts, found.own) == ("none", {}, {})


def test_hierarchy_of_another_mount_namespace_is_left_out() -> None:
    assert "hugetlb" not in detect(HYBRID, HYBRID_MEMBERSHIP + "11:hugetlb:/\n").mounts


def test_mount_options_are_not_controllers() -> None:
    mounts = "1 0 0:1 / /cg rw - cgroup none rw,clone_children,release_agent=/x,cpuset_v2_mode,cpuset\n"
    assert list(detect(mounts, "1:cpuset:/\n").mounts) == ["cpuset"]


def test_bind_mounted_group_of_a_container_without_cgroup_namespace() -> None:
    mounts = "1 0 0:1 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    assert detect(mounts, "3:memory:/docker/abc\n").own == {"memory": "/"}
    assert detect(mounts, "3:memory:/docker/abc/sub\n").own == {"memory": "/sub"}
    assert detect(mounts, "3:memory:/docker/abcdef\n").own == {"memory": "/"}


def test_own_group_outside_of_the_cgroup_namespace() -> None:
    assert detect("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/../other\n").own == {"unified": "/"}


def test_usual_place_wins_over_copies_elsewhere() -> None:
    copy = "90 23 0:32 / /var/lib/x/merged/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    for text in (copy + HYBRID, HYBRID + copy):
        assert detect(text, HYBRID_MEMBERSHIP).mounts["memory"] == "/sys/fs/cgroup/memory"


def test_escaped_mount_point() -> None:
    mounts = "1 0 0:1 / /my\\040cg\\134x rw - cgroup2 none rw\n"
    assert detect(mounts, "0::/\n").mounts == {"unified": "/my cg\\x"}


def test_colon_in_a_group_name() -> None:
    assert detect("1 0 0:1 / /cg rw - cgroup2 none rw\n", "0::/a:b:c\n").own == {"unified": "/a:b:c"}
