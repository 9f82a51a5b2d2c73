"""``coracle doctor``: what this kernel and this user can do for containers, and how to get what is missing.

Everything is really tried, in children that take what they made with them.  ``examine`` runs the
table, ``render`` (in ``report``) prints it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coracle.engine.doctor import groups, kernel, rights, storage
from coracle.engine.doctor.check import DEGRADED, MISSING, OK, STATUSES, Check, Finding, Result, Subject, subject
from coracle.engine.doctor.report import render, summary
from coracle.engine.doctor.tools import tool
from coracle.errors import CoracleError
from coracle.paths import Paths

__all__ = [
    "CHECKS", "DEGRADED", "MISSING", "OK", "Check", "Finding", "Result", "Subject", "examine", "render", "subject",
    "summary", "worst",
]  # fmt: skip

_NAMESPACES = {
    "mount": "its own file systems", "pid": "its own processes", "network": "its own network",
    "ipc": "its own shared memory and message queues", "uts": "its own host name",
    "cgroup": "its own view of control groups", "time": "--time-offset",
}  # fmt: skip

_ROWS: tuple[tuple[str, tuple[tuple[str, str, Callable[[Subject], Finding]], ...]], ...] = (
    ("Kernel", (
        ("version", "the mount API by file descriptor", kernel.version),
        ("machine", "the launcher, which starts programs without Python in memory", kernel.machine),
        ("python", "coracle itself", kernel.python),
        ("system calls", "starting, finding and signalling containers without races", kernel.calls),
        ("mount API", "mounts that an image cannot redirect", kernel.mount_api),
        ("seccomp", "the filter that every container has by default", kernel.seccomp),
        ("launcher", "starting any program", kernel.launcher),
    )),
    ("Rights", (
        ("user namespaces", "containers without root, and --uidmap", rights.user_namespaces),
        ("subordinate ids", "images whose files belong to several users", rights.subordinate_ids),
        ("newuidmap", "using the subordinate ids", rights.id_tools),
        ("capabilities", "what root's engine does", rights.capabilities),
        ("security modules", "--security-opt label= and apparmor=", rights.security_modules),
        ("own confinement", "containers with all their rights", rights.confinement),
    )),
    ("Namespaces", (
        *((kind, f"{what} for each container", kernel.one_namespace(kind)) for kind, what in _NAMESPACES.items()),
        ("/proc", "a process list of the container alone", kernel.proc),
    )),
    ("Storage", (
        ("store", "images and containers", storage.store),
        ("space", "unpacking images", storage.space),
        ("run directory", "sockets and states of running containers", storage.run_directory),
        ("overlay", "sharing an image between containers", storage.overlay),
        ("image 'host'", "coracle run host ...", storage.host_image),
        ("id-mapped mounts", "--uidmap with images of root's store", storage.id_mapped_mounts),
    )),
    ("Control groups", (
        ("kind", "limits, pause and statistics", groups.kind),
        ("controllers", "limits of memory, processes, CPU and disks", groups.controllers),
        ("delegation", "limits for this user's containers", groups.delegation),
        ("swap", "--memory-swap", groups.swap),
    )),
    ("Tools", (
        ("nft", "networks between containers", tool("nft", "nftables", "only --network none and host")),
        ("pasta", "networks without root", tool("pasta", "passt", "users have --network none and host")),
    )),
)  # fmt: skip

CHECKS = tuple(Check(group, name, purpose, probe) for group, rows in _ROWS for name, purpose, probe in rows)


def examine(paths: Paths, checks: tuple[Check, ...] = CHECKS) -> Iterator[Result]:
    """Run ``checks`` for the calling user with the store ``paths``, one after the other, yielding as they finish.

    A check that fails in a way that it does not know is itself a finding; nothing is raised.
    """
    for_whom = subject(paths)
    for check in checks:
        yield _result(check, for_whom)


def _result(check: Check, for_whom: Subject) -> Result:
    try:
        found = check.probe(for_whom)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        text = (error.strerror or str(error)).lower()
        found = Finding(DEGRADED, f"could not be examined: {text}{place}", "report this")
    except CoracleError as error:
        found = Finding(DEGRADED, f"could not be examined: {error.message}", error.hint or "report this")
    return Result(check.group, check.name, check.purpose, found.status, found.found, found.fix)


def worst(results: list[Result]) -> str:
    """The worst status among ``results``."""
    return max((result.status for result in results), key=STATUSES.index, default=OK)
