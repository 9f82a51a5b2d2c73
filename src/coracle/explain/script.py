"""A plan as a script for /bin/sh that makes the same container and becomes its program.

Everybody can read, change and try it: it needs the tools of util-linux and, for the
loopback interface, iproute2.  Its parts follow the places of a plan:

- The lines of the host come first.
- A subshell stays behind as the engine: id maps, hooks, and the pivot happen beside the new process.
- The script itself joins its control groups, becomes unshare(1) (or nsenter(1), where namespaces
  exist), and a shell in the new namespaces reads on.
- At the end setpriv(1) gives up rights and executes a last shell, which waits like the launcher of a real
  container until the engine has pivoted, and then executes the program.

The pivot is the one act that needs two: whoever calls pivot_root(2) loses the host's tools.  But it
moves the root directory of all processes in the mount namespace that still have the old one
(pivot_root(2)), so the engine calls it through nsenter(1), which always lands on what is mounted topmost
at "/": before, the host's root; after, the same, now stacked upon the new one and ready to be unmounted.

What a shell cannot do: load a seccomp filter (before util-linux 2.41), join a new session keyring, allocate a terminal,
shift clocks by parts of a second, pass on variables whose names are no identifiers, live with fewer than about
16 open files or 6 processes.  The lines say so where it matters.
"""

from __future__ import annotations

import re

from coracle.explain.prose import short
from coracle.linux.shell import command, quote
from coracle.step import CHILD, ENTER, HOST, INIT, JOIN, PARENT, READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from coracle.step import Plan, Step

_LEAVE = 'rm -df "$STAGE/up" "$STAGE/down" "$STAGE"'
CLEANING = "# Afterwards, this removes from the host what was made:"
_INTRODUCTION = """\
#
# The same container by hand.  Run it {how}.
# Lines that remove what it leaves on the host are at the end.  Unlike coracle, it trusts the
# image: a link in it may lead a mount to a directory of the host.
set -eu
umask 022"""
_QUOTED = re.compile(r"""('[^']*'|"[^"]*")""")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")


def shell(plan: Plan, title: str = "", variables: Mapping[str, str] | None = None, how: str = "as root") -> str:
    """The script.  ``variables`` are names for long words such as the container's id, ``how`` to run it."""
    return "\n".join(_Script(plan, dict(variables or {})).lines(title or "a container, step by step", how)) + "\n"


