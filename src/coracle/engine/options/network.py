"""Converters of the options that concern names and addresses."""

from __future__ import annotations

from coracle.engine.options.values import NAME_LETTERS, is_decimal
from coracle.errors import UsageError


def host_name(value: str) -> str:
    """A host or domain name: it goes to sethostname(2), at most 64 bytes, and into /etc/hosts."""
    if len(value) > 64 or not NAME_LETTERS.issuperset(value) or value.startswith(("-", ".")):
        raise ValueError("at most 64 letters, digits, '-', '_' and '.'")
    return value


def address(value: str) -> str:
    """An IPv4 or IPv6 address."""
    import _socket  # 2.6 ms, and only --dns and --add-host pay for it

    name = value.removeprefix("[").removesuffix("]") if ":" in value else value
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, name)
        except (OSError, ValueError):
            continue
        return name
    raise ValueError("an IP address")


def extra_host(value: str) -> tuple[str, str]:
    """``name:address`` or ``name=address`` as (name, address); the address may be ``host-gateway``."""
    separator = "=" if "=" in value else ":"
    name, _, place = value.partition(separator)
    if not name or not NAME_LETTERS.issuperset(name):
        raise ValueError("name:address")
    return name, place if place == "host-gateway" else address(place)


def line_word(value: str) -> str:
    """A word for a line of /etc/resolv.conf: no blanks and no line breaks."""
    if not value or len(value.split()) != 1 or value != value.strip() or "\0" in value:
        raise ValueError("one word")
    return value


def ports(value: str) -> str:
    """``80``, ``80/udp`` or ``8000-8010/tcp``, with the protocol spelt out."""
    numbers, slash, protocol = value.partition("/")
    first, dash, last = numbers.partition("-")
    good = all(is_decimal(port) and 0 < int(port[:6]) < 65536 for port in (first, last if dash else first))
    if not good or (dash and int(first) > int(last)) or (slash and protocol.lower() not in ("tcp", "udp", "sctp")):
        raise ValueError("a port or range such as 80, 53/udp or 8000-8010")
    return f"{numbers}/{protocol.lower() if slash else 'tcp'}"


def network(value: str) -> str:
    """``none`` or ``host``."""
    if value in ("none", "host"):
        return value
    raise UsageError(f"--network {value} is not supported yet: only --network none|host")
