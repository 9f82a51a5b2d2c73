"""Single steps: what they say, what they add to a script, what they hand to the launcher."""

from __future__ import annotations

import inspect
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from planning import ALL, FILTER, config, plan_of, program

from coracle.engine import steps as engine
from coracle.errors import ConflictError
from coracle.linux import capability
from coracle.linux.launcher import Pointer, Table
from coracle.linux.namespace import IdMap
from coracle.paths import Paths
from coracle.runtime.mount_options import mount_options
from coracle.runtime.steps import cgroup, devices, hooks, identity, inside, masks, mounts, rdt, rootfs, settings
from coracle.runtime.steps import namespaces as spaces
from coracle.runtime.steps import program as programs
from coracle.step import CHILD, HOST, PLACES, Step, World

MODULES = (cgroup, devices, hooks, identity, inside, masks, mounts, rdt, rootfs, settings, spaces, programs, engine)
WHY = "why"
ID = "0123456789abcdef" * 4
CHOWN, KILL = (1 << capability.NUMBERS[name] for name in ("CAP_CHOWN", "CAP_KILL"))


def world() -> World:
    return World(lambda text: None)


def samples() -> Iterator[Step]:
    """At least one of every kind that needs no control group."""
    yield from plan_of(config(*ALL, "user", "time", uidMappings=[], gidMappings=[], maskedPaths=["/m"])).steps
    yield spaces.JoinNamespace("network", "/proc/1/ns/net", WHY)
    yield spaces.NewUserNamespace(WHY)
    yield spaces.WriteIdMaps([IdMap(0, 100000, 65536)], [IdMap(0, 5, 1), IdMap(1, 200000, 9)], WHY)
    yield spaces.TimeOffsets({"boottime": (3, 5), "monotonic": (-2, 0)}, WHY)
    yield spaces.MoveInterface("eth7", "eth0", WHY)
    yield spaces.MoveInterface("eth8", "", WHY)
    yield spaces.InterfaceUp("eth0", WHY)
    yield spaces.SetHostname("h", WHY)
    yield spaces.SetDomainname("d", WHY)
    yield rootfs.Preopen("mount /x", "/x", lambda: -1, WHY)
    yield rootfs.Preopen("mount /x", "/x", lambda: -1, WHY, place=CHILD)
    yield rootfs.OverlayRoot(["/b", "/a"], "/u", "/w", "/p", WHY, ["userxattr"])
    yield rootfs.HostRoot([("/", "/u", "/w"), ("/home", "/u2", "/w2")], "", "/p", [], WHY)
    yield rootfs.HostRoot([("/usr", "/u", "/w")], "/scaffold", "/p", ["userxattr"], WHY)
    yield from (rootfs.PrivatePropagation(mode, WHY) for mode in ("rslave", "rshared"))
    yield rootfs.PlainRoot("/p", WHY)
    yield rootfs.Chroot("/p", WHY)
    yield rootfs.MoveRoot(WHY)
    yield rootfs.ReadonlyRoot(WHY)
    yield rootfs.RootPropagation("shared", WHY)
    yield mounts.NewFilesystem("tmpfs", "tmpfs", "/a b", mount_options(["ro", "tmpcopyup", "size=1m"]), WHY)
    yield mounts.Bind("/src", "/it's", mount_options(["rbind", "rro", "rslave"]), WHY)
    yield mounts.Bind("/src", "/x", mount_options(["bind", "ro", "noexec"]), WHY, [IdMap(0, 5, 1)], [IdMap(0, 6, 1)])
    yield mounts.ReadonlyMount("/t", WHY)
    yield cgroup.CgroupMount([], "/sys/fs/cgroup", mount_options(["ro"]), WHY)
    yield cgroup.CgroupMount([("", "cgroup2", [], "")], "/sys/fs/cgroup", mount_options(["ro", "nosuid"]), WHY)
    yield cgroup.CgroupMount([("cpu", "cgroup", [("cpu", None)], "/b")], "/c", mount_options(["ro"]), WHY)
    yield devices.MakeDevice("/dev/d/e", "b", 8, 1, WHY, 0o640, 3, 4)
    yield devices.MakeDevice("/fifo", "p", 0, 0, WHY)
    yield devices.Terminal(24, 80, WHY)
    yield devices.Terminal(0, 0, WHY)
    yield devices.Console(WHY)
    yield masks.ReadonlyPath("/r", WHY)
    yield hooks.RunHook("prestart", {"path": "/h k", "args": ["h", "it's"], "env": ["A=b c"]}, WHY)
    yield hooks.RunHook("createRuntime", {"path": "/h"}, WHY)
    yield settings.PrivateProc(WHY)
    yield settings.Sysctl("net.ipv4.ip_forward", "1 2", WHY)
    yield settings.OomScore(-3, WHY)
    yield rdt.RdtGroup("/r/g", ["L3:0=f", "MB:0=9"], "/r/g/mon_groups/m", WHY)
    yield rdt.JoinRdt(["/r/g"], WHY)
    yield programs.FindProgram("x", [], 7, WHY)
    yield programs.StandardFiles(True, 0, WHY)
    yield programs.CloseDescriptors(3, WHY)
    yield identity.Rlimit("RLIMIT_CORE", -1, 2**64 - 1, WHY)
    yield identity.RawCall("personality", (8,), "set the execution domain", "setarch linux32 \\", WHY)
    yield identity.SetIds(1, 2, [3, 4], WHY)
    yield identity.SetIds(1, 2, [], WHY, denied=True)
    yield identity.Capabilities(CHOWN, CHOWN, CHOWN | KILL, KILL, WHY)
    yield identity.NoNewPrivileges(WHY)
    yield identity.Seccomp(program(), WHY)
    yield identity.SecurityLabel("apparmor", "p", WHY)
    yield identity.Pause(WHY)
    yield identity.Reaper(WHY)
    yield inside.JoinProcess(1, 2, ["mount", "pid"], WHY)
    yield inside.ExistingRoot(WHY)
    paths = Paths("/root", "/run")
    yield engine.ContainerDirectory(paths, ID, ["rootfs"], {}, WHY)
    yield engine.ClaimName(paths, ID, "web", WHY)
    yield engine.ClaimName(paths, ID, "", WHY)
    yield engine.HostLayers(rootfs.HostRoot([("/usr", "/u", "/w")], "/scaffold", "/p", [], WHY), WHY)
    yield engine.WriteFile("/f", b"it's\n", WHY, exclusive=True)
    yield engine.BindSource("/s", WHY)


