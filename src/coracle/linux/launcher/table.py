"""A table of system calls: prepared by Python, walked by the launcher when Python is gone.

An entry is 72 bytes.  Values that Python knows go in as they are; a pointer goes in as the
address that its target will have, because targets are placed in the pool at once and the pool's
address is fixed.  Entries follow the pool.

    u16 system call, u16 flags, u32 step, u64 arguments[6],
    u64 expected value or bytes to jump over, u8 tolerated errnos[8]
"""

from __future__ import annotations

import struct

from coracle.errors import UsageError
from coracle.linux.launcher import image
from coracle.linux.launcher.pool import MASK, Pointer, Pool, Vector
from coracle.linux.launcher.report import RECORD_SIZE, ready_record
from coracle.linux.syscall import MACHINE, NR, numbers
from coracle.record import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from coracle.linux.launcher.pool import Argument

ENTRY = struct.Struct("<HHI6QQ8s")
# Flag bits.  x86_64.S and aarch64.S have the same list as bit numbers.
RETRY = 1 << 0  # EINTR: once more
TOLERANT = 1 << 1  # any error is as good as success
EXPECT = 1 << 2  # success with another result than expected is a failure
JUMP = 1 << 3  # a result other than 0: skip so many bytes of the entries that follow
SAVE = 1 << 4  # keep the result
SAVED_0 = 1 << 5  # argument 0 is the kept result
SCRATCH_1 = 1 << 6  # argument 1 is the address of 16 bytes to write to
SAVED_AT_2 = 1 << 7  # argument 2 is the address of the kept result
REMEMBER = 1 << 8  # keep a tolerated error for FAIL; EACCES is never overwritten
FAIL = 1 << 9  # no call: fail with the remembered error
LOOP = 1 << 10  # the result is a signal: forward or reap, then call again, for ever
GROUP = 1 << 11  # forward to the child's process group
WARN = 1 << 12  # report a tolerated error
TELL = 1 << 13  # report the result

_PADDING = tuple((0,) * (6 - count) for count in range(7))
_ARGUMENT_0 = 8  # its offset in an entry
_TOLERATED = 8  # as many errnos fit

_EBADF, _ENXIO, _ENOTTY = 9, 6, 25
# ENOENT EACCES ENODEV ENOTDIR ETIMEDOUT ESTALE: with these execvp(3) of glibc tries the next candidate
_NOT_HERE = (2, 13, 19, 20, 110, 116)
_SIGINT, _SIGKILL, _SIGTERM, _SIGCHLD, _SIGSTOP, _SIGTTIN, _SIGTTOU = 2, 9, 15, 17, 19, 21, 22
_EVERY_SIGNAL = frozenset(range(1, 65))
_FORWARDED = _EVERY_SIGNAL - {_SIGKILL, _SIGSTOP, _SIGTTIN, _SIGTTOU}
_SIG_SETMASK = 2
_SIGSET_SIZE = 8  # bytes in the kernel's sigset_t
_DEFAULT_ACTION = bytes(32)  # struct kernel_sigaction: SIG_DFL, no flags, no restorer, empty mask
_F_SETFD, _FD_CLOEXEC = 2, 1
_TIOCSPGRP = 0x5410


class _Placeholder:
    """A first argument that is not known yet."""

    __slots__ = ()


SAVED: Any = _Placeholder()
"""As first argument: the result of the last call that had ``save``."""
_REPORT: Any = _Placeholder()


def ignored_signals() -> tuple[int, ...]:
    """The signals that this process ignores (Python: SIGPIPE, SIGXFSZ), for :meth:`Table.reset_signals`.

    Reads /proc/self/status, so call it before the container's root is entered.  :raises OSError:
    """
    _, _, rest = read("/proc/self/status").partition(b"\nSigIgn:")
    mask = int(rest.partition(b"\n")[0], 16)
    return tuple(number for number in range(1, 65) if mask >> number - 1 & 1)


def _signal_set(signals: Iterable[int]) -> Pointer:
    return Pointer(struct.pack("<Q", sum(1 << number - 1 for number in signals)))


