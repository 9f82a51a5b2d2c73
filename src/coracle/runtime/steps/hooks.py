"""Steps that run the hooks of a config at their moments (runtime-spec config.md, "POSIX-platform Hooks")."""

from __future__ import annotations

from coracle.linux.shell import command
from coracle.record import dumps
from coracle.runtime import hook
from coracle.step import READY, Step, World

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class RunHook(Step):
    """One hook; ``kind`` is its list in the config.  createContainer hooks run in the child."""

    __slots__ = ("hook", "kind", "place")

    def __init__(self, kind: str, entry: dict[str, Any], cause: str, place: str = READY) -> None:
        super().__init__(cause)
        self.kind = kind
        self.hook = entry
        self.place = place

    def do(self, world: World) -> None:
        hook.run(self.hook, dumps(world.values["state"]()).encode(), self.kind)

    def prose(self) -> str:
        return f"run the {self.kind} hook {self.hook['path']}"

    def shell(self) -> list[str]:
        arguments = self.hook.get("args") or [self.hook["path"]]
        line = command("env", "-i", *self.hook.get("env", []), self.hook["path"], *arguments[1:])
        state = '{"ociVersion":"1.3.0","status":"created","pid":\'"$CHILD"\'}'
        return ["# the state on standard input is shortened", f"echo '{state}' | {line} >&2"]
