"""Options, image and machine to config.json: what docker's own configs (test_container_spec_docker) do not show."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from coracle.engine.container_spec import ContainerSpec, Device, Host, build, host_name, labels, shared_namespaces
from coracle.engine.container_spec.causes import _PATHS as PATHS
from coracle.engine.container_spec.causes import cause_of, causes, reason
from coracle.engine.container_spec.isolation import MASKED, READ_ONLY
from coracle.engine.options import RUN, RunOptions, parse_run
from coracle.engine.user import User
from coracle.errors import UsageError
from coracle.runtime.spec import validate

ID = "0123456789abcdef" * 4
OWN = ([(0, 1000, 1), (1, 100000, 65536)], [(0, 1000, 1), (1, 100000, 65536)])


class Machine(Host):
    """A machine with the given properties; the file system is the real one."""

    __slots__ = ("facts",)

    def __init__(self, environ: dict[str, str] | None = None, **facts: Any) -> None:
        super().__init__(environ or {})
        self.facts = {
            "capabilities": (1 << 41) - 1, "last_capability": 40, "cpu_count": 2, "online_cpus": "0-1",
            "memory_nodes": "0", "swap_limit": True, "has_apparmor": False, "has_selinux": False,
            "hostname": "machine", "propagation": "private", "throttle_directories": [], "devices": [], **facts,
        }  # fmt: skip

    def capabilities(self) -> int:
        return int(self.facts["capabilities"])

    def last_capability(self) -> int:
        return int(self.facts["last_capability"])

    def cpu_count(self) -> int:
        return int(self.facts["cpu_count"])

    def online_cpus(self) -> str:
        return str(self.facts["online_cpus"])

    def memory_nodes(self) -> str:
        return str(self.facts["memory_nodes"])

    def swap_limit(self) -> bool:
        return bool(self.facts["swap_limit"])

    def has_apparmor(self) -> bool:
        return bool(self.facts["has_apparmor"])

    def has_selinux(self) -> bool:
        return bool(self.facts["has_selinux"])

    def hostname(self) -> str:
        return str(self.facts["hostname"])

    def propagation(self, path: str) -> str:
        return str(self.facts["propagation"])

    def throttle_directories(self) -> list[str]:
        return list(self.facts["throttle_directories"])

    def devices(self, directory: str) -> list[Device]:
        return list(self.facts["devices"])


def spec(*argv: str, image: dict[str, Any] | None = None, host: Host | None = None, **more: Any) -> ContainerSpec:
    options, rest = parse_run([*argv, "image", "sh"])
    more.setdefault("user", User(0, 0, [0], "/root"))
    result = build(options, image or {}, identifier=ID, arguments=rest[1:], host=host or Machine(), **more)
    validate(json.loads(json.dumps(result.config)))  # whatever is built has to be a valid config
    return result


def config(*argv: str, **more: Any) -> dict[str, Any]:
    return spec(*argv, **more).config


def complaint(*argv: str, **more: Any) -> str:
    with pytest.raises(UsageError) as caught:
        spec(*argv, **more)
    return str(caught.value)


def mounts(*argv: str, **more: Any) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in config(*argv, **more)["mounts"]}


def kinds(found: dict[str, Any]) -> set[str]:
    return {entry["type"] for entry in found["linux"]["namespaces"]}


def environment(*argv: str, **more: Any) -> dict[str, str]:
    return dict(word.split("=", 1) for word in config(*argv, **more)["process"]["env"])


# -- process --------------------------------------------------------------------------------------


def test_environment_in_dockers_order() -> None:
    image = {"Env": ["PATH=/image", "LANG=C"]}
    words = config("-t", "-e", "A=b=c", "-e", "LANG=D", image=image)["process"]["env"]
    assert words == ["PATH=/image", "HOSTNAME=0123456789ab", "TERM=xterm", "LANG=D", "A=b=c", "HOME=/root"]


def test_environment_passed_on_or_removed() -> None:
    host = Machine({"MINE": "1", "http_proxy": "p", "NO_PROXY": "n"})
    assert environment("-e", "MINE", host=host)["MINE"] == "1"
    assert "LANG" not in environment("-e", "LANG", image={"Env": ["LANG=C"]}, host=host)
    assert "MINE" not in environment(host=host)
    assert environment("--env-host", "-e", "MINE=2", host=host)["MINE"] == "2"
    assert environment("--http-proxy", host=host).items() >= {"http_proxy": "p", "NO_PROXY": "n"}.items()
    assert "http_proxy" not in environment(host=host)
    assert "LANG" not in environment("--unsetenv", "LANG", image={"Env": ["LANG=C"]})
    assert environment("--unsetenv-all", "-e", "A=b", image={"Env": ["LANG=C"]}) == {"A": "b"}
    assert environment("-e", "HOME=/x")["HOME"] == "/x"
    assert environment("--tz", "Europe/Paris")["TZ"] == "Europe/Paris"


def test_environment_files(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("\ufeff# comment\n\nA=1\n  B= two words # no comment \nMINE\nNONE\nEMPTY=\nQ='x'\r\n", "utf-8")
    found = environment("--env-file", str(file), "-e", "A=2", host=Machine({"MINE": "m"}))
    assert {name: found.get(name) for name in ("A", "B", "MINE", "NONE", "EMPTY", "Q")} == {
        "A": "2", "B": " two words # no comment ", "MINE": "m", "NONE": None, "EMPTY": "", "Q": "'x'",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"A =1\n", "line 1: 'A ' is not a name"),
        (b"ok=1\n=1\n", "line 2: '' is not a name"),
        (b"A B\n", "line 1: 'A B' is not a name"),
        (b"A=\xff\n", "is not UTF-8 text"),
        (b"A=\0\n", "line 1"),
    ],
)
def test_bad_environment_files(tmp_path: Path, text: bytes, line: str) -> None:
    file = tmp_path / "env"
    file.write_bytes(text)
    assert line in complaint("--env-file", str(file))
    assert "no such file or directory" in complaint("--env-file", str(tmp_path / "gone"))


def test_labels(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text("a=file\nb=file\nbare\n")
    options, _ = parse_run(["--label-file", str(file), "-l", "b=line", "-l", "c", "image"])
    image = {"Labels": {"a": "image", "z": "image"}}
    assert labels(options, image, Machine()) == {"a": "file", "z": "image", "b": "line", "bare": "", "c": ""}
    assert image == {"Labels": {"a": "image", "z": "image"}}


def test_user_other_than_root_gets_the_bounding_set_only() -> None:
    process = config(user=User(1000, 1001, [1001, 10], "/home/app"))["process"]
    assert process["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [1001, 10], "umask": 0o022}
    assert set(process["capabilities"]) == {"bounding"}
    assert "HOME=/home/app" in process["env"]


def test_all_means_what_can_be_given() -> None:
    host = Machine(capabilities=(1 << 41) - 1 - (1 << 24))  # without CAP_SYS_RESOURCE
    granted = config("--cap-add", "ALL", host=host)["process"]["capabilities"]["effective"]
    assert "CAP_SYS_RESOURCE" not in granted and len(granted) == 40
    assert (
        "CAP_SYS_RESOURCE"
        in config("--cap-add", "ALL", "--cap-add", "SYS_RESOURCE", host=host)["process"]["capabilities"]["effective"]
    )  # asked for by name: the runtime says what it thinks of that
    inside = config("--cap-add", "ALL", "--uidmap", "0:100000:65536", host=host)["process"]["capabilities"]["effective"]
    assert len(inside) == 41  # a new user namespace has them all
    assert len(config("--privileged", host=Machine(last_capability=37))["process"]["capabilities"]["bounding"]) == 38


def test_privileged_respects_dropped_capabilities() -> None:
    granted = config("--privileged", "--cap-drop", "SYS_MODULE", "--cap-drop", "MKNOD")["process"]["capabilities"][
        "bounding"
    ]
    assert len(granted) == 39 and "CAP_SYS_MODULE" not in granted
    assert config("--privileged", "--cap-drop", "all", "--cap-add", "chown")["process"]["capabilities"]["bounding"] == [
        "CAP_CHOWN"
    ]


def test_the_last_limit_of_a_kind_wins() -> None:
    limits = config("--ulimit", "nofile=1:2", "--ulimit", "core=0", "--ulimit", "nofile=3:4")["process"]["rlimits"]
    assert limits == [{"type": "RLIMIT_NOFILE", "soft": 3, "hard": 4}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]


def test_terminal_size_only_with_a_terminal() -> None:
    assert config("-t", console_size=(25, 80))["process"]["consoleSize"] == {"height": 25, "width": 80}
    assert "consoleSize" not in config(console_size=(25, 80))["process"]
    assert "consoleSize" not in config("-t")["process"]


@pytest.mark.parametrize(
    ("given", "expected"), [("", "/"), ("/srv", "/srv"), ("srv//x/../y", "/srv/y"), ("/../..", "/"), ("//a", "/a")]
)
def test_working_directory_of_the_image(given: str, expected: str) -> None:
    assert config(image={"WorkingDir": given})["process"]["cwd"] == expected
    assert config("-w", "/own", image={"WorkingDir": given})["process"]["cwd"] == "/own"


def test_umask_and_score() -> None:
    assert config("--umask", "077")["process"]["user"]["umask"] == 0o77
    assert config("--oom-score-adj", "0")["process"]["oomScoreAdj"] == 0
    assert "oomScoreAdj" not in config()["process"]


def test_init_is_bound_and_called() -> None:
    found = config("--init", init_path="/usr/lib/init")
    assert found["process"]["args"] == ["/dev/init", "--", "sh"]
    assert found["mounts"][-1] == {
        "destination": "/dev/init", "type": "bind", "source": "/usr/lib/init", "options": ["bind", "ro"],
    }  # fmt: skip
    shared = spec("--init", "--pid", "host", init_path="/usr/lib/init")
    assert shared.config["process"]["args"] == ["sh"]
    assert shared.warnings == ["--init has no effect without a private pid namespace"]


# -- names ----------------------------------------------------------------------------------------


def test_host_names() -> None:
    def name(*argv: str) -> str:
        return host_name(parse_run([*argv, "image"])[0], ID, Machine())

    assert name() == "0123456789ab" and name("-h", "web") == "web"
    assert name("--network", "host") == "machine" and name("--uts", "host") == "machine"
    assert name("--network", "host", "-h", "web") == "web"
    assert "hostname" not in config("--uts", "host")
    assert config("-h", "a", "--domainname", "b.c").items() >= {"hostname": "a", "domainname": "b.c"}.items()


# -- namespaces -----------------------------------------------------------------------------------


def test_all_eight_namespaces() -> None:
    assert kinds(config()) == {"mount", "pid", "network", "ipc", "uts", "cgroup"}
    everything = config("--time-offset", "monotonic=-1.5", "--time-offset", "boottime=7", "--uidmap", "0:100000:65536")
    assert kinds(everything) == {"mount", "pid", "network", "ipc", "uts", "cgroup", "user", "time"}
    assert everything["linux"]["timeOffsets"] == {
        "monotonic": {"secs": -2, "nanosecs": 500_000_000}, "boottime": {"secs": 7, "nanosecs": 0},
    }  # fmt: skip
    shared = config("--pid=host", "--network=host", "--ipc=host", "--uts=host", "--cgroupns=host", "--userns=host")
    assert kinds(shared) == {"mount"}


def test_joined_namespaces() -> None:
    options, _ = parse_run(["--pid", "container:web", "--ipc", "container:db", "image"])
    assert shared_namespaces(options) == {"pid": "web", "ipc": "db"}
    argv = ("--pid", "container:web", "--ipc", "ns:/proc/9/ns/ipc")
    found = config(*argv, joined={"pid": "/proc/7/ns/pid"})["linux"]["namespaces"]
    assert {"type": "pid", "path": "/proc/7/ns/pid"} in found and {"type": "ipc", "path": "/proc/9/ns/ipc"} in found
    assert "has no pid namespace to share" in complaint(*argv)


def test_maps_of_ones_own() -> None:
    linux = config("--uidmap", "0:100000:65536", "--gidmap", "0:200000:10", "--gidmap", "10:300000:10")["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 100000, "size": 65536}]
    assert [entry["hostID"] for entry in linux["gidMappings"]] == [200000, 300000]
    assert config("--gidmap", "0:7:9")["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 7, "size": 9}]


def test_maps_through_the_users_own() -> None:
    """podman's rule: 0 is the caller, 1 and up are the subordinate ids."""
    linux = config("--uidmap", "0:1:10", "--uidmap", "10:0:1", id_map=OWN, rootless=True)["linux"]
    assert linux["uidMappings"] == [
        {"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 10, "hostID": 1000, "size": 1},
    ]  # fmt: skip
    across = config("--uidmap", "5:0:3", id_map=OWN, rootless=True)["linux"]["uidMappings"]
    assert [(one["containerID"], one["hostID"], one["size"]) for one in across] == [(5, 1000, 1), (6, 100000, 2)]
    assert "id 65537 is not among your subordinate ids" in complaint(
        "--uidmap", "0:65000:1000", id_map=OWN, rootless=True
    )


def test_mistaken_maps() -> None:
    assert "--userns private needs --uidmap" in complaint("--userns", "private")
    assert "--uidmap: ranges overlap" in complaint("--uidmap", "0:100:10", "--uidmap", "9:200:1")
    assert "--gidmap: ranges overlap" in complaint("--uidmap", "0:0:1", "--gidmap", "0:100:10", "--gidmap", "20:109:1")


# -- a user's own store ---------------------------------------------------------------------------


def test_rootless() -> None:
    found = config("--device", "/dev/null", rootless=True, id_map=OWN)
    assert "user" in kinds(found) and "devices" not in found["linux"]["resources"]
    assert found["linux"]["uidMappings"][1] == {"containerID": 1, "hostID": 100000, "size": 65536}
    assert found["linux"]["devices"][0]["path"] == "/dev/null"
    assert found["linux"]["sysctl"] == {"net.ipv4.ip_unprivileged_port_start": "0"}


def test_renamed_devices_are_bound_in_a_user_namespace() -> None:
    argv = ("--device", "/dev/null:/dev/nil", "--device", "/dev/zero")
    found = config(*argv, rootless=True, id_map=OWN)
    assert [device["path"] for device in found["linux"]["devices"]] == ["/dev/zero"]
    assert found["mounts"][-1] == {
        "destination": "/dev/nil", "type": "bind", "source": "/dev/null",
        "options": ["bind", "nosuid", "noexec", "rprivate"],
    }  # fmt: skip
    assert [device["path"] for device in config(*argv)["linux"]["devices"]] == ["/dev/nil", "/dev/zero"]


def test_terminals_have_their_group_only_if_it_is_mapped() -> None:
    single = ([(0, 1000, 1)], [(0, 1000, 1)])
    assert "gid=5" in mounts()["/dev/pts"]["options"]
    assert "gid=5" in mounts(rootless=True, id_map=OWN)["/dev/pts"]["options"]
    assert "gid=5" not in mounts(rootless=True, id_map=single)["/dev/pts"]["options"]


def test_what_belongs_to_the_host_is_bound_in_a_user_namespace() -> None:
    own = mounts("--network", "host", "--pid", "host", rootless=True, id_map=OWN)
    assert own["/sys"] == {
        "destination": "/sys", "type": "bind", "source": "/sys",
        "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rro"],
    }  # fmt: skip
    assert own["/proc"]["source"] == "/proc" and own["/proc"]["options"][-1] == "rw"
    root = mounts("--network", "host", "--pid", "host")
    assert root["/sys"]["type"] == "sysfs" and root["/proc"]["type"] == "proc"


