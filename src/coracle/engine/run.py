"""The verb ``run``: carry a draft out, in the three processes that ``runtime/monitor`` describes."""

from __future__ import annotations

import os
import select

from coracle.engine import steps
from coracle.engine.draft import Draft, draft
from coracle.engine.handover import StandardFiles, hand_over, open_gate, tell_client
from coracle.errors import UsageError
from coracle.linux.namespace import CLONE_PARENT
from coracle.linux.process import Undisturbed, send_signal, start_time
from coracle.paths import Paths
from coracle.record import save
from coracle.runtime import group as groups
from coracle.runtime.spawn import Child, spawn
from coracle.runtime.state import now
from coracle.runtime.steps.rootfs import HostRoot, OverlayRoot
from coracle.step import HOST, Plan, World, roll_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

    from coracle.engine.rootless import Maps
    from coracle.step import Step

_DEATH_MS = 10_000
LOG_SIZE, LOG_FILES = 16 << 20, 2  # bounded by default; --log-opt max-size, max-file


def worker(
    argv: list[str], link: _socket.socket, warn: Callable[[str], None], say: Callable[[str], None], apart: bool
) -> int:
    """Start the container that ``run argv`` means and hand it to the monitor at ``link``; an exit code.

    ``apart`` says that the monitor is this process's parent, and not this process itself later on.
    :raises CoracleError: with nothing left behind.
    """
    paths = Paths()
    maps = enter_namespace()
    plan = draft(argv, paths, warn, maps, lasting=True)
    _check_terminal(plan)
    identifier = start(plan, paths, link, warn, maps, apart)
    plan.release()
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
    group = groups.record(plan.group)
    front: list[Step] = [
        steps.ContainerDirectory(
            paths, identifier, _directories(plan), group, "every container has a bundle directory"
        ),
        steps.ClaimName(paths, identifier, options.name, "--name" if options.name else "every container has a name"),
    ]
    if options.cidfile:
        front.append(steps.WriteFile(options.cidfile, identifier.encode(), "--cidfile", exclusive=True))
    if plan.ready is not None:
        front.append(steps.ImageLayer(paths, identifier, plan.ready, f"image {plan.image}"))
    if isinstance(plan.root, HostRoot):
        front.append(steps.HostLayers(plan.root, "image host"))
    front += [steps.BindSource(path, "--volume") for path in plan.create_directories]
    front += [steps.WriteFile(f"{base}/{name}", data, f"/etc/{name}") for name, data in plan.files.items()]
    return Plan([*front, *plan.plan.steps], plan.plan.flags, plan.plan.join_first)


def _directories(plan: Draft) -> list[str]:
    if isinstance(plan.root, OverlayRoot) and not plan.lower:
        return ["rootfs", "empty"]
    return ["rootfs"]


def start(
    plan: Draft,
    paths: Paths,
    link: _socket.socket,
    warn: Callable[[str], None],
    maps: Maps | None,
    apart: bool = True,
) -> str:
    """Do the whole plan and open the gate; the container's id.  The monitor becomes the container's parent."""
    world = World(warn)
    world.values["state"] = lambda: _hook_state(plan, paths, world)
    complete_plan = complete(plan, paths)
    files = StandardFiles(plan.options.tty, plan.options.interactive, world)
    gate, opener = os.pipe()
    world.fds["gate"] = gate
    world.values["meanwhile"] = lambda child: _record(plan, paths, child, world, maps, apart)
    with Undisturbed() as calm:
        try:
            child = spawn(complete_plan, world, CLONE_PARENT if apart else 0)
        except BaseException:
            os.close(opener)
            raise
        lock = world.fds.pop("container lock")
        world.close()
        handed_over = False
        try:
            if calm.asked():
                raise KeyboardInterrupt
            entering = apart and maps is not None  # a monitor that was the worker is in the namespace already
            task = _task(plan, paths, child, entering)
            descriptors = [child.pidfd, lock]
            if entering:
                descriptors.append(os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC))
            hand_over(link, task, descriptors, files)
            handed_over = True
            os.close(lock)
            open_gate(opener, complete_plan, child, link)
        except BaseException:
            send_signal(child.pidfd, 9)
            if not handed_over:
                _abandon(child, complete_plan, world)
            raise
    options = plan.options
    tell_client(link, plan.identifier, task, options.detach, options.detach_keys, options.sig_proxy)
    return plan.identifier


def _abandon(child: Child, plan: Plan, world: World) -> None:
    """Take everything back that was made for a container which could not be written down or handed over."""
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    poll.poll(_DEATH_MS)
    roll_back(plan.at(HOST), world)


def _hook_state(plan: Draft, paths: Paths, world: World) -> dict[str, Any]:
    pid = world.pids.get("child", 0)
    bundle = paths.container(plan.identifier)
    return {"ociVersion": "1.3.0", "id": plan.identifier, "status": "created", "pid": pid, "bundle": bundle}


def _record(plan: Draft, paths: Paths, child: Child, world: World, maps: Maps | None, apart: bool) -> None:
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
        "seccomp": plan.security,
        "remove": options.remove,
        "terminal": options.tty,
        "interactive": options.interactive,
        "labels": dict(options.label),
        "exposed": options.expose,
        "stop_signal": options.stop_signal or str(plan.image_config.get("StopSignal") or ""),
        "stop_timeout": options.stop_timeout,
        "maps": [[str(line) for line in lines] for lines in maps] if maps else None,
    }
    save(f"{directory}/container.json", record)
    state = {
        "pid": child.pid,
        "started": start_time(child.pid),
        "started_at": now(),
        "monitor": os.getppid() if apart else os.getpid(),
        "cgroup": groups.record(plan.group),
        "bundle": directory,
    }
    save(f"{paths.state(plan.identifier)}/state.json", state)


def _task(plan: Draft, paths: Paths, child: Child, entering: bool) -> dict[str, Any]:
    """What the monitor has to know."""
    options = plan.options
    return {
        "id": plan.identifier,
        "root": paths.root,
        "run": paths.run,
        "pid": child.pid,
        "terminal": options.tty,
        "interactive": options.interactive,
        "log": "" if options.log_driver == "none" else f"{paths.container(plan.identifier)}/log",
        "log_size": options.log_opt.get("max-size", LOG_SIZE),
        "log_files": options.log_opt.get("max-file", LOG_FILES),
        "userns": entering,
        "remove": options.remove,
        "timeout": options.timeout,
        "finish": "coracle.engine.finish",
    }
