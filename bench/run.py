#!/usr/bin/env python3
"""coracle beside podman, docker, crun and runc: the same work, alternating, in one run on one machine.

    bench/run.py                      everything, as root; about two minutes
    bench/run.py run exec -n 30       some comparisons, 30 rounds
    bench/run.py --json results.json  also as data

Comparisons:
    run      run --rm --network none busybox true        coracle, podman (crun), docker (runc)
    exec     exec in a running container                 coracle, podman, docker
    oci      run of one bundle                           coracle-oci, crun, runc
    oci-exec exec in a container of that bundle          coracle-oci, crun, runc
    many     start, list and remove --many containers    coracle, podman, docker
    memory   what a detached container's monitor holds   coracle, podman (conmon), docker (shim)

All stores are on a tmpfs, all tools in one enclosure (scripts/enclosure.py, scripts/peers.py).  A tool that is not
installed or does not work here is named and left out.  Compare ratios, not milliseconds: they survive a slow machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from enclosure import Enclosure
from peers import IMAGE, Docker, Podman, busybox_archive, coracle_inside, default_spec, missing

MEASURE = Path(__file__).with_name("measure.py")
Command = dict[str, Any]
Measurements = dict[str, list[dict[str, float]]]

# (comparison, peer) → the most of the peer's time that ours may take; docs/performance.md.
BUDGETS = {
    ("run", "podman"): Fraction(1, 4),
    ("run", "docker"): Fraction(1, 6),
    ("exec", "podman"): Fraction(1, 4),
    ("oci", "runc"): Fraction(1),
    ("many", "podman"): Fraction(1, 4),
}
# podman gives a container 10 s to obey TERM before `rm -f` kills it; the others kill at once.
REMOVE = {"podman": ("rm", "-f", "-t", "0")}
MONITOR_BUDGET = 3 * 1024  # KiB of private memory


class Contest:
    """The tools that work here, each with its store and a running container; says which do not."""

    def __init__(self, place: Enclosure, stack: ExitStack, runtime: str, only: set[str]) -> None:
        self.place = place
        self.only = only
        self.engines: dict[str, Callable[..., Command]] = {}
        self.runtimes: dict[str, Callable[..., Command]] = {}
        self.archive = busybox_archive(place.seen)
        self._bundle()
        self._coracle()
        self._podman(runtime)
        self._docker(stack)
        for name in ("crun", "runc"):
            self._runtime(name, missing(name), Path(name))

    def _leave_out(self, name: str, reason: str) -> bool:
        if reason and (not self.only or name in self.only):
            print(f"{name}: left out: {reason}", file=sys.stderr)
        return bool(reason) or bool(self.only and name not in self.only)

    def _bundle(self) -> None:
        spec = default_spec(["/bin/true"], self.place)
        sleeping = default_spec(["/bin/sleep", "100000"], self.place)
        for name, content in (("bundle", spec), ("sleeping", sleeping)):
            (self.place.seen / name / "rootfs").mkdir(parents=True)
            self._must(
                ["tar", "xf", self.place.directory / "busybox.tar", "-C", self.place.directory / name / "rootfs"]
            )
            (self.place.seen / name / "config.json").write_text(json.dumps(content))

    def _must(self, command: list[str | Path], env: dict[str, str] | None = None) -> None:
        process = self.place.run(command, env=env or {})
        if process.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {process.stderr.strip() or process.returncode}")

    def _coracle(self) -> None:
        program = coracle_inside(self.place, "coracle")
        if not self._leave_out("coracle", "" if program else "`coracle --version` does not work"):
            store = {name: f"{self.place.directory}/coracle-{name.lower()}" for name in ("CORACLE_ROOT", "CORACLE_RUN")}
            self._must([str(program), "import", self.place.directory / "busybox.tar", IMAGE], store)
            self._engine("coracle", lambda *words: {"argv": [str(program), *words], "env": store})
        runtime = coracle_inside(self.place, "coracle-oci")
        self._runtime("coracle-oci", "" if runtime else "`coracle-oci --version` does not work", runtime or Path())

    def _podman(self, runtime: str) -> None:
        if self._leave_out("podman", missing("podman", "conmon", runtime)):
            return
        podman = Podman(self.place, runtime)
        podman.import_image(self.archive)
        self._engine("podman", lambda *words: {"argv": podman.argv(*words), "env": podman.environment()})

    def _docker(self, stack: ExitStack) -> None:
        if self._leave_out("docker", missing("docker", "dockerd", "containerd", "runc")):
            return
        try:
            docker = stack.enter_context(Docker(self.place))
        except RuntimeError as error:
            self._leave_out("docker", str(error))
            return
        docker.import_image(self.archive)
        self._engine("docker", lambda *words: {"argv": docker.argv(*words), "env": docker.environment()})

    def _engine(self, name: str, command: Callable[..., Command]) -> None:
        """Take an engine in if it can start the container for `exec`; the monitors' memory is measured with it."""
        start = command("run", "-d", "--name", "bench-sleep", "--network", "none", IMAGE, "sleep", "100000")
        self._must(start["argv"], start["env"])
        self.engines[name] = command

    def _runtime(self, name: str, reason: str, program: Path) -> None:
        if self._leave_out(name, reason):
            return
        root = self.place.directory / f"state-{name}"

        def command(*words: str) -> Command:
            return {"argv": [str(program), "--root", str(root), *words], "env": {}}

        start = command("run", "--detach", "--bundle", f"{self.place.directory}/sleeping", f"bench-{name}")
        # The container keeps the streams of a detached run open.
        self._must(["sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh", *start["argv"]])
        self.runtimes[name] = command

    def measure(self, commands: dict[str, Command], rounds: int, warmup: int) -> Measurements:
        request = {"rounds": rounds, "warmup": warmup, "commands": commands}
        process = self.place.run([sys.executable, "-I", "-S", MEASURE], input=json.dumps(request), stderr=None)
        if process.returncode:
            raise RuntimeError("the measurement broke off")
        results: Measurements = json.loads(process.stdout)
        return results


