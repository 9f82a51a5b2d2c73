"""The verb ``run``: carry a draft out, in the three processes that ``runtime/monitor`` describes."""

from __future__ import annotations

import os

import _socket

from coracle.engine import steps
from coracle.engine.draft import Draft, draft
from coracle.errors import CoracleError, UsageError
from coracle.linux.namespace import CLONE_PARENT
from coracle.linux.process import start_time
from coracle.paths import Paths
from coracle.record import dumps, save
from coracle.runtime import group as groups
from coracle.runtime.foreground import confirm
from coracle.runtime.monitor import ATTACHED, EXIT, HAND_OVER, receive, send_with_descriptors
from coracle.runtime.spawn import Child, spawn
from coracle.runtime.state import now
from coracle.runtime.steps.rootfs import HostRoot, OverlayRoot
from coracle.step import Plan, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from coracle.engine.rootless import Maps
    from coracle.step import Step

LOG_SIZE, LOG_FILES = 16 << 20, 2  # bounded by default; --log-opt max-size, max-file


def worker(argv: list[str], link: _socket.socket, warn: Callable[[str], None], say: Callable[[str], None]) -> int:
    """Start the container that ``run argv`` means and hand it to the monitor at ``link``; an exit code.

    :raises CoracleError: with nothing left behind.
    """
    paths = Paths()
    maps = enter_namespace()
    plan = draft(argv, paths, warn, maps)
    _check_terminal(plan)
    identifier = start(plan, paths, link, warn, maps)
    if plan.options.detach:
        say(identifier)
    return 0


def enter_namespace() -> Maps | None:
    """Become the root of the user's own namespace, for a user; None for root."""
    if os.geteuid() == 0:
        return None
    from coracle.engine import rootless

    return rootless.enter()


def _check_terminal(plan: Draft) -> None:
    options = plan.options
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise UsageError("the input device is not a terminal", "leave out -t to use -i with a pipe")


def complete(plan: Draft, paths: Paths) -> Plan:
    """The draft's plan with the engine's own steps in front."""
    options, identifier = plan.options, plan.identifier
    base = paths.container(identifier)
    front: list[Step] = [
        steps.ContainerDirectory(paths, identifier, _directories(plan), "every container has a bundle directory"),
        steps.ClaimName(paths, identifier, options.name, "--name" if options.name else "every container has a name"),
    ]
    if options.cidfile:
        front.append(steps.WriteFile(options.cidfile, identifier.encode(), "--cidfile", exclusive=True))
    if isinstance(plan.root, HostRoot):
        front.append(steps.HostLayers(plan.root, "image host"))
    front += [steps.BindSource(path, "--volume") for path in plan.create_directories]
    front += [steps.WriteFile(f"{base}/{name}", data, f"/etc/{name}") for name, data in plan.files.items()]
    return Plan([*front, *plan.plan.steps], plan.plan.flags, plan.plan.join_first)


def _directories(plan: Draft) -> list[str]:
    if isinstance(plan.root, OverlayRoot):
        return ["rootfs", "upper", "work"] + ([] if plan.lower else ["empty"])
    return ["rootfs"]


def start(
    plan: Draft, paths: Paths, link: _socket.socket, warn: Callable[[str], None], maps: Maps | None
) -> str:
    """Do the whole plan and open the gate; the container's id."""
    world = World(warn)
    world.values["state"] = lambda: _hook_state(plan, paths, world)
    complete_plan = complete(plan, paths)
    files = StandardFiles(plan, world)
    gate, opener = os.pipe()
    world.fds["gate"] = gate
    try:
        child = spawn(complete_plan, world, CLONE_PARENT)
    except BaseException:
        os.close(opener)
        raise
    lock = world.fds.pop("container lock")
    world.close()
    try:
        _record(plan, paths, child, world, maps)
        _hand_over(plan, paths, child, link, lock, files, maps)
        os.write(opener, b"1")
        os.close(opener)
        _confirm(complete_plan, child, link)
    except BaseException:
        os.kill(child.pid, 9)
        raise
    _tell_client(plan, link)
    return plan.identifier


def _hook_state(plan: Draft, paths: Paths, world: World) -> dict[str, Any]:
    pid = world.pids.get("child", 0)
    bundle = paths.container(plan.identifier)
    return {"ociVersion": "1.3.0", "id": plan.identifier, "status": "created", "pid": pid, "bundle": bundle}