SAMPLES = list(samples())


def kinds(module: ModuleType) -> set[type[Step]]:
    """The concrete steps that ``module`` defines."""
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Step)]
    return {kind for kind in found if kind.__module__ == module.__name__ and kind.prose is not Step.prose}


def test_the_samples_are_complete() -> None:
    """Steps of control groups are planned in test_plan.py; the image's layer needs an image."""
    known = {kind for module in MODULES for kind in kinds(module)}
    elsewhere = {cgroup.CreateCgroup, cgroup.OpenCgroup, cgroup.SetCgroup, cgroup.JoinCgroup, engine.ImageLayer}
    bases = {mounts.Mount, rootfs.Root, identity.InitStep}
    assert {type(step) for step in SAMPLES} | elsewhere | bases >= known


@pytest.mark.parametrize("step", SAMPLES, ids=lambda step: type(step).__name__)
def test_every_step_explains_itself(step: Step) -> None:
    prose = step.prose()
    assert prose[0].islower(), prose
    assert "\n" not in prose and not prose.endswith("."), prose
    assert step.place in PLACES and step.cause
    assert step == step and hash(step) == hash(step)
    lines = step.shell()
    words = step.shell_words()
    assert all(isinstance(line, str) and line for line in lines)
    assert set(words) <= {
        "unshare", "nsenter", "setpriv", "userns", "stage", "root", "pivoted", "exec", "function",
    }  # fmt: skip
    for text in [*lines, *words.get("function", []), *words.get("stage", []), *words.get("userns", [])]:
        checked = subprocess.run(["/bin/sh", "-n"], input=text, capture_output=True, text=True)
        assert checked.returncode == 0, (text, checked.stderr)
    for word in [*words.get("unshare", []), *words.get("nsenter", []), *words.get("setpriv", [])]:
        assert word.startswith("--")


