"""A directory tree that behaves like cgroup file systems, for layouts that the machine at hand does not have.

Plain files stand for control files; making and removing directories and writing control files
follow the kernel's rules as far as the code under test depends on them (cgroups(7), cgroup-v2.rst).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from coracle.linux.cgroup import files
from coracle.linux.cgroup.hierarchy import Hierarchies, detect

V1_FILES = {
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "freezer": {"freezer.state": "THAWED\n"},
    "memory": {"memory.limit_in_bytes": "9223372036854771712\n"},
    "pids": {"pids.max": "max\n", "pids.current": "0\n"},
}
V2_FILES = {
    "memory": {"memory.max": "max\n", "memory.swap.max": "max\n", "memory.current": "0\n"},
    "pids": {"pids.max": "max\n", "pids.current": "0\n"},
    "cpu": {"cpu.max": "max 100000\n", "cpu.weight": "100\n"},
    "io": {"io.max": "", "io.weight": "default 100\n"},
}


class CgroupTree:
    """``controllers`` of version 1 (name or "a,b" for co-mounted ones), and those of version 2 or None for none."""

    def __init__(self, base: Path, monkeypatch, legacy: tuple[str, ...] = (), unified: str | None = None) -> None:
        self.base = base
        self.unified = base / ("unified" if legacy else "cgroup") if unified is not None else None
        self.tops = {base / name: name.split(",") for name in legacy}
        self.written: list[tuple[str, str]] = []
        self.refuse: dict[str, int] = {}
        for top, names in self.tops.items():
            top.mkdir()
            self._fill_legacy(top, names)
            for name in names:
                if name == "cpuset":
                    (top / "cpuset.cpus").write_text("0-3\n")
                    (top / "cpuset.mems").write_text("0\n")
        if self.unified:
            self.unified.mkdir()
            self._fill_unified(self.unified, unified or "")
        self._mkdir, self._rmdir, self._write = os.mkdir, os.rmdir, files.write
        monkeypatch.setattr(os, "mkdir", self.mkdir)
        monkeypatch.setattr(os, "rmdir", self.rmdir)
        monkeypatch.setattr(files, "write", self.write)

    def hierarchies(self, own: str = "/") -> Hierarchies:
        """Found the ordinary way, from the texts that this tree would show in /proc."""
        mounts, membership = [], []
        for top, names in self.tops.items():
            mounts.append(f"1 0 0:1 / {top} rw - cgroup cgroup rw,{','.join(names)}")
            membership.append(f"1:{','.join(names)}:{own}")
        if self.unified:
            mounts.append(f"1 0 0:1 / {self.unified} rw - cgroup2 cgroup2 rw")
            membership.append(f"0::{own}")
        return detect("\n".join(mounts), "\n".join(membership))

    def _fill_legacy(self, directory: Path, names: list[str]) -> None:
        for name in names:
            for file, text in V1_FILES.get(name, {}).items():
                (directory / file).write_text(text)
        (directory / "cgroup.procs").write_text("")
        (directory / "tasks").write_text("")

    def _fill_unified(self, directory: Path, controllers: str) -> None:
        (directory / "cgroup.controllers").write_text(controllers + "\n")
        (directory / "cgroup.subtree_control").write_text("")
        (directory / "cgroup.procs").write_text("")
        (directory / "cgroup.freeze").write_text("0\n")
        (directory / "cgroup.events").write_text("populated 0\nfrozen 0\n")
        for name in controllers.split():
            for file, text in V2_FILES.get(name, {}).items():
                (directory / file).write_text(text)

    def mkdir(self, path, mode=0o777, *, dir_fd=None) -> None:
        self._mkdir(path, mode, dir_fd=dir_fd)
        made = Path(path)
        for top, names in self.tops.items():
            if top in made.parents:
                self._fill_legacy(made, names)
        if self.unified and self.unified in made.parents:
            self._fill_unified(made, (made.parent / "cgroup.subtree_control").read_text().strip())

    def rmdir(self, path, *, dir_fd=None) -> None:
        directory = Path(f"/proc/self/fd/{dir_fd}").resolve() / path if dir_fd is not None else Path(path)
        if not directory.exists():
            raise FileNotFoundError(errno.ENOENT, "gone", str(path))
        procs = directory / "cgroup.procs"
        if any(entry.is_dir() for entry in directory.iterdir()) or (procs.exists() and procs.read_text()):
            raise OSError(errno.EBUSY, "busy", str(path))
        for entry in directory.iterdir():
            entry.unlink()
        self._rmdir(directory)

    def write(self, path: str, value: str) -> None:
        self.written.append((path.removeprefix(f"{self.base}/"), value))
        name = os.path.basename(path)
        if name in self.refuse:
            raise OSError(self.refuse[name], os.strerror(self.refuse[name]), path)
        if name == "cgroup.subtree_control":
            self._enable(Path(path), value)
        elif name == "cgroup.freeze":
            (Path(path).parent / "cgroup.events").write_text(f"populated 1\nfrozen {value}\n")
        elif os.path.exists(path):
            Path(path).write_text(value + "\n")
        else:
            self._write(path, value)

    def _enable(self, control: Path, value: str) -> None:
        directory = control.parent
        available = (directory / "cgroup.controllers").read_text().split()
        wanted = [word[1:] for word in value.split()]
        if not set(wanted).issubset(available):
            raise OSError(errno.ENOENT, "no such controller", str(control))
        if directory != self.unified and (directory / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "internal processes", str(control))
        now = " ".join(sorted({*control.read_text().split(), *wanted}))
        control.write_text(now)
        for child in (entry for entry in directory.iterdir() if entry.is_dir()):
            (child / "cgroup.controllers").write_text(now + "\n")
            for name in now.split():
                for file, text in V2_FILES.get(name, {}).items():
                    if not (child / file).exists():
                        (child / file).write_text(text)
