"""Options, image and machine → an OCI ``config.json``: pure data in, pure data out.

``build`` is the only entrance.  What cannot be part of the config, or has to be done by the
caller, stands beside it in :class:`ContainerSpec`.
"""

from __future__ import annotations

from coracle.engine import entrypoint
from coracle.engine.container_spec.devices import devices, renamed_devices
from coracle.engine.container_spec.environment import environment, labels
from coracle.engine.container_spec.host import Device, Host
from coracle.engine.container_spec.isolation import (
    hidden_paths,
    id_maps,
    mappings,
    modes,
    namespaces,
    sysctls,
    time_offsets,
)
from coracle.engine.container_spec.mounts import MountPlan, build_mounts
from coracle.engine.container_spec.process import process, working_directory
from coracle.engine.container_spec.resources import resources
from coracle.engine.options.modes import CONTAINER
from coracle.engine.options.security import Security

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from coracle.engine.options import RunOptions
    from coracle.engine.user import User

    IdMap = Sequence[tuple[int, int, int]]

__all__ = [
    "ContainerSpec",
    "Device",
    "Host",
    "SecurityPlan",
    "build",
    "environment",
    "host_name",
    "labels",
    "shared_namespaces",
    "working_directory",
]

OCI_VERSION = "1.3.0"


class SecurityPlan:
    """What is wanted beside the config.  ``seccomp`` is "default", "unconfined" or the path of a profile."""

    __slots__ = ("seccomp",)

    def __init__(self, seccomp: str) -> None:
        self.seccomp = seccomp

    def __repr__(self) -> str:
        return f"SecurityPlan({self.seccomp!r})"


class ContainerSpec:
    """The result of :func:`build`.

    ``config`` is config.json without ``linux.seccomp``, ``security`` says what belongs there.
    ``create_directories`` are bind sources that docker's -v makes (mode 0755) before the start,
    ``warnings`` lines about what was asked for and has no effect.
    """

    __slots__ = ("config", "create_directories", "hostname", "security", "warnings")

    def __init__(self, config: dict[str, Any], security: SecurityPlan, hostname: str) -> None:
        self.config = config
        self.security = security
        self.hostname = hostname
        self.create_directories: list[str] = []
        self.warnings: list[str] = []


def host_name(options: RunOptions, identifier: str, host: Host) -> str:
    """The container's host name: docker's first twelve digits of the id, or this host's where it is shared."""
    shared = options.network == "host" or options.uts == "host"
    return options.hostname or (host.hostname() if shared else identifier[:12])


def shared_namespaces(options: RunOptions) -> dict[str, str]:
    """Which container each ``container:NAME`` mode means, by namespace type: ``{"pid": "web"}``."""
    return {kind: mode.removeprefix(CONTAINER) for kind, mode in modes(options).items() if mode.startswith(CONTAINER)}


