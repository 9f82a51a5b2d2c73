"""``coracle import``: the tar of a root file system becomes an image of one layer.

The tar is kept as it came, gzip and zstd compressed ones too: compressing here would cost thirty times
what storing costs (zlib level 6: 5 s for 170 MB), and the bytes that go out by ``save`` are then
the bytes that came in.  Only bzip2 and xz, for which OCI has no media type, are stored as plain tar.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coracle import record
from coracle.errors import ContentError, UsageError
from coracle.image import changes as config_changes
from coracle.image import load, manifest, unpack
from coracle.image.content import Ingest
from coracle.image.load import Loaded
from coracle.image.reference import parse as parse_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coracle.image.content import Readable
    from coracle.image.manifest import Platform
    from coracle.image.unpack import Warn
    from coracle.paths import Paths


_HEAD = 6  # bytes; the longest magic number


def timestamp() -> str:
    """Now in RFC 3339, or ``$SOURCE_DATE_EPOCH`` for images that can be made again bit by bit."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch:
        if not epoch.isascii() or not epoch.isdigit():
            raise UsageError(f"SOURCE_DATE_EPOCH={epoch!r} is not a number of seconds")
        return datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # As Go writes it (time.RFC3339Nano): without trailing zeros.
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".") + "Z"


def import_rootfs(
    paths: Paths,
    stream: Readable,
    reference: str = "",
    changes: Sequence[str] = (),
    message: str = "",
    platform: Platform | None = None,
    source: str = "-",
    warn: Warn = lambda _: None,
) -> Loaded:
    """Make an image of the tar ``stream``, compressed or not, and name it ``reference``, if given.

    ``changes`` are Dockerfile instructions, ``message`` goes to the history beside ``source``.
    :raises UsageError: for a wrong name or change, before anything is read.
    :raises ContentError: for what is no tar archive, damaged or hostile; nothing is visible then.
    """
    name = parse_reference(reference).canonical() if reference else ""
    config = config_changes.apply({}, changes)
    created = timestamp()
    with Ingest(paths) as ingest:
        head = _head(stream)
        blob = load.put_layer(ingest, _Prefixed(head, stream), head)
        diff_id = unpack.unpack_base(ingest, blob, warn)
        history = {"created": created, "created_by": f"coracle import {source}", "comment": message}
        document = {
            "created": created,
            **_platform_fields(platform or manifest.host_platform()),
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{key: value for key, value in history.items() if value}],
        }
        descriptor = ingest.put(record.dumps(document).encode(), manifest.OCI_CONFIG)
        described, image = load.put_manifest(ingest, descriptor, [blob])
        unpack.make(ingest, image, warn)
        return load.publish(paths, [(described, descriptor.digest, [name] if name else [])])[0]


def _head(stream: Readable) -> bytes:
    """Enough of the beginning to tell the compression."""
    head = b""
    while len(head) < _HEAD and (more := stream.read(_HEAD - len(head))):
        head += more
    if not head:
        raise ContentError("the root file system to import is empty", "expected a tar archive")
    return head


class _Prefixed:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        self.head = head
        self.stream = stream

    def read(self, size: int) -> bytes:
        head, self.head = self.head, b""
        return head or self.stream.read(size)


def _platform_fields(platform: Platform) -> dict[str, Any]:
    fields = {"architecture": platform.architecture, "os": platform.os}
    return {**fields, "variant": platform.variant} if platform.variant else fields
