"""From the command line of ``run`` to a plan: everything that is decided before anything is changed.

``run`` carries a draft out, ``explain`` prints it, ``create`` keeps it for later.
"""

from __future__ import annotations

import os

from coracle.engine import container_spec, etc_files, user
from coracle.engine.container import check_name, new_identifier
from coracle.engine.host import HOST, host_root
from coracle.engine.options import image_and_command, parse_run
from coracle.errors import NotFoundError, UsageError
from coracle.record import read
from coracle.runtime import group as groups
from coracle.runtime.plan import Request, build
from coracle.runtime.steps.rootfs import BindRoot, OverlayRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from coracle.engine.options import RunOptions
    from coracle.engine.rootless import Maps
    from coracle.image.ready import ReadyImage
    from coracle.linux.cgroup.group import Cgroup
    from coracle.linux.seccomp import Program
    from coracle.paths import Paths
    from coracle.record import Lock
    from coracle.runtime.steps.rootfs import Root
    from coracle.step import Plan

_ETC = ("hosts", "hostname", "resolv.conf")


class Draft:
    """One container as it will be.

    ``security`` is the choice of a seccomp profile; ``files`` are the contents of files in the
    container's directory; ``image`` the image's name as given and its id; ``lower`` the
    directories below its own layer.
    """

    __slots__ = (
        "arguments",
        "config",
        "create_directories",
        "files",
        "group",
        "identifier",
        "image",
        "image_config",
        "image_id",
        "lasting",
        "lease",
        "lower",
        "options",
        "plan",
        "ready",
        "root",
        "seccomp",
        "security",
    )

    arguments: list[str]
    config: dict[str, Any]
    create_directories: list[str]
    files: dict[str, bytes]
    group: Cgroup | None
    image: str
    image_config: dict[str, Any]
    image_id: str
    lower: list[str]
    options: RunOptions
    plan: Plan
    root: Root
    seccomp: Program | None
    security: str

    def __init__(self, lasting: bool) -> None:
        self.identifier = new_identifier()
        self.lasting = lasting
        self.lease: Lock | None = None
        self.ready: ReadyImage | None = None

    def release(self) -> None:
        """Let the image go; from here on the container's own record keeps its layers."""
        if self.lease is not None:
            self.lease.release()


def draft(
    argv: list[str], paths: Paths, warn: Callable[[str], None], maps: Maps | None, lasting: bool = False
) -> Draft:
    """The container that ``run argv`` means, for a user with the id ``maps`` (None: root).

    ``lasting`` says that it is going to be made, so that its image must not be removed meanwhile.
    :raises CoracleError: for anything wrong, before anything was changed.
    """
    result = Draft(lasting)
    options, rest = parse_run(argv)
    result.options = options
    if options.name:
        check_name(options.name)
    if maps is not None and (options.uidmap or options.gidmap):
        raise UsageError("--uidmap and --gidmap need root: a user's ids are those of /etc/subuid and /etc/subgid")
    if options.pull in ("always", "newer"):
        raise UsageError(f"--pull {options.pull} is not supported yet: there is no registry client")
    result.image, result.arguments = image_and_command(options, rest)
    _choose_image(result, paths, maps)
    _make_config(result, paths, warn, maps)
    result.group = groups.choose(result.config, result.identifier, False, "", warn)
    result.seccomp = filter_for(result.security, result.config, paths)
    request = Request(
        result.config,
        paths.container(result.identifier),
        warn,
        cgroup=result.group,
        root=result.root,
        seccomp=result.seccomp,
        init=options.init and options.pid == "private",
        keyring=True,
    )
    result.plan = build(request)
    return result


def _choose_image(result: Draft, paths: Paths, maps: Maps | None) -> None:
    """The root file system: a directory, this machine, or an image of the store."""
    directory = paths.container(result.identifier)
    point = f"{directory}/rootfs"
    result.image_id = ""
    result.image_config = {}
    if result.options.rootfs:
        path = os.path.abspath(result.options.rootfs)
        if not os.path.isdir(path):
            raise NotFoundError(f"--rootfs {result.options.rootfs}: no such directory")
        result.lower, result.root = [path], BindRoot(path, "--rootfs")
        return
    if result.image == HOST:
        result.lower = ["/"]
        result.image_config = {"Cmd": [os.environ.get("SHELL") or "/bin/sh"]}
        result.root = host_root(directory, point, maps is not None)
        return
    from coracle.image.ready import lease, resolve

    if result.lasting:
        result.lease = lease(paths)
        result.lease.acquire()
    image = resolve(paths, result.image)
    result.ready = image
    result.image_id = image.id
    result.image_config = image.config
    result.lower = image.lower_directories(paths)
    upper, work = f"{directory}/upper", f"{directory}/work"
    flags = ["userxattr"] if maps is not None else []
    lower = result.lower or [f"{directory}/empty"]
    result.root = OverlayRoot(lower, upper, work, point, f"image {result.image}", flags)