@pytest.mark.parametrize("step", SAMPLES, ids=lambda step: type(step).__name__)
def test_hints_are_clauses(step: Step) -> None:
    for errno in range(1, 40):
        hint = step.hint(errno)
        assert "\n" not in hint and not hint.endswith(".")


# -- shell lines


def test_one_namespace_one_option() -> None:
    step = spaces.NewNamespaces(["mount", "pid", "ipc", "uts", "network", "user"], WHY)
    assert step.shell_words() == {"unshare": ["--mount", "--pid", "--ipc", "--uts", "--net"]}
    assert spaces.JoinNamespace("mount", "/n", WHY).shell_words() == {"nsenter": ["--mount=/n"]}
    clocks = spaces.TimeOffsets({"boottime": (3, 0), "monotonic": (-2, 0)}, WHY)
    assert clocks.shell_words() == {"unshare": ["--time", "--boottime=3", "--monotonic=-2"]}
    assert clocks.shell() == []
    assert spaces.TimeOffsets({"boottime": (3, 1)}, WHY).shell() == [
        "# unshare(1) knows whole seconds only: boottime lacks a part"
    ]


def test_id_maps_are_written_at_once() -> None:
    step = spaces.WriteIdMaps([IdMap(0, 9, 1), IdMap(1, 20, 2)], [IdMap(0, 8, 1)], WHY)
    assert step.shell_words()["userns"] == [
        "printf '0 8 1\\n' > /proc/$USERNS/gid_map",
        "printf '0 9 1\\n1 20 2\\n' > /proc/$USERNS/uid_map",
    ]


def test_overlay_options_are_escaped() -> None:
    step = rootfs.OverlayRoot(["/b:c", "/a,b"], "/u", "/w\\", "/p", WHY)
    assert step.mount_shell()[0] == (
        "mount -t overlay overlay -o 'lowerdir=/b\\:c:/a\\,b,upperdir=/u,workdir=/w\\\\' \"$ROOT\""
    )


def bind(*options: str, destination: str = "/x/y", source: str = "/no/such/file") -> mounts.Bind:
    return mounts.Bind(source, destination, mount_options(list(options)), WHY)


@pytest.mark.parametrize(
    ("step", "lines"),
    [
        (
            bind("rbind", "ro", "rprivate"),
            [
                '[ -e "$ROOT"/x/y ] || { mkdir -p "$ROOT"/x; : > "$ROOT"/x/y; }',
                'mount --rbind /no/such/file "$ROOT"/x/y',
                'mount -o remount,bind,ro "$ROOT"/x/y',
                'mount --make-rprivate "$ROOT"/x/y',
            ],
        ),
        (
            bind("bind", "nosuid", "noexec", source="/", destination="/it's"),
            [
                "mkdir -p \"$ROOT\"'/it'\"'\"'s'",
                "mount --bind / \"$ROOT\"'/it'\"'\"'s'",
                "mount -o remount,bind,nosuid,noexec \"$ROOT\"'/it'\"'\"'s'",
                "mount --make-rprivate \"$ROOT\"'/it'\"'\"'s'",
            ],
        ),
        (
            bind("rbind", "rro", "rslave", source="/", destination="/s"),
            [
                'mkdir -p "$ROOT"/s',
                'mount --rbind / "$ROOT"/s',
                'findmnt -rno TARGET -R "$ROOT"/s | while read -r M; do mount -o remount,bind,ro "$M"; done',
                'mount --make-rslave "$ROOT"/s',
            ],
        ),
    ],
)
def test_binds(step: mounts.Bind, lines: list[str]) -> None:
    assert step.shell() == lines


