"""Steps that make, join and furnish namespaces (namespaces(7))."""

from __future__ import annotations

import os

from coracle.errors import UnsupportedError
from coracle.linux import namespace, netlink
from coracle.linux.shell import quote
from coracle.linux.syscall import syscall
from coracle.step import CHILD, ENTER, JOIN, PARENT, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from coracle.linux.namespace import IdMap

    Opener = Callable[[], int]


class NewNamespaces(Step):
    """The namespaces that the child is cloned into.  The executor reads them from the plan's flags."""

    __slots__ = ("kinds",)
    place = JOIN

    def __init__(self, kinds: list[str], cause: str) -> None:
        super().__init__(cause)
        self.kinds = kinds

    def do(self, world: World) -> None:
        """Nothing: the clone itself has done it."""

    def prose(self) -> str:
        return f"clone a child into new {', '.join(self.kinds)} namespaces"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        return {"unshare": [namespace.NAMESPACES[kind][2] for kind in self.kinds if kind != "user"]}

    def hint(self, errno: int) -> str:
        return "user namespaces may be switched off here: see coracle doctor" if errno in (1, 28) else ""


class JoinNamespace(Step):
    """Join the namespace that ``path`` names, such as another container's network."""

    __slots__ = ("kind", "path")
    place = JOIN

    def __init__(self, kind: str, path: str, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind
        self.path = path

    def do(self, world: World) -> None:
        fd = world.fds.pop(f"join {self.kind}", -1)
        if fd < 0:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            namespace.setns(fd, namespace.NAMESPACES[self.kind][0])
        finally:
            os.close(fd)
        if self.kind == "user":
            become_root()

    def prose(self) -> str:
        return f"join the {self.kind} namespace {self.path}"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        return {"nsenter": [f"{namespace.NAMESPACES[self.kind][2]}={self.path}"]}

    def hint(self, errno: int) -> str:
        return f"the file is not a {self.kind} namespace" if errno == 22 else ""


class WriteIdMaps(Step):
    """Give the child's user namespace its ids (user_namespaces(7), "User and group ID mappings")."""

    __slots__ = ("gids", "uids")
    place = PARENT

    def __init__(self, uids: list[IdMap], gids: list[IdMap], cause: str) -> None:
        super().__init__(cause)
        self.uids = uids
        self.gids = gids

    def do(self, world: World) -> None:
        process = f"/proc/{world.pids['child']}"
        if os.geteuid() != 0 and len(self.gids) == 1 and self.gids[0].size == 1:
            # an unprivileged user may map only after giving up setgroups(2) (CVE-2014-8989)
            namespace.write_file(f"{process}/setgroups", "deny")
        for name, maps in (("gid_map", self.gids), ("uid_map", self.uids)):
            namespace.write_file(f"{process}/{name}", "\n".join(str(line) for line in maps) + "\n")

    def prose(self) -> str:
        def listed(maps: list[IdMap]) -> str:
            return ", ".join(f"{m.inside}-{m.inside + m.size - 1} → {m.outside}" for m in maps)

        return f"map user ids {listed(self.uids)} and group ids {listed(self.gids)}"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        """unshare(1) learnt several ranges in util-linux 2.39 only; the files take them in one write(2)."""
        lines = []
        for name, maps in (("gid_map", self.gids), ("uid_map", self.uids)):
            text = "".join(f"{line}\\n" for line in maps)
            lines.append(f"printf '{text}' > /proc/$USERNS/{name}")
        return {"userns": lines}

    def hint(self, errno: int) -> str:
        return "ids outside the caller's own need root or newuidmap" if errno == 1 else ""


class NewUserNamespace(Step):
    """A user namespace made by the process in between, after it joined the other namespaces."""

    __slots__ = ()
    place = JOIN

    def do(self, world: World) -> None:
        namespace.unshare(namespace.CLONE_NEWUSER)

    def prose(self) -> str:
        return "make a user namespace, after joining the others"

    def shell(self) -> list[str]:
        return []  # the script always makes it first


class BecomeRoot(Step):
    """Turn to user 0 of the new user namespace, which owns the other new namespaces."""

    __slots__ = ()
    place = CHILD

    def do(self, world: World) -> None:
        become_root()

    def prose(self) -> str:
        return "become root of the new user namespace"

    def shell(self) -> list[str]:
        return []  # nsenter(1) does it with every user namespace


def become_root() -> None:
    """User and group 0, with no supplementary groups."""
    try:
        os.setgroups([])
    except PermissionError:  # setgroups is denied in a namespace with a single mapped group
        pass
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


class NewCgroupNamespace(Step):
    """A cgroup namespace whose root is the container's own group: made after joining it (cgroup_namespaces(7))."""

    __slots__ = ()
    place = CHILD

    def do(self, world: World) -> None:
        namespace.unshare(namespace.CLONE_NEWCGROUP)

    def prose(self) -> str:
        return "make a cgroup namespace whose root is the container's own group"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        return {"unshare": ["--cgroup"]}


class TimeOffsets(Step):
    """A time namespace with clocks shifted by ``offsets``; entered at the next exec (time_namespaces(7))."""

    __slots__ = ("offsets",)
    place = JOIN

    def __init__(self, offsets: dict[str, tuple[int, int]], cause: str) -> None:
        super().__init__(cause)
        self.offsets = offsets

    def do(self, world: World) -> None:
        namespace.unshare(namespace.CLONE_NEWTIME)
        lines = [f"{clock} {seconds} {nanoseconds}" for clock, (seconds, nanoseconds) in self.offsets.items()]
        if lines:
            namespace.write_file("/proc/self/timens_offsets", "\n".join(lines) + "\n")

    def prose(self) -> str:
        shifts = [f"the {clock} clock shifted by {offset[0]} s" for clock, offset in self.offsets.items()]
        return "make a time namespace" + (" with " + " and ".join(shifts) if shifts else "")

    def shell(self) -> list[str]:
        fractions = [clock for clock, (_, nanoseconds) in self.offsets.items() if nanoseconds]
        return [f"# unshare(1) knows whole seconds only: {', '.join(fractions)} lacks a part"] if fractions else []

    def shell_words(self) -> dict[str, list[str]]:
        return {"unshare": ["--time", *(f"--{clock}={offset[0]}" for clock, offset in self.offsets.items())]}

    def hint(self, errno: int) -> str:
        return "the offset is out of the clock's range" if errno == 34 else ""


class LoopbackUp(Step):
    """Bring up ``lo``, which is down in every new network namespace."""

    __slots__ = ()
    place = CHILD

    def do(self, world: World) -> None:
        netlink.set_up("lo")

    def prose(self) -> str:
        return "bring the loopback interface up"

    def shell(self) -> list[str]:
        return ["ip link set lo up"]


class MoveInterface(Step):
    """Give a network interface of the host to the child (runtime-spec config-linux.md, netDevices)."""

    __slots__ = ("name", "new_name")
    place = PARENT

    def __init__(self, name: str, new_name: str, cause: str) -> None:
        super().__init__(cause)
        self.name = name
        self.new_name = new_name

    def do(self, world: World) -> None:
        netns = os.open(f"/proc/{world.pids['child']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            netlink.move(self.name, netns, self.new_name)
        finally:
            os.close(netns)

    def prose(self) -> str:
        renamed = f" as {self.new_name}" if self.new_name else ""
        return f"move network interface {self.name} into the container{renamed}"

    def shell(self) -> list[str]:
        renamed = f" name {quote(self.new_name)}" if self.new_name else ""
        return [f"ip link set {quote(self.name)} netns $CHILD{renamed}"]


class InterfaceUp(Step):
    """Bring up an interface that was moved in."""

    __slots__ = ("name",)
    place = CHILD

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(cause)
        self.name = name

    def do(self, world: World) -> None:
        netlink.set_up(self.name)

    def prose(self) -> str:
        return f"bring network interface {self.name} up"

    def shell(self) -> list[str]:
        return [f"ip link set {quote(self.name)} up"]


class SetHostname(Step):
    """sethostname(2) in the container's UTS namespace."""

    __slots__ = ("name",)
    place = ENTER

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(cause)
        self.name = name

    def do(self, world: World) -> None:
        encoded = os.fsencode(self.name)
        syscall("sethostname", encoded, len(encoded))

    def prose(self) -> str:
        return f"set the host name to {self.name}"

    def shell(self) -> list[str]:
        return [f"hostname {quote(self.name)}"]


class SetDomainname(SetHostname):
    """setdomainname(2), the NIS domain."""

    __slots__ = ()

    def do(self, world: World) -> None:
        encoded = os.fsencode(self.name)
        syscall("setdomainname", encoded, len(encoded))

    def prose(self) -> str:
        return f"set the domain name to {self.name}"

    def shell(self) -> list[str]:
        return [f"domainname {quote(self.name)}"]


def time_namespace_needs_fork() -> bool:
    """Whether a process enters its own new time namespace only by fork: Linux before 6.3.

    Since commit 2b5f9dad32ed ("fs/exec: switch timens when a task gets a new mm") exec does.
    """
    release = os.uname().release.split(".")
    try:
        return (int(release[0]), int(release[1])) < (6, 3)
    except (IndexError, ValueError):
        raise UnsupportedError(f"cannot read the kernel release {os.uname().release}") from None
