"""Commands on images: images, rmi, tag, import, load, save; and export of a container's file system."""

from __future__ import annotations

import os
import sys

from coracle.cli.main import complain
from coracle.cli.table import ago, columns, size
from coracle.engine.container import all_containers, find
from coracle.engine.options import FLAG, LIST, VALUE, Option, Table, parse, values
from coracle.engine.options.help import help_text
from coracle.engine.options.parser import boolean
from coracle.engine.storage import own_store
from coracle.errors import CoracleError, NotFoundError, UsageError
from coracle.image import images as store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, BinaryIO

    from coracle.engine.options import Options
    from coracle.paths import Paths

_FORMATS = ("docker-archive", "oci-archive", "oci-dir")


def _flag(name: str, short: str, line: str) -> Option:
    return Option(name, short, FLAG, boolean, False, "", line)


_HELP = _flag("help", "", "Print usage")
_QUIET = _flag("quiet", "q", "Only show ids")
_INPUT = Option(
    "input", "i", VALUE, values.non_empty, "", "file", "Read from a file or directory instead of standard input"
)
_OUTPUT = Option(
    "output", "o", VALUE, values.non_empty, "", "path", "Write to a file or directory instead of standard output"
)
_TABLES: dict[str, tuple[tuple[Option, ...], str, str]] = {
    "images": (
        (
            _QUIET,
            _flag("no-trunc", "", "Do not shorten ids"),
            _flag("digests", "", "Show digests"),
            Option("format", "", VALUE, values.choice("table", "json"), "table", "form", "table or json"),
        ),
        "coracle images [OPTIONS] [NAME]",
        "List images",
    ),
    "rmi": (
        (_flag("force", "f", "Remove all names, and from under containers"),),
        "coracle rmi [OPTIONS] IMAGE...",
        "Remove images",
    ),
    "tag": ((), "coracle tag IMAGE NAME[:TAG]...", "Give an image another name"),
    "import": (
        (
            Option("change", "c", LIST, values.non_empty, [], "instruction", "Apply a Dockerfile instruction"),
            Option("message", "m", VALUE, values.text, "", "text", "Message for the image's history"),
            Option("platform", "", VALUE, values.text, "", "os/arch", "Platform of the image"),
        ),
        "coracle import [OPTIONS] FILE|- [NAME[:TAG]]",
        "Make an image from a root file system's tar archive",
    ),
    "load": ((_INPUT, _QUIET), "coracle load [OPTIONS]", "Load images from an archive or an OCI layout directory"),
    "save": (
        (_OUTPUT, Option("format", "", VALUE, values.choice(*_FORMATS), _FORMATS[0], "form", ", ".join(_FORMATS))),
        "coracle save [OPTIONS] IMAGE...",
        "Write images to an archive or OCI layout",
    ),
    "export": ((_OUTPUT,), "coracle export [OPTIONS] CONTAINER", "Write a container's file system as a tar archive"),
}


def _parse(name: str, argv: Sequence[str], least: int, most: int = 1 << 30) -> tuple[Options, list[str]] | None:
    options, usage, line = _TABLES[name]
    table = Table((("Options", (*options, _HELP)),))
    parsed, rest = parse(table, argv, interspersed=True)
    if parsed.help:
        print(help_text(table, usage, line), end="")
        return None
    if not least <= len(rest) <= most:
        raise UsageError(f"{name} got {len(rest)} arguments", f"usage: {usage}")
    return parsed, rest


def _warn(text: str) -> None:
    complain(f"warning: {text}")


def _short(identifier: str, whole: bool = False) -> str:
    return identifier if whole else identifier.partition(":")[2][:12]


def images(argv: list[str]) -> int:
    """List images."""
    parsed = _parse("images", argv, 0, 1)
    if parsed is None:
        return 0
    options, names = parsed
    with own_store() as paths:
        rows = [row for row in store.list_images(paths) if not names or _matches(row, names[0])]
    for row in rows:
        if row.problem:
            _warn(row.problem)
    if options.quiet:
        for identifier in dict.fromkeys(_short(row.id, options.no_trunc) for row in rows):
            print(identifier)
    elif options.format == "json":
        from coracle.record import dumps

        print(dumps([_document(row) for row in rows], 1))
    else:
        print(_images_table(rows, options))
    return 0


def _matches(row: store.Image, name: str) -> bool:
    if row.reference is None:
        return False
    from coracle.image.reference import parse as parse_reference

    wanted = parse_reference(name)
    same = (row.reference.registry, row.reference.repository) == (wanted.registry, wanted.repository)
    return same and (":" not in name.rpartition("/")[2] or row.reference.tag == wanted.tag)


def _document(row: store.Image) -> dict[str, Any]:
    name = row.reference.familiar() if row.reference else ""
    return {
        "id": row.id,
        "name": name,
        "digest": row.digest,
        "created": row.created,
        "size": row.size,
        "labels": row.labels,
    }


