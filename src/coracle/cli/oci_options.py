"""The option tables of ``coracle-oci`` and the parser that reads a command line by them.

Accepted is what callers of runc (urfave/cli) and crun (argp) pass, and what people type: ``--name
value``, ``--name=value``, ``-name value`` (Go's flag package), ``-n value``, ``-nvalue``, ``-dt``,
and options after the arguments.  argparse would cost 10 ms of imports before every start.
"""

from __future__ import annotations

from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    # long name → (short letter, what the argument is, help).  No argument: a switch; "...": may be repeated.
    Table = Mapping[str, tuple[str, str, str]]

_TRUE = ("1", "t", "T", "true", "TRUE", "True")  # strconv.ParseBool
_FALSE = ("0", "f", "F", "false", "FALSE", "False")

GLOBAL: Table = {
    "root": ("", "DIR", "directory of the containers' state (default: /run/coracle-oci)"),
    "log": ("", "FILE", "append errors and warnings to FILE"),
    "log-format": ("", "text|json", "how entries in the log look (default: text)"),
    "log-level": ("", "error|warning|debug", "what goes to the log (default: warning)"),
    "debug": ("", "", "the same as --log-level debug: show where an internal error came from"),
    "systemd-cgroup": ("", "", "let systemd make the cgroups; cgroupsPath is then slice:prefix:name"),
    "cgroup-manager": ("", "cgroupfs|systemd|disabled", "who makes the cgroups (default: cgroupfs)"),
    "rootless": ("", "true|false|auto", "accepted for compatibility: what is possible is found out"),
    "criu": ("", "FILE", "accepted for compatibility"),
    "version": ("v", "", "print the version"),
    "help": ("h", "", "print this help"),
}

_HELP: Table = {"help": ("h", "", "print this help")}

_CREATE: Table = {
    "bundle": ("b", "DIR", "the bundle: a directory with config.json (default: .)"),
    "config": ("f", "FILE", "config file, relative to the bundle (default: config.json)"),
    "console-socket": ("", "SOCKET", "unix socket that receives the terminal's master"),
    "pid-file": ("", "FILE", "write the pid of the container's first process to FILE"),
    "pidfd-socket": ("", "SOCKET", "unix socket that receives a pidfd of the container's first process"),
    "no-pivot": ("", "", "do not use pivot_root(2), which fails on an initramfs"),
    "no-new-keyring": ("", "", "keep the session keyring of the caller"),
    "no-subreaper": ("", "", "accepted for compatibility"),
    "preserve-fds": ("", "N", "pass N file descriptors from 3 on, besides LISTEN_FDS"),
    **_HELP,
}

_UPDATE: Table = {
    "resources": ("r", "FILE", "JSON of linux.resources, - for standard input; all other options are ignored then"),
    "blkio-weight": ("", "N", "block I/O weight, 10 to 1000"),
    "cpu-period": ("", "US", "length of a CPU period in microseconds"),
    "cpu-quota": ("", "US", "CPU time within a period in microseconds, -1 for no limit"),
    "cpu-burst": ("", "US", "CPU time that may be saved up, in microseconds"),
    "cpu-share": ("", "N", "CPU shares, relative to other groups"),
    "cpu-rt-period": ("", "US", "length of a real-time period in microseconds"),
    "cpu-rt-runtime": ("", "US", "real-time CPU time within a period in microseconds"),
    "cpu-idle": ("", "0|1", "1 schedules the container as idle"),
    "cpuset-cpus": ("", "LIST", "CPUs to use, such as 0-3,7"),
    "cpuset-mems": ("", "LIST", "memory nodes to use"),
    "memory": ("", "SIZE", "memory limit, such as 512m; -1 for no limit"),
    "memory-reservation": ("", "SIZE", "soft memory limit"),
    "memory-swap": ("", "SIZE", "limit of memory and swap together; -1 for no limit"),
    "kernel-memory": ("", "SIZE", "limit of kernel memory (cgroup v1, obsolete)"),
    "kernel-memory-tcp": ("", "SIZE", "limit of TCP buffers (cgroup v1)"),
    "pids-limit": ("", "N", "largest number of tasks; -1 for no limit"),
    "l3-cache-schema": ("", "TEXT", "Intel RDT schema of the L3 cache"),
    "mem-bw-schema": ("", "TEXT", "Intel RDT schema of the memory bandwidth"),
    **_HELP,
}

