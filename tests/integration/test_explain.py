"""The proof of ``explain``: its shell script makes the container that ``run`` makes from the same plan.

explain_proof.py carries one plan out twice.  In both containers the same program writes down
what it sees; the two accounts have to be equal, line by line.  What cannot be equal stands in KNOWN, with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import Store, Tenant, capture, make_root, mounts_below, wait_until

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        not all(shutil.which(tool) for tool in ("unshare", "nsenter", "setpriv", "pivot_root", "findmnt", "ip")),
        reason="the script needs util-linux and iproute2",
    ),
]
PROOF = Path(__file__).with_name("explain_proof.py")

# What a program can know about the container it is in, in sections.  For any POSIX shell with cat, ls, stat, ...
FACTS = r"""
section() { echo "== $1"; }
section mountinfo; cat /proc/self/mountinfo
section namespaces; for n in /proc/self/ns/*; do echo "${n##*/} $(readlink $n)"; done
section status; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Umask|SigIgn|SigBlk|Cpus_allowed_list)' /proc/self/status
section seccomp; grep '^Seccomp:' /proc/self/status
section 'id maps'; cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
section cgroup; cat /proc/self/cgroup
section names; hostname; cat /proc/sys/kernel/domainname
section umask; umask
section limits; cat /proc/$$/limits; ulimit -a
section oom; cat /proc/$$/oom_score_adj
section environment; env | sort
section directory; pwd; readlink /proc/$$/cwd; readlink /proc/$$/root
section arguments; tr '\0' '\n' < /proc/$$/cmdline | head -2
section session; cut -d ' ' -f 1,5,6 /proc/$$/stat
section descriptors; ls /proc/$$/fd
section personality; cat /proc/$$/personality
section dev; for f in /dev/*; do stat -c '%A %u %g %t %T %n' $f; readlink $f; done
section clocks; cat /proc/$$/timens_offsets
section uptime; cut -d . -f 1 /proc/uptime
section network; for f in /sys/class/net/*/flags; do echo "$f $(cat $f)"; done
section sysctl
for f in net/ipv4/ping_group_range net/ipv4/ip_unprivileged_port_start kernel/shmmax kernel/msgmax fs/mqueue/msg_max; do
  echo "$f $(cat /proc/sys/$f 2>&1)"
done
section groups
for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
  memory/memory.swappiness pids/pids.max cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares \
  cpuset/cpuset.cpus cpuset/cpuset.mems devices/devices.list blkio/blkio.throttle.read_bps_device \
  memory.max memory.low memory.swap.max pids.max cpu.max cpu.weight cpuset.cpus io.max; do
  [ ! -e /sys/fs/cgroup/$f ] || { echo "$f"; cat /sys/fs/cgroup/$f; }
done
section files; ls -A /; stat -c '%A %u %g %n' /etc/hosts /tmp /proc /sys /; cat /etc/hosts /etc/hostname
for p in / /tmp /proc/sys /dev/shm /sys /x /y; do
  if (: > $p/probe) 2> /dev/null; then echo "$p is writable"; rm $p/probe; else echo "$p is not writable"; fi
