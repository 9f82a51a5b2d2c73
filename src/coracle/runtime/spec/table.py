"""config.json as a table: property, type and constraint, and what is required (runtime-spec 1.3).

The nesting is the JSON path.  What depends on more than one property is in ``relations``.
Sections of other platforms (windows, solaris, ...) are ignored like unknown properties.
"""

from __future__ import annotations

from coracle.linux.capability import NUMBERS as CAPABILITIES
from coracle.linux.rlimit import RLIMITS
from coracle.runtime.spec import constraint, words
from coracle.runtime.spec.shape import Boolean, Items, Map, Number, Object, Text, Texts, Word, Words

BOOLEAN = Boolean()
TEXT = Text()
TEXTS = Texts()
PATHS = Texts(constraint.absolute)
INT32 = Number(-(1 << 31), (1 << 31) - 1)
INT64 = Number(-(1 << 63), (1 << 63) - 1)
UINT16 = Number(0, (1 << 16) - 1)
UINT32 = Number(0, (1 << 32) - 1)
UINT64 = Number(0, (1 << 64) - 1)
ID = Number(0, (1 << 32) - 2)  # (uid_t) -1 means "no change" (chown(2), setresuid(2))
COUNT = Number(1, (1 << 32) - 1)
LIMIT = Number(-1, (1 << 63) - 1)  # -1: unlimited (config-linux.md, "Memory")
MAJOR = Number(0, (1 << 12) - 1)  # include/linux/kdev_t.h; mknod(2) would cut a larger number off
MINOR = Number(0, (1 << 20) - 1)
ANY_MAJOR = Number(-1, (1 << 12) - 1)  # -1: all
ANY_MINOR = Number(-1, (1 << 20) - 1)
WEIGHT = Number(0, 1000)  # Documentation/admin-guide/cgroup-v1/blkio-controller.rst; 0: not set
ERRNO = Number(0, (1 << 16) - 1)  # SECCOMP_RET_DATA, include/uapi/linux/seccomp.h

ID_MAPPINGS = Items(
    Object({"containerID": ID, "hostID": ID, "size": COUNT}, required=("containerID", "hostID", "size")),
)

HOOKS = Items(
    Object(
        {"path": Text(constraint.absolute), "args": TEXTS, "env": TEXTS, "timeout": Number(1, (1 << 31) - 1)},
        required=("path",),
    )
)

MOUNT = Object(
    {
        "destination": Text(constraint.non_empty),
        "type": TEXT,
        "source": TEXT,
        "options": TEXTS,
        "uidMappings": ID_MAPPINGS,
        "gidMappings": ID_MAPPINGS,
    },
    required=("destination",),
)

CONSOLE_SIZE = Object({"height": UINT16, "width": UINT16}, required=("height", "width"))  # ioctl_tty(2), TIOCSWINSZ

USER = Object({"uid": ID, "gid": ID, "umask": Number(0, 0o777), "additionalGids": Items(ID)})

RLIMIT = Object(
    {"type": Word("resource limit", RLIMITS), "soft": UINT64, "hard": UINT64}, required=("type", "soft", "hard")
)

SCHEDULER = Object(
    {
        "policy": Word("scheduling policy", words.SCHEDULERS),
        "nice": Number(-20, 19),
        "priority": INT32,
        "flags": Words("scheduling flag", words.SCHEDULER_FLAGS),
        "runtime": UINT64,
        "deadline": UINT64,
        "period": UINT64,
    },
    required=("policy",),
)

CAPABILITY = Words("capability", CAPABILITIES)

PROCESS = Object(
    {
        "terminal": BOOLEAN,
        "user": USER,
        "cwd": Text(constraint.absolute),
        "env": Texts(constraint.environment),
        "args": Texts(minimum=1),
        "rlimits": Items(RLIMIT),
        "apparmorProfile": TEXT,
        "capabilities": Object(
            {
                "effective": CAPABILITY,
                "bounding": CAPABILITY,
                "inheritable": CAPABILITY,
                "permitted": CAPABILITY,
                "ambient": CAPABILITY,
            }
        ),
        "noNewPrivileges": BOOLEAN,
        "oomScoreAdj": Number(-1000, 1000),  # proc(5), /proc/pid/oom_score_adj
        "scheduler": SCHEDULER,
        "selinuxLabel": TEXT,
        "ioPriority": Object(
            {"class": Word("I/O priority class", words.IO_CLASSES), "priority": Number(0, 7)}, required=("class",)
        ),
        "execCPUAffinity": Object({"initial": Text(constraint.cpu_list), "final": Text(constraint.cpu_list)}),
    },
    required=("cwd", "args"),
)

DEVICE = Object(
    {
        "type": Word("device type", "cbup"),
        "path": Text(constraint.absolute),
        "major": MAJOR,
        "minor": MINOR,
        "fileMode": UINT32,
        "uid": ID,
        "gid": ID,
    },
    required=("type", "path"),
)

THROTTLE = Items(Object({"major": MAJOR, "minor": MINOR, "rate": UINT64}, required=("major", "minor", "rate")))

