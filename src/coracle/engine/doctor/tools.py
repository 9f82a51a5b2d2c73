"""Programs of other packages, and how to install them here."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from coracle.engine.doctor.check import Finding, Subject, degraded, ok

_INSTALL = {
    "debian": "apt install", "ubuntu": "apt install", "fedora": "dnf install", "rhel": "dnf install",
    "centos": "dnf install", "arch": "pacman -S", "suse": "zypper install", "opensuse": "zypper install",
    "alpine": "apk add",
}  # fmt: skip
_ELSEWHERE = {
    ("uidmap", "dnf install"): "shadow-utils", ("uidmap", "pacman -S"): "shadow",
    ("uidmap", "zypper install"): "shadow", ("uidmap", "apk add"): "shadow-uidmap",
}  # fmt: skip
SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def install(package: str, os_release: str = "/etc/os-release") -> str:
    """The command that installs ``package`` (Debian's name) on this distribution (os-release(5))."""
    command = "apt install"
    try:
        with open(os_release, encoding="utf-8") as file:
            fields = dict(line.rstrip().partition("=")[::2] for line in file)
    except OSError:
        fields = {}
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").strip('"').split()]
    command = next((_INSTALL[name.strip('"')] for name in names if name.strip('"') in _INSTALL), command)
    return f"{command} {_ELSEWHERE.get((package, command), package)}"


def tool(program: str, package: str, without: str) -> Callable[[Subject], Finding]:
    """A check that ``program`` is installed; ``without`` says what does not work otherwise."""

    def run(_subject: Subject) -> Finding:
        path = shutil.which(program, path=SEARCH)
        return ok(path) if path else degraded(f"not installed: {without}", install(package))

    return run
