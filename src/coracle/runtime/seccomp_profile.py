"""The seccomp profile of a container that asks for none.

The default has the meaning of Docker's current one (github.com/moby/profiles, seccomp), so what runs there runs here:
a list of calls that are allowed, more for those who hold the capability that the kernel would ask for anyway, and EPERM
for the rest.  What is left out is left out for one of these reasons:

* It changes the machine, not the container: swapon, kexec_load, init_module, clock_settime, reboot, mount, ...
* It reaches what namespaces do not divide: keyctl, add_key, request_key (keyrings), lookup_dcookie, AF_VSOCK, AF_ALG.
* Exploits have needed it and programs have not: userfaultfd, io_uring_*, bpf, perf_event_open, unshare and clone with
  CLONE_NEWUSER, move_pages, vm86.  (A ring's requests do not even pass the filter.)
* It is obsolete: uselib, ustat, sysfs, nfsservctl, bdflush, create_module, _sysctl.

Differences from Docker's: ``uprobe`` is allowed like ``uretprobe``.  Against the profile of containers-common, which
podman uses, the differences are listed with their reasons in tests/unit/test_seccomp_profile.py.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    Version = tuple[int, int]

_ALLOW, _ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_EPERM, _ENOSYS = 1, 38

_FILES = """
    open openat openat2 creat close close_range dup dup2 dup3 fcntl fcntl64 flock umask
    read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek
    sendfile sendfile64 copy_file_range splice tee vmsplice readahead fadvise64 fadvise64_64
    truncate truncate64 ftruncate ftruncate64 fallocate sync syncfs fsync fdatasync sync_file_range
    stat stat64 lstat lstat64 fstat fstat64 newfstatat fstatat64 statx statfs statfs64 fstatfs fstatfs64
    access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 lchown lchown32 fchown fchown32 fchownat
    utime utimes futimesat utimensat utimensat_time64 cachestat statmount listmount
    getcwd chdir fchdir mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat readlink readlinkat
    unlink unlinkat rename renameat renameat2 getdents getdents64 name_to_handle_at ioctl
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat listxattr llistxattr flistxattr
    listxattrat removexattr lremovexattr fremovexattr removexattrat
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64
    pipe pipe2 eventfd eventfd2 memfd_create memfd_secret
    select _newselect pselect6 pselect6_time64 poll ppoll ppoll_time64
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
"""

# mknod stays: the device cgroup decides which devices open, and tar must be able to try.
_MEMORY = """
    brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall mseal
    remap_file_pages membarrier pkey_alloc pkey_free pkey_mprotect map_shadow_stack
"""

# uretprobe and uprobe are made by the kernel's own trampolines when somebody outside traces this process: refusing them
# would break the traced program.  Since Linux 6.14 the kernel does not even ask the filter about them.
_PROCESSES = """
    fork vfork execve execveat exit exit_group wait4 waitid waitpid
    getpid getppid gettid getpgrp getpgid setpgid getsid setsid
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32
    getresuid getresuid32 getresgid getresgid32 getgroups getgroups32
    setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32
    setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset
    getpriority setpriority ioprio_get ioprio_set getrlimit ugetrlimit setrlimit prlimit64 getrusage times
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
    sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
    sched_rr_get_interval sched_rr_get_interval_time64 getcpu
    prctl set_tid_address set_robust_list get_robust_list set_thread_area get_thread_area rseq
    futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue restart_syscall
    pidfd_open pidfd_send_signal process_mrelease uname sysinfo getrandom
    seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self uretprobe uprobe riscv_hwprobe
"""

_SIGNALS = """
    kill tkill tgkill pause sigaltstack signalfd signalfd4 sigprocmask sigreturn
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo
"""

# adjtimex and clock_adjtime only read the clock's state without CAP_SYS_TIME, and ntp clients want that.
_TIME = """
    time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64 adjtimex clock_adjtime
    clock_adjtime64 nanosleep clock_nanosleep clock_nanosleep_time64 alarm getitimer setitimer
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64
"""

# socket is below, with its address families.  socketcall hides them behind a pointer that no filter can follow: a
# 32-bit x86 program can ask for any family through it.
_SOCKETS = """
    socketpair socketcall bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
    send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64
"""

# All of it is divided by the IPC namespace.
_IPC = """
    ipc semget semop semctl semtimedop semtimedop_time64 msgget msgsnd msgrcv msgctl shmget shmat shmdt shmctl
    mq_open mq_unlink mq_getsetattr mq_notify mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
