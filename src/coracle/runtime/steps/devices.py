"""Steps that fill /dev, always through one descriptor of it (CVE-2026-41579: /dev may be a link)."""

from __future__ import annotations

import os
from stat import S_IFBLK, S_IFCHR, S_IFIFO, S_IMODE

from coracle.errors import KernelError
from coracle.linux import mount
from coracle.linux.shell import in_root, quote
from coracle.linux.terminal import open_pair
from coracle.step import CHILD, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TYPES = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}

# runtime-spec config-linux.md, "Default Devices"; /dev/console comes with the terminal
DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)

# runtime-spec runtime-linux.md, "Dev symbolic links"
DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


_DEVICE = """\
device() { # PATH POINT OWNER -m MODE TYPE MAJOR MINOR: a node, or where mknod(2) is refused, the host's own
  if [ -e "$2" ]; then
    return
  elif mknod "$4" "$5" "$2" "$6" ${7+"$7" "$8"} 2> /dev/null; then
    chown "$3" "$2"
  else
    : > "$2"
    mount --bind --make-private -o ro "$1" "$2"
  fi
}"""


class MakeDevice(Step):
    """A device node; in a user namespace, where mknod(2) is refused, the host's node bound there."""

    __slots__ = ("gid", "kind", "major", "minor", "mode", "path", "uid")
    place = CHILD

    def __init__(
        self, path: str, kind: str, major: int, minor: int, cause: str, mode: int = 0o666, uid: int = 0, gid: int = 0
    ) -> None:
        super().__init__(cause)
        self.path = path
        self.kind = kind
        self.major = major
        self.minor = minor
        self.mode = mode
        self.uid = uid
        self.gid = gid

    def do(self, world: World) -> None:
        directory = mount.make_directories(world.fds["root"], os.path.dirname(self.path))
        name = os.path.basename(self.path)
        try:
            os.mknod(name, _TYPES[self.kind] | S_IMODE(self.mode), os.makedev(self.major, self.minor), dir_fd=directory)
        except FileExistsError:
            self._check_existing(directory, name)
        except PermissionError:
            self._bind(directory, name)
            return
        finally_error = None
        try:
            os.chmod(name, self.mode, dir_fd=directory)  # past the umask
            if self.uid or self.gid:
                os.chown(name, self.uid, self.gid, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            finally_error = error
        os.close(directory)
        if finally_error:
            raise finally_error

    def _check_existing(self, directory: int, name: str) -> None:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        same = info.st_rdev == os.makedev(self.major, self.minor) or self.kind == "p"
        if info.st_mode & 0o170000 != _TYPES[self.kind] or not same:
            raise KernelError(17, self.prose(), "", "the image has something else there")

    def _bind(self, directory: int, name: str) -> None:
        try:
            tree = mount.clone_tree(mount.AT_FDCWD, self.path)
            try:
                mount.set_attributes(tree, set_=mount.ATTR_RDONLY)  # the node is the host's: no chmod(2) through it
                os.close(
                    os.open(name, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=directory)
                )
                target = os.open(name, mount.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                mount.attach(tree, target)
                mount.set_attributes(tree, propagation=mount.MS_PRIVATE)  # the copy follows the host's as a slave
                os.close(target)
            finally:
                os.close(tree)
        finally:
            os.close(directory)

    def prose(self) -> str:
        return f"make device {self.path} ({self.kind} {self.major}:{self.minor})"

    def shell(self) -> list[str]:
        point = in_root(self.path)
        numbers = "" if self.kind == "p" else f" {self.major} {self.minor}"
        lines = [] if self.path.count("/") == 2 else [f"mkdir -p {in_root(os.path.dirname(self.path))}"]
        owner = f"{self.uid}:{self.gid}"
        return [*lines, f"device {quote(self.path)} {point} {owner} -m {self.mode & 0o7777:o} {self.kind}{numbers}"]

    def shell_words(self) -> dict[str, list[str]]:
        return {"function": [_DEVICE]}

    def hint(self, errno: int) -> str:
        return "the host has no such device to bind" if errno == 2 else ""


class DevLinks(Step):
    """/dev/fd, /dev/stdin, /dev/stdout, /dev/stderr, and /dev/ptmx if /dev/pts is there."""

    __slots__ = ("ptmx",)
    place = CHILD

    def __init__(self, ptmx: bool, cause: str) -> None:
        super().__init__(cause)
        self.ptmx = ptmx

    def _links(self) -> dict[str, str]:
        return {**DEV_LINKS, **({"ptmx": "pts/ptmx"} if self.ptmx else {})}

    def do(self, world: World) -> None:
        directory = mount.openat2(world.fds["root"], "/dev", mount.O_PATH | os.O_DIRECTORY)
        try:
            for name, target in self._links().items():
                try:
                    os.symlink(target, name, dir_fd=directory)
                except FileExistsError:
                    if name == "ptmx":  # an image's own node would open the host's terminals
                        os.unlink(name, dir_fd=directory)
                        os.symlink(target, name, dir_fd=directory)
        finally:
            os.close(directory)

    def prose(self) -> str:
        return f"link {', '.join('/dev/' + name for name in self._links())}"

    def shell(self) -> list[str]:
        lines = []
        for name, target in self._links().items():
            point = in_root(f"/dev/{name}")
            force = "-sfn" if name == "ptmx" else "-s"
            guard = "" if name == "ptmx" else f"[ -e {point} ] || [ -L {point} ] || "
            lines.append(f"{guard}ln {force} {target} {point}")
        return lines


class Terminal(Step):
    """A pseudo terminal of the container's own devpts (CVE-2025-52565).

    The master goes to whoever attaches; the slave becomes standard input, output and error.
    """

    __slots__ = ("columns", "rows")
    place = CHILD

    def __init__(self, rows: int, columns: int, cause: str) -> None:
        super().__init__(cause)
        self.rows = rows
        self.columns = columns

    def do(self, world: World) -> None:
        master, slave = open_pair(world.fds["root"], self.rows, self.columns)
        world.values["send console"](master)
        os.close(master)
        world.fds["terminal"] = slave

    def prose(self) -> str:
        size = f" of {self.columns}x{self.rows}" if self.rows else ""
        return f"allocate a terminal{size} in the container's /dev/pts"

    def shell(self) -> list[str]:
        return ["# the terminal: script(1) and the like allocate one; this script uses the caller's"]


class Console(Step):
    """Show the terminal at /dev/console, by descriptor: the image may have planted a link there."""

    __slots__ = ()
    place = CHILD

    def do(self, world: World) -> None:
        tree = mount.clone_tree(world.fds["terminal"], "")
        directory = mount.openat2(world.fds["root"], "/dev", mount.O_PATH | os.O_DIRECTORY)
        try:
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open("console", flags, 0o600, dir_fd=directory))
            except FileExistsError:
                pass
            target = os.open("console", mount.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            mount.attach(tree, target)
            os.close(target)
        finally:
            os.close(directory)
            os.close(tree)

    def prose(self) -> str:
        return "show the terminal at /dev/console"

    def shell(self) -> list[str]:
        return []


def device_from_spec(device: dict[str, Any], cause: str) -> MakeDevice:
    """From a ``linux.devices`` entry of the runtime-spec."""
    return MakeDevice(
        device["path"],
        device["type"],
        device.get("major", 0),
        device.get("minor", 0),
        cause,
        device.get("fileMode", 0o666),
        device.get("uid", 0),
        device.get("gid", 0),
    )
