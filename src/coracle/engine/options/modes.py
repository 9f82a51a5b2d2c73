"""The namespace modes: --pid, --ipc, --uts, --cgroupns, --userns, and what is near them."""

from __future__ import annotations

from coracle.engine.options import values
from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONTAINER = "container:"
PATH = "ns:"


def mode(option: str, *words: str, container: bool = False) -> Callable[[str], str]:
    """A converter for a namespace mode: one of ``words``, ``ns:PATH``, and ``container:NAME`` if allowed."""
    expected = ", ".join([*words, *(["container:NAME"] if container else []), "ns:PATH"])

    def convert(text: str) -> str:
        if text in words or (text.startswith(CONTAINER) and container and len(text) > len(CONTAINER)):
            return text
        if text.startswith("ns:/") and "\0" not in text:
            return text
        if text.startswith(CONTAINER) or text == "":
            raise ValueError(expected)
        raise UsageError(f"--{option} {text} is not supported: only {expected}")

    return convert


pid = mode("pid", "private", "host", container=True)
ipc = mode("ipc", "private", "shareable", "none", "host", container=True)
uts = mode("uts", "private", "host")
cgroup = mode("cgroupns", "private", "host")


def user(text: str) -> str:
    """``host``, or ``private`` with maps of one's own."""
    if text in ("host", "private"):
        return text
    raise UsageError(f"--userns {text} is not supported yet: only host, or private with --uidmap and --gidmap")


def restart(text: str) -> str:
    """``no``."""
    if text == "no":
        return text
    raise UsageError(f"--restart {text} is not supported yet: only --restart no")


def log_driver(text: str) -> str:
    """``json-file`` or ``none``."""
    if text in ("json-file", "none"):
        return text
    raise UsageError(f"--log-driver {text} is not supported yet: only json-file and none")


def log_option(text: str) -> tuple[str, int]:
    """``max-size=10m`` in bytes, ``max-file=3``: what docker's json-file driver bounds a log with."""
    key, _, value = text.partition("=")
    if key == "max-size":
        return key, values.size_or_unlimited(value)
    if key == "max-file":
        return key, values.integer(1, 1000)(value)
    raise UsageError(f"--log-opt {key} is not supported yet: only max-size and max-file")


def systemd(text: str) -> bool:
    """podman's --systemd, of which only ``false`` is what happens here."""
    if text == "false":
        return False
    raise UsageError(f"--systemd={text} is not supported yet: only --systemd=false")


def image_volume(text: str) -> str:
    """What becomes of the VOLUMEs of an image: ``ignore`` leaves them in the writable layer."""
    if text in ("ignore", "tmpfs"):
        return text
    raise UsageError(f"--image-volume {text} is not supported yet: only ignore and tmpfs")


def sysctl(text: str) -> tuple[str, str]:
    """A sysctl that one of the container's namespaces keeps a copy of, as (name, value)."""
    name, content = values.full_pair(text)
    if sysctl_owner(name) not in ("network", "ipc", "uts"):
        raise ValueError("a sysctl of a namespace: net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*, ...")
    return name, content


def sysctl_owner(name: str) -> str:
    """The type of namespace that owns the sysctl ``name``, "" if it belongs to the machine.  :raises ValueError:"""
    from coracle.runtime.spec.sysctl import sysctl_namespace, sysctl_path  # only --sysctl pays for the import

    return sysctl_namespace(sysctl_path(name))
