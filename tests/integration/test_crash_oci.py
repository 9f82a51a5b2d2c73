"""kill -9 of coracle-oci at any moment: list shows what is left, delete --force removes it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time

import pytest
from containers import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]
ROUNDS = int(os.environ.get("CORACLE_TEST_KILLS", "60"))
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def killed(store, seconds, *words):
    process = subprocess.Popen(store.words("oci", "--root", store.state, *words), env=store.environment, **QUIET)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def recover(store, name):
    """What an engine does after a crash."""
    listed = json.loads(store.oci("list", "--format", "json", code=0).out or "[]") or []
    if name in [entry["id"] for entry in listed]:
        store.oci("delete", "--force", name, code=0)
    else:
        assert not (store.state / name).exists(), "there, but not listed"
    assert store.settled(5) == []


@pytest.mark.parametrize("cgroups", ["own group", "no group"])
def test_create(store, busybox, cgroups):
    """Without a control group only the container's own process can tell that its maker is gone."""
    chance = random.Random(f"create {cgroups}")
    bundle = store.bundle(busybox, "sleep", "100")
    options = ["--cgroup-manager", "disabled"] if cgroups == "no group" else []
    for _ in range(ROUNDS if not options else ROUNDS // 3):
        killed(store, chance.uniform(0.02, 0.14), *options, "create", "--bundle", bundle, "c")
        recover(store, "c")
    store.oci("create", "--bundle", bundle, "c", code=0)
    store.oci("delete", "--force", "c", code=0)
    assert store.settled() == []


@pytest.mark.parametrize("command", ["start", "kill", "delete", "delete --force", "pause", "exec"])
def test_commands_on_a_container(store, busybox, command):
    chance = random.Random(command)
    bundle = store.bundle(busybox, "sleep", "100")
    for _ in range(ROUNDS if command in ("start", "delete") else ROUNDS // 3):
        store.oci("create", "--bundle", bundle, "c", code=0)
        if command != "start":
            store.oci("start", "c", code=0)
        if command == "delete":
            store.oci("kill", "c", "KILL", code=0)
        tail = {"kill": ["TERM"], "exec": ["sleep", "0.2"]}.get(command, [])
        killed(store, chance.uniform(0.02, 0.1), *command.split(), "c", *tail)
        if command == "pause":
            store.oci("resume", "c")
        recover(store, "c")


@pytest.mark.parametrize("seconds", [0.1, 0.3])
def test_run(store, busybox, seconds):
    chance = random.Random(f"run {seconds}")
    bundle = store.bundle(busybox, "sleep", "0.15")
    for _ in range(ROUNDS // 2):
        killed(store, chance.uniform(0.02, seconds), "run", "--bundle", bundle, "c")
        recover(store, "c")


def test_update_keeps_the_record_readable(store, busybox):
    chance = random.Random("update")
    store.oci("create", "--bundle", store.bundle(busybox, "sleep", "100"), "c", code=0)
    for _ in range(ROUNDS // 3):
        killed(store, chance.uniform(0.02, 0.1), "update", "--memory", "64000000", "c")
        assert json.loads(store.oci("state", "c", code=0).out)["status"] == "created"
    store.oci("delete", "--force", "c", code=0)
    assert store.settled() == []


def test_two_creates_of_one_name(store, busybox):
    """Exactly one gets it."""
    bundle = store.bundle(busybox, "sleep", "100")
    for _ in range(10):
        words = store.words("oci", "--root", store.state, "create", "--bundle", bundle, "c")
        both = [subprocess.Popen(words, env=store.environment, **QUIET) for _ in range(2)]
        assert sorted(process.wait(30) for process in both) == [0, 1]
        store.oci("delete", "--force", "c", code=0)
    assert store.settled() == []


def test_two_starts_and_two_deletes(store, busybox):
    bundle = store.bundle(busybox, "sleep", "100")
    for _ in range(10):
        store.oci("create", "--bundle", bundle, "c", code=0)
        for words, codes in ((["start", "c"], [0, 1]), (["delete", "--force", "c"], [0, 0])):
            line = store.words("oci", "--root", store.state, *words)
            both = [subprocess.Popen(line, env=store.environment, **QUIET) for _ in range(2)]
            assert sorted(process.wait(30) for process in both) == codes, words
    assert store.settled() == []


def test_a_container_whose_process_died_before_start(store, busybox):
    store.oci("create", "--bundle", store.bundle(busybox, "sleep", "100"), "c", code=0)
    pid = json.loads(store.oci("state", "c").out)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: json.loads(store.oci("state", "c").out)["status"] == "stopped")
    assert store.oci("start", "c").code == 1
    store.oci("delete", "c", code=0)
    assert store.settled() == []


@pytest.mark.parametrize("name", ["state.json", "config.json", "lock", "exec.fifo"])
@pytest.mark.parametrize("damage", ["empty", "missing", "garbage"])
def test_damaged_records(store, busybox, name, damage):
    """Nothing of ours damages them; a container can be listed and removed all the same."""
    store.oci("create", "--bundle", store.bundle(busybox, "sleep", "100"), "c", code=0)
    path = store.state / "c" / name
    path.unlink()
    if damage != "missing":
        path.write_text("" if damage == "empty" else "{]\n")
    listed = store.oci("list", code=0)
    assert listed.err == "" and "c" in listed.out.split()
    store.oci("delete", "--force", "c", code=0)
    assert not os.listdir(store.state)
    if name != "state.json":  # which alone tells the process and its group
        assert store.settled() == []
