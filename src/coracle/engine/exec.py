"""The verb ``exec``: one more process in a running container, with a monitor of its own."""

from __future__ import annotations

import os

from coracle.engine import user
from coracle.engine.container import Container, find
from coracle.engine.container_spec.environment import apply, lines
from coracle.engine.container_spec.host import Host
from coracle.engine.draft import filter_for
from coracle.engine.handover import StandardFiles, hand_over, open_gate, tell_client
from coracle.engine.options import FLAG, LIST, VALUE, Option, Table, parse, values
from coracle.engine.options.parser import boolean
from coracle.engine.options.run import DETACH_KEYS
from coracle.errors import ConflictError, UsageError
from coracle.linux import capability
from coracle.linux.namespace import CLONE_PARENT
from coracle.linux.process import send_signal
from coracle.paths import Paths
from coracle.runtime import state
from coracle.runtime.exec import prepare, start_exec
from coracle.step import World

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence
    from typing import Any

    from coracle.engine.options import Options


def _flag(name: str, short: str, line: str) -> Option:
    return Option(name, short, FLAG, boolean, False, "", line)


EXEC = Table(
    (
        (
            "Options",
            (
                _flag("detach", "d", "Run the command in the background"),
                Option("detach-keys", "", VALUE, values.detach_keys, DETACH_KEYS, "keys", "Key sequence for detaching"),
                Option("env", "e", LIST, values.variable, [], "name=value", "Set environment variables"),
                Option("env-file", "", LIST, values.host_path, [], "file", "Read in a file of environment variables"),
                _flag("interactive", "i", "Keep standard input open"),
                _flag("privileged", "", "Give the command all capabilities and no system call filter"),
                _flag("tty", "t", "Allocate a terminal"),
                Option("user", "u", VALUE, values.text, "", "user", "User name or id, with group: name[:group]"),
                Option("workdir", "w", VALUE, values.text, "", "dir", "Working directory inside the container"),
            ),
        ),
    )
)


def worker(argv: Sequence[str], link: _socket.socket, warn: Callable[[str], None], apart: bool) -> int:
    """Start the command of ``exec argv`` and hand it to the monitor at ``link``; an exit code.

    ``apart`` says that the monitor is this process's parent, and not this process itself later on.
    :raises CoracleError:
    """
    options, rest = parse(EXEC, argv)
    if len(rest) < 2:
        raise UsageError("exec needs a container and a command", "coracle exec CONTAINER COMMAND [ARG...]")
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise UsageError("the input device is not a terminal", "leave out -t to use -i with a pipe")
    paths = Paths()
    container = find(paths, rest[0])
    process = container.process()
    if process is None or container.status() not in ("running", "paused"):
        raise ConflictError(f"container {rest[0]} is not running", f"coracle run makes one; {rest[0]} has ended")
    _start(options, rest[1:], container, process["pid"], link, warn, CLONE_PARENT if apart else 0)
    return 0


def _start(
    options: Options,
    arguments: list[str],
    container: Container,
    pid: int,
    link: _socket.socket,
    warn: Callable[[str], None],
    clone_flags: int,
) -> None:
    config = container.config()
    process = _process(options, arguments, config["process"], pid)
    choice = "unconfined" if options.privileged else container.record["seccomp"]
    seccomp = filter_for(choice, {**config, "process": process}, container.paths)
    record = state.Container.open(container.paths.running(), container.identifier)
    plan = prepare(record, config, process, warn, seccomp)
    world = World(warn)
    files = StandardFiles(options.tty, options.interactive, world)
    child, opener = start_exec(plan, world, clone_flags)
    task = {
        "pid": child.pid,
        "terminal": options.tty,
        "interactive": options.interactive,
        "log": "",
        "userns": False,
        "timeout": 0,
        "finish": "",
    }
    try:
        lock = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)  # an exec holds no lock of the container's
        hand_over(link, task, [child.pidfd, lock], files)
        os.close(lock)
        open_gate(opener, plan, child, link)
    except BaseException:
        send_signal(child.pidfd, 9)
        raise
    tell_client(link, container.identifier, task, options.detach, options.detach_keys, not options.tty)


def _process(options: Options, arguments: list[str], first: dict[str, Any], pid: int) -> dict[str, Any]:
    """The runtime-spec process: the container's own, with another command, and what the options say."""
    process = {**first, "args": arguments, "terminal": options.tty}
    process.pop("consoleSize", None)
    environment = dict(entry.partition("=")[::2] for entry in first.get("env") or [])
    if options.tty:
        environment.setdefault("TERM", "xterm")
    if options.user:
        root = f"/proc/{pid}/root"
        passwd, group = (user.read_in_layers([root], f"/etc/{name}") for name in ("passwd", "group"))
        resolved = user.resolve(options.user, [], passwd, group)
        process["user"] = {"uid": resolved.uid, "gid": resolved.gid, "additionalGids": resolved.groups}
        environment["HOME"] = resolved.home
        if resolved.uid:
            process["capabilities"] = _without_root(first.get("capabilities") or {})
    host = Host()
    for path in options.env_file:
        apply(environment, lines(path, host), host.environ)
    apply(environment, options.env, host.environ)
    process["env"] = [f"{name}={value}" for name, value in environment.items()]
    if options.workdir:
        process["cwd"] = os.path.normpath(os.path.join(first["cwd"], options.workdir))
    if options.privileged:
        everything = capability.names(capability.own().bounding)
        process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), everything)
    return process


def _without_root(sets: dict[str, Any]) -> dict[str, Any]:
    """Another user than root starts with the bounding set only, as in docker."""
    return {"bounding": sets.get("bounding") or []}
