"""Attacks on the engine's own program and descriptors while it is in, or on the way into, a container.

CVE-2019-5736 (the engine's executable), CVE-2019-14271 (code of the image loaded by the engine),
CVE-2016-9962 (a process that enters), CVE-2024-21626 (leaked descriptors and directories).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from containers import SOURCE, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
STRACE = shutil.which("strace")


def interpreter_state():
    """What an attacker would want to change: the interpreter, its library, our own code."""
    library = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib") / (sysconfig.get_config_var("LDLIBRARY") or "none")
    files = [Path(sys.executable).resolve(), library.resolve(), *sorted((SOURCE / "coracle").rglob("*.py"))[:20]]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}


# --- CVE-2019-5736 -----------------------------------------------------------------------------

ENTRIES = {
    "entry point": lambda root: "/proc/self/exe",
    "entry point by another link": lambda root: link(root / "bin/evil", "/proc/self/exe"),
    "script": lambda root: script(root / "bin/evil", "#!/proc/self/exe\n"),
    "script of a thread": lambda root: script(root / "bin/evil", "#!/proc/thread-self/exe -c\n"),
    "process 1's": lambda root: "/proc/1/exe",
    "descriptor": lambda root: "/proc/self/fd/3",
}


def link(path, target):
    path.symlink_to(target)
    return "/" + "/".join(path.parts[-2:])


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return "/" + "/".join(path.parts[-2:])


@pytest.mark.parametrize("kind", ENTRIES)
def test_the_engines_program_is_not_executed_inside(own_root, clean_store, kind):
    before = interpreter_state()
    words = ("--rm", "--rootfs", own_root, ENTRIES[kind](own_root), "-c", "print('executed')")
    result = clean_store.run(*words, timeout=20)
    assert "executed" not in result.out and result.code != 0
    assert interpreter_state() == before


OVERWRITE = """
while [ ! -e /stop ]; do
  for p in /proc/[0-9]*; do
    name=$(readlink $p/exe) && case $name in /bin/busybox) ;; *) echo "saw $name" >> /seen ;; esac
    (echo overwritten > $p/exe) 2>/dev/null && echo "wrote $p" >> /seen
  done
done
"""


def test_processes_that_enter_show_no_program_to_overwrite(own_root, clean_store):
    """A process of the container looks at all others, and writes to their executables, while many are started in it."""
    before = interpreter_state()
    clean_store.run("-d", "--name", "c", "--rootfs", own_root, "sh", "-c", OVERWRITE, code=0)
    for _ in range(30):
        clean_store.command("exec", "c", "true", code=0)
    (own_root / "stop").touch()
    seen = (own_root / "seen").read_text() if (own_root / "seen").exists() else ""
    assert seen == "" and interpreter_state() == before
    clean_store.command("rm", "-f", "c", code=0)


def test_a_waiting_container_shows_no_program_to_overwrite(own_root, store):
    """It waits at its gate in the pid namespace of another container, whose root tries to write to its executable."""
    before = interpreter_state()
    identifier = store.detach("--name", "first", "--rootfs", own_root, "sleep", "100")
    spaces = [
        {"type": kind, **({"path": f"/proc/{store.process(identifier)['pid']}/ns/pid"} if kind == "pid" else {})}
        for kind in ("pid", "mount", "ipc", "uts", "network")
    ]
    store.oci("create", "--bundle", store.bundle(own_root, "true", linux={"namespaces": spaces}), "second", code=0)
    script_ = (
        'for p in /proc/[0-9]*; do n=$(cat $p/comm); readlink $p/exe > /dev/null || echo "$n unread";'
        ' (echo x > $p/exe) 2>/dev/null && echo "$n written"; done; true'
    )
    out = store.command("exec", "first", "sh", "-c", script_, code=0).out
    assert "coracle-init unread" in out.splitlines() or "memfd:coracle unread" in out, out
    assert "written" not in out and interpreter_state() == before
    store.oci("start", "second", code=0)
    store.oci("delete", "--force", "second", code=0)


# --- CVE-2019-14271 and imports in general --------------------------------------------------------


def plant(root):
    """Modules that tell on themselves, at every place where this interpreter looks, and libraries of the C library."""
    evil = "import os\nos.write(2, b'PLANTED ' + __name__.encode() + b'\\n')\nopen('/planted', 'a').close()\n"
    names = [name for name in sys.stdlib_module_names if name not in sys.builtin_module_names]
    library = Path(os.__file__).parent
    for place in (root / "python", root / str(library)[1:], root / str(SOURCE)[1:] / "coracle/runtime", root):
        place.mkdir(parents=True, exist_ok=True)
        for name in [*names, "sitecustomize", "usercustomize", "diagnosis"]:
            (place / f"{name}.py").write_text(evil)
        (place / "encodings").mkdir(exist_ok=True)
        for name in ("__init__", "utf_8", "idna", "latin_1", "ascii", "punycode"):
            (place / f"encodings/{name}.py").write_text(evil)
    for name in ("libnss_files.so.2", "libnss_compat.so.2", "libc.so.6", "gconv/gconv-modules"):
        for place in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "lib"):
            (root / place / name).parent.mkdir(parents=True, exist_ok=True)
            (root / place / name).write_text("not a library\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files planted\ngroup: files planted\nhosts: planted\n")
    return root


IMPORTING = {
    "plain": ((), "true"),
    "a user by name": (("-u", "web:staff"), "true"),
    "an unknown user": (("-u", "nobody-here"), "true"),
    "a missing program": ((), "no-such-program"),
    "a broken program": ((), "/etc/nsswitch.conf"),
    "a missing directory": (("-w", "/etc/passwd/x"), "true"),
    "names beyond ASCII": (("-h", "host", "-e", "Ä=ö"), "ü"),
    "a bad mount": (("--tmpfs", "/x:size=nonsense"), "true"),
    "a bad sysctl": (("--sysctl", "net.ipv4.no_such=1"), "true"),
    "init, host name, ulimit": (("--init", "-h", "box", "--ulimit", "nofile=99"), "true"),
    "PYTHONPATH of the container": (("-e", "PYTHONPATH=/python", "-e", "PYTHONHOME=/python"), "true"),
}


@pytest.fixture(scope="module")
def planted(playground):
    from containers import make_root

    return plant(make_root(playground / "planted-root"))


@pytest.mark.parametrize("kind", IMPORTING)
def test_no_code_of_the_image_runs_in_the_engine(planted, shared_store, kind):
    options, command = IMPORTING[kind]
    result = shared_store.run("--rm", *options, "--rootfs", planted, command)
    assert "PLANTED" not in result.err + result.out and not (planted / "planted").exists(), result
    assert "Traceback" not in result.err


def test_no_code_of_the_image_runs_in_an_exec(planted, store):
    store.run("-d", "--name", "c", "--rootfs", planted, "sleep", "100", code=0)
    for words in (["-u", "web"], ["-w", "/nowhere"], ["-e", "Ä=ö"], ["--user", "nobody-here"]):
        result = store.command("exec", *words, "c", "true")
        assert "PLANTED" not in result.err and not (planted / "planted").exists(), result


PROBE = """
import sys
sys.path.insert(0, {source!r})
from coracle.runtime import foreground, spawn, spec
from coracle.runtime.plan import Request, build
from coracle.step import CHILD, ENTER, Step, World
class Probe(Step):
    def prose(self): return "look at the ways to import"
    def do(self, world):
        world.warn(f"{{self.place}} {{sys.path}} {{sys.meta_path}} {{sys.path_hooks}} {{len(sys.path_importer_cache)}}")
        for name in ("shlex", "encodings.idna", "sunau", "planted"):
            try:
                __import__(name)
                world.warn(f"imported {{name}}")
            except ImportError:
                pass
