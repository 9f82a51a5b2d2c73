"""Contents of the files that every container gets from the engine: /etc/hosts, hostname, resolv.conf, passwd.

As docker writes them (libnetwork's etchosts and resolvconf); the caller writes the bytes and the
spec binds them over the image's own.
"""

from __future__ import annotations

import os

from coracle.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from coracle.engine.user import User

HOST_GATEWAY = "host-gateway"

_DEFAULT_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)


def hostname(name: str) -> bytes:
    """/etc/hostname."""
    return f"{name}\n".encode()


def hosts(
    name: str,
    domain: str = "",
    network: str = "none",
    extra: Sequence[tuple[str, str]] = (),
    address: str = "",
    gateway: str = "",
    host_file: bytes = b"",
) -> bytes:
    """/etc/hosts.

    ``network`` "host" begins with this host's own file (``host_file``), as in docker.  ``address`` is
    the container's own, "" on a network without one: then its name means the loopback address, which
    is podman's rule; docker leaves the name out, and sudo, java and others stumble over that.
    ``gateway`` is what ``host-gateway`` in ``extra`` means.

    :raises UsageError: ``host-gateway`` on a network from which the host cannot be reached.
    """
    lines: list[str] = []
    own_line: list[str] = []
    if network == "host":
        lines += host_file.decode("utf-8", "surrogateescape").splitlines()
        gateway = gateway or "127.0.0.1"
    else:
        full = f"{name}.{domain}" if domain else name
        short = full.partition(".")[0]
        lines += [f"{place}\t{names}" for place, names in _DEFAULT_HOSTS]
        if name:
            own = full if short == full else f"{full} {short}"
            own_line = [f"{address or '127.0.0.1'}\t{own}"]
    for other, place in extra:
        if place == HOST_GATEWAY and not gateway:
            raise UsageError(f"--add-host {other}:{HOST_GATEWAY}: the host cannot be reached with --network {network}")
        lines.append(f"{gateway if place == HOST_GATEWAY else place}\t{other}")
    return "\n".join([*lines, *own_line, ""]).encode("utf-8", "surrogateescape")


def resolv_conf(
    host_file: bytes,
    network: str = "none",
    servers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
) -> bytes:
    """/etc/resolv.conf (resolv.conf(5)), from this host's own and the --dns* options, which replace its lines.

    On another network than the host's, name servers on the host's loopback are left out.  docker
    puts Google's servers in their place; without a network there is nothing to reach, and an engine
    should not choose who sees a machine's queries, so here the list stays empty.
    ``search`` of "." means no search domains.
    """
    found = _parse_resolv_conf(host_file)
    if network != "host" and not servers:
        found["nameserver"] = [server for server in found["nameserver"] if not _is_loopback(server)]
    names = [domain for domain in search if domain != "."] if search else found["search"]
    lines = [f"nameserver {server}" for server in servers or found["nameserver"]]
    lines += [f"search {' '.join(names)}"] if names else []
    chosen = list(options) or found["options"]
    lines += [f"options {' '.join(chosen)}"] if chosen else []
    return "\n".join([*lines, *found["other"], ""]).encode("utf-8", "surrogateescape")


def _parse_resolv_conf(data: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": [], "other": []}
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            found["nameserver"] += words[1:2]
        elif words[0] in ("search", "domain"):  # the last one counts
            found["search"] = words[1:] or found["search"]
        elif words[0] == "options":
            found["options"] += words[1:]
        else:
            found["other"].append(line.strip())
    return found


def _is_loopback(server: str) -> bool:
    return server.startswith("127.") or server.partition("%")[0] == "::1"


def passwd(text: bytes | None, user: User, cwd: str) -> bytes | None:
    """/etc/passwd with an entry for ``user`` added, or None if it has one (podman's --passwd).

    podman writes the same line; docker adds nothing, and programs that ask for their user's name fail.
    """
    data = text or b""
    known = {parts[2] for parts in (line.split(b":") for line in data.split(b"\n")) if len(parts) > 3}
    number = str(user.uid).encode()
    if number in known:
        return None
    home = user.home if user.home != "/" else cwd
    if ":" in home or "\n" in home:
        home = "/"
    entry = b"%s:*:%s:%d:container user:%s:/bin/sh\n" % (number, number, user.gid, os.fsencode(home))
    return data + (b"\n" if data and not data.endswith(b"\n") else b"") + entry
