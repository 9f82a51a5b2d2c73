"""/etc/hosts, /etc/hostname, /etc/resolv.conf and /etc/passwd, compared with what docker 20.10 and podman wrote."""

from __future__ import annotations

import pytest

from coracle.engine.etc_files import hostname, hosts, passwd, resolv_conf
from coracle.engine.user import User
from coracle.errors import UsageError

# docker run --network none cat /etc/hosts; later versions write fe00:: for fe00::0.
DOCKER_HOSTS = b"""127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def test_hostname() -> None:
    assert hostname("web") == b"web\n"


def test_hosts_without_a_network() -> None:
    assert hosts("web") == DOCKER_HOSTS + b"127.0.0.1\tweb\n"
    assert hosts("") == DOCKER_HOSTS


def test_hosts_with_an_address() -> None:
    assert hosts("web", network="bridge", address="172.17.0.2") == DOCKER_HOSTS + b"172.17.0.2\tweb\n"


def test_added_hosts_come_before_the_own_name() -> None:
    extra = [("db", "10.0.0.1"), ("v6", "::1")]
    assert hosts("web", extra=extra) == DOCKER_HOSTS + b"10.0.0.1\tdb\n::1\tv6\n127.0.0.1\tweb\n"


@pytest.mark.parametrize(
    ("name", "domain", "line"),
    [("a", "d.e", b"a.d.e a"), ("a.b.c", "", b"a.b.c a"), ("a.b", "c", b"a.b.c a"), ("a", "", b"a")],
)
def test_full_and_short_names(name: str, domain: str, line: bytes) -> None:
    assert hosts(name, domain).splitlines()[-1] == b"127.0.0.1\t" + line


def test_hosts_on_the_host_network_are_the_hosts_own() -> None:
    own = b"127.0.0.1 localhost\n127.0.0.1 machine\n# caf\xe9\n"
    assert hosts("machine", network="host", host_file=own) == own
    assert hosts("machine", network="host", host_file=own.rstrip(), extra=[("x", "1.2.3.4")]) == own + b"1.2.3.4\tx\n"


def test_host_gateway() -> None:
    extra = [("up", "host-gateway")]
    assert b"127.0.0.1\tup\n" in hosts("h", network="host", extra=extra)
    assert b"172.17.0.1\tup\n" in hosts("h", network="bridge", extra=extra, gateway="172.17.0.1")
    with pytest.raises(UsageError, match="--add-host up:host-gateway: the host cannot be reached with --network none"):
        hosts("h", extra=extra)


HOST_RESOLV = b"""# made by a machine
; another comment
nameserver 127.0.0.53
nameserver 10.0.0.2 trailing
nameserver ::1
nameserver fe80::1%eth0
domain first.example
search a.example b.example
options edns0
options trust-ad
sortlist 130.155.160.0/255.255.240.0
"""


def test_resolv_conf_of_the_host_network() -> None:
    text = resolv_conf(HOST_RESOLV, "host").decode()
    assert text.splitlines() == [
        "nameserver 127.0.0.53",
        "nameserver 10.0.0.2",
        "nameserver ::1",
        "nameserver fe80::1%eth0",
        "search a.example b.example",
        "options edns0 trust-ad",
        "sortlist 130.155.160.0/255.255.240.0",
    ]


def test_loopback_servers_are_out_of_reach() -> None:
    lines = resolv_conf(HOST_RESOLV).decode().splitlines()
    assert lines[:2] == ["nameserver 10.0.0.2", "nameserver fe80::1%eth0"]


def test_nobody_is_asked_who_was_not_chosen() -> None:
    assert b"nameserver" not in resolv_conf(b"nameserver 127.0.0.1\n")


def test_options_replace_what_the_host_says() -> None:
    text = resolv_conf(HOST_RESOLV, "none", ["127.0.0.9"], ["q.r"], ["ndots:2"])
    lines = text.decode().splitlines()
    assert lines == ["nameserver 127.0.0.9", "search q.r", "options ndots:2", "sortlist 130.155.160.0/255.255.240.0"]


def test_a_dot_means_no_search_domain() -> None:
    assert b"search" not in resolv_conf(HOST_RESOLV, search=["."])


def test_empty_and_damaged_resolv_conf() -> None:
    assert resolv_conf(b"") == b""
    assert resolv_conf(b"nameserver\nsearch\noptions\n\xff\xfe\n") == b"\xff\xfe\n"


def test_passwd_entry_for_an_unknown_user() -> None:
    text = b"root:x:0:0:root:/root:/bin/sh"
    user = User(1234, 56)
    assert passwd(text, user, "/work") == text + b"\n1234:*:1234:56:container user:/work:/bin/sh\n"
    assert passwd(None, user, "/") == b"1234:*:1234:56:container user:/:/bin/sh\n"
    assert passwd(text, User(0, 0), "/") is None
    assert passwd(text, user, "/a:b") == text + b"\n1234:*:1234:56:container user:/:/bin/sh\n"
