"""Who the program is and what it may do (runtime-spec config.md, "Process" and "Linux Process")."""

from __future__ import annotations

import os
from struct import pack

from coracle.errors import SpecError
from coracle.linux import capability
from coracle.record import read
from coracle.runtime.steps import identity as steps
from coracle.runtime.steps.program import CloseDescriptors, EnterDirectory, FindProgram, StandardFiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.runtime.plan.request import Request
    from coracle.step import Step

# sched_setattr(2) and linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
_SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}  # fmt: skip
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}  # ioprio_set(2)
_PERSONALITIES = {"LINUX": 0x0, "LINUX32": 0x8}  # personality(2)
# set_mempolicy(2), linux/mempolicy.h
_MEMORY_MODES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
_MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13}


def enter_steps(request: Request) -> list[Step]:
    """Steps inside the container's root, still Python: terminal, directory, program."""
    if not request.spec.get("process"):
        return []
    environment = request.process("env", [])
    uid = request.process("user", {}).get("uid", 0)
    cwd = request.process("cwd")
    return [
        EnterDirectory(cwd, "process.cwd"),
        FindProgram(request.process("args")[0], environment, uid, "process.args"),
        StandardFiles(bool(request.process("terminal")), uid, "process.terminal"),
        CloseDescriptors(request.preserve_fds, "docs/security.md, CVE-2024-21626"),
    ]


def init_steps(request: Request) -> list[Step]:
    """Steps of the launcher, in their order."""
    if not request.spec.get("process"):
        return [steps.Gate("config without process"), steps.Pause("config without process")]
    hardened = bool(request.process("noNewPrivileges"))
    plan: list[Step] = [*_rlimits(request), *_shape(request)]
    filters: list[Step] = [steps.Seccomp(request.seccomp, "linux.seccomp")] if request.seccomp else []
    notifies = bool(request.seccomp and request.seccomp.notifies)
    if not hardened:
        plan += filters
    if request.keyring:
        plan.append(_keyring())
    plan += [steps.SecurityLabel(kind, label, f"process.{kind}") for kind, label in request.labels]
    plan += _credentials(request)
    if hardened:
        plan.append(steps.NoNewPrivileges("process.noNewPrivileges"))
    if hardened and notifies:
        plan += filters  # the listener's descriptor is fetched while the launcher waits at the gate
    plan.append(steps.Gate("create waits for start"))
    if request.init:
        plan.append(steps.Reaper("--init"))
    if hardened and not notifies:
        plan += filters
    process = request.spec["process"]
    return [*plan, steps.Execute(process["args"], process.get("env") or [], process["cwd"], "process.args")]


def _rlimits(request: Request) -> list[Step]:
    return [
        steps.Rlimit(entry["type"], entry["soft"], entry["hard"], f"process.rlimits[{index}]")
        for index, entry in enumerate(request.process("rlimits", []))
    ]


def _keyring() -> Step:
    """A session keyring of its own: keys are not namespaced (keyrings(7), KEYCTL_JOIN_SESSION_KEYRING)."""
    line = "# keyctl session: a keyring of its own"
    return steps.RawCall("keyctl", (1, 0), "join a new session keyring", line, "keyrings(7)", (1, 38, 122))


def _shape(request: Request) -> list[Step]:
    """umask, personality, scheduling and memory policy: plain attributes that survive exec."""
    umask = request.process("user", {}).get("umask", 0o022)
    plan: list[Step] = [
        steps.RawCall("umask", (umask,), f"set the umask to {umask:04o}", f"umask {umask:04o}", "process.user.umask")
    ]
    if personality := request.linux("personality"):
        value = _PERSONALITIES[personality["domain"]]
        line = "setarch linux32 \\" if value else "# the execution domain is LINUX already"
        what = f"set the execution domain to {personality['domain']}"
        plan.append(steps.RawCall("personality", (value,), what, line, "linux.personality"))
    if scheduler := request.process("scheduler"):
        plan.append(_scheduler(scheduler))
    if priority := request.process("ioPriority"):
        value = _IO_CLASSES[priority["class"]] << 13 | priority.get("priority", 0)
        what = f"set the I/O priority to {priority['class']} {priority.get('priority', 0)}"
        line = f"ionice -c {_IO_CLASSES[priority['class']]} -n {priority.get('priority', 0)} -p $$"
        plan.append(steps.RawCall("ioprio_set", (1, 0, value), what, line, "process.ioPriority"))
    if policy := request.linux("memoryPolicy"):
        plan.append(_memory_policy(policy))
    return plan