def test_a_bind_opened_by_the_engine_comes_from_the_stage() -> None:
    step = bind("bind", "ro", source="/", destination="/a/b%c")
    staged = '"$STAGE/mounts"/%2Fa%2Fb%25c'
    assert step.stage() == [f"mkdir {staged}", f"mount --bind / {staged}", f"mount -o remount,bind,ro {staged}"]
    step.opened = True
    point = '"$ROOT"/a/b%c'
    assert step.shell() == [f"mkdir -p {point}", f"mount --rbind {staged} {point}", f"mount --make-rprivate {point}"]


def test_an_old_mount_is_not_trusted_with_id_maps() -> None:
    step = mounts.Bind("/", "/x", mount_options(["bind"]), WHY, [IdMap(0, 5, 1)], [IdMap(0, 6, 2)])
    make, guard, line, _ = step.shell()
    assert make == 'mkdir -p "$ROOT"/x'
    assert guard.startswith("mount --help | grep -q map-users || { ") and "exit 1" in guard
    assert line == "mount --bind -o X-mount.idmap='u:0:5:1 g:0:6:2' / \"$ROOT\"/x"


def test_new_file_systems() -> None:
    options = mount_options(["nosuid", "ro", "size=1m", "tmpcopyup", "rslave"])
    assert mounts.NewFilesystem("tmpfs", "tmpfs", "/t", options, WHY).shell() == [
        'mkdir -p "$ROOT"/t',
        'COPY=$(mktemp -d); cp -a "$ROOT"/t/. $COPY',
        'mount -t tmpfs -o nosuid,size=1m tmpfs "$ROOT"/t',  # ro: by ReadonlyMount, when it is filled
        'cp -a $COPY/. "$ROOT"/t; rm -r $COPY',
        'mount --make-rslave "$ROOT"/t',
    ]
    assert mounts.NewFilesystem("sysfs", "sysfs", "/s", mount_options(["ro"]), WHY).shell() == [
        'mkdir -p "$ROOT"/s',
        'mount -t sysfs -o ro sysfs "$ROOT"/s',
    ]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.7/forwarding", "net/ipv4/conf/eth0.7/forwarding"),
        ("net.ipv4.conf.eth0/7.forwarding", "net/ipv4/conf/eth0.7/forwarding"),
        ("kernel/domainname", "kernel/domainname"),
    ],
)
def test_dots_and_slashes_of_sysctls(name: str, path: str) -> None:
    step = settings.Sysctl(name, "it's", WHY)
    assert step.path() == f"sys/{path}"
    assert step.shell() == [f"echo 'it'\"'\"'s' > /proc/sys/{path}"]


def test_rights_in_the_words_of_setpriv() -> None:
    assert identity.SetIds(5, 6, [7, 8], WHY).shell_words() == {"setpriv": ["--reuid=5", "--regid=6", "--groups=7,8"]}
    assert identity.SetIds(0, 0, [], WHY).shell_words()["setpriv"][2] == "--clear-groups"
    assert identity.SetIds(0, 0, [0], WHY, denied=True).shell_words()["setpriv"][2] == "--keep-groups"
    assert identity.BoundingSet(CHOWN | KILL | 1 << 45, 45, WHY).shell_words() == {
        "setpriv": ["--bounding-set=-all,+chown,+kill,+cap_45"]
    }
    assert identity.BoundingSet(0, 40, WHY).shell_words() == {"setpriv": ["--bounding-set=-all"]}
    # An ambient capability that is not inheritable is none: the kernel refuses it (capabilities(7)).
    assert identity.Capabilities(0, 0, CHOWN, CHOWN | KILL, WHY).shell_words() == {
        "setpriv": ["--inh-caps=-all,+chown", "--ambient-caps=-all,+chown"]
    }
    assert identity.NoNewPrivileges(WHY).shell_words() == {"setpriv": ["--no-new-privs"]}


