"""The transcripts in README.md and docs/ are what the commands print: every ``console`` block is run here.

A block holds commands after "$ " (continued by "> ") and below each its output, standard error included.  All blocks
of a document run in order in one shell, in an empty directory with a store of its own and ``rootfs.tar``, a busybox.

- "..." stands for any text, on a line of its own for any lines.
- What differs from run to run is not compared: ids, times, sizes, the number of a step, the width of columns.
- A command has to succeed, unless its exit status is looked at by the next one (``$?``).
- ```` ```console user ```` runs as a normal user with ranges in /etc/subuid, with a store of his own.

Print what the commands of one document really say, as root:
    PYTHONPATH=scripts python3 tests/e2e/test_docs_transcripts.py README.md [user]
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from enclosure import Enclosure
from peers import Podman, busybox_archive, coracle_inside, missing

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(300)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"^```console( user)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BEGIN, _END = "\x1e", "\x1f"
_USER, _UID = "reader", 1000

# What differs from run to run or from machine to machine → what stands for it in a comparison.
_VOLATILE = (
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<short id>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"\b\d+ (second|minute)s?( ago)?\b", "<span>"),
    (r"\b\d+(\.\d+)? ?[kMG]i?B\b", "<size>"),
    (r"(?m)^ *\d+(-\d+)?\. ", "<number>. "),
    (r"  +", " "),
    (r"(?m) +$", ""),
)


class Command:
    """One command of a transcript, with the line of the document where it stands."""

    def __init__(self, text: str, line: int) -> None:
        self.text = text
        self.line = line
        self.expected: list[str] = []

    def looks_at_status(self) -> bool:
        return "$?" in self.text


def transcript(document: Path, user: bool = False) -> list[Command]:
    """The commands of ``document`` that root, or the normal user, types."""
    text = document.read_text()
    commands: list[Command] = []
    for block in _BLOCK.finditer(text):
        if bool(block[1]) == user:
            commands += _commands(block[2], text.count("\n", 0, block.start(2)) + 1)
    return commands


def _commands(block: str, first_line: int) -> Iterator[Command]:
    command = None
    for number, line in enumerate(block.splitlines(), first_line):
        if line.startswith("$ "):
            if command:
                yield command
            command = Command(line[2:], number)
        elif command is None:
            raise ValueError(f"line {number}: a console block begins with a command, not with {line!r}")
        elif line.startswith("> ") and not command.expected:
            command.text += "\n" + line[2:]
        else:
            command.expected.append(line)
    if command:
        yield command


def plain(text: str) -> str:
    """``text`` without what differs from run to run."""
    for pattern, replacement in _VOLATILE:
        text = re.sub(pattern, replacement, text)
    return text.strip("\n")


def matches(expected: list[str], actual: str) -> bool:
    """Whether ``actual`` is what the transcript shows; "..." is anything, and any lines where it stands alone."""
    parts = []
    for line in plain("\n".join(expected)).split("\n"):
        if line == "...":
            parts.append(r"(?:.*\n)*")
        else:
            parts.append(".*".join(map(re.escape, line.split("..."))) + r"\n")
    return re.fullmatch("".join(parts), plain(actual) + "\n") is not None


def script(commands: list[Command]) -> str:
    """A shell script that runs the commands one by one and marks where the output of each begins and ends."""
    lines = []
    for command in commands:
        lines += [
            "status=$?",
            f"printf '{_BEGIN}'",
            f"(exit $status); eval {shlex.quote(command.text)} </dev/null 2>&1",
            f"status=$?; printf '{_END}%s\\n' $status; (exit $status)",
        ]
    return "\n".join(lines) + "\n"


class Desk:
    """An enclosure with coracle and podman on $PATH, where a reader of the documents would try their commands."""

    def __init__(self, place: Enclosure) -> None:
        self.place = place
        bin_directory = place.seen / "bin"
        bin_directory.mkdir()
        for name in ("coracle", "coracle-oci"):
            program = coracle_inside(place, name)
            assert program is not None, f"{name} --version does not run"
            (bin_directory / name).symlink_to(program)
        self._podman(bin_directory / "podman")
        self._add_user()
        busybox_archive(place.seen)

    def _podman(self, wrapper: Path) -> None:
        """podman with its private store, and coracle-oci as a runtime that it finds by name."""
        if missing("podman", "conmon"):
            return
        podman = Podman(self.place, f"{self.place.directory}/bin/coracle-oci")
        options = [word for word in podman.argv() if not word.startswith("--runtime=")]
        variables = [f"{name}={value}" for name, value in podman.environment().items()]
        wrapper.write_text(f'#!/bin/sh\nexec env {shlex.join(variables)} /usr/bin/{shlex.join(options)} "$@"\n')
        wrapper.chmod(0o755)

    def _add_user(self) -> None:
        """A normal user with ranges, in an /etc of the enclosure's own: as a whole, for mounts of single files below
        /etc would keep him from an overlay over it."""
        copy = self.place.seen / "etc"
        self.place.run(["cp", "-a", "/etc", self.place.directory], check=True)
        lines = {
            "passwd": f"{_USER}:x:{_UID}:{_UID}::/:/bin/sh",
            "group": f"{_USER}:x:{_UID}:",
            "subuid": f"{_USER}:100000:65536",
            "subgid": f"{_USER}:100000:65536",
        }
        for name, line in lines.items():
            file = copy / name
            others = [other for other in file.read_text().splitlines() if other.split(":")[2] != str(_UID)]
            file.write_text("\n".join([*others, line, ""]))
        self.place.run(["mount", "--bind", self.place.directory / "etc", "/etc"], check=True)

    def run(self, commands: list[Command], user: bool) -> list[tuple[int, str]]:
        """Exit status and output of each command, run as one session of a shell."""
        name = f"desk-{os.urandom(4).hex()}"
        home = self.place.directory / name
        seen = self.place.seen / name
        seen.mkdir()
        (seen / "rootfs.tar").symlink_to(f"{self.place.directory}/busybox.tar")
        (seen / "scripts").symlink_to(ROOT / "scripts")
        (seen / ".transcript").write_text(f"cd {home}\n{script(commands)}")
        variables = {
            "HOME": str(home),
            "PATH": f"{self.place.directory}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
        }
        if user:
            os.chown(seen, _UID, _UID)
            variables |= {"XDG_RUNTIME_DIR": f"{home}/.run"}
            become = ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups", "--"]
        else:
            variables |= {"CORACLE_ROOT": f"{home}/.coracle", "CORACLE_RUN": f"{home}/.run"}
            become = []
        settings = [f"{key}={value}" for key, value in variables.items()]
        argv = [*become, "env", "-i", *settings, "bash", f"{home}/.transcript"]
        process = self.place.run(argv, stderr=subprocess.STDOUT, capture_output=False, stdout=subprocess.PIPE)
        pieces = process.stdout.split(_BEGIN)[1:]
        assert len(pieces) == len(commands), process.stdout
        results = []
        for piece in pieces:
            output, _, rest = piece.partition(_END)
            results.append((int(rest.split()[0]), output))
        return results

    def may_be_user(self) -> bool:
        """Whether a normal user can reach the program: a work tree below /root is closed to him."""
        return self.run([Command("coracle version", 0)], user=True)[0][0] == 0


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    if reason := missing("busybox", "nsenter", "setpriv"):
        pytest.skip(reason)
    with Enclosure() as place:
        yield Desk(place)


def _names(user: bool) -> list[str]:
    kinds = {path: {bool(block[1]) for block in _BLOCK.finditer(path.read_text())} for path in DOCUMENTS}
    return [str(path.relative_to(ROOT)) for path in DOCUMENTS if user in kinds[path]]


def _check(desk: Desk, name: str, user: bool) -> None:
    commands = transcript(ROOT / name, user)
    wanted = {word for word in ("podman", "skopeo", "runc", "jq") if any(word in each.text for each in commands)}
    if reason := missing(*sorted(wanted)):
        pytest.skip(reason)
    problems = []
    results = desk.run(commands, user)
    for index, (command, (status, output)) in enumerate(zip(commands, results, strict=True)):
        excused = any(each.looks_at_status() for each in commands[index : index + 2])
        where = f"{name}:{command.line}: $ {command.text}\n"
        if status and not excused:
            problems.append(f"{where}exit status {status}, and it printed:\n{output}")
        elif not matches(command.expected, output):
            problems.append(where + "printed:\n" + output + "but the document says:\n" + "\n".join(command.expected))
    assert not problems, "\n\n".join(problems)


@pytest.mark.root
@pytest.mark.parametrize("name", _names(user=False))
def test_transcripts(desk: Desk, name: str) -> None:
    _check(desk, name, user=False)


@pytest.mark.root
@pytest.mark.parametrize("name", _names(user=True))
def test_transcripts_of_a_user(desk: Desk, name: str) -> None:
    if reason := missing("newuidmap"):
        pytest.skip(reason)
    if not desk.may_be_user():
        pytest.skip("a normal user cannot read the directory in which coracle is")
    _check(desk, name, user=True)


def test_there_are_transcripts() -> None:
    assert "README.md" in _names(user=False)
    assert "README.md" in _names(user=True)


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        (["hello"], "hello\n", True),
        (["hello"], "hullo\n", False),
        ([], "", True),
        ([], "something\n", False),
        (["a", "...", "d"], "a\nb\nc\nd\n", True),
        (["a", "...", "d"], "a\nd\n", True),
        (["a", "...", "d"], "a\nb\nc\n", False),
        (["a ... d"], "a b c d\n", True),
        (["a ... d"], "a b\nc d\n", False),
        (["one*"], "oneee\n", False),
        (["0123456789ab Up 3 seconds"], "ba9876543210   Up 1 second\n", True),
        (["   7. mask /proc/acpi"], "  12. mask /proc/acpi\n", True),
    ],
)
def test_the_comparison_itself(expected: list[str], actual: str, same: bool) -> None:
    assert matches(expected, actual) is same


def _show(name: str, user: bool) -> None:
    commands = transcript(ROOT / name, user)
    with Enclosure() as place:
        for command, (status, output) in zip(commands, Desk(place).run(commands, user), strict=True):
            good = "" if matches(command.expected, output) else "   <<< not as documented"
            print(f"$ {command.text}    [{status}]{good}\n{output}", end="")


if __name__ == "__main__":
    _show(sys.argv[1], "user" in sys.argv[2:])
