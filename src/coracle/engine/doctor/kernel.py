"""Kernel version, system calls, mount API, namespaces, seccomp, the launcher."""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Callable

from coracle.engine.doctor import probe
from coracle.engine.doctor.check import Finding, Subject, degraded, first_line, missing, ok, reason
from coracle.errors import CoracleError
from coracle.linux import mount, namespace
from coracle.linux.launcher.code import SUPPORTED
from coracle.linux.syscall import syscall

_MINIMUM, _COMFORTABLE = (5, 12), (6, 5)
_NEWER = "boot a newer kernel, 6.5 or later"
_CONFIG = {
    "mount": "NAMESPACES", "pid": "PID_NS", "network": "NET_NS", "ipc": "IPC_NS", "uts": "UTS_NS", "cgroup": "CGROUPS",
    "time": "TIME_NS", "user": "USER_NS",
}  # fmt: skip
_SYSCTL_NAMES = {"mount": "mnt", "network": "net"}


def version(_subject: Subject) -> Finding:
    """mount_setattr(2) came with 5.12; overlay layers by name with 6.5."""
    release = os.uname().release
    major, minor = (int("".join(c for c in part if c.isdigit()) or "0") for part in release.split(".")[:2])
    if (major, minor) < _MINIMUM:
        return missing(f"Linux {release}", f"{_NEWER}: 5.12 is the oldest that works")
    if (major, minor) < _COMFORTABLE:
        return degraded(f"Linux {release}: images of very many layers may not fit", _NEWER)
    return ok(f"Linux {release}")


def machine(_subject: Subject) -> Finding:
    name = platform.machine()
    if name not in SUPPORTED:
        return missing(name, f"containers can be started on {' and '.join(SUPPORTED)} only")
    return ok(name)


def python(_subject: Subject) -> Finding:
    return ok(f"Python {platform.python_version()}, {platform.libc_ver()[0] or 'another libc'}")


def _calls() -> str:
    """Try each system call in a harmless way; the names of those that fail, with the reason."""
    own = os.getpid()
    tries: dict[str, Callable[[], object]] = {
        "clone3": lambda: os.waitpid(_short_lived(), 0),
        "openat2": lambda: os.close(mount.openat2(mount.AT_FDCWD, "/", mount.O_PATH)),
        "pidfd_open": lambda: os.close(syscall("pidfd_open", own, 0)),
        "pidfd_send_signal": lambda: syscall("pidfd_send_signal", syscall("pidfd_open", own, 0), 0, None, 0),
        "close_range": lambda: syscall("close_range", 1 << 20, 1 << 20, 4),
        "memfd_create": lambda: os.close(os.memfd_create("coracle-doctor")),
    }
    failed = []
    for name, attempt in tries.items():
        try:
            attempt()
        except OSError as error:
            failed.append(f"{name}: {reason(error)}")
    return "; ".join(failed)


def _short_lived() -> int:
    pid, pidfd = namespace.clone(0)
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    return pid


def calls(_subject: Subject) -> Finding:
    failed = probe.in_child(_calls)
    if failed:
        return missing(failed, f"{_NEWER}, or leave the sandbox: one that knows system calls up to Linux 5.12 will do")
    return ok("clone3, openat2, pidfd_open, pidfd_send_signal, close_range, memfd_create")


def _mount_calls() -> str:
    tree = mount.filesystem("tmpfs", [("source", "coracle-doctor")])
    try:
        target = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.set_attributes(tree, set_=mount.ATTR_NODEV)
        mount.attach(tree, target)
        os.close(target)
        os.close(mount.clone_tree(mount.AT_FDCWD, "/", recursive=True))
    finally:
        os.close(tree)
    return ""


def mount_api(_subject: Subject) -> Finding:
    try:
        probe.in_child(probe.with_mounts(_mount_calls))
    except OSError as error:
        return missing(f"{error.filename or 'mount API'}: {reason(error)}", _confined(error))
    return ok("fsopen, fsconfig, fsmount, open_tree, move_mount, mount_setattr")


