"""The store: writable, large enough, and on a file system that overlays and id maps work on."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coracle.engine.doctor import probe
from coracle.engine.doctor.check import Finding, Subject, degraded, missing, ok, reason
from coracle.errors import CoracleError
from coracle.linux import mount, namespace

_GIBIBYTE = 1 << 30
_GOOD = "ext4, xfs, btrfs or tmpfs"
_PREFIX = ".coracle-doctor-"


def existing(path: str) -> str:
    """``path``, or the nearest directory above it that exists: what the file system questions are about."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def file_system(path: str) -> tuple[str, str]:
    """(type, mount point) of the file system that holds ``path`` (proc_pid_mountinfo(5))."""
    device = os.stat(path).st_dev
    target = os.path.realpath(path)
    found, longest = ("unknown", "/"), -1
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            point = fields[4].replace("\\040", " ").rstrip("/")
            same = fields[2] == f"{os.major(device)}:{os.minor(device)}"
            if len(point) >= longest and (target == point or target.startswith(f"{point}/")):
                kind = fields[fields.index("-") + 1]
                found, longest = (kind, point or "/"), len(point) + (0 if same else -1)
    return found


# Flags of a mount that stand in the way: flag, its name and opposite, what does not work, how bad that is.
_OBSTACLES = (
    (os.ST_RDONLY, "ro", "rw", "nothing can be stored", missing),
    (os.ST_NOEXEC, "noexec", "exec", "no program of a container can be executed", missing),
    (os.ST_NOSUID, "nosuid", "suid", "set-uid programs of containers (sudo, su, ping) do not work", degraded),
    (os.ST_NODEV, "nodev", "dev", "device nodes of layers do not work", degraded),
)


def store(subject: Subject) -> Finding:
    root = subject.paths.root
    base = existing(root)
    kind, point = file_system(base)
    flags = os.statvfs(base).f_flag
    for flag, name, opposite, effect, severe in _OBSTACLES:
        if flags & flag:
            fix = f"mount -o remount,{opposite} {point}, or export CORACLE_ROOT=/a/directory/elsewhere"
            return severe(f"{root} is on {point}, mounted {name}: {effect}", fix)
    if not os.access(base, os.W_OK | os.X_OK):
        return missing(f"{root} cannot be written by {subject.name}", "export CORACLE_ROOT=/a/directory/of/yours")
    return ok(f"{root} on {kind}")


def space(subject: Subject) -> Finding:
    base = existing(subject.paths.root)
    status = os.statvfs(base)
    free = status.f_bavail * status.f_frsize
    found = f"{free / _GIBIBYTE:.1f} GiB free"
    if free < _GIBIBYTE or (status.f_files and status.f_favail < 10000):
        inodes = f", {status.f_favail} files" if status.f_files else ""
        return degraded(f"{found}{inodes} at {base}", "coracle rmi IMAGE, or export CORACLE_ROOT=/a/larger/disk")
    return ok(found)


def run_directory(subject: Subject) -> Finding:
    run = subject.paths.run
    if not os.access(existing(run), os.W_OK | os.X_OK):
        return missing(f"{run} cannot be written by {subject.name}", "export CORACLE_RUN=/a/directory/of/yours")
    if not subject.is_root and run.startswith("/tmp/"):
        fix = f"log in through PAM (ssh, machinectl shell), or as root: loginctl enable-linger {subject.name}"
        return degraded(f"{run}, because XDG_RUNTIME_DIR is not set", fix)
    return ok(run)


@contextmanager
def scratch(subject: Subject) -> Iterator[str]:
    """An empty directory on the store's file system that is gone afterwards, whatever was put in."""
    path = tempfile.mkdtemp(prefix=_PREFIX, dir=existing(subject.paths.root))
    try:
        yield path
    finally:
        _remove(path)


def _remove(path: str) -> None:
    """rm -r that opens directories first: overlayfs leaves one with mode 0 below the work directory."""
    os.chmod(path, 0o700)
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            _remove(entry.path)
        else:
            os.unlink(entry.path)
    os.rmdir(path)


def _overlay(lower: str, base: str, options: list[str]) -> Callable[[], str]:
    """Mount an overlay and use it as containers do: read, change, delete."""

    def run() -> str:
        upper, work, top = (f"{base}/{name}" for name in ("upper", "work", "top"))
        tree = mount.overlay([lower], upper, work, [(option, None) for option in options])
        target = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        mount.attach(tree, target)
        os.close(target)
        os.close(tree)
        return ""

    return run


