"""Steps that make the root file system of a container and enter it (mount_namespaces(7), pivot_root(2))."""

from __future__ import annotations

import os

from coracle.linux import mount
from coracle.linux.shell import command, quote
from coracle.step import CHILD, ENTER, HOST, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Preopen(Step):
    """Open what a later mount step needs: in the engine, because the child's root user may not reach it by path,
    or in the child, because soon another thing has its path.

    ``stage`` are the shell lines that do it by way of ``$STAGE``.
    """

    __slots__ = ("key", "opener", "place", "stage", "what")

    def __init__(
        self,
        key: str,
        what: str,
        opener: Callable[[], int],
        cause: str,
        stage: list[str] | None = None,
        place: str = HOST,
    ) -> None:
        super().__init__(cause)
        self.key = key
        self.what = what
        self.opener = opener
        self.stage = stage or []
        self.place = place

    def do(self, world: World) -> None:
        world.fds[self.key] = self.opener()

    def undo(self, world: World) -> None:
        fd = world.fds.pop(self.key, -1)
        if fd >= 0:
            os.close(fd)

    def fields(self) -> dict[str, object]:
        return {"key": self.key, "what": self.what}

    def prose(self) -> str:
        if self.place == CHILD:
            return f"open {self.what} as it is on the host, before the new root covers that"
        return f"open {self.what} while the engine's rights still apply"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        return {"stage": self.stage} if self.stage else {}


class PrivatePropagation(Step):
    """Keep the mounts made from here on away from the host (mount_namespaces(7), "Shared subtrees")."""

    __slots__ = ("mode",)
    place = CHILD

    def __init__(self, mode: str, cause: str) -> None:
        super().__init__(cause)
        self.mode = mode

    def do(self, world: World) -> None:
        mount.set_propagation("/", mount.PROPAGATION[self.mode])

    def prose(self) -> str:
        if self.mode.endswith("shared"):
            return "leave the mounts of the host shared, for the container's are to reach it"
        return f"make every mount of the host {self.mode} here, so that nothing made from now on reaches it"

    def shell(self) -> list[str]:
        return [] if self.mode.endswith("shared") else [f"mount --make-{self.mode} /"]

    def shell_words(self) -> dict[str, list[str]]:
        # On a private stage nothing of the script's own making reaches the host.
        return {"stage": [":"]} if self.mode.endswith("shared") else {}


class Root(Step):
    """Attach the root file system over "/" of the child's mount namespace: attach first, fill then.

    Mounting onto a detached tree is refused inside a user namespace; onto an attached one it is
    not.  The process keeps the old root until it pivots, so host paths stay reachable.
    ``opened`` says that a Preopen step comes before.
    """

    __slots__ = ("opened",)
    place = CHILD

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.opened = False

    def open(self) -> int:
        """A detached mount of the root file system."""
        raise NotImplementedError

    def point(self) -> str:
        """The host directory to mount on where mounts have to be attached at once: in a shell script."""
        raise NotImplementedError

    def mount_shell(self) -> list[str]:
        """Lines that mount it on ``$ROOT``."""
        raise NotImplementedError

    def shell(self) -> list[str]:
        if not self.opened:
            return self.mount_shell()
        # In a less privileged mount namespace what came from outside is locked (mount_namespaces(7)); a copy is not.
        return ['mount --rbind "$ROOT" "$ROOT"', 'mount --make-rprivate "$ROOT"', _UNBINDABLE]

    def shell_words(self) -> dict[str, list[str]]:
        return {"root": [quote(self.point())]}

    def stage(self) -> list[str]:
        """The same on the stage, see :meth:`Step.shell_words`."""
        return self.mount_shell()

    def do(self, world: World) -> None:
        root = world.fds.pop("rootfs", -1)
        if root < 0:
            root = self.open()
        mount.set_attributes(root, propagation=mount.MS_PRIVATE, recursive=True)
        here = os.open("/", mount.O_PATH | os.O_CLOEXEC)
        try:
            # pivot_root(2) demands that the new root's parent is not shared, whatever the rest is to be
            mount.set_attributes(here, propagation=mount.MS_PRIVATE)
            mount.attach(root, here)
        finally:
            os.close(here)
        world.fds["root"] = root


class BindRoot(Root):
    """Use the directory ``path`` as the root file system."""

    __slots__ = ("path",)

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def open(self) -> int:
        return mount.clone_tree(mount.AT_FDCWD, self.path, recursive=True)

    def prose(self) -> str:
        return f"use {self.path} as the root file system"

    def point(self) -> str:
        return self.path

    def mount_shell(self) -> list[str]:
        return [f'mount --rbind {quote(self.path)} "$ROOT"', 'mount --make-rprivate "$ROOT"', _UNBINDABLE]

    def hint(self, errno: int) -> str:
        return "the root file system's directory does not exist" if errno == 2 else ""


