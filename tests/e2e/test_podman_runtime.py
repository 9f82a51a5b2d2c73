"""`podman --runtime coracle-oci` does what `podman --runtime crun` does: the same commands, the same results.

``CORACLE_TEST_RUNTIME`` names another runtime to compare with crun; the harness itself is checked with runc:

    CORACLE_TEST_RUNTIME=runc pytest tests/e2e/test_podman_runtime.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from comparison import Side, difference
from enclosure import Enclosure
from peers import IMAGE, Podman, busybox_archive, coracle_inside, missing
from podman_cases import BEYOND, CASES, EITHER
from terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(300)]
SUBJECT = os.environ.get("CORACLE_TEST_RUNTIME", "coracle-oci")


@pytest.fixture(scope="module")
def place() -> Iterator[Enclosure]:
    if reason := missing("podman", "crun", "conmon", "busybox", "nsenter"):
        pytest.skip(reason)
    with Enclosure() as enclosure:
        Podman(enclosure).import_image(busybox_archive(enclosure.seen))
        yield enclosure


@pytest.fixture(scope="module")
def reference(place: Enclosure) -> Side:
    return Side(Podman(place, "crun"), "reference", CASES)


@pytest.fixture(scope="module")
def subject(place: Enclosure) -> Side:
    program = coracle_inside(place, SUBJECT) if SUBJECT == "coracle-oci" else SUBJECT
    if program is None:
        pytest.skip("coracle-oci does not run here yet")
    return Side(Podman(place, program), "subject", CASES)


@pytest.mark.parametrize("case", CASES)
def test_same_as_crun(case: str, place: Enclosure, reference: Side, subject: Side) -> None:
    if SUBJECT in BEYOND.get(case, ()):
        pytest.skip(f"{SUBJECT} cannot do this")
    actual, expected = subject.results(case), reference.results(case)
    differences = difference(actual, expected)
    if differences and case in EITHER and not missing("runc"):
        differences = difference(actual, Side(Podman(place, "runc"), "other", CASES).results(case))
    assert not differences, differences


def _conversation(side: Side) -> tuple[int, bool, bool]:
    """A shell on a terminal: exit status, whether it knows its terminal, whether it notices a new size."""
    terminal = Terminal(side.tool.popen, "run", "--rm", "-it", "--network", "none", IMAGE, "sh")
    terminal.expect(b"# ")
    terminal.send(b"tty; stty size; echo sum $((40 + 2))\n")
    terminal.expect(b"sum 42\r\n")
    terminal.resize(30, 90)
    terminal.send(b"until [ \"$(stty size)\" = '30 90' ]; do sleep 0.1; done; echo resized $((40 + 3))\n")
    terminal.expect(b"resized 43\r\n")
    terminal.send(b"exit 6\n")
    status, output = terminal.finish()
    return status, b"/dev/pts/0" in output, b"40 120" in output


def test_terminal(reference: Side, subject: Side) -> None:
    assert _conversation(reference) == (6, True, True)
    assert _conversation(subject) == (6, True, True)


def _exec_terminal(side: Side) -> tuple[int, bool]:
    name = f"{side.label}-tty"
    side.tool.run("run", "-d", "--name", name, "--network", "none", IMAGE, "sleep", "100").check_returncode()
    terminal = Terminal(side.tool.popen, "exec", "-it", name, "sh", "-c", "tty && stty size && exit 8")
    status, output = terminal.finish()
    side.clean_up("rm", "-f", "-t", "0", name)
    return status, b"/dev/pts/0" in output and b"40 120" in output


def test_exec_terminal(reference: Side, subject: Side) -> None:
    assert _exec_terminal(reference) == (8, True)
    assert _exec_terminal(subject) == (8, True)


def test_standard_input(reference: Side, subject: Side) -> None:
    data = "line\n" * 20000
    for side in (reference, subject):
        process = side.tool.run("run", "--rm", "-i", "--network", "none", IMAGE, "wc", "-c", input=data)
        assert (process.returncode, process.stdout.strip()) == (0, "100000"), process.stderr


def test_nothing_is_left(place: Enclosure, subject: Side) -> None:
    """After all containers are gone: no cgroup and no process of theirs."""
    subject.clean_up("pod", "rm", "-fa", "-t", "0")
    subject.clean_up("rm", "-fa", "-t", "0")
    cgroups = place.run(["sh", "-c", "find /sys/fs/cgroup/ -type d -name 'libpod-*' ! -name '*conmon*'"])
    assert cgroups.stdout == ""
    processes = place.run(["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout.split()
    assert "conmon" not in processes
    assert "sleep" not in processes