_EXEC: Table = {
    "process": ("p", "FILE", "JSON of the process, in place of a command"),
    "detach": ("d", "", "do not wait for it"),
    "tty": ("t", "", "give it a terminal"),
    "user": ("u", "UID[:GID]", "run as this user"),
    "additional-gids": ("g", "GID...", "add a supplementary group"),
    "cwd": ("", "DIR", "working directory in the container"),
    "env": ("e", "NAME=VALUE...", "set an environment variable"),
    "cap": ("c", "CAP...", "add a capability, such as CAP_NET_ADMIN"),
    "no-new-privs": ("", "", "forbid gaining privileges"),
    "apparmor": ("", "PROFILE", "AppArmor profile"),
    "process-label": ("", "LABEL", "SELinux label"),
    "cgroup": ("", "PATH", "sub-cgroup of the container's, which must exist"),
    "ignore-paused": ("", "", "exec in a paused container too"),
    "console-socket": ("", "SOCKET", "unix socket that receives the terminal's master"),
    "pid-file": ("", "FILE", "write the pid of the process to FILE"),
    "preserve-fds": ("", "N", "pass N file descriptors from 3 on"),
    **_HELP,
}

_ALL_OR_MATCHING = ("r", "", "the id is a regular expression that may match several")


class Command:
    """One command: its options and how many arguments it takes (``most`` < 0: any number).

    In an ``ordered`` command the first argument ends the options: the rest is another program's.
    """

    __slots__ = ("arguments", "least", "most", "options", "ordered", "summary")

    def __init__(
        self, summary: str, arguments: str, least: int, most: int, options: Table = _HELP, ordered: bool = False
    ) -> None:
        self.summary = summary
        self.arguments = arguments
        self.least = least
        self.most = most
        self.options = options
        self.ordered = ordered


COMMANDS: Mapping[str, Command] = {
    "create": Command("create a container from a bundle; it waits for start", "ID", 1, 1, _CREATE),
    "start": Command("start a created container", "ID", 1, 1),
    "state": Command("print the state of a container as JSON", "ID", 1, 1),
    "kill": Command(
        "send a signal to a container (default: TERM)",
        "ID [SIGNAL]",
        1,
        2,
        {"all": ("a", "", "send it to every process of the container"), "regex": _ALL_OR_MATCHING, **_HELP},
    ),
    "delete": Command(
        "remove a stopped container",
        "ID",
        1,
        1,
        {
            "force": ("f", "", "kill it first if need be; it may also be missing"),
            "regex": _ALL_OR_MATCHING,
            **_HELP,
        },
    ),
    "run": Command(
        "create, start, wait for and delete a container",
        "ID",
        1,
        1,
        {
            **_CREATE,
            "detach": ("d", "", "do not wait for it"),
            "keep": ("", "", "do not delete it when it has ended"),
        },
    ),
    "exec": Command("run a process in a container", "ID [COMMAND [ARGUMENT...]]", 1, -1, _EXEC, ordered=True),
    "list": Command(
        "list containers",
        "",
        0,
        0,
        {
            "format": ("f", "table|json", "output format (default: table)"),
            "quiet": ("q", "", "ids only"),
            **_HELP,
        },
    ),
    "ps": Command(
        "list the processes of a container",
        "ID [PS-OPTION...]",
        1,
        -1,
        {"format": ("f", "table|json", "output format (default: table)"), **_HELP},
        ordered=True,
    ),
    "pause": Command("freeze all processes of a container", "ID", 1, 1),
    "resume": Command("thaw a paused container", "ID", 1, 1),
    "update": Command("change resource limits of a container", "ID", 1, 1, _UPDATE),
    "events": Command(
        "print resource usage of a container as JSON",
        "ID",
        1,
        1,
        {
            "stats": ("", "", "once, then end"),
            "interval": ("", "DURATION", "time between two (default: 5s)"),
            **_HELP,
        },
    ),
    "spec": Command(
        "write a config.json to start from",
        "",
        0,
        0,
        {
            "bundle": ("b", "DIR", "directory to write it to (default: .)"),
            "file": ("f", "FILE", "name of the file (default: config.json)"),
            "rootless": ("", "", "for a user without root"),
            **_HELP,
        },
    ),
    "features": Command("print what this runtime supports as JSON", "", 0, 0),
    "explain": Command(
        "print the steps that create would take",
        "[ID]",
        0,
        1,
        {**_CREATE, "as": ("", "prose|shell|json", "how to print them (default: prose)")},
    ),
}