def build(
    options: RunOptions,
    image: Mapping[str, Any],
    *,
    identifier: str,
    arguments: Sequence[str],
    user: User,
    host: Host,
    rootless: bool = False,
    id_map: tuple[IdMap, IdMap] | None = None,
    rootfs: str = "rootfs",
    etc: Mapping[str, str] | None = None,
    joined: Mapping[str, str] | None = None,
    shm: str = "",
    cgroup_parent: str = "/coracle",
    console_size: tuple[int, int] | None = None,
    init_path: str = "",
) -> ContainerSpec:
    """The OCI configuration of a container.

    :param image: the ``config`` object of an image configuration, ``{}`` for --rootfs.
    :param identifier: the container's id; names its cgroup and, by default, the host.
    :param arguments: what follows the image on the command line.
    :param user: resolved by ``coracle.engine.user``.
    :param rootless: the container is made by a user without rights: no device rules.
    :param id_map: (uids, gids) of a rootless store's user namespace, as (inside, outside, size).
    :param rootfs: root directory, relative to the bundle or absolute.
    :param etc: place in the container → file of the host, for /etc/hosts and its like.
    :param joined: namespace type → path, for each of :func:`shared_namespaces`.
    :param shm: directory that is the other container's /dev/shm, for --ipc container:NAME.
    :param console_size: (rows, columns) of the caller's terminal.
    :param init_path: program of the host for --init, which is called with ``-- ARGV``.
    :raises UsageError: what the options ask for contradicts itself, the image or the machine.
    :raises ContentError: the image's configuration is damaged.
    """
    security = Security(options.security_opt)
    maps = id_maps(options, id_map)
    seccomp = security.seccomp or ("unconfined" if options.privileged else "default")
    result = ContainerSpec({}, SecurityPlan(seccomp), host_name(options, identifier, host))
    warn = result.warnings.append
    # An init of ours makes sense in a pid namespace of our own only (docker does the same).
    init = init_path if options.init and options.pid == "private" else ""
    mounts = build_mounts(
        options,
        image,
        security,
        host,
        etc=etc or {},
        user_namespace=maps is not None,
        gids=maps[1] if maps else None,
        shm=shm,
        init_path=init,
        warn=warn,
    )
    result.create_directories = mounts.create
    result.config = {
        "ociVersion": OCI_VERSION,
        "process": process(
            options,
            image,
            argv=entrypoint.argv(image, arguments, options.entrypoint),
            user=user,
            hostname=result.hostname,
            host=host,
            security=security,
            user_namespace=maps is not None,
            console_size=console_size,
            init=bool(init),
        ),
        "root": {"path": rootfs, "readonly": options.read_only},
        **_names(options, result.hostname),
        "mounts": mounts.mounts,
        "linux": {
            "namespaces": namespaces(options, joined or {}, maps is not None),
            "cgroupsPath": f"{(options.cgroup_parent or cgroup_parent).rstrip('/')}/{identifier}",
            "resources": resources(options, host, warn),
        },
        "annotations": dict(options.annotation),
    }
    _complete(result, options, image, host, security, maps, mounts, rootless)
    return result


def _names(options: RunOptions, hostname: str) -> dict[str, str]:
    """Host and domain name, which can be set in a UTS namespace of its own only."""
    if options.uts != "private":
        return {}
    return {"hostname": hostname, **({"domainname": options.domainname} if options.domainname else {})}


def _complete(
    result: ContainerSpec,
    options: RunOptions,
    image: Mapping[str, Any],
    host: Host,
    security: Security,
    maps: tuple[IdMap, IdMap] | None,
    mounts: MountPlan,
    rootless: bool,
) -> None:
    """The parts of ``linux`` that are there only sometimes."""
    linux = result.config["linux"]
    nodes, rules = devices(options, host)
    if maps is not None:
        result.config["mounts"] += renamed_devices(options, nodes, host)
    masked, read_only = hidden_paths(security, options.privileged, host)
    if not rootless:  # a user cannot write device rules; nodes he may not open stay closed to him anyway
        linux["resources"]["devices"] = rules
    for key, value in (
        ("devices", nodes),
        ("maskedPaths", masked),
        ("readonlyPaths", read_only),
        ("sysctl", sysctls(options, maps is not None, host)),
        ("uidMappings", mappings(maps[0]) if maps else []),
        ("gidMappings", mappings(maps[1]) if maps else []),
        ("timeOffsets", time_offsets(options)),
        ("rootfsPropagation", mounts.root_propagation),
        ("personality", {"domain": options.personality} if options.personality else {}),
    ):
        if value:
            linux[key] = value
    _warn_of_silence(result, options, image, security, host)


def _warn_of_silence(
    result: ContainerSpec, options: RunOptions, image: Mapping[str, Any], security: Security, host: Host
) -> None:
    """What was asked for and cannot have an effect here."""
    for silent, line in (
        (
            security.apparmor not in ("", "unconfined") and not host.has_apparmor(),
            "apparmor= has no effect: AppArmor is off",
        ),
        (
            any(label != "disable" for label in security.labels) and not host.has_selinux(),
            "label= has no effect: SELinux is off",
        ),
        (
            options.read_only and options.image_volume == "ignore" and image.get("Volumes"),
            "the image's volumes are read-only too: --image-volume tmpfs makes them writable",
        ),
        (options.init and options.pid != "private", "--init has no effect without a private pid namespace"),
        (options.privileged and options.device_cgroup_rule, "--device-cgroup-rule has no effect with --privileged"),
    ):
        if silent:
            result.warnings.append(line)
