"""config.json → the list of steps, without root: nothing is done here, only decided."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from planning import ALL, config, names, plan_of, program

from coracle.errors import SpecError, UnsupportedError
from coracle.linux import capability
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import Hierarchies
from coracle.linux.namespace import NAMESPACES, IdMap
from coracle.runtime.mount_options import mount_options
from coracle.runtime.plan import resources
from coracle.runtime.steps import cgroup, devices, hooks, identity, masks, mounts, rootfs, settings
from coracle.runtime.steps import namespaces as spaces
from coracle.runtime.steps import program as programs
from coracle.step import CHILD, ENTER, HOST, INIT, JOIN, PARENT, PLACES, READY, Plan, Step

WHY = ""  # causes do not count in a comparison
DEFAULT_DEVICES = [devices.MakeDevice(path, "c", major, minor, WHY) for path, major, minor in devices.DEFAULT_DEVICES]


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def flags(*kinds: str) -> int:
    return sum(NAMESPACES[kind][0] for kind in kinds)


def group(kind: str = "v1") -> Cgroup:
    """A group that does not exist, below mount points that need not exist either."""
    top = "/nowhere/cgroup"
    if kind == "v2":
        return Cgroup("/box/1", Hierarchies({"unified": top}, {"unified": "/"}))
    names = ("memory", "pids", "devices", "unified")
    return Cgroup("/box/1", Hierarchies({name: f"{top}/{name}" for name in names}, dict.fromkeys(names, "/")))


# -- a whole plan


def test_a_plain_container() -> None:
    plan = plan_of(config(*ALL))
    assert plan.steps == [
        spaces.NewNamespaces(["mount", "pid", "ipc", "uts", "network"], WHY),
        spaces.NewCgroupNamespace(WHY),
        spaces.LoopbackUp(WHY),
        rootfs.PrivatePropagation("rslave", WHY),
        rootfs.BindRoot("/bundle/rootfs", WHY),
        *DEFAULT_DEVICES,
        devices.DevLinks(False, WHY),
        rootfs.WorkingDirectory("/", WHY),
        rootfs.Pivot(WHY),
        programs.EnterDirectory("/", WHY),
        programs.FindProgram("sh", ["PATH=/bin"], 0, WHY),
        programs.StandardFiles(False, 0, WHY),
        programs.CloseDescriptors(0, WHY),
        identity.RawCall("umask", (0o022,), "set the umask to 0022", "umask 0022", WHY),
        identity.BoundingSet(0, capability.last_cap(), WHY),
        identity.SetIds(0, 0, [], WHY),
        identity.Capabilities(0, 0, 0, 0, WHY),
        identity.Gate(WHY),
        identity.Execute(["sh", "-c", "true"], ["PATH=/bin"], "/", WHY),
    ]
    assert plan.flags == flags("mount", "pid", "ipc", "uts", "network") and not plan.join_first


FULL: dict[str, Any] = {
    **config(
        *ALL,
        "user",
        "time",
        process={
            "terminal": True,
            "consoleSize": {"height": 20, "width": 90},
            "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o077},
            "cwd": "/srv",
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
            "oomScoreAdj": 3,
            "noNewPrivileges": True,
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"]},
        },
        uidMappings=[{"containerID": 0, "hostID": 100000, "size": 65536}],
        gidMappings=[{"containerID": 0, "hostID": 200000, "size": 65536}],
        timeOffsets={"boottime": {"secs": 5, "nanosecs": 6}, "monotonic": {"secs": -1}},
        netDevices={"eth7": {"name": "eth0"}, "eth8": {}},
        maskedPaths=["/proc/kcore"],
        readonlyPaths=["/proc/sys"],
        sysctl={"net.ipv4.ip_forward": "1"},
        rootfsPropagation="rslave",
        resources={"pids": {"limit": 9}},
        personality={"domain": "LINUX32"},
    ),
    "root": {"path": "/abs/root", "readonly": True},
    "hostname": "h",
    "domainname": "d",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
        {"destination": "/t", "type": "tmpfs", "options": ["ro", "size=1m"]},
        {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro"]},
    ],
    "hooks": {
        "prestart": [{"path": "/h1"}],
        "createRuntime": [{"path": "/h2"}, {"path": "/h3"}],
        "createContainer": [{"path": "/h4"}],
        "startContainer": [{"path": "/h5"}],
        "poststart": [{"path": "/h6"}],
        "poststop": [{"path": "/h7"}],
    },
}


def test_everything_at_once(as_root: None) -> None:
    plan = plan_of(FULL, cgroup=group(), seccomp=program(), keyring=True, init=True, preserve_fds=2)
    assert {place: names(plan.at(place)) for place in PLACES} == {
        HOST: ["CreateCgroup", "SetCgroup", "Preopen", "Preopen"],
        JOIN: ["JoinCgroup", "NewNamespaces", "TimeOffsets"],
        PARENT: ["WriteIdMaps", "MoveInterface", "MoveInterface"],
        CHILD: [
            *("BecomeRoot", "NewCgroupNamespace", "LoopbackUp", "InterfaceUp", "InterfaceUp"),
            *("PrivatePropagation", "BindRoot", "PrivateProc", "OomScore"),
            *("NewFilesystem", "NewFilesystem", "NewFilesystem", "Bind", "ReadonlyMount"),
            *(["MakeDevice"] * 6), "DevLinks", "Terminal", "Console", "WorkingDirectory", "OpenNull",
        ],
        READY: ["RunHook", "RunHook", "RunHook"],
        ENTER: [
            *("RunHook", "Mask", "ReadonlyPath", "Sysctl", "SetHostname", "SetDomainname"),
            *("Pivot", "ReadonlyRoot", "RootPropagation"),
            *("EnterDirectory", "FindProgram", "StandardFiles", "CloseDescriptors"),
        ],
        INIT: [
            *("Rlimit", "RawCall", "RawCall", "RawCall", "BoundingSet", "SetIds", "Capabilities"),
            *("NoNewPrivileges", "Gate", "Reaper", "Seccomp", "Execute"),
        ],
    }  # fmt: skip
    kill = 1 << capability.NUMBERS["CAP_KILL"]
    for step in (
        spaces.WriteIdMaps([IdMap(0, 100000, 65536)], [IdMap(0, 200000, 65536)], WHY),
        spaces.TimeOffsets({"boottime": (5, 6), "monotonic": (-1, 0)}, WHY),
        spaces.MoveInterface("eth7", "eth0", WHY),
        spaces.MoveInterface("eth8", "", WHY),
        spaces.InterfaceUp("eth0", WHY),
        spaces.InterfaceUp("eth8", WHY),
        settings.OomScore(3, WHY),
        settings.Sysctl("net.ipv4.ip_forward", "1", WHY),
        spaces.SetHostname("h", WHY),
        spaces.SetDomainname("d", WHY),
        mounts.NewFilesystem("proc", "proc", "/proc", mount_options(["nosuid"]), WHY),
        mounts.NewFilesystem("tmpfs", "tmpfs", "/t", mount_options(["ro", "size=1m"]), WHY),
        mounts.ReadonlyMount("/t", WHY),
        devices.DevLinks(True, WHY),
        devices.Terminal(20, 90, WHY),
        masks.Mask("/proc/kcore", WHY),
        masks.ReadonlyPath("/proc/sys", WHY),
        rootfs.RootPropagation("rslave", WHY),
        rootfs.WorkingDirectory("/srv", WHY),
        programs.CloseDescriptors(2, WHY),
        programs.StandardFiles(True, 5, WHY),
        identity.Rlimit("RLIMIT_NOFILE", 10, 20, WHY),
        identity.SetIds(5, 6, [7], WHY),
        identity.BoundingSet(kill, capability.last_cap(), WHY),
        identity.Capabilities(kill, 0, 0, 0, WHY),
        identity.Seccomp(program(), WHY),
    ):
        assert step in plan.steps, step


def test_causes_are_json_paths_of_the_config(as_root: None) -> None:
    plan = plan_of(FULL, cgroup=group(), seccomp=program())
    causes = {type(step).__name__: step.cause for step in plan.steps}
    assert causes["Mask"] == "linux.maskedPaths[0]"
    assert causes["Bind"] == "mounts[3]"
    assert causes["SetCgroup"] == "linux.resources.pids.limit"
    assert causes["Sysctl"] == "linux.sysctl.net.ipv4.ip_forward"
    assert causes["Rlimit"] == "process.rlimits[0]"
    assert [step.cause for step in plan.at(READY)] == [
        "hooks.prestart[0]", "hooks.createRuntime[0]", "hooks.createRuntime[1]",
    ]  # fmt: skip
    assert all(step.cause for step in plan.steps)


def test_plans_are_made_anew_and_equal() -> None:
    assert plan_of(FULL).steps == plan_of(FULL).steps


# -- namespaces


@pytest.mark.parametrize("kind", ["mount", "pid", "ipc", "uts", "network", "user"])
def test_a_new_namespace_is_a_flag_of_the_clone(kind: str) -> None:
    plan = plan_of(config(kind, uidMappings=[], gidMappings=[]))
    assert plan.flags == flags(kind) and not plan.join_first
    assert plan.at(JOIN) == [spaces.NewNamespaces([kind], WHY)]


def test_no_namespace_at_all() -> None:
    plan = plan_of(config())
    assert (plan.flags, plan.join_first, plan.at(JOIN)) == (0, False, [])
    assert not {"LoopbackUp", "NewCgroupNamespace", "PrivatePropagation", "Pivot"} & set(names(plan.steps))


def test_cgroup_and_time_are_made_later_by_steps() -> None:
    plan = plan_of(config("cgroup", "time"))
    assert plan.flags == 0
    assert plan.at(JOIN) == [spaces.NewNamespaces([], WHY), spaces.TimeOffsets({}, WHY)]
    assert spaces.NewCgroupNamespace(WHY) in plan.at(CHILD)


@pytest.mark.parametrize(
    ("release", "fork"), [("6.2.9", True), ("6.3.0-1-amd64", False), ("5.10.0", True), ("7.0", False)]
)
def test_a_time_namespace_needs_a_fork_before_linux_6_3(
    monkeypatch: pytest.MonkeyPatch, release: str, fork: bool
) -> None:
    class Uname:
        def __init__(self) -> None:
            self.release = release

    monkeypatch.setattr(os, "uname", Uname)
    assert plan_of(config("mount", "time")).join_first is fork
    assert plan_of(config("mount")).join_first is False


def test_joining(tmp_path: Path) -> None:
    """Each is joined by its path; only pid and user need a process in between."""
    places = {kind: tmp_path / kind for kind in NAMESPACES}
    for place in places.values():
        place.touch()
    for kind in NAMESPACES:
        plan = plan_of(
            config("mount", f"{kind}={places[kind]}") if kind != "mount" else config(f"mount={places[kind]}")
        )
        assert spaces.JoinNamespace(kind, str(places[kind]), WHY) in plan.at(JOIN), kind
        assert plan.join_first is (kind in ("pid", "user")), kind
        assert plan.flags == (0 if kind == "mount" else flags("mount")), kind


def test_the_order_of_joining(tmp_path: Path) -> None:
    """The user namespace decides about the rights over the others, the mount namespace about their paths."""
    kinds = ["cgroup", "mount", "network", "pid", "user", "uts"]
    plan = plan_of(config(*(f"{kind}={tmp_path}/{kind}" for kind in kinds)))
    joined = [step for step in plan.at(JOIN) if isinstance(step, spaces.JoinNamespace)]
    assert [step.kind for step in joined] == ["user", "pid", "uts", "network", "cgroup", "mount"]
    first = [(place, key, what) for place, key, what in opened(plan) if key.startswith("join ")]
    assert sorted(first) == sorted((HOST, f"join {kind}", f"{tmp_path}/{kind}") for kind in kinds)


def test_without_a_user_namespace_nothing_is_opened_for_joining(tmp_path: Path) -> None:
    assert plan_of(config("mount", f"network={tmp_path}")).at(HOST) == []


def test_the_own_namespace_is_neither_made_nor_joined() -> None:
    plan = plan_of(config("mount", "pid=/proc/self/ns/pid", "network=/proc/self/ns/net"))
    assert plan.at(JOIN) == [spaces.NewNamespaces(["mount"], WHY)]
    assert not plan.join_first and plan.flags == flags("mount")
    assert "LoopbackUp" not in names(plan.steps)  # it is not ours


def test_a_new_user_namespace_after_joining_others(tmp_path: Path) -> None:
    """Others are joined with the engine's rights; then the process in between makes the user namespace."""
    plan = plan_of(config("mount", "user", f"network={tmp_path}", uidMappings=[], gidMappings=[]))
    assert plan.join_first and plan.flags == flags("mount")
    assert plan.at(JOIN) == [
        spaces.NewNamespaces(["mount", "user"], WHY),
        spaces.JoinNamespace("network", str(tmp_path), WHY),
        spaces.NewUserNamespace(WHY),
    ]
    assert names(plan.at(PARENT)) == ["WriteIdMaps"]
    assert plan.at(CHILD)[0] == spaces.BecomeRoot(WHY)


