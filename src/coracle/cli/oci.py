"""``coracle-oci``: the command line of an OCI runtime, as podman, containerd and dockerd call one.

A command reads its options, makes one call into ``coracle.runtime`` and prints the result.
Exit codes are runc's: 1 for every error, 255 for a failed ``exec``, otherwise the program's own.
"""

from __future__ import annotations

import os
import sys

from coracle.cli.main import keep_standard_files
from coracle.cli.oci_options import COMMANDS, GLOBAL, check_choice, number, parse
from coracle.cli.oci_report import Report, write
from coracle.errors import CoracleError, UsageError
from coracle.record import dumps
from coracle.runtime.identifier import check_identifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from coracle.runtime.lifecycle import CreateOptions
    from coracle.step import Plan

FAILURE = 1
EXEC_FAILURE = 255

# The keys of a state in the order of runc state
_STATE = ("ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner")


class Call:
    """One command as it was typed: global and own options, arguments, and where messages go."""

    __slots__ = ("arguments", "options", "report", "root", "settings")

    def __init__(self, settings: dict[str, Any], options: dict[str, Any], arguments: list[str], report: Report) -> None:
        self.settings = settings
        self.options = options
        self.arguments = arguments
        self.report = report
        self.root = os.path.abspath(settings.get("root") or default_root())

    @property
    def identifier(self) -> str:
        """The container id.  :raises UsageError: if it cannot be one."""
        return check_identifier(self.arguments[0])


def default_root() -> str:
    """Where states are kept when --root does not say; gone with the boot."""
    if os.geteuid() == 0:
        return "/run/coracle-oci"
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{directory if directory.startswith('/') else f'/tmp/coracle-run-{os.getuid()}'}/coracle-oci"


