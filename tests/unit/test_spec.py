"""config.json is accepted or refused with the JSON path of what is wrong."""

import copy
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle import record
from coracle.errors import ContentError, SpecError, UsageError
from coracle.runtime import spec as specs
from coracle.runtime.identifier import check_identifier
from coracle.runtime.spec import load, validate, validate_process, validate_resources, words
from coracle.runtime.spec.default import default_spec
from coracle.runtime.spec.shape import Items, Map, Object
from coracle.runtime.spec.table import CONFIG

MODULE = Path(
    os.environ.get("GOMODCACHE", Path.home() / "go/pkg/mod"), "github.com/opencontainers/runtime-spec@v1.3.0/schema"
)
NO_MODULE = "runtime-spec v1.3.0 is not in the Go module cache"
KINDS = ("pid", "network", "ipc", "uts", "mount", "user", "time", "cgroup")


def config():
    """A small valid config with every kind of namespace."""
    return {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["sh"], "user": {"uid": 0, "gid": 0}, "env": ["A=b"]},
        "hostname": "box",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in KINDS]},
    }


def put(document, path, value):
    """Set ``value`` at ``path``, such as ("process", "args", 0); DELETE removes it."""
    *parents, last = path
    for step in parents:
        if isinstance(document, dict) and step not in document:
            document[step] = {}
        document = document[step]
    if value is DELETE:
        del document[last]
    else:
        document[last] = value


DELETE = object()


def refused(spec):
    with pytest.raises(SpecError) as caught:
        validate(spec)
    assert "\n" not in str(caught.value)
    return caught.value


def mount(**more):
    return [{"destination": "/x", **more}]


def mapping(inside=0, outside=100000, size=65536):
    return {"containerID": inside, "hostID": outside, "size": size}


RULE = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}

