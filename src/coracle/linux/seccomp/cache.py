"""Compiled programs as files, so that starting a container compiles nothing.

A file is a header, the program, and a checksum over both and the file's own name: damage, a program under another name,
and anything this user did not write are all treated as "not there".  A filter is a security boundary, so a file that
somebody else could have written is worse than none.  Nothing here can fail: without a cache there is still a compiler.
"""

from __future__ import annotations

import os
import struct

from coracle import __version__, record
from coracle.linux.seccomp import INSTRUCTION_SIZE, MAX_INSTRUCTIONS, Program, compile
from coracle.linux.syscall import MACHINE

try:  # hashlib imports OpenSSL first, for 3 ms
    from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # Python 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:  # an interpreter built for OpenSSL's hashes only
        from hashlib import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Profile = Mapping[str, Any]

GENERATION = 1  # to be raised when the compiler gives another program for the same profile

_HEADER = struct.Struct("8sIII")  # magic, flags, notifies, bytes of program
_MAGIC = b"coracleF"
_DIGEST_SIZE = 32
_LARGEST = _HEADER.size + MAX_INSTRUCTIONS * INSTRUCTION_SIZE + _DIGEST_SIZE
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_REGULAR, _TYPE_MASK, _OTHERS_WRITE = 0o100000, 0o170000, 0o022  # inode(7)


def cached(profile: Profile | Callable[[], Profile], directory: str, key: str = "", machine: str = MACHINE) -> Program:
    """The program for ``profile``, from ``directory`` if it is there, else compiled and kept there.

    ``key`` names the profile for a caller that knows it without looking, such as "default-a8"; it is part of a file
    name.  ``profile`` may then be a function, called only when there is something to compile.  Without a key the
    profile's own content is the name.

    :raises SpecError: the profile is wrong; see :func:`coracle.linux.seccomp.compile`.
    """
    if not key:
        profile = profile() if callable(profile) else profile
        key = sha256(record.dumps(profile).encode()).hexdigest()
    name = f"{key}.{machine}.{__version__}.{GENERATION}.bpf"
    path = f"{directory}/{name}"
    try:
        return _read(path, name)
    except (OSError, ValueError):
        pass
    program = compile(profile() if callable(profile) else profile, machine)
    try:
        _write(directory, path, name, program)
    except OSError:
        pass  # full, read-only, somebody else's: the next start compiles again
    return program


def _read(path: str, name: str) -> Program:
    """:raises OSError: there is no file.  :raises ValueError: there is one, but not one to rely on."""
    fd = os.open(path, _OPEN_FLAGS)
    try:
        status = os.fstat(fd)
        if status.st_mode & _TYPE_MASK != _REGULAR or status.st_mode & _OTHERS_WRITE or status.st_uid != os.geteuid():
            raise ValueError("not this user's own file")
        content = os.read(fd, _LARGEST + 1)
    finally:
        os.close(fd)
    body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    if len(body) < _HEADER.size or _checksum(name, body) != digest:
        raise ValueError("damaged")
    magic, flags, notifies, size = _HEADER.unpack_from(body)
    filter = body[_HEADER.size :]
    if magic != _MAGIC or len(filter) != size or size % INSTRUCTION_SIZE or not filter:
        raise ValueError("damaged")
    return Program(filter, flags, bool(notifies))


def _write(directory: str, path: str, name: str, program: Program) -> None:
    """Two processes that compile at once both write the same content, each through its own temporary file."""
    os.makedirs(directory, 0o700, exist_ok=True)
    body = _HEADER.pack(_MAGIC, program.flags, program.notifies, len(program.filter)) + program.filter
    record.write(path, body + _checksum(name, body))


def _checksum(name: str, body: bytes) -> bytes:
    digest: bytes = sha256(name.encode() + b"\0" + body).digest()
    return digest