def compare_run(contest: Contest, options: argparse.Namespace) -> Measurements:
    words = ("run", "--rm", "--network", "none", IMAGE, "true")
    return contest.measure({name: tool(*words) for name, tool in contest.engines.items()}, options.rounds, 2)


def compare_exec(contest: Contest, options: argparse.Namespace) -> Measurements:
    words = ("exec", "bench-sleep", "true")
    return contest.measure({name: tool(*words) for name, tool in contest.engines.items()}, options.rounds, 2)


def compare_oci(contest: Contest, options: argparse.Namespace) -> Measurements:
    words = ("run", "--bundle", f"{contest.place.directory}/bundle", "bench-{n}")
    return contest.measure({name: tool(*words) for name, tool in contest.runtimes.items()}, options.rounds, 2)


def compare_oci_exec(contest: Contest, options: argparse.Namespace) -> Measurements:
    commands = {name: tool("exec", f"bench-{name}", "/bin/true") for name, tool in contest.runtimes.items()}
    return contest.measure(commands, options.rounds, 2)


def compare_many(contest: Contest, options: argparse.Namespace) -> Measurements:
    """Start --many detached containers one after the other, list them, remove them with one command."""
    commands = {}
    for name, tool in contest.engines.items():
        numbers = [f"many-{number}" for number in range(options.many)]
        lines = [tool("run", "-d", "--name", each, "--network", "none", IMAGE, "sleep", "100000") for each in numbers]
        lines += [tool("ps"), tool(*REMOVE.get(name, ("rm", "-f")), *numbers)]
        script = "set -e\n" + "\n".join(_shell(line["argv"]) for line in lines)
        commands[name] = {"argv": ["sh", "-c", script], "env": lines[0]["env"]}
    return contest.measure(commands, max(1, options.rounds // 10), 0)


def _shell(argv: list[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in argv)


COMPARISONS: dict[str, tuple[str, Callable[[Contest, argparse.Namespace], Measurements]]] = {
    "run": ("run --rm --network none busybox true", compare_run),
    "exec": ("exec CONTAINER true", compare_exec),
    "oci": ("run --bundle: the runtimes alone", compare_oci),
    "oci-exec": ("exec by the runtimes alone", compare_oci_exec),
    "many": ("start, list and remove many containers", compare_many),
}


def table(name: str, title: str, results: Measurements) -> str:
    """One line per tool; the ratio is its median wall time to ours, the first's."""
    lines = [f"\n{name}: {title}", f"{'':14}{'median':>13}{'min':>13}{'CPU':>13}{'ratio':>8}{'CPU ratio':>11}"]
    first = _medians(next(iter(results.values())))
    for tool, runs in results.items():
        wall, cpu = _medians(runs)
        best = min(run["wall"] for run in runs)
        cells = "".join(f"{value * 1000:10.1f} ms" for value in (wall, best, cpu))
        line = f"{tool:14}{cells}{wall / first[0]:8.2f}{cpu / first[1]:11.2f}"
        if failures := sum(run["status"] != 0 for run in runs):
            line += f"  {failures} of {len(runs)} failed"
        if limit := BUDGETS.get((name, tool)):
            share = first[0] / wall
            line += (
                f"  ours takes {share:.2f} of it, budget {float(limit):.2f}: {'met' if share <= limit else 'MISSED'}"
            )
        lines.append(line)
    return "\n".join(lines)


def _medians(runs: list[dict[str, float]]) -> tuple[float, float]:
    return statistics.median(run["wall"] for run in runs), statistics.median(run["cpu"] for run in runs)


def memory(contest: Contest) -> dict[str, dict[str, float]]:
    """KiB that one detached container costs outside of itself: what its monitors hold.

    Start it, and look which processes are new and not in a pid namespace of their own.  Private memory is what would be
    free without the monitor; Pss adds its share of pages that several processes use, such as the interpreter's file.
    """
    results = {}
    for name, tool in contest.engines.items():
        before = _settled(contest.place)
        start = tool("run", "-d", "--name", "bench-memory", "--network", "none", IMAGE, "sleep", "100000")
        contest._must(start["argv"], start["env"])
        new = sorted(_settled(contest.place) - before)
        results[name] = {"processes": float(len(new)), **_sums(new)}
        remove = tool(*REMOVE.get(name, ("rm", "-f")), "bench-memory")
        contest._must(remove["argv"], remove["env"])
    return results


def _processes(place: Enclosure) -> Iterator[int]:
    """Processes in the enclosure's own pid namespace, numbered as outside."""
    own = os.readlink(f"/proc/{place.pid}/ns/pid")
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/ns/pid") == own:
                yield int(name)
        except OSError:
            continue


def _settled(place: Enclosure) -> set[int]:
    """The processes once none has come or gone for a second: what only starts or cleans up is over."""
    seen: set[int] = set()
    since = time.monotonic()
    while time.monotonic() - since < 1:
        if (now := set(_processes(place))) != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.05)
    return seen


def _sums(pids: list[int]) -> dict[str, float]:
    sums = {"private": 0.0, "dirty": 0.0, "pss": 0.0}
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        values = {line.split(":")[0]: float(line.split()[1]) for line in lines}
        sums["private"] += values["Private_Dirty"] + values["Private_Clean"]
        sums["dirty"] += values["Private_Dirty"]
        sums["pss"] += values["Pss"]
    return sums


def memory_table(results: dict[str, dict[str, float]]) -> str:
    lines = ["\nmemory: what the monitor of one detached container holds"]
    lines.append(f"{'':14}{'processes':>10}{'private':>12}{'dirty':>12}{'Pss':>12}")
    for tool, values in results.items():
        cells = "".join(f"{values[key]:8.0f} KiB" for key in ("private", "dirty", "pss"))
        line = f"{tool:14}{values['processes']:10.0f}{cells}"
        if tool == "coracle":
            line += (
                f"  budget {MONITOR_BUDGET} KiB private: {'met' if values['private'] <= MONITOR_BUDGET else 'MISSED'}"
            )
        lines.append(line)
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", nargs="*", choices=[[], *COMPARISONS, "memory"], help="default: all")
    parser.add_argument("-n", "--rounds", type=int, default=20, help="measured rounds of each command (20)")
    parser.add_argument("--many", type=int, default=20, help="containers of the comparison `many` (20)")
    parser.add_argument("--only", action="append", default=[], help="this tool only; may be repeated")
    parser.add_argument("--podman-runtime", default="crun", help="runtime below podman (crun)")
    parser.add_argument("--json", help="write the measurements to this file")
    options = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("run it as root: the peers need it")
    if reason := missing("busybox", "nsenter", "runc"):
        parser.error(reason)
    chosen = options.comparison or [*COMPARISONS, "memory"]
    report: dict[str, Any] = {}
    with Enclosure() as place, ExitStack() as stack:
        contest = Contest(place, stack, options.podman_runtime, set(options.only))
        for name in chosen:
            if name == "memory":
                report[name] = memory(contest)
                print(memory_table(report[name]), flush=True)
                continue
            title, function = COMPARISONS[name]
            report[name] = function(contest, options)
            if report[name]:
                print(table(name, title, report[name]), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
