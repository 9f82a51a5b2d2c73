"""Which sysctls a container may have: those that one of its namespaces keeps a copy of.

Any other write would change the whole machine (/proc/sys is only partly namespaced).
"""

from __future__ import annotations

# ipc/ipc_sysctl.c: the tables that every IPC namespace registers
_IPC = (
    "auto_msgmni", "msg_next_id", "msgmax", "msgmnb", "msgmni", "sem", "sem_next_id", "shm_next_id", "shm_rmid_forced",
    "shmall", "shmmax", "shmmni",
)  # fmt: skip


def sysctl_path(name: str) -> str:
    """The file of ``name`` below /proc/sys, such as net/ipv4/conf/eth0.100/rp_filter.

    The separator that comes first counts, as in sysctl.d(5): net.ipv4.conf.eth0/100.rp_filter
    and net/ipv4/conf/eth0.100/rp_filter are the same.  Validation and writing must both go
    through here, so that what was checked is what is written.

    :raises ValueError: for a name that is empty in parts or climbs (``net/../kernel/panic``).
    """
    separator = next((character for character in name if character in "./"), "/")
    path = name.translate({ord("."): "/", ord("/"): "."}) if separator == "." else name
    if "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{name!r} is not the name of a sysctl")
    return path


def sysctl_namespace(path: str) -> str:
    """The type of namespace that owns the sysctl at ``path``, or nothing if it belongs to the machine."""
    section, _, name = path.partition("/")
    if section == "net":
        return "network"
    if section == "user":  # kernel/ucount.c
        return "user"
    if path.startswith("fs/mqueue/") or (section == "kernel" and name in _IPC):
        return "ipc"
    return "uts" if path in ("kernel/domainname", "kernel/hostname") else ""
