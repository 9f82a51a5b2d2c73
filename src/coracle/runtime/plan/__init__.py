"""config.json → Plan: which steps make the container that a spec describes, in which order.

The order follows the measures of docs/security.md: cgroups before the child, id maps before
everything else in it, all mounts by descriptor before the pivot, masks after the mounts,
capabilities and seccomp after the last Python instruction.
"""

from __future__ import annotations

from coracle.runtime.plan import identity, namespaces, resources, rootfs
from coracle.runtime.plan.request import Request
from coracle.step import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.step import Step

__all__ = ["Request", "build"]


def build(request: Request) -> Plan:
    """The whole plan for ``request``; pure but for reading what exists on the host (devices, mounts).

    :raises SpecError: for what only shows when the parts are put together.
    """
    request.labels = identity.labels(request)
    spaces = namespaces.Spaces.of(request)
    steps: list[Step] = [
        *resources.steps(request),
        *namespaces.join_steps(request, spaces),
        *namespaces.child_steps(request, spaces),
        *rootfs.steps(request, spaces),
        *identity.enter_steps(request),
        *identity.init_steps(request),
    ]
    return Plan(steps, spaces.clone_flags, spaces.join_first)
