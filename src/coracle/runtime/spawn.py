"""Carry out a plan: clone the child, let it make its world, and leave it at the gate.

Parent and child talk over one SOCK_SEQPACKET pair; each message is one packet whose first byte
tells its kind.  Both hold the same plan, so an error travels as a step's number and the errno,
and the parent says what it means.  Once the child has executed the launcher, the launcher
reports on the same socket; end of file before "ready" means that the child died.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
from struct import calcsize, pack, unpack_from

from coracle.errors import CannotExecuteError, CommandNotFoundError, CoracleError, KernelError
from coracle.linux import launcher, namespace
from coracle.linux.process import PR_SET_DUMPABLE, prctl, send_signal
from coracle.step import CHILD, ENTER, HOST, INIT, JOIN, PARENT, READY, Plan, World, execute, failure, roll_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.step import Step

# kinds of packets
GO, PID, MOUNTED, ERROR, ANSWER, WARNING, NOTE = b"G", b"P", b"M", b"E", b"A", b"W", b"N"
REPORT = b"clr"  # the launcher's records begin with this
READY_REPORT = b"clrR"
_ERROR_FORMAT = "ii"
_PACKET = 65536
_DEATH_MS = 1000
_CODES: dict[int, type[CoracleError]] = {126: CannotExecuteError, 127: CommandNotFoundError}
ENOENT, ENOTDIR = 2, 20


class Child:
    """A child at the gate: ``pid`` as the engine sees it, ``pidfd``, and the gate that starts it."""

    __slots__ = ("link", "note", "pid", "pidfd")

    def __init__(self, link: _socket.socket) -> None:
        self.link = link
        self.pid = 0
        self.pidfd = -1
        self.note = ""


def spawn(plan: Plan, world: World, extra_flags: int = 0) -> Child:
    """Do ``plan`` up to the gate and return the waiting child; on failure nothing of it is left.

    ``world.fds["gate"]`` must be what the launcher reads; ``extra_flags`` go to clone3(2)
    (CLONE_PARENT makes the caller's parent the child's).
    :raises CoracleError: of the first step that failed, after all done steps were undone.
    """
    done: list[Step] = []
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    child = Child(ours)
    try:
        execute(plan.at(HOST), world, done)
        _clone(plan, world, child, theirs, extra_flags)
        theirs.close()
        _accompany(plan, world, child, done, bool(extra_flags & namespace.CLONE_PARENT))
    except BaseException:
        theirs.close()
        ours.close()
        _destroy(child, bool(extra_flags & namespace.CLONE_PARENT))
        roll_back(done, world)
        raise
    return child


def _clone(plan: Plan, world: World, child: Child, theirs: _socket.socket, extra_flags: int) -> None:
    flags = 0 if plan.join_first else plan.flags
    cgroup = world.fds.get("cgroup", -1)
    sys.stdout.flush()
    sys.stderr.flush()
    prctl(PR_SET_DUMPABLE, 1)  # uid_map and friends belong to root while a process is not dumpable
    try:
        child.pid, child.pidfd = namespace.clone(flags | extra_flags, cgroup)
    except OSError as error:
        steps = [step for step in plan.at(JOIN) if type(step).__name__ == "NewNamespaces"]
        raise failure(steps[0], error) if steps else KernelError(error.errno or 0, "clone a child") from error
    if child.pid == 0:
        child.link.close()
        _run_child(plan, world, theirs)
    if not plan.join_first:
        _tell(world, child)


def _tell(world: World, child: Child) -> None:
    """Make the child's pid known, to whoever wants to write it down before anything can go wrong."""
    world.pids["child"] = child.pid
    if note := world.values.get("cloned"):
        note(child.pid)