class _Script:
    def __init__(self, plan: Plan, variables: dict[str, str]) -> None:
        self.plan = plan
        self.variables = variables
        self.words: dict[str, list[str]] = {}
        for step in plan.steps:
            for tool, words in step.shell_words().items():
                self.words.setdefault(tool, []).extend(words)

    def lines(self, title: str, how: str) -> list[str]:
        names = [f"export {name}={quote(value)}" for name, value in self.variables.items()]
        staged = bool(self.words.get("stage"))
        return [
            "#!/bin/sh",
            f"# {title}",
            *_INTRODUCTION.format(how=how).splitlines(),
            *names,
            *self._section("On the host", self._commented(self.plan.at(HOST))),
            *self._directory(),
            *(self._stage() if staged else []),
            *self._engine(),
            *self._section("Into the new process", self._commented(self.plan.at(JOIN))),
            *self._unshare(),
            *self._inside(),
            "INSIDE",
            *(["ENGINE"] if staged else []),
            *self._cleaning(),
        ]

    @staticmethod
    def _section(heading: str, lines: list[str]) -> list[str]:
        return ["", f"# --- {heading}", *lines] if lines else []

    def _commented(self, steps: Iterable[Step]) -> list[str]:
        lines: list[str] = []
        for step in steps:
            if body := step.shell():
                lines += [f"# {short(step.prose())} [{short(step.cause)}]", *self._named(body)]
        return lines

    def _named(self, lines: Iterable[str]) -> list[str]:
        """Lines with the values of variables replaced by their names, but for comments and single quotes."""
        return [line if line.startswith("#") else self._named_line(line) for line in lines]

    def _named_line(self, line: str) -> str:
        parts = _QUOTED.split(line)
        for name, value in self.variables.items():
            parts = [part if part.startswith("'") else part.replace(value, f"${name}") for part in parts]
        return "".join(parts)

    # -- the engine, beside the new process

    def _directory(self) -> list[str]:
        place = " -p /dev/shm" if self.words.get("stage") else " -t"
        lines = [
            "# A directory for the pipes between the engine and the new process",
            f"STAGE=$(mktemp -d{place} coracle.XXXXXX)",
            f"leave() {{ {_LEAVE}; }}",
            "trap leave EXIT",
            'mkfifo "$STAGE/up" "$STAGE/down"',
            "export STAGE",
        ]
        if root := self.words.get("root"):
            where = '"$STAGE/mounts/root"' if self.words.get("stage") else root[-1]
            lines += ["# Where the root file system is put together", *self._named([f"export ROOT={where}"])]
        return self._section("Beside the new process", lines)

    def _stage(self) -> list[str]:
        """Mounts that only the engine may make, from where the child takes them; in a namespace that ends with it.

        The stage is on a mount of its own, /dev/shm or /dev, so that it can be private when the rest is not.
        """
        return [
            "# Open with root's own rights, and in the host's mounts, what the new process could not",
            "exec unshare --mount --propagation unchanged /bin/sh -euc 'eval \"$(cat <&3)\"' 3<< 'ENGINE'",
            'mount --make-private "$(stat -c %m "$STAGE")"',
            f'leave() {{ umount --recursive --lazy "$STAGE/mounts"; rmdir "$STAGE/mounts"; {_LEAVE}; }} 2> /dev/null',
            "trap leave EXIT",
            'mkdir "$STAGE/mounts"',
            'mount -t tmpfs -o mode=755 tmpfs "$STAGE/mounts"',
            'mount --make-unbindable "$STAGE/mounts"',
            'chmod 755 "$STAGE"',
            'mkdir "$ROOT"',
            *self._named(self.words["stage"]),
        ]

    def _engine(self) -> list[str]:
        lines = [*self._user_namespace(), "# The engine: what has to be done from outside", "("]
        lines += ["trap leave EXIT", "read -r CHILD"]
        if about := self._commented(self.plan.at(PARENT)):
            lines += [*about, "echo go"]
        if ready := self._commented(self.plan.at(READY)):
            lines += ["read -r _  # all mounts are there", *ready, "echo go"]
        lines += [*self._pivot(), "trap - EXIT", "leave"]
        if self._program() is not None:
            lines.append("echo go")
        # Opened now, so that each side notices the other's end.
        return [*lines, ') < "$STAGE/up" > "$STAGE/down" &', 'exec 4> "$STAGE/up" 5< "$STAGE/down"']

    def _user_namespace(self) -> list[str]:
        """A namespace with nobody in it yet but a sleeper, whose maps can be written from outside."""
        if not self.words.get("userns"):
            return []
        sleeper = "echo; exec setpriv --pdeathsig KILL sleep infinity > /dev/null"
        return [
            "# A user namespace with nobody in it but a sleeper, so that its id maps can be written from outside",
            f'unshare --user /bin/sh -c {quote(sleeper)} > "$STAGE/up" &',
            "USERNS=$!",
            'read -r _ < "$STAGE/up"',
            *self.words["userns"],
        ]

    def _pivot(self) -> list[str]:
        enter = 'nsenter --target "$CHILD" --mount'
        end = ['kill "$USERNS"'] if self.words.get("userns") else []
        if "root" not in self.words:
            return ["read -r _", *end]
        change = quote('cd "$ROOT"; pivot_root . .')
        away = ["mount --make-rprivate /", *self.words.get("pivoted", []), "umount --lazy /"]
        return [
            "read -r _  # nothing is left to do but to pivot and to start",
            f"export CHILD; {enter} /bin/sh -euc {change}",
            "# The host's root now lies on top of the new one: away with it",
            f"{enter} /bin/sh -euc {quote('; '.join(away))}",
            *end,
        ]

    # -- into the new namespaces

    def _unshare(self) -> list[str]:
        nsenter = list(self.words.get("nsenter", []))
        if self.words.get("userns"):
            nsenter.append("--user=/proc/$USERNS/ns/user")
        unshare = self.words.get("unshare", [])
        propagation = ["--propagation", "unchanged"] if "--mount" in unshare else []
        line = " ".join(["unshare", *propagation, *unshare, "--fork", "--kill-child", "\\"])
        entry = " ".join(["exec nsenter", *(word if "$" in word else quote(word) for word in nsenter), "\\\n  "])
        return [
            "# New namespaces; a shell in them reads on",
            f"{entry if nsenter else 'exec '}{line}",
            # A shell would have to open /dev/fd/3 again, which another user's pipe does not allow.
            "  /bin/sh -euc 'eval \"$(cat <&3)\"' 3<< 'INSIDE'",
        ]

    def _inside(self) -> list[str]:
        lines = ["exec 3<&-", "read -r CHILD _ < /proc/self/stat", 'echo "$CHILD" >&4']
        if any(step.shell() for step in self.plan.at(PARENT)):
            lines.append("read -r _ <&5")
        lines += dict.fromkeys(self.words.get("function", []))
        lines += self._commented(self.plan.at(CHILD))
        if "root" in self.words:
            lines += ["# all mounts from outside are there, so the root itself need not be hidden from them any more"]
            lines += ['mount --make-private "$ROOT"']
        if any(step.shell() for step in self.plan.at(READY)):
            lines += ["echo mounted >&4", "read -r _ <&5"]
        lines += self._section("Enter", self._commented(self.plan.at(ENTER)))
        # Looked up in time: the last line has the container's PATH, and limits may not allow it any more.
        tools = [f"{tool.upper()}=$(command -v {tool})" for tool, _ in self._tools()] if self._program() else []
        lines += self._section("The last moments", [*tools, *self._commented(self.plan.at(INIT))])
        return [*lines, *self._finale()]

    def _tools(self) -> list[tuple[str, str]]:
        """The commands between the last shell but one and the last, each with its arguments."""
        words = [line.partition(" ") for line in self.words.get("exec", [])]
        return [*((tool, space + rest) for tool, space, rest in words), ("setpriv", "")]

    def _program(self) -> Step | None:
        """The step that becomes the program; a config without a process has none."""
        return next((step for step in self.plan.at(INIT) if "environment" in step.fields()), None)

    def _finale(self) -> list[str]:
        program = self._program()
        if program is None:
            return ["echo ready >&4", "exec sleep infinity"]
        fields = program.fields()
        environment: list[str] = fields["environment"]
        lines = ["# give up rights, wait for the pivot, and execute the program"]
        if lost := [word for word in environment if not _VARIABLE.fullmatch(word.partition("=")[0])]:
            lines.append(f"# /bin/sh drops variables with such names: {command(*lost)}")
        words = [quote(word) for word in environment]
        if not any(word.startswith("HOME=") for word in environment):
            words.append('HOME="$HOME"')
        tools = [f'"${tool.upper()}"{rest}' for tool, rest in self._tools()]
        last = [
            "echo ready >&4", "read -r _ <&5", "exec 4>&- 5<&-", 'cd -- "$0"', "unset PWD OLDPWD",
            *(f"export {quote(word)}" for word in environment if word.startswith(("PWD=", "OLDPWD="))), 'exec "$@"',
        ]  # fmt: skip
        return [
            *lines,
            f"exec env -i {' '.join(words)} \\",
            f"  {' '.join(tools)} {command(*self.words.get('setpriv', []))} \\",
            f"  /bin/sh -euc {quote('; '.join(last))} \\",
            f"  {command(fields['cwd'], *fields['arguments'])}",
        ]

    def _cleaning(self) -> list[str]:
        lines = [line for step in reversed(self.plan.steps) for line in step.undo_shell()]
        return ["", CLEANING, *(f"#   {line}" for line in lines)] if lines else []