class OverlayRoot(Root):
    """A root file system that reads from ``lower`` (topmost first) and writes to ``upper`` (overlayfs.rst)."""

    __slots__ = ("lower", "options", "path", "upper", "work")

    def __init__(
        self, lower: list[str], upper: str, work: str, path: str, cause: str, options: list[str] | None = None
    ) -> None:
        super().__init__(cause)
        self.lower = lower
        self.upper = upper
        self.work = work
        self.path = path
        self.options = options or []

    def open(self) -> int:
        return mount.overlay(self.lower, self.upper, self.work, [(option, None) for option in self.options])

    def prose(self) -> str:
        layers = "layer" if len(self.lower) == 1 else "layers"
        return f"mount an overlay of {len(self.lower)} read-only {layers}, with every change going to {self.upper}"

    def point(self) -> str:
        return self.path

    def mount_shell(self) -> list[str]:
        lower = ":".join(map(_escaped, self.lower))
        parts = [f"lowerdir={lower}", f"upperdir={_escaped(self.upper)}", f"workdir={_escaped(self.work)}"]
        return [
            command("mount", "-t", "overlay", "overlay", "-o", ",".join([*parts, *self.options])) + ' "$ROOT"',
            _UNBINDABLE,
        ]

    def hint(self, errno: int) -> str:
        hints = {
            1: "overlayfs in a user namespace needs Linux 5.11, see coracle doctor",
            16: "the upper directory is in use by another container",
            19: "the overlay file system is not available: modprobe overlay",
            22: "the upper directory's file system cannot hold an overlay, such as an overlay itself or NFS",
        }
        return hints.get(errno, "")


# A bind of a directory above, such as -v /:/host, shall not show the container within itself.
_UNBINDABLE = 'mount --make-unbindable "$ROOT"'


def _escaped(path: str) -> str:
    """A path in overlay's option string, where a colon separates and a backslash escapes (overlayfs.rst)."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


class HostRoot(Root):
    """A copy-on-write clone of this machine's own root: one overlay per part, all writes to ``upper``.

    As root the parts are "/" and the disks mounted below it.  In a user namespace the kernel
    refuses an overlay over a directory with locked mounts below (mount_namespaces(7)), so the parts are the
    top-level directories, over a ``scaffold`` of empty ones; those that cannot be overlaid are
    shown read-only.
    """

    __slots__ = ("options", "parts", "path", "scaffold")

    def __init__(
        self, parts: list[tuple[str, str, str]], scaffold: str, path: str, options: list[str], cause: str
    ) -> None:
        super().__init__(cause)
        self.parts = parts
        self.scaffold = scaffold
        self.path = path
        self.options = options

    def open(self) -> int:
        if self.scaffold:
            return mount.clone_tree(mount.AT_FDCWD, self.scaffold)
        return self._overlay(*self.parts[0])

    def _overlay(self, source: str, upper: str, work: str) -> int:
        return mount.overlay([source], upper, work, [(option, None) for option in self.options])

    def do(self, world: World) -> None:
        super().do(world)
        for part in self.parts if self.scaffold else self.parts[1:]:
            target = mount.openat2(world.fds["root"], part[0], mount.O_PATH | os.O_DIRECTORY)
            tree = self._part(world, *part)
            mount.attach(tree, target)
            mount.set_attributes(tree, propagation=mount.MS_PRIVATE, recursive=True)
            os.close(tree)
            os.close(target)

    def _part(self, world: World, source: str, upper: str, work: str) -> int:
        try:
            return self._overlay(source, upper, work)
        except OSError as error:
            if not self.scaffold:
                raise
            world.warn(f"{source} is read-only in the container: no overlay over it ({error.strerror})")
        tree = mount.clone_tree(mount.AT_FDCWD, source, recursive=True)
        mount.set_attributes(tree, set_=mount.ATTR_RDONLY, recursive=True)
        return tree

    def prose(self) -> str:
        names = ", ".join(source for source, _, _ in self.parts)
        return f"mount a copy-on-write clone of this machine ({names}); every change goes to the container's own layer"

    def point(self) -> str:
        return self.path

    def mount_shell(self) -> list[str]:
        lines = [f'mount --bind {quote(self.scaffold)} "$ROOT"'] if self.scaffold else []
        for source, upper, work in self.parts:
            places = [f"lowerdir={_escaped(source)}", f"upperdir={_escaped(upper)}", f"workdir={_escaped(work)}"]
            point = '"$ROOT"' + (quote(source) if source != "/" else "")
            line = command("mount", "-t", "overlay", "overlay", "-o", ",".join([*places, *self.options]))
            if self.scaffold:  # what cannot be overlaid is shown read-only
                bind = f"mount --rbind {quote(source)} {point} && mount -o remount,bind,ro {point}"
                lines.append(f"{line} {point} || {{ {bind}; }}")
            else:
                lines.append(f"{line} {point}")
        return [*lines, 'mount --make-rprivate "$ROOT"', _UNBINDABLE]

    def hint(self, errno: int) -> str:
        if errno == 22:
            return (
                "the host's root or the storage directory is itself an overlay, as in most containers: "
                "set CORACLE_ROOT to a directory on another file system"
            )
        return ""


class Pivot(Step):
    """Make the new root the only one: the host's file systems leave the namespace."""

    __slots__ = ()
    place = ENTER

    def do(self, world: World) -> None:
        mount.pivot(world.fds["root"])

    def prose(self) -> str:
        return "pivot into the root file system and detach the host's"

    def shell(self) -> list[str]:
        return []  # a shell would lose its tools with the old root: see coracle.explain.script

    def hint(self, errno: int) -> str:
        return "the root file system is on rootfs or not a mount point" if errno == 22 else ""


