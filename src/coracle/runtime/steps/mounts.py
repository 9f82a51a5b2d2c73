"""Steps that mount into the container's root (runtime-spec config.md, "Mounts")."""

from __future__ import annotations

import os
from stat import S_ISDIR

from coracle.errors import KernelError
from coracle.linux import mount, namespace
from coracle.linux.shell import command, in_root, quote
from coracle.linux.tree import copy_up
from coracle.step import CHILD, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.linux.namespace import IdMap
    from coracle.runtime.mount_options import MountOptions


_RECURSIVE = "=recursive"  # mount(8) from util-linux 2.39 on


def change_tree(point: str, words: list[str]) -> str:
    """A shell line that remounts ``point`` and all mounts below it."""
    each = f'while read -r M; do mount -o remount,bind,{",".join(words)} "$M"; done'
    return f"findmnt -rno TARGET -R {point} | {each}"


def open_target(root: int, destination: str, directory: bool) -> int:
    """The mount point ``destination`` inside ``root``, made if it is missing; an O_PATH descriptor."""
    if destination.strip("/") == "":
        return mount.openat2(root, ".", mount.O_PATH)
    try:
        return mount.openat2(root, destination, mount.O_PATH)
    except FileNotFoundError:
        if directory:
            return mount.make_directories(root, destination)
    parent = mount.make_directories(root, os.path.dirname(destination))
    try:
        name = os.path.basename(destination)
        os.close(
            os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644, dir_fd=parent)
        )
    except FileExistsError:  # a dangling link: fall through to the refusal below
        pass
    finally:
        os.close(parent)
    return mount.openat2(root, destination, mount.O_PATH)


def renewed(tree: int) -> int:
    """A fresh copy of the detached mount ``tree``, where the kernel makes one of detached mounts (Linux 6.15).

    /proc/PID/mountinfo lists mounts by age since Linux 6.8; what was opened early would come first there,
    not in the order of the config (runtime-spec config.md, "Mounts").
    """
    try:
        copy = mount.clone_tree(tree, "", recursive=True)
    except OSError:
        return tree
    os.close(tree)
    return copy


class Mount(Step):
    """Common ground of everything that is attached at ``destination`` with ``options``."""

    __slots__ = ("destination", "options")
    place = CHILD

    def __init__(self, destination: str, options: MountOptions, cause: str) -> None:
        super().__init__(cause)
        self.destination = destination
        self.options = options

    def open(self, world: World) -> int:
        """The detached mount."""
        raise NotImplementedError

    def do(self, world: World) -> None:
        tree = world.fds.pop(f"mount {self.destination}", -1)
        tree = self.open(world) if tree < 0 else renewed(tree)
        directory = S_ISDIR(os.fstat(tree).st_mode)
        target = open_target(world.fds["root"], self.destination, directory)
        try:
            if directory != S_ISDIR(os.fstat(target).st_mode):
                raise KernelError(20, self.prose(), "", "one is a file, the other a directory")
            self.prepare(world, tree, target)
            mount.attach(tree, target)
            self.settle(tree)
        finally:
            os.close(tree)
            os.close(target)

    def prepare(self, world: World, tree: int, target: int) -> None:
        """Last changes to the detached mount, when its target is known."""

    def settle(self, tree: int) -> None:
        """Propagation, which only an attached mount keeps."""
        for mode in self.options.propagation:
            mount.set_attributes(tree, propagation=mode & ~mount.MS_REC, recursive=bool(mode & mount.MS_REC))

    def _make_point(self, directory: bool) -> str:
        point = in_root(self.destination)
        if directory:
            return f"mkdir -p {point}"
        return f"[ -e {point} ] || {{ mkdir -p {in_root(os.path.dirname(self.destination))}; : > {point}; }}"

    def _propagation_lines(self) -> list[str]:
        words = {flag: word for word, flag in mount.PROPAGATION.items()}
        return [f"mount --make-{words[mode]} {in_root(self.destination)}" for mode in self.options.propagation]


