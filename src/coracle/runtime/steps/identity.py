"""Steps of the last moments: what the program may do, as whom (credentials(7), capabilities(7), seccomp(2)).

They happen after Python is gone.  ``compile`` adds the raw system calls to the launcher's
table; the launcher makes them one after the other and then executes the program.
"""

from __future__ import annotations

import os
from struct import pack, unpack

from coracle.linux import capability
from coracle.linux.launcher import SAVED, Pointer, Struct, Table
from coracle.linux.rlimit import RLIMITS
from coracle.linux.shell import quote
from coracle.linux.syscall import buffer, syscall
from coracle.step import INIT, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.linux.seccomp import Program

PR_SET_KEEPCAPS = 8
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
SECCOMP_SET_MODE_FILTER = 1
EINVAL, EPERM = 22, 1
_PREFIX = " \\"


_LIMIT = """\
limit() { # NAME SOFT HARD, or as much as this machine allows
  if ! prlimit --pid $$ "--$1=$2:$3"; then
    CEILING=$(prlimit --pid $$ "--$1" --noheadings --output HARD)
    prlimit --pid $$ "--$1=$2:$CEILING" || prlimit --pid $$ "--$1=$CEILING:$CEILING"
  fi
}"""


class InitStep(Step):
    """A step that becomes entries of the launcher's table."""

    __slots__ = ()
    place = INIT

    def compile(self, table: Table, world: World) -> None:
        """Add this step's system calls; ``table.step`` already carries its number, for error reports."""
        raise NotImplementedError

    def do(self, world: World) -> None:
        raise AssertionError("an init step is compiled, not done")


class Rlimit(InitStep):
    """A resource limit (getrlimit(2)); above what this process may set, it is clamped with a warning."""

    __slots__ = ("hard", "name", "soft")

    def __init__(self, name: str, soft: int, hard: int, cause: str) -> None:
        super().__init__(cause)
        self.name = name
        self.soft = soft
        self.hard = hard

    def compile(self, table: Table, world: World) -> None:
        soft, hard = self._permitted(world)
        table.call("prlimit64", 0, RLIMITS[self.name], Pointer(pack("QQ", soft, hard)), 0)

    def _permitted(self, world: World) -> tuple[int, int]:
        """Raising the hard limit takes CAP_SYS_RESOURCE in the initial user namespace."""
        current = buffer(16)
        syscall("prlimit64", 0, RLIMITS[self.name], None, current)
        ceiling = unpack("QQ", bytes(current))[1]
        soft, hard = self.soft % 2**64, self.hard % 2**64
        if hard <= ceiling:
            return soft, hard
        try:
            syscall("prlimit64", 0, RLIMITS[self.name], pack("QQ", min(soft, ceiling), hard), None)
        except PermissionError:
            world.warn(
                f"{self.name} {_limit(hard)} is above this machine's hard limit of {_limit(ceiling)} and raising it "
                f"needs CAP_SYS_RESOURCE: using {_limit(ceiling)}"
            )
            return min(soft, ceiling), ceiling
        return soft, hard

    def prose(self) -> str:
        return f"limit {self.name} to {_limit(self.soft)}, at most {_limit(self.hard)}"

    def shell(self) -> list[str]:
        return [f"limit {self.name.removeprefix('RLIMIT_').lower()} {_limit(self.soft)} {_limit(self.hard)}"]

    def shell_words(self) -> dict[str, list[str]]:
        return {"function": [_LIMIT]}

    def hint(self, errno: int) -> str:
        return "the soft limit is above the hard one" if errno == EINVAL else ""


def _limit(value: int) -> str:
    return "unlimited" if value % 2**64 == 2**64 - 1 else str(value)


class RawCall(InitStep):
    """One system call that shapes the process: umask, personality, scheduling, ..."""

    __slots__ = ("arguments", "line", "name", "tolerant", "what")

    def __init__(
        self,
        name: str,
        arguments: tuple[int | bytes, ...],
        what: str,
        line: str,
        cause: str,
        tolerant: tuple[int, ...] = (),
    ) -> None:
        super().__init__(cause)
        self.name = name
        self.arguments = arguments
        self.what = what
        self.line = line
        self.tolerant = tolerant

    def compile(self, table: Table, world: World) -> None:
        arguments = [Pointer(value) if isinstance(value, bytes) else value for value in self.arguments]
        table.call(self.name, *arguments, ignore=self.tolerant)

    def fields(self) -> dict[str, object]:
        return {"call": self.name, "what": self.what, "arguments": [_plain(value) for value in self.arguments]}

    def prose(self) -> str:
        return self.what

    def shell(self) -> list[str]:
        return [] if self.line.endswith(_PREFIX) else [self.line]

    def shell_words(self) -> dict[str, list[str]]:
        """A line that ends in a backslash goes before the program's own."""
        return {"exec": [self.line.removesuffix(_PREFIX)]} if self.line.endswith(_PREFIX) else {}


