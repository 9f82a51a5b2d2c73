"""The inner half of run.py: runs in an enclosure, alternates between commands, measures each.

Standard input is JSON: {"rounds", "warmup", "commands": {name: {"argv", "env"}}}, standard output the measurements:
{name: [{"wall", "cpu", "status"}, …]}, times in seconds.  ``{n}`` in an argument becomes a number used only once.

CPU time is that of the enclosure's cgroup: daemons, monitors and containers count, whoever their parent is, and a
command is over only when the number of processes is what it was before.  This program's own share is taken off.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

V1 = Path("/sys/fs/cgroup/cpuacct/cpuacct.usage")
V2 = Path("/sys/fs/cgroup/cpu.stat")
SETTLE = 3.0  # seconds that what a command leaves running may take to end


def cgroup_cpu() -> float:
    """CPU seconds of all processes that ever lived in the enclosure."""
    if V1.exists():
        return int(V1.read_text()) / 1e9
    return int(V2.read_text().split()[1]) / 1e6


def processes() -> int:
    return sum(name.isdigit() for name in os.listdir("/proc"))


def measure(argv: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run one command with /dev/null as its streams."""
    null = os.open("/dev/null", os.O_RDWR)
    before, cpu, own = processes(), cgroup_cpu(), time.process_time()
    start = time.perf_counter()
    actions = [(os.POSIX_SPAWN_DUP2, null, descriptor) for descriptor in (0, 1, 2)]
    pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    wall = time.perf_counter() - start
    os.close(null)
    deadline = time.perf_counter() + SETTLE
    while processes() > before and time.perf_counter() < deadline:
        time.sleep(0.002)
    cpu = cgroup_cpu() - cpu - (time.process_time() - own)
    return {"wall": wall, "cpu": cpu, "status": os.waitstatus_to_exitcode(status)}


def main() -> int:
    request = json.load(sys.stdin)
    commands: dict[str, dict[str, Any]] = request["commands"]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for number in range(-request["warmup"], request["rounds"]):
        for name, command in commands.items():
            argv = [argument.replace("{n}", f"{os.getpid()}-{number + 1000}") for argument in command["argv"]]
            result = measure(argv, os.environ | command["env"])
            if number >= 0:
                results[name].append(result)
    json.dump(results, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
