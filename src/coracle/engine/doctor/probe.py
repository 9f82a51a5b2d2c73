"""Trying things out in a child, so that nothing that was tried stays and nothing can hang.

Namespaces and mounts vanish with the child.  A child that takes too long is killed with all
that it started.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from coracle.engine import rootless
from coracle.errors import CoracleError
from coracle.linux import mount, namespace
from coracle.linux.process import PR_SET_PDEATHSIG, prctl

TIMEOUT = 5.0  # seconds


class TimedOut(OSError):
    """The child did not answer in time."""


def in_child(function: Callable[[], str], timeout: float = TIMEOUT) -> str:
    """What ``function`` returned in a forked child that leads a session of its own.

    :raises OSError: that ``function`` raised; TimedOut when it took longer than ``timeout`` seconds.
    :raises CoracleError: that ``function`` raised.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _serve(function, writing)
    os.close(writing)
    try:
        answer = _read(reading, time.monotonic() + timeout)
    finally:
        os.close(reading)
        _end(pid)
    kind, _, text = answer.partition("\0")
    if kind == "value":
        return text
    if kind == "error":
        raise CoracleError(text)
    number, _, path = text.partition("\0")
    raise OSError(int(number or 0), os.strerror(int(number or 0)), path or None)


def _serve(function: Callable[[], str], writing: int) -> None:
    answer = "errno\x005"  # EIO: died without a word
    try:
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        answer = f"value\0{function()}"
    except OSError as error:
        answer = f"errno\0{error.errno or 0}\0{error.filename or ''}"
    except CoracleError as error:
        answer = f"error\0{error}"
    finally:
        os.write(writing, answer.encode("utf-8", "replace"))
        os._exit(0)


def _read(reading: int, deadline: float) -> str:
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            raise TimedOut(110, "no answer in time")
        piece = os.read(reading, 1 << 16)
        if not piece:
            return data.decode("utf-8", "replace") or "errno\x005"
        data += piece


def _end(pid: int) -> None:
    """Kill the child's session and reap the child; one that the kernel does not let go is left to init."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # before its setsid, or nobody left
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 1
    while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.005)


def as_engine(function: Callable[[], str]) -> Callable[[], str]:
    """``function`` with the rights of the engine when it runs a container: root's, or those of a user's namespace."""

    def run() -> str:
        if os.geteuid() != 0:
            rootless.enter()
        return function()

    return run


def with_mounts(function: Callable[[], str]) -> Callable[[], str]:
    """``function`` as the engine, in a mount namespace from which nothing gets out."""

    def run() -> str:
        namespace.unshare(namespace.CLONE_NEWNS)
        mount.set_propagation("/", mount.MS_REC | mount.MS_PRIVATE)
        return function()

    return as_engine(run)


def in_new_user_namespace(function: Callable[[], str]) -> str:
    """Run ``function`` as root of a new user namespace that knows the caller's own id only.  :raises OSError:"""
    go, answer = os.pipe(), os.pipe()
    pid, pidfd = namespace.clone(namespace.CLONE_NEWUSER)
    if pid == 0:
        os.close(go[1])
        os.read(go[0], 1)
        _serve(function, answer[1])
    for fd in (pidfd, go[0], answer[1]):
        os.close(fd)
    try:
        namespace.write_file(f"/proc/{pid}/setgroups", "deny")
        namespace.write_file(f"/proc/{pid}/uid_map", f"0 {os.geteuid()} 1")
        namespace.write_file(f"/proc/{pid}/gid_map", f"0 {os.getegid()} 1")
        os.write(go[1], b"x")
        kind, _, text = _read(answer[0], time.monotonic() + TIMEOUT).partition("\0")
    finally:
        os.close(go[1])
        os.close(answer[0])
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if kind != "value":
        number = text.partition("\0")[0]
        raise OSError(int(number) if number.isdigit() else 5, text)
    return text
