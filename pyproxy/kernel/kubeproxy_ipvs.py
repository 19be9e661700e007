# SPDX-License-Identifier: Apache-2.0
"""What kube-proxy's ipvs mode has made: virtual servers, kube-ipvs0 and sets of ipset.

Other programs have virtual servers, too. Its own have an address of kube-ipvs0, or a port of its
sets of NodePorts; the latter have addresses of the node.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from pyproxy.errors import KernelError
from pyproxy.kernel.addresses import IPVS_DEVICE, PROC_NET

PROTOCOLS = {
    "TCP": socket.IPPROTO_TCP,
    "UDP": socket.IPPROTO_UDP,
    "SCTP-HASH": socket.IPPROTO_SCTP,
}
_NODE_PORT = "NODE-PORT-"
_SETS = (
    "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "HEALTH-CHECK-NODE-PORT", "IPVS-IPS",
    "LOAD-BALANCER", "LOAD-BALANCER-FW", "LOAD-BALANCER-LOCAL", "LOAD-BALANCER-SOURCE-CIDR",
    "LOAD-BALANCER-SOURCE-IP", "LOOP-BACK",
    *(f"{_NODE_PORT}{infix}{each}" for each in PROTOCOLS for infix in ("", "LOCAL-")),
)  # fmt: skip
_LONGEST_NAME = 31  # IPSET_MAXNAMELEN with its end
# a kernel without ip_set (nfnetlink_rcv_msg)
_NO_SETS = {errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP}


def has_device() -> bool:
    """Return whether there is a kube-ipvs0 in this network namespace."""
    return IPVS_DEVICE in (name for _, name in socket.if_nameindex())


def connections() -> int:
    """Return how many TCP connections IPVS has that are established: they end with its servers."""
    try:
        lines = (PROC_NET / "ip_vs_conn").read_text("ascii").splitlines()
    except OSError:  # no IPVS
        return 0
    return sum("ESTABLISHED" in line.split() for line in lines)


def set_names() -> Iterator[str]:
    """Give the names of kube-proxy's sets, in both families; long ones it cuts."""
    for name in _SETS:
        yield f"KUBE-{name}"
        yield f"KUBE-6-{name}"[:_LONGEST_NAME]


def remove_servers() -> int:
    """Delete its virtual servers; return how many. Without kube-ipvs0 nothing tells whose they are.

    Raises KernelError or OSError.
    """
    if not has_device() or not (PROC_NET / "ip_vs").exists():
        return 0
    from pyroute2 import IPVS  # noqa: PLC0415 - an agent does without all of it
    from pyroute2.ipvs import IPVSService  # noqa: PLC0415 - as above

    with _speaking("IPVS"), IPVS() as ipvs:
        found = [IPVSService.from_message(each) for each in ipvs.service("dump")]
        addresses, ports = _device_addresses(), _node_ports()
        ours = [each for each in found if is_kube_proxys(each, addresses, ports)]
        for each in ours:
            ipvs.service("del", service=each)
    return len(ours)


def is_kube_proxys(server: Any, addresses: Iterable[str], ports: Iterable[tuple[int, int]]) -> bool:
    """Return whether a virtual server is kube-proxy's, by its address or by protocol and port."""
    if not server.get("addr"):
        return False  # by a mark
    address = str(ipaddress.ip_address(server["addr"]))
    return address in addresses or (server["protocol"], server["port"]) in ports


def remove_device() -> bool:
    """Delete kube-ipvs0 with its addresses; return whether there was one. Raises KernelError."""
    if not has_device():
        return False
    from pyroute2 import IPRoute  # noqa: PLC0415 - as above

    with _speaking(IPVS_DEVICE), IPRoute() as route:
        route.link("del", index=socket.if_nametoindex(IPVS_DEVICE))
    return True


def remove_sets() -> tuple[int, list[str]]:
    """Destroy its sets; return how many, and those that rules still use. Raises KernelError."""
    from pyroute2.ipset import IPSet  # noqa: PLC0415 - as above

    used: list[str] = []
    try:
        with _speaking("ipset"), IPSet() as ipset:
            gone = sum(_destroy(ipset, name, used) for name in set_names())
    except KernelError as error:
        if error.errno in _NO_SETS:
            return 0, []
        raise
    return gone, used


def _destroy(ipset: Any, name: str, used: list[str]) -> bool:
    from pyroute2.ipset import IPSetError  # noqa: PLC0415 - as above

    try:
        ipset.destroy(name)
    except IPSetError as error:
        if error.code != errno.ENOENT:
            used.append(name)
        return False
    return True


def _device_addresses() -> set[str]:
    from pyroute2 import IPRoute  # noqa: PLC0415 - as above

    with IPRoute() as route:
        found = route.get_addr(index=socket.if_nametoindex(IPVS_DEVICE))
        return {str(ipaddress.ip_address(each.get_attr("IFA_ADDRESS"))) for each in found}


def _node_ports() -> set[tuple[int, int]]:
    """Return protocol and port of the NodePorts that its sets have."""
    from pyroute2.ipset import IPSet, NoSuchObject  # noqa: PLC0415 - as above

    found: set[tuple[int, int]] = set()
    with IPSet() as ipset:
        for suffix, protocol in PROTOCOLS.items():
            for prefix in ("KUBE-", "KUBE-6-"):
                with contextlib.suppress(NoSuchObject):
                    ports = _ports(ipset, f"{prefix}{_NODE_PORT}{suffix}")
                    found.update((protocol, port) for port in ports)
    return found


def _ports(ipset: Any, name: str) -> Iterator[int]:
    for message in ipset.list(name):
        entries = message.get_attr("IPSET_ATTR_ADT")
        for entry in entries.get_attrs("IPSET_ATTR_DATA") if entries else ():
            if port := entry.get_attr("IPSET_ATTR_PORT_FROM"):
                yield int(port)


@contextlib.contextmanager
def _speaking(what: str) -> Iterator[None]:
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415 - as above

    try:
        yield
    except NetlinkError as error:
        raise KernelError(f"{what}: {error}", errno=error.code) from error
