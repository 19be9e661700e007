# SPDX-License-Identifier: Apache-2.0
"""What rtnetlink(7) tells of links and routes, and neither /proc nor ioctl: masters, all next hops.

Read by hand: pyroute2 would cost every agent 0.15 s at start and 20 MB for good.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from pyproxy.model import Address, Family, Prefix

# include/uapi/linux/rtnetlink.h
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE, RTM_GETTFILTER = 18, 22, 26, 46
NLMSG_ERROR, NLMSG_DONE = 2, 3  # include/uapi/linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
# include/uapi/linux/if_link.h
IFLA_ADDRESS, IFLA_QDISC, IFLA_MASTER, IFLA_LINKINFO, IFLA_LINK_NETNSID = 1, 6, 10, 18, 37
IFLA_INFO_KIND = 1
IFLA_INFO_SLAVE_KIND = 4
BRIDGE = "bridge"  # br_link_ops of net/bridge/br_netlink.c
# include/uapi/linux/if_addr.h
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_SECONDARY = 0x01  # IPv6: a temporary one
IFA_F_UNUSABLE = 0x08 | 0x20 | 0x40  # DAD failed, deprecated, tentative
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_VIA = 6, 7, 9, 18
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTN_UNICAST, RTN_LOCAL = 1, 2
RT_SCOPE_UNIVERSE = 0
# what the kernel says where no route leads (fib_props of net/ipv4/fib_semantics.c)
NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL, errno.EAGAIN}

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_ADDRESS = struct.Struct("=4BI")  # struct ifaddrmsg
_HOP = struct.Struct("=HBBi")  # struct rtnexthop
_FILTER = struct.Struct("=B3xiIII")  # struct tcmsg
_BUFFER_BYTES = 1 << 16


class Port(NamedTuple):
    """A device that belongs to another one, and the kernel's words for its kind and the other's.

    A physical one has no kind.
    """

    ifindex: int
    kind: str
    of: str = "bridge"


class Link(NamedTuple):
    """A device. `leaves`: its other end is in another network namespace.

    `master` is the bridge, bond or VRF that it belongs to, by its ifindex, 0 for none. `kind` and
    `qdisc` are the kernel's words for what it is, and for how packets queue at it.
    """

    ifindex: int
    kind: str
    master: int
    qdisc: str
    leaves: bool


class Hop(NamedTuple):
    """A way out of the node by a route of the main table.

    `to` is where it leads; `gateway` is b"" where there is none, or one of the other family.
    `source` is what the node sends from by it, b"" where the route does not say. `is_direct`: there
    is no gateway at all.
    """

    ifindex: int
    is_default: bool
    metric: int
    to: Prefix = Prefix(b"", 0)
    gateway: Address = b""
    source: Address = b""
    is_direct: bool = False


class Own(NamedTuple):
    """An address of a device, and how long the prefix of its subnet is."""

    ifindex: int
    address: Address
    length: int


def ports(master: int) -> list[Port]:
    """Return the ports of a bridge, or the slaves of a bond, by its ifindex.

    The kernel is asked for them alone: a node has hundreds of devices, which change all the time.
    """
    found = []
    wanted = attribute(IFLA_MASTER, struct.pack("=i", master))
    for head, attributes in _dump(RTM_GETLINK, _LINK, 0, wanted):
        if _number(attributes.get(IFLA_MASTER, b"")) != master:
            continue
        kinds = (IFLA_INFO_KIND, IFLA_INFO_SLAVE_KIND)
        found.append(Port(head[2], *(_kind(attributes, which) for which in kinds)))
    return found


def links() -> list[Link]:
    """Return all devices of this network namespace."""
    return [
        Link(
            head[2],
            _kind(attributes),
            _number(attributes.get(IFLA_MASTER, b"")),
            _word(attributes.get(IFLA_QDISC, b"")),
            IFLA_LINK_NETNSID in attributes,
        )
        for head, attributes in _dump(RTM_GETLINK, _LINK, 0)
    ]


def filters(ifindex: int, parent: int) -> set[int]:
    """Return the preferences of the tc filters on one side of a device.

    `parent` is that of a clsact qdisc; an ingress qdisc has the same. Raises OSError.
    """
    head = _FILTER.pack(0, ifindex, 0, parent, 0)
    answers = ask(socket.NETLINK_ROUTE, RTM_GETTFILTER, NLM_F_DUMP, head)
    return {_FILTER.unpack_from(body)[4] >> 16 for body in answers}


def bridges() -> dict[int, bytes]:
    """Return the link-layer addresses of the kernel's bridges, by their ifindex."""
    wanted = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, BRIDGE.encode() + b"\0"))
    found = _dump(RTM_GETLINK, _LINK, 0, wanted)
    return {
        head[2]: attributes.get(IFLA_ADDRESS, b"")
        for head, attributes in found
        if _kind(attributes) == BRIDGE
    }