def _plain(value: int | bytes) -> int | str:
    return value.hex() if isinstance(value, bytes) else value


class BoundingSet(InitStep):
    """Give up for ever, for all descendants, the capabilities not in ``keep``."""

    __slots__ = ("keep", "last")

    def __init__(self, keep: int, last: int, cause: str) -> None:
        super().__init__(cause)
        self.keep = keep
        self.last = last

    def compile(self, table: Table, world: World) -> None:
        for bit in range(self.last + 1):
            if not self.keep >> bit & 1:
                table.call("prctl", PR_CAPBSET_DROP, bit, 0, 0, 0, ignore=(EINVAL,))

    def fields(self) -> dict[str, object]:
        return {"keep": capability.names(self.keep)}

    def prose(self) -> str:
        kept = capability.names(self.keep)
        return f"limit the bounding set to {len(kept)} capabilities: {_short(kept)}"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        return {"setpriv": [f"--bounding-set={_only(self.keep)}"]}


def _only(capabilities: int) -> str:
    """A set that is exactly ``capabilities``, in the words of setpriv(1)."""
    words = [name.lower() for name in capability.names(capabilities)]
    # One without a name, of a newer kernel, is cap_N there, too.
    return ",".join(["-all", *(f"+{word if word[4:].isdigit() else word.removeprefix('cap_')}" for word in words)])


def _short(names: list[str]) -> str:
    return ", ".join(name.removeprefix("CAP_") for name in names) or "none"


class SetIds(InitStep):
    """Become user ``uid`` and group ``gid``, with the supplementary ``groups``."""

    __slots__ = ("denied", "gid", "groups", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], cause: str, denied: bool = False) -> None:
        """``denied``: the user namespace forbids setgroups(2), as one with a single id does (CVE-2014-8989)."""
        super().__init__(cause)
        self.uid = uid
        self.gid = gid
        self.groups = groups
        self.denied = denied

    def compile(self, table: Table, world: World) -> None:
        table.call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
        groups = pack(f"{len(self.groups)}I", *self.groups)
        if not self.denied or not {self.gid}.issuperset(self.groups):  # else there is nothing to lose
            table.call("setgroups", len(self.groups), Pointer(groups))
        table.call("setresgid", self.gid, self.gid, self.gid)
        table.call("setresuid", self.uid, self.uid, self.uid)

    def prose(self) -> str:
        more = f" and groups {', '.join(map(str, self.groups))}" if self.groups else ""
        return f"become user {self.uid}, group {self.gid}{more}"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        groups = "--keep-groups" if self.denied and {self.gid}.issuperset(self.groups) else groups
        return {"setpriv": [f"--reuid={self.uid}", f"--regid={self.gid}", groups]}

    def hint(self, errno: int) -> str:
        hints = {
            EINVAL: "the id is not mapped in the container's user namespace",
            EPERM: "supplementary groups need a range in /etc/subgid: see coracle doctor" if self.denied else "",
        }
        return hints.get(errno, "")


class Capabilities(InitStep):
    """The process's capability sets, as bit masks (capabilities(7), "Thread capability sets")."""

    __slots__ = ("ambient", "effective", "inheritable", "permitted")

    def __init__(self, effective: int, permitted: int, inheritable: int, ambient: int, cause: str) -> None:
        super().__init__(cause)
        self.effective = effective
        self.permitted = permitted
        self.inheritable = inheritable
        self.ambient = ambient

    def compile(self, table: Table, world: World) -> None:
        header, data = capability.capset_data(self.effective, self.permitted, self.inheritable)
        table.call("capset", Pointer(header), Pointer(data))
        table.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, ignore=(EINVAL,))
        for bit in range(64):
            if self.ambient >> bit & 1:
                # EPERM: not inheritable as well; runc's own default config asks for such, and goes without
                table.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0, ignore=(EPERM,))

    def fields(self) -> dict[str, object]:
        return {name: capability.names(getattr(self, name)) for name in sorted(self.__slots__)}

    def prose(self) -> str:
        return f"keep {len(capability.names(self.effective))} effective capabilities"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        """The permitted and effective sets follow from these and the user at the next exec (capabilities(7))."""
        ambient = self.ambient & self.inheritable  # as in compile
        return {"setpriv": [f"--inh-caps={_only(self.inheritable)}", f"--ambient-caps={_only(ambient)}"]}

    def hint(self, errno: int) -> str:
        return "a capability is asked for that this process does not have itself: see coracle doctor"


