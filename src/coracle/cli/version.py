"""``coracle version``."""

from __future__ import annotations

import os
import sys

from coracle import __version__
from coracle.errors import UsageError


def version(argv: list[str]) -> int:
    """Print the versions of coracle, of what it implements, and of what it runs on."""
    if argv[:1] == ["--help"]:
        print("Usage:  coracle version\n\nShow the version")
        return 0
    if argv:
        raise UsageError(f"version takes no arguments, got {argv[0]}")
    uname = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"coracle {__version__}")
    print("OCI runtime-spec 1.3.0")
    print(f"Python {python}, Linux {uname.release} {uname.machine}")
    return 0
