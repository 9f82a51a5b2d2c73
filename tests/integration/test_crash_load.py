"""Many at once, and much at once: names, parallel runs, readers that leave or are slow, the monitor's memory."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import threading
import time

import pytest
from containers import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}


@pytest.mark.parametrize("option", ["--name", "--cidfile"])
def test_two_want_the_same(clean_store, busybox, option):
    """Exactly one gets it; the other says whose it is and leaves nothing."""
    cidfile = clean_store.directory / "cid"
    word = "same" if option == "--name" else str(cidfile)
    for _ in range(15):
        both = [clean_store.start("-d", option, word, "--rootfs", busybox, "sleep", "100", **SILENT) for _ in range(2)]
        errors = [process.communicate(timeout=30)[1].decode() for process in both]
        assert sorted(process.returncode for process in both) == [0, 125], errors
        (said,) = [error for error in errors if error]
        assert said.count("\n") == 1 and word in said
        (identifier,) = clean_store.command("ps", "-q", "--no-trunc", code=0).out.split()
        if option == "--cidfile":
            assert cidfile.read_text() == identifier
            cidfile.unlink()
        clean_store.command("rm", "-f", identifier, code=0)
        assert clean_store.settled() == []


def test_a_free_name_is_taken_by_one(clean_store, busybox):
    """The name of a container that is being removed, and wanted by many."""
    for _ in range(5):
        clean_store.run("--name", "n", "--rootfs", busybox, "true", code=0)
        rm = subprocess.Popen(clean_store.words("main", "rm", "n"), env=clean_store.environment, **SILENT)
        runs = [clean_store.start("-d", "--name", "n", "--rootfs", busybox, "sleep", "100", **SILENT) for _ in range(4)]
        codes = [process.wait(30) for process in runs]
        assert rm.wait(30) == 0
        assert codes.count(0) <= 1 and set(codes) <= {0, 125}
        clean_store.command("rm", "-f", "n", code=0)
        assert clean_store.settled() == []


def test_thirty_at_once(clean_store, busybox):
    runs = [
        clean_store.start(
            "--rm", "--rootfs", busybox, "sh", "-c", f"echo {number}; exit {number}", stdout=subprocess.PIPE
        )
        for number in range(30)
    ]
    for number, process in enumerate(runs):
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (number, b"%d\n" % number)


def test_ps_and_rm_do_not_disturb_containers_that_start(clean_store, busybox):
    """What is being made looks like what a crash left, but for its lock."""
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            clean_store.command("ps", "-a", code=0)
            clean_store.command("rm", "-f", "nothing", code=0)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(40):
            clean_store.run("--rm", "--rootfs", busybox, "true", code=0)
            clean_store.run("--name", "kept", "--rootfs", busybox, "sh", "-c", "exit 9", code=9)
            assert clean_store.command("wait", "kept", code=0).out == "9\n"
            clean_store.command("rm", "kept", code=0)
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_a_reader_that_leaves(clean_store, busybox):
    """`| head -1` ends the client; the container goes on, as docker's does."""
    line = shlex.join(clean_store.run_words("--rm", "--rootfs", busybox, "yes"))
    shell = subprocess.run(
        ["bash", "-c", f"{line} | head -1; echo ${{PIPESTATUS[0]}}"], env=clean_store.environment, capture_output=True,
        timeout=60,
    )  # fmt: skip
    first, code = shell.stdout.split()
    assert (first, code, shell.stderr) == (b"y", b"141", b""), shell
    assert "Up" in clean_store.command("ps").out
    clean_store.command("rm", "-f", "-a", code=0)
    assert clean_store.settled() == []


