"""What all tests share: which tests need root, and where the proving ground's modules are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# enclosure.py and peers.py are used by bench/ and by people, too, so they live in scripts/.
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


CAP_SYS_ADMIN = 21


def _why_not_root() -> str:
    """Why this process is not the root that containers need, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if not int(status["CapEff"], 16) >> CAP_SYS_ADMIN & 1:
        return "needs root with CAP_SYS_ADMIN: this one is confined, as in a container"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest.mark.root` is enough: such tests are skipped where they cannot work, with the reason."""
    reason = _why_not_root()
    if not reason:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=reason))