def _images_table(rows: Sequence[store.Image], options: Options) -> str:
    heads = ["REPOSITORY", "TAG", *(["DIGEST"] if options.digests else []), "IMAGE ID", "CREATED", "SIZE"]
    cells = []
    for row in rows:
        repository, tag = "<none>", "<none>"
        if row.reference is not None:
            repository, _, tag = row.reference.familiar().rpartition(":")
        created = f"{ago(row.created)} ago" if row.created else "N/A"
        digest = [row.digest] if options.digests else []
        cells.append([repository, tag, *digest, _short(row.id, options.no_trunc), created, size(row.size)])
    return columns(heads, cells)


def rmi(argv: list[str]) -> int:
    """Remove names of images, and with the last one the image."""
    parsed = _parse("rmi", argv, 1)
    if parsed is None:
        return 0
    options, names = parsed
    code = 0
    with own_store() as paths:
        for name in names:
            try:
                removed = store.remove(paths, name, lambda: _used(paths), options.force)
            except CoracleError as error:
                if not (options.force and isinstance(error, NotFoundError)):
                    complain(str(error))
                    code = 1
                continue
            for untagged in removed.untagged:
                print(f"Untagged: {_familiar(untagged)}")
            for identifier in removed.deleted:
                print(f"Deleted: {identifier}")
    return code


def _familiar(name: str) -> str:
    """A canonical name as people write it: without docker.io/library."""
    from coracle.image.reference import parse as parse_reference

    return parse_reference(name).familiar()


def _used(paths: Paths) -> list[str]:
    return [str(container.record["image_id"]) for container in all_containers(paths)]


def tag(argv: list[str]) -> int:
    """Give an image further names."""
    parsed = _parse("tag", argv, 2)
    if parsed is None:
        return 0
    source, *targets = parsed[1]
    with own_store() as paths:
        for target in targets:
            store.tag(paths, source, target)
    return 0


def import_(argv: list[str]) -> int:
    """Make an image from a root file system's archive; prints its id."""
    parsed = _parse("import", argv, 1, 2)
    if parsed is None:
        return 0
    options, (source, *name) = parsed
    from coracle.image.manifest import parse_platform
    from coracle.image.rootfs import import_rootfs

    platform = parse_platform(options.platform) if options.platform else None
    with _reading(source) as stream, own_store() as paths:
        loaded = import_rootfs(
            paths, stream, name[0] if name else "", options.change, options.message, platform, source, _warn
        )
    print(loaded.id)
    return 0


def _reading(source: str) -> BinaryIO:
    """The file ``source``, or standard input for "-".  :raises NotFoundError: :raises UsageError: for a terminal."""
    if source == "-":
        if os.isatty(0):
            raise UsageError("will not read an archive from a terminal", "give a file, or redirect standard input")
        return open(0, "rb", closefd=False)
    try:
        return open(source, "rb")
    except OSError as error:
        raise NotFoundError(f"cannot read {source}: {os.strerror(error.errno or 0).lower()}") from None


def load(argv: list[str]) -> int:
    """Load images from an archive or a layout directory."""
    parsed = _parse("load", argv, 0, 0)
    if parsed is None:
        return 0
    options, _ = parsed
    from coracle.image.load import load as load_images

    source: str | int = options.input or 0
    if source == 0 and os.isatty(0):
        raise UsageError("will not read an archive from a terminal", "use -i FILE, or redirect standard input")
    if isinstance(source, str) and not os.path.exists(source):
        raise NotFoundError(f"cannot read {source}: no such file or directory")
    if isinstance(source, str):
        source = os.path.abspath(source)
    with own_store() as paths:
        loaded = load_images(paths, source, warn=_warn)
    for image in loaded:
        names = image.names or []
        for name in names:
            print(name if options.quiet else f"Loaded image: {_familiar(name)}")
        if not names:
            print(image.id if options.quiet else f"Loaded image ID: {image.id}")
    return 0


def save(argv: list[str]) -> int:
    """Write images to an archive or a layout directory."""
    parsed = _parse("save", argv, 1)
    if parsed is None:
        return 0
    options, names = parsed
    from coracle.image.save import save as save_images

    if not options.output and os.isatty(1):
        raise UsageError("will not write an archive to a terminal", "use -o FILE, or redirect standard output")
    out = os.path.abspath(options.output) if options.output else sys.stdout.buffer
    with own_store() as paths:
        save_images(paths, names, out, options.format)
    return 0


def export(argv: list[str]) -> int:
    """Write the merged file system of a container as a tar archive."""
    parsed = _parse("export", argv, 1, 1)
    if parsed is None:
        return 0
    options, (name,) = parsed
    from coracle.engine.export import export_container

    if not options.output and os.isatty(1):
        raise UsageError("will not write an archive to a terminal", "use -o FILE, or redirect standard output")
    with own_store() as paths:
        export_container(find(paths, name), os.path.abspath(options.output) if options.output else "")
    return 0