"""

_EVERYWHERE = (_FILES, _MEMORY, _PROCESSES, _SIGNALS, _TIME, _SOCKETS, _IPC)

# Tracing is safe since Linux 4.8, where the filter runs after the tracer had its chance to change the call.
_TRACING = "ptrace process_vm_readv process_vm_writev"
_TRACING_SINCE = (4, 8)

# What only some processors have.  Keys are uname's machine names.
_MACHINES = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    "riscv64": "riscv_flush_icache",
}

# The kernel asks for the capability as well; the filter keeps its code out of reach for everybody else.  With
# CAP_SYS_ADMIN also clone and clone3, see _namespaces().
_CAPABILITIES = {
    "CAP_SYS_ADMIN": """
        mount umount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick quotactl quotactl_fd
        setns unshare sethostname setdomainname bpf perf_event_open fanotify_init lookup_dcookie syslog
        lsm_get_self_attr lsm_set_self_attr lsm_list_modules
    """,
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",  # any file of a file system by number: the exploit "shocker" of 2014
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_NICE": "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise " + _TRACING,
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}

# Values for personality(2): PER_LINUX, PER_LINUX32, both with UNAME26, and "only tell me".  Others weaken address space
# randomisation or map page 0.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

# Address families that socket(2) may ask for, by number (linux/socket.h): all below the first, and the others.  Missing
# are those that Linux has removed, whose old code hardly anybody reviews any more (12 DECnet, 19 ECONET, 20 ATMSVC,
# 23 IRDA, 25 WANPIPE, 34 ISDN, 37 CAIF); 38 ALG, direct access to the kernel's ciphers (CVE-2026-31431); and 40 VSOCK,
# which reaches virtual machines past every network namespace (by default, on Linux 7.0 still).
# It is a list of what is allowed because the kernel reads 32 bits of the argument but the filter compares 64:
# "anything but 40" would let 0x100000028 through, and the kernel would open a VSOCK.
_FAMILIES_BELOW = 12
_FAMILIES = (*range(13, 19), 21, 22, 24, *range(26, 34), 35, 36, 39, *range(41, 46))

# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h)
_NEW_NAMESPACES = 0x7E020000

# What a kernel of each machine runs, the native one first.
ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    "riscv64": ["SCMP_ARCH_RISCV64"],
}


def running_kernel() -> Version:
    """Major and minor version of this kernel; what a distribution appends does not count."""
    major, minor = os.uname().release.split(".", 2)[:2]
    return int(major), int("".join(digit for digit in minor.partition("-")[0] if digit.isdigit()) or 0)


def default_key(capabilities: Collection[str], kernel_version: Version) -> str:
    """A name for what :func:`default_profile` returns, for ``linux.seccomp.cache``: equal names, equal profiles.

    Capabilities that change nothing in the profile do not change the name, so a machine soon has all it needs.
    """
    mask = 0
    for bit, capability in enumerate(_CAPABILITIES):
        if capability in capabilities:
            mask |= 1 << bit
    return f"default-{mask:x}" + ("" if kernel_version >= _TRACING_SINCE else "-untraced")


def default_profile(capabilities: Collection[str], machine: str, kernel_version: Version) -> dict[str, Any]:
    """The ``linux.seccomp`` object for a container with ``capabilities`` ("CAP_...") in its bounding set.

    ``machine`` is uname's name, ``kernel_version`` the kernel's (major, minor).  On a machine that the table does not
    know the profile covers the native ABI only.
    """
    names = " ".join(_EVERYWHERE).split()
    names += _MACHINES.get(machine, "").split()
    if kernel_version >= _TRACING_SINCE:
        names += _TRACING.split()
    for capability, extra in _CAPABILITIES.items():
        if capability in capabilities:
            names += extra.split()
    syscalls = [{"names": sorted(set(names)), "action": _ALLOW}, *_arguments(), *_namespaces(capabilities)]
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": _EPERM,
        "architectures": ARCHITECTURES.get(machine, []),
        "syscalls": syscalls,
    }


def _arguments() -> Iterator[dict[str, Any]]:
    """Calls that are allowed with some values of their first argument."""
    families = [_argument("LT", _FAMILIES_BELOW), *(_argument("EQ", family) for family in _FAMILIES)]
    yield {"names": ["socket"], "action": _ALLOW, "args": families}
    personalities = [_argument("EQ", personality) for personality in _PERSONALITIES]
    yield {"names": ["personality"], "action": _ALLOW, "args": personalities}


def _namespaces(capabilities: Collection[str]) -> Iterator[dict[str, Any]]:
    """clone(2) with flags for new namespaces, the door to most of what namespaces were not meant to open.

    clone3 has its flags in memory, where a filter cannot look, so it does not exist: ENOSYS makes glibc 2.34 and later
    fall back to clone, which EPERM did not (moby/moby#42681).
    """
    if "CAP_SYS_ADMIN" in capabilities:
        yield {"names": ["clone", "clone3"], "action": _ALLOW}
        return
    yield {"names": ["clone"], "action": _ALLOW, "args": [_argument("MASKED_EQ", _NEW_NAMESPACES, 0)]}
    yield {"names": ["clone3"], "action": _ERRNO, "errnoRet": _ENOSYS}


def _argument(operator: str, value: int, value_two: int | None = None) -> dict[str, Any]:
    """A comparison of argument 0; one that repeats its index is an alternative (runc and crun, see linux.seccomp)."""
    argument = {"index": 0, "value": value, "op": f"SCMP_CMP_{operator}"}
    return argument if value_two is None else {**argument, "valueTwo": value_two}