class NoNewPrivileges(InitStep):
    """No exec from here on gains privileges, set-user-ID or not (prctl(2), PR_SET_NO_NEW_PRIVS)."""

    __slots__ = ()

    def compile(self, table: Table, world: World) -> None:
        table.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    def prose(self) -> str:
        return "forbid gaining privileges by exec"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        return {"setpriv": ["--no-new-privs"]}


class Seccomp(InitStep):
    """Filter system calls from here on (seccomp(2)).

    With no_new_privs it is the last call before exec; without, CAP_SYS_ADMIN is needed and it
    comes before the capabilities are given up.
    """

    __slots__ = ("program",)

    def __init__(self, program: Program, cause: str) -> None:
        super().__init__(cause)
        self.program = program

    def compile(self, table: Table, world: World) -> None:
        # struct sock_fprog: the number of instructions and where they are
        program = Struct("HP", len(self.program.filter) // 8, Pointer(self.program.filter))
        table.call("seccomp", SECCOMP_SET_MODE_FILTER, self.program.flags, program)

    def fields(self) -> dict[str, object]:
        return {"instructions": len(self.program.filter) // 8, "flags": self.program.flags}

    def prose(self) -> str:
        return f"filter system calls with a BPF program of {len(self.program.filter) // 8} instructions"

    def shell(self) -> list[str]:
        return ["# no tool of Debian 12 can do this; util-linux 2.41 brings setpriv --seccomp-filter FILE"]


class SecurityLabel(InitStep):
    """The AppArmor profile or SELinux label that takes effect at exec (proc(5), attr/exec).

    Written by the launcher, for a label is spent at the next exec, through the private /proc.
    """

    __slots__ = ("kind", "label")

    def __init__(self, kind: str, label: str, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind
        self.label = label

    def compile(self, table: Table, world: World) -> None:
        proc = world.fds["proc"]
        os.set_inheritable(proc, True)
        apparmor = self.kind == "apparmor"
        text = os.fsencode(f"exec {self.label}" if apparmor else self.label)
        table.call(
            "openat", proc, b"self/attr/apparmor/exec" if apparmor else b"self/attr/exec", os.O_WRONLY, save=True
        )
        table.call("write", SAVED, Pointer(text), len(text))
        table.call("close", SAVED)
        table.call("close", proc)

    def prose(self) -> str:
        return f"run the program under the {self.kind} label {self.label}"

    def shell(self) -> list[str]:
        return [f"# {self.kind} label {self.label}: aa-exec -p PROFILE or runcon LABEL before the program"]


class Gate(InitStep):
    """Wait until ``start`` opens the gate."""

    __slots__ = ()

    def compile(self, table: Table, world: World) -> None:
        table.gate(world.fds["gate"], heard=True)  # a maker that was killed opens no gate

    def prose(self) -> str:
        return "wait to be started"

    def shell(self) -> list[str]:
        return []


class Pause(InitStep):
    """Sleep for ever, reaping orphans: a config without a process, or a pod's first process."""

    __slots__ = ()

    def compile(self, table: Table, world: World) -> None:
        table.pause()

    def prose(self) -> str:
        return "sleep for ever, for there is no program"

    def shell(self) -> list[str]:
        return ["# no program"]


class Reaper(InitStep):
    """Leave a small process 1 behind that forwards signals and reaps orphans (``--init``)."""

    __slots__ = ()

    def compile(self, table: Table, world: World) -> None:
        table.reap()

    def prose(self) -> str:
        return "fork: process 1 forwards signals to the program and reaps orphans"

    def shell(self) -> list[str]:
        return ["# --init: tini -- COMMAND, where the image has it"]


class Execute(InitStep):
    """Become the program (execve(2))."""

    __slots__ = ("arguments", "cwd", "environment")

    def __init__(self, arguments: list[str], environment: list[str], cwd: str, cause: str) -> None:
        super().__init__(cause)
        self.arguments = arguments
        self.environment = environment
        self.cwd = cwd

    def compile(self, table: Table, world: World) -> None:
        table.reset_signals(world.values.get("ignored signals", ()))
        if world.values.get("chdir as user"):
            table.call("chdir", os.fsencode(self.cwd))
        environment = [os.fsencode(entry) for entry in world.values.get("environment", self.environment)]
        candidates = [os.fsencode(path) for path in world.values["program"]]
        table.execve(candidates, [os.fsencode(word) for word in self.arguments], environment)

    def prose(self) -> str:
        return f"execute {' '.join(quote(word) for word in self.arguments)}"

    def shell(self) -> list[str]:
        return []  # the last line of the script