done
ls -A /proc/acpi /sys/firmware 2>&1; echo "$(head -c 1 /proc/timer_list)"
section end
"""

# (section, line pattern) → why the two cannot be equal there.
KNOWN = {
    ("seccomp", "Seccomp:"): "no tool of Debian 12 loads a filter; setpriv of util-linux 2.41 does",
    ("uptime", ""): "one runs after the other",
}
INIT = {("session", ""): "--init leaves a process 1 behind, for which a script would need a program such as tini"}
USERNS = {
    ("dev", "/dev/mqueue"): "it belongs to whoever made the ipc namespace: run clones into that and the user namespace "
    "at once, as a user who is not mapped yet; nsenter(1) becomes root of the one before unshare(1) makes the other"
}
PIDS = {("session", ""): "process ids that are counted up"}
FRACTION = {("clocks", "boottime"): "unshare(1) takes whole seconds"}

Account = dict[str, list[str]]


def sections(path: Path) -> Account:
    found: Account = {}
    lines: list[str] = []
    for line in path.read_text(errors="surrogateescape").splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:], [])
        else:
            lines.append(line.rstrip())
    assert "end" in found, f"{path.name} ends early"
    return found


def comparable(path: Path) -> Account:
    found = sections(path)
    found["mountinfo"] = sorted(_mounts(found["mountinfo"]))
    found["namespaces"] = [_namespace(*line.split()) for line in found["namespaces"]]
    return found


def _mounts(lines: list[str]) -> Iterator[str]:
    """Mounts without what is counted up: their own ids and their parents', peer groups, anonymous devices.

    Nor with the attributes of a mount that is wholly covered by another: no path leads to it, so that mount(8)
    before util-linux 2.39 cannot make it read-only together with the tree that it is part of.
    """
    table = [line.split() for line in lines]
    points = {fields[0]: fields[4] for fields in table}
    covered = {fields[1] for fields in table if points.get(fields[1]) == fields[4]}
    for fields in table:
        dash = fields.index("-")
        propagation = [word.partition(":")[0] for word in fields[6:dash]]
        parent = points.get(fields[1], "outside")
        device = "anonymous" if fields[2].startswith("0:") else fields[2]
        attributes = "covered" if fields[0] in covered else fields[5]
        # mount(2) says lowerdir=a:b, fsconfig(2) says lowerdir+=a for each: the same layers
        options = re.sub(r"lowerdir\+?=", "lowerdir=", fields[dash + 3]).replace(",lowerdir=", ":")
        place = [fields[4], "on", parent, device, fields[3], attributes, *propagation]
        yield " ".join([*place, *fields[dash : dash + 3], options])


def _namespace(kind: str, identity: str) -> str:
    return f"{kind} {'of the host' if os.readlink(f'/proc/self/ns/{kind}') == identity else 'new'}"


def differences(script: Account, real: Account, known: dict[tuple[str, str], str]) -> list[str]:
    found = []
    for section in dict.fromkeys([*script, *real]):
        accepted = [pattern for name, pattern in known if name == section]
        ours, theirs = ([line for line in account.get(section, ()) if not any(p in line for p in accepted)]
                        for account in (script, real))  # fmt: skip
        found += [f"{section}: only the script: {line}" for line in ours if line not in theirs]
        found += [f"{section}: only run: {line}" for line in theirs if line not in ours]
        if not found and ours != theirs:
            found.append(f"{section}: in another order: {ours} {theirs}")
    return found


def prove(
    store: Store, directory: Path, *words: str, known: dict[tuple[str, str], str] | None = None, program: str = FACTS
) -> Account:
    """Compare the script and the container of ``run WORDS /bin/sh -c FACTS``; what the container saw."""
    # A machine's root is shared (systemd.exec(5)), and nothing may leak by that way either.
    shared = ["unshare", "--mount", "--propagation", "shared"] if os.geteuid() == 0 and not store.prefix else []
    parent = ["--cgroup-parent", store.group] if store.grouped else []
    command = [*shared, *store.prefix, store.interpreter, str(PROOF), str(directory), "run", *parent, *words]
    result = capture([*command, "/bin/sh", "-c", program], store.environment, timeout=120)
    said = (directory / "script.err").read_text() if (directory / "script.err").exists() else ""
    assert result.code == 0 and result.out == "0 0\n", f"{result}\nscript: {said}"
    assert all(line.startswith("prlimit: ") for line in said.splitlines()), said
    assert not (directory / "left").exists(), f"left behind: {(directory / 'left').read_text()}"
    script, real = comparable(directory / "script.out"), comparable(directory / "run.out")
    assert script["seccomp"] == ["Seccomp:\t0"]
    assert differences(script, real, KNOWN | (known or {})) == []
    return real


@pytest.fixture
def paper(playground: Path) -> Iterator[Path]:
    """A directory for the accounts that every user may write to."""
    path = playground / f"paper-{os.getpid()}"
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def source(playground: Path) -> Iterator[Path]:
    """A directory to be bound, with a mount point in it."""
    path = playground / "source"
    (path / "below").mkdir(parents=True)
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def give(root: Path, uid: int, gid: int) -> None:
    for path in (root, *root.rglob("*")):
        os.lchown(path, uid, gid)


CASES = {
    "default": "",
    "limits": "-m 64m --memory-reservation 32m --pids-limit 20 --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0",
    "user": "-u 1000:1000 --group-add 7 --group-add 44 -w /tmp -e A=b --hostname h --domainname d.example",
    "closed": "--read-only --tmpfs /tmp --cap-drop ALL --cap-add NET_ADMIN --security-opt no-new-privileges",
    "open": "--privileged",
    "bind": "-v SOURCE:/x:ro --mount type=tmpfs,target=/y,tmpfs-size=1m,tmpfs-mode=700 -v SOURCE:/dev/z",
    "host": "-v /:/x:ro -v SOURCE:/y:slave",
    "shared bind": "-v SOURCE:/x:shared",
    "clocks": "--time-offset boottime=100000 --time-offset monotonic=-5",
    "shared ipc and pid": "--ipc host --pid host",
    "shared network": "--network host",
    "shared names and groups": "--uts host --cgroupns host",
    "numbers": "--ulimit nofile=100:200 --ulimit core=0 --oom-score-adj 500 --sysctl kernel.shmmax=12345 --umask 027",
    "ambient": "--cap-add ALL -u 7",
    "devices": "--device /dev/zero:/dev/nought:r --device /dev/full --device-cgroup-rule 'c 10:* rwm'",
    "paths": "--security-opt systempaths=unconfined --security-opt writable-cgroups --security-opt mask=/root",
    "variables": "-e PWD=/nowhere -e OLDPWD=/else -e EMPTY= -w /made/of/new/directories",
    "personality": "--personality LINUX32 --ipc none",
    "limit above the machine's": "--ulimit memlock=-1:-1 --ulimit nofile=1024:2000000000",
}
# Lines that the account must have: the case would prove nothing if its option did nothing.
SEEN = {
    "limits": {"groups": ["67108864", "20", "512", "0"]},
    "user": {"environment": ["A=b"], "names": ["h", "d.example"], "directory": ["/tmp"],
             "status": ["Uid:\t1000\t1000\t1000\t1000", "Groups:\t7 44 1000"]},
    "closed": {"status": ["CapPrm:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1"],
               "files": ["/ is not writable", "/tmp is writable"]},
    "bind": {"files": ["/x is not writable", "/y is writable"]},
    "clocks": {"clocks": ["monotonic          -5         0", "boottime       100000         0"]},
    "shared ipc and pid": {"namespaces": ["ipc of the host", "pid of the host", "net new", "uts new"]},
    "shared network": {"namespaces": ["net of the host", "pid new", "mnt new", "cgroup new", "time of the host"]},
    "shared names and groups": {"namespaces": ["uts of the host", "cgroup of the host"]},
    "numbers": {"oom": ["500"], "umask": ["0027"], "sysctl": ["kernel/shmmax 12345"],
                "limits": ["Max open files            100                  200                  files"]},
    "paths": {"files": ["/proc/sys is not writable"]},
    "variables": {"directory": ["/made/of/new/directories"], "environment": ["EMPTY="]},
    "personality": {"personality": ["00000008"]},
}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("case", CASES)
def test_on_a_directory(case: str, clean_store: Store, own_root: Path, paper: Path, source: Path) -> None:
    words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", CASES[case].replace("SOURCE", str(source)))]
    known = PIDS if "--pid host" in CASES[case] else None
    real = prove(clean_store, paper, *words, "--rootfs", str(own_root), known=known)
    for section, lines in SEEN.get(case, {}).items():
        assert set(lines) <= set(real[section]), (section, real[section])
    assert len(real["mountinfo"]) > 20 and mounts_below(str(clean_store.directory)) == []


@pytest.mark.root
@pytest.mark.parametrize("case", ["default", "limits", "user", "closed", "bind"])
def test_on_the_machine_itself(case: str, clean_store: Store, paper: Path, source: Path) -> None:
    words = CASES[case].replace("SOURCE", str(source)).split()
    real = prove(clean_store, paper, *words, "host")
    assert any(line.startswith("/ on outside anonymous / rw") or "ro," in line for line in real["mountinfo"])


@pytest.mark.root
def test_on_an_image(store: Store, playground: Path, paper: Path) -> None:
    root = make_root(paper / "root")
    subprocess.run(["tar", "-cf", paper / "root.tar", "-C", root, "."], check=True)
    store.command("import", paper / "root.tar", "box:1", code=0)
    real = prove(store, paper, "-w", "/tmp", "box:1")
    assert [line for line in real["mountinfo"] if line.startswith("/ on outside") and "overlay" in line]
    shutil.rmtree(root)


@pytest.mark.root
@pytest.mark.parametrize(
    "maps",
    [
        ["--uidmap", "0:100000:65536"],
        [
            "--userns",
            "private",
            "--uidmap",
            "0:100000:1000",
            "--uidmap",
            "1000:300000:2000",
            "--gidmap",
            "0:200000:65536",
        ],
        ["--uidmap", "0:100000:65536", "--pid", "host", "-u", "5:6", "--security-opt", "no-new-privileges"],
        ["--uidmap", "0:100000:65536", "--time-offset", "boottime=100000", "-m", "64m", "--read-only"],
    ],
    ids=["one range", "three ranges", "shared pid", "clocks"],
)
def test_in_a_user_namespace(maps: list[str], clean_store: Store, own_root: Path, paper: Path, source: Path) -> None:
    """Its root may neither reach a closed directory nor make an overlay or a bind: the engine does it before."""
    closed = paper / "closed"
    closed.mkdir(mode=0o700)
    (closed / "data").mkdir()
    give(own_root, 100000, 200000 if "--gidmap" in maps else 100000)
    words = [*maps, "-v", f"{closed}/data:/tmp:ro", "-v", f"{source}:/srv"]
    (own_root / "srv").mkdir()
    real = prove(
        clean_store, paper, *words, "--rootfs", str(own_root), known=USERNS | (PIDS if "--pid" in maps else {})
    )
    assert "user new" in real["namespaces"]
    assert real["id maps"][0].split() == ["0", "100000", "1000" if "--gidmap" in maps else "65536"]
    assert any(line.startswith("/tmp on / ") and " ro," in line for line in real["mountinfo"])


@pytest.mark.root
def test_with_an_init_and_a_part_of_a_second(clean_store: Store, own_root: Path, paper: Path) -> None:
    options = ["--init", "--time-offset", "boottime=1.5"]
    real = prove(clean_store, paper, *options, "--rootfs", str(own_root), known=INIT | FRACTION)
    assert real["session"] == ["2 2 1"]


@pytest.mark.root
def test_in_the_namespaces_of_another(clean_store: Store, own_root: Path, paper: Path) -> None:
    other = clean_store.detach("--rm", "--rootfs", own_root, "sleep", "1000")
    pid = clean_store.process(other)["pid"]
    joined = [f"--{kind}=container:{other}" for kind in ("pid", "ipc")]
    real = prove(clean_store, paper, *joined, "--rootfs", str(own_root), known=PIDS)
    identities = sections(paper / "run.out")["namespaces"]
    for kind in ("pid", "ipc"):
        assert f"{kind} {os.readlink(f'/proc/{pid}/ns/{kind}')}" in identities
    assert "uts new" in real["namespaces"]
    clean_store.command("kill", other, code=0)


def test_for_whoever_runs_the_tests(clean_store: Store, own_root: Path, paper: Path) -> None:
    prove(clean_store, paper, "--rootfs", str(own_root), "--hostname", "h", "-e", "A=b")


def test_for_an_ordinary_user(user_store: Store, tenant: Tenant, paper: Path, own_root: Path) -> None:
    give(own_root, tenant.uid, tenant.gid)
    real = prove(user_store, paper, "--rootfs", str(own_root), "-w", "/tmp", "--hostname", "h")
    assert real["names"][0] == "h"


def _script(store: Store, *words: object) -> str:
    parent = ["--cgroup-parent", store.group]
    return store.command("explain", "--as", "shell", "run", *parent, *words, code=0).out


@pytest.mark.root
def test_the_printed_script_is_a_command(clean_store: Store, own_root: Path) -> None:
    """From a pipe, with standard input and output, and with the program's exit code."""
    script = _script(
        clean_store,
        "-i",
        "--rootfs",
        own_root,
        "-e",
        "A=it's",
        "sh",
        "-c",
        'read x; echo "$x $A $0 $1"; exit 7',
        "a b",
        "c'd",
    )
    assert script.startswith("#!/bin/sh\n# coracle run ")
    done = capture(["/bin/sh", "-c", script], clean_store.environment, b"input\n")
    assert (done.code, done.out, done.err) == (7, "input it's a b c'd\n", "")
    missing = _script(clean_store, "--rootfs", own_root, "no-such-program")
    done = capture(["/bin/sh"], clean_store.environment, missing.encode())
    assert done.code == 127 and "no-such-program: not found" in done.err
    for text in (script, missing):
        subprocess.run(["/bin/sh", "-eu"], input=_cleaning(text), check=True, text=True)