class StandardFiles:
    """The pipes or the terminal between a container and its monitor.

    ``kept`` are the monitor's ends: the terminal's master, or standard input (if interactive),
    output and error.
    """

    def __init__(self, plan: Draft, world: World) -> None:
        self.kept: list[int] = []
        self.terminal = plan.options.tty
        if self.terminal:
            self._ours, self._theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
            theirs = self._theirs
            world.values["send console"] = lambda master: send_with_descriptors(theirs, b"T", [master])
            return
        given: list[int] = []
        if plan.options.interactive:
            read_end, write_end = os.pipe()
            self.kept.append(write_end)
            given.append(read_end)
        else:
            given.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        for _ in range(2):
            read_end, write_end = os.pipe()
            self.kept.append(read_end)
            given.append(write_end)
        world.values["standard files"] = given
        for number, fd in enumerate(given):
            world.fds[f"standard file {number}"] = fd

    def collect(self) -> list[int]:
        """The monitor's ends, once the child has made its terminal."""
        if self.terminal:
            self._theirs.close()
            self.kept = receive(self._ours)[1]
            self._ours.close()
        return self.kept


def _record(plan: Draft, paths: Paths, child: Child, world: World, maps: Maps | None) -> None:
    """Write down what was made, before it may run."""
    options = plan.options
    directory = paths.container(plan.identifier)
    save(f"{directory}/config.json", plan.config)
    record = {
        "id": plan.identifier,
        "name": world.values["name"],
        "created": now(),
        "image": plan.image or options.rootfs,
        "image_id": plan.image_id,
        "lower": plan.lower,
        "command": plan.config["process"]["args"],
        "remove": options.remove,
        "terminal": options.tty,
        "interactive": options.interactive,
        "labels": dict(options.label),
        "stop_signal": options.stop_signal or str(plan.image_config.get("StopSignal") or ""),
        "stop_timeout": options.stop_timeout,
        "maps": [[str(line) for line in lines] for lines in maps] if maps else None,
    }
    save(f"{directory}/container.json", record)
    state = {
        "pid": child.pid,
        "started": start_time(child.pid),
        "started_at": now(),
        "monitor": os.getppid(),
        "cgroup": groups.record(plan.group),
    }
    save(f"{paths.state(plan.identifier)}/state.json", state)


def _hand_over(
    plan: Draft, paths: Paths, child: Child, link: _socket.socket, lock: int, files: StandardFiles, maps: Maps | None
) -> None:
    options = plan.options
    task = {
        "id": plan.identifier,
        "root": paths.root,
        "run": paths.run,
        "pid": child.pid,
        "terminal": options.tty,
        "interactive": options.interactive,
        "log": "" if options.log_driver == "none" else f"{paths.container(plan.identifier)}/log",
        "log_size": options.log_opt.get("max-size", LOG_SIZE),
        "log_files": options.log_opt.get("max-file", LOG_FILES),
        "userns": maps is not None,
        "remove": options.remove,
        "timeout": options.timeout,
        "finish": "coracle.engine.finish",
    }
    descriptors = [child.pidfd, lock]
    if maps is not None:
        descriptors.append(os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC))
    kept = files.collect()
    send_with_descriptors(link, HAND_OVER + dumps(task).encode(), [*descriptors, *kept])
    if link.recv(16) != HAND_OVER:
        raise CoracleError("the container's monitor died")
    for fd in (lock, *kept):
        os.close(fd)


def _confirm(plan: Plan, child: Child, link: _socket.socket) -> None:
    """Wait until the program runs; a failure is the client's exit code, and the container is gone."""
    try:
        confirm(plan, child, ours=False)
    except CoracleError as error:
        link.send(EXIT + bytes([error.exit_code]))
        raise


def _tell_client(plan: Draft, link: _socket.socket) -> None:
    """Let the client attach, or go."""
    options = plan.options
    if options.detach:
        link.send(EXIT + bytes([0]))
        return
    terms = {
        "id": plan.identifier,
        "terminal": options.tty,
        "interactive": options.interactive,
        "keys": options.detach_keys.hex(),
        "proxy": options.sig_proxy and not options.tty,
    }
    link.send(ATTACHED + dumps(terms).encode())


