"""``mounts``: Docker's defaults, the user's own, and how one overrides the other (moby daemon/oci_linux.go)."""

from __future__ import annotations

from coracle.engine.container_spec.process import INIT_PATH
from coracle.engine.options.modes import CONTAINER
from coracle.engine.options.mounts import BIND, TMPFS, Mount
from coracle.engine.options.values import absolute
from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from coracle.engine.container_spec.host import Host
    from coracle.engine.options import RunOptions
    from coracle.engine.options.security import Security

_SAFE = ("nosuid", "noexec", "nodev")
_TTY_GROUP = 5
# Default mounts that stay writable with --read-only, as in docker.
_STAY_WRITABLE = frozenset(("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"))


class MountPlan:
    """All mounts in order, with what they ask of the caller.

    ``create`` are source directories that have to be made first, ``root_propagation`` is
    ``linux.rootfsPropagation`` or "".
    """

    __slots__ = ("create", "mounts", "root_propagation")

    def __init__(self) -> None:
        self.mounts: list[dict[str, Any]] = []
        self.create: list[str] = []
        self.root_propagation = ""


def _entry(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def default_mounts(
    options: RunOptions,
    security: Security,
    *,
    user_namespace: bool,
    gids: Sequence[tuple[int, int, int]] | None,
    shm: str,
) -> list[dict[str, Any]]:
    """The mounts that every container has.

    In a user namespace a pseudo file system can be mounted only by the owner of the namespace that
    it shows (sysfs: network, proc: pid, mqueue: ipc), so a mode of "host" means a bind mount there, as
    in podman; the runtime does the same for cgroup.  ``gids`` is the gid map; ``shm`` another container's /dev/shm.
    """
    writable = "rw" if options.privileged else "ro"
    cgroup_access = "rw" if options.privileged or security.writable_cgroups else "ro"
    tty = not gids or any(inside <= _TTY_GROUP < inside + size for inside, _, size in gids)
    result = [
        _entry("/proc", "proc", "proc", *_SAFE, *security.proc_options),
        _entry("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _entry(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
            *([f"gid={_TTY_GROUP}"] if tty else []),
        ),
        _entry("/sys", "sysfs", "sysfs", *_SAFE, writable),
        _entry("/sys/fs/cgroup", "cgroup", "cgroup", cgroup_access, *_SAFE),
        _entry("/dev/mqueue", "mqueue", "mqueue", *_SAFE),
    ]  # fmt: skip
    modes = {"/proc": options.pid, "/sys": options.network, "/dev/mqueue": options.ipc}
    shared = [place for place, mode in modes.items() if mode == "host" and user_namespace]
    result = [_bound(mount) if mount["destination"] in shared else mount for mount in result]
    return result + _shm(options, shm)


def _bound(mount: dict[str, Any]) -> dict[str, Any]:
    """The same place of the host instead of a mount of its own."""
    read_only = "rro" if "ro" in mount["options"] else "rw"
    return _entry(mount["destination"], "bind", mount["destination"], "rbind", "rprivate", *_SAFE, read_only)


def _shm(options: RunOptions, shm: str) -> list[dict[str, Any]]:
    """/dev/shm belongs to the ipc namespace in spirit: private, none, the host's, or another container's."""
    if options.ipc == "none":
        return []
    source = "/dev/shm" if options.ipc == "host" else shm if options.ipc.startswith(CONTAINER) else ""
    if source:
        return [_entry("/dev/shm", "bind", source, "rbind", "rprivate")]
    return [_entry("/dev/shm", "tmpfs", "shm", *_SAFE, "mode=1777", f"size={options.shm_size}")]


def _image_volumes(options: RunOptions, image: Mapping[str, Any], taken: set[str]) -> list[dict[str, Any]]:
    """A tmpfs for each VOLUME of the image, if --image-volume says so."""
    if options.image_volume != "tmpfs":
        return []
    paths = [absolute(f"/{path}") for path in image.get("Volumes") or {}]
    return [
        _entry(path, "tmpfs", "tmpfs", "nosuid", "nodev", "tmpcopyup")
        for path in paths
        if path not in taken and path != "/"
    ]


def _read_only_tmpfs(options: RunOptions, taken: set[str]) -> list[dict[str, Any]]:
    if not (options.read_only and options.read_only_tmpfs):
        return []
    modes = {"/run": "755", "/tmp": "1777", "/var/tmp": "1777"}
    return [
        _entry(path, "tmpfs", "tmpfs", "nosuid", "nodev", f"mode={mode}", "tmpcopyup")
        for path, mode in modes.items()
        if path not in taken
    ]


def build_mounts(
    options: RunOptions,
    image: Mapping[str, Any],
    security: Security,
    host: Host,
    *,
    etc: Mapping[str, str],
    user_namespace: bool,
    gids: Sequence[tuple[int, int, int]] | None,
    shm: str,
    init_path: str,
    warn: Callable[[str], None],
) -> MountPlan:
    """All mounts of a container.

    ``etc`` maps places such as /etc/hosts to the host's files to bind there, unless the user mounts
    there himself.  The user's mounts come after the defaults, shallow ones first; one at the same
    place replaces the default, and one on /dev replaces all defaults below /dev.

    :raises UsageError: two mounts at one place, a missing source of --mount, wrong propagation.
    """
    plan = MountPlan()
    if options.ipc.startswith(CONTAINER) and not shm:
        warn(f"--ipc {options.ipc} shares System V and POSIX queues, but /dev/shm stays private")
    own = [*options.volume, *options.mount, *options.tmpfs]
    taken: set[str] = set()
    for mount in own:
        if mount.target in taken:
            raise UsageError(f"duplicate mount point: {mount.target}")
        taken.add(mount.target)
    later = [_user_mount(mount, plan, host, user_namespace, warn) for mount in own]
    later += [
        _entry(place, BIND, source, "rbind", *(["ro"] if options.read_only else []), "rprivate")
        for place, source in etc.items()
        if place not in taken
    ]
    later += _image_volumes(options, image, taken) + _read_only_tmpfs(options, taken)
    if init_path:
        later.append(_entry(INIT_PATH, BIND, init_path, "bind", "ro"))
    defaults = default_mounts(options, security, user_namespace=user_namespace, gids=gids, shm=shm)
    plan.mounts = [
        mount
        for mount in defaults
        if not _replaced(mount["destination"], taken)
        # Not every machine has a mqueue of its own to share.
        and (mount["destination"] != "/dev/mqueue" or mount["type"] != BIND or host.exists("/dev/mqueue"))
    ]
    plan.mounts += sorted(later, key=lambda mount: str(mount["destination"]).count("/"))
    return plan


def _replaced(destination: str, taken: set[str]) -> bool:
    return destination in taken or ("/dev" in taken and destination.startswith("/dev/"))


def _user_mount(
    mount: Mount, plan: MountPlan, host: Host, user_namespace: bool, warn: Callable[[str], None]
) -> dict[str, Any]:
    if mount.kind == TMPFS:
        return _entry(mount.target, "tmpfs", "tmpfs", *mount.options)
    if not host.exists(mount.source):
        if not mount.create:
            raise UsageError(
                f"bind source {mount.source} does not exist", "-v creates it as a directory, --mount does not"
            )
        plan.create.append(mount.source)
    if "idmap" in mount.options and not user_namespace:
        raise UsageError(
            f"mount option idmap for {mount.target} needs a user namespace", "--userns private --uidmap ..."
        )
    if mount.relabel and host.has_selinux():
        warn(f"{mount.source} keeps its SELinux label: relabelling is not supported yet")
    _spread(mount, plan, host)
    read_only = mount.readonly if mount.recursive or not mount.readonly else "ro"
    words = [
        "rbind" if mount.recursive else "bind",
        *([read_only] if read_only else []),
        mount.propagation,
        *mount.options,
    ]
    return _entry(mount.target, BIND, mount.source, *words)


def _spread(mount: Mount, plan: MountPlan, host: Host) -> None:
    """Propagation other than private needs a source that propagates, and a root that lets it through."""
    wanted = mount.propagation.removeprefix("r")
    if wanted not in ("shared", "slave"):
        return
    actual = host.propagation(mount.source)
    if actual == "private" or (wanted == "shared" and actual != "shared"):
        raise UsageError(f"{mount.source} is not on a {wanted} mount", f"mount --make-{wanted} its mount point first")
    if wanted == "shared":
        plan.root_propagation = "shared"
    elif not plan.root_propagation:
        plan.root_propagation = "rslave"
