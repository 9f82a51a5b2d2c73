"""The cache of compiled programs: hits, damage, strangers' files, several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from coracle import __file__ as package
from coracle import record
from coracle.linux import seccomp
from coracle.linux.seccomp import cache
from coracle.linux.seccomp.cache import cached

PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}],
    "flags": ["SECCOMP_FILTER_FLAG_LOG"],
}
OTHER = {"defaultAction": "SCMP_ACT_ALLOW"}
PROGRAM = seccomp.compile(PROFILE, "x86_64")


def never() -> dict:
    raise AssertionError("compiled, but it is in the cache")


@pytest.fixture
def directory(tmp_path):
    return str(tmp_path / "seccomp")


def store(directory: str) -> str:
    """Fill the cache by one entry and return its path."""
    cached(PROFILE, directory, "some-key", "x86_64")
    (name,) = os.listdir(directory)
    return f"{directory}/{name}"


def test_a_hit_is_what_was_compiled(directory):
    store(directory)
    hit = cached(never, directory, "some-key", "x86_64")
    assert (hit.filter, hit.flags, hit.notifies) == (PROGRAM.filter, PROGRAM.flags, False)


def test_notifies_survives(directory):
    profile = PROFILE | {"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}
    cached(profile, directory, "some-key", "x86_64")
    assert cached(never, directory, "some-key", "x86_64").notifies


def test_without_a_key_the_content_is_the_key(directory, monkeypatch):
    assert cached(PROFILE, directory) != cached(OTHER, directory)
    assert len(os.listdir(directory)) == 2
    monkeypatch.setattr(cache, "compile", never)
    assert cached(dict(PROFILE), directory) == seccomp.compile(PROFILE)
    assert cached(lambda: OTHER, directory) == seccomp.compile(OTHER)


def test_machines_and_versions_do_not_share(directory, monkeypatch):
    store(directory)
    assert cached(PROFILE, directory, "some-key", "aarch64").filter != PROGRAM.filter
    monkeypatch.setattr(cache, "__version__", "0.0.0")
    cached(PROFILE, directory, "some-key", "x86_64")
    assert len(os.listdir(directory)) == 3


def test_the_directory_and_its_files_are_private(directory):
    path = store(directory)
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("position", range(0, 24 + len(PROGRAM.filter) + 28, 7))
def test_one_flipped_bit_is_noticed(directory, position):
    path = store(directory)
    content = bytearray(record.read(path))
    content[position] ^= 1
    with open(path, "wb") as file:
        file.write(content)
    assert cached(PROFILE, directory, "some-key", "x86_64") == PROGRAM
    assert record.read(path) != bytes(content)


@pytest.mark.parametrize("size", [0, 1, 20, 31, 60])
def test_a_short_file_is_noticed_and_replaced(directory, size):
    path = store(directory)
    os.truncate(path, size)
    assert cached(PROFILE, directory, "some-key", "x86_64") == PROGRAM
    assert cached(never, directory, "some-key", "x86_64") == PROGRAM


def test_a_program_under_another_name_is_not_believed(directory):
    """Somebody who may only rename files must not swap a strict filter for a lax one."""
    cached(OTHER, directory, "lax", "x86_64")
    (lax,) = os.listdir(directory)
    os.rename(f"{directory}/{lax}", f"{directory}/{lax.replace('lax', 'strict')}")
    assert cached(PROFILE, directory, "strict", "x86_64") == PROGRAM


def test_a_file_that_others_can_write_is_not_believed(directory):
    path = store(directory)
    os.chmod(path, 0o666)
    assert cached(lambda: OTHER, directory, "some-key", "x86_64") == seccomp.compile(OTHER, "x86_64")
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.root
def test_somebody_elses_file_is_not_believed(directory):
    os.chown(store(directory), 12345, 12345)
    assert cached(lambda: OTHER, directory, "some-key", "x86_64") == seccomp.compile(OTHER, "x86_64")


def test_a_link_or_a_pipe_is_not_followed(directory):
    path = store(directory)
    os.rename(path, f"{directory}/moved")
    os.symlink(f"{directory}/moved", path)
    assert cached(lambda: OTHER, directory, "some-key", "x86_64") == seccomp.compile(OTHER, "x86_64")
    os.unlink(path)
    os.mkfifo(path)
    assert cached(lambda: OTHER, directory, "some-key", "x86_64") == seccomp.compile(OTHER, "x86_64")


def test_without_a_usable_directory_it_still_compiles(tmp_path):
    (tmp_path / "file").write_text("")
    assert cached(PROFILE, f"{tmp_path}/file/seccomp", "some-key", "x86_64") == PROGRAM
    assert cached(PROFILE, "/proc/seccomp", "some-key", "x86_64") == PROGRAM


def test_a_full_disk_leaves_nothing_behind(directory, monkeypatch):
    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert cached(PROFILE, directory, "some-key", "x86_64") == PROGRAM
    assert os.listdir(directory) == []


def test_many_processes_at_once(directory):
    """All get the same program, and no temporary file stays."""
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            good = all(cached(PROFILE, directory, f"key-{n}", "x86_64") == PROGRAM for n in range(20))
            os._exit(0 if good else 1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 8
    assert len(os.listdir(directory)) == 20


def test_a_hit_imports_nothing_heavy(directory):
    """On the way of every container start: no compiler, no tables, no hashlib, nothing that costs milliseconds."""
    source = os.path.dirname(os.path.dirname(package))
    script = f"""
import sys
sys.path.insert(0, {source!r})
from coracle.linux.seccomp.cache import cached
from coracle.runtime.seccomp_profile import default_key, default_profile, running_kernel
key = default_key({{"CAP_CHOWN"}}, running_kernel())
cached(lambda: default_profile({{"CAP_CHOWN"}}, "x86_64", (6, 1)), {directory!r}, key, "x86_64")
print(*sorted(sys.modules))
"""
    run = [sys.executable, "-I", "-S", "-c", script]
    first = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    second = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert "coracle.linux.seccomp.compiler" in first and "coracle.linux.seccomp.compiler" not in second
    ours = {name for name in second if name.startswith("coracle.linux.seccomp")}
    assert ours == {"coracle.linux.seccomp", "coracle.linux.seccomp.cache"}
    heavy = {"typing", "re", "json", "enum", "hashlib", "_hashlib", "ctypes", "functools", "collections", "importlib"}
    assert not heavy & set(second)