RESOURCES = Object(
    {
        "devices": Items(
            Object(
                {
                    "allow": BOOLEAN,
                    "type": Word("device type", ("", "a", "b", "c")),
                    "major": ANY_MAJOR,
                    "minor": ANY_MINOR,
                    "access": Text(constraint.device_access),
                },
                required=("allow",),
            )
        ),
        "memory": Object(
            {
                "limit": LIMIT,
                "reservation": LIMIT,
                "swap": LIMIT,
                "kernel": LIMIT,
                "kernelTCP": LIMIT,
                "swappiness": Number(0, 100),
                "disableOOMKiller": BOOLEAN,
                "useHierarchy": BOOLEAN,
                "checkBeforeUpdate": BOOLEAN,
            }
        ),
        "cpu": Object(
            {
                "shares": UINT64,
                "quota": LIMIT,
                "burst": UINT64,
                "period": UINT64,
                "realtimeRuntime": LIMIT,
                "realtimePeriod": UINT64,
                "cpus": Text(constraint.one_line),
                "mems": Text(constraint.one_line),
                "idle": Number(0, 1),
            }
        ),
        "pids": Object({"limit": LIMIT}, required=("limit",)),
        "blockIO": Object(
            {
                "weight": WEIGHT,
                "leafWeight": WEIGHT,
                "weightDevice": Items(
                    Object(
                        {"major": MAJOR, "minor": MINOR, "weight": WEIGHT, "leafWeight": WEIGHT},
                        required=("major", "minor"),
                    )
                ),
                "throttleReadBpsDevice": THROTTLE,
                "throttleWriteBpsDevice": THROTTLE,
                "throttleReadIOPSDevice": THROTTLE,
                "throttleWriteIOPSDevice": THROTTLE,
            }
        ),
        "hugepageLimits": Items(
            Object({"pageSize": Text(constraint.huge_page_size), "limit": UINT64}, required=("pageSize", "limit"))
        ),
        "network": Object(
            {
                "classID": UINT32,
                "priorities": Items(
                    Object({"name": Text(constraint.interface), "priority": UINT32}, required=("name", "priority"))
                ),
            }
        ),
        "rdma": Map(Object({"hcaHandles": UINT32, "hcaObjects": UINT32}), constraint.non_empty),
        "unified": Map(TEXT, constraint.unified_file),
    }
)

SECCOMP = Object(
    {
        "defaultAction": Word("seccomp action", words.SECCOMP_ACTIONS),
        "defaultErrnoRet": ERRNO,
        "architectures": Words("seccomp architecture", words.SECCOMP_ARCHITECTURES),
        "flags": Words("seccomp flag", words.SECCOMP_FLAGS),
        "listenerPath": Text(constraint.absolute_or_empty),
        "listenerMetadata": TEXT,
        "syscalls": Items(
            Object(
                {
                    "names": Texts(minimum=1),
                    "action": Word("seccomp action", words.SECCOMP_ACTIONS),
                    "errnoRet": ERRNO,
                    "args": Items(
                        Object(
                            {
                                "index": Number(0, 5),
                                "value": UINT64,
                                "valueTwo": UINT64,
                                "op": Word("seccomp operator", words.SECCOMP_OPERATORS),
                            },
                            required=("index", "value", "op"),
                        )
                    ),
                },
                required=("names", "action"),
            )
        ),
    },
    required=("defaultAction",),
)

NAMESPACE = Object(
    {"type": Word("namespace type", words.NAMESPACES), "path": Text(constraint.absolute_or_empty)}, required=("type",)
)

LINUX = Object(
    {
        "namespaces": Items(NAMESPACE),
        "uidMappings": ID_MAPPINGS,
        "gidMappings": ID_MAPPINGS,
        "timeOffsets": Map(Object({"secs": INT64, "nanosecs": Number(0, 999_999_999)}), constraint.clock),
        "devices": Items(DEVICE),
        "netDevices": Map(Object({"name": Text(constraint.new_interface)}), constraint.host_interface),
        "cgroupsPath": Text(constraint.cgroup_path),
        "resources": RESOURCES,
        "rootfsPropagation": Word("mount propagation", ("", *words.PROPAGATIONS)),
        "seccomp": SECCOMP,
        "sysctl": Map(TEXT),
        "maskedPaths": PATHS,
        "readonlyPaths": PATHS,
        "mountLabel": TEXT,
        "intelRdt": Object(
            {
                "closID": Text(constraint.resctrl_group),
                "schemata": Texts(constraint.one_line),
                "l3CacheSchema": Text(constraint.one_line),
                "memBwSchema": Text(constraint.bandwidth_schema),
                "enableMonitoring": BOOLEAN,
            }
        ),
        "memoryPolicy": Object(
            {
                "mode": Word("memory policy", words.MEMORY_MODES),
                "nodes": Text(constraint.cpu_list),
                "flags": Words("memory policy flag", words.MEMORY_FLAGS),
            },
            required=("mode",),
        ),
        "personality": Object(
            # No flags are defined yet (config-linux.md, "Personality"), so every one is a wrong value.
            {"domain": Word("execution domain", words.PERSONALITIES), "flags": Words("personality flag", ())},
            required=("domain",),
        ),
    }
)

CONFIG = Object(
    {
        "ociVersion": Text(constraint.version),
        "root": Object({"path": Text(constraint.non_empty), "readonly": BOOLEAN}, required=("path",)),
        "mounts": Items(MOUNT),
        "process": PROCESS,
        "hostname": Text(constraint.host_name),
        "domainname": Text(constraint.host_name),
        "hooks": Object(dict.fromkeys(words.HOOKS, HOOKS)),
        "annotations": Map(TEXT, constraint.non_empty),
        "linux": LINUX,
    },
    required=("ociVersion", "root"),
)