# path, value, where the complaint points, what it says
WRONG_VALUES = [
    # ociVersion
    ("ociVersion", DELETE, "ociVersion", "is required"),
    ("ociVersion", None, "ociVersion", "is required"),
    ("ociVersion", 1.3, "ociVersion", "must be a string, is a number"),
    ("ociVersion", "invalid", "ociVersion", "must be a version"),
    ("ociVersion", "1.0", "ociVersion", "must be a version"),
    ("ociVersion", "1.0.0-", "ociVersion", "must be a version"),
    ("ociVersion", "1.0.0-a..b", "ociVersion", "must be a version"),
    ("ociVersion", "1.0.0+", "ociVersion", "must be a version"),
    ("ociVersion", "01.0.0", "ociVersion", "must be a version"),
    ("ociVersion", "1.0." + "9" * 5000 + "x", "ociVersion", "must be a version"),
    ("ociVersion", "2.0.0", "ociVersion", "must be a version 1.x"),
    ("ociVersion", "0.1.0", "ociVersion", "must be a version 1.x"),
    # root
    ("root", DELETE, "root", "is required"),
    ("root", [], "root", "must be an object, is an array"),
    ("root.path", DELETE, "root.path", "is required"),
    ("root.path", "", "root.path", "must not be empty"),
    ("root.path", "a\0b", "root.path", "NUL"),
    ("root.readonly", "yes", "root.readonly", "must be a boolean, is a string"),
    ("root.readonly", 1, "root.readonly", "must be a boolean, is a number"),
    # process
    ("process", "sh", "process", "must be an object, is a string"),
    ("process.args", DELETE, "process.args", "is required"),
    ("process.args", [], "process.args", "at least one"),
    ("process.args", ["sh", 1], "process.args[1]", "must be a string, is a number"),
    ("process.args", [None], "process.args[0]", "must be a string, is null"),
    ("process.args", ["sh", "a\0b"], "process.args[1]", "NUL"),
    ("process.args", [""], "process.args[0]", "must not be empty"),
    ("process.args", "sh", "process.args", "must be an array, is a string"),
    ("process.cwd", DELETE, "process.cwd", "is required"),
    ("process.cwd", "tmp", "process.cwd", 'must be an absolute path, is "tmp"'),
    ("process.cwd", "", "process.cwd", "absolute"),
    ("process.terminal", "true", "process.terminal", "must be a boolean"),
    ("process.env", ["A=b", "B"], "process.env[1]", "must be NAME=value"),
    ("process.env", ["=b"], "process.env[0]", "must be NAME=value"),
    ("process.env", ["A=\0"], "process.env[0]", "NUL"),
    ("process.user.uid", -1, "process.user.uid", "must be between 0 and 4294967294, is -1"),
    ("process.user.uid", 2**32 - 1, "process.user.uid", "must be between"),
    ("process.user.uid", "root", "process.user.uid", "must be a number, is a string"),
    ("process.user.uid", True, "process.user.uid", "must be a number, is a boolean"),
    ("process.user.gid", 1.5, "process.user.gid", "must be a whole number, is 1.5"),
    ("process.user.umask", 0o1000, "process.user.umask", "must be between 0 and 511"),
    ("process.user.additionalGids", [1, "2"], "process.user.additionalGids[1]", "must be a number"),
    (
        "process.capabilities.bounding",
        ["CAP_TEST"],
        "process.capabilities.bounding[0]",
        'unknown capability "CAP_TEST"',
    ),
    ("process.capabilities.effective", ["CAP_KILL", "kill"], "process.capabilities.effective[1]", "unknown capability"),
    ("process.capabilities.ambient", [{}], "process.capabilities.ambient[0]", "must be a string, is an object"),
    ("process.capabilities.permitted", "CAP_KILL", "process.capabilities.permitted", "must be an array"),
    ("process.capabilities.inheritable", ["CAP_40"], "process.capabilities.inheritable[0]", "unknown capability"),
    ("process.oomScoreAdj", 1001, "process.oomScoreAdj", "must be between -1000 and 1000"),
    ("process.noNewPrivileges", 0, "process.noNewPrivileges", "must be a boolean"),
    ("process.apparmorProfile", 1, "process.apparmorProfile", "must be a string"),
    ("process.selinuxLabel", [], "process.selinuxLabel", "must be a string"),
    # rlimits
    ("process.rlimits", [{"soft": 1, "hard": 1}], "process.rlimits[0].type", "is required"),
    ("process.rlimits", [{"type": "RLIMIT_CPU", "hard": 1}], "process.rlimits[0].soft", "is required"),
    ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1}], "process.rlimits[0].hard", "is required"),
    (
        "process.rlimits",
        [{"type": "RLIMIT_TEST", "soft": 1, "hard": 1}],
        "process.rlimits[0].type",
        'unknown resource limit "RLIMIT_TEST"',
    ),
    (
        "process.rlimits",
        [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}],
        "process.rlimits[1].type",
        "duplicate resource limit RLIMIT_CPU",
    ),
    ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "process.rlimits[0].soft", "above the hard"),
    ("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 0, "hard": 2**64}], "process.rlimits[0].hard", "between"),
    # scheduler, I/O priority, affinity
    ("process.scheduler", {}, "process.scheduler.policy", "is required"),
    ("process.scheduler", {"policy": "SCHED_FAST"}, "process.scheduler.policy", "unknown scheduling policy"),
    ("process.scheduler", {"policy": "SCHED_ISO"}, "process.scheduler.policy", "unknown scheduling policy"),
    ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice", "between -20 and 19"),
    ("process.scheduler", {"policy": "SCHED_OTHER", "priority": 1}, "process.scheduler.priority", "must be 0"),
    ("process.scheduler", {"policy": "SCHED_FIFO"}, "process.scheduler.priority", "between 1 and 99"),
    ("process.scheduler", {"policy": "SCHED_RR", "priority": 100}, "process.scheduler.priority", "between 1 and 99"),
    ("process.scheduler", {"policy": "SCHED_BATCH", "runtime": 9}, "process.scheduler.runtime", "only for"),
    ("process.scheduler", {"policy": "SCHED_IDLE", "deadline": 9}, "process.scheduler.deadline", "only for"),
    ("process.scheduler", {"policy": "SCHED_OTHER", "period": 9}, "process.scheduler.period", "only for"),
    ("process.scheduler", {"policy": "SCHED_DEADLINE"}, "process.scheduler.runtime", "at least 1024"),
    (
        "process.scheduler",
        {"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 1999},
        "process.scheduler.deadline",
        "must not be below the runtime",
    ),
    (
        "process.scheduler",
        {"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000, "period": 2999},
        "process.scheduler.period",
        "must not be below the deadline",
    ),
    (
        "process.scheduler",
        {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RECLAIM", "X"]},
        "process.scheduler.flags[1]",
        "unknown scheduling flag",
    ),
    ("process.ioPriority", {}, "process.ioPriority.class", "is required"),
    ("process.ioPriority", {"class": "BE"}, "process.ioPriority.class", "unknown I/O priority class"),
    (
        "process.ioPriority",
        {"class": "IOPRIO_CLASS_BE", "priority": 8},
        "process.ioPriority.priority",
        "between 0 and 7",
    ),
    ("process.execCPUAffinity", {"initial": "a"}, "process.execCPUAffinity.initial", "must be a list such as 0-3,7"),
    ("process.execCPUAffinity", {"final": "3-1"}, "process.execCPUAffinity.final", "must be a list"),
    ("process.execCPUAffinity", {"final": "1-2-3"}, "process.execCPUAffinity.final", "must be a list"),
    ("process.execCPUAffinity", {"final": "1,"}, "process.execCPUAffinity.final", "must be a list"),
    ("process.execCPUAffinity", {"final": "9" * 5000}, "process.execCPUAffinity.final", "must be a list"),
    # names
    ("hostname", "x" * 65, "hostname", "64 bytes"),
    ("domainname", 1, "domainname", "must be a string"),
    # mounts
    ("mounts", {}, "mounts", "must be an array, is an object"),
    ("mounts", [1], "mounts[0]", "must be an object, is a number"),
    ("mounts", [{"type": "tmpfs"}], "mounts[0].destination", "is required"),
    ("mounts", [{"destination": ""}], "mounts[0].destination", "must not be empty"),
    ("mounts", mount(options="ro"), "mounts[0].options", "must be an array"),
    ("mounts", mount(options=["ro", 1]), "mounts[0].options[1]", "must be a string"),
    ("mounts", mount(options=["bind"]), "mounts[0].source", "is required for a bind mount"),
    ("mounts", mount(type=1), "mounts[0].type", "must be a string"),
    ("mounts", mount(uidMappings=[mapping()]), "mounts[0].gidMappings", "is required with uidMappings"),
    ("mounts", mount(gidMappings=[mapping()]), "mounts[0].uidMappings", "is required with gidMappings"),
    (
        "mounts",
        mount(uidMappings=[mapping(), mapping(5)], gidMappings=[mapping()]),
        "mounts[0].uidMappings[1].containerID",
        "in another entry's range",
    ),
    ("mounts", mount(type="ramfs", options=["tmpcopyup"]), "mounts[0].options", "tmpcopyup needs the type tmpfs"),
    # hooks
    ("hooks.prestart", [{}], "hooks.prestart[0].path", "is required"),
    ("hooks.createRuntime", [{"path": "hook"}], "hooks.createRuntime[0].path", "absolute"),
    ("hooks.createContainer", [{"path": "/h", "args": [1]}], "hooks.createContainer[0].args[0]", "a string"),
    ("hooks.startContainer", [{"path": "/h", "env": "A=b"}], "hooks.startContainer[0].env", "an array"),
    ("hooks.poststart", [{"path": "/h", "timeout": 0}], "hooks.poststart[0].timeout", "between 1 and"),
    ("hooks.poststop", {"path": "/h"}, "hooks.poststop", "must be an array"),
    # annotations
    ("annotations", {"": "x"}, 'annotations[""]', "must not be empty"),
    ("annotations", {"a.b": 1}, 'annotations["a.b"]', "must be a string, is a number"),
    # namespaces
    ("linux", [], "linux", "must be an object"),
    ("linux.namespaces", [{}], "linux.namespaces[0].type", "is required"),
    ("linux.namespaces", [{"type": "net"}], "linux.namespaces[0].type", 'unknown namespace type "net"'),
    ("linux.namespaces", [{"type": "pid", "path": "ns"}], "linux.namespaces[0].path", "absolute"),
    ("linux.namespaces", [{"type": "uts"}, {"type": "uts"}], "linux.namespaces[1].type", "duplicate namespace type"),
    ("linux.uidMappings", [{"containerID": 0, "hostID": 0}], "linux.uidMappings[0].size", "is required"),
    ("linux.uidMappings", [mapping(size=0)], "linux.uidMappings[0].size", "between 1 and"),
    ("linux.gidMappings", [mapping(2**32 - 2, 0, 2)], "linux.gidMappings[0].size", "beyond the last id"),
    (
        "linux.gidMappings",
        [mapping(0, 100, 10), mapping(10, 109, 1)],
        "linux.gidMappings[1].hostID",
        "in another entry's range",
    ),
    ("linux.uidMappings", [mapping(n, n, 1) for n in range(341)], "linux.uidMappings", "more than 340"),
    ("linux.timeOffsets", {"realtime": {}}, 'linux.timeOffsets["realtime"]', "unknown clock"),
    ("linux.timeOffsets", {"boottime": {"secs": "1"}}, 'linux.timeOffsets["boottime"].secs', "must be a number"),
    (
        "linux.timeOffsets",
        {"monotonic": {"nanosecs": 10**9}},
        'linux.timeOffsets["monotonic"].nanosecs',
        "must be between",
    ),
    # devices
    ("linux.devices", [{"path": "/dev/a"}], "linux.devices[0].type", "is required"),
    ("linux.devices", [{"type": "c"}], "linux.devices[0].path", "is required"),
    ("linux.devices", [{"type": "x", "path": "/dev/a"}], "linux.devices[0].type", "unknown device type"),
    ("linux.devices", [{"type": "p", "path": "dev/a"}], "linux.devices[0].path", "absolute"),
    ("linux.devices", [{"type": "c", "path": "/dev/a", "minor": 1}], "linux.devices[0].major", "required for type"),
    ("linux.devices", [{"type": "b", "path": "/dev/a", "major": 1}], "linux.devices[0].minor", "required for type"),
    ("linux.devices", [{"type": "u", "path": "/a", "major": 4096, "minor": 1}], "linux.devices[0].major", "4095"),
    ("linux.devices", [{"type": "u", "path": "/a", "major": 1, "minor": 1 << 20}], "linux.devices[0].minor", "between"),
    # network devices
    ("linux.netDevices", {"a/b": {}}, 'linux.netDevices["a/b"]', "without blank, slash or colon"),
    ("linux.netDevices", {"": {}}, 'linux.netDevices[""]', "1 to 15 bytes"),
    ("linux.netDevices", {"x" * 16: {}}, f'linux.netDevices["{"x" * 16}"]', "1 to 15 bytes"),
    ("linux.netDevices", {"eth%d": {}}, 'linux.netDevices["eth%d"]', "not a template"),
    ("linux.netDevices", {"eth0": {"name": ".."}}, 'linux.netDevices["eth0"].name', "1 to 15 bytes"),
    ("linux.netDevices", {"eth0": {"name": "a%db"}}, 'linux.netDevices["eth0"].name', "must not contain"),
    # paths and propagation
    ("linux.cgroupsPath", "/a/../b", "linux.cgroupsPath", '".."'),
    ("linux.cgroupsPath", "..", "linux.cgroupsPath", '".."'),
    ("linux.cgroupsPath", "a.slice:..:b", "linux.cgroupsPath", '".."'),
    ("linux.maskedPaths", ["proc/kcore"], "linux.maskedPaths[0]", "absolute"),
    ("linux.readonlyPaths", ["/proc/sys", ""], "linux.readonlyPaths[1]", "absolute"),
    ("linux.rootfsPropagation", "rsecret", "linux.rootfsPropagation", "unknown mount propagation"),
    ("linux.mountLabel", 1, "linux.mountLabel", "must be a string"),
    # seccomp
    ("linux.seccomp", {}, "linux.seccomp.defaultAction", "is required"),
    ("linux.seccomp", {"defaultAction": "ALLOW"}, "linux.seccomp.defaultAction", "unknown seccomp action"),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1},
        "linux.seccomp.defaultErrnoRet",
        "is not for SCMP_ACT_ALLOW",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 65536},
        "linux.seccomp.defaultErrnoRet",
        "must be between",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"]},
        "linux.seccomp.architectures[0]",
        "unknown seccomp architecture",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]},
        "linux.seccomp.flags[0]",
        "unknown seccomp flag",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"},
        "linux.seccomp.listenerMetadata",
        "needs linux.seccomp.listenerPath",
    ),
    (
        "linux.seccomp",
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        "linux.seccomp.defaultAction",
        "needs linux.seccomp.listenerPath",
    ),
    *(
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]},
            f"linux.seccomp.syscalls[0]{at}",
            text,
        )
        for rule, at, text in [
            ({"action": "SCMP_ACT_ERRNO"}, ".names", "is required"),
            ({"names": ["mkdir"]}, ".action", "is required"),
            ({**RULE, "names": []}, ".names", "at least one"),
            ({**RULE, "names": [3]}, ".names[0]", "must be a string"),
            ({**RULE, "action": "SCMP_ACT_NO"}, ".action", "unknown seccomp action"),
            ({**RULE, "action": "SCMP_ACT_KILL", "errnoRet": 1}, ".errnoRet", "is not for SCMP_ACT_KILL"),
            ({**RULE, "action": "SCMP_ACT_NOTIFY"}, ".action", "needs linux.seccomp.listenerPath"),
            ({**RULE, "args": [{"value": 1, "op": "SCMP_CMP_EQ"}]}, ".args[0].index", "is required"),
            ({**RULE, "args": [{"index": 0, "op": "SCMP_CMP_EQ"}]}, ".args[0].value", "is required"),
            ({**RULE, "args": [{"index": 0, "value": 1}]}, ".args[0].op", "is required"),
            ({**RULE, "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}, ".args[0].index", "between 0 and 5"),
            ({**RULE, "args": [{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}]}, ".args[0].value", "must be between"),
            ({**RULE, "args": [{"index": 0, "value": 1, "op": "=="}]}, ".args[0].op", "unknown seccomp operator"),
            ({**RULE, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}] * 7}, ".args", "more than 6"),
        ]
    ),
    # sysctl
    ("linux.sysctl", {"net.core.somaxconn": 1}, 'linux.sysctl["net.core.somaxconn"]', "must be a string"),
    ("linux.sysctl", {"vm.swappiness": "1"}, 'linux.sysctl["vm.swappiness"]', "the whole machine"),
    ("linux.sysctl", {"kernel.core_pattern": "x"}, 'linux.sysctl["kernel.core_pattern"]', "the whole machine"),
    ("linux.sysctl", {"kernel": "x"}, 'linux.sysctl["kernel"]', "the whole machine"),
    ("linux.sysctl", {"net/../kernel/panic": "1"}, 'linux.sysctl["net/../kernel/panic"]', "is not the name"),
    ("linux.sysctl", {"net.//.kernel.panic": "1"}, 'linux.sysctl["net.//.kernel.panic"]', "is not the name"),
    ("linux.sysctl", {"/net/core/x": "1"}, 'linux.sysctl["/net/core/x"]', "is not the name"),
    ("linux.sysctl", {"": "1"}, 'linux.sysctl[""]', "is not the name"),
    ("linux.sysctl", {"kernel.hostname": "x"}, 'linux.sysctl["kernel.hostname"]', "conflicts with the hostname"),
    # Intel RDT, memory policy, personality
    ("linux.intelRdt.closID", "..", "linux.intelRdt.closID", 'a directory or "/"'),
    ("linux.intelRdt.closID", "a/b", "linux.intelRdt.closID", 'a directory or "/"'),
    ("linux.intelRdt.schemata", ["L3:0=f", "L2:0=f\nMB:0=1"], "linux.intelRdt.schemata[1]", "newline"),
    ("linux.intelRdt.l3CacheSchema", "L3:0=f\n", "linux.intelRdt.l3CacheSchema", "newline"),
    ("linux.intelRdt.memBwSchema", "L3:0=f", "linux.intelRdt.memBwSchema", 'start with "MB:"'),
    ("linux.intelRdt.enableMonitoring", 1, "linux.intelRdt.enableMonitoring", "must be a boolean"),
    ("linux.memoryPolicy", {}, "linux.memoryPolicy.mode", "is required"),
    ("linux.memoryPolicy", {"mode": "MPOL_X"}, "linux.memoryPolicy.mode", "unknown memory policy"),
    ("linux.memoryPolicy", {"mode": "MPOL_BIND", "nodes": "x"}, "linux.memoryPolicy.nodes", "must be a list"),
    ("linux.memoryPolicy", {"mode": "MPOL_BIND", "flags": ["X"]}, "linux.memoryPolicy.flags[0]", "unknown memory"),
    ("linux.personality", {}, "linux.personality.domain", "is required"),
    ("linux.personality", {"domain": "LINUX64"}, "linux.personality.domain", "unknown execution domain"),
    (
        "linux.personality",
        {"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]},
        "linux.personality.flags[0]",
        "unknown personality flag",
    ),
]

