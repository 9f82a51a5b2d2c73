"""The inner half of enclosure.py: what its first process does.  Not for use by itself.

``join``     in a new mount namespace, already in the enclosure's cgroups: mount hugetlb if need be and join there, then
             make the pid and cgroup namespaces and become ``hold``
``hold``     as pid 1: private /proc, /run, /sys/fs/cgroup; print the pid by which the outside knows it; wait for
             end-of-file, then kill everything
``release``  in a new mount namespace, after everything is dead: remove the enclosure's cgroup from hugetlb
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from enclosure import CGROUP, PATIENCE, make_cgroup, remove_cgroup


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def mount_tmpfs(target: Path) -> None:
    mount("-t", "tmpfs", "-o", "mode=755", "coracle-enclosure", target)


def wants_hugetlb() -> bool:
    """Whether this is a machine with v1 hierarchies whose hugetlb controller is not mounted."""
    mounted = (CGROUP / "cgroup.procs").exists() or (CGROUP / "hugetlb/cgroup.procs").exists()
    return not mounted and "hugetlb" in Path("/proc/cgroups").read_text()


def mount_hugetlb(directory: Path) -> None:
    directory.mkdir()
    mount("-t", "cgroup", "-o", "hugetlb", "hugetlb", directory)


def join(name: str, directory: Path) -> None:
    if wants_hugetlb():
        mount_tmpfs(directory)
        mount_hugetlb(directory / "hugetlb")
        cgroup = directory / "hugetlb" / name
        if not cgroup.exists():
            make_cgroup(cgroup.parent, name)
        (cgroup / "cgroup.procs").write_text("0")
    namespaces = ["--mount", "--pid", "--cgroup", "--fork", "--kill-child", "--propagation", "private"]
    hold = [sys.executable, "-I", "-S", __file__, "hold", name, str(directory)]
    os.execvp("unshare", ["unshare", *namespaces, "--", *hold])


def cgroup_mounts() -> list[tuple[str, str, str]]:
    """The machine's cgroup mounts: (path below /sys/fs/cgroup, file system type, mount options)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        target, (kind, _, options) = Path(fields.split()[4]), rest.split()[:3]
        if kind in ("cgroup", "cgroup2") and target.is_relative_to(CGROUP):
            found.append((str(target.relative_to(CGROUP)), kind, options))
    return found


def controller_options(options: str) -> str:
    """Of a v1 mount's super block options those that name the hierarchy."""
    known = {line.split()[0] for line in Path("/proc/cgroups").read_text().splitlines()[1:]}
    names = [option for option in options.split(",") if option in known or option.startswith("name=")]
    return ",".join(["none", *names] if names[0].startswith("name=") else names)


def replace_cgroup_tree(directory: Path) -> None:
    """Mount all hierarchies again: mounted in the new cgroup namespace, the enclosure's cgroup is their root."""
    mounts = cgroup_mounts()
    links = {link.name: os.readlink(link) for link in CGROUP.iterdir() if link.is_symlink()}
    top = directory / "cgroup"
    top.mkdir()
    if mounts == [(".", "cgroup2", mounts[0][2])]:
        mount("-t", "cgroup2", "cgroup2", top)
    else:
        mount_tmpfs(top)
        for name, kind, options in mounts:
            (top / name).mkdir()
            extra = ["-o", controller_options(options)] if kind == "cgroup" else []
            mount("-t", kind, *extra, kind, top / name)
        for name, target in links.items():
            (top / name).symlink_to(target)
        if (directory / "hugetlb").exists():
            (top / "hugetlb").mkdir()
            subprocess.run(["umount", str(directory / "hugetlb")], check=True)
            mount("-t", "cgroup", "-o", "hugetlb", "hugetlb", top / "hugetlb")
    subprocess.run(["umount", "-R", str(CGROUP)], check=True)
    mount("--move", top, CGROUP)
    top.rmdir()


def private_run() -> None:
    """An empty /run; a resolv.conf that lives there (systemd-resolved, resolvconf) is kept."""
    resolver = Path("/etc/resolv.conf").resolve()
    content = resolver.read_bytes() if resolver.is_relative_to("/run") and resolver.exists() else None
    mount_tmpfs(Path("/run"))
    Path("/run/lock").mkdir()
    if content is not None:
        resolver.parent.mkdir(parents=True)
        resolver.write_bytes(content)


def hold(_: str, directory: Path) -> None:
    outer_pid = os.readlink("/proc/self")  # this is still the /proc of the outside
    mount("-t", "proc", "proc", "/proc")
    if not directory.is_mount():
        mount_tmpfs(directory)
    replace_cgroup_tree(directory)
    (directory / "hugetlb").rmdir() if (directory / "hugetlb").exists() else None
    private_run()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans become children of pid 1; so the kernel reaps them
    print(outer_pid, flush=True)
    sys.stdin.read()
    kill_everybody()


def kill_everybody() -> None:
    """Kill all processes of the pid namespace, thawing v1 freezers first: a frozen task cannot die."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        for state in CGROUP.glob("freezer/*/**/freezer.state"):
            state.write_text("THAWED")
        time.sleep(0.01)


def release(name: str, directory: Path) -> None:
    """Remove the enclosure's cgroup from hugetlb and see to it that the hierarchy ends with its last mount.

    While children are still dying the last unmount does not end it (cgroup_kill_sb in kernel/cgroup/cgroup.c), and it
    would stay in everybody's /proc/self/cgroup for good; /proc/cgroups counts them.
    """
    if not wants_hugetlb():
        return
    mount_tmpfs(directory)
    mount_hugetlb(directory / "hugetlb")
    remove_cgroup(directory / "hugetlb" / name)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        counts = dict(line.split()[:3:2] for line in Path("/proc/cgroups").read_text().splitlines())
        if counts["hugetlb"] == "1":
            break
        time.sleep(0.005)
    subprocess.run(["umount", str(directory / "hugetlb")], check=True)


if __name__ == "__main__":
    {"join": join, "hold": hold, "release": release}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
