"""``coracle version``."""

from __future__ import annotations

import os
import sys

from coracle import __version__


def version(_argv: list[str]) -> int:
    """Print the versions of coracle, of what it implements, and of what it runs on."""
    uname = os.uname()
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"coracle {__version__}")
    print("OCI runtime-spec 1.3.0")
    print(f"Python {python}, Linux {uname.release} {uname.machine}")
    return 0
