"""Our config.json against the ones that dockerd writes for the same options.

``test_container_spec_docker.json`` holds what dockerd 20.10 handed to its runtime: all of it for no options at
all, and what changes for each case.  To record it again, ``python3 tests/unit/test_container_spec_docker.py
SOCKET DIRECTORY IMAGE``, where dockerd knows a runtime ``capture`` that copies each bundle's config.json to
DIRECTORY/ID.json and then calls runc, and the image has the PASSWD and GROUP below.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coracle.engine.container_spec import Host, build
from coracle.engine.container_spec.isolation import MASKED
from coracle.engine.options import parse_run
from coracle.engine.user import resolve
from coracle.linux.cgroup.devices import STANDARD
from coracle.runtime.spec import validate

RECORDED = Path(__file__).with_suffix(".json")
PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n"
GROUP = b"root:x:0:\napp:x:1001:\nwheel:x:10:root,app\naudio:x:63:app\n"

CASES = """
--hostname web --domainname example.org
-t
-e A=1 -e B=2 -e PATH=/x -e HOME=/there
-w /srv//x/../y
-u 1000
-u app
-u 7:8
-u app:8
-u 0:app
-u root --group-add app --group-add 77
-m 64m
-m 64m --memory-swap 128m
-m 64m --memory-swap -1
-m 64m --memory-reservation 32m
-m 1.5g
--cpus 0.5
--cpus 1.25
--cpu-shares 512
-c 1
--cpu-period 50000 --cpu-quota 20000
--cpuset-cpus 0,1 --cpuset-mems 0
--pids-limit 20
--pids-limit -1
--ulimit nofile=1024:2048 --ulimit core=0
--ulimit memlock=-1:-1
--oom-score-adj 100
--shm-size 1m
--read-only
--read-only --tmpfs /run
--tmpfs /tmp
--tmpfs /tmp:size=1m,exec,mode=700
--tmpfs /tmp:ro,suid,dev
-v /etc/ssl:/b
-v /etc/ssl:/b:ro
-v /etc/ssl:/a/b/c -v /etc/ssl:/z -v /etc/ssl:/a/b
-v /etc/ssl:/b:z
-v /etc/ssl:/b:rw,rprivate
-v /etc/ssl:/b:private
-v /etc/ssl:/dev/shm
-v /etc/hostname:/etc/hosts
--mount type=bind,src=/etc/ssl,dst=/b
--mount type=bind,source=/etc/ssl,target=/b,readonly
--mount type=bind,src=/etc/ssl,dst=/b,bind-nonrecursive
--mount type=tmpfs,dst=/t
--mount type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770
--mount type=tmpfs,dst=/t,readonly
--cap-add NET_ADMIN
--cap-add net_admin --cap-add sys_time
--cap-drop CHOWN --cap-drop cap_mknod
--cap-drop ALL
--cap-drop ALL --cap-add CHOWN
--cap-add SYS_ADMIN -u 1000
--security-opt no-new-privileges
--security-opt no-new-privileges:true
--security-opt no-new-privileges=false
--security-opt seccomp=unconfined
--security-opt systempaths=unconfined
--device /dev/null
--device /dev/zero:/dev/nought:r
--device /dev/full:rw
--device-cgroup-rule "c 42:* rwm" --device-cgroup-rule "b *:3 r" --device-cgroup-rule "a *:* r"
--sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=65536
--sysctl net.ipv4.ip_unprivileged_port_start=1024
--pid host
--ipc host
--ipc none
--ipc shareable
--uts host
--network host
--cgroupns private
--cgroup-parent /slice
--privileged
--privileged -v /etc/ssl:/b:ro
--privileged --device /dev/null:/dev/nil
--privileged --security-opt seccomp=unconfined --cap-add SYS_TIME
--entrypoint /bin/busybox -v /etc/ssl:/b
--init
""".strip().splitlines()

IDENTIFIER = "0123456789abcdef" * 4
COMMAND = ["/bin/busybox", "sleep", "60"]


def flat(value: object, path: str = "") -> dict[str, object]:
    """A document as {"linux.resources.memory.limit": 1}; lists are leaves."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {key: leaf for name, inner in value.items() for key, leaf in flat(inner, f"{path}/{name}").items()}


