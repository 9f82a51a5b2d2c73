"""Attacks by way of paths that the image or a shared volume controls: mounts, /dev, /proc, terminals, names."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


@pytest.fixture
def outside(playground):
    """A directory of the host that no container may change."""
    directory = playground / f"outside-{os.getpid()}"
    directory.mkdir()
    (directory / "kept").write_text("kept")
    yield directory
    assert sorted(path.name for path in directory.iterdir()) == ["kept"]
    assert (directory / "kept").read_text() == "kept"
    shutil.rmtree(directory)


def swap(path: Path, target: object) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif path.exists() or path.is_symlink():
        path.unlink()
    path.symlink_to(target)


# --- CVE-2019-19921, CVE-2021-30465, CVE-2023-27561, CVE-2023-28642, CVE-2024-45310 ------------------


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_a_link_in_place_of_proc_or_sys(own_root, clean_store, name):
    swap(own_root / name, "/tmp")
    result = clean_store.run("--rm", "--rootfs", own_root, "true")
    assert result.code == 125
    assert "the image has a link or file there" in result.err


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../../../{outside}"])
def test_a_mount_destination_that_leads_outside(own_root, clean_store, outside, playground, target):
    """The link is resolved inside the root: nothing appears on the host."""
    (own_root / "link").symlink_to(target.format(outside=outside))
    source = playground / "source"
    source.mkdir(exist_ok=True)
    result = clean_store.run("--rm", "-v", f"{source}:/link/deeper", "--rootfs", own_root, "ls", f"{outside}")
    assert (result.code, result.out) == (0, "deeper\n") or "no such file" in result.err, result
    assert clean_store.run("--rm", "--tmpfs", "/link", "--rootfs", own_root, "true").code in (0, 125)


def test_a_link_that_is_swapped_while_containers_start(own_root, clean_store, outside, playground):
    """A process of another container exchanges a directory of a shared volume for a link to the host."""
    shared = playground / f"shared-{os.getpid()}"
    (shared / "a").mkdir(parents=True)
    script = f"""
import os
os.chdir({str(shared)!r})
os.symlink({str(outside)!r}, "b")
while True:
    os.rename("a", "c"); os.rename("b", "a"); os.rename("a", "b"); os.rename("c", "a")
"""
    attacker = subprocess.Popen(["python3", "-c", script], stderr=subprocess.DEVNULL)
    try:
        for _ in range(25):
            words = ("--rm", "-v", f"{shared}:/v", "--tmpfs", "/v/a/t", "--rootfs", own_root, "true")
            assert clean_store.run(*words).code in (0, 125)
    finally:
        attacker.kill()
        attacker.wait()
        shutil.rmtree(shared, ignore_errors=True)


# --- CVE-2026-41579 and CVE-2026-47766: /dev is a link ----------------------------------------------


def test_devices_are_not_made_outside(own_root, clean_store, outside):
    (own_root / "dev").symlink_to(outside)
    config = clean_store.bundle(own_root, "true", mounts=[{"destination": "/proc", "type": "proc", "source": "proc"}])
    clean_store.oci("run", "--bundle", config, "dev-link")  # whatever it says, nothing may appear outside


# --- CVE-2025-31133: what masks --------------------------------------------------------------------


def test_masks_come_from_the_host(own_root, clean_store):
    """The image's /dev/null is a link to something writable; masked files must be the real null device."""
    (own_root / "dev").mkdir()
    (own_root / "dev/null").symlink_to("/proc/sysrq-trigger")
    show = "stat -c '%F %t:%T' /proc/keys /proc/timer_list; cat /proc/keys | wc -c; ls /proc/acpi /sys/firmware | wc -w"
    result = clean_store.run("--rm", "--rootfs", own_root, "sh", "-c", show, code=0)
    assert result.lines[:3] == ["character special file 1:3", "character special file 1:3", "0"], result


# --- CVE-2025-52565: terminals ---------------------------------------------------------------------