def _accompany(plan: Plan, world: World, child: Child, done: list[Step], adopted: bool) -> None:
    """The parent's side until the child stands at the gate."""
    if plan.at(PARENT):
        _expect(plan, world, child, GO)
        execute(plan.at(PARENT), world, done)
        _let_go(child)
    if plan.join_first:
        _adopt(plan, world, child, adopted)
    if plan.at(READY):
        _expect(plan, world, child, MOUNTED)
        execute(plan.at(READY), world, done)
        _let_go(child)
    if work := world.values.get("meanwhile"):  # the child is busy with its mounts; so should we be
        work(child)
    _expect(plan, world, child, READY_REPORT)


def _adopt(plan: Plan, world: World, child: Child, adopted: bool) -> None:
    """Exchange the process that joined the namespaces for the one it cloned inside them."""
    packet = _expect(plan, world, child, PID)
    between, between_fd = child.pid, child.pidfd
    child.pid = unpack_from("i", packet, 1)[0]
    try:
        child.pidfd = os.pidfd_open(child.pid)
    except ProcessLookupError:
        raise _dead(child) from None
    _tell(world, child)
    _let_go(child)
    if not adopted:
        os.waitpid(between, 0)
    os.close(between_fd)


def _expect(plan: Plan, world: World, child: Child, kind: bytes) -> bytes:
    """Wait for a packet of ``kind``, taking warnings and notes on the way.

    :raises CoracleError: that the child or the launcher reported, or that it died.
    """
    while packet := _receive(child):
        if packet.startswith(kind):
            return packet
        first = packet[:1]
        if first == WARNING:
            world.warn(packet[1:].decode("utf-8", "replace"))
        elif first == NOTE:
            child.note = packet[1:].decode("utf-8", "replace")
        elif first == ERROR:
            raise _step_error(plan, packet)
        elif first == ANSWER:
            raise _answer_error(packet)
        elif packet.startswith(REPORT):
            raise launch_error(plan, launcher.read_report(packet)[0], child.note)
    raise _dead(child)


def _receive(child: Child) -> bytes:
    try:
        return child.link.recv(_PACKET)
    except ConnectionResetError:  # it died with something of ours unread
        return b""


def _let_go(child: Child) -> None:
    try:
        child.link.send(GO)
    except OSError:
        raise _dead(child) from None


def _dead(child: Child) -> CoracleError:
    return CoracleError(f"the container's first process died during set-up{_cause_of_death(child)}")


def _cause_of_death(child: Child) -> str:
    """How it ended, if we may ask; a small memory limit is the usual reason."""
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    poll.poll(_DEATH_MS)  # its descriptors close before it has ended
    try:
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except OSError:
        return ""
    if result and result.si_status == 9:
        return ": killed, probably because the memory limit is too small to start in"
    return ""


def _step_error(plan: Plan, packet: bytes) -> CoracleError:
    number, errno = unpack_from(_ERROR_FORMAT, packet, 1)
    details = packet[1 + calcsize(_ERROR_FORMAT) :].decode("utf-8", "surrogateescape")
    path, _, explanation = details.partition("\0")
    error = failure(plan.steps[number], OSError(errno, os.strerror(errno), path or None))
    error.hint = explanation or error.hint  # the kernel's own words are better than a guess
    return error


def _answer_error(packet: bytes) -> CoracleError:
    code, errno = unpack_from(_ERROR_FORMAT, packet, 1)
    text = packet[1 + calcsize(_ERROR_FORMAT) :].decode("utf-8", "surrogateescape")
    error = _CODES.get(code, CoracleError)(text)
    if errno:
        error.errno = errno  # type: ignore[attr-defined]
    return error


def launch_error(plan: Plan, report: launcher.Report, note: str) -> CoracleError:
    """What the launcher's report of a failure means; ``note`` is what was seen in the program's file."""
    step = plan.steps[report.step]
    if step is not plan.steps[-1]:
        return failure(step, OSError(report.errno, os.strerror(report.errno)))
    program = getattr(step, "arguments", ["?"])[0]
    kind = CommandNotFoundError if report.errno in (ENOENT, ENOTDIR) and not note else CannotExecuteError
    return kind(f'exec: "{program}": {os.strerror(report.errno).lower()}', note)


