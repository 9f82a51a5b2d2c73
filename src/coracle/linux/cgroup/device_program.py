"""Device rules as an eBPF program (bpf(2); Documentation/bpf/prog_cgroup_device; RFC 9669 for the encoding).

The kernel runs a BPF_PROG_TYPE_CGROUP_DEVICE program at each open(2) and mknod(2) of a device, with
``struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }``; the low half of access_type is the
device type (1 block, 2 character), the high half the wanted access (1 mknod, 2 read, 4 write).
It returns 1 to allow and 0 to deny.

The rules run from the last to the first with the set of wanted accesses not yet decided: an allow
rule takes its accesses out of the set and allows once nothing is left; a deny rule denies if it
speaks of one that is left.  So the last rule wins for each access on its own, as on version 1.
"""

from __future__ import annotations

import os
from struct import pack, unpack_from

from coracle.linux.syscall import address, buffer, syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from coracle.linux.cgroup.devices import Rule

# Registers: r0 result, r1 context, r2 type, r3 accesses not yet decided, r4 major, r5 minor.
_LOAD_WORD = 0x61  # dst = *(u32 *)(src + off)
_MOVE = 0xBF
_MOVE_CONSTANT = 0xB7
_AND = 0x57
_SHIFT_RIGHT = 0x77
_JUMP = 0x05
_JUMP_EQUAL = 0x15
_JUMP_NOT_EQUAL = 0x55
_EXIT = 0x95

_ACCESS = {"m": 1, "r": 2, "w": 4}
_KINDS = {"b": 1, "c": 2}

NAME = b"coracle_devices"
_PROG_LOAD, _PROG_ATTACH, _PROG_DETACH, _PROG_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD, _PROG_QUERY = 5, 8, 9, 13, 15, 16
_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_F_ALLOW_MULTI, _F_REPLACE = 2, 4
_EPERM, _ENOENT, _EINVAL = 1, 2, 22
_ATTR_SIZE = 128
_INFO_SIZE = 80  # struct bpf_prog_info up to and with its name
_INFO_NAME = 64


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, constant: int = 0) -> bytes:
    return pack("<BBhi", code, source << 4 | target, offset, constant)


def build(rules: Sequence[Rule]) -> bytes:
    """The program for ``rules``; 8 bytes for each instruction."""
    program = [
        _instruction(_LOAD_WORD, 2, 1, 0),
        _instruction(_MOVE, 3, 2),
        _instruction(_SHIFT_RIGHT, 3, constant=16),
        _instruction(_AND, 2, constant=0xFFFF),
        _instruction(_LOAD_WORD, 4, 1, 4),
        _instruction(_LOAD_WORD, 5, 1, 8),
    ]
    for rule in reversed(rules):
        if rule.everything:
            # Nothing earlier can matter; the verifier refuses instructions that cannot be reached.
            return b"".join([*program, *_result(int(rule.allow))])
        program += _rule(rule)
    return b"".join([*program, *_result(0)])


def _result(value: int) -> list[bytes]:
    return [_instruction(_MOVE_CONSTANT, 0, constant=value), _instruction(_EXIT)]


def _rule(rule: Rule) -> list[bytes]:
    """The instructions of one rule; a comparison that fails skips the rest of them.

    "Jump over the jump away if equal" rather than "jump away if not": the verifier follows the
    path that does not jump first, and once it has seen a rule with any numbers, it need not look again at the
    same place with particular ones.  500 rules load in 12 ms instead of 420.
    """
    access = sum(_ACCESS[letter] for letter in set(rule.access))
    if rule.allow:
        decide = [_instruction(_AND, 3, constant=~access), _instruction(_JUMP_NOT_EQUAL, 3, offset=2), *_result(1)]
    else:
        decide = [
            _instruction(_MOVE, 0, 3),
            _instruction(_AND, 0, constant=access),
            _instruction(_JUMP_EQUAL, 0, offset=2),
            *_result(0),
        ]
    compared = [(2, _KINDS.get(rule.kind, -1)), (4, rule.major), (5, rule.minor)]
    compared = [(register, value) for register, value in compared if value >= 0]
    tests = []
    for done, (register, value) in enumerate(compared, 1):
        rest = 2 * (len(compared) - done) + len(decide)
        tests.append(_instruction(_JUMP_EQUAL, register, offset=1, constant=value))
        tests.append(_instruction(_JUMP, offset=rest))
    return tests + decide