def _cleaning(script: str) -> str:
    return "".join(line[4:] for line in script.partition("# Afterwards, ")[2].splitlines(True)[1:])


BREAKS = {
    "in the control group": ("", "echo 0 > ", "echo 0 > /proc/none"),
    "in the new process": ("", "mount -t devpts", "mount -t no-such-type"),
    "at the last moment": ("", "--bounding-set=", "--no-such-option="),
    "in the program": ("", "/bin/sh -euc 'echo ready", "/no/such/sh -euc 'echo ready"),
    "on the stage": ("--uidmap 0:100000:65536", "mount --rbind", "mount --no-such-option"),
    "in the id map": ("--uidmap 0:100000:65536", "printf '0 100000", "printf 'x 100000"),
    "by the engine": ("--uidmap 0:100000:65536", "pivot_root . .", "pivot_root /none /none"),
}


@pytest.mark.root
@pytest.mark.parametrize("where", BREAKS)
def test_a_script_that_fails_leaves_no_process_mount_or_directory(
    where: str, clean_store: Store, own_root: Path, paper: Path
) -> None:
    options, good, bad = BREAKS[where]
    give(own_root, 100000 if options else 0, 100000 if options else 0)
    script = _script(clean_store, *options.split(), "--rootfs", own_root, "true")
    assert good in script
    mark = f"broken-{os.getpid()}-"
    done = capture(["/bin/sh", "-c", script.replace(good, bad, 1).replace("coracle.XXXXXX", f"{mark}XXXXXX")],
                   clean_store.environment)  # fmt: skip
    assert done.code != 0 and done.err, where
    assert wait_until(lambda: not [*Path("/dev/shm").glob(f"{mark}*"), *Path("/tmp").glob(f"{mark}*")], 5)
    subprocess.run(["/bin/sh", "-eu"], input=_cleaning(script), check=True, text=True)
    assert mounts_below(str(clean_store.directory)) == mounts_below(str(own_root)) == []
    assert clean_store.settled() == []


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize(
    "options", ["", "--uidmap 0:100000:65536 -v /tmp:/tmp", "-t --init --ulimit nofile=3:4 -e A.B=c"]
)
def test_shellcheck(options: str, clean_store: Store, own_root: Path, tmp_path: Path) -> None:
    script = _script(clean_store, *options.split(), "--rootfs", own_root, "sh")
    outer = re.sub(r"(<< '(\w+)'\n).*?\n(\2\n)", r"\1\3", script, flags=re.S)
    inner = [match[2] for match in re.finditer(r"<< '(\w+)'\n(.*?)\n\1\n", script, re.S)]
    inner += [match[2] for text in inner for match in re.finditer(r"<< '(\w+)'\n(.*?)\n\1(\n|$)", text, re.S)]
    assert len(inner) == (2 if "uidmap" in options else 1)
    for number, part in enumerate((outer, *inner)):
        path = tmp_path / f"{number}.sh"
        path.write_text(part)
        command = ["shellcheck", "--shell", "sh", "--severity", "warning", "--exclude", "SC2154", path]
        checked = subprocess.run(command, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_explain_changes_nothing(store: Store, own_root: Path) -> None:
    for form in ("prose", "shell", "json"):
        store.command(
            "explain", "--as", form, "run", "--cidfile", store.directory / "cid", "--rootfs", own_root, "true", code=0
        )
    assert store.left() == [] and not (store.directory / "cid").exists()
    assert sys.executable
