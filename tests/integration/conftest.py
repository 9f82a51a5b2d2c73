"""Fixtures of the tests that run containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from containers import BUSYBOX, Store, Tenant, make_root, python, storage


@pytest.fixture(scope="session")
def playground() -> Iterator[Path]:
    """A directory for stores and root file systems that every user may enter."""
    directory = Path(tempfile.mkdtemp(prefix="coracle-it-", dir=storage()))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def busybox(playground: Path) -> Path:
    """A root file system that nobody changes; tests that do make their own with ``own_root``."""
    if not BUSYBOX:
        pytest.skip("busybox is not installed (Debian: busybox-static)")
    return make_root(playground / "busybox")


@pytest.fixture
def own_root(playground: Path) -> Iterator[Path]:
    """A root file system of busybox for one test alone."""
    if not BUSYBOX:
        pytest.skip("busybox is not installed (Debian: busybox-static)")
    directory = Path(tempfile.mkdtemp(dir=playground))
    directory.chmod(0o755)
    yield make_root(directory / "root")
    shutil.rmtree(directory, ignore_errors=True)


def _store(playground: Path, **more: object) -> Store:
    directory = Path(tempfile.mkdtemp(prefix="store-", dir=playground))
    directory.chmod(0o755)
    return Store(directory, **more)  # type: ignore[arg-type]


@pytest.fixture
def store(playground: Path) -> Iterator[Store]:
    """A store of the user who runs the tests; whatever is left of it is removed."""
    made = _store(playground)
    yield made
    made.destroy()


@pytest.fixture
def clean_store(store: Store) -> Iterator[Store]:
    """A store in which nothing may be left at the end of the test."""
    yield store
    assert store.settled() == []


@pytest.fixture(scope="module")
def shared_store(playground: Path) -> Iterator[Store]:
    """One store for all tests of a module, each of which removes its containers."""
    made = _store(playground)
    yield made
    left = made.settled()
    made.destroy()
    assert left == []


def _tenant(ranges: bool) -> Iterator[Tenant]:
    """A user of the machine, made for this session."""
    if os.geteuid() != 0:
        pytest.skip("making a user needs root")
    if not all(shutil.which(tool) for tool in ("useradd", "userdel", "setpriv")):
        pytest.skip("useradd, userdel or setpriv is missing (Debian: passwd, util-linux)")
    name = f"cor{os.getpid() % 100000}{'r' if ranges else 'n'}"
    subprocess.run(["useradd", "-M", "-s", "/bin/sh", name], check=True)
    try:
        option = "--add-subuids", "--add-subgids"
        if ranges:
            first = 700_000_000 + os.getpid() % 1000 * 65536
            subprocess.run(["usermod", *(f"{o}={first}-{first + 65535}" for o in option), name], check=True)
        else:
            _without_ranges(name)
        yield Tenant(name, ranges)
    finally:
        subprocess.run(["userdel", name], check=False, stderr=subprocess.DEVNULL)


def _without_ranges(name: str) -> None:
    """useradd(8) gives ranges to every user where login.defs(5) says so."""
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        if path.exists() and f"{name}:" in path.read_text():
            path.write_text(
                "".join(line for line in path.read_text().splitlines(True) if not line.startswith(f"{name}:"))
            )


@pytest.fixture(scope="session")
def tenant_with_ranges() -> Iterator[Tenant]:
    yield from _tenant(True)


@pytest.fixture(scope="session")
def tenant_without_ranges() -> Iterator[Tenant]:
    yield from _tenant(False)


@pytest.fixture(params=["with subordinate ids", "with one id"])
def tenant(request: pytest.FixtureRequest) -> Tenant:
    """Both kinds of ordinary users."""
    kind = "tenant_with_ranges" if request.param.startswith("with sub") else "tenant_without_ranges"
    found: Tenant = request.getfixturevalue(kind)
    return found


@pytest.fixture
def user_store(playground: Path, tenant: Tenant) -> Iterator[Store]:
    """A store that belongs to ``tenant``."""
    interpreter = python(reachable_by_all=True)
    if not interpreter:
        pytest.skip("no python that other users may run")
    made = _store(playground, prefix=tenant.prefix(), interpreter=interpreter)
    os.chown(made.directory, tenant.uid, tenant.gid)
    yield made
    made.destroy()


@pytest.fixture
def user_root(playground: Path, tenant: Tenant) -> Path:
    """A root file system of busybox that belongs to ``tenant``."""
    if not BUSYBOX:
        pytest.skip("busybox is not installed (Debian: busybox-static)")
    path = playground / f"root-of-{tenant.name}"
    if not path.exists():
        make_root(path)
        subprocess.run(["chown", "-R", "-h", f"{tenant.uid}:{tenant.gid}", path], check=True)
    return path