def record(socket: str, captured: str, image: str) -> None:
    """Start each case under dockerd and keep the config that its runtime "capture" copied to ``captured``/ID.json."""
    docker = ["docker", "-H", f"unix://{socket}"]
    root = subprocess.run([*docker, "info", "-f", "{{.DockerRootDir}}"], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, dict[str, object]] = {}
    for case in ["", *CASES]:
        words = shlex.split(case)
        network = [] if "--network" in words else ["--network", "none"]
        create = [*docker, "create", "--runtime", "capture", *network, *words, image, *COMMAND]
        identifier = subprocess.run(create, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        subprocess.run([*docker, "start", identifier], capture_output=True)  # what runc makes of it does not matter
        subprocess.run([*docker, "rm", "-f", identifier], capture_output=True)
        text = (
            (Path(captured) / f"{identifier}.json").read_text().replace(f"{root.stdout.strip()}/containers", "/store")
        )
        config = json.loads(text.replace(identifier, IDENTIFIER).replace(identifier[:12], IDENTIFIER[:12]))
        for key in ("seccomp", *(["devices"] if "--privileged" in words else [])):
            config["linux"].pop(key, None)
        del config["root"]["path"], config["hooks"]
        leaves = flat(config)
        base = found.get("", {})
        found[case] = {key: leaf for key, leaf in leaves.items() if base.get(key, ...) != leaf}
        found[case] |= {key: None for key in base if key not in leaves}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")


class RecordedHost(Host):
    """The machine on which the configs were recorded, as far as they depend on it."""

    __slots__ = ()

    def exists(self, path: str) -> bool:
        return path != "/sys/devices/system/cpu/cpu0/thermal_throttle"

    def hostname(self) -> str:
        return "vm"

    def has_selinux(self) -> bool:
        return False

    def has_apparmor(self) -> bool:
        return False

    def cpu_count(self) -> int:
        return 2

    def online_cpus(self) -> str:
        return "0-1"

    def memory_nodes(self) -> str:
        return "0"

    def last_capability(self) -> int:
        return 37

    def capabilities(self) -> int:
        return (1 << 38) - 1

    def swap_limit(self) -> bool:
        return True


def ours(case: str) -> dict[str, Any]:
    words = shlex.split(case)
    options, rest = parse_run([*words, "image", *COMMAND])
    places = ("/etc/resolv.conf", "/etc/hostname", "/etc/hosts")
    spec = build(
        options,
        {},
        identifier=IDENTIFIER,
        arguments=rest[1:],
        user=resolve(options.user, options.group_add, PASSWD, GROUP),
        host=RecordedHost({}),
        etc={place: f"/store/{IDENTIFIER}/{place[5:]}" for place in places},
        init_path="/usr/bin/docker-init",
        cgroup_parent="/docker",
    )
    validate(json.loads(json.dumps(spec.config)))
    return spec.config


def recorded(case: str) -> dict[str, Any]:
    found = json.loads(RECORDED.read_text())
    leaves = {key: leaf for key, leaf in (found[""] | found[case]).items() if leaf is not None}
    config: dict[str, Any] = {}
    for key, leaf in leaves.items():
        inner = config
        *path, name = key[1:].split("/") if not key.startswith("/linux/sysctl/") else ("linux", "sysctl", key[14:])
        for part in path:
            inner = inner.setdefault(part, {})
        inner[name] = leaf
    return config


def comparable(config: dict[str, Any], privileged: bool) -> dict[str, Any]:
    """``config`` without what differs on purpose; each line is one deliberate difference."""
    process, linux = config["process"], config["linux"]
    del config["ociVersion"]
    config["root"] = config.get("root", {}).get("readonly", False)
    config.pop("annotations", None)
    process["user"].pop("umask", None)  # always 0022, as dockerd's own; the caller's would be inherited otherwise
    process["env"] = [
        word for word in process["env"] if not word.startswith("HOME=/") or word == "HOME=/there"
    ]  # runc's
    process["args"] = [word.replace("/dev/init", "/sbin/docker-init") for word in process["args"]]
    process.setdefault("noNewPrivileges", False)
    process.setdefault("terminal", False)
    if process.get("oomScoreAdj") == 0:  # dockerd itself runs at -500, so it has to write 0
        del process["oomScoreAdj"]
    if "rlimits" in process:
        process["rlimits"].sort(key=lambda limit: limit["type"])
    resources = linux["resources"]
    for kind, name in (("cpu", "shares"), ("memory", "disableOOMKiller"), ("blockIO", "weight")):
        if not resources.get(kind, {}).get(name, True):  # zeros that mean "nothing said"
            del resources[kind][name]
    if resources.get("cpu", {}).get("shares") == 1:  # today's dockerd raises it to the kernel's minimum
        resources["cpu"]["shares"] = 2
    names = {entry["type"] for entry in linux["namespaces"]} - {"cgroup"}  # private on cgroup v1 too
    if any(entry["path"].endswith("/default") for entry in linux["namespaces"] if "path" in entry):
        names.discard("network")  # dockerd joins a bind mount of its own namespace, we just stay
    linux["namespaces"] = sorted(names)
    sysctl = linux.get("sysctl", {})
    if domain := sysctl.pop("kernel.domainname", ""):  # today's dockerd uses domainname too
        config["domainname"] = domain
    linux["sysctl"] = sysctl
    if "maskedPaths" in linux:  # today's dockerd masks more
        linux["maskedPaths"] = sorted({*linux["maskedPaths"], *MASKED})
    linux.pop("devices" if privileged else "", None)
    devices = linux.get("devices", [])
    linux["devices"] = [
        {key: value for key, value in device.items() if key not in ("uid", "gid")} for device in devices
    ]
    rules = [
        rule for rule in resources["devices"] if rule not in (*STANDARD, CONSOLE, FUSE)
    ]  # STANDARD is added by runc
    linux["resources"] = {kind: limits for kind, limits in (resources | {"devices": rules}).items() if limits}
    linux["resources"]["devices"] = [
        {key: value for key, value in rule.items() if value not in ("a", -1)}
        for rule in linux["resources"].get("devices", [])
    ]
    process["capabilities"] = {name: names for name, names in process["capabilities"].items() if names}
    config["mounts"] = sorted(_mount(entry) for entry in config["mounts"])
    return config


CONSOLE = {"allow": True, "type": "c", "major": 5, "minor": 1, "access": "rwm"}
FUSE = {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"}


def _mount(entry: dict[str, Any]) -> tuple[str, str, str, list[str]]:
    options = [{"rro": "ro", "size=1048576": "size=1m"}.get(word, word) for word in entry["options"]]  # rro since 25.0
    options = sorted(word for word in options if word != "rw")
    return entry["destination"].replace("/dev/init", "/sbin/docker-init"), entry["type"], entry["source"], options


# What only these cases do otherwise, on purpose.
SHM = ("/dev/shm", "tmpfs", "shm", sorted(["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]))
DIFFERENT: dict[str, Callable[[dict[str, Any]], object]] = {
    # No bind mount from the host: another container gets the very tmpfs.
    "--ipc shareable": lambda config: config.update(mounts=[SHM if m[0] == SHM[0] else m for m in config["mounts"]]),
    # $HOSTNAME is what hostname(1) says, as in podman.
    "--uts host": lambda config: config["process"]["env"].__setitem__(1, "HOSTNAME=vm"),
}


@pytest.mark.parametrize("case", ["", *CASES])
def test_same_as_docker(case: str) -> None:
    privileged = "--privileged" in case
    expected = comparable(recorded(case), privileged)
    DIFFERENT.get(case, id)(expected)
    assert comparable(ours(case), privileged) == expected


def test_all_cases_are_recorded() -> None:
    assert list(json.loads(RECORDED.read_text())) == ["", *CASES]


if __name__ == "__main__":
    record(*sys.argv[1:])
