"""What the monitor does when its container has ended: write it down, free the group, remove what is to go."""

from __future__ import annotations

import os

from coracle.engine.container import Container
from coracle.engine.removal import remove_group, remove_vanished, vanish
from coracle.linux.namespace import setns
from coracle.paths import Paths
from coracle.runtime.state import now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def finish(task: dict[str, Any], code: int, kept: list[int]) -> Callable[[], None]:
    """The end of the container in ``task``; ``kept`` are its lock and, for a user, his namespace.

    What it returns deletes the files of a container that has vanished already; nobody has to wait for that.
    """
    container = Container(Paths(task["root"], task["run"]), task["id"])
    process = container.process() or {}
    group = process.get("cgroup") or {}
    oom = _was_out_of_memory(group)
    remove_group(group)
    if not task["remove"]:
        container.save_exit(code, now(), oom)
        _forget_process(container)
        return lambda: None
    doomed = vanish(container.paths, container.identifier, [container.name])

    def delete() -> None:
        if task["userns"]:  # files of the container's users belong to the namespace's root alone
            setns(kept[1])
            os.setresuid(0, 0, 0)
        remove_vanished(doomed)

    return delete


def _was_out_of_memory(group: dict[str, Any]) -> bool:
    """Whether the kernel killed something in the group for memory (memory.oom_control, memory.events)."""
    directories = group.get("directories") or {}
    for key, file in (("memory", "memory.oom_control"), ("unified", "memory.events")):
        if key in directories:
            try:
                fd = os.open(f"{directories[key]}/{file}", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            text = os.read(fd, 4096)
            os.close(fd)
            for line in text.splitlines():
                if line.startswith(b"oom_kill ") and line.split()[1] != b"0":
                    return True
    return False


def _forget_process(container: Container) -> None:
    try:
        os.unlink(f"{container.run_directory}/state.json")
    except FileNotFoundError:
        pass
