"""The plan of a bundle, the very one that ``coracle-oci create`` would carry out."""

from __future__ import annotations

import os

from coracle.linux import seccomp
from coracle.runtime import group, lifecycle
from coracle.runtime import spec as specs
from coracle.runtime.plan import build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from coracle.runtime.lifecycle import CreateOptions
    from coracle.step import Plan


def plan_of(bundle: str, identifier: str, options: CreateOptions) -> Plan:
    """The plan for ``bundle``; nothing is made.  ``identifier`` only names the control group.

    :raises CoracleError: as create would.
    """
    bundle = os.path.abspath(bundle)
    spec = specs.load(bundle, options.config or "config.json")
    cgroup = group.choose(spec, identifier, options.systemd_cgroup, options.cgroup_manager, options.warn)
    profile = spec.get("linux", {}).get("seccomp")
    program = seccomp.compile(profile) if profile else None
    return build(lifecycle.request(spec, bundle, options, cgroup, program))