class NewFilesystem(Mount):
    """Mount a new file system: proc, sysfs, tmpfs, devpts, mqueue, or a block device's."""

    __slots__ = ("kind", "source")

    def __init__(self, kind: str, source: str, destination: str, options: MountOptions, cause: str) -> None:
        super().__init__(destination, options, cause)
        self.kind = kind
        self.source = source

    # A read-only tmpfs has to be filled with mount points first; see ReadonlyMount.
    def fills_late(self) -> bool:
        return self.kind == "tmpfs" and bool(self.options.attr_set & mount.ATTR_RDONLY)

    def open(self, world: World) -> int:
        options = self.options
        readonly = [("ro", None)] if options.attr_set & mount.ATTR_RDONLY and not self.fills_late() else []
        attributes = options.attr_set & ~(mount.ATTR_RDONLY if self.fills_late() else 0)
        return mount.filesystem(self.kind, [("source", self.source), *readonly, *options.data], attributes)

    def do(self, world: World) -> None:
        if self.kind in ("proc", "sysfs"):
            self._refuse_links(world)
        super().do(world)

    def _refuse_links(self, world: World) -> None:
        """/proc and /sys only on real directories (CVE-2019-19921, CVE-2023-27561)."""
        try:
            flags = mount.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY
            os.close(mount.openat2(world.fds["root"], self.destination, flags))
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise KernelError(20, self.prose(), self.destination, "the image has a link or file there") from None

    def prepare(self, world: World, tree: int, target: int) -> None:
        if self.options.tmpcopyup:
            copy_up(target, tree)

    def prose(self) -> str:
        return f"mount a new {self.kind} on {self.destination}"

    def shell(self) -> list[str]:
        words = [word for word in self.options.words() if not (self.fills_late() and word == "ro")]
        options = ["-o", ",".join(words)] if words else []
        lines = [self._make_point(True)]
        point = in_root(self.destination)
        if self.options.tmpcopyup:
            lines.append(f"COPY=$(mktemp -d); cp -a {point}/. $COPY")
        lines.append(f"{command('mount', '-t', self.kind, *options, self.source)} {point}")
        if self.options.tmpcopyup:
            lines.append(f"cp -a $COPY/. {point}; rm -r $COPY")
        return lines + self._propagation_lines()

    def hint(self, errno: int) -> str:
        if self.kind == "proc" and errno == 1:
            return (
                "the kernel refuses a new /proc where the present one is partly hidden (mount_too_revealing): "
                "inside another container bind its /proc, or run that container with unmasked paths"
            )
        return {
            1: "this file system cannot be mounted in a user namespace",
            19: f"the kernel does not know the file system {self.kind}",
            22: "an option is wrong for this file system",
        }.get(errno, "")


class ReadonlyMount(Step):
    """Make a tmpfs read-only once its mount points have been made."""

    __slots__ = ("destination",)
    place = CHILD

    def __init__(self, destination: str, cause: str) -> None:
        super().__init__(cause)
        self.destination = destination

    def do(self, world: World) -> None:
        target = mount.openat2(world.fds["root"], self.destination, mount.O_PATH)
        try:
            mount.set_attributes(target, set_=mount.ATTR_RDONLY)
        finally:
            os.close(target)

    def prose(self) -> str:
        return f"make {self.destination} read-only, now that it is filled"

    def shell(self) -> list[str]:
        return [f"mount -o remount,bind,ro {in_root(self.destination)}"]


