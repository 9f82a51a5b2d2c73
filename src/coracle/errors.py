"""Every error that coracle raises on purpose.

    CoracleError                    exit 125, HTTP 500
    ├── UsageError                  exit 125, HTTP 400   the request itself is wrong
    │   └── SpecError               exit 125, HTTP 400   a config.json or image config is wrong; names the JSON path
    ├── NotFoundError               exit 125, HTTP 404   no such container, image, ...
    ├── ConflictError               exit 125, HTTP 409   name in use, wrong state, ...
    ├── ContentError                exit 125, HTTP 400   foreign data is damaged or hostile: archives, layers, manifests
    ├── KernelError                 exit 125, HTTP 500   a system call failed: carries errno, object and hint
    ├── UnsupportedError            exit 125, HTTP 501   this kernel or user cannot; says what would make it possible
    ├── CannotExecuteError          exit 126, HTTP 400   the command exists but cannot be executed
    └── CommandNotFoundError        exit 127, HTTP 400   no such command in the container

Libraries raise, only ``coracle.cli`` prints.  Exit codes follow docker-run(1): 125 is the
engine's own failure, 126 and 127 are execve's, 128+n a signal.  A message is one line,
lower case, no full stop: what failed, on which object, and why; ``hint`` says what to do.
"""

from __future__ import annotations

import os


class CoracleError(Exception):
    """Base of all deliberate errors: ``str()`` is one line for a person.

    ``hint`` is a second clause that says what to do about it.
    """

    exit_code = 125
    http_status = 500

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(CoracleError):
    """A wrong option, argument or combination of them."""

    http_status = 400


class SpecError(UsageError):
    """A wrong value in a config file; ``where`` is its JSON path, such as ``process.args[0]``."""

    def __init__(self, where: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{where}: {problem}", hint)
        self.where = where


class NotFoundError(CoracleError):
    """A named object does not exist."""

    http_status = 404


class ConflictError(CoracleError):
    """The object exists but is in a state that forbids the request."""

    http_status = 409


class ContentError(CoracleError):
    """Data from outside is damaged, truncated, or tries to escape."""

    http_status = 400


class UnsupportedError(CoracleError):
    """The kernel, the user's rights or this version lack something."""

    http_status = 501


class KernelError(CoracleError):
    """A system call failed.  ``errno`` is the kernel's, ``what`` the operation, ``path`` its object."""

    def __init__(self, errno: int, what: str, path: str = "", hint: str = "") -> None:
        subject = f"{what} {path}" if path else what
        super().__init__(f"{subject}: {os.strerror(errno).lower()}", hint)
        self.errno = errno
        self.what = what
        self.path = path


class CannotExecuteError(CoracleError):
    """The program was found but cannot be started."""

    exit_code = 126
    http_status = 400


class CommandNotFoundError(CoracleError):
    """The program does not exist in the container."""

    exit_code = 127
    http_status = 400