def main(words: Sequence[str] | None = None) -> int:
    """Run ``words``, or the process's own command line; the exit code."""
    words = sys.argv[1:] if words is None else words
    keep_standard_files()
    report = Report()
    failure = FAILURE
    try:
        settings, rest = parse(words, GLOBAL, ordered=True)
        report = _report(settings)
        failure = EXEC_FAILURE if rest[:1] == ["exec"] else FAILURE
        return _run(settings, rest, report)
    except CoracleError as error:
        report.error(str(error))
    except BrokenPipeError:
        return FAILURE  # nobody reads the output any more
    except OSError as error:
        report.error(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if report.level == "debug":
            raise
        report.error(f"internal error: {type(error).__name__}: {error} (--debug shows where)")
    return failure


def _report(settings: dict[str, Any]) -> Report:
    form = check_choice(settings, GLOBAL, "log-format", "text")
    level = "debug" if settings.get("debug") else check_choice(settings, GLOBAL, "log-level", "warning")
    return Report(settings.get("log", ""), form, level)


def _run(settings: dict[str, Any], words: list[str], report: Report) -> int:
    """Find the command in ``words`` and do it."""
    if settings.get("version") or settings.get("help") or words[:1] == ["help"]:
        return _about(settings, words)
    if not words:
        raise UsageError("no command given", "coracle-oci --help lists them")
    name = words[0]
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(f"unknown command {name!r}", "coracle-oci --help lists them")
    check_choice(settings, GLOBAL, "cgroup-manager", "")
    options, arguments = parse(words[1:], command.options, command.ordered)
    if options.get("help"):
        return _about(settings, ["help", name])
    if len(arguments) < command.least or 0 <= command.most < len(arguments):
        wanted = command.arguments or "no arguments"
        raise UsageError(f"{name} takes {wanted}, got {len(arguments)} arguments", f"see coracle-oci {name} --help")
    return _ACTIONS[name](Call(settings, options, arguments, report))


def _about(settings: dict[str, Any], words: list[str]) -> int:
    from coracle.cli import oci_print

    if settings.get("version"):
        text = oci_print.version()
    elif len(words) > 1 and words[1] in COMMANDS:
        text = oci_print.command_help(words[1], COMMANDS[words[1]])
    else:
        text = oci_print.main_help()
    write(1, text)
    return 0


def _create_options(call: Call) -> CreateOptions:
    from coracle.runtime.lifecycle import CreateOptions

    options = call.options
    return CreateOptions(
        console_socket=options.get("console-socket", ""),
        pid_file=options.get("pid-file", ""),
        no_pivot=options.get("no-pivot", False),
        new_keyring=not options.get("no-new-keyring", False),
        preserve_fds=number(options, "preserve-fds"),
        systemd_cgroup=call.settings.get("systemd-cgroup", False),
        cgroup_manager=call.settings.get("cgroup-manager", ""),
        config=options.get("config", ""),
        warn=call.report.warning,
    )


def _create(call: Call) -> int:
    from coracle.runtime import lifecycle

    pid = lifecycle.create(call.identifier, call.options.get("bundle", "."), call.root, options=_create_options(call))
    if path := call.options.get("pidfd-socket"):
        from coracle.cli.oci_pidfd import send_pidfd

        send_pidfd(pid, path)
    return 0


def _start(call: Call) -> int:
    from coracle.runtime import lifecycle

    lifecycle.start(call.root, call.identifier)
    return 0


def _state(call: Call) -> int:
    from coracle.runtime import lifecycle

    state = lifecycle.state(call.root, call.identifier)
    known = {key: state[key] for key in _STATE if key in state}
    write(1, dumps({**known, **state}, 2) + "\n")
    return 0


def _kill(call: Call) -> int:
    from coracle.linux.signals import signal_number
    from coracle.runtime import lifecycle

    signal = signal_number(call.arguments[1] if len(call.arguments) > 1 else "TERM")
    for identifier in _chosen(call):
        lifecycle.kill(call.root, identifier, signal, call.options.get("all", False))
    return 0


def _delete(call: Call) -> int:
    from coracle.runtime import lifecycle

    for identifier in _chosen(call):
        lifecycle.delete(call.root, identifier, call.options.get("force", False), call.report.warning)
    return 0


def _chosen(call: Call) -> list[str]:
    """The container named, or with --regex all whose id contains a match (crun)."""
    if not call.options.get("regex"):
        return [call.identifier]
    import re

    from coracle.runtime import lifecycle

    try:
        pattern = re.compile(call.arguments[0])
    except re.error as error:
        raise UsageError(f"{call.arguments[0]!r} is not a regular expression: {error}") from None
    return [state["id"] for state in lifecycle.list_containers(call.root) if pattern.search(state["id"])]


def _run_container(call: Call) -> int:
    from coracle.runtime import lifecycle

    if "pidfd-socket" in call.options:
        raise UsageError("option --pidfd-socket is for create: a container of run has started before it could be sent")
    return lifecycle.run(
        call.identifier,
        call.options.get("bundle", "."),
        call.root,
        options=_create_options(call),
        detach=call.options.get("detach", False),
        keep=call.options.get("keep", False),
    )


def _exec(call: Call) -> int:
    from coracle.cli import oci_exec
    from coracle.record import load
    from coracle.runtime.exec import exec_process
    from coracle.runtime.state import Container

    options, identifier = call.options, call.identifier
    own = lambda: load(Container.open(call.root, identifier).config)  # noqa: E731
    return exec_process(
        call.root,
        identifier,
        oci_exec.exec_process(options, call.arguments[1:], own),
        detach=options.get("detach", False),
        console_socket=options.get("console-socket", ""),
        pid_file=options.get("pid-file", ""),
        preserve_fds=number(options, "preserve-fds"),
        cgroup=options.get("cgroup", ""),
        ignore_paused=options.get("ignore-paused", False),
        warn=call.report.warning,
    )


def _list(call: Call) -> int:
    from coracle.runtime import lifecycle

    form = check_choice(call.options, COMMANDS["list"].options, "format", "table")
    states = lifecycle.list_containers(call.root)
    if call.options.get("quiet"):
        write(1, "".join(f"{state['id']}\n" for state in states))
    elif form == "json":
        write(1, dumps(states) + "\n")
    else:
        from coracle.cli.oci_print import list_table

        write(1, list_table(states))
    return 0


def _ps(call: Call) -> int:
    from coracle.runtime import lifecycle

    form = check_choice(call.options, COMMANDS["ps"].options, "format", "table")
    pids = lifecycle.processes(call.root, call.identifier)
    if form == "json":
        write(1, dumps(pids) + "\n")
    else:
        from coracle.cli.oci_print import process_table

        write(1, process_table(pids, call.arguments[1:]))
    return 0


def _pause(call: Call) -> int:
    from coracle.runtime import lifecycle

    lifecycle.pause(call.root, call.identifier)
    return 0


def _resume(call: Call) -> int:
    from coracle.runtime import lifecycle

    lifecycle.resume(call.root, call.identifier)
    return 0


def _update(call: Call) -> int:
    from coracle.cli.oci_update import update_resources
    from coracle.runtime import lifecycle

    lifecycle.update(call.root, call.identifier, update_resources(call.options), call.report.warning)
    return 0


def _events(call: Call) -> int:
    from coracle.cli.oci_events import follow, once

    if call.options.get("stats"):
        once(call.root, call.identifier)
    else:
        follow(call.root, call.identifier, call.options.get("interval", "5s"))
    return 0


def _spec(call: Call) -> int:
    from coracle.runtime.spec.default import default_spec

    path = os.path.join(call.options.get("bundle", "."), call.options.get("file", "config.json"))
    text = dumps(default_spec(call.options.get("rootless", False)), 4) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise UsageError(f"{path} exists already", "remove it first") from None
    try:
        write(fd, text)
    finally:
        os.close(fd)
    return 0


def _features(_call: Call) -> int:
    from coracle.runtime.features import features

    write(1, dumps(features(), 4) + "\n")
    return 0


def _explain(call: Call) -> int:
    from coracle import explain
    from coracle.cli.oci_explain import plan_of

    form = check_choice(call.options, COMMANDS["explain"].options, "as", "prose")
    identifier = call.identifier if call.arguments else "example"
    plan = plan_of(call.options.get("bundle", "."), identifier, _create_options(call))
    views: dict[str, Callable[[Plan], str]] = {
        "prose": explain.prose,
        "shell": explain.shell,
        "json": explain.as_json,
    }
    write(1, views[form](plan))
    return 0


_ACTIONS: dict[str, Callable[[Call], int]] = {
    "create": _create,
    "start": _start,
    "state": _state,
    "kill": _kill,
    "delete": _delete,
    "run": _run_container,
    "exec": _exec,
    "list": _list,
    "ps": _ps,
    "pause": _pause,
    "resume": _resume,
    "update": _update,
    "events": _events,
    "spec": _spec,
    "features": _features,
    "explain": _explain,
}


if __name__ == "__main__":
    raise SystemExit(main())