# below linux.resources; the same must hold for `update`
WRONG_RESOURCES = [
    ("devices", [{"access": "rwm"}], "devices[0].allow", "is required"),
    ("devices", [{"allow": True, "access": "rx"}], "devices[0].access", "must consist of r, w and m"),
    ("devices", [{"allow": True, "type": "d"}], "devices[0].type", "unknown device type"),
    ("devices", [{"allow": True, "major": -2}], "devices[0].major", "between -1 and"),
    ("memory", {"limit": -2}, "memory.limit", "must be between -1 and"),
    ("memory", {"limit": "1g"}, "memory.limit", "must be a number, is a string"),
    ("memory", {"swappiness": 101}, "memory.swappiness", "between 0 and 100"),
    ("memory", {"disableOOMKiller": "no"}, "memory.disableOOMKiller", "must be a boolean"),
    ("cpu", {"shares": -1}, "cpu.shares", "must be between 0"),
    ("cpu", {"quota": -2}, "cpu.quota", "must be between -1"),
    ("cpu", {"cpus": "0\n1"}, "cpu.cpus", "newline"),
    ("cpu", {"idle": 2}, "cpu.idle", "between 0 and 1"),
    ("cpu", {"quota": 100, "burst": 101}, "cpu.burst", "must not be above the quota"),
    ("pids", {}, "pids.limit", "is required"),
    ("pids", {"limit": -2}, "pids.limit", "must be between -1"),
    ("blockIO", {"weight": 1001}, "blockIO.weight", "between 0 and 1000"),
    ("blockIO", {"weightDevice": [{"major": 1, "minor": 1}]}, "blockIO.weightDevice[0]", "weight or leafWeight"),
    ("blockIO", {"weightDevice": [{"major": 1, "weight": 1}]}, "blockIO.weightDevice[0].minor", "is required"),
    (
        "blockIO",
        {"throttleReadBpsDevice": [{"major": 1, "minor": 1}]},
        "blockIO.throttleReadBpsDevice[0].rate",
        "is required",
    ),
    ("hugepageLimits", [{"pageSize": "2MB"}], "hugepageLimits[0].limit", "is required"),
    ("hugepageLimits", [{"pageSize": "2M", "limit": 1}], "hugepageLimits[0].pageSize", "such as 2MB"),
    ("hugepageLimits", [{"pageSize": "0MB", "limit": 1}], "hugepageLimits[0].pageSize", "such as 2MB"),
    ("hugepageLimits", [{"pageSize": "../MB", "limit": 1}], "hugepageLimits[0].pageSize", "such as 2MB"),
    ("network", {"classID": 2**32}, "network.classID", "must be between"),
    ("network", {"priorities": [{"name": "lo"}]}, "network.priorities[0].priority", "is required"),
    ("network", {"priorities": [{"name": "a b", "priority": 1}]}, "network.priorities[0].name", "without blank"),
    ("rdma", {"mlx5": {}}, 'rdma["mlx5"]', "hcaHandles or hcaObjects"),
    ("rdma", {"mlx5": {"hcaHandles": -1}}, 'rdma["mlx5"].hcaHandles', "must be between"),
    ("unified", {"memory.high": 1}, 'unified["memory.high"]', "must be a string"),
    ("unified", {"../memory.high": "1"}, 'unified["../memory.high"]', "must name a cgroup file"),
    ("unified", {"..": "1"}, 'unified[".."]', "must name a cgroup file"),
    ("unified", {"memory": "1"}, 'unified["memory"]', "must name a cgroup file"),
]


