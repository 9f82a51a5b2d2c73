"""What README.md and docs/ say besides their transcripts: links, paths, commands, tables, and the words they use."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from enclosure import Enclosure
from peers import busybox_archive, coracle_command, coracle_inside, missing

from coracle.cli.main import COMMANDS
from coracle.cli.oci_options import COMMANDS as OCI_COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
DECISIONS = sorted(ROOT.glob("docs/decisions/[0-9]*.md"))
DISK = (ROOT / "docs/disk.md").read_text()
SOURCE = "\n".join(path.read_text() for path in sorted(ROOT.glob("src/coracle/**/*.py")))
PATHS = (ROOT / "src/coracle/paths.py").read_text()

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_DOCUMENTED = re.compile(r"^\| `(<(?:root|run|oci)>/[^`]+)` \|", re.MULTILINE)
_SESSIONS = ("session.py", "session keyring", "new session", "login session", "terminal session")


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(ROOT)) for path in paths])


def headings(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    lines = _FENCE.sub("", path.read_text()).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each(DOCUMENTS)
def test_links_lead_somewhere(path: Path) -> None:
    wrong = []
    for target in _LINK.findall(_FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        destination = (path.parent / file).resolve() if file else path
        if not destination.exists() or (anchor and anchor not in headings(destination)):
            wrong.append(target)
    assert not wrong


def test_documents_named_in_the_source_exist() -> None:
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/**/*"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/*")]
    named = set()
    for file in files:
        if file.is_file() and file.suffix != ".pyc":
            named |= set(re.findall(r"\bdocs/[\w/.-]+\.md\b", file.read_text()))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
    assert named


@each(DOCUMENTS)
def test_source_files_named_in_documents_exist(path: Path) -> None:
    """Names of files in the source, as `engine/options/` or `src/coracle/step.py`."""
    spans = re.findall(r"`([\w./-]+/[\w./-]*)`", _FENCE.sub("", path.read_text()))
    places = [ROOT, ROOT / "src/coracle", ROOT / "src"]
    tops = {entry.name for place in places for entry in place.iterdir() if entry.is_dir()}
    named = [span for span in spans if span.split("/")[0] in tops and not _is_on_disk(span)]
    assert [span for span in named if not any((place / span).exists() for place in places)] == []


def _is_on_disk(span: str) -> bool:
    """`image/…` and the like may also be a directory of the store, which docs/disk.md names."""
    return span in DISK and not span.startswith(("src/", "tests/", "scripts/", "docs/"))


@each(DOCUMENTS)
def test_words(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"(?<![\w>])/work\b", text)
    assert not re.search(r"\bagents?\b", text, re.IGNORECASE)
    for match in re.finditer("session", text):  # only in the sense of the kernel or of a login
        around = text[max(0, match.start() - 10) : match.end() + 10]
        assert any(phrase in around for phrase in _SESSIONS), around
    assert all(ord(character) < 0x2600 for character in text), "no emoji"


def test_readme_names_every_command() -> None:
    table = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("##")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    engine = {name for row in rows if "`coracle-oci`" not in row for name in re.findall(r"`(?:coracle )?(\w+)`", row)}
    assert engine == set(COMMANDS)
    oci = table.partition("`coracle-oci`")[2].partition(":")[2].partition("|")[0]
    assert set(oci.replace(",", " ").split()) == set(OCI_COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_page(name: str, tmp_path: Path) -> None:
    program = coracle_command("coracle", tmp_path)
    assert program is not None
    for words in ([name, "--help"], ["help", name]):
        process = subprocess.run([program, *words], capture_output=True, text=True, check=False)
        assert (process.returncode, process.stderr) == (0, "")
        assert process.stdout.startswith(f"Usage:  coracle {name}")
        assert name == "version" or re.search(r"^  .*--", process.stdout, re.MULTILINE), "no option is shown"


def test_readme_has_the_set_up_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    test_command = "scripts/test"
    assert f"\nsudo {test_command}\n" in readme
    assert os.access(ROOT / test_command, os.X_OK)
    assert test_command in (ROOT / ".ci/run").read_text()
    assert "pip install . && sudo .venv/bin/coracle run --rm host" in readme


@each(DECISIONS)
def test_decisions_have_their_parts(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith(f"# {int(path.name[:4])}. ")
    parts = [line for line in lines if line.startswith("## ") and line != "## Alternatives"]
    wanted = ["## Context", "## Decision", "## Consequences", "## Measurement"]
    assert parts in (wanted, wanted[:3] if "dependencies" in path.name else wanted)
    assert f"({path.name})" in (path.parent / "README.md").read_text()


def test_failing_conformance_tests_are_those_of_expected_json() -> None:
    expected = json.loads((ROOT / "scripts/conformance/expected.json").read_text())
    text = (ROOT / "docs/oci-runtime.md").read_text().partition("## The validation suite")[2]
    sections = {"kernel": "### The machine lacks it", "defect": "### The test is wrong", "race": "### A race"}
    for kind, heading in sections.items():
        rows = text.partition(heading)[2].partition("###")[0].splitlines()
        cells = [row.split("|")[1] for row in rows if row.startswith("| ") and "---" not in row][1:]
        named = sorted(name.strip() for cell in cells for name in cell.split(","))
        assert named == sorted(name for name, entry in expected["failures"].items() if entry["kind"] == kind)


def literals(path: str) -> list[str]:
    """The fixed parts of a documented path: ``<root>/containers/<id>/log.<number>`` → containers, log."""
    parts = [re.sub(r"<\w+>", "", part).strip(".-") for part in path.split("/")[1:]]
    return [part for part in parts if part]


def test_documented_paths_are_in_the_source() -> None:
    documented = _DOCUMENTED.findall(DISK)
    assert len(documented) > 30
    for path in documented:
        first, *rest = literals(path)
        if not path.startswith("<oci>"):
            assert first in PATHS, f"{path}: paths.py does not know {first}"
        assert [part for part in (first, *rest) if part not in SOURCE] == [], path


def test_paths_of_the_source_are_documented() -> None:
    """Every f"{self.root}/…" and f"{self.run}/…" in paths.py."""
    found = re.findall(r'f"\{self\.(root|run)\}/([\w.]+)', PATHS)
    assert found
    assert [f"<{base}>/{name}" for base, name in found if f"`<{base}>/{name}" not in DISK] == []


@pytest.mark.root
def test_nothing_is_on_disk_that_is_not_documented() -> None:
    """Containers of several kinds, running and ended: each file in the store and the run directory has its row."""
    if reason := missing("busybox", "nsenter"):
        pytest.skip(reason)
    with Enclosure() as place:
        program = coracle_inside(place, "coracle")
        assert program is not None
        busybox_archive(place.seen)
        base = place.directory / "store"
        variables = {"CORACLE_ROOT": f"{base}/root", "CORACLE_RUN": f"{base}/run"}
        for words in (
            ["import", place.directory / "busybox.tar", "busybox"],
            ["run", "-d", "--name", "running", "busybox", "sleep", "100"],
            ["run", "--name", "ended", "busybox", "echo", "hello"],
            ["run", "--name", "rotated", "--log-opt", "max-size=1k", "busybox", "seq", "100"],
            ["run", "--name", "passwd", "--passwd", "-u", "4321", "busybox", "id"],
            ["run", "--name", "clone", "host", "true"],
        ):
            process = place.run([program, *words], env=variables)
            assert process.returncode == 0, process.stderr
        listing = place.run(["find", base / "root", base / "run"]).stdout.splitlines()
    patterns = [pattern for path in _DOCUMENTED.findall(DISK) for pattern in _patterns(path)]
    found = [line.removeprefix(f"{base}/").split("/") for line in listing]
    names = ["/".join([f"<{kind}>", *rest]) for kind, *rest in found]
    assert [name for name in names if not any(pattern.fullmatch(name) for pattern in patterns)] == []
    assert any(name.endswith("/log.1") for name in names), "the rotated log is missing: the test has lost its subject"


def _patterns(documented: str) -> list[re.Pattern[str]]:
    """A documented path, and the directories that lead to it; below some directories everything is an image's."""
    base, *parts = documented.rstrip("/").split("/")
    expressions = [re.escape(base), *(re.sub(r"<\\?\w+>", "[^/]+", re.escape(part)) for part in parts)]
    if parts[-1] in ("diff", "upper", "work", "scaffold"):
        expressions[-1] += "(/.*)?"
    return [re.compile("/".join(expressions[:count])) for count in range(1, len(expressions) + 1)]
