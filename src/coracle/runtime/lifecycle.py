"""create, start, kill, delete: the life of a container as the runtime-spec tells it (runtime.md, "Lifecycle")."""

from __future__ import annotations

import os
import select

from coracle.errors import ConflictError, CoracleError, KernelError, NotFoundError
from coracle.linux import process as processes_of
from coracle.linux.mount import MNT_DETACH
from coracle.linux.syscall import syscall
from coracle.record import dumps, load, write
from coracle.runtime import group as groups
from coracle.runtime import hook
from coracle.runtime.console import connect_console, send_listener
from coracle.runtime.plan import Request, build
from coracle.runtime.seccomp_filter import seccomp_program
from coracle.runtime.spawn import Child, spawn
from coracle.runtime.state import CREATED, DOOMED, PAUSED, RUNNING, STOPPED, Container, discard, now
from coracle.step import World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from coracle.linux.cgroup.group import Cgroup
    from coracle.linux.seccomp import Program
    from coracle.record import Lock

SIGKILL = 9
ENXIO, ESRCH = 6, 3
_EXEC_WAIT_MS = 10_000
_DEATH_WAIT_MS = 10_000


class CreateOptions:
    """What the command line of a runtime says besides the bundle."""

    __slots__ = (
        "cgroup_manager",
        "config",
        "console_socket",
        "new_keyring",
        "no_pivot",
        "pid_file",
        "preserve_fds",
        "systemd_cgroup",
        "warn",
    )

    def __init__(
        self,
        console_socket: str = "",
        pid_file: str = "",
        no_pivot: bool = False,
        new_keyring: bool = True,
        preserve_fds: int = 0,
        systemd_cgroup: bool = False,
        cgroup_manager: str = "",
        config: str = "",
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.console_socket = console_socket
        self.pid_file = pid_file
        self.no_pivot = no_pivot
        self.new_keyring = new_keyring
        self.preserve_fds = preserve_fds
        self.systemd_cgroup = systemd_cgroup
        self.cgroup_manager = cgroup_manager
        self.config = config
        self.warn = warn


def create(identifier: str, bundle: str, root: str, *, options: CreateOptions) -> int:
    """Create the container that ``bundle`` describes and return its first process's pid.

    It waits at the start gate.  After a failure nothing is left.
    :raises CoracleError:
    """
    return _create(identifier, bundle, root, options).pid


def _create(identifier: str, bundle: str, root: str, options: CreateOptions) -> Child:
    from coracle.runtime import spec as specs

    bundle = os.path.abspath(bundle)
    spec = specs.load(bundle, options.config) if options.config else specs.load(bundle)
    container = Container(root, identifier)
    container.claim()
    with processes_of.Undisturbed() as calm, container.lock():  # whoever wants to start or delete it waits
        try:
            child = _fill(container, spec, bundle, options)
            if calm.asked():
                _abandon(container, child)
                raise KeyboardInterrupt
            return child
        except BaseException:
            if container.mounts:
                _unmount(container)
            container.remove()
            raise


def _fill(container: Container, spec: dict[str, Any], bundle: str, options: CreateOptions) -> Child:
    container.bundle = bundle
    container.created = now()
    container.annotations = spec.get("annotations") or {}
    container.rootfs = os.path.join(bundle, spec["root"]["path"])
    group = groups.choose(spec, container.identifier, options.systemd_cgroup, options.cgroup_manager, options.warn)
    container.cgroup = groups.record(group)
    container.mounts = _host_mounts(spec, container.rootfs)
    container.save()  # before anything is made: whoever finds it after a kill -9 can clean up
    write(container.config, dumps(spec).encode())
    seccomp = seccomp_program(spec, container.root)
    plan = build(request(spec, bundle, options, group, seccomp, container.identifier))
    world = World(options.warn)
    world.values["cloned"] = container.adopt
    world.values["state"] = lambda: container.report(CREATED) | {"pid": world.pids.get("child", 0)}
    make_gate(container, world)
    terminal = (spec.get("process") or {}).get("terminal")
    console = connect_console(options.console_socket, world) if terminal else None
    try:
        child = spawn(plan, world)
    finally:
        world.close()
        if console is not None:
            console.close()
    try:
        _settle(container, child, spec, options)
    except BaseException:
        _abandon(container, child)
        raise
    return child


def _abandon(container: Container, child: Child) -> None:
    """End what was spawned and remove its group."""
    processes_of.send_signal(child.pidfd, SIGKILL)
    os.waitpid(child.pid, 0)
    group = groups.reopen(container.cgroup)
    if group is not None:
        group.delete()


def _settle(container: Container, child: Child, spec: dict[str, Any], options: CreateOptions) -> None:
    """Tell who asked to be told what was made."""
    send_listener((spec.get("linux") or {}).get("seccomp") or {}, child, container.report(CREATED))
    if options.pid_file:
        write(options.pid_file, str(child.pid).encode(), 0o644)


def request(
    spec: dict[str, Any],
    bundle: str,
    options: CreateOptions,
    group: Cgroup | None,
    seccomp: Program | None,
    identifier: str = "",
) -> Request:
    """What the plan of an OCI bundle is made from."""
    return Request(
        spec,
        bundle,
        options.warn,
        cgroup=group,
        seccomp=seccomp,
        keyring=options.new_keyring,
        pivot=not options.no_pivot,
        preserve_fds=options.preserve_fds,
        identifier=identifier,
    )


def make_gate(container: Container, world: World) -> None:
    """The FIFO that the launcher waits at: opened for both, so that it has no end of file (fifo(7))."""
    os.mkfifo(container.gate, 0o600)
    world.fds["gate"] = os.open(container.gate, os.O_RDWR | os.O_CLOEXEC)


def _host_mounts(spec: dict[str, Any], rootfs: str) -> list[str]:
    """Mounts that a config without a mount namespace leaves on the host, for delete to take away."""
    kinds = {entry["type"] for entry in (spec.get("linux") or {}).get("namespaces") or []}
    if "mount" in kinds:
        return []
    return [os.path.join(rootfs, entry["destination"].lstrip("/")) for entry in spec.get("mounts") or []]


def _unmount(container: Container) -> None:
    for path in reversed(container.mounts):
        try:
            syscall("umount2", os.fsencode(path), MNT_DETACH)
        except OSError:
            pass


def start(root: str, identifier: str, warn: Callable[[str], None] = lambda _text: None) -> None:
    """Open the start gate and run the hooks that belong to it.

    Without a ``process`` there is nothing to start: that is warned about and the container stops.
    :raises ConflictError: if it is not created.
    """
    with Container.open(root, identifier).lock():
        container = Container.open(root, identifier)  # as it is now that nobody else changes it
        status = container.status()
        if status != CREATED:
            raise ConflictError(f"cannot start container {identifier}: it is {status}, not created")
        spec = load(container.config)
        hooks = spec.get("hooks") or {}
        if not spec.get("process"):
            warn("the config has no process: nothing to start")
            _stop(container)
            return
        try:
            if hooks.get("startContainer"):
                from coracle.runtime.exec import run_inside

                run_inside(container, lambda: _run_hooks(hooks["startContainer"], container, "startContainer", CREATED))
            open_gate(container)
        except CoracleError:
            _stop(container)
            raise
        try:
            _run_hooks(hooks.get("poststart") or [], container, "poststart", RUNNING)
        except CoracleError:  # runtime-spec 1.2: an error, and the container is stopped
            _stop(container)
            raise


def open_gate(container: Container) -> None:
    """Let the launcher go on, and wait until it has become the program."""
    try:
        gate = os.open(container.gate, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == ENXIO:
            raise ConflictError(f"container {container.identifier} died before it was started") from None
        raise
    try:
        os.write(gate, b"1")
        os.unlink(container.gate)
        poll = select.poll()
        poll.register(gate, 0)  # POLLERR comes when exec has closed the launcher's end
        poll.poll(_EXEC_WAIT_MS)
    finally:
        os.close(gate)


def _run_hooks(entries: list[dict[str, Any]], container: Container, kind: str, status: str) -> None:
    text = dumps(container.report(status)).encode()
    for entry in entries:
        hook.run(entry, text, kind)


def _stop(container: Container) -> None:
    """Kill everything in the container and wait until its first process is gone; bounded."""
    group = groups.reopen(container.cgroup)
    try:
        pidfd = processes_of.pidfd(container.pid, container.started)
    except OSError:
        pidfd = -1
    if pidfd >= 0:
        processes_of.send_signal(pidfd, SIGKILL)
    if group is not None:
        group.kill(SIGKILL)
    if pidfd >= 0:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        gone = poll.poll(_DEATH_WAIT_MS)
        os.close(pidfd)
        if not gone:
            raise CoracleError(
                f"container {container.identifier} does not die: process {container.pid} hangs in the kernel"
            )


def state(root: str, identifier: str) -> dict[str, Any]:
    """The state of a container, with the extra keys that runc's command line prints."""
    container = Container.open(root, identifier)
    report = container.report()
    return {
        **report,
        "pid": report.get("pid", 0),
        "rootfs": container.rootfs,
        "created": container.created,
        "owner": "",
    }


def kill(root: str, identifier: str, signal: int, everything: bool = False) -> None:
    """Signal the first process, or with ``everything`` all of them.

    :raises ConflictError: if the container is neither created nor running.
    """
    container = Container.open(root, identifier)
    if everything:
        group = groups.reopen(container.cgroup)
        if group is not None:
            group.kill(signal)
            return
    status = container.status()
    if status not in (CREATED, RUNNING, PAUSED):
        raise ConflictError(f"cannot signal container {identifier}: it is {status}")
    try:
        pidfd = processes_of.pidfd(container.pid, container.started)
        processes_of.send_signal(pidfd, signal)
    except OSError as error:
        if error.errno == ESRCH:
            raise ConflictError(f"cannot signal container {identifier}: it has just ended") from None
        raise KernelError(error.errno or 0, f"signal container {identifier}") from error
    os.close(pidfd)
    if signal == SIGKILL and status == PAUSED:
        thaw = groups.reopen(container.cgroup)
        if thaw is not None:
            thaw.thaw()


def delete(root: str, identifier: str, force: bool = False, warn: Callable[[str], None] = lambda _text: None) -> None:
    """Remove a stopped container, or any with ``force``; missing is fine then.

    Failing poststop hooks only warn (runtime-spec runtime.md, "Lifecycle" 13).
    :raises ConflictError: if it is not stopped.
    """
    try:
        container = Container.open(root, identifier)
    except CoracleError:
        if force:
            return
        raise
    lock = container.lock()
    try:
        _acquire(lock)
        if not os.path.isdir(container.directory):  # somebody else was faster
            if force:
                return
            raise NotFoundError(f"container {identifier} does not exist", f"in {root}")
        _delete(Container.open(root, identifier), force, warn)
    finally:
        lock.release()


def _acquire(lock: Lock) -> None:
    try:
        lock.acquire()
    except FileNotFoundError:  # with the container
        pass


def _delete(container: Container, force: bool, warn: Callable[[str], None]) -> None:
    status = container.status()
    if status != STOPPED:
        if not force:
            raise ConflictError(
                f"cannot delete container {container.identifier}: it is {status}", "kill it, or use --force"
            )
        _stop(container)
    group = groups.reopen(container.cgroup)
    if group is not None:
        group.kill(SIGKILL)  # without a pid namespace others may live on
        group.delete()
    _unmount(container)
    _remove_rdt(container)
    _run_poststop(container, warn)
    container.remove()


def _remove_rdt(container: Container) -> None:
    """Remove the resctrl group that was made for this container alone, one named after it."""
    try:
        wanted = (load(container.config).get("linux") or {}).get("intelRdt")
    except (OSError, CoracleError):
        return
    if wanted and not wanted.get("closID"):
        from coracle.runtime.plan.resources import resctrl_mount

        try:
            os.rmdir(f"{resctrl_mount()}/{container.identifier}")
        except OSError:
            pass


def _run_poststop(container: Container, warn: Callable[[str], None]) -> None:
    try:
        hooks = (load(container.config).get("hooks") or {}).get("poststop") or []
    except (OSError, CoracleError):  # killed while it was being created
        return
    for entry in hooks:
        try:
            _run_hooks([entry], container, "poststop", STOPPED)
        except CoracleError as error:
            warn(str(error))


def run(
    identifier: str, bundle: str, root: str, *, options: CreateOptions, detach: bool = False, keep: bool = False
) -> int:
    """create, start and, unless ``detach``, wait and delete; the program's exit code (128 + n for a signal)."""
    child = _create(identifier, bundle, root, options)
    try:
        start(root, identifier)
    except CoracleError:
        delete(root, identifier, force=True)
        raise
    if detach:
        return 0
    try:
        return _wait_started(child)
    finally:
        if not keep:
            delete(root, identifier, force=True, warn=options.warn)


def _wait_started(child: Child) -> int:
    """Wait for a child, forwarding the signals that reach this process to it."""
    from coracle.runtime.foreground import wait

    return wait(child)


def list_containers(root: str) -> list[dict[str, Any]]:
    """The states of all containers below ``root``, oldest first."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return []
    states = []
    for name in names:
        if name.startswith("."):
            if name.startswith(DOOMED):  # left by a delete that was killed
                discard(f"{root}/{name}")
            continue
        try:
            states.append(state(root, name))
        except CoracleError:  # deleted meanwhile
            continue
    return sorted(states, key=lambda entry: str(entry["created"]))


def processes(root: str, identifier: str) -> list[int]:
    """Pids, as the host sees them, of everything in the container."""
    container = Container.open(root, identifier)
    group = groups.reopen(container.cgroup)
    if group is not None:
        return sorted(group.processes())
    return [container.pid] if container.alive() else []


def _group_of(root: str, identifier: str, verb: str, wanted: tuple[str, ...]) -> Any:
    container = Container.open(root, identifier)
    status = container.status()
    if status not in wanted:
        raise ConflictError(f"cannot {verb} container {identifier}: it is {status}")
    group = groups.reopen(container.cgroup)
    if group is None:
        raise ConflictError(f"cannot {verb} container {identifier}: it has no control group")
    return group


def pause(root: str, identifier: str) -> None:
    """Freeze every process of the container."""
    _group_of(root, identifier, "pause", (CREATED, RUNNING)).freeze()


def resume(root: str, identifier: str) -> None:
    """Thaw what pause has frozen."""
    _group_of(root, identifier, "resume", (PAUSED,)).thaw()


def update(
    root: str, identifier: str, resources: dict[str, Any], warn: Callable[[str], None] = lambda _text: None
) -> None:
    """Change limits of a living container; ``resources`` has the shape of ``linux.resources``."""
    group = _group_of(root, identifier, "update", (CREATED, RUNNING, PAUSED))
    for setting in groups.limits(group, resources, updating=True):
        setting.apply(group.directories, warn)


def stats(root: str, identifier: str) -> dict[str, Any]:
    """Resource usage in the shape of ``runc events --stats``."""
    usage: dict[str, Any] = _group_of(root, identifier, "read", (CREATED, RUNNING, PAUSED)).stats()
    return usage