def parse(words: Sequence[str], table: Table, ordered: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The options in ``words`` by long name, and the arguments.

    A switch is True or False, a repeatable option a list, anything else a string; options that
    were not given are not there.  ``ordered`` ends the options at the first argument.
    :raises UsageError: for an unknown option, and for one without or with a superfluous value.
    """
    options: dict[str, Any] = {}
    arguments: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            arguments += words[index:]
            break
        if len(word) < 2 or word[0] != "-":
            arguments.append(word)
            if ordered:
                arguments += words[index:]
                break
            continue
        for name, value in _named(word, table):
            if value is None and table[name][1]:
                if index == len(words):
                    raise UsageError(f"option --{name} needs a value")
                value = words[index]
                index += 1
            _store(options, name, table[name][1], value)
    return options, arguments


def _named(word: str, table: Table) -> list[tuple[str, str | None]]:
    """The options in one word, by long name, with the value that is attached or None."""
    name, equals, value = word.lstrip("-").partition("=")
    if word.startswith("--") or (len(name) > 1 and name in table):
        if name not in table or word.startswith("---"):
            raise UsageError(f"unknown option {word.partition('=')[0]}")
        return [(name, value if equals else None)]
    found: list[tuple[str, str | None]] = []
    for place, letter in enumerate(word[1:], 2):
        long = next((name for name, entry in table.items() if entry[0] == letter), "")
        if not long:
            raise UsageError(f"unknown option -{letter}" + (f" in {word}" if len(word) > 2 else ""))
        rest = word[place:]
        if table[long][1] or rest.startswith("="):
            return [*found, (long, rest.removeprefix("=") if rest else None)]
        found.append((long, None))
    return found


def _store(options: dict[str, Any], name: str, argument: str, value: str | None) -> None:
    if not argument:
        if value is not None and value not in _TRUE + _FALSE:
            raise UsageError(f"option --{name} is true or false, not {value!r}")
        options[name] = value not in _FALSE
    elif argument.endswith("..."):
        options.setdefault(name, []).append(value)
    else:
        options[name] = value


def check_choice(options: Mapping[str, Any], table: Table, name: str, default: str) -> str:
    """The value of an option whose argument is a choice such as ``table|json``.  :raises UsageError:"""
    value: str = options.get(name) or default
    choices = table[name][1].split("|")
    if value and value not in choices:
        raise UsageError(f"option --{name} is {' or '.join(choices)}, not {value!r}")
    return value


def number(options: Mapping[str, Any], name: str, least: int = 0) -> int:
    """The value of a numeric option, or 0 if it was not given.  :raises UsageError:"""
    text = options.get(name, "0")
    digits = text[1:] if text.startswith("-") and least < 0 else text
    if not digits.isascii() or not digits.isdigit() or len(digits) > 20 or int(text) < least:
        raise UsageError(f"option --{name} is a number from {least} on, not {text!r}")
    return int(text)