# -- mounts ---------------------------------------------------------------------------------------


def test_order_and_override(tmp_path: Path) -> None:
    source = str(tmp_path)
    argv = (
        "-v",
        f"{source}:/a/b/c",
        "-v",
        f"{source}:/a",
        "--tmpfs",
        "/a/b",
        "--mount",
        f"type=bind,src={source},dst=/dev/shm",
    )
    found = config(*argv, etc={"/etc/hosts": "/store/hosts"})["mounts"]
    places = [mount["destination"] for mount in found]
    assert places[:6] == ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue"]
    assert places[6:] == ["/a", "/dev/shm", "/a/b", "/etc/hosts", "/a/b/c"]


def test_a_dev_of_ones_own_has_no_defaults_below() -> None:
    assert [place for place in mounts("-v", "/dev:/dev") if place.startswith("/dev")] == ["/dev"]


def test_user_files_replace_the_engines(tmp_path: Path) -> None:
    etc = {"/etc/hosts": "/store/hosts", "/etc/hostname": "/store/hostname"}
    found = mounts("-v", f"{tmp_path}:/etc/hosts", etc=etc)
    assert found["/etc/hosts"]["source"] == str(tmp_path) and found["/etc/hostname"]["source"] == "/store/hostname"


def test_missing_sources(tmp_path: Path) -> None:
    gone = f"{tmp_path}/gone"
    assert spec("-v", f"{gone}:/b").create_directories == [gone]
    assert spec("-v", f"{tmp_path}:/b").create_directories == []
    assert f"bind source {gone} does not exist" in complaint("--mount", f"type=bind,src={gone},dst=/b")
    assert spec("--mount", f"type=bind,src={gone},dst=/b,bind-create-src").create_directories == [gone]
    assert not os.path.exists(gone)