def test_a_new_user_namespace_alone_is_cloned(as_user: None) -> None:
    plan = plan_of(config("mount", "user", uidMappings=[], gidMappings=[]))
    assert plan.flags == flags("mount", "user") and not plan.join_first
    assert "NewUserNamespace" not in names(plan.steps)


# -- what is opened early


def bind(destination: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": source, "options": list(options)}


def opened(plan: Plan) -> list[tuple[str, str, str]]:
    return [
        (step.place, step.fields()["key"], step.fields()["what"])
        for step in plan.steps
        if isinstance(step, rootfs.Preopen)
    ]


def test_root_opens_all_sources_for_a_user_namespace(as_root: None) -> None:
    spec = config("mount", "user", uidMappings=[], gidMappings=[])
    spec["mounts"] = [bind("/a", "/src/a", "rbind"), {"destination": "/t", "type": "tmpfs"}, bind("/b", "b", "bind")]
    plan = plan_of(spec)
    assert opened(plan) == [
        (HOST, "rootfs", "the root file system"),
        (HOST, "mount /a", "/src/a"),
        (HOST, "mount /b", "/bundle/b"),
    ]
    assert [step.opened for step in plan.steps if isinstance(step, rootfs.Root | mounts.Bind)] == [True, True, True]


def test_for_a_joined_user_namespace_too(as_root: None, tmp_path: Path) -> None:
    assert (HOST, "rootfs", "the root file system") in opened(plan_of(config("mount", f"user={tmp_path}")))


def test_a_user_has_no_rights_to_open_anything_with(as_user: None) -> None:
    spec = config("mount", "user", uidMappings=[], gidMappings=[])
    spec["mounts"] = [bind("/a", "/src/a", "rbind")]
    assert opened(plan_of(spec)) == []


@pytest.mark.parametrize("who", ["as_root", "as_user"])
def test_the_child_opens_what_the_new_root_would_cover(
    who: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.getfixturevalue(who)
    (tmp_path / "link").symlink_to("/")
    spec = config("mount")
    spec["mounts"] = [
        bind("/host", "/", "rbind", "ro"),
        bind("/link", str(tmp_path / "link"), "rbind"),
        bind("/plain", "/usr", "rbind", "rprivate"),
        bind("/slave", "/usr", "rbind", "rslave"),
        bind("/shared", "/usr", "bind", "shared"),
    ]
    plan = plan_of(spec)
    assert opened(plan) == [
        (CHILD, "mount /host", "/"),
        (CHILD, "mount /link", str(tmp_path / "link")),
        (CHILD, "mount /slave", "/usr"),
        (CHILD, "mount /shared", "/usr"),
    ]
    kinds = names(plan.at(CHILD))
    assert kinds.index("PrivatePropagation") < kinds.index("Preopen") < kinds.index("BindRoot")
    assert not any(step.opened for step in plan.steps if isinstance(step, mounts.Bind))


# -- the root file system


def test_a_root_of_the_engine() -> None:
    root = rootfs.OverlayRoot(["/l2", "/l1"], "/u", "/w", "/point", WHY)
    plan = plan_of(config("mount"), root=root)
    assert [step for step in plan.steps if isinstance(step, rootfs.Root)] == [root]


def test_no_mount_namespace() -> None:
    plan = plan_of({**config("pid"), "hostname": "h"})
    assert names(plan.at(CHILD))[0] == "PlainRoot" and plan.at(CHILD)[0] == rootfs.PlainRoot("/bundle/rootfs", WHY)
    assert plan.at(ENTER)[:2] == [spaces.SetHostname("h", WHY), rootfs.Chroot("/bundle/rootfs", WHY)]
    assert not {"Pivot", "ReadonlyRoot", "PrivatePropagation"} & set(names(plan.steps))


def test_no_pivot() -> None:
    plan = plan_of(config("mount"), pivot=False)
    assert plan.at(ENTER)[0] == rootfs.MoveRoot(WHY) and "Pivot" not in names(plan.steps)


@pytest.mark.parametrize(
    ("asked", "outside"),
    [(None, "rslave"), ("private", "rprivate"), ("rprivate", "rprivate"), ("slave", "rslave"), ("shared", "rshared"),
     ("rshared", "rshared"), ("unbindable", "rprivate")],
)  # fmt: skip
def test_propagation_outside_and_inside(asked: str | None, outside: str) -> None:
    plan = plan_of(config("mount", **({"rootfsPropagation": asked} if asked else {})))
    assert rootfs.PrivatePropagation(outside, WHY) in plan.steps
    inside = [step for step in plan.at(ENTER) if isinstance(step, rootfs.RootPropagation)]
    assert inside == ([rootfs.RootPropagation(asked, WHY)] if asked else [])


def test_read_only_comes_after_everything_that_is_made_in_the_root() -> None:
    spec = config("mount", maskedPaths=["/a"], rootfsPropagation="shared")
    spec["root"]["readonly"] = True
    kinds = names(plan_of(spec).at(ENTER))
    assert kinds[:4] == ["Mask", "Pivot", "ReadonlyRoot", "RootPropagation"]


# -- mounts


def test_mounts_keep_their_order_and_read_only_tmpfs_are_filled_first() -> None:
    spec = config("mount")
    spec["mounts"] = [
        {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["ro"]},
        {"destination": "/t/proc", "type": "proc"},
        bind("t/b", "/src", "bind", "ro"),
        {"destination": "/s", "type": "sysfs", "options": ["ro"]},
    ]
    steps = [step for step in plan_of(spec).at(CHILD) if isinstance(step, mounts.Mount | mounts.ReadonlyMount)]
    assert steps == [
        mounts.NewFilesystem("tmpfs", "tmpfs", "/t", mount_options(["ro"]), WHY),
        mounts.NewFilesystem("proc", "proc", "/t/proc", mount_options([]), WHY),
        mounts.Bind("/src", "/t/b", mount_options(["bind", "ro"]), WHY),
        mounts.NewFilesystem("sysfs", "sysfs", "/s", mount_options(["ro"]), WHY),
        mounts.ReadonlyMount("/t", WHY),
    ]


@pytest.mark.parametrize(
    ("entry", "refused"),
    [
        ({"destination": "/proc/sys/kernel", "type": "bind", "source": "/x"}, True),
        ({"destination": "/proc/meminfo", "type": "bind", "source": "/x"}, False),
        ({"destination": "/proc", "type": "bind", "source": "/x"}, False),
        ({"destination": "/proc/acpi", "type": "tmpfs"}, True),
        ({"destination": "/proc/sys/net", "type": "proc", "source": "proc"}, False),
        ({"destination": "/proc/kcore", "type": "bind", "source": "/x"}, True),
        ({"destination": "/proc/./x/../kcore", "type": "bind", "source": "/x"}, True),
    ],
)
def test_nothing_is_bound_below_proc(entry: dict[str, Any], refused: bool) -> None:
    spec = config("mount")
    spec["mounts"] = [{"options": ["bind"] if entry["type"] == "bind" else [], **entry}]
    if refused:
        with pytest.raises(SpecError, match=r"^mounts\[0\]: cannot mount /proc/"):
            plan_of(spec)
    else:
        plan_of(spec)


def test_id_maps_of_a_mount_are_its_own_or_the_containers() -> None:
    own = [{"containerID": 0, "hostID": 5, "size": 1}]
    maps = {"uidMappings": [{"containerID": 0, "hostID": 9, "size": 2}], "gidMappings": own}
    spec = config("mount", "user", **maps)
    spec["mounts"] = [
        bind("/own", "/x", "bind") | {"uidMappings": own, "gidMappings": own},
        bind("/same", "/x", "bind", "idmap"),
        bind("/none", "/x", "bind"),
    ]
    binds = [step for step in plan_of(spec).steps if isinstance(step, mounts.Bind)]
    assert [(step.uids, step.gids) for step in binds] == [
        ([IdMap(0, 5, 1)], [IdMap(0, 5, 1)]),
        ([IdMap(0, 9, 2)], [IdMap(0, 5, 1)]),
        ([], []),
    ]


@pytest.mark.parametrize("namespaced", [True, False])
def test_cgroup_mounts(namespaced: bool) -> None:
    spec = config("mount", *(["cgroup"] if namespaced else []))
    spec["mounts"] = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]}]
    found = next(step for step in plan_of(spec, cgroup=group("v2")).steps if isinstance(step, cgroup.CgroupMount))
    assert found.hierarchies == [("", "cgroup2", [], "" if namespaced else "/nowhere/cgroup/box/1")]
    legacy = next(step for step in plan_of(spec, cgroup=group()).steps if isinstance(step, cgroup.CgroupMount))
    assert [entry[:2] for entry in legacy.hierarchies] == [
        ("memory", "cgroup"), ("pids", "cgroup"), ("devices", "cgroup"), ("unified", "cgroup2"),
    ]  # fmt: skip
    assert all(bool(entry[3]) is not namespaced for entry in legacy.hierarchies)
    nothing = next(step for step in plan_of(spec).steps if isinstance(step, cgroup.CgroupMount))
    assert nothing.hierarchies == []


