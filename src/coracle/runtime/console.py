"""Passing descriptors to whoever manages a container: its terminal, its seccomp listener (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import _socket
import os

from coracle.errors import CoracleError, KernelError
from coracle.linux.syscall import syscall
from coracle.record import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.runtime.spawn import Child
    from coracle.step import World


def connect(path: str, what: str) -> _socket.socket:
    """A stream connection to the unix socket ``path``, which is ``what``.  :raises KernelError:"""
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        link.connect(path)
    except OSError as error:
        link.close()
        raise KernelError(error.errno or 0, f"connect to the {what}", path) from error
    return link


def connect_console(path: str, world: World) -> _socket.socket:
    """Connect to ``--console-socket`` and let the terminal step send its master there (runc's terminals.md).

    :raises CoracleError: if there is no such socket.
    """
    if not path:
        raise CoracleError("process.terminal is set but there is no --console-socket to send the terminal to")
    console = connect(path, "console socket")
    world.values["send console"] = lambda master: send_descriptor(console, master)
    return console


def send_descriptor(link: _socket.socket, fd: int, data: bytes = b"/dev/ptmx") -> None:
    """Pass ``fd`` over a unix socket, with some data, as at least one byte must come along."""
    link.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))])


def send_listener(profile: dict[str, Any], child: Child, state: dict[str, Any]) -> None:
    """Hand the seccomp notification descriptor to ``listenerPath`` (config-linux.md, "Container process state").

    The filter is loaded already and the child waits at its gate, so its descriptor can be fetched.
    :raises CoracleError: if no rule of the filter notifies, or nobody listens.
    """
    path = profile.get("listenerPath")
    if not path:
        return
    fd = syscall("pidfd_getfd", child.pidfd, _find_listener(child.pid), 0)
    report = {
        "ociVersion": "1.3.0",
        "fds": ["seccompFd"],
        "pid": child.pid,
        "metadata": profile.get("listenerMetadata", ""),
        "state": state,
    }
    try:
        agent = connect(path, "seccomp listener")
        send_descriptor(agent, fd, dumps(report).encode())
        agent.close()
    finally:
        os.close(fd)


def _find_listener(pid: int) -> int:
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}") == "anon_inode:seccomp notify":
            return int(name)
    raise CoracleError("linux.seccomp.listenerPath is set but no rule of the filter notifies")