said = []
plan = build(Request(spec.load({bundle!r}), {bundle!r}, said.append))
for place in (CHILD, ENTER):
    probe = Probe("test")
    probe.place = place
    plan.steps.insert(max(n for n, step in enumerate(plan.steps) if step.place == place) + 1, probe)
world = World(said.append)
import os
world.fds["gate"], opener = os.pipe()
child = spawn.spawn(plan, world)
os.write(opener, b"1")
foreground.confirm(plan, child)
foreground.reap(child)
print(said)
"""


def test_in_the_child_nothing_can_be_imported(planted, store):
    bundle = store.bundle(planted, "true", linux={"cgroupsPath": None})
    code = PROBE.format(source=str(SOURCE), bundle=str(bundle))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "['child [] [] [] 0', 'enter [] [] [] 0']" in result.stdout, result


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_after_the_pivot_the_engine_opens_no_code(planted, clean_store):
    """The kernel's own record of what was opened between pivot_root(2) and the program."""
    trace = clean_store.directory / "trace"
    words = clean_store.run_words("--rm", "-u", "web", "--rootfs", planted, "/bin/true")
    command = [STRACE, "-f", "-o", str(trace), "-e", "trace=pivot_root,openat,open,execve,execveat,openat2", *words]
    subprocess.run(command, env=clean_store.environment, check=True, timeout=60)
    lines = trace.read_text().splitlines()
    (start,) = [number for number, line in enumerate(lines) if "pivot_root(" in line]
    pid = lines[start].split()[0]
    after = [line for line in lines[start + 1 :] if line.split()[0] == pid]
    before_exec = after[: next(number for number, line in enumerate(after) if "/bin/true" in line and "execve" in line)]
    opened = re.findall(r'open(?:at2?)?\([^"]*"([^"]*)"', "\n".join(before_exec))
    assert not [path for path in opened if re.search(r"\.(py|pyc|so|zip|pack)\b|nss|gconv|locale|python", path)], opened


# --- CVE-2016-9962 --------------------------------------------------------------------------------

