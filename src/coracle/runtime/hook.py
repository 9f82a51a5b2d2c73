"""Running the hooks of a config.json (runtime-spec config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

import os
import select
from _signal import SIG_DFL, signal  # type: ignore[import-not-found]
from errno import EPIPE
from time import monotonic

from coracle.errors import CoracleError
from coracle.linux.process import send_signal, unblock_signals
from coracle.linux.syscall import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OUTPUT_LIMIT = 4096


class HookError(CoracleError):
    """A hook could not be started, failed or ran out of time."""


def run(hook: dict[str, Any], state: bytes, kind: str) -> None:
    """Run one hook with ``state`` (JSON) on its standard input and wait for it.

    Its environment is what the config says and nothing else.  After ``timeout`` seconds its whole
    process group is killed.
    :raises HookError: naming the hook, its exit status and the end of what it wrote to stderr.
    """
    path = hook["path"]
    arguments = hook.get("args") or [path]
    environment = dict(entry.partition("=")[::2] for entry in hook.get("env", []))
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        _exec(path, arguments, environment, read_in, write_out)
    os.close(read_in)
    os.close(write_out)
    try:
        _feed(write_in, state)
        status, output = _wait(pid, read_out, hook.get("timeout"), f"{kind} hook {path}")
    finally:
        os.close(read_out)
    if status:
        reason = f"exit status {status}" if status > 0 else f"signal {-status}"
        raise HookError(f"{kind} hook {path} failed: {reason}", output.strip().replace("\n", "; "))


def _exec(path: str, arguments: list[str], environment: dict[str, str], stdin: int, stderr: int) -> None:
    try:
        os.setsid()
        os.dup2(stdin, 0)
        os.dup2(stderr, 2)
        for number in range(1, 65):
            _reset(number)
        unblock_signals()
        os.execve(path, arguments, environment)
    except OSError as error:
        os.write(2, f"cannot execute: {error.strerror}".encode())
    finally:
        os._exit(127)


def _reset(number: int) -> None:
    try:
        signal(number, SIG_DFL)
    except (OSError, ValueError):  # KILL, STOP and the C library's own
        pass


def _feed(fd: int, state: bytes) -> None:
    try:
        os.write(fd, state)
    except OSError as error:
        if error.errno != EPIPE:  # a hook need not read its input
            raise
    finally:
        os.close(fd)


def _wait(pid: int, output: int, timeout: int | None, name: str) -> tuple[int, str]:
    """Exit status (negative: signal) and the end of stderr."""
    pidfd = syscall("pidfd_open", pid, 0)
    deadline = monotonic() + timeout if timeout else None
    collected = b""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(output, select.POLLIN)
    try:
        while True:
            left = max(0, int((deadline - monotonic()) * 1000)) if deadline else None
            ready = dict(poll.poll(left))
            if not ready and deadline:
                os.killpg(pid, 9)
                os.waitpid(pid, 0)
                raise HookError(f"{name} did not end within its timeout of {timeout} s")
            if output in ready:
                data = os.read(output, 4096)
                collected = (collected + data)[-_OUTPUT_LIMIT:]
                if not data:
                    poll.unregister(output)
            if pidfd in ready:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), collected.decode("utf-8", "replace")
    finally:
        send_quietly(pidfd)


def send_quietly(pidfd: int) -> None:
    """Kill what is left behind ``pidfd``, if anything, and close it."""
    try:
        send_signal(pidfd, 9)
    except OSError:
        pass
    os.close(pidfd)
