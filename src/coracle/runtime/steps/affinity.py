"""CPU affinity of an exec'ed process (runtime-spec config.md, "execCPUAffinity"; sched_setaffinity(2))."""

from __future__ import annotations

import os

from coracle.errors import SpecError
from coracle.step import ENTER, JOIN, Step, World


class CpuAffinity(Step):
    """Run on ``cpus`` only: ``initial`` before the control group is joined, or for good afterwards."""

    __slots__ = ("cpus", "place")

    def __init__(self, cpus: str, initial: bool, cause: str) -> None:
        super().__init__(cause)
        self.cpus = cpus
        self.place = JOIN if initial else ENTER

    def do(self, world: World) -> None:
        os.sched_setaffinity(0, cpu_set(self.cpus, self.cause))

    def prose(self) -> str:
        return f"run on CPUs {self.cpus} only"

    def shell(self) -> list[str]:
        return [f"taskset -pc {self.cpus} $$"]

    def hint(self, errno: int) -> str:
        return "this machine, or the control group, has none of these CPUs" if errno == 22 else ""


def cpu_set(text: str, where: str) -> set[int]:
    """``0-3,7`` as numbers.  :raises SpecError: naming ``where``."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last] if dash else [first]
        if not all(number.isdecimal() for number in numbers) or not int(first) <= int(numbers[-1]) < 8192:
            raise SpecError(where, f"{part!r} is not a CPU or a range of CPUs")
        cpus.update(range(int(first), int(numbers[-1]) + 1))
    return cpus
