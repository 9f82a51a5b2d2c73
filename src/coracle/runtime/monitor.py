"""The monitor: one small process per container that owns its standard files, waits for it, and tidies up.

It is forked before anything else is imported, so it stays small; a worker does the heavy part and
makes the container's first process the monitor's child (CLONE_PARENT).  Three processes:

    client   the command that the user typed; shows output, forwards input and signals; may go away
    monitor  this one; lives as long as the container
    worker   reads options, builds the plan, starts the container; ends when it runs

In the foreground the worker becomes the monitor when its work is done: memory is then shared with
the client as long as that lives, and a start is a fork shorter.

All links are SOCK_SEQPACKET; the first byte of a packet is its kind:

    worker → monitor    H hand-over: a record (marshal) and descriptors     C code: nothing to monitor, exit
    monitor → client    1, 2 output   A attached (with options)   X code: the end
    client → monitor    0 input (empty: end of file)   R rows, columns   S signal number
"""

from __future__ import annotations

import _socket
import os
import select
from _signal import pidfd_send_signal  # type: ignore[import-not-found]
from _struct import pack, unpack
from marshal import loads
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SIGKILL = 9
EAGAIN, EPIPE = 11, 32  # every import here stays in memory for each container
INPUT, STDOUT, STDERR = b"0", b"1", b"2"
ATTACHED, EXIT, RESIZE, SIGNAL = b"A", b"X", b"R", b"S"
HAND_OVER, CODE = b"H", b"C"
PACKET = 65536
CHUNK = 32768
BACKLOG = 1 << 20  # bytes a slow client may be behind before the container has to wait
MAX_DESCRIPTORS = 8


def main(client: _socket.socket, worker: Callable[[_socket.socket], int], small: bool = True) -> None:
    """Fork the worker, then be the monitor; or with ``small`` False be both, one after the other.  Never returns."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    if not small:
        _run_worker(worker, theirs)
    elif os.fork() == 0:
        ours.close()
        client.close()
        os._exit(_run_worker(worker, theirs))
    theirs.close()
    try:
        os.setsid()
        _oversee(client, ours)
    finally:
        os._exit(0)


def _run_worker(worker: Callable[[_socket.socket], int], link: _socket.socket) -> int:
    """Let the worker do its part; its exit code, which the monitor is told as well."""
    code = worker(link)
    send(link, CODE + bytes([code]))
    return code


def _oversee(client: _socket.socket, worker: _socket.socket) -> None:
    packet, descriptors = receive(worker)
    if not packet.startswith(HAND_OVER):
        send(client, EXIT + (packet[1:2] or b"\x7d"))
        return
    task = loads(packet[1:])
    monitor = Monitor(client, worker, task, descriptors)
    _release_standard_files()
    monitor.await_verdict()
    code, tidy_up = monitor.serve()
    send(client, EXIT + bytes([code]))
    client.close()
    tidy_up()


def _release_standard_files() -> None:
    """The caller's terminal and pipes are not ours to keep open."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.chdir("/")


def receive(link: _socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it (unix(7), SCM_RIGHTS)."""
    size = _socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
    data, ancillary, _, _ = link.recvmsg(PACKET, size, _socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    for _level, _kind, payload in ancillary:
        descriptors += unpack(f"{len(payload) // 4}i", payload[: len(payload) // 4 * 4])
    return data, descriptors


def send_with_descriptors(link: _socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send ``data`` with open descriptors, which the other side gets copies of."""
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, pack(f"{len(descriptors)}i", *descriptors))
    link.sendmsg([data], [rights])


def send(link: _socket.socket, packet: bytes) -> bool:
    """Send to somebody who may be gone; False if so."""
    try:
        link.send(packet)
    except OSError:
        return False
    return True


