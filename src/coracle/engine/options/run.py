"""The options of ``run`` and ``create``: docker's, podman's common ones, and ``--time-offset``.

docs.docker.com/reference/cli/docker/container/run, podman-run(1).
"""

from __future__ import annotations

from coracle.engine.options import devices, modes, mounts, network, security, values
from coracle.engine.options.parser import FLAG, LIST, MAP, SPLIT, VALUE, Option, Table, boolean, parse
from coracle.engine.options.refused import UNSUPPORTED
from coracle.engine.options.run_options import RunOptions
from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

DEFAULT_SHM_SIZE = 64 << 20
DEFAULT_STOP_TIMEOUT = 10
DETACH_KEYS = b"\x10\x11"  # ctrl-p ctrl-q


def _flag(name: str, short: str, help: str, default: bool = False, field: str = "") -> Option:
    return Option(name, short, FLAG, boolean, default, "", help, field)


def _list(name: str, short: str, convert: Any, metavar: str, help: str) -> Option:
    return Option(name, short, LIST, convert, [], metavar, help)


def _split(name: str, convert: Any, metavar: str, help: str) -> Option:
    return Option(name, "", SPLIT, convert, [], metavar, help)


def _map(name: str, convert: Any, metavar: str, help: str) -> Option:
    return Option(name, "", MAP, convert, {}, metavar, help)


def _absolute_or_empty(text: str) -> str:
    return values.absolute(text) if text else ""


def _cgroup_parent(text: str) -> str:
    if ".." in text.split("/") or not text.strip("/") or "\0" in text:
        raise ValueError("a cgroup path without '..'")
    return values.clean(f"/{text}")


_size, _int, _text = values.size, values.integer, values.text
_seconds = _int(0, 1 << 31)

_CONTAINER = (
    Option("name", "", VALUE, values.container_name, "", "string", "Assign a name to the container"),
    Option("cidfile", "", VALUE, values.host_path, "", "file", "Write the container ID to the file"),
    Option("platform", "", VALUE, values.non_empty, "", "os/arch", "Platform of the image, such as linux/arm64"),
    Option("pull", "", VALUE, values.choice("missing", "always", "newer", "never"), "missing", "string",
           'Pull image before running ("always", "missing", "newer", "never")'),
    _flag("quiet", "q", "Suppress the pull output"),
    Option("rootfs", "", VALUE, values.host_path, "", "dir", "Run on this directory instead of an image"),
    _list("label", "l", values.pair, "key=value", "Set meta data on the container"),
    _list("label-file", "", values.host_path, "file", "Read in a line delimited file of labels"),
    _map("annotation", values.pair, "key=value", "Add an annotation to the container (passed to the OCI runtime)"),
    Option("disable-content-trust", "", FLAG, values.ignored_when_true, True, "", "Skip image verification"),
    _flag("help", "", "Print usage"),
)  # fmt: skip

_RUNNING = (
    _flag("detach", "d", "Run container in background and print container ID"),
    _flag("interactive", "i", "Keep STDIN open even if not attached"),
    _flag("tty", "t", "Allocate a pseudo-TTY"),
    _flag("rm", "", "Automatically remove the container when it exits", field="remove"),
    Option("detach-keys", "", VALUE, values.detach_keys, DETACH_KEYS, "keys", "Key sequence for detaching a container"),
    _flag("sig-proxy", "", "Proxy received signals to the process", True),
    _flag("init", "", "Run an init inside the container that forwards signals and reaps processes"),
    Option("restart", "", VALUE, modes.restart, "no", "policy", "Restart policy to apply when a container exits (no)"),
    Option("stop-signal", "", VALUE, values.signal_name, "", "signal", "Signal to stop the container"),
    Option("stop-timeout", "", VALUE, _int(-1, 1 << 31), None, "seconds", "Time to wait before a stop becomes a kill"),
    Option("timeout", "", VALUE, _seconds, 0, "seconds", "Kill the container after it ran that long (0: never)"),
    Option("log-driver", "", VALUE, modes.log_driver, "json-file", "string", "Logging driver (json-file, none)"),
    _map("log-opt", modes.log_option, "key=value", "Log driver options (max-size, max-file)"),
    Option("systemd", "", VALUE, modes.systemd, False, "bool", "Prepare the container for systemd (false)"),
)  # fmt: skip

