"""What is a profile and what is not: runtime-spec 1.3, config-linux.md, section Seccomp."""

from __future__ import annotations

import pytest

from coracle.errors import SpecError
from coracle.linux.seccomp import (
    FLAG_LOG,
    FLAG_NEW_LISTENER,
    FLAG_SPEC_ALLOW,
    FLAG_TSYNC,
    FLAG_TSYNC_ESRCH,
    FLAG_WAIT_KILLABLE_RECV,
)
from coracle.linux.seccomp.profile import read_profile


def rule(**more: object) -> dict:
    return {"names": ["read"], "action": "SCMP_ACT_ALLOW", **more}


def profile(*rules: dict, **more: object) -> dict:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **more}


def argument(**more: object) -> dict:
    return {"index": 0, "value": 1, "op": "SCMP_CMP_EQ", **more}


@pytest.mark.parametrize(
    ("value", "where", "problem"),
    [
        ([], "", "must be an object"),
        ({}, ".defaultAction", "is missing"),
        ({"defaultAction": "ALLOW"}, ".defaultAction", "unknown seccomp action 'ALLOW'"),
        ({"defaultAction": 7}, ".defaultAction", "unknown seccomp action 7"),
        ({"defaultAction": ["SCMP_ACT_ALLOW"]}, ".defaultAction", "unknown seccomp action ['SCMP_ACT_ALLOW']"),
        ({"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1}, ".defaultErrnoRet", "SCMP_ACT_KILL cannot return"),
        (profile(defaultErrnoRet=4096), ".defaultErrnoRet", "must be an integer from 0 to 4095"),
        (profile(defaultErrnoRet="EPERM"), ".defaultErrnoRet", "must be an integer from 0 to 4095"),
        (profile(architectures="SCMP_ARCH_X86"), ".architectures", "must be a list of strings"),
        (profile(architectures=["SCMP_ARCH_X86", "x86"]), ".architectures[1]", "unknown seccomp architecture 'x86'"),
        (profile(flags=["SECCOMP_FILTER_FLAG_NEW"]), ".flags[0]", "unknown seccomp flag 'SECCOMP_FILTER_FLAG_NEW'"),
        (profile() | {"syscalls": {}, "x": 1} | {"syscalls": {"a": 1}}, ".syscalls", "must be a list"),
        (profile("read"), ".syscalls[0]", "must be an object"),
        (profile(rule(), rule(names=[])), ".syscalls[1].names", "must name at least one system call"),
        (profile(rule(names=["read", 3])), ".syscalls[0].names", "must be a list of strings"),
        (profile({"names": ["read"]}), ".syscalls[0].action", "is missing"),
        (profile(rule(errnoRet=1)), ".syscalls[0].errnoRet", "SCMP_ACT_ALLOW cannot return an errno"),
        (profile(rule(action="SCMP_ACT_TRACE", errnoRet=65536)), ".syscalls[0].errnoRet", "from 0 to 65535"),
        (profile(rule(action="SCMP_ACT_ERRNO", errnoRet=True)), ".syscalls[0].errnoRet", "from 0 to 4095"),
        (profile(rule(args={"index": 0})), ".syscalls[0].args", "must be a list"),
        (profile(rule(args=[argument(), 7])), ".syscalls[0].args[1]", "must be an object"),
        (profile(rule(args=[argument(index=6)])), ".syscalls[0].args[0].index", "must be an integer from 0 to 5"),
        (profile(rule(args=[argument(index=None)])), ".syscalls[0].args[0].index", "is missing"),
        (profile(rule(args=[argument(value=-1)])), ".syscalls[0].args[0].value", "must be an integer from 0 to 18446"),
        (
            profile(rule(args=[argument(valueTwo=1 << 64)])),
            ".syscalls[0].args[0].valueTwo",
            "must be an integer from 0",
        ),
        (profile(rule(args=[argument(value=1.5)])), ".syscalls[0].args[0].value", "must be an integer from 0"),
        (profile(rule(args=[argument(op="==")])), ".syscalls[0].args[0].op", "unknown seccomp operator '=='"),
        (profile(rule(args=[{"index": 1}])), ".syscalls[0].args[0].op", "is missing"),
    ],
)
def test_wrong_values_are_named(value, where, problem):
    with pytest.raises(SpecError) as error:
        read_profile(value)
    assert error.value.where == f"linux.seccomp{where}"
    assert problem in error.value.message


def test_what_the_spec_does_not_know_is_ignored():
    rules = read_profile(profile(rule(names=["read", "no_such_call"], comment="x"), somethingNew=1, listenerPath="/x"))
    assert [entry.names for entry in rules.rules] == [["read", "no_such_call"]]


def test_errno_is_eperm_unless_said():
    rules = read_profile(profile(rule(action="SCMP_ACT_ERRNO", errnoRet=38), rule(action="SCMP_ACT_TRACE")))
    assert rules.default == 0x50001
    assert [entry.action for entry in rules.rules] == [0x50026, 0x7FF00001]


def test_rules_that_say_what_the_default_says_are_dropped_but_their_names_count_as_known():
    rules = read_profile(profile(rule(action="SCMP_ACT_ERRNO", errnoRet=1, names=["openat2"]), rule()))
    assert [entry.names for entry in rules.rules] == [["read"]]
    assert rules.names == {"read", "openat2"}


def test_arguments_are_anded_and_a_repeated_index_is_ored():
    one, two, three = argument(), argument(index=1), argument(value=5)
    both, either = read_profile(profile(rule(args=[one, two]), rule(args=[one, three]))).rules
    assert both.alternatives == [((0, "SCMP_CMP_EQ", 1, 0), (1, "SCMP_CMP_EQ", 1, 0))]
    assert either.alternatives == [((0, "SCMP_CMP_EQ", 1, 0),), ((0, "SCMP_CMP_EQ", 5, 0),)]


@pytest.mark.parametrize("empty", [None, []])
def test_no_arguments_always_match(empty):
    assert read_profile(profile(rule(args=empty))).rules[0].alternatives == [()]


def names(*flags: str) -> list[str]:
    return [f"SECCOMP_FILTER_FLAG_{flag}" for flag in flags]


@pytest.mark.parametrize(
    ("flags", "action", "expected"),
    [
        (None, "ALLOW", FLAG_SPEC_ALLOW),
        ([], "ALLOW", 0),
        (names("LOG", "TSYNC"), "ALLOW", FLAG_LOG | FLAG_TSYNC),
        (names("SPEC_ALLOW"), "NOTIFY", FLAG_SPEC_ALLOW | FLAG_NEW_LISTENER),
        (names("TSYNC"), "NOTIFY", FLAG_TSYNC | FLAG_TSYNC_ESRCH | FLAG_NEW_LISTENER),
        (names("WAIT_KILLABLE_RECV"), "NOTIFY", FLAG_WAIT_KILLABLE_RECV | FLAG_NEW_LISTENER),
        (names("WAIT_KILLABLE_RECV"), "ALLOW", 0),
    ],
)
def test_flags(flags, action, expected):
    more = {} if flags is None else {"flags": flags}
    assert read_profile(profile(rule(action=f"SCMP_ACT_{action}"), **more)).flags == expected