def _scheduler(scheduler: dict[str, object]) -> Step:
    """struct sched_attr of sched_setattr(2)."""
    policy = str(scheduler["policy"])
    flags = 0
    for name in scheduler.get("flags") or []:  # type: ignore[attr-defined]
        flags |= _SCHED_FLAGS[name]
    numbers = [scheduler.get(key) or 0 for key in ("runtime", "deadline", "period")]
    nice, priority = scheduler.get("nice") or 0, scheduler.get("priority") or 0
    data = pack("IIQiIQQQ", 48, _POLICIES[policy], flags, nice, priority, *numbers)
    what = f"schedule by {policy}, nice {nice}, priority {priority}"
    option = {"SCHED_OTHER": "-o", "SCHED_FIFO": "-f", "SCHED_RR": "-r", "SCHED_BATCH": "-b", "SCHED_IDLE": "-i"}
    line = f"chrt {option.get(policy, '-d')} -p {priority} $$"
    return steps.RawCall("sched_setattr", (0, data, 0), what, line, "process.scheduler")


def _memory_policy(policy: dict[str, object]) -> Step:
    mode = _MEMORY_MODES[str(policy["mode"])]
    for flag in policy.get("flags") or []:  # type: ignore[attr-defined]
        mode |= _MEMORY_FLAGS[flag]
    bits = 0
    for part in str(policy.get("nodes") or "").split(","):
        if not part.strip():
            continue
        first, _, last = part.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            raise SpecError("linux.memoryPolicy.nodes", f"{part!r} is not a node or a range of nodes") from None
        if not 0 <= low <= high < 1024:
            raise SpecError("linux.memoryPolicy.nodes", f"{part!r} is out of range")
        bits |= ((2 << high) - 1) & ~((1 << low) - 1)
    size = bits.bit_length()
    data = bits.to_bytes((size + 63) // 64 * 8, "little")
    arguments: tuple[int | bytes, ...] = (mode, data, size + 1) if bits else (mode, 0, 0)
    what = f"set the memory policy to {policy['mode']} {policy.get('nodes') or ''}".strip()
    return steps.RawCall("set_mempolicy", arguments, what, "# numactl(8) before the program", "linux.memoryPolicy")


def _credentials(request: Request) -> list[Step]:
    user = request.process("user", {})
    last = capability.last_cap()
    plan: list[Step] = []
    wanted = request.process("capabilities")
    sets = {name: capability.mask((wanted or {}).get(name) or []) for name in
            ("bounding", "effective", "permitted", "inheritable", "ambient")}  # fmt: skip
    plan.append(steps.BoundingSet(sets["bounding"], last, "process.capabilities.bounding"))
    groups = user.get("additionalGids") or []
    denied = _setgroups_denied(request)
    plan.append(steps.SetIds(user.get("uid", 0), user.get("gid", 0), groups, "process.user", denied))
    cause = "process.capabilities"
    plan.append(steps.Capabilities(sets["effective"], sets["permitted"], sets["inheritable"], sets["ambient"], cause))
    return plan


def _setgroups_denied(request: Request) -> bool:
    """Whether the user namespace will forbid setgroups(2): the one that is there, or a user's of a single id."""
    if not request.inside and any(
        entry["type"] == "user" and not entry.get("path") for entry in request.linux("namespaces", [])
    ):
        return os.geteuid() != 0 and [entry["size"] for entry in request.linux("gidMappings", [])] == [1]
    try:
        return read(f"/proc/{request.inside or 'self'}/setgroups").startswith(b"deny")
    except OSError:
        return False


def labels(request: Request) -> list[tuple[str, str]]:
    """LSM labels that this kernel can honour; others are warned about once (config.md, "process")."""
    wanted = (("apparmor", request.process("apparmorProfile")), ("selinux", request.process("selinuxLabel")))
    active = []
    for kind, label in wanted:
        if not label:
            continue
        if os.path.exists({"apparmor": "/sys/kernel/security/apparmor", "selinux": "/sys/fs/selinux/enforce"}[kind]):
            active.append((kind, label))
        else:
            request.warn(f"{kind} is not active on this kernel: the label {label} has no effect")
    return active
