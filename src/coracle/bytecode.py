"""All compiled modules of this package in one file, for commands that last a few milliseconds.

A container's start takes a hundred modules.  Python's own finder spends 35 µs on each to find, check
and read its ``.pyc``; with an index of offsets it is a stat(2) and a pread(2), and a start is 3.5 ms shorter
(docs/decisions/0012-start-without-site.md).  The pack lies beside the ``.pyc`` files, is written by whoever may
write those, and follows their rule: an entry counts only if its source has the same time and size (PEP 3147).
Without a valid pack everything works as ever.

    8 bytes   length of the index
    index     marshal: {module: (offset, length, is a package, mtime, size)}
    code      marshal, one module after the other
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec
from marshal import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    Entry = tuple[int, int, bool, int, int]

_NAME = "coracle"
ROOT = os.path.dirname(os.path.abspath(__file__))
_FORMAT = 2  # to be raised with every change of the layout
PACK = f"{ROOT}/__pycache__/{_NAME}.{sys.implementation.cache_tag}-{sys.hexversion:x}-{_FORMAT}.pack"


class PackFinder:
    """Finder and loader for the modules of one pack.  :raises OSError: :raises ValueError: if it is none."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        length = int.from_bytes(os.pread(self.fd, 8, 0), "little")
        if not 0 < length < 1 << 20:
            raise ValueError(f"{path} is damaged")
        self.start = 8 + length
        self.index: dict[str, Entry] = loads(os.pread(self.fd, length, 8))
        self.stale = False

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> Any:
        """The spec of a module whose source is what was packed, or None."""
        entry = self.index.get(name)
        if entry is None:
            self.stale |= name.startswith(_NAME + ".")
            return None
        _, _, package, mtime, size = entry
        source = f"{ROOT}{name[len(_NAME) :].replace('.', '/')}{'/__init__.py' if package else '.py'}"
        try:
            info = os.stat(source)
        except OSError:
            return None
        if int(info.st_mtime) != mtime or info.st_size != size:
            self.stale = True
            return None
        spec = ModuleSpec(name, self, origin=source, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(source)]
        return spec

    def create_module(self, _spec: object) -> None:
        """The ordinary kind of module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        offset, length = self.index[module.__name__][:2]
        exec(loads(os.pread(self.fd, length, self.start + offset)), module.__dict__)


def install(path: str = PACK) -> PackFinder | None:
    """Put the pack in front of the other finders; None if there is none to rely on."""
    try:
        finder = PackFinder(path)
    except (OSError, ValueError, EOFError, TypeError):
        return None
    sys.meta_path.insert(0, finder)
    return finder


def refresh(finder: PackFinder | None, path: str = PACK) -> bool:
    """Write the pack again if it was missing or out of date, and this user may; whether it was written."""
    if (finder is not None and not finder.stale) or not os.access(os.path.dirname(path), os.W_OK):
        return False
    try:
        write(path)
    except (OSError, SyntaxError):  # a full disk, a source that is being edited
        return False
    return True


def write(path: str) -> None:
    """Pack every module of the package, atomically."""
    index: dict[str, Entry] = {}
    codes: list[bytes] = []
    offset = 0
    for directory, _, files in os.walk(ROOT):
        for file in sorted(files):
            if not file.endswith(".py"):
                continue
            source = f"{directory}/{file}"
            package = file == "__init__.py"
            parts = os.path.relpath(directory if package else source.removesuffix(".py"), ROOT).split("/")
            name = ".".join([_NAME, *(part for part in parts if part != ".")])
            info = os.stat(source)
            with open(source, "rb") as text:  # without docstrings, which cost a tenth of the memory
                code = dumps(compile(text.read(), source, "exec", dont_inherit=True, optimize=2))
            index[name] = (offset, len(code), package, int(info.st_mtime), info.st_size)
            codes.append(code)
            offset += len(code)
    head = dumps(index)
    from coracle.record import write as write_file

    write_file(path, len(head).to_bytes(8, "little") + head + b"".join(codes), 0o644)
