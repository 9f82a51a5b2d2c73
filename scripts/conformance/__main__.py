"""Run the OCI runtime validation suite against one or several runtimes and compare them.

    python3 scripts/conformance build                        fetch and build the suite (needs Go ≥ 1.21)
    python3 scripts/conformance run coracle-oci crun runc    as root; all 58 tests for each, 2–3 minutes a runtime
    python3 scripts/conformance run coracle-oci -t hooks -t start -v     single tests, with their output
    python3 scripts/conformance compare one.json two.json    table from earlier results

``run`` exits 0 after a complete run; with ``--check`` only if all tests that the *first* runtime fails are listed in
``expected.json``, and those listed there as a test's own defect fail.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import runtimes
import suite
from enclosure import Enclosure

Result = dict[str, Any]
EXPECTED = Path(__file__).with_name("expected.json")


def judge(status: int | None, stdout: str, stderr: str, seconds: float) -> Result:
    """One test's result: it passes with exit status 0 and no failed assertion at the top level.

    runtimetest's own TAP appears inside YAML blocks of some tests: it counts as assertions, indented or not, but the
    verdict on it is the outer line's.  Hook tests assert nothing when all is well ("1..0") and otherwise print a
    diagnostic block with an error but no "not ok" line: that is a failure too.
    """
    outer_bad = re.findall(r"^not ok.*", stdout, re.MULTILINE)
    ok = len(re.findall(r"^\s*ok\b", stdout, re.MULTILINE))
    bad = len(re.findall(r"^\s*not ok\b", stdout, re.MULTILINE))
    outer_bad += [] if ok else re.findall(r'^ +"error": .*', stdout, re.MULTILINE)
    verdict = "pass" if status == 0 and not outer_bad else "timeout" if status is None else "fail"
    reasons = [] if verdict == "pass" else outer_bad + stderr.strip().splitlines()[-4:]
    skipped = len(re.findall(r"^\s*ok\b.*# SKIP", stdout, re.MULTILINE))
    counts = {"ok": ok, "not_ok": bad, "skipped": skipped}
    return {"verdict": verdict, "status": status, **counts, "seconds": round(seconds, 2), "reasons": reasons}


def run_test(name: str, program: Path, seconds: float) -> tuple[Result, str]:
    """Run one test in an enclosure of its own: its result and everything it printed.

    Its own, because a failing test leaves containers, cgroups, state directories and (linux_ns_itype, which has no
    mount namespace) even mounts of proc and sysfs below the temporary directory.
    """
    directory = suite.cache_directory()
    status: int | None
    with Enclosure() as place:
        start = time.monotonic()
        command = ["timeout", "--signal=KILL", str(seconds), str(directory / "tests" / name)]
        process = place.run(command, cwd=directory, env={"RUNTIME": str(program)})
        seconds = time.monotonic() - start
    status = None if process.returncode in (124, 137) else process.returncode
    return judge(status, process.stdout, process.stderr, seconds), process.stdout + process.stderr


def run_runtime(name: str, program: Path, tests: list[str], options: argparse.Namespace) -> Result:
    results: dict[str, Result] = {}
    for test in tests:
        result, output = run_test(test, program, options.timeout)
        results[test] = result
        if options.verbose:
            print(output, flush=True)
        print(f"{name:12} {result['verdict']:8}{result['seconds']:6.1f} s  {test}", file=sys.stderr, flush=True)
    return {"suite": suite.VERSION, "runtime": name, "version": runtimes.version(program), "tests": results}


def table(reports: list[Result]) -> str:
    """One line per test, one column per runtime, then the totals."""
    tests = sorted({test for report in reports for test in report["tests"]})
    width = max(map(len, tests), default=0) + 2
    lines = ["".ljust(width) + "".join(report["runtime"].rjust(14) for report in reports)]
    for test in tests:
        verdicts = [report["tests"].get(test, {}).get("verdict", "-") for report in reports]
        lines.append(test.ljust(width) + "".join(verdict.rjust(14) for verdict in verdicts))
    for label, count in (("pass", _passes), ("fail", _failures), ("TAP ok", _ok), ("TAP not ok", _not_ok)):
        lines.append(label.ljust(width) + "".join(str(count(report)).rjust(14) for report in reports))
    return "\n".join(lines)


def _passes(report: Result) -> int:
    return sum(result["verdict"] == "pass" for result in report["tests"].values())


def _failures(report: Result) -> int:
    return len(report["tests"]) - _passes(report)


def _ok(report: Result) -> int:
    return sum(result["ok"] for result in report["tests"].values())


def _not_ok(report: Result) -> int:
    return sum(result["not_ok"] for result in report["tests"].values())


def surprises(report: Result) -> list[str]:
    """How the failures differ from expected.json, one line each; nothing means as documented."""
    expected = runtimes.load_expected(EXPECTED)
    lines = []
    for test, result in report["tests"].items():
        entry = expected.get(test)
        if result["verdict"] == "pass" and entry and entry["kind"] == "defect":
            lines.append(f"{test} passes, but expected.json says it fails: {entry['reason']}")
        elif result["verdict"] != "pass" and not entry:
            lines.append(f"{test}: {result['verdict']}: {' | '.join(result['reasons']) or 'no reason given'}")
    return lines


def command_run(options: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise suite.SuiteError("the suite's containers use root's rights: run it as root")
    suite.build()
    known = suite.names()
    tests = options.test or known
    if unknown := sorted(set(tests) - set(known)):
        raise suite.SuiteError(f"no such test: {', '.join(unknown)}")
    reports = []
    with tempfile.TemporaryDirectory(prefix="coracle-runtimes-") as scratch:
        for name in options.runtime:
            program = runtimes.resolve(name, Path(scratch))
            if program is None:
                raise suite.SuiteError(f"{name} is not installed")
            reports.append(run_runtime(Path(name).name, program, tests, options))
    print(table(reports))
    if options.json:
        Path(options.json).write_text(json.dumps(reports, indent=1) + "\n")
    if not options.check:
        return 0
    lines = surprises(reports[0])
    print("\n".join(lines) or "as documented in expected.json")
    return 1 if lines else 0


def command_compare(options: argparse.Namespace) -> int:
    reports = [report for path in options.results for report in json.loads(Path(path).read_text())]
    print(table(reports))
    return 0


def command_build(_: argparse.Namespace) -> int:
    print(suite.build())
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="conformance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    commands.add_parser("build").set_defaults(function=command_build)
    run = commands.add_parser("run")
    run.add_argument("runtime", nargs="+", help="coracle-oci, crun, runc, or the path of a runtime")
    run.add_argument("-t", "--test", action="append", help="run this test only; may be repeated")
    run.add_argument("-v", "--verbose", action="store_true", help="print the output of each test")
    run.add_argument("--json", help="write the results to this file")
    run.add_argument("--check", action="store_true", help="fail when the first runtime differs from expected.json")
    run.add_argument("--timeout", type=float, default=180, help="seconds per test (180)")
    run.set_defaults(function=command_run)
    compare = commands.add_parser("compare")
    compare.add_argument("results", nargs="+", help="files written by run --json")
    compare.set_defaults(function=command_compare)
    options = parser.parse_args()
    try:
        return int(options.function(options))
    except suite.SuiteError as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