def test_one_mount_a_place(tmp_path: Path) -> None:
    assert complaint("-v", f"{tmp_path}:/b", "--tmpfs", "/b/") == "duplicate mount point: /b"


def test_recursively_read_only_as_docker_since_25(tmp_path: Path) -> None:
    def options(*argv: str) -> list[str]:
        return list(mounts(*argv)["/b"]["options"])

    assert options("-v", f"{tmp_path}:/b:ro") == ["rbind", "rro", "rprivate"]
    assert options("-v", f"{tmp_path}:/b:ro,bind") == ["bind", "ro", "rprivate"]
    assert options("-v", f"{tmp_path}:/b:noexec,nodev") == ["rbind", "rprivate", "noexec", "nodev"]


@pytest.mark.parametrize(
    ("wanted", "actual", "root"),
    [
        ("rshared", "shared", "shared"),
        ("rslave", "shared", "rslave"),
        ("slave", "slave", "rslave"),
        ("rprivate", "private", None),
    ],
)
def test_propagation(tmp_path: Path, wanted: str, actual: str, root: str | None) -> None:
    linux = config("-v", f"{tmp_path}:/b:{wanted}", host=Machine(propagation=actual))["linux"]
    assert linux.get("rootfsPropagation") == root


@pytest.mark.parametrize(("wanted", "actual"), [("shared", "private"), ("shared", "slave"), ("rslave", "private")])
def test_propagation_that_cannot_be(tmp_path: Path, wanted: str, actual: str) -> None:
    line = complaint("-v", f"{tmp_path}:/b:{wanted}", host=Machine(propagation=actual))
    assert f"is not on a {wanted.removeprefix('r')} mount" in line