def _destroy(child: Child, adopted: bool) -> None:
    if child.pidfd < 0:
        return
    try:
        send_signal(child.pidfd, 9)
    except OSError:
        pass
    if not adopted:
        try:
            os.waitpid(child.pid, 0)
        except ChildProcessError:
            pass
    os.close(child.pidfd)


# --- the child -------------------------------------------------------------------------------


def _run_child(plan: Plan, world: World, link: _socket.socket) -> None:
    """The child's whole life as Python.  Never returns, never unwinds into the parent's stack."""
    try:
        _forbid_imports()
        world.warn = lambda text: _send(link, WARNING + text.encode("utf-8", "replace"))
        world.values["note"] = lambda text: _send(link, NOTE + text.encode("utf-8", "replace"))
        # The launcher resets what Python ignores (SIGPIPE), which is read while /proc is the host's.
        world.values["ignored signals"] = launcher.ignored_signals()
        _do(plan.at(JOIN), plan, world, link)
        if plan.at(PARENT):
            link.send(GO)
            _await_go(link)
        # A process of a joined pid namespace must not read or trace this one (CVE-2016-9962).
        prctl(PR_SET_DUMPABLE, 0)
        if plan.join_first:
            _clone_again(plan, link)
        _do(plan.at(CHILD), plan, world, link)
        if plan.at(READY):
            link.send(MOUNTED)
            _await_go(link)
        _do(plan.at(ENTER), plan, world, link)
        _compile(plan, world).execute(link.fileno())
    except CoracleError as error:
        _send(link, ANSWER + pack(_ERROR_FORMAT, error.exit_code, 0) + str(error).encode("utf-8", "surrogateescape"))
    except BaseException as error:
        text = f"internal error: {type(error).__name__}: {error}"
        _send(link, ANSWER + pack(_ERROR_FORMAT, 125, 0) + text.encode("utf-8", "replace"))
    finally:
        os._exit(125)


def _forbid_imports() -> None:
    """From here on an import would run the image's code with the host's rights (docs/security.md)."""
    sys.path[:] = []
    sys.meta_path[:] = []
    sys.path_hooks[:] = []
    sys.path_importer_cache.clear()


def _do(steps: list[Step], plan: Plan, world: World, link: _socket.socket) -> None:
    for step in steps:
        try:
            step.do(world)
        except OSError as error:
            path = error.filename if isinstance(error.filename, str) else ""
            number = next(index for index, other in enumerate(plan.steps) if other is step)
            explanation = error.strerror if error.strerror != os.strerror(error.errno or 0) else ""
            details = f"{path}\0{explanation or ''}".encode("utf-8", "surrogateescape")
            _send(link, ERROR + pack(_ERROR_FORMAT, number, error.errno or 0) + details)
            os._exit(125)


def _clone_again(plan: Plan, link: _socket.socket) -> None:
    """After joining, one more clone: the caller's children, not the caller, are in the joined pid namespace."""
    pid, _pidfd = namespace.clone(plan.flags | namespace.CLONE_PARENT)
    if pid == 0:
        _await_go(link)
        return
    link.send(PID + pack("i", pid))
    os._exit(0)


def _await_go(link: _socket.socket) -> None:
    if link.recv(16) != GO:
        os._exit(125)  # the engine is gone


def _send(link: _socket.socket, packet: bytes) -> None:
    try:
        link.send(packet[:_PACKET])
    except OSError:  # nobody listens any more
        pass


def _compile(plan: Plan, world: World) -> launcher.Table:
    """The launcher's program: the raw system calls of all init steps."""
    table = launcher.Table()
    table.reset_signals()  # what the engine holds back while it is at work (linux/process, Undisturbed)
    table.call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0, step=len(plan.steps) - 1)
    for number, step in enumerate(plan.steps):
        if step.place == INIT:
            table.step = number
            step.compile(table, world)  # type: ignore[attr-defined]
    return table
