"""kill -9 at any moment: whatever is left, the next command sees it and cleans it up."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest
from containers import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("CORACLE_TEST_KILLS", "60"))
START = 0.12  # seconds in which a container is started, on a machine that is not idle


def children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def client(process: subprocess.Popen[bytes]) -> int:
    return process.pid


def monitor(process: subprocess.Popen[bytes]) -> int:
    return next(iter(children(process.pid)), 0)


def worker(process: subprocess.Popen[bytes]) -> int:
    """The first child of the monitor; once it has ended, or in the foreground, the container is."""
    found = children(monitor(process) or -1)
    return found[0] if found else 0


def first_process(process: subprocess.Popen[bytes]) -> int:
    found = children(monitor(process) or -1)
    return found[-1] if found else 0


def kill(pid: int) -> bool:
    try:
        if pid > 0:
            os.kill(pid, signal.SIGKILL)
            return True
    except ProcessLookupError:
        pass
    return False


OPTIONS = {"run": (), "run --rm": ("--rm",), "run -d": ("-d",)}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("role", [client, worker, monitor, first_process])
def test_killed_while_it_starts_and_runs(store, busybox, role, options):
    chance = random.Random(f"{role.__name__} {options}")
    hits = 0
    for round_ in range(ROUNDS // 3):
        name = f"n{round_ % 3}"
        words = (*OPTIONS[options], "--name", name, "-m", "64m", "--rootfs", busybox, "sleep", "0.1")
        process = store.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.01, START if options != "run -d" else START / 2))
        hits += kill(role(process))
        assert wait_until(lambda process=process: process.poll() is not None, 30), "the client hangs"
        # The others may finish their work: a container that they start after rm is no remainder.
        wait_until(lambda: not store.processes(), 5)
        recover(store, name)
    assert hits > 0
    store.run("--rm", "--name", "n0", "--rootfs", busybox, "true", code=0)
    assert store.settled() == []


def recover(store, name):
    """What a person does next: look, and remove."""
    listed = store.command("ps", "-a", "--format", "json", code=0)
    assert listed.err == ""
    removed = store.command("rm", "-f", name)
    assert removed.code == 0, removed
    assert store.settled(5) == [], f"after killing and ps -a; rm -f {name}:\n{listed.out}"


@pytest.mark.parametrize("victim", ["ps", "rm", "stop", "exec"])
def test_killed_commands_on_a_running_container(store, busybox, victim):
    chance = random.Random(victim)
    arguments = {
        "ps": ["ps", "-a"],
        "rm": ["rm", "-f", "x"],
        "stop": ["stop", "-t", "0", "x"],
        "exec": ["exec", "x", "sleep", "0.05"],
    }
    for _ in range(ROUNDS // 3):
        store.run("-d", "--name", "x", "--rootfs", busybox, "sleep", "100", code=0)
        process = subprocess.Popen(
            store.words("main", *arguments[victim]), env=store.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(chance.uniform(0.01, 0.15))
        kill(chance.choice([client, monitor, worker])(process) if victim == "exec" else process.pid)
        process.wait(30)
        recover(store, "x")


def test_a_container_without_monitor_is_seen_and_stopped(store, busybox):
    identifier = store.detach("--name", "orphan", "--rootfs", busybox, "sleep", "100")
    record = store.process(identifier)
    os.kill(int(record["monitor"]), signal.SIGKILL)
    assert "its monitor is gone" in store.command("ps", code=0).out
    store.command("stop", "-t", "0", "orphan", code=0)
    assert "Exited (137)" in store.command("ps", "-a", code=0).out
    assert store.command("rm", "orphan", code=0).err == ""
    assert store.settled() == []


def test_a_container_whose_monitor_and_first_process_died_has_an_exit_code(store, busybox):
    identifier = store.detach("--name", "gone", "--rootfs", busybox, "sleep", "100")
    record = store.process(identifier)
    for pid in (int(record["monitor"]), int(record["pid"])):
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not store.processes())
    assert store.run("--name", "gone", "--rootfs", busybox, "true").code == 125, "the name is still its own"
    assert "Exited (137)" in store.command("ps", "-a", code=0).out
    assert store.groups() == []
    store.command("rm", "gone", code=0)
    assert store.settled() == []


def test_removed_by_rm_although_the_monitor_died(store, busybox):
    identifier = store.detach("--rm", "--name", "brief", "--rootfs", busybox, "sleep", "100")
    record = store.process(identifier)
    for pid in (int(record["monitor"]), int(record["pid"])):
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not store.processes())
    assert "brief" not in store.command("ps", "-a", code=0).out
    assert store.settled() == []


def test_unreadable_records_are_not_the_end(store, busybox):
    """What a crash of the machine leaves: empty files."""
    store.run("--name", "broken", "--rootfs", busybox, "true", code=0)
    store.run("--name", "whole", "--rootfs", busybox, "true", code=0)
    identifier = store.identifier("broken")
    for name in ("container.json", "exit.json", "config.json"):
        (store.root / f"containers/{identifier}" / name).write_text("")
    listed = store.command("ps", "-a", code=0)
    assert "whole" in listed.out and listed.err == ""
    store.command("rm", "-f", "broken", code=0)
    store.command("rm", "-f", "whole", code=0)
    store.run("--rm", "--name", "broken", "--rootfs", busybox, "true", code=0)
    assert store.settled() == []
