"""One more process in a running container (``exec``): join everything it has, then start like its first one."""

from __future__ import annotations

import os

from coracle.errors import ConflictError, CoracleError
from coracle.linux import process as processes
from coracle.linux.namespace import NAMESPACES, setns
from coracle.record import load, write
from coracle.runtime import group as groups
from coracle.runtime.console import connect_console
from coracle.runtime.plan import identity
from coracle.runtime.plan.request import Request
from coracle.runtime.seccomp_filter import seccomp_program
from coracle.runtime.spawn import Child, spawn
from coracle.runtime.state import CREATED, PAUSED, RUNNING, Container
from coracle.runtime.steps.affinity import CpuAffinity
from coracle.runtime.steps.cgroup import JoinCgroup, OpenCgroup
from coracle.runtime.steps.devices import Terminal
from coracle.runtime.steps.inside import ExistingRoot, JoinProcess
from coracle.runtime.steps.settings import OomScore, PrivateProc
from coracle.step import Plan, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from coracle.linux.seccomp import Program
    from coracle.step import Step


def plan_exec(container: Container, request: Request, kinds: list[str]) -> Plan:
    """The steps of an exec: the same last moments as a start, in namespaces that exist."""
    request.labels = identity.labels(request)
    steps: list[Step] = []
    affinity = request.process("execCPUAffinity", {})
    if affinity.get("initial"):
        steps.append(CpuAffinity(affinity["initial"], True, "process.execCPUAffinity.initial"))
    if request.cgroup is not None:
        steps += [OpenCgroup(request.cgroup, "exec"), JoinCgroup(request.cgroup, "exec")]
    steps += [JoinProcess(container.pid, container.started, kinds, "exec"), ExistingRoot("exec")]
    score = request.process("oomScoreAdj")
    if score is not None or request.labels:
        steps.append(PrivateProc("docs/security.md, CVE-2025-52881"))
    if score is not None:
        steps.append(OomScore(score, "process.oomScoreAdj"))
    if request.process("terminal"):
        size = request.process("consoleSize", {})
        steps.append(Terminal(size.get("height", 0), size.get("width", 0), "process.terminal"))
    if affinity.get("final"):
        steps.append(CpuAffinity(affinity["final"], False, "process.execCPUAffinity.final"))
    steps += identity.enter_steps(request) + identity.init_steps(request)
    return Plan(steps, 0, join_first=True)


def prepare(
    container: Container,
    config: dict[str, Any],
    process: dict[str, Any],
    warn: Callable[[str], None],
    seccomp: Program | None,
    preserve_fds: int = 0,
    cgroup: str = "",
    ignore_paused: bool = False,
) -> Plan:
    """The plan for ``process`` in ``container``, which was made by ``config``.

    :raises ConflictError: if it does not run.
    """
    status = container.status()
    if status == PAUSED and not ignore_paused:
        raise ConflictError(f"cannot exec in container {container.identifier}: it is paused")
    if status not in (CREATED, RUNNING, PAUSED):
        raise ConflictError(f"cannot exec in container {container.identifier}: it is {status}")
    spec = {**config, "process": process}
    group = groups.reopen(container.cgroup)
    if group is not None and cgroup:
        group = group.below(cgroup)
    request = Request(
        spec, container.bundle, warn, group, seccomp=seccomp, preserve_fds=preserve_fds, inside=container.pid
    )
    return plan_exec(container, request, joined_kinds(container.pid))


def joined_kinds(pid: int) -> list[str]:
    """The namespaces of ``pid`` that differ from this process's own."""
    kinds = []
    for kind, (_, name, _) in NAMESPACES.items():
        try:
            if os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"):
                kinds.append(kind)
        except FileNotFoundError:  # a kernel without this kind
            continue
    return kinds


def start_exec(plan: Plan, world: World, extra_flags: int = 0) -> tuple[Child, int]:
    """Spawn ``plan``; the child waits at the gate, whose write end is the second value."""
    read_end, write_end = os.pipe()
    world.fds["gate"] = read_end
    try:
        return spawn(plan, world, extra_flags), write_end
    except BaseException:
        os.close(write_end)
        raise
    finally:
        world.close()


def exec_process(
    root: str,
    identifier: str,
    process: dict[str, Any],
    *,
    detach: bool = False,
    console_socket: str = "",
    pid_file: str = "",
    preserve_fds: int = 0,
    cgroup: str = "",
    ignore_paused: bool = False,
    warn: Callable[[str], None] = lambda _text: None,
) -> int:
    """Run ``process`` (runtime-spec "process") in a running container and return its exit code, or 0 if detached.

    :raises CoracleError:
    """
    container = Container.open(root, identifier)
    world = World(warn)
    config = load(container.config)
    seccomp = seccomp_program(config, root)
    plan = prepare(container, config, process, warn, seccomp, preserve_fds, cgroup, ignore_paused)
    console = connect_console(console_socket, world) if process.get("terminal") else None
    try:
        child, gate = start_exec(plan, world)
    finally:
        if console is not None:
            console.close()
    if pid_file:
        write(pid_file, str(child.pid).encode(), 0o644)
    from coracle.runtime.foreground import confirm, wait

    os.write(gate, b"1")
    os.close(gate)
    confirm(plan, child)
    return 0 if detach else wait(child)


def run_inside(container: Container, action: Callable[[], None]) -> None:
    """Run ``action`` in a process inside the container's namespaces, such as its startContainer hooks.

    :raises CoracleError: with the message of what ``action`` raised there.
    """
    kinds = joined_kinds(container.pid)
    pidfd = processes.pidfd(container.pid, container.started)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            flags = 0
            for kind in kinds:
                flags |= NAMESPACES[kind][0]
            setns(pidfd, flags)
            action()
            os._exit(0)
        except (CoracleError, OSError) as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(1)
    os.close(write_end)
    os.close(pidfd)
    text = os.read(read_end, 8192).decode("utf-8", "replace")
    os.close(read_end)
    if os.waitpid(child, 0)[1]:
        raise CoracleError(text or "a hook inside the container failed")
