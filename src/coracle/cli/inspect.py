"""``coracle inspect``: containers and images as JSON."""

from __future__ import annotations

from coracle.cli.main import complain
from coracle.engine import lifecycle
from coracle.engine.container import PAUSED, RUNNING, Container, find
from coracle.engine.options import FLAG, VALUE, Option, Table, parse, values
from coracle.engine.options.help import help_text
from coracle.engine.options.parser import boolean
from coracle.engine.storage import own_store
from coracle.errors import NotFoundError, UsageError
from coracle.record import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from coracle.paths import Paths

USAGE = "coracle inspect [OPTIONS] NAME|ID..."
TABLE = Table(
    (
        (
            "Options",
            (
                Option("type", "", VALUE, values.choice("container", "image"), "", "type", "container or image"),
                Option("help", "", FLAG, boolean, False, "", "Print usage"),
            ),
        ),
    )
)


def inspect(argv: list[str]) -> int:
    """Print one JSON array with all that is known about each container or image."""
    options, names = parse(TABLE, argv, interspersed=True)
    if options.help:
        print(help_text(TABLE, USAGE, "Show containers or images as JSON"), end="")
        return 0
    if not names:
        raise UsageError("inspect needs the name or id of a container or image", USAGE)
    found, code = [], 0
    with own_store() as paths:
        for name in names:
            try:
                found.append(_look(paths, name, options.type))
            except NotFoundError as error:
                complain(str(error))
                code = 1
    print(dumps(found, 4))
    return code


def _look(paths: Paths, name: str, kind: str) -> dict[str, Any]:
    if kind != "image":
        try:
            return container_document(find(paths, name))
        except NotFoundError:
            if kind == "container":
                raise
    from coracle.image.images import inspect as inspect_image

    try:
        return inspect_image(paths, name)
    except NotFoundError as error:
        raise error if kind == "image" else NotFoundError(f"no such container or image: {name}") from None


def container_document(container: Container) -> dict[str, Any]:
    """A container in the shape of ``docker inspect``, as far as there is something to say."""
    status = lifecycle.reconcile(container)
    record, config = container.record, container.config()
    process = container.process() or {}
    ended = container.exit() or {}
    first = config["process"]
    return {
        "Id": container.identifier,
        "Created": record["created"],
        "Path": record["command"][0],
        "Args": record["command"][1:],
        "State": {
            "Status": status,
            "Running": status in (RUNNING, PAUSED),
            "Paused": status == PAUSED,
            "OOMKilled": bool(ended.get("oom")),
            "Pid": process.get("pid", 0) if status in (RUNNING, PAUSED) else 0,
            "ExitCode": ended.get("code", 0),
            "Error": ended.get("error", ""),
            "StartedAt": process.get("started_at", "") or record["created"],
            "FinishedAt": ended.get("finished", ""),
        },
        "Image": record["image_id"],
        "Name": record["name"],
        "LogPath": container.log_path,
        "ResolvConfPath": f"{container.directory}/resolv.conf",
        "HostnamePath": f"{container.directory}/hostname",
        "HostsPath": f"{container.directory}/hosts",
        "Mounts": [_mount(entry) for entry in config["mounts"] if entry.get("type") in ("bind", "tmpfs")],
        "Config": {
            "Hostname": config.get("hostname", ""),
            "Domainname": config.get("domainname", ""),
            "User": f"{first['user']['uid']}:{first['user']['gid']}",
            "Tty": record["terminal"],
            "OpenStdin": record["interactive"],
            "Env": first["env"],
            "Cmd": record["command"],
            "Image": record["image"],
            "WorkingDir": first["cwd"],
            "Labels": record["labels"],
            "StopSignal": record["stop_signal"] or "SIGTERM",
        },
        "HostConfig": {"AutoRemove": record["remove"], "CgroupPath": config["linux"].get("cgroupsPath", "")},
        "OCIConfigPath": f"{container.directory}/config.json",
    }


def _mount(entry: dict[str, Any]) -> dict[str, Any]:
    options = entry.get("options") or []
    return {
        "Type": entry["type"],
        "Source": entry.get("source", ""),
        "Destination": entry["destination"],
        "Mode": ",".join(options),
        "RW": "ro" not in options,
    }
