"""What this user may do: user namespaces, subordinate ids, capabilities, security modules."""

from __future__ import annotations

import errno
import os
import shutil
import stat

from coracle.engine import rootless
from coracle.engine.doctor import probe
from coracle.engine.doctor.check import Finding, Subject, degraded, first_line, missing, ok, reason
from coracle.engine.doctor.tools import SEARCH, install
from coracle.errors import CoracleError
from coracle.linux import capability

# Switches that keep user namespaces from ordinary users: file, the value that does, what to type.
_SWITCHES = (
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1",
     "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for python3 with 'userns,'"),
)  # fmt: skip
_MANY = 65536

# What root's engine uses; one without them is confined by something outside.
_NEEDED = {
    "CAP_SYS_ADMIN": "namespaces and mounts", "CAP_CHOWN": "layers", "CAP_DAC_OVERRIDE": "layers",
    "CAP_FOWNER": "layers", "CAP_MKNOD": "whiteouts and devices", "CAP_SETUID": "users", "CAP_SETGID": "groups",
    "CAP_SETPCAP": "the bounding set", "CAP_SETFCAP": "layers with file capabilities", "CAP_NET_ADMIN": "networks",
    "CAP_KILL": "stopping containers", "CAP_SYS_CHROOT": "root directories",
}  # fmt: skip
_USEFUL = {
    "CAP_SYS_RESOURCE": "limits above the hard ones are lowered to them",
    "CAP_SYS_PTRACE": "joining other users' namespaces",
}


def _closed_switches() -> list[tuple[str, str]]:
    return [(path, fix) for path, closed, fix in _SWITCHES if first_line(path) == closed]


def user_namespaces(subject: Subject) -> Finding:
    closed = _closed_switches()
    names = ", ".join(f"{path.removeprefix('/proc/sys/').replace('/', '.')} = {first_line(path)}" for path, _ in closed)
    fixes = "; ".join(fix for _, fix in closed)
    try:
        if subject.is_root:
            probe.in_child(lambda: probe.in_new_user_namespace(lambda: str(os.geteuid())))
        else:
            probe.in_child(probe.as_engine(lambda: str(os.geteuid())))
    except OSError as error:
        severe = degraded if subject.is_root else missing
        return severe(f"cannot be made: {reason(error)}{f' ({names})' if names else ''}", fixes or _user_fix(error))
    except CoracleError as error:
        return missing(f"{error.message}{f' ({names})' if names else ''}", fixes or "see the subordinate ids below")
    if closed and subject.is_root:
        return degraded(f"root can, but other users cannot: {names}", fixes)
    return ok("this user can make them" if not subject.is_root else "root and other users can make them")


def _user_fix(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "sysctl -w user.max_user_namespaces=15000"
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        return "a kernel with CONFIG_USER_NS=y"
    return "run outside of the sandbox or chroot that this process is in, or run as root"


def subordinate_ids(subject: Subject) -> Finding:
    if subject.is_root:
        return ok("not needed by root")
    owners = (str(subject.uid), subject.name)
    counts = [sum(count for _, count in rootless.subordinate_ids(f"/etc/sub{kind}id", owners)) for kind in "ug"]
    fix = f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {subject.name}"
    if not all(counts):
        return degraded("none: containers have one user, and images with files of others cannot be unpacked fully", fix)
    if min(counts) < _MANY:
        return degraded(f"{min(counts)} of the usual {_MANY}: high user ids of images cannot be had", fix)
    return ok(f"{counts[0]} users and {counts[1]} groups")


def id_tools(subject: Subject) -> Finding:
    """newuidmap(1) writes the map for a user; it has to be set-uid or have CAP_SETUID as file capability."""
    if subject.is_root:
        return ok("not needed by root")
    weak = []
    for name in ("newuidmap", "newgidmap"):
        path = shutil.which(name, path=SEARCH)
        if not path:
            return degraded(f"{name} is not installed: containers have one user", install("uidmap"))
        if not _has_privilege(path):
            weak.append(path)
    if weak:
        return degraded(
            f"{' and '.join(weak)} not set-uid root: containers have one user", f"chmod u+s {' '.join(weak)}"
        )
    return ok("newuidmap and newgidmap")


def _has_privilege(path: str) -> bool:
    status = os.stat(path)
    if status.st_mode & stat.S_ISUID and status.st_uid == 0:
        return True
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def capabilities(subject: Subject) -> Finding:
    if not subject.is_root:
        return ok("not needed: a user namespace has them all")
    held = set(capability.names(capability.own().effective))
    absent = {name: what for name, what in _NEEDED.items() if name not in held}
    if absent:
        what = ", ".join(f"{name} ({what})" for name, what in absent.items())
        return missing(
            f"this root lacks {what}", "run outside of the sandbox, or give the outer container --privileged"
        )
    useful = {name: what for name, what in _USEFUL.items() if name not in held}
    if useful:
        what = "; ".join(f"without {name} {what}" for name, what in useful.items())
        add = " ".join(f"--cap-add {name.removeprefix('CAP_')}" for name in useful)
        return degraded(what, f"whoever started this machine or container took it away; there: {add}")
    return ok(f"{len(held)} capabilities")


def security_modules(_subject: Subject) -> Finding:
    """Which label options can have an effect."""
    active = first_line("/sys/kernel/security/lsm")
    labels = [
        name
        for name, there in (
            ("AppArmor", first_line("/sys/module/apparmor/parameters/enabled") == "Y"),
            ("SELinux", os.path.exists("/sys/fs/selinux/enforce")),
        )
        if there
    ]
    own = " ".join(labels) or "none that labels containers: --security-opt label= and apparmor= have no effect"
    return ok(f"{own}{f' ({active})' if active else ''}")


def confinement(_subject: Subject) -> Finding:
    """Whether this very process is under a filter or cannot gain rights, which then holds for containers too."""
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.rstrip("\n").partition(":")[::2] for line in file)
    limits = []
    if status.get("Seccomp", "0").strip() == "2":
        limits.append("a seccomp filter is on this process and will be on containers too")
    if status.get("NoNewPrivs", "0").strip() == "1":
        limits.append("no_new_privs is on: newuidmap cannot work")
    if limits:
        return degraded("; ".join(limits), "start coracle from an ordinary login shell, outside of the sandbox")
    return ok("none")