def _confined(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return (
            "run outside of the sandbox, or give the outer container --cap-add SYS_ADMIN and a looser seccomp profile"
        )
    return _NEWER


def _unshare(kind: str) -> str:
    namespace.unshare(namespace.NAMESPACES[kind][0])
    if kind == "pid":  # the namespace begins with the first child
        pid = os.fork()
        if pid == 0:
            os._exit(0 if os.getpid() == 1 else 1)
        if os.waitpid(pid, 0)[1]:
            raise OSError(errno.EINVAL, "the child is not process 1")
    if kind == "time":
        namespace.write_file("/proc/self/timens_offsets", "monotonic 1 0")
    return ""


def one_namespace(kind: str) -> Callable[[Subject], Finding]:
    """A check that really makes a namespace of ``kind``."""

    def run(_subject: Subject) -> Finding:
        try:
            probe.in_child(probe.as_engine(lambda: _unshare(kind)))
        except OSError as error:
            severe = degraded if kind in ("time", "cgroup") else missing
            return severe(f"cannot be made: {reason(error)}", _namespace_fix(kind, error))
        except CoracleError as error:
            return missing(f"cannot be made: {error.message}", "see the user namespace above")
        return ok("made")

    return run


def _namespace_fix(kind: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"sysctl -w user.max_{_SYSCTL_NAMES.get(kind, kind)}_namespaces=15000"
    if error.errno in (errno.EINVAL, errno.ENOSYS, errno.ENOENT):
        return f"a kernel with CONFIG_{_CONFIG[kind]}=y"
    return _confined(error)


def seccomp(_subject: Subject) -> Finding:
    """SECCOMP_GET_ACTION_AVAIL (seccomp(2)) for the actions that profiles use."""
    actions = {"kill": 0x80000000, "errno": 0x00050000, "log": 0x7FFC0000, "notify": 0x7FC00000}
    absent = []
    for name, number in actions.items():
        try:
            syscall("seccomp", 2, 0, struct.pack("I", number))
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.EINVAL):
                return missing(
                    "no filters", "a kernel with CONFIG_SECCOMP_FILTER=y, or --security-opt seccomp=unconfined"
                )
            absent.append(name)
    if absent:
        return degraded(f"filters without the actions {', '.join(absent)}", _NEWER)
    return ok(f"filters with the actions {', '.join(actions)}")


def launcher(_subject: Subject) -> Finding:
    """Containers start from an anonymous executable file (memfd_create(2), MFD_EXEC)."""
    if first_line("/proc/sys/vm/memfd_noexec") == "2":
        return missing("vm.memfd_noexec = 2 forbids executable memory files", "sysctl -w vm.memfd_noexec=1")
    return ok("executable memory files are allowed")


def _mount_proc() -> str:
    namespace.unshare(namespace.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.close(mount.filesystem("proc", [("source", "proc")]))
        except OSError as error:
            code = error.errno or 255
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return ""


def proc(subject: Subject) -> Finding:
    """mount_too_revealing() in fs/namespace.c: a masked /proc outside forbids a full one inside a user namespace."""
    try:
        if subject.is_root:
            probe.in_child(probe.with_mounts(_mount_proc))
        probe.in_child(lambda: _proc_inside(subject))
    except OSError as error:
        if error.errno != errno.EPERM:
            return missing(f"/proc cannot be mounted: {reason(error)}", _NEWER)
        fix = "start the outer container with --security-opt systempaths=unconfined (podman: unmask=ALL)"
        severe = degraded if subject.is_root else missing
        return severe("parts of /proc are masked here, so that a user namespace may not mount a full one", fix)
    except CoracleError as error:
        return missing(error.message, "see the user namespace above")
    return ok("can be mounted, in a user namespace too")


def _proc_inside(subject: Subject) -> str:
    def try_it() -> str:
        namespace.unshare(namespace.CLONE_NEWNS)
        return _mount_proc()

    return probe.in_new_user_namespace(try_it) if subject.is_root else probe.with_mounts(_mount_proc)()
