"""Compiled filters in the real kernel: each test forks a child, filters it, and looks at what happens to its calls."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from coracle.linux import seccomp
from coracle.linux.seccomp.tables import x86_64 as table
from coracle.linux.syscall import MACHINE, syscall
from coracle.runtime.seccomp_profile import default_profile, running_kernel

pytestmark = pytest.mark.skipif(MACHINE != "x86_64", reason="the numbers and machine code in these tests are x86-64's")

PR_SET_NO_NEW_PRIVS = 38
TIMEOUT = 20.0
X32_BIT = 1 << 30
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def call(name: str | int, *arguments: int) -> int:
    """The result of a raw system call, or its errno as a negative number; an exception would need more calls."""
    number = table.NUMBERS[name] if isinstance(name, str) else name
    result: int = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))
    return result if result != -1 else -ctypes.get_errno()


def under(profile: dict, action: Callable[[], object]) -> object:
    """What ``action`` returns in a child with the filter, or ("signal", number) if that ended the child."""
    program = seccomp.compile(profile)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            seccomp.load(program)
            os.write(writer, repr(action()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        output = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "signal", os.WTERMSIG(status)
    assert output, "the child failed"
    return eval(output)


def deny(name: str, action: str = "ERRNO", **more: object) -> dict:
    """Everything is allowed but ``name``."""
    rule = {"names": [name], "action": f"SCMP_ACT_{action}", **more}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def arguments(*conditions: tuple[int, str, int]) -> list[dict]:
    return [{"index": index, "op": f"SCMP_CMP_{op}", "value": value} for index, op, value in conditions]


DEFAULT = default_profile((), MACHINE, running_kernel())


def test_without_a_rule_a_call_works():
    assert under(deny("sethostname"), lambda: call("getpid") == os.getpid()) is True


@pytest.mark.parametrize(("errno_ret", "result"), [({}, -errno.EPERM), ({"errnoRet": 38}, -38), ({"errnoRet": 0}, 0)])
def test_errno(errno_ret, result):
    assert under(deny("getppid", **errno_ret), lambda: call("getppid")) == result


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_kill_and_trap(action):
    assert under(deny("getppid", action), lambda: call("getppid")) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize(("action", "survives"), [("KILL", True), ("KILL_PROCESS", False)])
def test_kill_takes_the_thread_or_the_process(action, survives):
    def in_a_thread() -> str:
        thread = threading.Thread(target=call, args=("getppid",), daemon=True)
        thread.start()
        thread.join(0.3)
        return "alive"

    assert under(deny("getppid", action), in_a_thread) == ("alive" if survives else ("signal", signal.SIGSYS))


@pytest.mark.parametrize(("action", "result"), [("LOG", True), ("ALLOW", True), ("TRACE", -errno.ENOSYS)])
def test_log_allows_and_trace_without_a_tracer_does_not_exist(action, result):
    outcome = under(deny("getppid", action), lambda: call("getppid"))
    assert outcome == os.getpid() if result is True else outcome == result


@pytest.mark.parametrize(
    ("conditions", "denied", "passed"),
    [
        ([(0, "EQ", 5)], (5,), (4, 1 << 32 | 5)),
        ([(0, "NE", 5)], (4, 1 << 32 | 5), (5,)),
        ([(0, "LT", 1 << 32)], (0, (1 << 32) - 1), (1 << 32, 1 << 63)),
        ([(0, "GE", (1 << 63) + 1)], ((1 << 63) + 1, (1 << 64) - 1), (1 << 63, 0)),
        ([(0, "GT", 7 << 32)], ((7 << 32) + 1, 8 << 32), (7 << 32, (1 << 32) - 1)),
        ([(0, "LE", 3 << 32 | 3)], (3 << 32 | 3, 4), (3 << 32 | 4, 4 << 32)),
        ([(0, "EQ", 1), (0, "EQ", 3)], (1, 3), (0, 2, 4)),
    ],
)
def test_comparisons_of_64_bits(conditions, denied, passed):
    """umask takes any argument and never fails."""
    profile = deny("umask", args=arguments(*conditions))
    assert under(profile, lambda: [call("umask", value) for value in denied]) == [-1] * len(denied)
    assert -1 not in under(profile, lambda: [call("umask", value) for value in passed])


def test_masked_comparison():
    condition = {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0xF0000000F, "valueTwo": 0x300000001}
    outcome = under(
        deny("umask", args=[condition]), lambda: [call("umask", value) for value in (0x300000001, 0xABC3000000F1, 0x1)]
    )
    assert outcome[:2] == [-1, -1] and outcome[2] >= 0


def test_comparisons_of_different_arguments_must_all_hold():
    profile = deny("dup2", args=arguments((0, "EQ", 1 << 20), (1, "EQ", 7)))
    outcome = under(profile, lambda: [call("dup2", 1 << 20, 7), call("dup2", 1 << 20, 8), call("dup2", 1 << 21, 7)])
    assert outcome == [-errno.EPERM, -errno.EBADF, -errno.EBADF]


def test_a_profile_longer_than_a_jump_in_the_kernel():
    """Every call its own errno, but those that the child needs to tell about it."""
    needed = {"write", "exit_group", "futex", "mmap", "munmap", "brk", "rt_sigprocmask", "rt_sigaction"}
    named = sorted(set(table.NUMBERS) - needed, key=table.NUMBERS.__getitem__)
    skipped = {"uretprobe", "uprobe", "rt_sigreturn"}  # the first two never reach a filter since Linux 6.14
    syscalls = [{"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1000 + table.NUMBERS[name]} for name in named]
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls}
    assert len(seccomp.compile(profile).filter) // 8 > 600
    probed = [table.NUMBERS[name] for name in named if name not in skipped]
    assert under(profile, lambda: [call(number) for number in probed]) == [-1000 - number for number in probed]


def test_flags_are_accepted():
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in ("LOG", "TSYNC", "SPEC_ALLOW", "WAIT_KILLABLE_RECV")]
    assert under(deny("getppid") | {"flags": flags}, lambda: call("getppid")) == -errno.EPERM


# Other ABIs ----------------------------------------------------------------------------------------------------------


def int80(number: int, first: int = 0, second: int = 0) -> Callable[[], int]:
    """A system call through the i386 gate: mov eax, number; mov ebx, first; mov ecx, second; int 0x80; ret."""
    code = b"\x53\xb8" + struct.pack("<I", number) + b"\xbb" + struct.pack("<I", first)
    code += b"\xb9" + struct.pack("<I", second) + b"\xcd\x80\x5b\xc3"
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    function.memory = memory  # type: ignore[attr-defined]
    return function


def i386_works() -> bool:
    if MACHINE != "x86_64":
        return False
    outcome = under({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"]}, int80(20))
    return isinstance(outcome, int) and outcome > 0


needs_i386 = pytest.mark.skipif(not i386_works(), reason="this kernel runs no i386 calls (CONFIG_IA32_EMULATION)")


@needs_i386
def test_an_abi_that_the_profile_does_not_cover_kills():
    assert under(deny("sethostname"), int80(20)) == ("signal", signal.SIGSYS)


@needs_i386
def test_i386_has_its_own_numbers():
    """getppid is 64 there, and 110 here."""
    profile = deny("getppid") | {"architectures": ["SCMP_ARCH_X86"]}
    assert under(profile, int80(64)) == -errno.EPERM
    assert under(profile, lambda: call("semget", 1 << 40) != -errno.EPERM)  # 64 here


@needs_i386
def test_i386_compares_32_bits():
    profile = deny("umask", args=arguments((0, "EQ", (1 << 64) - 1))) | {"architectures": ["SCMP_ARCH_X86"]}
    assert under(profile, int80(60, 0xFFFFFFFF)) == -errno.EPERM
    assert under(profile, int80(60, 0xFFFFFFFE)) >= 0


@needs_i386
def test_a_denied_socket_is_denied_through_socketcall():
    vector = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)  # MAP_32BIT
    vector.write(struct.pack("<3I", socket.AF_UNIX, socket.SOCK_STREAM, 0))
    pointer = ctypes.addressof(ctypes.c_char.from_buffer(vector))
    assert pointer < 1 << 32
    everywhere = {"architectures": ["SCMP_ARCH_X86"]}
    assert under(deny("mkdir") | everywhere, int80(102, 1, pointer)) > 2
    assert under(deny("socket") | everywhere, int80(102, 1, pointer)) == -errno.EPERM


def test_x32_is_not_a_way_around():
    assert under(deny("getppid"), lambda: call(X32_BIT | 110)) == ("signal", signal.SIGSYS)
    covered = deny("getppid") | {"architectures": ["SCMP_ARCH_X32"]}
    assert under(covered, lambda: call(X32_BIT | 110)) == -errno.EPERM


# The default profile -------------------------------------------------------------------------------------------------


def test_the_default_profile_denies():
    probes = ["mount", "umount2", "swapon", "init_module", "kexec_load", "keyctl", "bpf", "perf_event_open", "unshare"]
    probes += ["setns", "userfaultfd", "io_uring_setup", "pivot_root", "settimeofday", "open_by_handle_at", "reboot"]
    assert under(DEFAULT, lambda: [call(name) for name in probes]) == [-errno.EPERM] * len(probes)


def test_the_default_profile_knows_what_does_not_exist():
    assert under(DEFAULT, lambda: [call("clone3"), call("open_tree_attr"), call(600)]) == [-errno.ENOSYS] * 3


def test_the_default_profile_refuses_some_address_families():
    ask = lambda *families: under(DEFAULT, lambda: [call("socket", family, 1, 0) for family in families])  # noqa: E731
    assert ask(socket.AF_VSOCK, socket.AF_ALG, 1 << 32 | socket.AF_VSOCK, 12) == [-errno.EPERM] * 4
    assert all(result > 2 for result in ask(socket.AF_UNIX, socket.AF_INET))


@needs_i386
def test_the_default_profile_covers_i386():
    assert under(DEFAULT, int80(20)) > 0
    assert under(DEFAULT, int80(21)) == -errno.EPERM  # mount
    assert under(DEFAULT, int80(435)) == -errno.ENOSYS  # clone3


@pytest.mark.parametrize(
    "command",
    [
        ["/bin/sh", "-c", "ls / | sort | head -1 >/dev/null && echo fine"],
        # Threads, processes, sockets, locks: what the C library does with them must be there.
        [sys.executable, "-c", "import threading, subprocess, socket, multiprocessing as m; m.Lock();"
         "t = threading.Thread(target=subprocess.run, args=(['true'],)); t.start(); t.join(); socket.socketpair();"
         "print('fine')"],
    ],
    ids=["shell", "python"],
)  # fmt: skip
def test_programs_run_under_the_default_profile(command):
    def filtered() -> None:
        syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        seccomp.load(program)

    program = seccomp.compile(DEFAULT)
    done = subprocess.run(command, preexec_fn=filtered, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_the_kernel_takes_every_default_profile(machine):
    """Its checker does not care whose numbers they are."""
    profiles = [
        default_profile(capabilities, machine, kernel)
        for capabilities in ((), ("CAP_SYS_ADMIN",), ("CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYS_NICE"))
        for kernel in ((4, 7), (6, 1))
    ]
    for profile in profiles:
        program = seccomp.compile(profile, machine)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                seccomp.load(program)  # on the wrong machine every call after this one kills
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        expected = 0 if machine == MACHINE else signal.SIGSYS
        assert status & 0x7F == expected and status >> 8 == 0


# Notifications -------------------------------------------------------------------------------------------------------

RECEIVE, SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_*
REQUEST = struct.Struct("QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, and struct seccomp_data
RESPONSE = struct.Struct("QqiI")  # struct seccomp_notif_resp: id, val, error, flags
CONTINUE = 1


def receive(listener: int) -> tuple:
    ready, _, _ = select.select([listener], [], [], TIMEOUT)
    assert ready, "no notification"
    data = bytearray(REQUEST.size)
    fcntl.ioctl(listener, RECEIVE, data)
    return REQUEST.unpack(data)


@pytest.mark.parametrize(
    ("value", "error", "flags", "result"),
    [(4711, 0, 0, 4711), (0, -errno.EXDEV, 0, -errno.EXDEV), (0, 0, CONTINUE, "umask")],
)
@pytest.mark.parametrize("more", [[], ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]])
def test_a_listener_answers(value, error, flags, result, more):
    """The filter of a child, its listener in the parent: seccomp_unotify(2)."""
    program = seccomp.compile(deny("umask", "NOTIFY", args=arguments((0, "EQ", 0o123))) | {"flags": more})
    assert program.notifies
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            os.umask(0o077)
            syscall("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            socket.send_fds(theirs, [b"x"], [seccomp.load(program)])
            theirs.send(str(call("umask", 0o123)).encode())
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        ours.settimeout(TIMEOUT)
        _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
        try:
            identifier, who, _, number, _, _, *values = receive(listener)
            assert (who, number, values[0]) == (pid, table.NUMBERS["umask"], 0o123)
            fcntl.ioctl(listener, SEND, RESPONSE.pack(identifier, value, error, flags))
            assert int(ours.recv(100)) == (0o077 if result == "umask" else result)
        finally:
            os.close(listener)
            os.waitpid(pid, 0)


def test_loading_without_the_right_is_an_error():
    """Neither no_new_privs nor CAP_SYS_ADMIN in the namespace."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            seccomp.load(seccomp.compile(deny("getppid")))
        except OSError as failure:
            code = failure.errno or 255
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EACCES