class Bind(Mount):
    """Show the host's ``source`` at ``destination``.  ``opened`` says that a Preopen step comes before."""

    __slots__ = ("gids", "opened", "source", "uids")

    def __init__(
        self,
        source: str,
        destination: str,
        options: MountOptions,
        cause: str,
        uids: list[IdMap] | None = None,
        gids: list[IdMap] | None = None,
    ) -> None:
        super().__init__(destination, options, cause)
        self.source = source
        self.uids = uids or []
        self.gids = gids or []
        self.opened = False

    def open_tree(self) -> int:
        """The detached copy of ``source``, with its attributes; in whatever process calls it."""
        options = self.options
        tree = mount.clone_tree(mount.AT_FDCWD, self.source, options.rbind, options.nofollow)
        if options.attr_set or options.attr_clear:
            mount.set_attributes(tree, options.attr_set, options.attr_clear)
        if options.rec_set or options.rec_clear:
            mount.set_attributes(tree, options.rec_set, options.rec_clear, recursive=True)
        if self.uids or self.gids:
            self._map_ids(tree)
        return tree

    def open(self, world: World) -> int:
        return self.open_tree()

    def propagates(self) -> bool:
        """Whether mounts made later on one side are to appear on the other."""
        return any(mode & (mount.MS_SHARED | mount.MS_SLAVE) for mode in self.options.propagation)

    def _map_ids(self, tree: int) -> None:
        """Idmapped mounts take their map from a user namespace (mount_setattr(2), "ID-mapped mounts")."""
        userns = mapped_namespace(self.uids, self.gids)
        try:
            mount.set_attributes(tree, userns=userns, recursive=self.options.ridmap)
        except OSError as error:
            if error.errno == 22:
                kind = filesystem_name(self.source)
                hint = f"the file system {kind} does not support idmapped mounts" if kind else ""
                raise KernelError(22, f"map the ids of {self.source}", "", hint) from error
            raise
        finally:
            os.close(userns)

    def prose(self) -> str:
        readonly = ", read-only" if (self.options.attr_set | self.options.rec_set) & mount.ATTR_RDONLY else ""
        mapped = ", with mapped ids" if self.uids or self.gids else ""
        return f"bind {self.source} to {self.destination}{readonly}{mapped}"

    def shell(self) -> list[str]:
        point = in_root(self.destination)
        lines = [self._make_point(os.path.isdir(self.source))]
        lines += [f"mount --rbind {self._staged()} {point}"] if self.opened else self._bind_shell(point)
        return lines + (self._propagation_lines() or [f"mount --make-rprivate {point}"])

    def stage(self) -> list[str]:
        """The bind mount on the stage, see :meth:`Step.shell_words`."""
        make = "mkdir" if os.path.isdir(self.source) else ":>"
        return [f"{make} {self._staged()}", *self._bind_shell(self._staged())]

    def _staged(self) -> str:
        return '"$STAGE/mounts"/' + quote(self.destination.replace("%", "%25").replace("/", "%2F"))

    def _bind_shell(self, point: str) -> list[str]:
        kind = "--rbind" if self.options.rbind else "--bind"
        lines = []
        idmap = ""
        if self.uids or self.gids:
            pairs = [f"u:{m.inside}:{m.outside}:{m.size}" for m in self.uids]
            pairs += [f"g:{m.inside}:{m.outside}:{m.size}" for m in self.gids]
            idmap = f" -o X-mount.idmap={quote(' '.join(pairs))}"
            complaint = "echo idmapped mounts need util-linux 2.39 >&2; exit 1"
            lines.append(f"mount --help | grep -q map-users || {{ {complaint}; }}  # older ones ignore the option")
        lines.append(f"mount {kind}{idmap} {quote(self.source)} {point}")
        words = self.options.attribute_words()
        if here := [word for word in words if not word.endswith(_RECURSIVE)]:
            lines.append(f"mount -o remount,bind,{','.join(here)} {point}")
        if below := [word.removesuffix(_RECURSIVE) for word in words if word.endswith(_RECURSIVE)]:
            lines.append(change_tree(point, below))
        return lines

    def hint(self, errno: int) -> str:
        return {2: "the source does not exist on the host", 20: "one is a file, the other a directory"}.get(errno, "")

    def settle(self, tree: int) -> None:
        if not self.options.propagation:
            mount.set_attributes(tree, propagation=mount.MS_PRIVATE, recursive=True)
        super().settle(tree)


def mapped_namespace(uids: list[IdMap], gids: list[IdMap]) -> int:
    """A descriptor of a user namespace with these maps, held by no process."""
    blocked, held = os.pipe()
    pid, pidfd = namespace.clone(namespace.CLONE_NEWUSER)
    if pid == 0:
        os.close(held)
        os.read(blocked, 1)  # until the parent closes its end, or dies
        os._exit(0)
    try:
        for name, maps in (("gid_map", gids), ("uid_map", uids)):
            namespace.write_file(f"/proc/{pid}/{name}", "\n".join(str(line) for line in maps) + "\n")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (blocked, held, pidfd):
            os.close(fd)
        os.waitpid(pid, 0)


def filesystem_name(path: str) -> str:
    """Type of the file system that holds ``path``, from /proc/self/mountinfo; for error messages."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return ""