def hops(family: Family, tunnels: Container[int] = ()) -> list[Hop]:
    """Return where packets leave the node: each next hop with a gateway or of a default route.

    By devices in `tunnels` all routes lead there: they have no neighbours that a gateway could be.
    """
    number = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    found = []
    for head, attributes in _dump(RTM_GETROUTE, _ROUTE, number):
        _, length, _, _, table, _, _, kind, _ = head
        if table != RT_TABLE_MAIN or kind != RTN_UNICAST:
            continue
        metric = _number(attributes.get(RTA_PRIORITY, b""))
        source = attributes.get(RTA_PREFSRC, b"")
        ways = _next_hops(attributes.get(RTA_MULTIPATH, b"")) or [
            (_number(attributes.get(RTA_OIF, b"")), attributes)
        ]
        for ifindex, own in ways:
            is_direct = RTA_GATEWAY not in own and RTA_VIA not in own
            if not length or not is_direct or ifindex in tunnels:
                to = Prefix(attributes.get(RTA_DST, bytes(family.address_bytes)), length)
                gateway = own.get(RTA_GATEWAY, b"")
                found.append(Hop(ifindex, not length, metric, to, gateway, source, is_direct))
    return found


def source_towards(address: Address) -> Address:
    """Return what the kernel sends from to an address, b"" where no route leads there.

    As it chooses for a socket that is bound to none. Raises OSError where it cannot be asked.
    """
    number = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    bits = 8 * len(address)
    head = _ROUTE.pack(number, bits, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, address)
    try:
        answers = list(ask(socket.NETLINK_ROUTE, RTM_GETROUTE, NLM_F_ACK, head))
    except OSError as error:
        if error.errno in NO_ROUTE:
            return b""
        raise
    found = (dict(attributes_of(body[_ROUTE.size :])) for body in answers)
    return next((each[RTA_PREFSRC] for each in found if RTA_PREFSRC in each), b"")


def primary_addresses(family: Family) -> list[Own]:
    """Return the addresses that devices may send from, in the kernel's order.

    Not those of a smaller scope, secondary or temporary ones, or ones that must not be used.
    """
    number = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    found = []
    for head, attributes in _dump(RTM_GETADDR, _ADDRESS, number):
        _, length, flags, scope, ifindex = head
        flags = _number(attributes.get(IFA_FLAGS, b"")) or flags
        address = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS, b"")
        unusable = IFA_F_SECONDARY | (IFA_F_UNUSABLE if family is Family.IPV6 else 0)
        if scope == RT_SCOPE_UNIVERSE and not flags & unusable:
            found.append(Own(ifindex, address, length))
    return found