@pytest.mark.parametrize("planted", ["pts/ptmx", "console", "ptmx"])
def test_planted_terminals(own_root, clean_store, planted, outside):
    """A volume over /dev brings its own entries; the terminal comes from the container's devpts or not at all."""
    (own_root / "dev/pts").mkdir(parents=True)
    (own_root / "dev" / planted).symlink_to(outside / "kept")
    command = clean_store.run_words(
        "--rm", "-t", "--rootfs", own_root, "sh", "-c", "tty; test -c /dev/console && echo yes"
    )
    result = subprocess.run(
        ["script", "-qec", " ".join(map(str, [f"'{word}'" for word in command])), "/dev/null"],
        env=clean_store.environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "/dev/pts/0" in result.stdout and "yes" in result.stdout, result


def test_the_callers_terminal_stays_outside(busybox, clean_store):
    """Without -t no descriptor of the program is a terminal, so none can be typed into (ioctl_tty(2), TIOCSTI)."""
    command = clean_store.run_words(
        "--rm", "-i", "--rootfs", busybox, "sh", "-c", "for f in 0 1 2; do test -t $f && echo tty; done; tty"
    )
    result = subprocess.run(
        ["script", "-qec", " ".join(f"'{word}'" for word in map(str, command)), "/dev/null"],
        env=clean_store.environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "not a tty" in result.stdout and "tty\r\ntty" not in result.stdout, result


# --- CVE-2025-52881: writes to /proc ------------------------------------------------------------------


def test_writes_to_proc_cannot_be_redirected(own_root, clean_store, outside):
    """The image's /proc/sys is a tmpfs of its own, with files that lead elsewhere; the kernel's own must be written."""
    config = clean_store.bundle(
        own_root, "cat", "/proc/self/oom_score_adj",
        process={"oomScoreAdj": 321},
        linux={"sysctl": {"net.ipv4.ip_forward": "1"}},
    )  # fmt: skip
    import json

    document = json.loads((config / "config.json").read_text())
    document["mounts"].append({"destination": "/proc/sys/net", "type": "tmpfs", "source": "tmpfs"})
    (config / "config.json").write_text(json.dumps(document))
    result = clean_store.oci("run", "--bundle", config, "redirect")
    assert result.code == 1 and "cannot mount /proc/sys/net" in result.err, result


def test_nothing_but_virtual_files_covers_proc(busybox, clean_store, playground):
    file = playground / "virtual-file"
    file.write_text("planted")
    for place in ("self/attr/exec", "sys/kernel/core_pattern", "1/oom_score_adj"):
        result = clean_store.run("--rm", "-v", f"{file}:/proc/{place}", "--rootfs", busybox, "true")
        assert result.code == 125 and f"cannot mount /proc/{place}" in result.err, result
    words = ("--rm", "-v", f"{file}:/proc/meminfo:ro", "--rootfs", busybox, "cat", "/proc/meminfo")
    assert clean_store.run(*words, code=0).out == "planted"


# --- CVE-2026-30892, identifiers and paths of control groups ----------------------------------------------


@pytest.mark.parametrize("user", ["root:../x", "0:0:0", "-1", "4294967295", "4294967296", "web\n", " 0", "0x0", "+0"])
def test_users_are_read_strictly(busybox, clean_store, user):
    result = clean_store.run("--rm", "-u", user, "--rootfs", busybox, "id")
    assert result.code == 125 and result.err.startswith("coracle: "), result
    assert "uid=0" not in result.out


@pytest.mark.parametrize("identifier", ["../x", "a/b", "..", ".", "", "-", "a b", "a\n", "x" * 1025])
def test_identifiers_that_are_paths(busybox, clean_store, identifier):
    result = clean_store.oci("create", "--bundle", clean_store.bundle(busybox, "true"), identifier)
    assert (result.code == 1 and result.err.startswith("coracle-oci: ")) or identifier == "-", result
    clean_store.oci("delete", "--force", identifier)


@pytest.mark.parametrize("path", ["../../escaped", "/a/../../b"])
def test_control_groups_stay_below_their_mount(busybox, clean_store, path):
    config = clean_store.bundle(busybox, "true", linux={"cgroupsPath": path})
    result = clean_store.oci("run", "--bundle", config, "up")
    assert result.code == 1 and "cgroupsPath" in result.err, result


def test_exec_stays_below_the_containers_group(busybox, store):
    store.oci("run", "--detach", "--bundle", store.bundle(busybox, "sleep", "100"), "c", code=0)
    assert store.oci("exec", "--cgroup", "../..", "c", "true").code == 255
    store.oci("delete", "--force", "c", code=0)


# --- kernel parameters, capabilities, control groups ---------------------------------------------------------


@pytest.mark.parametrize("name", ["kernel.core_pattern", "vm.overcommit_memory", "kernel.hostname", "fs.file-max"])
def test_parameters_of_the_whole_machine(busybox, clean_store, name):
    before = Path("/proc/sys", name.replace(".", "/")).read_text()
    if name != "kernel.hostname":  # --sysctl sets that in the container's own namespace, as podman does
        assert clean_store.run("--rm", "--sysctl", f"{name}=1", "--rootfs", busybox, "true").code == 125
    config = clean_store.bundle(busybox, "true", linux={"sysctl": {name: "1"}})
    assert clean_store.oci("run", "--bundle", config, "sysctl").code == 1
    assert Path("/proc/sys", name.replace(".", "/")).read_text() == before


def test_no_capability_is_inherited_by_programs(busybox, store):
    """CVE-2022-29162: inheritable capabilities would pass to programs with inheritable file capabilities."""
    store.detach("--name", "caps", "--rootfs", busybox, "sleep", "100")
    for words in (("caps", "cat", "/proc/1/status"), ("-u", "1000", "caps", "cat", "/proc/self/status")):
        lines = store.command("exec", *words, code=0).lines
        assert "CapInh:\t0000000000000000" in lines
        assert "CapAmb:\t0000000000000000" in lines
    store.command("rm", "-f", "caps", code=0)


def test_control_groups_cannot_be_changed_inside(busybox, clean_store):
    """CVE-2023-25809, CVE-2022-0492: no write to a group's files, no new mount of them without the right to."""
    script = (
        "find /sys/fs/cgroup -name cgroup.procs | while read f; do echo 0 > $f && echo written; done; "
        "mkdir /x; mount -t cgroup -o pids cgroup /x && echo mounted; "
        "mount -o remount,rw /sys/fs/cgroup && echo rw; true"
    )
    for mode in ("private", "host"):
        result = clean_store.run("--rm", "--cgroupns", mode, "--rootfs", busybox, "sh", "-c", script, code=0)
        assert result.out == "", result


def test_the_disk_is_out_of_reach(busybox, clean_store):
    """mknod(2) is allowed, opening is not: the device group denies it."""
    numbers = os.stat("/").st_dev
    script = f"mknod /disk b {os.major(numbers)} {os.minor(numbers)} && head -c 1 /disk; echo $?"
    result = clean_store.run(
        "--rm", "--tmpfs", "/t:dev", "--rootfs", busybox, "sh", "-c", script.replace("/disk", "/t/disk")
    )
    assert "Operation not permitted" in result.err and result.lines[-1] != "0", result


# --- the clone of this machine ----------------------------------------------------------------------------------


def test_the_clone_never_writes_to_the_host(clean_store, outside):
    """Everything that root can do to files is done to a directory of the host; the fixture compares it."""
    script = f"""
cd {outside} && rm kept && echo x > new && mkdir d && mknod n c 1 3 && ln -s / l && chmod 000 . && chown 1:1 .
echo x > /etc/coracle-was-here; rm -rf /root/.bashrc /usr/bin/env; mv /etc/passwd /etc/passwd2; sync; ls {outside}
"""
    before = os.stat("/usr/bin/env").st_mtime_ns, os.stat("/etc/passwd").st_ino, os.stat(outside).st_mode
    assert clean_store.run("--rm", "host", "sh", "-c", script, code=0).out == "d\nl\nn\nnew\n"
    assert not os.path.exists("/etc/coracle-was-here")
    assert (os.stat("/usr/bin/env").st_mtime_ns, os.stat("/etc/passwd").st_ino, os.stat(outside).st_mode) == before


def test_the_clone_hides_the_other_containers(busybox, store):
    store.detach("--name", "secret", "-e", "PASSWORD=hidden", "--rootfs", busybox, "sleep", "100")
    script = (
        f"ls {store.root} {store.run_directory}; grep -rs hidden {store.root} {store.run_directory} && echo found; true"
    )
    shown = set(store.run("--rm", "host", "sh", "-c", script, code=0).out.split())
    assert shown <= {f"{store.root}:", f"{store.run_directory}:"}
    store.command("rm", "-f", "secret", code=0)


def test_removal_follows_no_link(own_root, store, outside):
    """What a container leaves in its layer cannot lead the engine out of it."""
    script = f"ln -s {outside} /link; mkdir -p /a/b; ln -s {outside} /a/b/c; chmod 000 /a; true"
    archive = store.directory / "root.tar"
    subprocess.run(["tar", "-C", str(own_root), "-cf", str(archive), "."], check=True)
    store.command("import", archive, "bb", code=0)
    store.run("--rm", "bb", "sh", "-c", script, code=0)
    time.sleep(0.1)
    assert (outside / "kept").exists()
