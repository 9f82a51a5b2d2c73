"""A container's own directories over the shared layers: upper and work of an overlay mount.

Cheap to import: ``run`` and ``rm`` use it.  Unpacking layers is unpack.py's.
"""

from __future__ import annotations

import os
from stat import S_IMODE, S_ISREG

from coracle import record
from coracle.errors import ContentError, KernelError
from coracle.image.reference import is_digest
from coracle.image.removal import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.image.ready import ReadyImage
    from coracle.paths import Paths


class Snapshot:
    """The directories of one container's overlay mount; ``lower`` has the topmost first."""

    __slots__ = ("lower", "upper", "work")

    def __init__(self, lower: list[str], upper: str, work: str) -> None:
        self.lower = lower
        self.upper = upper
        self.work = work


class Pin:
    """Which image and layers a container stands on: the collector leaves them alone."""

    __slots__ = ("image_id", "layers")

    def __init__(self, image_id: str, layers: list[str]) -> None:
        self.image_id = image_id
        self.layers = layers


def prepare(paths: Paths, identifier: str, image: ReadyImage) -> Snapshot:
    """Create upper and work of the container ``identifier``, whose directory exists, and pin its image.

    The upper directory takes mode and owner from the image's topmost layer: it is what ``/`` shows.
    :raises KernelError: if they exist already, or for a full disk; what was made is gone then.
    """
    base = paths.container(identifier)
    snapshot = Snapshot(image.lower_directories(paths), f"{base}/upper", f"{base}/work")
    try:
        os.mkdir(snapshot.upper, 0o700)
        try:
            _imitate(snapshot.upper, snapshot.lower[0] if snapshot.lower else "")
            os.mkdir(snapshot.work, 0o700)
            record.save(paths.pin(identifier), {"image": image.id, "layers": image.layers})
        except BaseException:
            remove(paths, identifier)
            raise
    except OSError as error:
        raise KernelError(error.errno or 0, "create", error.filename or snapshot.upper) from error
    return snapshot


def existing(paths: Paths, identifier: str) -> Snapshot:
    """The directories of a container that was prepared before, to mount them again.

    :raises ContentError: if its pin is missing or damaged.
    """
    pin = _read_pin(paths, identifier)
    if pin is None:
        raise ContentError(f"container {identifier} has no record of its image: {paths.pin(identifier)}")
    base = paths.container(identifier)
    lower = [f"{paths.layer(key)}/diff" for key in reversed(pin.layers)]
    return Snapshot(lower, f"{base}/upper", f"{base}/work")


def _read_pin(paths: Paths, identifier: str) -> Pin | None:
    try:
        document = record.load(paths.pin(identifier))
        return Pin(str(document["image"]), [key for key in document["layers"] if is_digest(key)])
    except (FileNotFoundError, NotADirectoryError, ContentError, KeyError, TypeError):
        return None


def pins(paths: Paths) -> list[Pin]:
    """The pins of all containers."""
    try:
        identifiers = os.listdir(paths.containers())
    except FileNotFoundError:
        return []
    found = [_read_pin(paths, identifier) for identifier in identifiers]
    return [pin for pin in found if pin is not None]


def _imitate(upper: str, lower: str) -> None:
    if not lower:  # FROM scratch: nothing below
        os.chmod(upper, 0o755)
        return
    info = os.stat(lower)
    if (info.st_uid, info.st_gid) != (os.geteuid(), os.getegid()):
        os.chown(upper, info.st_uid, info.st_gid)
    os.chmod(upper, S_IMODE(info.st_mode))
    os.utime(upper, ns=(info.st_atime_ns, info.st_mtime_ns))


def remove(paths: Paths, identifier: str) -> None:
    """Delete upper and work of a container and let go of its image; what does not exist is no error.

    Renamed away first, so that a half-deleted upper directory can never be mounted again.
    :raises ConflictError: while something is mounted inside.
    :raises KernelError: for whatever else the kernel refuses.
    """
    base = paths.container(identifier)
    for name in ("upper", "work"):
        doomed = f"{base}/{name}.removed"
        try:
            os.rename(f"{base}/{name}", doomed)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise KernelError(error.errno or 0, "remove", f"{base}/{name}") from error
        remove_tree(doomed)
    try:
        os.unlink(paths.pin(identifier))
    except FileNotFoundError:
        pass


def usage(directory: str) -> tuple[int, int]:
    """Bytes on disk and number of entries below ``directory``; hard links count once, mounts not at all."""
    size = count = 0
    seen: set[int] = set()
    pending = [directory]
    device = os.stat(directory).st_dev
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if info.st_dev != device or (S_ISREG(info.st_mode) and info.st_nlink > 1 and info.st_ino in seen):
                    continue
                if info.st_nlink > 1:
                    seen.add(info.st_ino)
                size += info.st_blocks * 512
                count += 1
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return size, count
