"""What a check is and what it finds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

from coracle.paths import Paths

OK = "ok"
DEGRADED = "degraded"  # coracle works, but not all of it
MISSING = "missing"  # containers cannot run
STATUSES = (OK, DEGRADED, MISSING)


@dataclass(frozen=True)
class Finding:
    """Outcome of a check: what is there, and what to type if it should be better."""

    status: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Subject:
    """For whom the machine is examined: this user with this store."""

    paths: Paths
    uid: int
    name: str

    @property
    def is_root(self) -> bool:
        return self.uid == 0


@dataclass(frozen=True)
class Check:
    """One row of the table: ``purpose`` says what coracle needs it for."""

    group: str
    name: str
    purpose: str
    probe: Callable[[Subject], Finding]


@dataclass(frozen=True)
class Result:
    """A check and its finding, flat, as it is printed."""

    group: str
    name: str
    purpose: str
    status: str
    found: str
    fix: str

    def fields(self) -> dict[str, str]:
        return asdict(self)


def subject(paths: Paths) -> Subject:
    """The calling user."""
    uid = os.geteuid()
    return Subject(paths, uid, _login_name(uid) or str(uid))


def _login_name(uid: int) -> str:
    """Name of ``uid`` by /etc/passwd; no name service is asked, which may hang (nsswitch.conf(5))."""
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
            rows = [line.split(":") for line in file]
    except OSError:
        return ""
    return next((row[0] for row in rows if row[2:3] == [str(uid)]), "")


def ok(found: str) -> Finding:
    return Finding(OK, found)


def degraded(found: str, fix: str) -> Finding:
    return Finding(DEGRADED, found, fix)


def missing(found: str, fix: str) -> Finding:
    return Finding(MISSING, found, fix)


def reason(error: OSError) -> str:
    """ENOSYS and EPERM mean something particular when a sandbox stands between us and the kernel."""
    if error.errno == errno.ENOSYS:
        return "the kernel does not have it, or a sandbox hides it"
    if error.errno == errno.EPERM:
        return "operation not permitted"
    return os.strerror(error.errno or 0).lower()


def first_line(path: str) -> str:
    """The first line of a file of /proc or /sys, "" if it is not there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""