def _exercise(base: str, options: list[str]) -> Callable[[], str]:
    attach = _overlay(f"{base}/lower", base, options)

    def run() -> str:
        attach()
        with open(f"{base}/top/file", "a", encoding="utf-8") as file:
            file.write("changed")
        os.unlink(f"{base}/top/gone")
        os.mkdir(f"{base}/top/new")
        if os.path.exists(f"{base}/top/gone"):
            raise OSError(errno.EIO, "a deleted file is still there")
        return ""

    return run


def overlay(subject: Subject) -> Finding:
    kind = file_system(existing(subject.paths.root))[0]
    options = [] if subject.is_root else ["userxattr"]
    try:
        with scratch(subject) as base:
            for name in ("lower", "upper", "work", "top"):
                os.mkdir(f"{base}/{name}")
            for name in ("file", "gone"):
                with open(f"{base}/lower/{name}", "w", encoding="utf-8") as file:
                    file.write("x")
            probe.in_child(probe.with_mounts(_exercise(base, options)))
    except OSError as error:
        return missing(f"no overlay on {kind}: {reason(error)}", _overlay_fix(error, subject, kind))
    except CoracleError as error:
        return missing(error.message, "see the user namespace above")
    return ok(f"works on {kind}{'' if subject.is_root else ' as this user'}")


def _overlay_fix(error: OSError, subject: Subject, kind: str) -> str:
    if error.errno == errno.ENODEV:
        return "as root: modprobe overlay"
    if error.errno == errno.EPERM and not subject.is_root:
        return "boot Linux 5.11 or later, the first that lets users mount overlays"
    if kind in _GOOD:
        return "report this, with the line above"
    return f"export CORACLE_ROOT=/a/directory on {_GOOD}"


def host_image(subject: Subject) -> Finding:
    """The image ``host``: an overlay over this machine's root, or for a user over its /usr."""
    lower = "/" if subject.is_root else "/usr"
    options = [] if subject.is_root else ["userxattr"]
    try:
        with scratch(subject) as base:
            for name in ("upper", "work", "top"):
                os.mkdir(f"{base}/{name}")
            probe.in_child(probe.with_mounts(_overlay(lower, base, options)))
    except OSError as error:
        return degraded(f"no overlay over {lower}: {reason(error)}", "use an image of the store instead of 'host'")
    except CoracleError as error:
        return degraded(error.message, "see the user namespace above")
    return ok(f"an overlay over {lower} works")


def _map_ids(base: str) -> str:
    ready, done = os.pipe(), os.pipe()
    pid, pidfd = namespace.clone(namespace.CLONE_NEWUSER)
    if pid == 0:
        os.read(done[0], 1)
        os._exit(0)
    os.close(pidfd)
    for fd in ready:
        os.close(fd)
    try:
        namespace.write_file(f"/proc/{pid}/uid_map", "0 100000 65536")
        namespace.write_file(f"/proc/{pid}/gid_map", "0 100000 65536")
        user = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        tree = mount.clone_tree(mount.AT_FDCWD, base)
        mount.set_attributes(tree, userns=user)
        owner = os.fstat(tree).st_uid
        os.close(user)
        os.close(tree)
    finally:
        os.write(done[1], b"x")
        os.waitpid(pid, 0)
    return str(owner)


def id_mapped_mounts(subject: Subject) -> Finding:
    """mount_setattr(2) MOUNT_ATTR_IDMAP: containers with --uidmap without a copy of the image."""
    kind = file_system(existing(subject.paths.root))[0]
    if not subject.is_root:
        return ok("root's: a user's namespace maps all files the same way")
    try:
        with scratch(subject) as base:
            owner = probe.in_child(probe.with_mounts(lambda: _map_ids(base)))
    except OSError as error:
        fix = f"put the store on {_GOOD}, or do without --uidmap"
        return degraded(f"not on {kind}: {reason(error)}", fix)
    return (
        ok(f"work on {kind}") if owner == "100000" else degraded(f"{kind} maps to user {owner}", "report this kernel")
    )


def leftovers(subject: Subject) -> list[str]:
    """Scratch directories that a killed doctor left behind."""
    base = existing(subject.paths.root)
    return [
        entry.path
        for entry in os.scandir(base)
        if entry.name.startswith(_PREFIX) and stat.S_ISDIR(entry.stat().st_mode)
    ]