def test_id_mapped_binds_need_a_user_namespace(tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/b,idmap"
    assert "needs a user namespace" in complaint("--mount", mount)
    assert "idmap" in mounts("--mount", mount, "--uidmap", "0:100000:9")["/b"]["options"]


def test_shared_memory() -> None:
    assert "size=1024" in mounts("--shm-size", "1k")["/dev/shm"]["options"]
    assert "/dev/shm" not in mounts("--ipc", "none")
    assert mounts("--ipc", "host")["/dev/shm"]["source"] == "/dev/shm"
    joined = {"ipc": "/proc/7/ns/ipc"}
    assert mounts("--ipc", "container:x", joined=joined, shm="/store/shm")["/dev/shm"]["source"] == "/store/shm"
    private = spec("--ipc", "container:x", joined=joined)
    assert "/dev/shm stays private" in private.warnings[0]


def test_read_only_with_memory_for_what_has_to_be_written() -> None:
    assert "/tmp" not in mounts("--read-only")
    found = mounts("--read-only", "--read-only-tmpfs", "--tmpfs", "/run:size=1m")
    assert "mode=1777" in found["/tmp"]["options"] and "size=1m" in found["/run"]["options"]
    assert "/tmp" not in mounts("--read-only-tmpfs")
    etc = {"/etc/hosts": "/store/hosts"}
    assert mounts("--read-only", etc=etc)["/etc/hosts"]["options"] == ["rbind", "ro", "rprivate"]


def test_volumes_of_the_image() -> None:
    image = {"Volumes": {"/data": {}, "/srv/x/": {}}}
    assert "/data" not in mounts(image=image)
    assert mounts("--image-volume", "tmpfs", "--tmpfs", "/data", image=image)["/srv/x"]["options"][-1] == "tmpcopyup"
    assert "image's volumes are read-only too" in spec("--read-only", image=image).warnings[0]


# -- limits ---------------------------------------------------------------------------------------


def limits(*argv: str, **facts: Any) -> dict[str, Any]:
    found = dict(config(*argv, host=Machine(**facts))["linux"]["resources"])
    del found["devices"]
    return found


def test_no_limit_touches_no_controller() -> None:
    assert limits() == {}


def test_memory() -> None:
    assert limits("-m", "64m") == {"memory": {"limit": 64 << 20, "swap": 128 << 20}}
    assert limits("-m", "64m", "--memory-swap", "64m")["memory"]["swap"] == 64 << 20
    assert limits("-m", "64m", "--memory-swap", "-1") == {"memory": {"limit": 64 << 20}}
    assert limits("-m", "64m", swap_limit=False) == {"memory": {"limit": 64 << 20}}
    unlimited = spec("-m", "64m", "--memory-swap", "65m", host=Machine(swap_limit=False))
    assert unlimited.warnings == ["--memory-swap has no effect: this kernel does not account swap"]
    assert limits("--memory-swappiness", "0") == {"memory": {"swappiness": 0}}
    assert limits("--oom-kill-disable", "-m", "64m")["memory"]["disableOOMKiller"] is True
    assert "can exhaust this machine" in spec("--oom-kill-disable").warnings[0]


def test_processor() -> None:
    assert limits("--cpus", "1.5") == {"cpu": {"period": 100000, "quota": 150000}}
    assert limits("--cpu-shares", "1") == {"cpu": {"shares": 2}}
    assert limits("--cpu-shares", "999999") == {"cpu": {"shares": 262144}}
    assert limits("--cpu-quota", "-1") == {"cpu": {"quota": -1}}
    assert limits("--cpu-rt-period", "1000000", "--cpu-rt-runtime", "950000")["cpu"]["realtimeRuntime"] == 950000
    assert limits("--cpuset-cpus", "0-1")["cpu"] == {"cpus": "0-1"}


def test_other_limits() -> None:
    assert limits("--pids-limit", "20") == {"pids": {"limit": 20}}
    assert limits("--pids-limit", "-1") == {} and limits("--pids-limit", "0") == {}
    assert limits("--blkio-weight", "300") == {"blockIO": {"weight": 300}}
    assert limits("--cgroup-conf", "memory.high=1000") == {"unified": {"memory.high": "1000"}}


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("--cpus 2.5", "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        ("-m 5m", "--memory is below the minimum of 6m"),
        ("--memory-reservation 1m", "--memory-reservation is below the minimum of 6m"),
        ("-m 64m --memory-swap 32m", "--memory-swap is memory plus swap and cannot be below --memory"),
        ("--memory-swap 64m", "--memory-swap needs --memory"),
        ("-m 64m --memory-reservation 65m", "--memory-reservation is above --memory"),
        ("--cpu-period 999", "--cpu-period is between 1000 and 1000000 microseconds"),
        ("--cpu-quota 999", "--cpu-quota is at least 1000 microseconds"),
        ("--cpuset-cpus 0,2", "--cpuset-cpus 0,2 is not available: this machine has 0-1"),
        ("--cpuset-mems 1", "--cpuset-mems 1 is not available: this machine has 0"),
        ("--blkio-weight 5", "--blkio-weight is between 10 and 1000, or 0 for none"),
        ("--device-read-bps /dev/none:1m", "--device-read-bps /dev/none: no such file or directory"),
        ("--device-write-iops /dev/null:1", "--device-write-iops /dev/null is not a block device"),
        ("--blkio-weight-device /etc:100", "--blkio-weight-device /etc is not a block device"),
    ],
)
def test_limits_that_cannot_be(argv: str, line: str) -> None:
    assert complaint(*argv.split()) == line


