"""dockerd with `--add-runtime coracle`: `docker run --runtime coracle` does what `--runtime runc` does.

The dockerd is a private one (scripts/peers.py).  ``CORACLE_TEST_RUNTIME=crun`` checks the harness itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from comparison import Side, difference
from enclosure import Enclosure
from peers import IMAGE, Docker, busybox_archive, coracle_inside, missing
from terminal import Terminal

pytestmark = [pytest.mark.root, pytest.mark.peer, pytest.mark.timeout(300)]
SUBJECT = os.environ.get("CORACLE_TEST_RUNTIME", "coracle-oci")

CASES: dict[str, list[str]] = {
    "echo": ["{run} {image} echo hello"],
    "exit status": ["{run} {image} sh -c 'echo out; echo err >&2; exit 7'"],
    "killed by a signal": ["{run} {image} sh -c 'kill -KILL $$'"],
    "command not found": ["?{run} {image} /no/such/program"],
    "not executable": ["?{run} {image} /etc/passwd"],
    "host network": ["run --rm --network host {options} {image} ls /sys/class/net"],
    "user": ["{run} -u 1000:1000 --group-add 44 {image} id"],
    "environment": ["{run} --hostname h -e A=b {image} env"],
    "mounts": ["{run} {image} awk '$5 !~ \"^/proc/\" {print $5, $6}' /proc/self/mountinfo"],
    "volume": ["{run} -v {dir}:/v -w /v {image} sh -c 'echo data >file; cat file'"],
    "read-only": ["{run} --read-only --tmpfs /tmp {image} sh -c 'touch /x; touch /tmp/x && echo tmp'"],
    "capabilities": ["{run} --cap-drop all --cap-add CHOWN {image} grep Cap /proc/self/status"],
    "seccomp": ["{run} {image} sh -c 'grep -E \"Seccomp:|NoNewPrivs\" /proc/self/status; unshare -m true'"],
    "more rights": [
        "{run} --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined {image} "
        "sh -c 'grep -E \"Cap|Seccomp:\" /proc/self/status; unshare -m true'"
    ],
    "memory": ["{run} -m 64m {image} cat /sys/fs/cgroup/memory/memory.limit_in_bytes"],
    "pids": ["{run} --pids-limit 7 {image} cat /sys/fs/cgroup/pids/pids.max"],
    "cpus": ["{run} --cpus 0.5 {image} cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"],
    "init": ["{run} --init {image} cat /proc/1/comm"],
    "detached": [
        "?run -d --name {c} --network none {options} {image} sleep 100",
        "exec {c} cat /proc/1/cmdline",
        "exec -u 1000 -e A=b -w /tmp {c} sh -c 'id; echo $A; pwd; exit 9'",
        "?exec {c} /no/such/program",
        "pause {c}",
        "inspect --format {{.State.Status}} {c}",
        "unpause {c}",
        "?update -m 96m --memory-swap 96m {c}",
        "exec {c} cat /sys/fs/cgroup/memory/memory.limit_in_bytes",
        "top {c} -o args",
        "stop -t 0 {c}",
        "inspect --format '{{.State.Status}} {{.State.ExitCode}}' {c}",
        "start {c}",
        "restart -t 0 {c}",
        "kill {c}",
        "wait {c}",
        "rm {c}",
    ],
    "logs and signals": [
        "?run -d --name {c} --network none {options} {image} "
        "sh -c 'trap \"echo got; exit 5\" TERM; echo ready; while :; do sleep 0.1; done'",
        "exec {c} sleep 0.5",
        "stop {c}",
        "logs {c}",
        "inspect --format '{{.State.ExitCode}}' {c}",
        "rm {c}",
    ],
}
# dockerd knows the exit status by words in runc's message, and crun's are not those.
BEYOND = {"command not found": ("crun",), "not executable": ("crun",)}


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    if reason := missing("dockerd", "docker", "containerd", "runc", "busybox", "nsenter"):
        pytest.skip(reason)
    with Enclosure() as place:
        program = coracle_inside(place, SUBJECT) if SUBJECT == "coracle-oci" else SUBJECT
        if program is None:
            pytest.skip("coracle-oci does not run here yet")
        daemon = Docker(place, {"coracle": program})
        try:
            daemon.start()
        except RuntimeError as error:
            pytest.skip(str(error))
        daemon.import_image(busybox_archive(place.seen))
        yield daemon
        daemon.close()


@pytest.fixture(scope="module")
def reference(docker: Docker) -> Side:
    return Side(docker, "reference", CASES, "--runtime runc")


@pytest.fixture(scope="module")
def subject(docker: Docker) -> Side:
    return Side(docker, "subject", CASES, "--runtime coracle")


@pytest.mark.parametrize("case", CASES)
def test_same_as_runc(case: str, reference: Side, subject: Side) -> None:
    if SUBJECT in BEYOND.get(case, ()):
        pytest.skip(f"{SUBJECT} cannot do this")
    differences = difference(subject.results(case), reference.results(case))
    assert not differences, differences


def test_terminal(reference: Side, subject: Side) -> None:
    for side in (reference, subject):
        options = [*side.options.split(), "--network", "none", IMAGE]
        terminal = Terminal(side.tool.popen, "run", "--rm", "-it", *options, "sh")
        terminal.expect(b"# ")
        terminal.send(b"until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; tty; exit 6\n")
        status, output = terminal.finish()
        assert status == 6
        assert b"/dev/pts/0" in output