_PROCESS = (
    Option("entrypoint", "", VALUE, _text, None, "string", "Overwrite the default ENTRYPOINT of the image"),
    _list("env", "e", values.variable, "name=value", "Set environment variables"),
    _list("env-file", "", values.host_path, "file", "Read in a file of environment variables"),
    _flag("env-host", "", "Pass on all your own environment variables"),
    _flag("http-proxy", "", "Pass on your own proxy variables (http_proxy, no_proxy, ...)"),
    _list("unsetenv", "", values.non_empty, "name", "Remove a variable that the image or the engine sets"),
    _flag("unsetenv-all", "", "Remove all variables that the image or the engine sets"),
    Option("workdir", "w", VALUE, _absolute_or_empty, "", "dir", "Working directory inside the container"),
    Option("user", "u", VALUE, _text, "", "user", "Username or UID (format: <name|uid>[:<group|gid>])"),
    _split("group-add", values.non_empty, "group", "Add additional groups to join"),
    Option("umask", "", VALUE, values.umask, 0o022, "octal", "File mode mask of the process"),
    Option("tz", "", VALUE, network.line_word, "", "zone", "Set the TZ variable; 'local' means the zone of this host"),
    Option("personality", "", VALUE, values.choice("LINUX", "LINUX32"), "", "name", "Execution domain, personality(2)"),
    _flag("passwd", "", "Add an entry to /etc/passwd for a user without one"),
)  # fmt: skip

_NAMES = (
    Option("network", "", VALUE, network.network, "none", "network", "Connect the container to a network (none, host)"),
    Option("hostname", "h", VALUE, network.host_name, "", "string", "Container host name"),
    Option("domainname", "", VALUE, network.host_name, "", "string", "Container NIS domain name"),
    _list("add-host", "", network.extra_host, "host:ip", "Add a custom host-to-IP mapping"),
    _flag("no-hosts", "", "Leave /etc/hosts as it is in the image"),
    _flag("no-hostname", "", "Leave /etc/hostname as it is in the image"),
    _split("dns", network.address, "ip", "Set custom DNS servers"),
    _split("dns-search", network.line_word, "domain", "Set custom DNS search domains"),
    _split("dns-option", network.line_word, "option", "Set DNS options"),
    _split("expose", network.ports, "port", "Expose a port or a range of ports"),
)

_FILES = (
    _list("volume", "v", mounts.volume, "src:dst", "Bind mount a directory or file"),
    _list("mount", "", mounts.mount, "mount", "Attach a filesystem mount to the container (type=bind, type=tmpfs)"),
    _list("tmpfs", "", mounts.tmpfs, "dir", "Mount a tmpfs directory"),
    _flag("read-only", "", "Mount the container's root filesystem as read only"),
    _flag("read-only-tmpfs", "", "With --read-only, mount a tmpfs on /run, /tmp and /var/tmp"),
    Option("shm-size", "", VALUE, _size, DEFAULT_SHM_SIZE, "bytes", "Size of /dev/shm"),
    Option("image-volume", "", VALUE, modes.image_volume, "ignore", "string",
           "What becomes of the image's VOLUMEs (ignore: they stay in the writable layer; tmpfs)"),
)  # fmt: skip

_LIMITS = (
    Option("memory", "m", VALUE, _size, 0, "bytes", "Memory limit"),
    Option("memory-swap", "", VALUE, values.size_or_unlimited, 0, "bytes",
           "Swap limit equal to memory plus swap: -1 for unlimited swap (default: twice the memory limit)"),
    Option("memory-reservation", "", VALUE, _size, 0, "bytes", "Memory soft limit"),
    Option("memory-swappiness", "", VALUE, _int(-1, 100), -1, "int", "Tune memory swappiness (0 to 100)"),
    _flag("oom-kill-disable", "", "Disable OOM Killer"),
    Option("oom-score-adj", "", VALUE, _int(-1000, 1000), None, "int", "Tune OOM preferences (-1000 to 1000)"),
    Option("cpus", "", VALUE, values.cpus, 0, "decimal", "Number of CPUs"),
    Option("cpu-shares", "c", VALUE, _int(0), 0, "int", "CPU shares (relative weight)"),
    Option("cpu-period", "", VALUE, _int(0), 0, "us", "Limit CPU CFS (Completely Fair Scheduler) period"),
    Option("cpu-quota", "", VALUE, _int(-1), 0, "us", "Limit CPU CFS (Completely Fair Scheduler) quota"),
    Option("cpu-rt-period", "", VALUE, _int(0), 0, "us", "Limit CPU real-time period in microseconds"),
    Option("cpu-rt-runtime", "", VALUE, _int(-1), 0, "us", "Limit CPU real-time runtime in microseconds"),
    Option("cpuset-cpus", "", VALUE, values.cpu_list, "", "list", "CPUs in which to allow execution (0-3, 0,1)"),
    Option("cpuset-mems", "", VALUE, values.cpu_list, "", "list", "MEMs in which to allow execution (0-3, 0,1)"),
    Option("pids-limit", "", VALUE, _int(-1), 0, "int", "Tune container pids limit (-1 for unlimited)"),
    _list("ulimit", "", values.ulimit, "name=soft:hard", "Ulimit options"),
    Option("blkio-weight", "", VALUE, _int(0, 1000), 0, "int", "Block IO (relative weight), 10 to 1000, or 0 for none"),
    _list("blkio-weight-device", "", devices.weight, "dev:weight", "Block IO weight (relative device weight)"),
    _list("device-read-bps", "", devices.throttle_bytes, "dev:n", "Limit read rate (bytes per second) of a device"),
    _list("device-write-bps", "", devices.throttle_bytes, "dev:n", "Limit write rate (bytes per second) to a device"),
    _list("device-read-iops", "", devices.throttle_operations, "dev:n", "Limit read rate (IO/s) of a device"),
    _list("device-write-iops", "", devices.throttle_operations, "dev:n", "Limit write rate (IO/s) to a device"),
    Option("cgroup-parent", "", VALUE, _cgroup_parent, "", "cgroup", "Optional parent cgroup for the container"),
    _map("cgroup-conf", values.full_pair, "file=value", "Write a file of the container's cgroup (cgroup v2)"),
)  # fmt: skip

