"""Calls to systemd by busctl(1), a cold path that needs no D-Bus library (org.freedesktop.systemd1(5))."""

from __future__ import annotations

import subprocess
from time import monotonic, sleep

from coracle.errors import ConflictError, CoracleError, NotFoundError, UnsupportedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    Property = tuple[str, ...]  # name, D-Bus signature, value words, as busctl(1) takes them

_SERVICE, _ROOT = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
_MANAGER = f"{_SERVICE}.Manager"
_SECONDS = 30.0


def unit_object(unit: str) -> str:
    """The D-Bus object path of a unit: all but ASCII letters and digits become ``_xx`` (sd_bus_path_encode(3))."""
    escaped = "".join(
        letter if letter.isascii() and letter.isalnum() and (index or not letter.isdigit()) else f"_{ord(letter):02x}"
        for index, letter in enumerate(unit)
    )
    return f"{_ROOT}/unit/{escaped}"


def _call(user: bool, method: str, *words: str) -> str:
    return _busctl(user, "call", _SERVICE, _ROOT, _MANAGER, method, *words)


def _text(answer: str) -> str:
    """The one string or object path that busctl(1) printed, between quotes."""
    return answer.partition('"')[2].rpartition('"')[0]


def manager_property(user: bool, name: str) -> str:
    """A property of the service manager, such as its own group."""
    return _text(_busctl(user, "get-property", _SERVICE, _ROOT, _MANAGER, name))


def set_properties(user: bool, unit: str, wanted: list[Property]) -> None:
    """Change properties of a running unit, until it stops."""
    words = [word for entry in wanted for word in entry]
    _call(user, "SetUnitProperties", "sba(sv)", unit, "true", str(len(wanted)), *words)


def start(user: bool, unit: str, wanted: list[Property]) -> None:
    """StartTransientUnit, and wait for its job.  A failed unit of the same name is cleared away first.

    :raises ConflictError: if the unit exists and has not failed.
    """
    words = [word for entry in wanted for word in entry]
    call = ("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", str(len(wanted)), *words, "0")
    try:
        answer = _call(user, *call)
    except ConflictError:
        try:
            _call(user, "ResetFailedUnit", "s", unit)
        except CoracleError:
            pass  # it has not failed, so it runs: the second attempt says so
        answer = _call(user, *call)
    _wait_for_job(user, _text(answer))
    state = _busctl(user, "get-property", _SERVICE, unit_object(unit), f"{_SERVICE}.Unit", "ActiveState")
    if '"active"' not in state:
        raise CoracleError(f"systemd could not start {unit}: it is {state.strip()}", f"see systemctl status {unit}")


def _wait_for_job(user: bool, job: str) -> None:
    """A job's object disappears when the job is done (org.freedesktop.systemd1(5))."""
    deadline = monotonic() + _SECONDS
    while job:
        try:
            _busctl(user, "get-property", _SERVICE, job, f"{_SERVICE}.Job", "State")
        except NotFoundError:
            return
        if monotonic() > deadline:
            raise CoracleError(f"systemd did not finish {job} in {_SECONDS:g} s")
        sleep(0.01)


def stop(user: bool, unit: str, timeout: float) -> None:
    """Stop a unit and wait at most ``timeout`` seconds for it; one that is gone is fine."""
    try:
        answer = _call(user, "StopUnit", "ss", unit, "replace")
    except NotFoundError:
        return
    job = _text(answer)
    deadline = monotonic() + timeout
    while monotonic() < deadline:
        try:
            _busctl(user, "get-property", _SERVICE, job, f"{_SERVICE}.Job", "State")
        except NotFoundError:
            return
        sleep(0.02)


# What busctl(1) says, in its words for the D-Bus errors → our error.
_REFUSALS: tuple[tuple[str, type[CoracleError]], ...] = (
    ("already loaded or has a fragment file", ConflictError),
    ("already exists", ConflictError),
    ("not loaded", NotFoundError),
    ("Unknown object", NotFoundError),
)


def _busctl(user: bool, *words: str) -> str:
    """Run busctl(1) and return what it printed.  :raises CoracleError: one of :data:`_REFUSALS`, or general."""
    line = ["busctl", *(["--user"] if user else []), f"--timeout={_SECONDS:g}", *words]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_SECONDS + 5, check=False)
    except FileNotFoundError:
        raise UnsupportedError("busctl is not installed, the systemd driver needs it", "install systemd") from None
    except subprocess.TimeoutExpired:
        raise CoracleError("systemd does not answer on its bus", "use the cgroupfs driver") from None
    if done.returncode == 0:
        return done.stdout
    complaint = " ".join(done.stderr.split()) or f"busctl failed with status {done.returncode}"
    kind = next((kind for part, kind in _REFUSALS if part in complaint), CoracleError)
    raise kind(f"systemd: {complaint}", "a user needs a login session with its own systemd" if user else "")
