"""What the spec of a container needs to know about this machine; everything else in this package is pure."""

from __future__ import annotations

import os

from coracle import record
from coracle.linux import capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = {0o020000: "c", 0o060000: "b", 0o010000: "p"}
# What docker and containerd leave out of /dev for --privileged (containerd pkg/oci, HostDevices).
_SKIPPED_DIRECTORIES = frozenset(("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"))
_SKIPPED_FILES = frozenset(("console",))


class Device:
    """A device node: ``kind`` "c", "b" or "p" (a FIFO), numbers, permissions and owner."""

    __slots__ = ("gid", "kind", "major", "minor", "mode", "path", "uid")

    def __init__(
        self, path: str, kind: str, major: int, minor: int, mode: int = 0o666, uid: int = 0, gid: int = 0
    ) -> None:
        self.path = path
        self.kind = kind
        self.major = major
        self.minor = minor
        self.mode = mode
        self.uid = uid
        self.gid = gid

    def __repr__(self) -> str:
        return (
            f"Device({self.path!r}, {self.kind!r}, {self.major}, {self.minor}, {self.mode:#o}, {self.uid}, {self.gid})"
        )


class Host:
    """Questions about the machine, each answered when asked: most containers ask two or three.

    ``environ`` are the caller's environment variables, for ``-e NAME``.
    """

    __slots__ = ("environ",)

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.environ: Mapping[str, str] = os.environ if environ is None else environ

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def read(self, path: str) -> bytes:
        """All bytes of a file.  :raises OSError:"""
        return record.read(path)

    def device(self, path: str) -> Device | None:
        """The device at ``path``, through symbolic links, or None if it is something else.  :raises OSError:"""
        status = os.stat(path)
        kind = _KINDS.get(status.st_mode & 0o170000)
        if kind is None:
            return None
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        return Device(path, kind, major, minor, status.st_mode & 0o7777, status.st_uid, status.st_gid)

    def devices(self, directory: str) -> list[Device]:
        """All device nodes below ``directory``, without links, in the order of their names."""
        found: list[Device] = []
        try:
            entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            return found  # gone, or closed to us: as if it were not there, like docker
        for entry in entries:
            if entry.is_symlink() or entry.name in _SKIPPED_FILES:
                continue
            if entry.is_dir(follow_symlinks=False):
                found += [] if entry.name in _SKIPPED_DIRECTORIES else self.devices(entry.path)
                continue
            try:
                device = self.device(entry.path)
            except OSError:
                continue
            if device is not None and device.kind != "p":
                found.append(device)
        return found

    def hostname(self) -> str:
        return os.uname().nodename

    def domain_name(self) -> str:
        """The NIS domain of this host, "" when it has none."""
        return self._line("/proc/sys/kernel/domainname").replace("(none)", "")

    def cpu_count(self) -> int:
        """CPUs that this process may use, which is what docker compares --cpus with."""
        return len(os.sched_getaffinity(0))

    def online_cpus(self) -> str:
        """cpuset(7) list of the CPUs that are online."""
        return self._line("/sys/devices/system/cpu/online") or f"0-{(os.cpu_count() or 1) - 1}"

    def memory_nodes(self) -> str:
        """cpuset(7) list of the memory nodes."""
        return self._line("/sys/devices/system/node/online") or "0"

    def capabilities(self) -> int:
        """The bounding set of this process as a bit mask: nothing outside it can be given away."""
        return capability.own().bounding

    def last_capability(self) -> int:
        """Number of the highest capability that the kernel knows."""
        return capability.last_cap()

    def swap_limit(self) -> bool:
        """Whether memory cgroups can limit swap: CONFIG_MEMCG_SWAP, and on v1 not booted with swapaccount=0."""
        if self.exists("/sys/fs/cgroup/cgroup.controllers"):
            return self.exists("/proc/swaps")  # on v2 the root cgroup has no memory.swap.max to look at
        return self.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")

    def throttle_directories(self) -> list[str]:
        """Directories that docker masks because they tell neighbours' load (moby advisory GHSA-6fw5-f8r9-fgfm)."""
        base = "/sys/devices/system/cpu"
        if not self.exists(f"{base}/cpu0/thermal_throttle"):
            return []
        names = [name for name in os.listdir(base) if name.startswith("cpu") and name[3:].isdigit()]
        names.sort(key=lambda name: int(name[3:]))
        return [f"{base}/{name}/thermal_throttle" for name in names if self.exists(f"{base}/{name}/thermal_throttle")]

    def propagation(self, path: str) -> str:
        """Propagation of the mount that holds ``path``: "shared", "slave", or "private" (proc_pid_mountinfo(5))."""
        target = os.path.realpath(path)
        found, longest = "private", -1
        for line in self.read("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
            fields = line.split(" ")
            point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").rstrip("/")
            if len(point) >= longest and (target == point or target.startswith(f"{point}/")):
                optional = fields[6 : fields.index("-")]
                longest = len(point)
                found = next(
                    (kind for mark, kind in _PROPAGATION if any(o.startswith(mark) for o in optional)), "private"
                )
        return found

    def has_apparmor(self) -> bool:
        return self._line("/sys/module/apparmor/parameters/enabled") == "Y"

    def has_selinux(self) -> bool:
        return self.exists("/sys/fs/selinux/enforce")

    def time_zone(self) -> str:
        """Name of this host's time zone such as Europe/Paris, "" if /etc/localtime does not tell."""
        try:
            link = os.readlink("/etc/localtime")
        except OSError:
            return ""
        return link.partition("/zoneinfo/")[2]

    def _line(self, path: str) -> str:
        try:
            return self.read(path).decode("utf-8", "replace").strip()
        except OSError:
            return ""


_PROPAGATION = (("shared:", "shared"), ("master:", "slave"))