def test_limits() -> None:
    step = identity.Rlimit("RLIMIT_MEMLOCK", 5, -1, WHY)
    assert step.shell() == ["limit memlock 5 unlimited"]
    assert step.prose() == "limit RLIMIT_MEMLOCK to 5, at most unlimited"


def test_a_limit_in_the_shell(tmp_path: Path) -> None:
    """What is not allowed becomes what is (as the engine does): the soft limit, or both, at the present hard one."""
    function = identity.Rlimit("RLIMIT_NOFILE", 1, 1, WHY).shell_words()["function"][0]
    show = "prlimit --pid $$ --nofile --noheadings --output SOFT,HARD"
    for asked, seen in (("20 30", "20 30"), ("20 40", "20 40"), ("40 40", "40 40")):
        script = f"prlimit --pid $$ --nofile=40:40\n{function}\nlimit nofile {asked}; {show}"
        assert (
            subprocess.run(["/bin/sh", "-euc", script], capture_output=True, text=True).stdout.split() == seen.split()
        )


def test_what_is_found_out_in_the_container() -> None:
    assert programs.FindProgram("x", ["HOME=/h"], 7, WHY).shell() == []
    assert programs.FindProgram("x", ["A=b"], 7, WHY).shell() == [
        "HOME=$(awk -F: '$3 == 7 { print $6; exit }' \"$ROOT/etc/passwd\" || :)",
        "HOME=${HOME:-/}",
    ]


def test_undoing_in_shell() -> None:
    paths = Paths("/s t", "/r")
    assert engine.ContainerDirectory(paths, ID, ["rootfs"], {}, WHY).undo_shell() == [
        f"rm -r --one-file-system '/s t/containers/{ID}'"
    ]
    assert engine.WriteFile("/c", b"", WHY, exclusive=True).undo_shell() == ["rm /c"]
    assert engine.WriteFile("/c", b"", WHY).undo_shell() == []
    assert engine.BindSource("/d", WHY).undo_shell() == []  # Docker leaves it, too


# -- doing and undoing without rights


def test_preopen_holds_what_it_opened() -> None:
    here = world()
    step = rootfs.Preopen("mount /x", "/x", lambda: os.open("/", os.O_RDONLY), WHY)
    step.do(here)
    fd = here.fds["mount /x"]
    os.fstat(fd)
    step.undo(here)
    assert here.fds == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    step.undo(here)  # or a mount step has taken it already
    assert rootfs.Preopen("a", "b", lambda: 1, WHY) == rootfs.Preopen("a", "b", lambda: 2, WHY)


def test_write_file(tmp_path: Path) -> None:
    here, path = world(), tmp_path / "f"
    old = os.umask(0o077)
    try:
        engine.WriteFile(str(path), b"one", WHY, 0o644).do(here)
    finally:
        os.umask(old)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o644)
    step = engine.WriteFile(str(path), b"two", "--cidfile", exclusive=True)
    with pytest.raises(ConflictError, match=f"the file {path} exists .*--cidfile"):
        step.do(here)
    step.undo(here)
    assert path.read_bytes() == b"one"  # not ours
    other = engine.WriteFile(str(tmp_path / "g"), b"two", "--cidfile", exclusive=True)
    other.do(here)
    assert (tmp_path / "g").read_bytes() == b"two"
    other.undo(here)
    other.undo(here)
    assert os.listdir(tmp_path) == ["f"]


def test_bind_source(tmp_path: Path) -> None:
    step = engine.BindSource(str(tmp_path / "a/b"), WHY)
    step.do(world())
    step.do(world())
    assert (tmp_path / "a/b").is_dir()


# -- for the launcher