def _make_config(result: Draft, paths: Paths, warn: Callable[[str], None], maps: Maps | None) -> None:
    options = result.options
    host = container_spec.Host()
    directory = paths.container(result.identifier)
    left_out = {"hosts": options.no_hosts, "hostname": options.no_hostname}
    etc = {f"/etc/{name}": f"{directory}/{name}" for name in _ETC if not left_out.get(name)}
    passwd, found_user = _resolve_user(result)
    own_passwd = etc_files.passwd(passwd, found_user, options.workdir or "/") if options.passwd else None
    if own_passwd is not None:
        etc["/etc/passwd"] = f"{directory}/passwd"
    built = container_spec.build(
        options,
        result.image_config,
        identifier=result.identifier,
        arguments=result.arguments,
        user=found_user,
        host=host,
        rootless=maps is not None,
        id_map=_triples(maps),
        rootfs="rootfs",
        etc=etc,
        joined=_joined(options, paths),
        console_size=_console_size() if options.tty else None,
    )
    for line in built.warnings:
        warn(line)
    result.config = built.config
    result.security = built.security.seccomp
    result.create_directories = built.create_directories
    if maps is not None:  # the engine's own namespace, which it has entered, is the container's
        for key in ("uidMappings", "gidMappings"):
            result.config["linux"].pop(key, None)
        spaces = result.config["linux"]["namespaces"]
        result.config["linux"]["namespaces"] = [space for space in spaces if space["type"] != "user"]
    if result.image == HOST:
        from coracle.paths import usual_places

        hidden = dict.fromkeys([paths.root, paths.run, *usual_places()])
        result.config["linux"].setdefault("maskedPaths", []).extend(hidden)
    result.files = _etc_files(options, built.hostname)
    if own_passwd is not None:
        result.files["passwd"] = own_passwd


def _triples(maps: Maps | None) -> Any:
    if maps is None:
        return None
    return tuple([(m.inside, m.outside, m.size) for m in lines] for lines in maps)


def _resolve_user(result: Draft) -> tuple[bytes | None, user.User]:
    """The container's /etc/passwd, and the user that the options or the image name in it."""
    wanted = result.options.user or str(result.image_config.get("User") or "")
    passwd = user.read_in_layers(result.lower, "/etc/passwd")
    group = user.read_in_layers(result.lower, "/etc/group")
    return passwd, user.resolve(wanted, result.options.group_add, passwd, group)


def _joined(options: RunOptions, paths: Paths) -> dict[str, str]:
    """/proc/PID/ns files of the containers that ``--pid container:NAME`` and its like mean."""
    shared = container_spec.shared_namespaces(options)
    if not shared:
        return {}
    from coracle.engine.container import find
    from coracle.linux.namespace import NAMESPACES

    found = {}
    for kind, name in shared.items():
        process = find(paths, name).process()
        if not process:
            raise UsageError(f"--{kind} container:{name}: that container is not running")
        found[kind] = f"/proc/{process['pid']}/ns/{NAMESPACES[kind][1]}"
    return found


def _console_size() -> tuple[int, int] | None:
    from coracle.linux.terminal import size

    for fd in (0, 1, 2):
        try:
            return size(fd)
        except OSError:
            continue
    return None


def _etc_files(options: RunOptions, hostname: str) -> dict[str, bytes]:
    return {
        "hostname": etc_files.hostname(hostname),
        "hosts": etc_files.hosts(
            hostname, options.domainname, options.network, options.add_host, host_file=_read_host("/etc/hosts")
        ),
        "resolv.conf": etc_files.resolv_conf(
            _read_host("/etc/resolv.conf"), options.network, options.dns, options.dns_search, options.dns_option
        ),
    }


def _read_host(path: str) -> bytes:
    try:
        return read(path)
    except OSError:
        return b""


def filter_for(choice: str, config: dict[str, Any], paths: Paths) -> Program | None:
    """The seccomp program: the default one for these capabilities, one from a file, or none."""
    if choice == "unconfined":
        return None
    from coracle.linux.seccomp.cache import cached
    from coracle.linux.syscall import MACHINE
    from coracle.runtime import seccomp_profile as profiles

    bounding = (config["process"].get("capabilities") or {}).get("bounding") or []
    kernel = profiles.running_kernel()
    if choice == "default":
        key = profiles.default_key(bounding, kernel)
        return cached(lambda: profiles.default_profile(bounding, MACHINE, kernel), paths.seccomp_cache(), key)
    from coracle.runtime.seccomp_file import load_profile

    return cached(load_profile(choice, bounding, MACHINE, kernel), paths.seccomp_cache())
