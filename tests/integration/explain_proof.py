"""Carry one plan out twice, as a script and as a container, and keep what the program inside saw of each.

``python explain_proof.py DIRECTORY run OPTIONS IMAGE COMMAND...`` writes to DIRECTORY: ``script.sh``,
``script.out``, ``script.err``, ``run.out`` and, if the lines that clean up left anything, ``left``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from coracle import explain
from coracle.engine.draft import draft
from coracle.engine.run import complete, enter_namespace
from coracle.explain.script import CLEANING
from coracle.paths import Paths
from coracle.runtime.foreground import confirm, reap
from coracle.runtime.spawn import spawn
from coracle.step import Plan, World, roll_back


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


def cleaning_lines(script: str) -> str:
    """The trailing lines of a script that remove what it made."""
    return "".join(line.removeprefix("#   ") for line in script.partition(CLEANING)[2].splitlines(True))


def mounts(paths: Paths, *roots: str) -> list[str]:
    """Mount points of the script's making in this namespace, which is shared with it as a host's is."""
    with open("/proc/self/mountinfo") as lines:
        points = [line.split()[4] for line in lines]
    made = (paths.containers() + "/", *(f"{root}/" for root in roots), "/dev/shm/coracle.", "/tmp/coracle.")
    return [point for point in points if point.startswith(made) or point in roots]


def run_script(script: str, directory: Path) -> int:
    path = directory / "script.sh"
    path.write_text(script)
    with (directory / "script.out").open("wb") as out, (directory / "script.err").open("wb") as err:
        done = subprocess.run(["/bin/sh", path], stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=60)
    subprocess.run(["/bin/sh", "-eu"], input=cleaning_lines(script), text=True, check=True)
    return done.returncode


def run_plan(plan: Plan, out: Path) -> int:
    """The container of ``plan`` with its standard output in the file ``out``; its exit code."""
    world = World(_warn)
    given = [os.open("/dev/null", os.O_RDONLY), os.open(out, os.O_WRONLY | os.O_CREAT, 0o666), os.dup(2)]
    world.values["standard files"] = given
    world.values["state"] = dict
    gate, opener = os.pipe()
    world.fds["gate"] = gate
    try:
        child = spawn(plan, world)
        os.write(opener, b"1")
        confirm(plan, child)
        return reap(child)
    finally:
        for fd in (opener, *given):
            os.close(fd)
        roll_back(plan.at("host"), world)
        world.close()


def main() -> int:
    directory = Path(sys.argv[1])
    paths = Paths()
    made = draft(sys.argv[3:], paths, _warn, enter_namespace())
    plan = complete(made, paths)
    script = explain.shell(plan, "the proof", {"ID": made.identifier})
    code = run_script(script, directory)
    places = [paths.container(made.identifier), *(made.group.directories.values() if made.group else ())]
    roots = [made.options.rootfs] if made.options.rootfs else []
    left = [path for path in places if os.path.exists(path)] + mounts(paths, *roots)
    if left:
        (directory / "left").write_text("\n".join(left))
    real = run_plan(plan, directory / "run.out")
    sys.stdout.write(f"{code} {real}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
