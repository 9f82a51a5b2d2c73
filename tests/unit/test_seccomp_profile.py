"""The default profile: what it lets through, by capability, and how it differs from podman's."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import pytest
from bpf_machine import Machine
from seccomp_reference import ABIS, NUMBERS

from coracle.linux import seccomp
from coracle.runtime import seccomp_profile
from coracle.runtime.seccomp_file import load_profile
from coracle.runtime.seccomp_profile import default_key, default_profile, running_kernel

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026
KERNEL = (6, 1)
CONDITIONAL = sorted(seccomp_profile._CAPABILITIES)

PEER = "/usr/share/containers/seccomp.json"

# Calls that the profile of containers-common allows to everybody, and ours as Docker's not, or only by capability.
THEIRS = {
    "clone3": "its flags are out of the filter's sight; podman lets it make any namespace",
    "fsconfig fsmount fsopen fspick mount mount_setattr move_mount open_tree umount umount2 pivot_root setns unshare":
        "podman lets containers make user namespaces and mount in them, to nest; Docker asks for CAP_SYS_ADMIN, and "
        "keeps this large part of the kernel away from everybody else",
    "get_mempolicy mbind set_mempolicy": "Docker: CAP_SYS_NICE",
    "keyctl": "keyrings belong to users, not to namespaces",
    "pidfd_getfd": "Docker: CAP_SYS_PTRACE, which the kernel's own check amounts to",
    "reboot": "Docker: CAP_SYS_BOOT",
    "syslog": "Docker: CAP_SYSLOG or CAP_SYS_ADMIN; the log is the whole machine's",
    "query_module": "gone from the kernel since Linux 2.6",
    "readdir sigaction signal sigpending sigsuspend": "32-bit calls that C libraries stopped making long ago",
}  # fmt: skip
# ... and the other way round.
OURS = {
    "cachestat fchmodat2 futex_requeue futex_wait futex_waitv futex_wake getxattrat listmount listxattrat mseal "
    "map_shadow_stack removexattrat setxattrat statmount uretprobe": "newer than the file, and in Docker's since",
    "lsm_get_self_attr lsm_list_modules lsm_set_self_attr quotactl_fd set_mempolicy_home_node": "likewise",
    "uprobe": "newer than Docker's as well; made by the kernel's trampolines as uretprobe is",
    "bpf perf_event_open": "Docker: CAP_BPF and CAP_PERFMON are enough, as for the kernel since 5.8",
    "io_pgetevents io_pgetevents_time64 vmsplice": "Docker allows them; podman lists them twice, and EPERM comes first",
}


def machine_for(capabilities: object = (), machine: str = "x86_64", kernel: tuple[int, int] = KERNEL) -> Machine:
    return Machine(seccomp.compile(default_profile(capabilities, machine, kernel), machine).filter)


def allowed(machine: Machine, abi: str = "x86_64") -> set[str]:
    """Names of the calls that pass with all arguments 0."""
    return {name for name, number in NUMBERS[abi].items() if machine(abi, number) == ALLOW}


@pytest.mark.peer
@pytest.mark.skipif(
    not os.path.exists(PEER), reason=f"{PEER} is not installed (Debian: golang-github-containers-common)"
)
@pytest.mark.parametrize(
    "capabilities",
    [(), *((name,) for name in [*CONDITIONAL, "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL"]), CONDITIONAL],
    ids=lambda names: "+".join(names) if len(names) < 2 else "all",
)
def test_every_difference_from_podmans_profile_has_a_reason(capabilities):
    profile = load_profile(PEER, capabilities, "x86_64", KERNEL)
    ours, theirs = machine_for(capabilities), Machine(seccomp.compile(profile, "x86_64").filter)
    for abi in ("x86_64", "x86"):
        only_ours = allowed(ours, abi) - allowed(theirs, abi)
        only_theirs = allowed(theirs, abi) - allowed(ours, abi)
        assert only_ours <= set(" ".join(OURS).split())
        assert only_theirs <= set(" ".join(THEIRS).split())


@pytest.mark.parametrize("capability", CONDITIONAL)
def test_a_capability_opens_its_calls_and_nothing_else(capability):
    extra = allowed(machine_for([capability])) - allowed(machine_for())
    expected = set(seccomp_profile._CAPABILITIES[capability].split()) & set(NUMBERS["x86_64"])
    expected |= {"clone3"} if capability == "CAP_SYS_ADMIN" else set()
    assert extra == expected - {"ptrace", "process_vm_readv", "process_vm_writev"}


def test_every_name_is_a_system_call_somewhere():
    """A misspelt name would be ignored silently."""
    tables = [
        *seccomp_profile._EVERYWHERE,
        *seccomp_profile._MACHINES.values(),
        *seccomp_profile._CAPABILITIES.values(),
    ]
    known = {name for numbers in NUMBERS.values() for name in numbers}
    assert set(" ".join(tables).split()) <= known


def test_no_name_stands_in_two_places():
    names = " ".join(
        [*seccomp_profile._EVERYWHERE, *seccomp_profile._MACHINES.values(), seccomp_profile._TRACING]
    ).split()
    assert len(names) == len(set(names))


@pytest.mark.parametrize("machine", sorted(ABIS))
def test_every_abi_of_a_machine_can_live(machine):
    program = machine_for((), machine)
    for abi in ABIS[machine]:
        assert {"read", "write", "execve", "exit_group", "futex", "openat"} <= allowed(program, abi)
        for name in ("mount", "swapon", "init_module", "kexec_load", "keyctl", "bpf", "unshare", "io_uring_setup"):
            assert program(abi, NUMBERS[abi][name]) == EPERM


def test_arm_programs_keep_their_private_calls():
    assert {"set_tls", "cacheflush"} <= allowed(machine_for((), "aarch64"), "arm")


NEW_NAMESPACE_FLAGS = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
THREAD = 0x3D0F00  # what pthread_create(3) asks for


@pytest.mark.parametrize("flag", NEW_NAMESPACE_FLAGS)
def test_clone_makes_threads_but_no_namespaces(flag):
    program, clone = machine_for(), NUMBERS["x86_64"]["clone"]
    assert program("x86_64", clone, THREAD) == ALLOW
    assert program("x86_64", clone, flag) == program("x86_64", clone, THREAD | flag) == EPERM
    assert program("x86", NUMBERS["x86"]["clone"], flag) == EPERM
    assert machine_for(["CAP_SYS_ADMIN"])("x86_64", clone, flag) == ALLOW


def test_clone3_does_not_exist_without_the_right_to_namespaces():
    clone3 = NUMBERS["x86_64"]["clone3"]
    assert machine_for()("x86_64", clone3) == ENOSYS
    assert machine_for(["CAP_SYS_ADMIN"])("x86_64", clone3) == ALLOW


@pytest.mark.parametrize(
    ("family", "answer"),
    [
        *((family, ALLOW) for family in (1, 2, 10, 16, 17, 29, 44, 45)),
        *((family, EPERM) for family in (12, 23, 37, 38, 40, 46)),
        # The kernel would take only the lower half: VSOCK and ALG again.
        *((family, EPERM) for family in ((1 << 32) + 40, (1 << 63) + 38, (1 << 32) + 2)),
    ],
)
def test_address_families(family, answer):
    assert machine_for()("x86_64", NUMBERS["x86_64"]["socket"], family) == answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        *((value, ALLOW) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)),
        *((value, EPERM) for value in (0x40000, 0x100000, 0x400000, (1 << 64) - 1)),
    ],
)
def test_personalities(value, answer):
    assert machine_for()("x86_64", NUMBERS["x86_64"]["personality"], value) == answer


def test_tracing_came_with_linux_4_8():
    ptrace = NUMBERS["x86_64"]["ptrace"]
    assert machine_for(kernel=(4, 7))("x86_64", ptrace) == EPERM
    assert machine_for(["CAP_SYS_PTRACE"], kernel=(4, 7))("x86_64", ptrace) == ALLOW
    assert machine_for(kernel=(4, 8))("x86_64", ptrace) == ALLOW


def test_calls_of_the_future_do_not_exist():
    program = machine_for()
    assert program("x86_64", NUMBERS["x86_64"]["open_tree_attr"]) == ENOSYS
    assert program("x86_64", 600) == ENOSYS


def test_equal_keys_mean_equal_profiles():
    dice = random.Random(1)
    every = [*CONDITIONAL, "CAP_CHOWN", "CAP_NET_ADMIN", "CAP_KILL"]
    seen: dict[str, dict] = {}
    for _ in range(500):
        capabilities = {name for name in every if dice.random() < 0.3}
        kernel = dice.choice([(4, 7), (4, 8), (6, 1)])
        profile = default_profile(capabilities, "x86_64", kernel)
        assert seen.setdefault(default_key(capabilities, kernel), profile) == profile
    assert len(seen) > 100


def test_capabilities_that_change_nothing_share_a_key():
    assert default_key({"CAP_CHOWN", "CAP_KILL"}, KERNEL) == default_key(set(), (6, 18)) == "default-0"
    assert "/" not in default_key(CONDITIONAL, (4, 7))


def test_an_unknown_machine_gets_a_profile_for_its_native_calls():
    assert default_profile((), "s390x", KERNEL)["architectures"] == []


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-fc-v657", (6, 18)),
        ("4.8-rc3", (4, 8)),
        ("5.10.0+", (5, 10)),
        ("3.12-1-amd64", (3, 12)),
        ("6.1", (6, 1)),
    ],
)
def test_kernel_version(release, version, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    assert running_kernel() == version