class Monitor:
    """Moves bytes between a container, its log and its client until the container ends.

    ``task`` is the worker's record: ``pid``, ``terminal``, ``interactive``, ``log`` with its limits, and
    ``finish``, the module that is told how it ended.  ``descriptors`` are pidfd, lock, a user
    namespace if ``task["userns"]``, then the terminal's master, or the pipes of standard input (if
    interactive), output and error.
    """

    def __init__(
        self, client: _socket.socket, worker: _socket.socket, task: dict[str, Any], descriptors: list[int]
    ) -> None:
        self.client: _socket.socket | None = client
        self.worker = worker
        self.status: int | None = None
        self.task = task
        own = 3 if task["userns"] else 2
        self.pidfd = descriptors[0]
        self.kept = descriptors[1:own]
        self.poll = select.poll()
        self.sources: dict[int, bytes] = {}
        self.input = -1
        self.pending_input = bytearray()
        self.pending_output: list[bytes] = []
        self.backlog = 0
        self.paused = False
        self.input_ended = False
        self._open(descriptors[own:])
        self.log = _open_log(task)

    def _open(self, descriptors: list[int]) -> None:
        if self.task["terminal"]:
            self.input = descriptors[0]
            self.sources = {descriptors[0]: STDOUT}
        else:
            self.input = descriptors[0] if self.task["interactive"] else -1
            outputs = descriptors[1:] if self.task["interactive"] else descriptors
            self.sources = dict(zip(outputs, (STDOUT, STDERR), strict=True))
        for fd in (*self.sources, self.input):
            if fd >= 0:
                os.set_blocking(fd, False)
        for fd in (*self.sources, self.pidfd, self.worker.fileno()):
            self.poll.register(fd, select.POLLIN)
        if self.client is not None:
            self.poll.register(self.client, select.POLLIN)

    def serve(self) -> tuple[int, Callable[[], None]]:
        """Until the container has ended and its output is drained; its exit code, and what nobody waits for."""
        ended = False
        left = self.task["timeout"] * 1000 or None
        started = monotonic()
        while not ended:
            if left is not None:  # --timeout: the container has so many seconds to live
                left = max(0, int((self.task["timeout"] + started - monotonic()) * 1000))
                if left == 0:
                    self._signal(SIGKILL)
                    left = None
            for fd, event in self.poll.poll(left):
                if fd == self.pidfd:
                    ended = True
                else:
                    self._serve_one(fd, event)
            self._flush_client()
        self._drain()
        code = self._reap()
        return code, self._finish(code)

    def _serve_one(self, fd: int, event: int) -> None:
        if fd == self.input and event & ~select.POLLIN:  # a terminal's master is input and output in one
            self._write_input()
        if fd in self.sources and event & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._read_output(fd)
        elif self.client is not None and fd == self.client.fileno():
            self._read_client()
        elif fd == self.worker.fileno():
            self._dismiss_worker()

    def _read_output(self, fd: int) -> bool:
        """Move what there is; False at end of file."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # EIO: the last process with the terminal open is gone
            data = b""
        if not data:
            self.poll.unregister(fd)
            stream = self.sources.pop(fd)
            if self.log is not None:
                self.log.end(stream)
            return False
        stream = self.sources[fd]
        if self.log is not None:
            self.log.write(stream, data)
        if self.client is not None:
            self.pending_output.append(stream + data)
            self.backlog += len(data)
            self._flush_client()
        return True

    def _flush_client(self) -> None:
        """Pass on what the client will take; a slow one makes the container wait rather than lose a byte."""
        while self.pending_output and self.client is not None:
            try:
                self.client.send(self.pending_output[0], _socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                self._drop_client()
                return
            self.backlog -= len(self.pending_output.pop(0)) - 1
        if self.client is not None:
            listening = select.POLLIN if len(self.pending_input) < BACKLOG else 0
            self.poll.modify(self.client, listening | (select.POLLOUT if self.pending_output else 0))
        self._throttle(self.backlog > BACKLOG)

    def _throttle(self, pause: bool) -> None:
        if pause != self.paused:
            self.paused = pause
            for fd in self.sources:
                self.poll.modify(fd, 0 if pause else select.POLLIN)

    def _drop_client(self) -> None:
        if self.client is None:
            return
        self.poll.unregister(self.client)
        self.client.close()
        self.client = None
        self.pending_output.clear()
        self.backlog = 0
        self._throttle(False)
        if not self.task["terminal"] and self.task["interactive"]:
            self.input_ended = True  # docker's StdinOnce: the input ends with the client that gave it
            self._write_input()

    def _read_client(self) -> None:
        assert self.client is not None
        try:
            packet = self.client.recv(PACKET, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._drop_client()
        elif packet.startswith(INPUT):
            self.pending_input += packet[1:]
            self.input_ended |= len(packet) == 1
            self._write_input()
        elif packet.startswith(RESIZE) and self.task["terminal"] and self.input >= 0:
            from coracle.linux.terminal import set_size

            set_size(self.input, *unpack("HH", packet[1:5]))
        elif packet.startswith(SIGNAL):
            self._signal(packet[1])

    def _signal(self, number: int) -> None:
        try:
            pidfd_send_signal(self.pidfd, number)
        except OSError:
            pass

    def _write_input(self) -> None:
        """Write what the container will take of the client's input; more waits in the client's socket."""
        if self.input < 0:
            self.pending_input.clear()
            return
        try:
            while self.pending_input:
                del self.pending_input[: os.write(self.input, self.pending_input)]
        except OSError as error:
            if error.errno == EAGAIN:
                self.poll.register(self.input, select.POLLOUT | (select.POLLIN if self.input in self.sources else 0))
                return
            if error.errno != EPIPE:
                self.pending_input.clear()
            self.pending_input.clear()
        if self.input in self.sources:
            self.poll.register(self.input, 0 if self.paused else select.POLLIN)
            return
        try:
            self.poll.unregister(self.input)
        except KeyError:
            pass
        if self.input_ended:
            os.close(self.input)
            self.input = -1

    def _drain(self) -> None:
        """What the ended container left in its pipes; those that others keep open are not waited for."""
        for fd in list(self.sources):
            while self._read_output_now(fd):
                pass
        if self.client is not None:
            self.client.setblocking(True)
            for packet in self.pending_output:
                if not send(self.client, packet):
                    break
        self.pending_output.clear()

    def _read_output_now(self, fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0)) and self._read_output(fd)

    def await_verdict(self) -> None:
        """The worker's last packet: the program runs and the client may attach, or has to go with a code."""
        verdict = self.worker.recv(PACKET) or EXIT + b"\x7d"
        if self.client is not None:
            send(self.client, verdict)
            if verdict.startswith(EXIT):
                self._drop_client()
        if self.client is not None and self.task["finish"]:
            _import(self.task["finish"])  # somebody waits for the end: have it ready while the program runs

    def _dismiss_worker(self) -> None:
        """It has ended, as have the processes in between that it made."""
        if not self.worker.recv(PACKET):
            self.poll.unregister(self.worker)
            self.worker.close()
            self._collect(os.WNOHANG)

    def _collect(self, flags: int) -> None:
        """Take the exit statuses that are there, the container's among them."""
        try:
            while self.status is None:
                pid, status = os.waitpid(-1, flags)
                if pid == 0:
                    return
                if pid == self.task["pid"]:
                    self.status = status
        except ChildProcessError:
            self.status = 0 if self.status is None else self.status

    def _reap(self) -> int:
        self._collect(0)
        code = os.waitstatus_to_exitcode(self.status or 0)
        return code if code >= 0 else 128 - code

    def _finish(self, code: int) -> Callable[[], None]:
        """Write down how it ended, and let vanish what is to go; what is returned may wait until the client is gone."""
        if self.log is not None:
            self.log.close()
        if not self.task["finish"]:
            return _nothing
        try:
            later: Callable[[], None] = _import(self.task["finish"]).finish(self.task, code, self.kept)
        except Exception as error:  # such as a full disk: the client has to hear the exit code all the same
            if self.client is not None:
                text = f"coracle: warning: could not tidy up behind the container: {error} (see coracle ps -a)\n"
                send(self.client, STDERR + text.encode("utf-8", "replace"))
            return _nothing
        return later


def _nothing() -> None:
    """What is left to do when all is done."""


def _import(module: str) -> Any:
    return __import__(module, None, None, ["finish"])


def _open_log(task: dict[str, Any]) -> Any:
    if not task["log"]:
        return None
    from coracle.runtime.log import Log

    return Log(task["log"], task["log_size"], task["log_files"])