def test_block_devices_by_number() -> None:
    class Disks(Machine):
        __slots__ = ()

        def device(self, path: str) -> Device | None:
            return Device(path, "b", 8, 16)

    found = config("--device-read-bps", "/dev/sdb:1m", "--blkio-weight-device", "/dev/sdb:500", host=Disks())
    assert found["linux"]["resources"]["blockIO"] == {
        "weightDevice": [{"major": 8, "minor": 16, "weight": 500}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 1 << 20}],
    }


def test_cgroup_path() -> None:
    assert config()["linux"]["cgroupsPath"] == f"/coracle/{ID}"
    assert config(cgroup_parent="/user.slice/coracle")["linux"]["cgroupsPath"] == f"/user.slice/coracle/{ID}"
    assert config("--cgroup-parent", "own/", cgroup_parent="/x")["linux"]["cgroupsPath"] == f"/own/{ID}"


# -- devices --------------------------------------------------------------------------------------


def test_device_nodes_and_rules() -> None:
    found = config("--device", "/dev/zero:/dev/nought:r", "--device-cgroup-rule", "b 8:* rw")["linux"]
    assert found["devices"] == [
        {"path": "/dev/nought", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666,
         "uid": os.stat("/dev/zero").st_uid, "gid": os.stat("/dev/zero").st_gid}
    ]  # fmt: skip
    rules = found["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert rules[-2:] == [
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "r"},
        {"allow": True, "type": "b", "major": 8, "access": "rw"},
    ]


