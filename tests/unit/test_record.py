"""Small JSON files: the same language as json's, whole files or none, locks that the kernel frees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coracle import record
from coracle.errors import ContentError
from coracle.record import Lock

SOURCE = str(Path(record.__file__).parents[1])
TEXT = st.text(st.characters(codec="utf-16", exclude_categories=[]))  # surrogates as well
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


# -- the language


@given(VALUES, st.sampled_from([0, 1, 2]))
def test_json_reads_what_is_written(value: object, indent: int) -> None:
    text = record.dumps(value, indent)
    assert json.loads(text) == value
    assert record.loads(text) == value


@given(VALUES)
def test_documents_are_those_of_json(value: object) -> None:
    assert record.dumps(value) == json.dumps(value, separators=(",", ":"))
    assert record.dumps(value, 1) == json.dumps(value, indent=1)
    assert record.loads(json.dumps(value, indent=3, ensure_ascii=False)) == value


@given(VALUES)
def test_bytes_too(value: object) -> None:
    text = json.dumps(value)
    assert record.loads(text.encode()) == record.loads(b"\xef\xbb\xbf" + text.encode()) == value


@given(st.text(max_size=30) | st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \\u"\n\t', max_size=30))
def test_refuses_exactly_what_json_refuses(text: str) -> None:
    try:
        expected = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        with pytest.raises(ContentError):
            record.loads(text)
    else:
        found = record.loads(text)
        assert found == expected and type(found) is type(expected)


def _refuse(name: str) -> None:
    raise ValueError(name)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "state.json is not valid JSON: unexpected end or character at 0"),
        ('{"a": }', "state.json is not valid JSON: unexpected end or character at 6"),
        ('{"a": 1} x', "state.json is not valid JSON: unexpected text after the document at character 8"),
        ("NaN", "state.json is not valid JSON: NaN is not JSON"),
        ("[" * 100_000, "state.json is not valid JSON: "),
        (b"\xff\xfe", "state.json is not valid JSON: 'utf-8' codec"),
        ("1" * 5000, "state.json is not valid JSON: Exceeds the limit"),
    ],
)
def test_errors_name_the_document_and_the_place(text: str | bytes, complaint: str) -> None:
    with pytest.raises(ContentError) as caught:
        record.loads(text, "state.json")
    assert str(caught.value).startswith(complaint) and "\n" not in str(caught.value)


def test_the_last_of_equal_keys_wins_as_everywhere() -> None:
    assert record.loads('{"a": 1, "a": 2}') == {"a": 2}


def test_what_is_no_json_is_not_written() -> None:
    for value in (float("inf"), float("-inf"), float("nan"), [float("nan")]):
        with pytest.raises(ValueError, match="is not JSON"):
            record.dumps(value)
    for other in ({1, 2}, b"x", object()):
        with pytest.raises(TypeError, match="not JSON"):
            record.dumps(other)
    assert record.dumps({1: (True, None)}) == '{"1":[true,null]}'


# -- files


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    record.save(str(path), {"pid": 1, "äöü": ["\ud800"]})
    assert record.load(str(path)) == {"pid": 1, "äöü": ["\ud800"]}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes().endswith(b"}\n") and path.read_bytes().isascii()
    record.save(str(path), {"pid": 2}, durable=True)
    assert record.load(str(path)) == {"pid": 2}
    assert os.listdir(tmp_path) == ["state.json"]


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        record.load(str(tmp_path / "none"))
    (tmp_path / "half").write_text('{"pid": ')
    with pytest.raises(ContentError, match=f"^{tmp_path}/half is not valid JSON"):
        record.load(str(tmp_path / "half"))


def test_read_has_no_limit(tmp_path: Path) -> None:
    data = os.urandom(300_000)
    record.write(str(tmp_path / "big"), data)
    assert record.read(str(tmp_path / "big")) == data


def _python(code: str, *arguments: object, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {SOURCE!r})\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **more)  # type: ignore[call-overload,no-any-return]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """A file too large stands for a full disk: write(2) fails halfway (setrlimit(2), RLIMIT_FSIZE)."""
    path = tmp_path / "state.json"
    record.save(str(path), {"old": True})
    code = """
import resource
from coracle import record
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    record.save(sys.argv[1], {"new": "x" * 20000})
except OSError as error:
    print(error.errno)
"""
    out, _ = _python(code, path).communicate(timeout=20)
    assert out == "27\n"  # EFBIG
    assert record.load(str(path)) == {"old": True}
    assert os.listdir(tmp_path) == ["state.json"]


def test_no_directory_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        record.write(str(tmp_path / "none/file"), b"x")
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        record.write(str(tmp_path / "directory"), b"x")
    assert os.listdir(tmp_path) == ["directory"]


def test_readers_see_whole_documents_while_writers_are_killed(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    record.save(str(path), ["-"] * 2000)
    code = """
from coracle import record
print("ready", flush=True)
while True:
    for letter in "ab":
        record.save(sys.argv[1], [letter] * 20000)
"""
    seen = set()
    for _ in range(3):
        writers = [_python(code, path) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            document = record.load(str(path))
            assert len(document) in (2000, 20000) and len(set(document)) == 1
            seen.add(document[0])
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=20)
        assert len(set(record.load(str(path)))) == 1
    assert seen >= {"a", "b"}


# -- locks

HOLDER = """
from coracle.record import Lock
lock = Lock(sys.argv[1], shared=sys.argv[2] == "shared")
print(lock.acquire(wait=False), flush=True)
sys.stdin.read()
"""


def _hold(path: Path, kind: str = "exclusive") -> subprocess.Popen[str]:
    return _python(HOLDER, path, kind)


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("exclusive", "exclusive", False),
        ("exclusive", "shared", False),
        ("shared", "exclusive", False),
        ("shared", "shared", True),
    ],
)
def test_locks_between_processes(tmp_path: Path, first: str, second: str, both: bool) -> None:
    holder = _hold(tmp_path / "lock", first)
    try:
        assert _answer(holder) == "True"
        lock = Lock(str(tmp_path / "lock"), shared=second == "shared")
        assert lock.acquire(wait=False) is both
        assert (lock.fd >= 0) is both
        lock.release()
        lock.release()
    finally:
        holder.communicate(timeout=20)
    assert lock.acquire(wait=False)
    lock.release()


def test_the_kernel_frees_the_lock_of_the_dead(tmp_path: Path) -> None:
    holder = _hold(tmp_path / "lock")
    assert _answer(holder) == "True"
    lock = Lock(str(tmp_path / "lock"))
    assert not lock.acquire(wait=False)
    holder.send_signal(signal.SIGKILL)
    assert lock.acquire()  # waits for the kernel
    lock.release()
    holder.communicate(timeout=20)


def test_waiting_for_a_lock(tmp_path: Path) -> None:
    with Lock(str(tmp_path / "lock")) as held:
        assert held.fd >= 0
        waiter = _python(HOLDER.replace("wait=False", "wait=True"), tmp_path / "lock", "exclusive")
        time.sleep(0.2)
        assert waiter.poll() is None
    assert _answer(waiter) == "True"
    waiter.communicate(timeout=20)
    assert held.fd == -1


def test_a_lock_is_not_inherited_by_programs(tmp_path: Path) -> None:
    with Lock(str(tmp_path / "lock")) as held:
        assert not os.get_inheritable(held.fd)
        found = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False)
    assert str(tmp_path / "lock") not in found.stdout