# -- devices


def test_devices_of_the_config_replace_the_defaults() -> None:
    spec = config(
        "mount", devices=[{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 4}]
    )
    made = [step for step in plan_of(spec).at(CHILD) if isinstance(step, devices.MakeDevice)]
    assert made == [*DEFAULT_DEVICES[1:], devices.MakeDevice("/dev/null", "c", 1, 3, WHY, 0o600, 4, 0)]


@pytest.mark.parametrize(
    "entry",
    [bind("/dev/", "/dev", "rbind"), {"destination": "/dev", "type": "", "source": "/dev", "options": ["bind"]}],
)
def test_the_hosts_own_dev_is_left_alone(entry: dict[str, Any]) -> None:
    spec = config("mount")
    spec["mounts"] = [entry]
    assert not {"MakeDevice", "DevLinks"} & set(names(plan_of(spec).steps))


# -- control groups


def test_the_group_is_made_and_limited_before_the_child_joins_it() -> None:
    spec = config("mount", resources={"pids": {"limit": 9}, "memory": {"limit": 1 << 20}})
    made = group()
    plan = plan_of(spec, cgroup=made)
    assert names(plan.at(HOST)) == ["CreateCgroup", "SetCgroup", "SetCgroup"]
    assert [step.fields() for step in plan.at(HOST)[1:]] == [
        {"file": "/nowhere/cgroup/pids/box/1/pids.max", "value": "9"},
        {"file": "/nowhere/cgroup/memory/box/1/memory.limit_in_bytes", "value": "1048576"},
    ]
    assert plan.at(JOIN)[0] == cgroup.JoinCgroup(made, WHY)