@pytest.mark.parametrize(("path", "value", "where", "text"), WRONG_VALUES)
def test_wrong_value_is_named(path, value, where, text):
    spec = config()
    put(spec, path.split("."), value)
    error = refused(spec)
    assert (error.where, text in str(error)) == (where, True), str(error)


@pytest.mark.parametrize(("name", "value", "where", "text"), WRONG_RESOURCES)
def test_wrong_resource_is_named(name, value, where, text):
    spec = config()
    spec["linux"]["resources"] = {name: copy.deepcopy(value)}
    error = refused(spec)
    assert (error.where, text in str(error)) == (f"linux.resources.{where}", True), str(error)
    with pytest.raises(SpecError) as caught:
        validate_resources({name: value})
    assert caught.value.where == f"resources.{where}"


@pytest.mark.parametrize(
    ("path", "value", "missing"),
    [
        ("hostname", "box", "uts"),
        ("domainname", "example.org", "uts"),
        ("linux.uidMappings", [mapping()], "user"),
        ("linux.gidMappings", [mapping()], "user"),
        ("linux.timeOffsets", {"boottime": {"secs": 1}}, "time"),
        ("linux.netDevices", {"eth0": {}}, "network"),
        ("linux.maskedPaths", ["/proc/kcore"], "mount"),
        ("linux.readonlyPaths", ["/proc/sys"], "mount"),
    ],
)
def test_what_needs_a_namespace_is_refused_without_it(path, value, missing):
    spec = config()
    del spec["hostname"]
    put(spec, path.split("."), value)
    validate(copy.deepcopy(spec))
    spec["linux"]["namespaces"] = [{"type": kind} for kind in KINDS if kind != missing]
    error = refused(spec)
    assert error.where == path
    assert f"needs a {missing} namespace" in str(error)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("net.ipv4.ip_forward", "network"),
        ("net/ipv4/conf/eth0.100/rp_filter", "network"),
        ("kernel.shmmax", "ipc"),
        ("kernel/msgmax", "ipc"),
        ("kernel.shm_next_id", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("user.max_user_namespaces", "user"),
    ],
)
def test_sysctl_needs_a_namespace_of_the_containers_own(name, kind):
    spec = config()
    spec["linux"]["sysctl"] = {name: "1"}
    validate(spec)
    own = f"/proc/self/ns/{'net' if kind == 'network' else kind}"
    for others in ([], [{"type": kind, "path": own}]):
        spec["linux"]["namespaces"] = [{"type": "uts"}] * (kind != "uts") + others
        spec.pop("hostname", None)
        error = refused(spec)
        assert error.where == f'linux.sysctl["{name}"]'
        assert f"needs a {kind} namespace" in str(error)


