"""What a plan is made from."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from coracle.linux.cgroup.group import Cgroup
    from coracle.linux.seccomp import Program
    from coracle.runtime.steps.rootfs import Root


class Request:
    """One container to be planned.

    ``spec`` is a checked config.json; ``bundle`` its directory, which relative paths start from.
    ``cgroup`` is None where groups cannot be had (a warning said so).  ``root`` replaces the
    spec's ``root.path``, for an engine that mounts layers.  ``seccomp`` is the compiled filter.
    ``inside`` is the process whose namespaces an exec joins, 0 for a new container.
    """

    __slots__ = (
        "bundle",
        "cgroup",
        "identifier",
        "init",
        "inside",
        "keyring",
        "labels",
        "pivot",
        "preserve_fds",
        "root",
        "seccomp",
        "spec",
        "warn",
    )

    def __init__(
        self,
        spec: dict[str, Any],
        bundle: str,
        warn: Callable[[str], None],
        cgroup: Cgroup | None = None,
        root: Root | None = None,
        seccomp: Program | None = None,
        init: bool = False,
        keyring: bool = False,
        pivot: bool = True,
        preserve_fds: int = 0,
        inside: int = 0,
        identifier: str = "",
    ) -> None:
        self.spec = spec
        self.bundle = bundle
        self.warn = warn
        self.cgroup = cgroup
        self.root = root
        self.seccomp = seccomp
        self.init = init
        self.keyring = keyring
        self.pivot = pivot
        self.preserve_fds = preserve_fds
        self.inside = inside
        self.identifier = identifier
        self.labels: list[tuple[str, str]] = []  # of security modules; the planner finds out which are active

    def linux(self, key: str, default: Any = None) -> Any:
        """``linux.<key>`` of the spec; null counts as absent."""
        value = (self.spec.get("linux") or {}).get(key)
        return default if value is None else value

    def process(self, key: str, default: Any = None) -> Any:
        """``process.<key>`` of the spec; null counts as absent."""
        value = (self.spec.get("process") or {}).get(key)
        return default if value is None else value