SPY = r"""
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
print("ready", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end and not os.path.exists("/stop"):
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) in (1, os.getpid()):
            continue
        found = []
        try:
            with open(f"/proc/{name}/comm") as file:
                before = file.read().strip()
            if before == "sleep":  # the command itself, which has no more rights than we
                continue
            links = [f"fd/{number}" for number in range(3, 16)]
            for what in ("root", "cwd", "exe", *links):
                try:
                    found.append(f"{what} {os.readlink(f'/proc/{name}/{what}')}")
                except OSError:
                    pass
            try:
                os.close(os.open(f"/proc/{name}/mem", os.O_RDWR))
                found.append("mem")
            except OSError:
                pass
            if libc.ptrace(16, int(name), 0, 0) == 0:
                found.append("ptrace")
                os.kill(int(name), 9)
                os.waitpid(int(name), 0x40000000)
            with open(f"/proc/{name}/comm") as file:
                after = file.read().strip()
        except OSError:
            continue
        print("REACHED" if found and before == after else "met", after, found, flush=True)
"""


def test_a_process_on_its_way_in_cannot_be_reached(clean_store):
    """Python in a container of the host's files watches for every process that enters, and tries to take it over."""
    identifier = clean_store.detach("--name", "c", "host", sys.executable, "-u", "-c", SPY)
    log = clean_store.root / f"containers/{identifier}/log"
    assert wait_until(lambda: log.exists() and "ready" in log.read_text())
    for _ in range(40):
        clean_store.command("exec", "c", "/bin/sleep", "0.01")
    text = log.read_text()
    clean_store.command("rm", "-f", "c", code=0)
    assert "REACHED" not in text, text[-3000:]
    assert "met" in text, "the attacker never saw one: the test proves nothing"


# --- CVE-2024-21626 -------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", ["/proc/self/fd/{}", "/proc/1/fd/{}", "/work", "/work/.."])
def test_a_working_directory_on_the_host(own_root, clean_store, directory):
    """Every descriptor that the engine might have open; outside, the store is reachable by a relative path."""
    outside = f"../../../../../../..{clean_store.directory}"
    for number in range(3, 24):
        (own_root / "work").unlink(missing_ok=True)
        (own_root / "work").symlink_to(f"/proc/self/fd/{number}")
        place = directory.format(number)
        words = ("--rm", "-w", place, "--rootfs", own_root, "sh", "-c", f"test -e {outside} && echo ESCAPED; pwd")
        result = clean_store.run(*words)
        assert "ESCAPED" not in result.out, (place, result)
        assert (result.code, result.err.count("\n")) == ((0, 0) if directory.endswith("..") else (125, 1)), (
            place,
            result,
        )


def test_a_working_directory_on_the_host_by_exec(busybox, store):
    store.run("-d", "--name", "c", "--rootfs", busybox, "sleep", "100", code=0)
    outside = f"../../../../../../..{store.directory}"
    for number in range(3, 24):
        words = ("exec", "-w", f"/proc/self/fd/{number}", "c", "sh", "-c", f"test -e {outside} && echo ESCAPED")
        assert "ESCAPED" not in store.command(*words).out


def test_only_the_standard_descriptors_arrive(busybox, store):
    """The caller has the host's root open, and lets it be inherited, at many numbers."""
    opened = [os.open("/", os.O_RDONLY) for _ in range(20)]
    script = "for p in 1 self; do ls /proc/$p/fd; echo .; done"
    try:
        for fd in opened:
            os.set_inheritable(fd, True)
        for words in (
            store.run_words("--rm", "--rootfs", busybox, "sh", "-c", script + "; true"),
            store.run_words("--rm", "--init", "--rootfs", busybox, "sh", "-c", script),
            store.words(
                "oci", "--root", store.state, "run", "--bundle", store.bundle(busybox, "sh", "-c", script), "o"
            ),
        ):
            out = subprocess.run(
                words, env=store.environment, stdout=subprocess.PIPE, pass_fds=opened, check=True
            ).stdout
            first, own = (part.split() for part in out.decode().split(".")[:2])
            assert first == ["0", "1", "2"] and own == ["0", "1", "2", "3"], (words, out)  # 3 is ls's own
        store.run("-d", "--name", "c", "--rootfs", busybox, "sleep", "100", code=0)
        words = store.words("main", "exec", "c", "ls", "/proc/self/fd")
        out = subprocess.run(words, env=store.environment, stdout=subprocess.PIPE, pass_fds=opened, check=True).stdout
        assert out.split() == [b"0", b"1", b"2", b"3"]
    finally:
        for fd in opened:
            os.close(fd)


def test_preserved_descriptors_are_those_asked_for(busybox, store):
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
    try:
        bundle = store.bundle(busybox, "ls", "/proc/self/fd")
        words = store.words("oci", "--root", store.state, "run", "--preserve-fds", "1", "--bundle", bundle, "o")
        given = {"env": store.environment, "stdout": subprocess.PIPE, "check": True}
        script = f'exec 3<{store.directory}/bundle/config.json 4<&3 5<&3; exec "$@"'
        out = subprocess.run(["sh", "-c", script, "sh", *words], **given).stdout
        assert out.split() == [b"0", b"1", b"2", b"3", b"4"]
    finally:
        for fd in opened:
            os.close(fd)
