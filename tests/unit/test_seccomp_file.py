"""Profiles in Docker's file format: conditions, archMap, podman's spellings, and what is wrong."""

from __future__ import annotations

import json
import os

import pytest

from coracle.errors import ContentError, SpecError, UsageError
from coracle.linux import seccomp
from coracle.runtime.seccomp_file import expand_profile, load_profile

KERNEL = (5, 10)


def expand(
    document: object, capabilities: object = (), machine: str = "x86_64", kernel: tuple[int, int] = KERNEL
) -> dict:
    return expand_profile(document, "p.json", capabilities, machine, kernel)


def file(*rules: dict, **more: object) -> dict:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **more}


def rule(*names: str, **more: object) -> dict:
    return {"names": list(names), "action": "SCMP_ACT_ALLOW", **more}


def names(profile: dict) -> list[str]:
    return [name for entry in profile["syscalls"] for name in entry["names"]]


def test_a_file_becomes_the_specs_object(tmp_path):
    path = tmp_path / "profile.json"
    arguments = [{"index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]
    document = file(rule("read", comment="why"), rule("write", args=arguments), defaultErrnoRet=38, flags=[])
    path.write_text(json.dumps(document))
    profile = load_profile(str(path), (), "x86_64", KERNEL)
    assert profile == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": [],
        "flags": [],
        "syscalls": [rule("read"), rule("write", args=arguments)],
    }
    seccomp.compile(profile, "x86_64")


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, True),
        ({"includes": None, "excludes": {}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, True),
        ({"excludes": {"caps": ["CAP_BPF", "CAP_SYS_ADMIN"]}}, False),
        ({"includes": {"arches": ["amd64", "x32"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["s390x", "amd64"]}}, False),
        ({"includes": {"minKernel": "5.10"}}, True),
        ({"includes": {"minKernel": "5.11"}}, False),
        ({"includes": {"minKernel": "4.99"}}, True),
        ({"excludes": {"minKernel": "5.9"}}, False),
        ({"excludes": {"minKernel": "6.0"}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "6.0"}}, False),
    ],
)
def test_conditions(condition, expected):
    assert names(expand(file(rule("read", **condition)), {"CAP_SYS_ADMIN"})) == (["read"] if expected else [])


def test_arch_map_gives_the_native_entry():
    arch_map = [
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": None},
    ]
    document = file(rule("read"), archMap=arch_map)
    assert expand(document)["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert expand(document, machine="aarch64")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert expand(document, machine="riscv64")["architectures"] == ["SCMP_ARCH_RISCV64"]


def test_the_old_spelling_with_one_name():
    assert names(expand(file({"name": "read", "action": "SCMP_ACT_ALLOW", "args": None}))) == ["read"]


def test_podmans_errno_by_name():
    profile = expand(
        file(rule("read", action="SCMP_ACT_ERRNO", errno="EINVAL"), defaultErrno="ENOSYS", defaultErrnoRet=1)
    )
    assert profile["defaultErrnoRet"] == 38
    assert profile["syscalls"][0]["errnoRet"] == 22


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "p.json: seccomp: must be an object"),
        ({}, "p.json: seccomp.defaultAction: is missing"),
        (file(rule("read"), defaultaction="x"), "p.json: seccomp.defaultaction: is not a key of a seccomp profile"),
        (file(rule("read", include={})), "p.json: seccomp.syscalls[0].include: is not a key of a seccomp profile"),
        (
            file(rule("read", includes={"cap": []})),
            "p.json: seccomp.syscalls[0].includes.cap: is not a key of a seccomp profile",
        ),
        (
            file(rule("a"), rule("b", includes={"caps": "CAP_X"})),
            "seccomp.syscalls[1].includes.caps: must be a list of",
        ),
        (file(rule("read", includes={"minKernel": "5"})), "minKernel: must be a kernel version such as '4.8', not '5'"),
        (file(rule("read", excludes={"minKernel": 5.1})), "minKernel: must be a kernel version such as '4.8', not 5.1"),
        (file(rule("read", name="write")), "p.json: seccomp.syscalls[0].name: cannot be combined with names"),
        (file({"action": "SCMP_ACT_ALLOW"}), "seccomp.syscalls[0].names: must name at least one system call"),
        (file(rule("read"), architectures=["SCMP_ARCH_X86"], archMap=[{}]), "archMap: cannot be combined with archit"),
        (file(archMap=[{"arch": 1}]), "seccomp.archMap[0].arch: is not a key"),
        (file(archMap={"a": 1}), "seccomp.archMap: must be a list"),
        (file(rule("read", action="SCMP_ACT_ERRNO", errno="EWHAT")), "errno: unknown errno 'EWHAT'"),
        (file(rule("read", action="SCMP_ACT_ERRNO", errno=1)), "errno: unknown errno 1"),
        ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {"a": 1}}, "seccomp.syscalls: must be a list"),
        # Wrong even though its condition does not hold here, and by its place in the file.
        (
            file(rule("a", includes={"arches": ["arm"]}), rule("b", includes={"arches": ["arm"]}, action="ALLOW")),
            "p.json: seccomp.syscalls[1].action: unknown seccomp action 'ALLOW'",
        ),
    ],
)
def test_wrong_files(document, message):
    with pytest.raises(SpecError) as error:
        expand(document)
    assert message in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="cannot read the seccomp profile /nowhere/p: no such file or directory"):
        load_profile("/nowhere/p", (), "x86_64", KERNEL)
    with pytest.raises(UsageError, match="is a directory"):
        load_profile(str(tmp_path), (), "x86_64", KERNEL)


def test_a_file_that_is_not_json(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text("{defaultAction: SCMP_ACT_ALLOW}")
    with pytest.raises(ContentError, match=r"profile\.json is not valid JSON"):
        load_profile(str(path), (), "x86_64", KERNEL)


@pytest.mark.skipif(
    not os.path.exists("/usr/share/containers/seccomp.json"), reason="containers-common is not installed"
)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_podmans_own_file(machine):
    profile = load_profile("/usr/share/containers/seccomp.json", {"CAP_AUDIT_WRITE"}, machine, KERNEL)
    assert profile["defaultErrnoRet"] == 38
    assert len(seccomp.compile(profile, machine).filter) > 100