def test_output_after_the_client_has_gone_is_logged(store, busybox):
    script = "echo before; sleep 0.6; echo after"
    process = store.start("--name", "n", "--rootfs", busybox, "sh", "-c", script, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"before\n"
    process.kill()
    process.wait()
    assert store.command("wait", "n", code=0).out == "0\n"
    assert store.command("logs", "n", code=0).out == "before\nafter\n"


def test_200_megabytes_for_a_slow_reader(clean_store, busybox):
    """Not a byte is lost, and the monitor does not keep them for the reader."""
    script = "for i in 1 2 3 4; do dd if=/data bs=1M; done 2>/dev/null"
    data = clean_store.directory / "data"
    with data.open("wb") as file:
        for number in range(50):
            file.write(hashlib.sha512(b"%d" % number).digest() * 16384)
    words = ("--rm", "-v", f"{data}:/data", "--log-driver", "none", "--rootfs", busybox, "sh", "-c", script)
    process = clean_store.start(*words, stdout=subprocess.PIPE)
    time.sleep(1)
    memory = private_memory(monitor_of(process))
    expected, found, size = hashlib.sha256(data.read_bytes() * 4).hexdigest(), hashlib.sha256(), 0
    while chunk := process.stdout.read(1 << 20):
        found.update(chunk)
        size += len(chunk)
        if size < 40 << 20:
            time.sleep(0.02)
            memory = max(memory, private_memory(monitor_of(process)))
    assert process.wait(60) == 0
    assert (size, found.hexdigest()) == (4 * data.stat().st_size, expected)
    assert memory < 8 << 20, f"the monitor has {memory >> 10} KiB"


def monitor_of(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return int(file.read().split()[0])


def private_memory(pid):
    """What the process alone has; pages of files are others' as well, sooner or later."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Private_Dirty"))


def test_much_input_for_a_program_that_reads_slowly(clean_store, busybox):
    data = os.urandom(3 << 20) * 10
    script = "sleep 0.5; sha256sum"
    result = clean_store.run("--rm", "-i", "--rootfs", busybox, "sh", "-c", script, stdin=data, code=0)
    assert result.out.split()[0] == hashlib.sha256(data).hexdigest()


def test_input_for_a_program_that_does_not_read(clean_store, busybox):
    started = time.monotonic()
    clean_store.run("--rm", "-i", "--rootfs", busybox, "sh", "-c", "exit 4", stdin=bytes(20 << 20), code=4)
    assert time.monotonic() - started < 20


def test_a_flood_on_both_streams_without_an_end_of_line(clean_store, busybox):
    script = "head -c 9000000 /dev/zero | tr '\\0' x & head -c 9000000 /dev/zero | tr '\\0' y >&2; wait"
    result = clean_store.run("--name", "n", "--rootfs", busybox, "sh", "-c", script, code=0)
    assert (result.out.strip("x"), len(result.out)) == ("", 9_000_000)
    assert (result.err.strip("y"), len(result.err)) == ("", 9_000_000)
    clean_store.command("rm", "n", code=0)


def test_invalid_text_in_the_log(clean_store, busybox):
    clean_store.run("--name", "n", "--rootfs", busybox, "printf", '\\377\\000\\033[31m"\\\\\\n\\303\\244', code=0)
    log = clean_store.root / f"containers/{clean_store.identifier('n')}/log"
    texts = [json.loads(line)["log"] for line in log.read_text().splitlines()]
    assert texts == ['\ufffd\0\033[31m"\\\n', "ä"]
    clean_store.command("rm", "n", code=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_moment_of_the_start(clean_store, busybox, number):
    """As Ctrl-C does: the whole process group hears it."""
    for delay in range(1, 14):
        process = clean_store.start(
            "--rm", "--rootfs", busybox, "sh", "-c", "trap 'exit 5' INT TERM; while :; do sleep 0.02; done",
            start_new_session=True, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(delay / 100)
        os.killpg(process.pid, number)
        if not wait_until(lambda process=process: process.poll() is not None, 1):  # came before the trap was set
            clean_store.command("rm", "-f", "-a", code=0)
        _, error = process.communicate(timeout=20)
        assert b", in main" not in error and b"internal" not in error, error  # before main() the interpreter complains
        clean_store.command("rm", "-f", "-a", code=0)
        assert clean_store.settled() == []