def test_sysctl_in_a_joined_namespace_of_somebody_else(tmp_path):
    other = tmp_path / "netns"
    other.touch()
    spec = config()
    spec["linux"] |= {"namespaces": [{"type": "uts"}, {"type": "network", "path": str(other)}]}
    spec["linux"]["sysctl"] = {"net.core.somaxconn": "44"}
    validate(spec)


def test_domainname_may_be_given_once():
    spec = config() | {"domainname": "example.org"}
    spec["linux"]["sysctl"] = {"kernel.domainname": "example.com"}
    assert refused(spec).where == 'linux.sysctl["kernel.domainname"]'


def test_time_offsets_of_a_joined_namespace():
    spec = config()
    spec["linux"]["namespaces"] = [{"type": "uts"}, {"type": "time", "path": "/proc/1/ns/time"}]
    spec["linux"]["timeOffsets"] = {"monotonic": {"secs": -1, "nanosecs": 5}}
    assert refused(spec).where == "linux.timeOffsets"


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_idmap_needs_a_mapping(option):
    spec = config()
    spec["mounts"] = mount(source="/x", options=["bind", option])
    validate(spec)
    spec["linux"]["namespaces"] = [{"type": "uts"}]
    assert refused(spec).where == "mounts[0].options"
    spec["mounts"][0] |= {"uidMappings": [mapping()], "gidMappings": [mapping()]}
    validate(spec)