def _bpf(command: int, *fields: bytes) -> int:
    """bpf(2) with ``union bpf_attr`` of the given packed fields, zero padded."""
    attr = b"".join(fields).ljust(_ATTR_SIZE, b"\0")
    return syscall("bpf", command, attr, len(attr))


def load(program: bytes) -> int:
    """Load ``program`` and return its descriptor.  :raises OSError: with what the verifier said, if anything."""
    instructions, license_name = _memory(program), _memory(b"Apache-2.0\0")
    log = buffer(1 << 14)
    front = pack("<IIQQ", _PROG_TYPE_CGROUP_DEVICE, len(program) // 8, address(instructions), address(license_name))
    back = pack("<II16s", 0, 0, NAME)  # kern_version, prog_flags, prog_name
    try:
        fd = _bpf(_PROG_LOAD, front, pack("<IIQ", 0, 0, 0), back)
    except OSError as error:
        if error.errno == _EPERM:
            raise
        try:  # once more, for the verifier's reasons
            fd = _bpf(_PROG_LOAD, front, pack("<IIQ", 1, len(log), address(log)), back)
        except OSError as again:
            reason = bytes(log).rstrip(b"\0").decode(errors="replace").strip().replace("\n", "; ")
            raise OSError(again.errno, f"{again.strerror}: {reason}"[:500]) from error
    return fd  # close-on-exec, like every descriptor from bpf(2)


def _memory(data: bytes) -> object:
    memory = buffer(len(data))
    memory[:] = data
    return memory


def attach(directory: str, program: bytes) -> None:
    """Attach ``program`` to the version 2 group ``directory`` in place of an earlier one of ours.

    Programs of others (systemd's DeviceAllow=, a parent's) stay: with BPF_F_ALLOW_MULTI all have to
    agree.  A single earlier one is replaced atomically (BPF_F_REPLACE, Linux 5.6); otherwise the new
    one is attached before the old are taken off, so that at no moment there is none.
    :raises OSError:
    """
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fds = [group]
    try:
        fds.append(new := load(program))
        old = _ours(group)
        fds += old
        if len(old) == 1 and _replace(group, new, old[0]):
            return
        _bpf(_PROG_ATTACH, pack("<IIIII", group, new, _ATTACH_CGROUP_DEVICE, _F_ALLOW_MULTI, 0))
        for fd in old:
            _bpf(_PROG_DETACH, pack("<III", group, fd, _ATTACH_CGROUP_DEVICE))
    finally:
        for fd in fds:
            os.close(fd)


def _replace(group: int, new: int, old: int) -> bool:
    flags = _F_ALLOW_MULTI | _F_REPLACE
    try:
        _bpf(_PROG_ATTACH, pack("<IIIII", group, new, _ATTACH_CGROUP_DEVICE, flags, old))
    except OSError as error:
        if error.errno in (_EINVAL, _ENOENT):
            return False
        raise
    return True


def attached(group: int) -> list[int]:
    """Ids of the device programs attached to the group itself, by its descriptor.  :raises OSError:"""
    ids = buffer(4 * 64)
    # struct { target_fd, attach_type, query_flags, attach_flags; u64 prog_ids; u32 prog_cnt } in, and prog_cnt out
    attr = _memory(pack("<IIIIQI", group, _ATTACH_CGROUP_DEVICE, 0, 0, address(ids), 64).ljust(_ATTR_SIZE, b"\0"))
    syscall("bpf", _PROG_QUERY, attr, _ATTR_SIZE)
    (count,) = unpack_from("<I", bytes(attr), 24)  # type: ignore[call-overload]
    return list(unpack_from(f"<{min(count, 64)}I", bytes(ids)))


def _ours(group: int) -> list[int]:
    """Descriptors of the attached programs that carry our name."""
    found = []
    for identifier in attached(group):
        try:
            fd = _bpf(_PROG_GET_FD_BY_ID, pack("<I", identifier))
        except OSError as error:
            if error.errno == _ENOENT:  # gone meanwhile
                continue
            raise
        if name(fd) == NAME:
            found.append(fd)
        else:
            os.close(fd)
    return found


def name(fd: int) -> bytes:
    """The name of a loaded program, by its descriptor."""
    info = buffer(_INFO_SIZE)
    _bpf(_OBJ_GET_INFO_BY_FD, pack("<IIQ", fd, _INFO_SIZE, address(info)))
    return bytes(info)[_INFO_NAME : _INFO_NAME + 16].rstrip(b"\0")
