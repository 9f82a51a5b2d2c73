"""rtnetlink(7), as much as the start of a container needs: bring an interface up, move it to a namespace."""

from __future__ import annotations

import _socket
import os
from struct import pack, unpack_from

NETLINK_ROUTE = 0
NLMSG_ERROR = 2
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
RTM_NEWLINK = 16
IFF_UP = 0x1
IFLA_IFNAME, IFLA_NET_NS_FD = 3, 28


def _attribute(kind: int, data: bytes) -> bytes:
    """struct rtattr, padded to four bytes."""
    length = 4 + len(data)
    return pack("HH", length, kind) + data + bytes(-length % 4)


def _request(kind: int, body: bytes) -> None:
    """Send one message and wait for its acknowledgement.  :raises OSError: with the kernel's errno."""
    message = pack("IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body
    link = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, NETLINK_ROUTE)
    try:
        link.send(message)
        reply = link.recv(8192)
    finally:
        link.close()
    kind, error = unpack_from("H", reply, 4)[0], -unpack_from("i", reply, 16)[0]
    if kind == NLMSG_ERROR and error:
        raise OSError(error, os.strerror(error))


def _set_link(index: int, flags: int, change: int, *attributes: bytes) -> None:
    header = pack("BxHiII", _socket.AF_UNSPEC, 0, index, flags, change)
    _request(RTM_NEWLINK, header + b"".join(attributes))


def interface_index(name: str) -> int:
    """Index of the interface ``name`` in this network namespace.  :raises OSError:"""
    return int(_socket.if_nametoindex(name))


def set_up(name: str) -> None:
    """``ip link set NAME up``."""
    _set_link(interface_index(name), IFF_UP, IFF_UP)


def move(name: str, netns: int, new_name: str = "") -> None:
    """``ip link set NAME netns FD [name NEW]``."""
    renamed = (_attribute(IFLA_IFNAME, new_name.encode() + b"\0"),) if new_name else ()
    _set_link(interface_index(name), 0, 0, _attribute(IFLA_NET_NS_FD, pack("i", netns)), *renamed)