class Table:
    """The calls in the order in which the launcher will make them.

    :attr:`step` is the number that reports carry for the calls added from now on; callers set
    it as they compile one step of their plan after the other.
    """

    __slots__ = ("_channels", "_entries", "_machine", "_numbers", "_pool", "_report_entries", "step")

    def __init__(self, machine: str = MACHINE) -> None:
        self.step = 0
        self._machine = machine
        self._numbers = NR if machine == MACHINE else numbers(machine)
        self._pool = Pool(image.DATA_ADDRESS, image.DATA_HEADER.size)
        self._entries: list[bytes] = []
        self._report_entries: list[int] = []
        self._channels: list[int] = []

    def call(
        self,
        name: str,
        *arguments: Argument,
        step: int | None = None,
        ignore: Iterable[int] = (),
        tolerant: bool = False,
        warn: bool = False,
        expect: int | None = None,
        retry: bool = False,
        save: bool = False,
        tell: bool = False,
    ) -> None:
        """Add the system call ``name``; an error ends the launcher with a report unless told otherwise.

        ``arguments`` are ints, ``None`` (NULL), ``bytes`` (address of a NUL-terminated copy),
        :class:`Pointer`, :class:`Vector` or :class:`Struct`; the first may be ``SAVED``.
        ``ignore`` names up to eight errnos that are as good as success, ``tolerant`` means all of
        them; ``warn`` reports them.  ``expect`` is the only result that is a success, ``retry``
        repeats after EINTR, ``save`` keeps the result, ``tell`` reports it.

        :raises UsageError: for a NUL byte in a string.
        """
        flags = retry * RETRY | tolerant * TOLERANT | warn * WARN | save * SAVE | tell * TELL
        if expect is not None:
            flags |= EXPECT
        self._add(name, arguments, flags, expect or 0, ignore, step)

    def _add(
        self,
        name: str,
        arguments: Sequence[Any],
        flags: int = 0,
        operand: int = 0,
        ignore: Iterable[int] = (),
        step: int | None = None,
    ) -> None:
        if arguments and type(arguments[0]) is _Placeholder:
            if arguments[0] is SAVED:
                flags |= SAVED_0
            else:
                self._report_entries.append(len(self._entries))
            arguments = (0, *arguments[1:])
        tolerated = bytes(ignore)
        if len(tolerated) > _TOLERATED:
            raise UsageError(f"{name}: more than {_TOLERATED} errnos to ignore")
        place = self._pool.place
        values = [place(value) for value in arguments]
        number = self._numbers[name]
        label = self.step if step is None else step
        padding = _PADDING[len(values)]
        self._entries.append(ENTRY.pack(number, flags, label, *values, *padding, operand & MASK, tolerated))

    def reset_signals(self, ignored: Iterable[int] = ()) -> None:
        """Give the ``ignored`` signals their default action and block none, as a program may expect.

        execve(2) itself resets the handled ones only.  Put this after :meth:`gate`: while SIGPIPE
        is still ignored, a report that nobody reads cannot kill.
        """
        for number in ignored:
            self._default_action(number)
        self._block(())

    def _default_action(self, number: int) -> None:
        self._add("rt_sigaction", (number, Pointer(_DEFAULT_ACTION), None, _SIGSET_SIZE))

    def _block(self, signals: Iterable[int]) -> None:
        self._add("rt_sigprocmask", (_SIG_SETMASK, _signal_set(signals), None, _SIGSET_SIZE))

    def ready(self, heard: bool = False) -> None:
        """Report that everything up to here is done; nobody has to listen, unless it is to be ``heard``."""
        record = ready_record(self.step, self._numbers["write"])
        self._add("write", (_REPORT, Pointer(record), RECORD_SIZE), RETRY | (0 if heard else TOLERANT))

    def gate(self, fd: int, ready: bool = True, heard: bool = False) -> None:
        """Wait until somebody writes one byte to ``fd``; at its end of file exit with status 0, quietly.

        ``fd`` must block: a pipe, a socket, or a FIFO opened for reading and writing (one opened for
        reading alone is at end of file until a writer comes).  ``ready`` reports before waiting; with
        ``heard`` the launcher ends if nobody is there to read that.
        """
        if ready:
            self.ready(heard)
        self._channels.append(fd)
        self._add("read", (fd, None, 1), RETRY | SCRATCH_1 | JUMP, ENTRY.size)
        self._add("exit_group", (0,))

    def execve(self, candidates: Sequence[bytes], argv: Sequence[bytes], envp: Sequence[bytes]) -> None:
        """Become the first of ``candidates`` that exists, by the rules of execvp(3).

        A candidate that is not there or may not be executed lets the next one have a try; any other
        error (ENOEXEC, E2BIG, ...) is final.  When all have failed the report says EACCES if one of
        them did, else what the last one said.

        :raises UsageError: for no candidate, or a NUL byte in a string.
        """
        if not candidates:
            raise UsageError("no program to execute")
        arguments, environment = self._pool.place(Vector(argv)), self._pool.place(Vector(envp))
        for candidate in candidates:
            self._add("execve", (candidate, arguments, environment), REMEMBER, ignore=_NOT_HERE)
        self._add("execve", (), FAIL)

    def reap(self, group: bool = False, terminal: int | None = 0) -> None:
        """Fork: the child goes on with the table, this process stays as its init (``--init``).

        The init forwards every signal to the child, or with ``group`` to its process group, reaps
        what is orphaned, and exits as the child does: its status, or 128 + n after signal n.  It
        must be PID 1 or a subreaper (PR_SET_CHILD_SUBREAPER) to be given orphans.  What the table
        did before applies to both, what comes after to the child alone, so gates belong before.
        The child leads a process group of its own, in the foreground of ``terminal`` where that is
        the controlling terminal, so that a shell in it has job control.  Its signal mask is empty.
        """
        self._await_signals()
        init_entries = 1 + self._hang_up_entries() + 1
        # The only jump is "if not 0": the parent jumps over the child's jump over the parent's part.
        self._add("clone", (_SIGCHLD, 0, 0, 0, 0), SAVE | JUMP, ENTRY.size)
        self._add("getpid", (), SAVE | JUMP, init_entries * ENTRY.size)
        self._add("setpgid", (SAVED, 0), TOLERANT)  # both do it, so that no forwarded signal comes too early
        self._hang_up()
        self._serve_signals(_FORWARDED, GROUP if group else 0)
        self._add("setpgid", (0, 0))
        if terminal is not None:
            self._add("ioctl", (terminal, _TIOCSPGRP), SAVED_AT_2, ignore=(_ENOTTY, _ENXIO, _EBADF))
        self._block(())

    def pause(self) -> None:
        """Sleep for ever and reap what is orphaned; exit with status 0 on SIGTERM or SIGINT."""
        self._await_signals()
        self._hang_up()
        self._serve_signals((_SIGCHLD, _SIGTERM, _SIGINT))

    def _await_signals(self) -> None:
        self._block(_EVERY_SIGNAL)  # which also lets the child call tcsetpgrp without SIGTTOU, tty_ioctl(2)
        self._default_action(_SIGCHLD)  # were it ignored, children would vanish without a status, wait(2)

    def _serve_signals(self, signals: Iterable[int], flags: int = 0) -> None:
        self._add("rt_sigtimedwait", (_signal_set(signals), None, None, _SIGSET_SIZE), LOOP | RETRY | flags)

    def _hang_up(self) -> None:
        """Close what CLOEXEC does not close in a process that never executes a program."""
        for fd in (_REPORT, *self._channels):
            self._add("close", (fd,), TOLERANT)

    def _hang_up_entries(self) -> int:
        return 1 + len(self._channels)

    def channels(self, report_fd: int = -1) -> list[int]:
        """The descriptors that must be open when the image built for ``report_fd`` is executed."""
        return sorted({fd for fd in (report_fd, *self._channels) if fd >= 0})

    def build(self, report_fd: int = -1) -> bytes:
        """The launcher as an ELF file; it reports to ``report_fd``.  The table can be built again.

        :raises UnsupportedError: when there is no launcher for the machine.
        """
        fcntl = self._numbers["fcntl"]
        prologue = [
            ENTRY.pack(fcntl, 0, self.step, fd, _F_SETFD, _FD_CLOEXEC, 0, 0, 0, 0, b"")
            for fd in self.channels(report_fd)
        ]
        entries = bytearray().join(prologue + self._entries)
        for index in self._report_entries:
            offset = (len(prologue) + index) * ENTRY.size + _ARGUMENT_0
            struct.pack_into("<Q", entries, offset, report_fd & MASK)
        first = self._pool.align()
        data = self._pool.data + entries
        image.DATA_HEADER.pack_into(data, 0, first, report_fd)
        return image.wrap(data, self._machine)

    def execute(self, report_fd: int = -1, arguments: Sequence[bytes] = (b"coracle-init",)) -> None:
        """Build and become the launcher; see :func:`coracle.linux.launcher.image.execute`."""
        image.execute(self.build(report_fd), self.channels(report_fd), arguments)