def local_prefixes(family: Family, without: Container[int] = ()) -> set[Prefix]:
    """Return the addresses that packets may have which are for this node itself.

    All that the kernel calls local, loopback ones and whole networks too; not those of devices in
    `without`. Networks in other tables than `local` are not asked by `addrtype` (inet_addr_type):
    transparent proxies have everything in one.
    """
    number = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    found = set()
    for head, attributes in _dump(RTM_GETROUTE, _ROUTE, number):
        _, length, _, _, table, _, _, kind, _ = head
        if kind != RTN_LOCAL or _number(attributes.get(RTA_OIF, b"")) in without:
            continue
        if table == RT_TABLE_LOCAL or length == 8 * family.address_bytes:
            # a route to everything has no destination
            found.add(Prefix(attributes.get(RTA_DST, bytes(family.address_bytes)), length))
    return found


def _kind(attributes: Mapping[int, bytes], which: int = IFLA_INFO_KIND) -> str:
    """Return the kernel's word for a link's kind, "" for one of hardware; or for its master's."""
    info = dict(attributes_of(attributes.get(IFLA_LINKINFO, b"")))
    return _word(info.get(which, b""))


def _word(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("ascii", "replace")


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute as it stands in a message (struct nlattr), padded."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _dump(
    kind: int, layout: struct.Struct, family: int, wanted: bytes = b""
) -> Iterator[tuple[tuple[int, ...], dict[int, bytes]]]:
    """Give the head and the attributes of each answer; raises OSError.

    `wanted` are attributes by which the kernel leaves answers out, if it can.
    """
    head = bytes([family]) + bytes(layout.size - 1) + wanted
    for body in ask(socket.NETLINK_ROUTE, kind, NLM_F_DUMP, head):
        yield layout.unpack_from(body), dict(attributes_of(body[layout.size :]))


def ask(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """Send a request by netlink(7) and give the body of each answer; raises OSError.

    `flags` come on top of NLM_F_REQUEST; NLM_F_ACK alone has no answers but that it was done.
    """
    request = _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
        netlink.bind((0, 0))
        netlink.send(request)
        while True:
            for answer, found in _messages(netlink.recv(_BUFFER_BYTES)):
                if answer == NLMSG_ERROR and (error := -_number(found[:4])):
                    raise OSError(error, os.strerror(error))
                if answer in {NLMSG_DONE, NLMSG_ERROR}:
                    return
                yield found


class Request(NamedTuple):
    """A message of a batch; `flags` are all that it has."""

    kind: int
    flags: int
    body: bytes


def batch(protocol: int, requests: Sequence[Request]) -> None:
    """Send requests at once, and wait until those with NLM_F_ACK are done; raises OSError."""
    sent = b"".join(
        _HEADER.pack(_HEADER.size + len(each.body), each.kind, each.flags, number, 0) + each.body
        for number, each in enumerate(requests, 1)
    )
    waiting = sum(bool(each.flags & NLM_F_ACK) for each in requests)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as netlink:
        netlink.bind((0, 0))
        netlink.send(sent)
        while waiting > 0:
            for answer, found in _messages(netlink.recv(_BUFFER_BYTES)):
                if answer == NLMSG_ERROR and (error := -_number(found[:4])):
                    raise OSError(error, os.strerror(error))
                waiting -= answer == NLMSG_ERROR


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        yield kind, data[at + _HEADER.size : at + length]
        at += _aligned(length)


def attributes_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the attributes that follow each other in a message or in one of them, by number."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        # the upper bits say how it is laid out (NLA_F_NESTED)
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += max(_aligned(length), _ATTRIBUTE.size)


def _next_hops(data: bytes) -> list[tuple[int, dict[int, bytes]]]:
    found, at = [], 0
    while at + _HOP.size <= len(data):
        length, _, _, ifindex = _HOP.unpack_from(data, at)
        found.append((ifindex, dict(attributes_of(data[at + _HOP.size : at + length]))))
        at += max(_aligned(length), _HOP.size)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _number(raw: bytes) -> int:
    """Return a 32-bit attribute, 0 where there is none."""
    return int(struct.unpack("=i", raw)[0]) if len(raw) == 4 else 0
