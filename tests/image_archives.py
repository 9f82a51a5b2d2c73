"""Tar archives and images made by hand, byte by byte, so that they can be as wrong as an attacker likes."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)
DIR, FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, FIFO = b"5", b"0", b"1", b"2", b"3", b"4", b"6"
USTAR, GNU, V7 = b"ustar\x0000", b"ustar  \0", bytes(8)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def header(
    name: bytes | str,
    kind: bytes = FILE,
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 1_000_000_000,
    target: bytes | str = b"",
    magic: bytes = USTAR,
    major: int = 0,
    minor: int = 0,
    tail: bytes = b"",
    checksum: bytes | None = None,
) -> bytes:
    """One header block; numbers given as bytes go in as they are, ``tail`` starts at offset 345."""
    fields = b"".join(
        (
            os.fsencode(name)[:100].ljust(100, b"\0"),
            mode if isinstance(mode, bytes) else octal(mode, 8),
            uid if isinstance(uid, bytes) else octal(uid, 8),
            gid if isinstance(gid, bytes) else octal(gid, 8),
            size if isinstance(size, bytes) else octal(size, 12),
            mtime if isinstance(mtime, bytes) else octal(mtime, 12),
            b" " * 8,
            kind,
            os.fsencode(target)[:100].ljust(100, b"\0"),
            magic,
            bytes(64),
            octal(major, 8),
            octal(minor, 8),
            tail,
        )
    ).ljust(BLOCK, b"\0")
    stated = checksum if checksum is not None else b"%06o\0 " % sum(fields)
    return fields[:148] + stated + fields[156:]


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def entry(name: bytes | str, data: bytes = b"", kind: bytes = FILE, **fields: Any) -> bytes:
    """A header and its content."""
    return header(name, kind, **{"size": len(data), **fields}) + pad(data)


def directory(name: bytes | str, **fields: Any) -> bytes:
    return entry(name, kind=DIR, **{"mode": 0o755, **fields})


def symlink(name: bytes | str, target: bytes | str, **fields: Any) -> bytes:
    return entry(name, kind=SYMLINK, target=target, **{"mode": 0o777, **fields})


def link(name: bytes | str, target: bytes | str, **fields: Any) -> bytes:
    return entry(name, kind=LINK, target=target, **fields)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d %b=%b\n" % (length, key, value)) != length:
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    """An extended header for the next entry."""
    return entry("PaxHeaders", b"".join(record(*each) for each in records), b"x")


def gnu_long(name: bytes, kind: bytes = b"L") -> bytes:
    return entry("././@LongLink", name + b"\0", kind, magic=GNU)


def tar(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_name(content: str) -> str:
    return f"blobs/{content.replace(':', '/')}"


def image_config(layers: list[bytes], **fields: Any) -> dict[str, Any]:
    """A config for ``layers``, which are uncompressed."""
    return {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "created": "2020-01-02T03:04:05Z",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [{"created": "2020-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))],
        **fields,
    }


class Layout:
    """The files of an OCI layout in the making."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        self.descriptors: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str, **fields: Any) -> dict[str, Any]:
        self.files[blob_name(digest(data))] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **fields}

    def image(
        self, layers: list[bytes], name: str = "", compress: bool = False, listed: bool = True, **config: Any
    ) -> dict[str, Any]:
        """Add an image; its descriptor, which also goes into index.json if ``listed``."""
        kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if compress else "")
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(
                json.dumps(image_config(layers, **config)).encode(), "application/vnd.oci.image.config.v1+json"
            ),
            "layers": [self.blob(gzip.compress(each, mtime=0) if compress else each, kind) for each in layers],
        }
        return self.document(manifest, name, listed)

    def document(self, document: dict[str, Any], name: str = "", listed: bool = True) -> dict[str, Any]:
        descriptor = self.blob(json.dumps(document).encode(), document["mediaType"])
        if name:
            descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
        if listed:
            self.descriptors.append(descriptor)
        return descriptor

    def all_files(self) -> dict[str, bytes]:
        index = {"schemaVersion": 2, "manifests": self.descriptors}
        return {**self.files, "index.json": json.dumps(index).encode()}

    def write(self, path: Path) -> Path:
        for name, data in self.all_files().items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def archive(self) -> bytes:
        return tar(*(entry(name, data) for name, data in self.all_files().items()))


def docker_archive(layers: list[bytes], tags: list[str] | None = None, legacy: bool = True, **config: Any) -> bytes:
    """What ``docker save`` wrote before version 25, or nearly."""
    data = json.dumps(image_config(layers, **config)).encode()
    names = [f"{hashlib.sha256(bytes([n]) + each).hexdigest()}/layer.tar" for n, each in enumerate(layers)]
    manifest = [{"Config": f"{digest(data)[7:]}.json", "RepoTags": tags, "Layers": names}]
    parts = [entry(manifest[0]["Config"], data)]
    seen: dict[bytes, str] = {}
    for name, layer in zip(names, layers, strict=True):
        if legacy and layer in seen:  # a layer that occurs twice is a link to the first
            parts.append(symlink(name, f"../{seen[layer]}"))
        else:
            parts.append(entry(name, layer))
            seen[layer] = name
    return tar(*parts, entry("manifest.json", json.dumps(manifest).encode()))


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def tree_of(path: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below ``path`` that an image can hold, comparable: type, mode, owner, time, content, attributes."""
    found: dict[str, tuple[Any, ...]] = {}
    links: dict[tuple[int, int], str] = {}
    for base, directories, files in os.walk(path):
        for name in sorted(directories + files) + ([""] if base == str(path) else []):
            full = os.path.join(base, name) if name else base
            info = os.lstat(full)
            relative = os.path.relpath(full, path)
            content: Any = None
            if os.path.islink(full):
                content = os.readlink(full)
            elif os.path.isfile(full):
                content = hashlib.sha256(Path(full).read_bytes()).hexdigest()
            first = links.setdefault((info.st_dev, info.st_ino), relative) if info.st_nlink > 1 else relative
            attributes = {
                key: os.getxattr(full, key, follow_symlinks=False) for key in os.listxattr(full, follow_symlinks=False)
            }
            found[relative] = (
                oct(info.st_mode),
                info.st_uid,
                info.st_gid,
                0 if _is_whiteout(info) else info.st_mtime_ns // 10**9,
                info.st_rdev,
                content,
                first if not os.path.isdir(full) else relative,
                attributes,
            )
    return found
