"""Steps of the engine's own records: directories, names and files of a container."""

from __future__ import annotations

import os
from fcntl import LOCK_SH, flock

from coracle.engine.container import claim_name, release_name
from coracle.engine.host import prepare
from coracle.errors import ConflictError
from coracle.linux.shell import command, quote
from coracle.record import Lock, save, write
from coracle.step import HOST, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.image.ready import ReadyImage
    from coracle.paths import Paths
    from coracle.runtime.steps.rootfs import HostRoot


class ContainerDirectory(Step):
    """The bundle directory of a container, and its directory for run-time state with the lock of its maker.

    What will be made elsewhere, ``group`` is the record of its control group, is written down first, so that
    the next command finds it should this one be killed.
    """

    __slots__ = ("directories", "group", "identifier", "paths")
    place = HOST

    def __init__(
        self, paths: Paths, identifier: str, directories: list[str], group: dict[str, Any], cause: str
    ) -> None:
        super().__init__(cause)
        self.paths = paths
        self.identifier = identifier
        self.directories = directories
        self.group = group

    def do(self, world: World) -> None:
        os.makedirs(self.paths.containers(), 0o711, exist_ok=True)
        os.makedirs(self.paths.running(), 0o711, exist_ok=True)
        state = self.paths.state(self.identifier)
        nursery = os.open(self.paths.running(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flock(nursery, LOCK_SH)  # nobody sweeps between the directory and its lock
            os.mkdir(state, 0o700)
            lock = Lock(f"{state}/lock")
            lock.acquire()
        finally:
            os.close(nursery)
        world.fds["container lock"] = lock.fd
        lock.fd = -1
        save(f"{state}/origin.json", {"root": self.paths.root, "cgroup": self.group})
        os.mkdir(self.paths.container(self.identifier), 0o711)
        for name in self.directories:
            os.mkdir(f"{self.paths.container(self.identifier)}/{name}", 0o755)

    def undo(self, world: World) -> None:
        from coracle.engine.removal import remove_directories

        remove_directories(self.paths, self.identifier)

    def fields(self) -> dict[str, object]:
        return {"path": self.paths.container(self.identifier), "directories": self.directories}

    def prose(self) -> str:
        return f"make the container's directory {self.paths.container(self.identifier)}"

    def shell(self) -> list[str]:
        base = self.paths.container(self.identifier)
        return [command("mkdir", "-p", *(f"{base}/{name}" for name in self.directories or ["."]))]

    def undo_shell(self) -> list[str]:
        return [command("rm", "-r", "--one-file-system", self.paths.container(self.identifier))]


class ClaimName(Step):
    """Take a name; nobody else gets it as long as this container exists."""

    __slots__ = ("identifier", "name", "paths")
    place = HOST

    def __init__(self, paths: Paths, identifier: str, name: str, cause: str) -> None:
        super().__init__(cause)
        self.paths = paths
        self.identifier = identifier
        self.name = name

    def do(self, world: World) -> None:
        world.values["name"] = claim_name(self.paths, self.identifier, self.name)

    def undo(self, world: World) -> None:
        if name := world.values.get("name"):
            release_name(self.paths, name, self.identifier)

    def fields(self) -> dict[str, object]:
        return {"name": self.name}

    def prose(self) -> str:
        return f"take the name {self.name}" if self.name else "take a free name"

    def shell(self) -> list[str]:
        return []  # names are the engine's own book-keeping


class ImageLayer(Step):
    """The container's own writable layer over those of its image, which stay as long as it does."""

    __slots__ = ("identifier", "image", "paths")
    place = HOST

    def __init__(self, paths: Paths, identifier: str, image: ReadyImage, cause: str) -> None:
        super().__init__(cause)
        self.paths = paths
        self.identifier = identifier
        self.image = image

    def do(self, world: World) -> None:
        from coracle.image.snapshot import prepare as prepare_snapshot

        prepare_snapshot(self.paths, self.identifier, self.image)

    def fields(self) -> dict[str, object]:
        return {"image": self.image.id, "layers": self.image.layers}

    def prose(self) -> str:
        return "make an empty layer over those of the image"

    def shell(self) -> list[str]:
        base = self.paths.container(self.identifier)
        lines = [command("mkdir", "-p", f"{base}/upper", f"{base}/work")]
        if self.image.layers:
            top = quote(self.image.lower_directories(self.paths)[0])
            lines.append(f"chmod --reference={top} {quote(base)}/upper; chown --reference={top} {quote(base)}/upper")
        return lines


class HostLayers(Step):
    """The layers and the scaffold of a clone of this machine."""

    __slots__ = ("root",)
    place = HOST

    def __init__(self, root: HostRoot, cause: str) -> None:
        super().__init__(cause)
        self.root = root

    def do(self, world: World) -> None:
        prepare(self.root)

    def fields(self) -> dict[str, object]:
        return {"parts": self.root.parts}

    def prose(self) -> str:
        return "make an empty layer for each part of this machine's root"

    def shell(self) -> list[str]:
        lines = []
        for source, upper, work in self.root.parts:
            lines += [command("mkdir", "-p", upper, work), f"chmod --reference={quote(source)} {quote(upper)}"]
        if self.root.scaffold:
            base = quote(self.root.scaffold)
            copy = f'if [ -L "$f" ]; then cp -P "$f" {base}; elif [ -d "$f" ]; then mkdir {base}"$f"; fi'
            lines += [
                f"mkdir {base}",
                f"for f in /*; do {copy}; done",
                f"chmod 1777 {base}/tmp",
            ]
        return lines


class WriteFile(Step):
    """A small file that is the container's or about it."""

    __slots__ = ("data", "exclusive", "mode", "path")
    place = HOST

    def __init__(self, path: str, data: bytes, cause: str, mode: int = 0o644, exclusive: bool = False) -> None:
        super().__init__(cause)
        self.path = path
        self.data = data
        self.mode = mode
        self.exclusive = exclusive

    def do(self, world: World) -> None:
        if not self.exclusive:
            write(self.path, self.data, self.mode)
            os.chmod(self.path, self.mode)  # past the umask
            return
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self.mode)
        except FileExistsError:
            self.exclusive = False  # not ours to remove
            raise ConflictError(
                f"the file {self.path} exists", f"remove it, or give another with {self.cause}"
            ) from None
        os.write(fd, self.data)
        os.close(fd)

    def undo(self, world: World) -> None:
        if self.exclusive:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

    def fields(self) -> dict[str, object]:
        return {"path": self.path, "data": self.data.decode("utf-8", "replace")}

    def prose(self) -> str:
        return f"write {self.path}"

    def shell(self) -> list[str]:
        text = self.data.decode("utf-8", "surrogateescape")
        return [f"printf %s {quote(text)} > {quote(self.path)}", f"chmod {self.mode:o} {quote(self.path)}"]

    def undo_shell(self) -> list[str]:
        return [command("rm", self.path)] if self.exclusive else []


class BindSource(Step):
    """The host directory of ``-v``, made if it is missing, as Docker does."""

    __slots__ = ("path",)
    place = HOST

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(cause)
        self.path = path

    def do(self, world: World) -> None:
        os.makedirs(self.path, 0o755, exist_ok=True)

    def prose(self) -> str:
        return f"make the directory {self.path} on the host, which -v names"

    def shell(self) -> list[str]:
        return [command("mkdir", "-p", self.path)]
