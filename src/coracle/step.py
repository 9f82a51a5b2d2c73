"""A plan is data: every change of the world is a Step, listed first and done second.

One list serves everybody: ``run`` does it, a failure undoes it, ``explain`` prints it, the
unit tests compare it without root.  The explanation cannot drift from what runs, because it
is what runs (docs/decisions/0001-a-plan-is-data.md).

A step happens in one of these places, in this order (:data:`PLACES`):

``host``    in the engine, before the child exists: cgroups, opened mount sources
``join``    in the child, first thing: cgroups and namespaces that exist already
``parent``  in the engine, about the child: id maps, network interfaces
``child``   in the child, in its new namespaces: the root file system, mounts, devices
``ready``   in the engine, once all mounts are there: hooks of the runtime
``enter``   in the child: masks, pivot_root, host name, console
``init``    in the last moments before the program: ids, capabilities, seccomp; compiled to a
            table of raw system calls, because no interpreter may run there (linux/launcher)
"""

from __future__ import annotations

import os

from coracle.errors import CoracleError, KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

HOST = "host"
JOIN = "join"
PARENT = "parent"
CHILD = "child"
READY = "ready"
ENTER = "enter"
INIT = "init"
PLACES = (HOST, JOIN, PARENT, CHILD, READY, ENTER, INIT)


class World:
    """What the steps of one plan share while they are done.

    ``fds`` holds open descriptors by role ("rootfs", "proc", "cgroup", ...), ``pids`` process
    ids by role, ``warn`` takes one line about something asked for but not enforced.
    """

    __slots__ = ("fds", "pids", "values", "warn")

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.fds: dict[str, int] = {}
        self.pids: dict[str, int] = {}
        self.values: dict[str, Any] = {}
        self.warn = warn

    def close(self) -> None:
        """Close what the steps left open in this process; the child has its own copies."""
        for fd in self.fds.values():
            try:
                os.close(fd)
            except OSError:  # taken over or closed by its step
                pass
        self.fds.clear()


class Step:
    """One change of the world.  Subclasses set ``place`` and say what they do, undo and mean.

    ``cause`` is the reason in the user's own terms: the option or config key that asked for it.
    """

    __slots__ = ("cause",)
    place: str = HOST

    def __init__(self, cause: str) -> None:
        self.cause = cause

    def do(self, world: World) -> None:
        """Make the change.  :raises OSError: or a CoracleError; the executor adds the step's name."""
        raise NotImplementedError

    def undo(self, world: World) -> None:
        """Take the change back after a later step failed.  Must tolerate a half-done change."""

    def prose(self) -> str:
        """What this does, as one sentence in the present tense without a full stop."""
        raise NotImplementedError

    def shell(self) -> list[str]:
        """The same as shell lines that can be run; comment lines where no tool can do it.

        ``$ROOT`` is the container's root file system, ``$CHILD`` the new process as the host sees it.
        """
        raise NotImplementedError

    def shell_words(self) -> dict[str, list[str]]:
        """What this adds to the commands of a script that serve several steps at once, by command.

        ``unshare``, ``nsenter``, ``setpriv``: options; ``userns``: lines that write id maps below
        ``$USERNS``; ``stage``: mounts below ``$STAGE``, made with the engine's rights; ``root``: where
        ``$ROOT`` is; ``pivoted``: lines run in the host's root, when it lies on top of the new one;
        ``exec``: commands that go before the program; ``function``: definitions that its lines call.
        """
        return {}

    def undo_shell(self) -> list[str]:
        """Shell lines that remove what :meth:`shell` left on the host."""
        return []

    def hint(self, errno: int) -> str:
        """The likely cause of ``errno`` here and what to do, or nothing."""
        return ""

    def fields(self) -> dict[str, Any]:
        """All data of the step by name, for JSON and for comparison in tests."""
        names = [name for base in type(self).__mro__ for name in getattr(base, "__slots__", ())]
        return {name: getattr(self, name) for name in names if name != "cause" and hasattr(self, name)}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.fields() == other.fields()

    def __hash__(self) -> int:
        return hash((type(self), repr(self.fields())))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.fields().items())
        return f"{type(self).__name__}({values})"


class Plan:
    """An ordered list of steps, and what the one who carries it out must know besides.

    ``flags`` are the namespaces that the child is cloned into, ``join_first`` says that
    the ``join`` steps need a process of their own before the clone (a pid or user namespace to
    be joined: setns(2) moves only the children of the caller into a pid namespace).
    """

    __slots__ = ("flags", "join_first", "steps")

    def __init__(self, steps: list[Step], flags: int = 0, join_first: bool = False) -> None:
        self.steps = steps
        self.flags = flags
        self.join_first = join_first

    def at(self, place: str) -> list[Step]:
        """The steps that happen at ``place``, in order."""
        return [step for step in self.steps if step.place == place]


def failure(step: Step, error: OSError) -> KernelError:
    """The one-line error for ``step``, which the kernel answered with ``error``."""
    code = error.errno or 0
    path = error.filename if isinstance(error.filename, str) and error.filename.startswith("/") else ""
    prose = step.prose()
    return KernelError(code, prose, "" if path in prose else path, step.hint(code))


def execute(steps: Iterable[Step], world: World, done: list[Step]) -> None:
    """Do ``steps`` in order, appending each to ``done`` before it starts, so that undo sees it.

    :raises CoracleError: of the first step that failed; nothing is undone here.
    """
    for step in steps:
        done.append(step)
        try:
            step.do(world)
        except OSError as error:
            raise failure(step, error) from error


def roll_back(done: Sequence[Step], world: World) -> None:
    """Undo ``done`` in reverse; what cannot be undone is warned about and does not stop the rest."""
    for step in reversed(done):
        try:
            step.undo(world)
        except (OSError, CoracleError) as error:
            world.warn(f"could not undo: {step.prose()}: {error}")
