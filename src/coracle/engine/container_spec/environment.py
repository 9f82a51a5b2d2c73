"""Environment and labels of a container: image, files and command line, in docker's order."""

from __future__ import annotations

from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from coracle.engine.container_spec.host import Host
    from coracle.engine.options import RunOptions

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def environment(options: RunOptions, image: Mapping[str, Any], hostname: str, home: str, host: Host) -> list[str]:
    """The variables of the first process as NAME=value.

    Docker's: PATH and HOSTNAME, TERM with a terminal, then the image's, then --env-file and -e; HOME
    last and only if nobody set it.  ``-e NAME`` takes the caller's value and removes the variable if
    the caller has none, as dockerd does.

    :raises UsageError: an --env-file that cannot be read or understood.
    """
    result: dict[str, str] = {"PATH": PATH, "HOSTNAME": hostname}
    if options.tty:
        result["TERM"] = "xterm"
    apply(result, image.get("Env") or [], {})
    if options.unsetenv_all:
        result.clear()
    for name in options.unsetenv:
        result.pop(name, None)
    if options.env_host:
        result.update(host.environ)
    if options.http_proxy:
        for name in _PROXIES:
            result.update({n: host.environ[n] for n in (name, name.upper()) if n in host.environ})
    if options.tz:
        result["TZ"] = host.time_zone() if options.tz == "local" else options.tz
    for path in options.env_file:
        apply(result, lines(path, host), host.environ)
    apply(result, options.env, host.environ)
    if not options.unsetenv_all and "HOME" not in options.unsetenv:
        result.setdefault("HOME", home)
    return [f"{name}={value}" for name, value in result.items()]


def apply(result: dict[str, str], words: list[str], environ: Mapping[str, str]) -> None:
    for word in words:
        name, equals, value = word.partition("=")
        if not equals and name not in environ:
            result.pop(name, None)
        elif name:
            result[name] = value if equals else environ[name]


def labels(options: RunOptions, image: Mapping[str, Any], host: Host) -> dict[str, str]:
    """Labels of the container: the image's, those of --label-file, then -l.  :raises UsageError:"""
    result: dict[str, str] = dict(image.get("Labels") or {})
    for path in options.label_file:
        for line in lines(path, host):
            name, _, value = line.partition("=")
            result[name] = value
    result.update(options.label)
    return result


def lines(path: str, host: Host) -> list[str]:
    """Lines ``NAME=value`` or ``NAME`` of a file for --env-file or --label-file (docker's opts.ParseEnvFile).

    Comments begin the line with ``#``; nothing is unquoted or expanded.
    """
    try:
        text = host.read(path).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    found: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.lstrip().removesuffix("\r")
        name = line.partition("=")[0]
        if not line or line.startswith("#"):
            continue
        if not name or len(name.split()) != 1 or name != name.strip() or "\0" in line:
            raise UsageError(f"{path} line {number}: {name!r} is not a name", "write NAME=value")
        found.append(line)
    return found