def test_device_directories() -> None:
    below = [Device("/dev/snd/a", "c", 116, 1), Device("/dev/snd/by/b", "c", 116, 2)]

    class Sound(Machine):
        __slots__ = ()

        def device(self, path: str) -> Device | None:
            return None

        def is_directory(self, path: str) -> bool:
            return path == "/dev/snd"

    host = Sound(devices=below)
    found = config("--device", "/dev/snd/:/dev/audio", host=host)["linux"]["devices"]
    assert [device["path"] for device in found] == ["/dev/audio/a", "/dev/audio/by/b"]
    assert "is not a device and no directory with devices" in complaint("--device", "/dev/other", host=host)
    assert "--device /dev/none: no such file" in complaint("--device", "/dev/none")


def test_privileged() -> None:
    host = Machine(devices=[Device("/dev/kvm", "c", 10, 232), Device("/dev/null", "c", 1, 3)])
    result = spec("--privileged", "--device", "/dev/null:/dev/nil", "--device-cgroup-rule", "c 1:3 r", host=host)
    linux = result.config["linux"]
    assert [device["path"] for device in linux["devices"]] == ["/dev/kvm", "/dev/null", "/dev/nil"]
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert "maskedPaths" not in linux and "readonlyPaths" not in linux
    assert result.security.seccomp == "unconfined"
    assert result.warnings == ["--device-cgroup-rule has no effect with --privileged"]
    places = {mount["destination"]: mount["options"] for mount in result.config["mounts"]}
    assert "ro" not in places["/sys"] and "ro" not in places["/sys/fs/cgroup"]


# -- security -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "seccomp"),
    [
        ("", "default"),
        ("--security-opt seccomp=unconfined", "unconfined"),
        ("--security-opt seccomp=builtin", "default"),
        ("--security-opt seccomp=/p.json", "/p.json"),
        ("--privileged", "unconfined"),
        ("--privileged --security-opt seccomp=/p.json", "/p.json"),
        ("--privileged --security-opt seccomp=default", "default"),
    ],
)
def test_seccomp(argv: str, seccomp: str) -> None:
    result = spec(*argv.split())
    assert result.security.seccomp == seccomp and "seccomp" not in result.config["linux"]