def test_no_group_no_steps() -> None:
    plan = plan_of(config("mount", resources={"pids": {"limit": 9}}))
    assert plan.at(HOST) == [] and "JoinCgroup" not in names(plan.steps)


def test_cache_allocation_needs_a_mount(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = config("mount", intelRdt={"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True})
    table = tmp_path / "mountinfo"
    table.write_text("1 2 0:3 / /proc rw - proc proc rw\n")
    monkeypatch.setattr(resources, "resctrl_mount", lambda: resources_mount(str(table)))
    with pytest.raises(UnsupportedError, match="resctrl is not mounted"):
        plan_of(spec)
    table.write_text("1 2 0:3 / /sys/fs/resctrl rw - resctrl resctrl rw\n")
    plan = plan_of(spec)
    assert plan.at(HOST)[0].fields()["path"] == "/sys/fs/resctrl/gold"
    assert plan.at(PARENT)[0].fields()["paths"] == ["/sys/fs/resctrl/gold", "/sys/fs/resctrl/gold/mon_groups/gold"]


resources_mount = resources.resctrl_mount


# -- hooks


def test_hooks_in_their_places_and_with_their_kinds() -> None:
    plan = plan_of({**config("mount"), "hooks": FULL["hooks"]})
    found = [(step.kind, step.hook["path"], step.place) for step in plan.steps if isinstance(step, hooks.RunHook)]
    assert found == [
        ("prestart", "/h1", READY),
        ("createRuntime", "/h2", READY),
        ("createRuntime", "/h3", READY),
        ("createContainer", "/h4", ENTER),
    ]  # the others belong to start and delete
    kinds = names(plan.at(ENTER))
    assert kinds.index("RunHook") < kinds.index("Pivot")


# -- writes below /proc


@pytest.mark.parametrize(
    ("spec", "private"),
    [
        (config("mount"), False),
        (config("mount", process={"oomScoreAdj": 0}), True),
        (config("mount", sysctl={"kernel.shmmax": "1"}), True),
        (config("mount", sysctl={}), False),
    ],
    ids=["nothing", "oom score", "sysctl", "no sysctl"],
)
def test_a_private_proc_only_where_something_is_written(spec: dict[str, Any], private: bool) -> None:
    plan = plan_of(spec)
    assert (settings.PrivateProc(WHY) in plan.at(CHILD)) is private
    if private:
        kinds = names(plan.at(CHILD))
        assert kinds.index("BindRoot") < kinds.index("PrivateProc")  # before the container's mounts


# -- the last moments


def test_no_process() -> None:
    """It is created and waits, and then there is nothing to start (runtime-spec runtime.md, "Start")."""
    spec = config("mount")
    del spec["process"]
    plan = plan_of(spec)
    assert plan.at(INIT) == [identity.Gate(WHY), identity.Pause(WHY)]
    assert names(plan.at(ENTER)) == ["Pivot"] and "WorkingDirectory" not in names(plan.steps)


@pytest.mark.parametrize(
    ("hardened", "notifies", "order"),
    [
        # Without no_new_privs only CAP_SYS_ADMIN may load a filter, so before it is given up (seccomp(2)).
        (False, False, ["Seccomp", "BoundingSet", "SetIds", "Capabilities", "Gate", "Execute"]),
        (False, True, ["Seccomp", "BoundingSet", "SetIds", "Capabilities", "Gate", "Execute"]),
        # With it, last, so that the filter need not allow what the launcher does.
        (True, False, ["BoundingSet", "SetIds", "Capabilities", "NoNewPrivileges", "Gate", "Seccomp", "Execute"]),
        # But a listener's descriptor is to be fetched while the launcher waits.
        (True, True, ["BoundingSet", "SetIds", "Capabilities", "NoNewPrivileges", "Seccomp", "Gate", "Execute"]),
    ],
)
def test_when_system_calls_are_filtered(hardened: bool, notifies: bool, order: list[str]) -> None:
    spec = config("mount", process={"noNewPrivileges": hardened})
    assert names(plan_of(spec, seccomp=program(notifies)).at(INIT))[1:] == order


def test_the_filter_does_not_hinder_what_comes_between() -> None:
    """A keyring and rlimits come first, an init last: neither may need what the profile forbids."""
    spec = config("mount", process={"noNewPrivileges": True, "rlimits": [{"type": "RLIMIT_AS", "soft": 1, "hard": 1}]})
    kinds = names(plan_of(spec, seccomp=program(), keyring=True, init=True).at(INIT))
    assert kinds[0] == "Rlimit" and kinds[-4:] == ["Gate", "Reaper", "Seccomp", "Execute"]


def test_capabilities_by_name() -> None:
    sets = {
        "bounding": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"],
        "permitted": ["CAP_CHOWN"],
        "inheritable": ["CAP_NET_RAW"],
        "ambient": ["CAP_BPF"],
    }
    plan = plan_of(config("mount", process={"capabilities": sets}))
    bounding, _, caps = plan.at(INIT)[1:4]
    assert bounding.fields() == {"keep": ["CAP_CHOWN", "CAP_KILL"]}
    assert caps.fields() == {name: sets[name] for name in ("ambient", "effective", "inheritable", "permitted")}


@pytest.mark.parametrize("process", [{"capabilities": None}, {}, {"capabilities": {}}])
def test_no_capabilities_is_none_at_all(process: dict[str, Any]) -> None:
    plan = plan_of(config("mount", process=process))
    assert plan.at(INIT)[1:4:2] == [
        identity.BoundingSet(0, capability.last_cap(), WHY),
        identity.Capabilities(0, 0, 0, 0, WHY),
    ]


SHAPES: list[tuple[dict[str, Any], dict[str, Any], str, list[Any]]] = [
    ({"user": {"umask": 0o7}}, {}, "umask", [7]),
    ({}, {"personality": {"domain": "LINUX32"}}, "personality", [8]),
    ({}, {"personality": {"domain": "LINUX"}}, "personality", [0]),
    ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 3}}, {}, "ioprio_set", [1, 0, 2 << 13 | 3]),
    ({"ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}, {}, "ioprio_set", [1, 0, 3 << 13]),
    ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0,2-3"}}, "set_mempolicy", [2, "0d" + "00" * 7, 5]),
    ({}, {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "64", "flags": ["MPOL_F_STATIC_NODES"]}}, "set_mempolicy",
     [2 | 1 << 15, "00" * 8 + "01" + "00" * 7, 66]),
    ({}, {"memoryPolicy": {"mode": "MPOL_LOCAL"}}, "set_mempolicy", [4, 0, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("process", "linux", "call", "arguments"), SHAPES)
def test_attributes_that_survive_exec(
    process: dict[str, Any], linux: dict[str, Any], call: str, arguments: list[Any]
) -> None:
    plan = plan_of(config("mount", process=process, **linux))
    fields = [step.fields() for step in plan.at(INIT) if isinstance(step, identity.RawCall)]
    assert [entry["arguments"] for entry in fields if entry["call"] == call] == [arguments]


def test_scheduling() -> None:
    """struct sched_attr (sched_setattr(2)): size, policy, flags, nice, priority, runtime, deadline, period."""
    asked = {
        "policy": "SCHED_DEADLINE",
        "flags": ["SCHED_FLAG_RESET_ON_FORK"],
        "runtime": 1,
        "deadline": 2,
        "period": 3,
    }
    plan = plan_of(config("mount", process={"scheduler": asked}))
    call = next(step for step in plan.at(INIT) if isinstance(step, identity.RawCall) and step.name == "sched_setattr")
    numbers = [48, 6, 1, 0, 0, 1, 2, 3]
    sizes = [4, 4, 8, 4, 4, 8, 8, 8]
    data = b"".join(number.to_bytes(size, "little") for number, size in zip(numbers, sizes, strict=True))
    assert call.arguments == (0, data, 0)


@pytest.mark.parametrize(
    ("nodes", "complaint"), [("a", "'a' is not a node"), ("3-1", "'3-1' is out of range"), ("1024", "out of range")]
)
def test_wrong_memory_nodes(nodes: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=rf"^linux\.memoryPolicy\.nodes: .*{complaint}"):
        plan_of(config("mount", memoryPolicy={"mode": "MPOL_BIND", "nodes": nodes}))


def test_labels_without_the_module_are_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    warnings: list[str] = []
    plan = plan_of(config("mount", process={"apparmorProfile": "p", "selinuxLabel": "l"}), warnings)
    assert "SecurityLabel" not in names(plan.steps) and "PrivateProc" not in names(plan.steps)
    assert set(warnings) == {
        "apparmor is not active on this kernel: the label p has no effect",
        "selinux is not active on this kernel: the label l has no effect",
    }
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    plan = plan_of(config("mount", process={"apparmorProfile": "p"}))
    assert identity.SecurityLabel("apparmor", "p", WHY) in plan.at(INIT) and settings.PrivateProc(WHY) in plan.at(CHILD)


@pytest.mark.parametrize(
    ("gids", "denied"),
    [([{"containerID": 0, "hostID": 1000, "size": 1}], True), ([{"containerID": 0, "hostID": 1, "size": 2}], False)],
)
def test_a_namespace_of_one_id_forbids_setgroups(as_user: None, gids: list[dict[str, int]], denied: bool) -> None:
    plan = plan_of(config("mount", "user", uidMappings=gids, gidMappings=gids))
    assert identity.SetIds(0, 0, [], WHY, denied) in plan.at(INIT)


def test_places_of_all_steps_are_known_and_in_order() -> None:
    steps: list[Step] = plan_of(FULL, cgroup=group(), seccomp=program()).steps
    assert {step.place for step in steps} == set(PLACES)
    init = [index for index, step in enumerate(steps) if step.place == INIT]
    assert init == list(range(init[0], len(steps)))  # the launcher's come last, and Execute is the very last
    assert isinstance(steps[-1], identity.Execute)