class MoveRoot(Step):
    """Move the new root over "/" and change root to it: for a host whose root is a ramdisk (``--no-pivot``).

    Weaker than pivoting: a process with CAP_SYS_CHROOT can reach what lies below (runc's advice too).
    """

    __slots__ = ()
    place = ENTER

    def do(self, world: World) -> None:
        os.fchdir(world.fds["root"])
        os.chroot(".")
        os.chdir("/")

    def prose(self) -> str:
        return "change root to the mount over the host's root, without pivoting"

    def shell(self) -> list[str]:
        return ["# this script pivots all the same: the program sees no difference"]


class Chroot(Step):
    """Enter the root without a mount namespace of its own: a config that names no mount namespace."""

    __slots__ = ("path",)
    place = ENTER

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def do(self, world: World) -> None:
        os.fchdir(world.fds["root"])
        os.chroot(".")
        os.chdir("/")

    def prose(self) -> str:
        return "change the root directory (weaker than pivot_root: the mount namespace is shared with the host)"

    def shell(self) -> list[str]:
        return []


class PlainRoot(Step):
    """Use ``path`` as it is, without a mount: there is no mount namespace to keep one in."""

    __slots__ = ("path",)
    place = CHILD

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def do(self, world: World) -> None:
        world.fds["root"] = os.open(self.path, mount.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def prose(self) -> str:
        return f"use {self.path} as the root directory, without a mount namespace"

    def shell(self) -> list[str]:
        return [
            "# a shell can change root only by pivoting, so this script does make a mount namespace",
            "mount --make-rprivate /",
            'mount --rbind "$ROOT" "$ROOT"',
        ]

    def shell_words(self) -> dict[str, list[str]]:
        return {"root": [quote(self.path)], "unshare": ["--mount"]}


class RootPropagation(Step):
    """The propagation of "/" inside the container (runtime-spec, rootfsPropagation)."""

    __slots__ = ("mode",)
    place = ENTER

    def __init__(self, mode: str, cause: str) -> None:
        super().__init__(cause)
        self.mode = mode

    def do(self, world: World) -> None:
        mount.set_propagation("/", mount.PROPAGATION[self.mode])

    def prose(self) -> str:
        return f"make the container's root mount {self.mode}"

    def shell(self) -> list[str]:
        return []

    def shell_words(self) -> dict[str, list[str]]:
        # The path in /proc leads to the new root itself, not to what is stacked on it; mount(8) must not resolve it.
        return {"pivoted": [f"mount --no-canonicalize --make-{self.mode} /proc/$CHILD/root"]}


class ReadonlyRoot(Step):
    """Make the root mount read-only, after everything that had to be made in it."""

    __slots__ = ()
    place = ENTER

    def do(self, world: World) -> None:
        root = os.open("/", mount.O_PATH | os.O_CLOEXEC)
        try:
            mount.set_attributes(root, set_=mount.ATTR_RDONLY)
        finally:
            os.close(root)

    def prose(self) -> str:
        return "make the root file system read-only"

    def shell(self) -> list[str]:
        return ['mount -o remount,bind,ro "$ROOT"']


class WorkingDirectory(Step):
    """Make the working directory if the image lacks it, as Docker and crun do."""

    __slots__ = ("path",)
    place = CHILD

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def do(self, world: World) -> None:
        try:
            os.close(mount.make_directories(world.fds["root"], self.path))
        except OSError as error:
            if error.errno != 30:  # on a read-only file system chdir will tell
                raise

    def prose(self) -> str:
        return f"make sure that the working directory {self.path} exists"

    def shell(self) -> list[str]:
        return [f'mkdir -p "$ROOT"{quote(self.path)}']