def paths(*options: str, **facts: Any) -> tuple[list[str], list[str]]:
    linux = config(*(word for option in options for word in ("--security-opt", option)), host=Machine(**facts))["linux"]
    return linux.get("maskedPaths", []), linux.get("readonlyPaths", [])


def test_hidden_paths() -> None:
    assert paths() == (list(MASKED), list(READ_ONLY))
    throttle = "/sys/devices/system/cpu/cpu0/thermal_throttle"
    assert throttle in paths(throttle_directories=[throttle])[0]
    assert paths("systempaths=unconfined") == ([], []) == paths("unmask=ALL")
    assert paths("mask=/a:/b", "unmask=ALL") == (["/a", "/b"], [])
    masked, read_only = paths("unmask=/proc/kcore:/proc/sys", "mask=/x")
    assert "/proc/kcore" not in masked and masked[-1] == "/x" and "/proc/sys" not in read_only
    masked, read_only = paths("unmask=/proc/*")
    assert masked == ["/sys/devices/virtual/powercap", "/sys/firmware"] and read_only == []
    assert (
        "/proc/timer_list" not in paths("unmask=/proc/t*_*t")[0]
        and "/proc/timer_stats" in paths("unmask=/proc/t*_*t")[0]
    )
    assert paths("unmask=/*")[0] == list(MASKED)  # a star stays within its part


def test_other_security_options() -> None:
    assert config("--security-opt", "no-new-privileges")["process"]["noNewPrivileges"] is True
    assert mounts("--security-opt", "proc-opts=hidepid=2")["/proc"]["options"][-1] == "hidepid=2"
    assert "rw" in mounts("--security-opt", "writable-cgroups=true")["/sys/fs/cgroup"]["options"]
    assert "ro" in mounts()["/sys/fs/cgroup"]["options"]


def test_labels_of_security_modules() -> None:
    armoured, labelled = Machine(has_apparmor=True), Machine(has_selinux=True)
    assert config("--security-opt", "apparmor=mine", host=armoured)["process"]["apparmorProfile"] == "mine"
    absent = spec("--security-opt", "apparmor=mine")
    assert "apparmorProfile" not in absent.config["process"] and absent.warnings == [
        "apparmor= has no effect: AppArmor is off"
    ]
    assert config(host=labelled)["process"]["selinuxLabel"] == "system_u:system_r:container_t:s0"
    argv = ("--security-opt", "label=type:mine_t", "--security-opt", "label=level:s0:c1,c2")
    assert config(*argv, host=labelled)["process"]["selinuxLabel"] == "system_u:system_r:mine_t:s0:c1,c2"
    assert "selinuxLabel" not in config("--security-opt", "label=disable", host=labelled)["process"]
    assert spec(*argv).warnings == ["label= has no effect: SELinux is off"]
    assert spec("--security-opt", "label=disable", "--security-opt", "apparmor=unconfined").warnings == []


def test_sysctls() -> None:
    assert config()["linux"]["sysctl"] == {
        "net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0",
    }  # fmt: skip
    assert "sysctl" not in config("--network", "host")["linux"]
    assert (
        config("--sysctl", "net.ipv4.ip_unprivileged_port_start=9")["linux"]["sysctl"][
            "net.ipv4.ip_unprivileged_port_start"
        ]
        == "9"
    )


def test_other_properties() -> None:
    found = config("--annotation", "a=b", "--personality", "LINUX32", "--read-only", rootfs="/some/root")
    assert found["annotations"] == {"a": "b"} and found["linux"]["personality"] == {"domain": "LINUX32"}
    assert found["root"] == {"path": "/some/root", "readonly": True} and found["ociVersion"] == "1.3.0"


def test_defaults_without_a_command_line() -> None:
    options: RunOptions = RUN.defaults()
    options.memory = 64 << 20
    result = build(options, {"Cmd": ["x"]}, identifier=ID, arguments=[], user=User(), host=Machine())
    assert (
        result.config["process"]["args"] == ["x"] and result.config["linux"]["resources"]["memory"]["limit"] == 64 << 20
    )


# -- causes ---------------------------------------------------------------------------------------