@pytest.mark.parametrize(
    ("size", "where"),
    [
        ({"height": 25}, "process.consoleSize.width"),
        ({"height": 65536, "width": 80}, "process.consoleSize.height"),
        ("25x80", "process.consoleSize"),
    ],
)
def test_console_size_counts_with_a_terminal_only(size, where):
    spec = config()
    spec["process"]["consoleSize"] = size
    validate(spec)
    spec["process"]["terminal"] = True
    assert refused(spec).where == where


@pytest.mark.parametrize(
    "version", ["1.0.0", "1.0.2-dev", "1.3.0", "1.3.0+dev", "1.0.0-rc5+abc.1", "1.99.0", "1.0.0-x-y"]
)
def test_versions_that_are_compatible(version):
    validate(config() | {"ociVersion": version})


RIGHT_VALUES = [
    ("process", DELETE),
    ("process", None),
    ("process.user", DELETE),
    ("process.env", DELETE),
    ("process.args", ["sh", ""]),
    ("process.env", ["A=", "B=\udcff"]),
    ("process.capabilities", {"bounding": None, "effective": []}),
    ("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000}),
    ("process.scheduler", {"policy": "SCHED_FIFO", "priority": 99, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    ("process.ioPriority", {"class": "IOPRIO_CLASS_IDLE"}),
    ("process.execCPUAffinity", {"initial": "0-3, 7", "final": ""}),
    ("process.rlimits", [{"type": "RLIMIT_NOFILE", "soft": 2**64 - 1, "hard": 2**64 - 1}]),
    ("mounts", mount(source="/x", options=["rbind", "x-unknown"])),
    ("mounts", [{"destination": "relative"}]),
    ("mounts", None),
    ("linux", DELETE),
    ("linux.rootfsPropagation", "rslave"),
    ("linux.rootfsPropagation", ""),
    ("linux.cgroupsPath", "system.slice:coracle:a..b"),
    ("linux.namespaces", [{"type": "uts", "path": ""}]),
    ("linux.timeOffsets", {"boottime": {"secs": -(2**63)}}),
    ("linux.netDevices", {"eth0": {"name": "net%d"}, "eth1": {}}),
    ("linux.intelRdt", {"closID": "/", "memBwSchema": "MB:0=20"}),
    ("linux.personality", {"domain": "LINUX32", "flags": []}),
    ("linux.devices", [{"type": "p", "path": "/dev/fifo", "fileMode": 0o20666}]),
    ("linux.resources", {"devices": [{"allow": True, "type": "c", "major": 136, "access": "rwm"}]}),
    ("linux.resources", {"memory": {"limit": -1, "swap": None}, "blockIO": {"weight": 0}, "pids": {"limit": 0}}),
    ("linux.resources", {"cpu": {"quota": -1, "burst": 5, "cpus": "0-1"}, "unified": {"io.max": "8:0 rbps=1\n"}}),
    ("annotations", {"a.b": ""}),
    ("unknown", {"anything": [1]}),
    ("process.unknown", 1),
    ("windows", {"layerFolders": 1}),
]


@pytest.mark.parametrize(("path", "value"), RIGHT_VALUES)
def test_right_value_is_accepted(path, value):
    spec = config()
    if path == "linux":
        del spec["hostname"]
    put(spec, path.split("."), value if value is DELETE else copy.deepcopy(value))
    validate(spec)


def test_null_means_absent_and_is_removed():
    spec = config()
    spec["mounts"] = None
    spec["process"]["user"]["additionalGids"] = None
    spec["unknown"] = None
    validate(spec)
    assert "mounts" not in spec
    assert "additionalGids" not in spec["process"]["user"]
    assert spec["unknown"] is None


@pytest.mark.parametrize("document", [[], "x", None, 1])
def test_a_config_must_be_an_object(document):
    assert refused(document).where == "config.json"


def test_process_alone():
    validate_process({"cwd": "/", "args": ["a"]})
    with pytest.raises(SpecError, match=r"^process\.cwd: is required$"):
        validate_process({"args": ["a"]})
    with pytest.raises(SpecError, match=r"^process: must be an object, is an array$"):
        validate_process([])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def everything():
    """A config that uses every part of the table."""
    spec = default_spec() | {"annotations": {"a": "b"}, "hooks": {"poststop": [{"path": "/h", "timeout": 1}]}}
    spec["process"] |= {
        "consoleSize": {"height": 1, "width": 2},
        "scheduler": {"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000, "period": 4000},
        "execCPUAffinity": {"initial": "0", "final": "0-1"},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
    }
    spec["mounts"][0] |= {"uidMappings": [mapping()], "gidMappings": [mapping()]}
    spec["linux"] |= {
        "namespaces": [{"type": kind} for kind in KINDS],
        "uidMappings": [mapping()],
        "gidMappings": [mapping()],
        "timeOffsets": {"boottime": {"secs": 1, "nanosecs": 1}},
        "devices": [{"type": "c", "path": "/dev/x", "major": 1, "minor": 2}],
        "netDevices": {"eth0": {"name": "a"}},
        "sysctl": {"net.core.somaxconn": "1"},
        "intelRdt": {"closID": "a", "schemata": ["L3:0=f"]},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        "personality": {"domain": "LINUX", "flags": []},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{**RULE, "errnoRet": 1, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}],
        },
        "resources": {
            "cpu": {"quota": 1000, "burst": 100},
            "memory": {"limit": 1},
            "blockIO": {"weightDevice": [{"major": 1, "minor": 1, "weight": 1}]},
            "rdma": {"mlx": {"hcaHandles": 1}},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
            "network": {"priorities": [{"name": "lo", "priority": 1}]},
            "unified": {"memory.high": "1"},
        },
    }
    return copy.deepcopy(spec)


def nodes(value):
    """Every (container, key) in a document."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, item in pairs:
        yield value, key
        yield from nodes(item)


@given(st.data())
def test_any_value_anywhere_is_accepted_or_named(data):
    spec = everything()
    validate(copy.deepcopy(spec))
    for _ in range(data.draw(st.integers(1, 2))):
        places = list(nodes(spec))
        container, key = places[data.draw(st.integers(0, len(places) - 1))]
        container[key] = data.draw(ANYTHING)
    try:
        validate(spec)
    except SpecError as error:
        assert "\n" not in str(error)


# load


def write(directory, text, name="config.json"):
    (directory / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(directory)


def test_load_reads_the_bundle(tmp_path):
    assert load(write(tmp_path, json.dumps(config()))) == config()
    write(tmp_path, json.dumps(config() | {"hostname": "other"}), "other.json")
    assert load(str(tmp_path), "other.json")["hostname"] == "other"
    assert load("/nowhere", str(tmp_path / "other.json"))["hostname"] == "other"


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(str(tmp_path))
    with pytest.raises(ContentError, match=r"config\.json is not valid JSON"):
        load(write(tmp_path, "{"))
    with pytest.raises(ContentError, match="not valid JSON"):
        load(write(tmp_path, '{"ociVersion": NaN}'))
    with pytest.raises(SpecError, match=r"^process\.args\[0\]: must be a string, is a number$"):
        spec = config()
        spec["process"]["args"] = [1]
        load(write(tmp_path, json.dumps(spec)))


def test_load_refuses_text_without_bytes(tmp_path):
    spec = config()
    spec["process"]["args"] = ["echo", "\ud800"]
    with pytest.raises(SpecError, match=r"^process\.args\[1\]: must not contain half a surrogate pair$"):
        load(write(tmp_path, json.dumps(spec)))
    spec["process"]["args"] = ["echo", "\udcff", "\U0001f600"]  # a byte that is not UTF-8, and a whole pair
    assert load(write(tmp_path, json.dumps(spec)))["process"]["args"] == spec["process"]["args"]


def test_load_survives_deep_nesting(tmp_path):
    spec = config() | {"x": json.loads('{"y":' * 400 + '"\\ud800"' + "}" * 400)}
    with pytest.raises((ContentError, SpecError)):
        load(write(tmp_path, json.dumps(spec)))
    with pytest.raises(ContentError):
        load(write(tmp_path, '{"ociVersion":"1.0.0","x":' + "[" * 100000))


# ids


@pytest.mark.parametrize("identifier", ["a", "A-b_c.d+e", "0", "-x", "+", "_", "a..b", "x" * 1024])
def test_identifier_is_accepted(identifier):
    assert check_identifier(identifier) == identifier


@pytest.mark.parametrize(
    "identifier", ["", ".", "..", ".a", "a/b", "../a", "a b", "a\n", "a\0", "ä", "a:b", "$(x)", "x" * 1025, "a\u0660"]
)
def test_identifier_is_refused(identifier):
    with pytest.raises(UsageError) as caught:
        check_identifier(identifier)
    assert "\n" not in str(caught.value)


# against the specification and the machine


@pytest.mark.parametrize("rootless", [False, True])
def test_default_spec_is_valid(rootless):
    spec = default_spec(rootless)
    validate(copy.deepcopy(spec))
    assert json.loads(record.dumps(spec)) == spec
    kinds = [namespace["type"] for namespace in spec["linux"]["namespaces"]]
    assert ("user" in kinds, "network" in kinds) == (rootless, not rootless)
    if rootless:
        assert spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]


def properties(shape, path=""):
    """All property paths that the table knows; [] for items and keys."""
    if isinstance(shape, Object):
        for name, child in shape.properties.items():
            yield f"{path}.{name}"
            yield from properties(child, f"{path}.{name}")
    elif isinstance(shape, (Items, Map)):
        yield from properties(shape.item, f"{path}[]")


NOT_OURS = (
    *(".solaris", ".windows", ".vm", ".zos", ".freebsd", ".process.commandLine", ".process.user.username"),
    ".process.consoleSize",  # checked in relation to process.terminal
)


def schema_properties(schema, files, path=""):
    """The same from a JSON schema whose references lie in ``files``."""
    if reference := schema.get("$ref"):
        file, _, pointer = reference.partition("#")
        document = json.loads((MODULE / file).read_text()) if file else files
        target = document
        for step in pointer.strip("/").split("/"):
            target = target[step]
        yield from schema_properties(target, document, path)
    for part in schema.get("allOf", []) + schema.get("anyOf", []):
        yield from schema_properties(part, files, path)
    for name, child in schema.get("properties", {}).items():
        if f"{path}.{name}" not in NOT_OURS:
            yield f"{path}.{name}"
            yield from schema_properties(child, files, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from schema_properties(schema[keyword], files, f"{path}[]")


@pytest.mark.skipif(not MODULE.exists(), reason=NO_MODULE)
def test_the_table_knows_every_property_of_the_schema():
    schema = json.loads((MODULE / "config-schema.json").read_text())
    found = {path.replace("Offsets.boottime", "Offsets[]") for path in schema_properties(schema, schema)}
    wanted = {path for path in found if "Offsets.monotonic" not in path} - {".linux.timeOffsets[]"}
    assert set(properties(CONFIG)) == wanted


@pytest.mark.skipif(not MODULE.exists(), reason=NO_MODULE)
def test_the_words_are_those_of_the_schema():
    definitions = json.loads((MODULE / "defs-linux.json").read_text())["definitions"]
    for name, ours in [
        ("NamespaceType", words.NAMESPACES),
        ("SeccompAction", words.SECCOMP_ACTIONS),
        ("SeccompArch", words.SECCOMP_ARCHITECTURES),
        ("SeccompFlag", words.SECCOMP_FLAGS),
        ("SeccompOperators", words.SECCOMP_OPERATORS),
        ("SchedulerPolicy", (*words.SCHEDULERS, "SCHED_ISO")),
        ("SchedulerFlag", words.SCHEDULER_FLAGS),
        ("MemoryPolicyMode", words.MEMORY_MODES),
        ("MemoryPolicyFlag", words.MEMORY_FLAGS),
        ("PersonalityDomain", words.PERSONALITIES),
    ]:
        assert set(ours) == set(definitions[name]["enum"]), name
    assert set(definitions["RootfsPropagation"]["enum"]) < set(words.PROPAGATIONS)


@pytest.mark.skipif(not MODULE.exists(), reason=NO_MODULE)
@pytest.mark.parametrize("name", ["linux-netdevice", "linux-rdma", "minimal", "minimal-for-start", "spec-example"])
def test_good_examples_of_the_specification(name):
    spec = json.loads((MODULE / f"test/config/good/{name}.json").read_text())
    spec.setdefault("root", {"path": "rootfs"})  # required on Linux by the text, not by the schema
    if name in ("linux-netdevice", "linux-rdma"):
        spec["linux"].setdefault("namespaces", []).append({"type": "network"})
    if spec["ociVersion"].startswith("0."):  # an old example; the rest of it is up to date
        spec["ociVersion"] = "1.0.0"
    validate(spec)


@pytest.mark.skipif(not MODULE.exists(), reason=NO_MODULE)
@pytest.mark.parametrize("name", ["linux-hugepage", "linux-netdevice", "linux-rdma"])
def test_bad_examples_of_the_specification(name):
    spec = json.loads((MODULE / f"test/config/bad/{name}.json").read_text())
    spec.setdefault("root", {"path": "rootfs"})
    assert refused(spec).where.startswith("linux.")


def test_the_words_are_those_that_seccomp_compiles():
    from coracle.linux.seccomp import profile

    assert set(words.SECCOMP_ACTIONS) == set(profile.ACTIONS)
    assert set(words.SECCOMP_FLAGS) == set(profile.FLAGS)
    assert set(words.SECCOMP_ARCHITECTURES) == set(profile.ARCHITECTURES)
    assert set(words.SECCOMP_OPERATORS) == set(profile.OPERATORS)


def test_a_config_as_podman_writes_it_takes_no_time():
    spec = default_spec()
    names = [f"system_call_{n}" for n in range(380)]
    rules = [{"names": names, "action": "SCMP_ACT_ALLOW"}]
    argument = {"index": 1, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules += [{"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [argument]}] * 30
    spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": rules}
    spec["annotations"] = {f"io.container.{n}": "x" for n in range(20)}
    spec["mounts"] *= 3
    best = 1.0
    for _ in range(50):
        started = time.perf_counter()
        validate(spec)
        best = min(best, time.perf_counter() - started)
    assert best < 0.001, f"{best * 1e6:.0f} µs"


def test_nothing_expensive_is_imported():
    import subprocess
    import sys

    source = Path(specs.__file__).parents[3]
    heavy = {"collections", "dataclasses", "enum", "functools", "json", "pathlib", "re", "typing"}
    program = (
        f"import sys; sys.path.insert(0, {str(source)!r})\n"
        "import coracle.runtime.spec, coracle.runtime.mount_options\n"
        f"print(*(set(sys.modules) & {heavy!r}))"
    )
    output = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == ""
