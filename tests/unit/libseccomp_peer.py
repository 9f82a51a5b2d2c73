"""libseccomp through ctypes, driven the way runc does it: the peer in the tests of the compiler."""

from __future__ import annotations

import ctypes
import os

from seccomp_reference import answer

OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE; 2 is a binary tree, which runc asks for above 32 rules
_EEXIST = -17
_UNKNOWN = -1
_OPERATORS = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}


class _Comparison(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def _open() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    pointer, u32 = ctypes.c_void_p, ctypes.c_uint32
    library.seccomp_init.argtypes, library.seccomp_init.restype = (u32,), pointer
    library.seccomp_release.argtypes = (pointer,)
    library.seccomp_attr_set.argtypes = (pointer, ctypes.c_int, u32)
    library.seccomp_arch_add.argtypes = (pointer, u32)
    library.seccomp_arch_resolve_name.argtypes, library.seccomp_arch_resolve_name.restype = (ctypes.c_char_p,), u32
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_name_arch.argtypes = (u32, ctypes.c_char_p)
    library.seccomp_rule_add_array.argtypes = (pointer, u32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison))
    library.seccomp_export_bpf.argtypes = (pointer, ctypes.c_int)
    return library


LIBRARY = _open()


def knows(abi: str, name: str) -> bool:
    """Whether this version of the library has a number for ``name``."""
    assert LIBRARY
    token = LIBRARY.seccomp_arch_resolve_name(abi.encode())
    number: int = LIBRARY.seccomp_syscall_resolve_name_arch(token, name.encode())
    return number >= 0 or -300 < number <= -100  # the latter: carried by socketcall(2) and ipc(2) as well


def compile_profile(profile: dict) -> bytes:
    """``profile`` as runc gives it to the library, without the ENOSYS stub that runc puts in front."""
    assert LIBRARY
    default = answer(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = LIBRARY.seccomp_init(default)
    try:
        for name in profile.get("architectures", ()):
            token = LIBRARY.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
            assert LIBRARY.seccomp_arch_add(context, token) in (0, _EEXIST)
        if sum(len(rule["names"]) for rule in profile["syscalls"]) > 32:
            assert LIBRARY.seccomp_attr_set(context, OPTIMIZE, 2) == 0
        for rule in profile["syscalls"]:
            action = answer(rule["action"], rule.get("errnoRet"))
            if action != default:
                _add(context, action, rule)
        return _export(context)
    finally:
        LIBRARY.seccomp_release(context)


def _add(context: int, action: int, rule: dict) -> None:
    assert LIBRARY
    arguments = rule.get("args") or []
    repeated = len({argument["index"] for argument in arguments}) < len(arguments)
    for name in rule["names"]:
        number = LIBRARY.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN:
            continue
        for group in [[argument] for argument in arguments] if repeated else [arguments]:
            comparisons = [
                _Comparison(a["index"], _OPERATORS[a["op"].removeprefix("SCMP_CMP_")], a["value"], a.get("valueTwo", 0))
                for a in group
            ]
            array = (_Comparison * max(1, len(group)))(*comparisons)
            result = LIBRARY.seccomp_rule_add_array(context, action, number, len(group), array)
            assert result in (0, _EEXIST), (result, rule)


def _export(context: int) -> bytes:
    assert LIBRARY
    fd = os.memfd_create("filter")
    try:
        assert LIBRARY.seccomp_export_bpf(context, fd) == 0
        return os.pread(fd, 1 << 20, 0)
    finally:
        os.close(fd)