_ISOLATION = (
    _flag("privileged", "", "Give extended privileges to this container"),
    _split("cap-add", security.capability, "cap", "Add Linux capabilities"),
    _split("cap-drop", security.capability, "cap", "Drop Linux capabilities"),
    _list("security-opt", "", security.security_option, "key=value", "Security options"),
    _list("device", "", devices.device, "src:dst:rwm", "Add a host device, or a directory of devices"),
    _list("device-cgroup-rule", "", devices.cgroup_rule, "rule", "Add a rule to the cgroup allowed devices list"),
    _map("sysctl", modes.sysctl, "name=value", "Sysctl options"),
    Option("pid", "", VALUE, modes.pid, "private", "mode", "PID namespace to use (private, host, container:NAME)"),
    Option("ipc", "", VALUE, modes.ipc, "private", "mode",
           "IPC mode to use (private, shareable, none, host, container:NAME)"),
    Option("uts", "", VALUE, modes.uts, "private", "mode", "UTS namespace to use (private, host)"),
    Option("cgroupns", "", VALUE, modes.cgroup, "private", "mode", "Cgroup namespace to use (private, host)"),
    Option("userns", "", VALUE, modes.user, "", "mode", "User namespace to use (host, private)"),
    _list("uidmap", "", values.id_map, "in:out:size", "UID map of a private user namespace"),
    _list("gidmap", "", values.id_map, "in:out:size", "GID map of a private user namespace"),
    _map("time-offset", values.time_offset, "clock=seconds",
         "Shift a clock in a time namespace (monotonic=SECONDS, boottime=SECONDS)"),
)  # fmt: skip

RUN = Table(
    (
        ("Container", _CONTAINER),
        ("Running", _RUNNING),
        ("Process", _PROCESS),
        ("Names and network", _NAMES),
        ("File systems", _FILES),
        ("Limits", _LIMITS),
        ("Isolation", _ISOLATION),
        ("", UNSUPPORTED),
    ),
    aliases={"net": "network", "dns-opt": "dns-option"},
    factory=RunOptions,
)


def parse_run(argv: Sequence[str]) -> tuple[RunOptions, list[str]]:
    """Options of ``run`` and ``create``, and what follows them.  :raises UsageError:"""
    options: RunOptions
    options, rest = parse(RUN, argv)
    if not options.help:
        check(options)
    return options, rest


def image_and_command(options: RunOptions, rest: list[str]) -> tuple[str, list[str]]:
    """Split what follows the options: the image ("" with --rootfs) and the command.  :raises UsageError:"""
    if options.rootfs:
        return "", rest
    if not rest or not rest[0]:
        raise UsageError("an image is needed: run [OPTIONS] IMAGE [COMMAND] [ARG...]", "or --rootfs DIR")
    return rest[0], rest[1:]


def check(options: RunOptions) -> None:
    """Refuse combinations that contradict each other, whatever the image or machine.  :raises UsageError:"""
    for wrong, message in (
        (options.uts == "host" and options.hostname, "--hostname contradicts --uts host"),
        (options.uts == "host" and options.domainname, "--domainname contradicts --uts host"),
        (
            options.userns == "host" and (options.uidmap or options.gidmap),
            "--uidmap and --gidmap contradict --userns host",
        ),
        (options.cpus and (options.cpu_period or options.cpu_quota), "--cpus contradicts --cpu-period and --cpu-quota"),
        (options.no_hosts and options.add_host, "--add-host contradicts --no-hosts"),
    ):
        if wrong:
            raise UsageError(message)
    for name in options.sysctl:
        owner = modes.sysctl_owner(name)
        mode = {"network": options.network, "ipc": options.ipc, "uts": options.uts}[owner]
        if mode != "private" and mode != "shareable" and (owner, mode) not in (("network", "none"), ("ipc", "none")):
            raise UsageError(f"--sysctl {name} contradicts --{owner} {mode}: it would change more than this container")
