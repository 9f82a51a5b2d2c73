"""Plans for tests: small configs, and the steps that are made from them."""

from __future__ import annotations

from typing import Any

from coracle.linux.seccomp import Program
from coracle.runtime.plan import Request, build
from coracle.step import Plan, Step

BUNDLE = "/bundle"
ALL = ("mount", "pid", "ipc", "uts", "network", "cgroup")
FILTER = bytes.fromhex("060000000000ff7f")  # one instruction: BPF_RET SECCOMP_RET_ALLOW


def config(*kinds: str, process: dict[str, Any] | None = None, **linux: Any) -> dict[str, Any]:
    """A config with new namespaces of ``kinds``; a kind may be written ``pid=/path`` to be joined."""
    namespaces = []
    for kind in kinds:
        name, equals, path = kind.partition("=")
        namespaces.append({"type": name, "path": path} if equals else {"type": name})
    return {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh", "-c", "true"], "cwd": "/", "env": ["PATH=/bin"], **(process or {})},
        "linux": {"namespaces": namespaces, **linux},
    }


def plan_of(spec: dict[str, Any], warnings: list[str] | None = None, **request: Any) -> Plan:
    """The plan for ``spec``; without ``warnings`` there must be none."""
    said = warnings if warnings is not None else []
    plan = build(Request(spec, BUNDLE, said.append, **request))
    assert warnings is not None or not said, said
    return plan


def names(steps: list[Step]) -> list[str]:
    return [type(step).__name__ for step in steps]


def program(notifies: bool = False) -> Program:
    """A seccomp program that allows everything, with a listener or without."""
    return Program(FILTER, 8 if notifies else 0, notifies)
