"""The ``process`` object: what runs, as whom, with which rights (runtime-spec config.md#process)."""

from __future__ import annotations

from coracle.engine.container_spec.environment import environment
from coracle.engine.options.security import ALL, Security
from coracle.engine.options.values import clean
from coracle.linux import capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from coracle.engine.container_spec.host import Host
    from coracle.engine.options import RunOptions
    from coracle.engine.user import User

# Docker's fourteen (moby daemon/pkg/oci/caps).
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip
INIT_PATH = "/dev/init"  # in the tmpfs on /dev: leaves no trace in the image's tree, works read-only


def every_capability(host: Host, user_namespace: bool) -> list[str]:
    """What ALL means: all that this kernel knows and that can be given away.

    A new user namespace starts with the full set (user_namespaces(7)); without one nothing outside
    the bounding set of this process can be passed on, and capset(2) would fail as a whole.
    """
    known = (2 << host.last_capability()) - 1 & capability.ALL
    return capability.names(known if user_namespace else known & host.capabilities())


def capabilities(options: RunOptions, host: Host, user_namespace: bool) -> list[str]:
    """The capability set of the container (moby's caps.TweakCapabilities).

    One deliberate difference: docker ignores --cap-drop with --privileged, here it drops.
    """
    adds, drops = options.cap_add, options.cap_drop
    if options.privileged or ALL in adds:
        base = every_capability(host, user_namespace)
        chosen = [name for name in base if name not in drops] if ALL not in drops else []
    elif ALL in drops:
        chosen = []
    else:
        chosen = [name for name in DEFAULT_CAPABILITIES if name not in drops]
    return list(dict.fromkeys([*chosen, *(name for name in adds if name != ALL)]))


def process(
    options: RunOptions,
    image: Mapping[str, Any],
    *,
    argv: Sequence[str],
    user: User,
    hostname: str,
    host: Host,
    security: Security,
    user_namespace: bool,
    console_size: tuple[int, int] | None,
    init: bool,
) -> dict[str, Any]:
    """The ``process`` object.  ``console_size`` is (rows, columns); ``init`` puts our init before ``argv``."""
    granted = capabilities(options, host, user_namespace)
    sets: dict[str, Any] = {"bounding": granted}
    if user.uid == 0:
        # Docker gives a user other than 0 the bounding set only, to match execve(2), and never inheritable
        # (CVE-2022-24769) or ambient ones.
        sets |= {"effective": granted, "permitted": granted}
    result: dict[str, Any] = {
        "terminal": options.tty,
        "user": {"uid": user.uid, "gid": user.gid, "umask": options.umask, "additionalGids": user.groups},
        "args": [INIT_PATH, "--", *argv] if init else list(argv),
        "env": environment(options, image, hostname, user.home, host),
        "cwd": options.workdir or working_directory(image),
        "capabilities": sets,
        "noNewPrivileges": security.no_new_privileges,
    }
    if options.tty and console_size:
        result["consoleSize"] = {"height": console_size[0], "width": console_size[1]}
    if options.ulimit:
        result["rlimits"] = rlimits(options.ulimit)
    # Docker always writes 0, because dockerd itself runs at -500; here the caller's own value is inherited.
    if options.oom_score_adj is not None:
        result["oomScoreAdj"] = options.oom_score_adj
    result.update(_labels(security, host, options.privileged))
    return result


def working_directory(image: Mapping[str, Any]) -> str:
    """The image's WorkingDir as an absolute path; docker takes a relative one from the root."""
    return clean(f"/{image.get('WorkingDir') or ''}")


def rlimits(limits: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """POSIX limits in the spec's names; the last of several for one resource wins, as in docker."""
    last = {name: (soft, hard) for name, soft, hard in limits}
    return [{"type": f"RLIMIT_{name.upper()}", "soft": soft, "hard": hard} for name, (soft, hard) in last.items()]


def _labels(security: Security, host: Host, privileged: bool) -> dict[str, str]:
    """LSM labels, only where the LSM is on.

    Docker loads a profile of its own, docker-default, into AppArmor; coracle loads none, so that
    only an explicit apparmor= is passed on.  The SELinux label is container_t's (container_selinux(8)).
    """
    found: dict[str, str] = {}
    if security.apparmor and host.has_apparmor():
        found["apparmorProfile"] = security.apparmor
    if "disable" not in security.labels and not privileged and host.has_selinux():
        parts = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}
        given = (label.partition(":") for label in security.labels)
        parts |= {key: value for key, _, value in given if key in parts}
        found["selinuxLabel"] = ":".join(parts.values())
    return found
