"""What this runtime supports, whatever the machine does (runtime-spec features.md and features-linux.md)."""

from __future__ import annotations

from coracle import __version__
from coracle.linux.capability import NAMES as CAPABILITIES
from coracle.linux.seccomp import FLAG_NEW_LISTENER, FLAG_WAIT_KILLABLE_RECV, SET_MODE_FILTER
from coracle.linux.seccomp.profile import FLAGS
from coracle.linux.syscall import syscall
from coracle.runtime.mount_options import KNOWN as MOUNT_OPTIONS
from coracle.runtime.spec import OCI_VERSION, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OLDEST_OCI_VERSION = "1.0.0"
EFAULT = 14


def features() -> dict[str, Any]:
    """The features structure of runtime-spec 1.3.

    It depends on the machine in one place only, where the spec asks for it: ``supportedFlags``.
    """
    return {
        "ociVersionMin": OLDEST_OCI_VERSION,
        "ociVersionMax": OCI_VERSION,
        "hooks": list(words.HOOKS),
        "mountOptions": list(MOUNT_OPTIONS),
        "linux": _linux(),
        "annotations": {"coracle.version": __version__},
        "potentiallyUnsafeConfigAnnotations": [],  # no annotation changes what this runtime does
    }


def _linux() -> dict[str, Any]:
    return {
        "namespaces": list(words.NAMESPACES),
        "capabilities": list(CAPABILITIES),
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
        "seccomp": {
            "enabled": True,
            "actions": list(words.SECCOMP_ACTIONS),
            "operators": list(words.SECCOMP_OPERATORS),
            "archs": list(words.SECCOMP_ARCHITECTURES),
            "knownFlags": list(words.SECCOMP_FLAGS),
            "supportedFlags": [name for name in words.SECCOMP_FLAGS if _kernel_knows(FLAGS[name])],
        },
        "apparmor": {"enabled": True},
        "selinux": {"enabled": True},
        "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
        "memoryPolicy": {"modes": list(words.MEMORY_MODES), "flags": list(words.MEMORY_FLAGS)},
        "mountExtensions": {"idmap": {"enabled": True}},
        "netDevices": {"enabled": True},
    }


def _kernel_knows(flag: int) -> bool:
    """seccomp(2), EFAULT: flags are looked at before the filter, so none has to be loaded to find out."""
    if flag == FLAG_WAIT_KILLABLE_RECV:  # means nothing, and so is refused, without a listener
        flag |= FLAG_NEW_LISTENER
    try:
        syscall("seccomp", SET_MODE_FILTER, flag, None)
    except OSError as error:
        return error.errno == EFAULT
    return True