class Listing(Table):
    """A table that can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def call(self, name: str, *arguments: Any, **more: Any) -> None:
        super().call(name, *arguments, **more)  # it accepts them, too
        given = [value.data if isinstance(value, Pointer) else value for value in arguments]
        self.calls.append((name, *given, *(sorted(more["ignore"]) if more.get("ignore") else ())))


def compiled(*steps: identity.InitStep, **values: Any) -> list[tuple[Any, ...]]:
    table, here = Listing(), world()
    here.values.update(values)
    for step in steps:
        step.compile(table, here)
    return table.calls


def test_dropping_from_the_bounding_set() -> None:
    calls = compiled(identity.BoundingSet(CHOWN | KILL, 6, WHY))
    assert calls == [("prctl", identity.PR_CAPBSET_DROP, bit, 0, 0, 0, identity.EINVAL) for bit in (1, 2, 3, 4, 6)]


def test_ids_in_the_order_that_keeps_the_right_to_change_them() -> None:
    keep = ("prctl", identity.PR_SET_KEEPCAPS, 1, 0, 0, 0)
    groups = b"\x07\0\0\0\x08\0\0\0"
    calls = compiled(identity.SetIds(5, 6, [7, 8], WHY))
    assert calls == [keep, ("setgroups", 2, groups), ("setresgid", 6, 6, 6), ("setresuid", 5, 5, 5)]


@pytest.mark.parametrize(("groups", "called"), [([], False), ([6], False), ([7], True), ([6, 7], True)])
def test_setgroups_where_it_is_denied(groups: list[int], called: bool) -> None:
    """Only a loss of groups that were asked for is a failure."""
    calls = compiled(identity.SetIds(5, 6, groups, WHY, denied=True))
    assert ("setgroups" in [call[0] for call in calls]) is called


def test_capabilities_are_set_and_then_raised() -> None:
    calls = compiled(identity.Capabilities(CHOWN, CHOWN, CHOWN, CHOWN | KILL, WHY))
    header, data = capability.capset_data(CHOWN, CHOWN, CHOWN)
    ambient = ("prctl", identity.PR_CAP_AMBIENT)
    assert calls == [
        ("capset", header, data),
        (*ambient, identity.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, identity.EINVAL),
        (*ambient, identity.PR_CAP_AMBIENT_RAISE, 0, 0, 0, identity.EPERM),
        (*ambient, identity.PR_CAP_AMBIENT_RAISE, 5, 0, 0, identity.EPERM),
    ]


def test_single_calls() -> None:
    assert compiled(identity.NoNewPrivileges(WHY)) == [("prctl", identity.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)]
    assert compiled(identity.RawCall("umask", (0o22,), "", "", WHY)) == [("umask", 0o22)]
    assert compiled(identity.RawCall("sched_setattr", (0, b"data", 0), "", "", WHY)) == [
        ("sched_setattr", 0, b"data", 0)
    ]
    name, mode, flags, _ = compiled(identity.Seccomp(program(notifies=True), WHY))[0]
    assert (name, mode, flags) == ("seccomp", identity.SECCOMP_SET_MODE_FILTER, 8)
    assert identity.Seccomp(program(), WHY).fields() == {"instructions": len(FILTER) // 8, "flags": 0}


def test_a_limit_below_the_present_one_is_taken_as_it_is() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    calls = compiled(identity.Rlimit("RLIMIT_CORE", 0, 0, WHY))
    assert calls == [("prlimit64", 0, resource.RLIMIT_CORE, bytes(16), 0)]
    assert resource.getrlimit(resource.RLIMIT_CORE)[1] == hard  # only the launcher sets it


def test_execute_searches_where_the_step_before_has_found() -> None:
    step = identity.Execute(["sh", "-c", "x"], ["A=b"], "/w", WHY)
    calls = compiled(step, program=["/bin/sh"])
    assert not [call for call in calls if call[0] == "chdir"]
    calls = compiled(step, **{"program": ["/bin/sh"], "chdir as user": True})
    assert ("chdir", b"/w") in calls


def test_init_steps_are_compiled_not_done() -> None:
    with pytest.raises(AssertionError):
        identity.NoNewPrivileges(WHY).do(world())
    assert all(step.place != HOST for step in SAMPLES if isinstance(step, identity.InitStep))
