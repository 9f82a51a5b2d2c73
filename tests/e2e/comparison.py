"""The same command lines under two runtimes: run them, and show where the results differ.

A case is a list of command lines of one tool (podman or docker), run in order.  Words in braces are filled in for each
side, see :class:`Side`.  A line that starts with ``?`` is compared by exit status alone: its output holds times, ids,
or the runtime's own words.  One that starts with ``-`` cleans up: it is tried until it works and not compared (podman's
own clean-up process is still at work when `rm` comes, and then a mount is "busy").
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from enclosure import Enclosure
from peers import IMAGE

Cases = dict[str, list[str]]


class Tool(Protocol):
    """podman or docker, as peers.py has them."""

    place: Enclosure

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]: ...

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[Any]: ...


class Result(NamedTuple):
    """What one command line did."""

    command: str
    status: int
    output: str
    error: str
    loose: bool  # only the status counts

    def same(self, other: Result) -> bool:
        return self.status == other.status and (self.loose or (self.output, self.error) == (other.output, other.error))

    def __str__(self) -> str:
        return f"{self.command}\nstatus {self.status}\n{self.output}\n{self.error}"


class Side:
    """One runtime under a tool.  ``options`` select the runtime in each ``run`` and ``create`` ("" if the tool knows).

    ``{run}`` is a run that leaves nothing, ``{options}`` those options, ``{image}`` busybox, ``{c}`` a container name
    of this side and case, ``{dir}`` a directory of theirs in the enclosure, ``{disk}`` a block device of the machine.
    """

    def __init__(self, tool: Tool, label: str, cases: Cases, options: str = "") -> None:
        self.tool = tool
        self.label = label
        self.cases = cases
        self.options = options
        self.directory = tool.place.directory / label

    def results(self, case: str) -> list[Result]:
        words = self.words(case)
        results = []
        for line in self.cases[case]:
            if line.startswith("-"):
                self.clean_up(*fill_in(line.removeprefix("-"), words))
            else:
                results.append(self.result(line, words))
        return results

    def result(self, line: str, words: dict[str, str]) -> Result:
        command = fill_in(line.removeprefix("?"), words)
        process = self.tool.run(*command)
        texts = (self.neutral(process.stdout), self.neutral(process.stderr))
        return Result(shlex.join(command), process.returncode, *texts, loose=line.startswith("?"))

    def clean_up(self, *command: str) -> None:
        for _ in range(10):
            process = self.tool.run(*command)
            if process.returncode == 0:
                return
            time.sleep(0.5)
        raise AssertionError(f"{shlex.join(command)}: {process.stderr}")

    def words(self, case: str) -> dict[str, str]:
        number = list(self.cases).index(case)
        directory = self.directory / str(number)
        script = f"mkdir -p {directory} && chmod 755 {directory}"
        if "{dir}/rootfs" in "".join(self.cases[case]):
            script += (
                f" && mkdir {directory}/rootfs && tar xf {self.directory.parent}/busybox.tar -C {directory}/rootfs"
            )
        self.tool.place.run(["sh", "-c", script], check=True)
        own = {"{c}": f"{self.label}-{number}", "{dir}": str(directory), "{disk}": block_device()}
        run = f"run --rm --network none {self.options}"
        return {"{run}": run, "{options}": self.options, "{image}": IMAGE, **own}

    def neutral(self, text: str) -> str:
        """``text`` without what must differ: ids, the side's names and directories, the order of a table's lines."""
        text = text.replace(str(self.directory), "DIRECTORY").replace(self.label, "SIDE")
        text = re.sub(r"\b[0-9a-f]{64}\b", "ID", text)
        text = re.sub(r"\b[0-9a-f]{12}\b", "SHORTID", text)
        text = re.sub(r'time="[^"]*"', "TIME", text)
        # Two differences are meant: with hybrid cgroups coracle shows the cgroup2 hierarchy too, and makes the tmpfs
        # above the hierarchies as read-only as config.json asks, which crun and runc do not.
        text = re.sub(r"^/sys/fs/cgroup/unified.*\n?", "", text, flags=re.MULTILINE)
        text = text.replace("/sys/fs/cgroup rw,", "/sys/fs/cgroup ro,")
        return "\n".join(sorted(text.splitlines())) if len(text) < 20000 else text


def fill_in(line: str, words: dict[str, str]) -> list[str]:
    """The arguments of a command line; not str.format, for Go templates and awk programs are full of braces."""
    for word, value in words.items():
        line = line.replace(word, value)
    return shlex.split(line)


def difference(actual: list[Result], expected: list[Result]) -> str:
    """A text that shows how the results differ, or nothing."""
    return "\n".join(
        f"-- expected:\n{one}\n-- got:\n{other}\n"
        for one, other in zip(expected, actual, strict=True)
        if not other.same(one)
    )


def block_device() -> str:
    """Any block device; a throttle rule for it is written to the container's cgroup only."""
    return next((f"/dev/{entry.name}" for entry in sorted(Path("/sys/block").iterdir(), reverse=True)), "/dev/null")
