"""What all tests share: which tests need root, and where the proving ground's modules are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# enclosure.py and peers.py are used by bench/ and by people, too, so they live in scripts/.
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`pytest.mark.root` is enough: such tests are skipped for a normal user, with the reason."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