def test_causes_in_the_words_of_the_user(tmp_path: Path) -> None:
    argv = [
        *(
            "-m",
            "64m",
            "-v",
            f"{tmp_path}:/a/b",
            "--tmpfs=/t",
            "--ulimit",
            "nofile=5",
            "--cap-drop",
            "ALL",
            "--cap-add=CHOWN",
        ),
        *("--device", "/dev/null:/dev/nil", "--sysctl", "kernel.msgmax=9", "-u", "app", "--security-opt", "seccomp=/p"),
        *("--mount", f"type=bind,src={tmp_path},dst=/m", "--pids-limit", "5", "--shm-size", "1m"),
    ]
    options, _ = parse_run([*argv, "image"])
    found = build(options, {"Cmd": ["x"]}, identifier=ID, arguments=[], user=User(), host=Machine()).config
    known = causes(options, found)
    places = {mount["destination"]: f"mounts[{index}]" for index, mount in enumerate(found["mounts"])}
    for path, words in {
        "linux.resources.memory.limit": "-m 64m",
        "linux.resources.memory.swap": "-m 64m",
        "linux.resources.pids.limit": "--pids-limit 5",
        places["/a/b"]: f"-v {tmp_path}:/a/b",
        places["/m"]: f"--mount type=bind,src={tmp_path},dst=/m",
        places["/t"]: "--tmpfs /t",
        places["/dev/shm"]: "--shm-size 1m",
        places["/proc"]: places["/proc"],  # nobody asked for it: it is always there
        "process.rlimits[0]": "--ulimit nofile=5",
        "process.capabilities.bounding": "--cap-add CHOWN --cap-drop ALL",
        "process.user": "-u app",
        "process.user.umask": "default",
        "linux.devices[0].path": "--device /dev/null:/dev/nil",
        "linux.sysctl.kernel.msgmax": "--sysctl kernel.msgmax=9",
        "linux.sysctl.net.ipv4.ping_group_range": "linux.sysctl.net.ipv4.ping_group_range",
        "linux.seccomp": "--security-opt seccomp=/p",
        "linux.maskedPaths[0]": "linux.maskedPaths[0]",
        "linux.resources.devices[11]": "--device /dev/null:/dev/nil",
        "linux.cgroupsPath": "linux.cgroupsPath",
    }.items():
        assert cause_of(path, known) == words
    assert reason("linux.resources.memory.limit", known, options) == "-m 64m"
    assert reason(f"{places['/proc']}, hostname", known, options) == "default"
    assert reason("linux.sysctl.kernel.msgmax, linux.sysctl.a.b", known, options) == "--sysctl kernel.msgmax=9, default"
    assert reason("--pids-limit", known, options) == "--pids-limit 5"
    assert reason("--name", known, options) == "--name"
    assert reason("keyrings(7)", known, options) == "keyrings(7)"


def test_causes_of_single_masks() -> None:
    options, _ = parse_run(["--security-opt", "mask=/proc/a:/proc/kcore", "--security-opt", "no-new-privileges", "i"])
    found = build(options, {"Cmd": ["x"]}, identifier=ID, arguments=[], user=User(), host=Machine()).config
    known = causes(options, found)
    masked = found["linux"]["maskedPaths"]
    words = "--security-opt mask=/proc/a:/proc/kcore"
    for path in ("/proc/a", "/proc/kcore"):
        assert cause_of(f"linux.maskedPaths[{masked.index(path)}]", known) == words
    assert reason(f"linux.maskedPaths[{masked.index('/proc/acpi')}]", known, options) == "default"
    assert cause_of("process.noNewPrivileges", known) == "--security-opt no-new-privileges"


def test_causes_know_real_fields_and_paths() -> None:
    fields = {option.field for option in RUN.long.values()}
    assert set(PATHS) <= fields


# -- the real machine -----------------------------------------------------------------------------


def test_facts_of_this_machine() -> None:
    host = Host({})
    assert host.cpu_count() == len(os.sched_getaffinity(0)) and host.hostname() == os.uname().nodename
    null = host.device("/dev/null")
    assert null is not None and (null.kind, null.major, null.minor) == ("c", 1, 3)
    assert host.device("/etc") is None
    with pytest.raises(FileNotFoundError):
        host.device("/dev/none")
    found = {device.path for device in host.devices("/dev")}
    assert "/dev/null" in found and not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in found)
    assert "/dev/console" not in found
    assert host.last_capability() >= 37 and host.capabilities() >= 0
    assert host.propagation("/") in ("shared", "slave", "private")
    assert host.devices("/none") == []


def test_propagation_is_read_from_the_nearest_mount(tmp_path: Path) -> None:
    class Table(Host):
        __slots__ = ()

        def read(self, path: str) -> bytes:
            rows = [
                "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw",
                f"2 1 8:2 / {tmp_path} rw master:3 propagate_from:4 - ext4 /dev/b rw",
                f"3 2 8:3 / {tmp_path}/with\\040blank rw - ext4 /dev/c rw",
                "4 1 8:4 / /sys rw shared:7 master:8 - sysfs s rw",
            ]
            return "\n".join(rows).encode()

    (tmp_path / "with blank").mkdir()
    host = Table({})
    assert host.propagation("/") == "shared" and host.propagation("/etc") == "shared"
    assert host.propagation(str(tmp_path)) == "slave" and host.propagation(f"{tmp_path}x") == "shared"
    assert host.propagation(f"{tmp_path}/with blank") == "private" and host.propagation("/sys") == "shared"
