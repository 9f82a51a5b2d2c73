"""The systemd driver against a real systemd, booted in namespaces over a copy-on-write view of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cgroup_processes import groups, root, unified  # noqa: F401

import coracle

SYSTEMD = "/usr/lib/systemd/systemd"
PYTHON = "/usr/bin/python3"  # below the root that systemd sees
pytestmark = [
    pytest.mark.root,
    root,
    unified,
    pytest.mark.skipif(
        not all(map(shutil.which, (SYSTEMD, "busctl", "dbus-daemon", "unshare", PYTHON))),
        reason="needs systemd, dbus and util-linux",
    ),
]

# Mounts a new root from $BASE, and becomes systemd in it.  It has one unit besides D-Bus: the probe.
BOOT = r"""
set -e
mount --make-rprivate /
mkdir $BASE/tmpfs $BASE/root
mount -t tmpfs tmpfs $BASE/tmpfs
mkdir $BASE/tmpfs/up $BASE/tmpfs/work
R=$BASE/root
mount -t overlay overlay -o lowerdir=/,upperdir=$BASE/tmpfs/up,workdir=$BASE/tmpfs/work $R
mount -t proc proc $R/proc
mount -t sysfs -o ro sysfs $R/sys
for d in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs $R/$d; done
for d in null zero full random urandom tty; do touch $R/dev/$d; mount --bind /dev/$d $R/dev/$d; done
mkdir $R/dev/pts $R/dev/shm $R/probe $R/source
mount -t devpts -o newinstance,ptmxmode=0666 devpts $R/dev/pts
mount --bind $BASE/probe $R/probe
mount --bind $SOURCE $R/source
mount -t cgroup2 cgroup2 $R/sys/fs/cgroup
rm -rf $R/etc/systemd/system/*.wants
cp $BASE/probe/probe.service $BASE/probe/probe.target $R/etc/systemd/system/
mkdir -p $R/.old
cd $R
pivot_root . .old
umount -l /.old
exec env -i container=coracle PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/lib/systemd/systemd \
    --unit=probe.target --log-target=console --show-status=false
"""
SERVICE = f"""
[Unit]
Wants=dbus.service
After=dbus.service
[Service]
Type=oneshot
StandardOutput=file:/probe/out
StandardError=file:/probe/errors
ExecStart={PYTHON} -B /probe/probe.py
ExecStopPost=/usr/bin/touch /probe/done
ExecStopPost=/usr/bin/systemctl --no-block exit 0
"""
TARGET = "[Unit]\nRequires=dbus.socket\nWants=probe.service\nAllowIsolate=yes\n"
PROBE = r"""
import os, subprocess, sys, time
sys.path.insert(0, "/source")
from coracle.errors import ConflictError, SpecError
from coracle.linux.cgroup import systemd
from coracle.linux.cgroup.group import Cgroup
from coracle.linux.cgroup.hierarchy import detect

def show(*names):
    line = ["systemctl", "show", "test-abc.scope", *(f"-p{name}" for name in names)]
    return dict(entry.split("=", 1) for entry in subprocess.run(line, capture_output=True, text=True).stdout.split())

def member(group):
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        for path in group.join_files(unified=True):
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"0")
            os.close(fd)
        os.write(send, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(receive, 1)
    return pid

hierarchies = detect()
path = "machine-x.slice:test:abc"
resources = {"pids": {"limit": 7}, "memory": {"limit": 1 << 26}, "cpu": {"shares": 512, "quota": 50000}}
group = systemd.scope(path, "abc", hierarchies, resources)
assert group.path == "machine.slice/machine-x.slice/test-abc.scope", group.path
assert not group.exists()
group.create()
(holder,) = group.processes()
pid = member(group)
deadline = time.monotonic() + 5
while group.processes() != [pid] and time.monotonic() < deadline:
    time.sleep(0.01)
assert group.processes() == [pid], (pid, holder, group.processes())
assert show("Delegate", "Slice") == {"Delegate": "yes", "Slice": "machine-x.slice"}
assert show("ActiveState") == {"ActiveState": "active"}
assert show("TasksMax", "MemoryMax", "CPUWeight") == {"TasksMax": "7", "MemoryMax": str(1 << 26), "CPUWeight": "59"}
group.update({"pids": {"limit": 9}})
assert show("TasksMax") == {"TasksMax": "9"}

again = systemd.scope(path, "abc", hierarchies)
try:
    again.create()
except ConflictError as error:
    assert "test-abc.scope" in str(error), error
else:
    raise AssertionError("made twice")
assert group.processes() == [pid]

found = Cgroup.from_record(group.record())
assert type(found) is systemd.ScopeGroup
child = found.below("payload")
child.create()
found.kill()
os.waitpid(pid, 0)
found.delete()
assert not found.exists()
assert show("ActiveState") == {"ActiveState": "inactive"}
found.delete()

group.create()  # the name is free again
group.kill()
group.delete()
assert not group.exists()
print("all is well")
"""


def test_scope_from_start_to_end(groups, tmp_path) -> None:  # noqa: F811
    probe = tmp_path / "probe"
    probe.mkdir()
    for name, text in {"probe.service": SERVICE, "probe.target": TARGET, "probe.py": PROBE}.items():
        (probe / name).write_text(text)
    spaces = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child=SIGKILL"]
    environment = os.environ | {"BASE": str(tmp_path), "SOURCE": str(Path(coracle.__file__).parent.parent)}

    def boot() -> int:
        with open(tmp_path / "console", "w") as console:
            line = ["timeout", "60", "unshare", *spaces, "bash", "-c", BOOT]
            return subprocess.run(line, env=environment, stdout=console, stderr=console, check=False).returncode

    groups.run(groups.new("unified"), boot)
    console = (tmp_path / "console").read_text()[-2000:]
    assert (probe / "done").exists(), f"systemd did not get as far as the probe: {console}"
    assert (probe / "out").read_text() == "all is well\n", (probe / "errors").read_text()
