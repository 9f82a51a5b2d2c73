"""``--pidfd-socket``: hand a descriptor of the container's first process to the caller, as runc 1.2 does."""

from __future__ import annotations

import _socket
import os

from coracle.errors import KernelError
from coracle.linux.syscall import syscall


def send_pidfd(pid: int, path: str) -> None:
    """Send a pidfd of ``pid`` over the unix stream socket ``path`` (unix(7), SCM_RIGHTS).

    The process waits at the start gate, so its pid is not another's by now.
    :raises KernelError:
    """
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        pidfd = syscall("pidfd_open", pid, 0)
        try:
            link.connect(path)
            link.sendmsg([b"pidfd"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pidfd.to_bytes(4, "little"))])
        finally:
            os.close(pidfd)
    except OSError as error:
        raise KernelError(error.errno or 0, "send the pidfd to the socket", path) from error
    finally:
        link.close()
