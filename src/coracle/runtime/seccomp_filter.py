"""The compiled filter of a config (runtime-spec config-linux.md, "Seccomp")."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.linux.seccomp import Program


def seccomp_program(spec: dict[str, Any], root: str) -> Program | None:
    """The compiled filter of ``linux.seccomp``, cached below ``root``."""
    profile = (spec.get("linux") or {}).get("seccomp")
    if not profile:
        return None
    from coracle.linux.seccomp.cache import cached

    return cached(profile, f"{root}/.seccomp")
