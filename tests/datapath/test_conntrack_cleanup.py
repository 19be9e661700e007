# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's cases of stale connections: what its clean-up deletes goes elsewhere by itself.

An entry of ours is left where it is; the next packet asks whether its backend still is one. So a
deleted entry is one that opens anew, a kept one goes on as it is (parity A14).
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import NodeAddressFlag
from pyproxy.kube.decode import decode
from pyproxy.kube.events import Kind
from pyproxy.model import EndpointSlice, Family, Protocol, Service
from pyproxy.plan.options import Options
from pyproxy.plan.world import World
from tests.datapath import packets
from tests.datapath.ends import client
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import End
from tests.datapath.prog_run import TC_NEXT
from tests.flows.conntrack import NODE_IP, Entry, Row, read_cleanup
from tests.flows.load import KUBE_PROXY
from tests.flows.objects import Json, service_object, slice_object

FAMILY = Family.IPV4
CLEANUP = read_cleanup(KUBE_PROXY)
VIA = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
AFTER = [
    *((address, "ready") for address in CLEANUP.endpoints["serving"]),
    *((address, "notready") for address in CLEANUP.endpoints["notServing"]),
]


@pytest.fixture
def hooks(node: Node, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device of a node that has an address for NodePorts."""
    path = node.loaded[FAMILY].path
    with Hooks(node, FAMILY, Wire.ETHERNET, tmp_path) as found:
        path.write_addresses({ip_address(NODE_IP).packed: NodeAddressFlag.PORTS})
        yield found
        path.write_addresses({})


class Proxied:
    """The service of the cases, as its endpoints are now."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._world = World(Options("here"))

    def put(self, endpoints: list[tuple[str, str]], port: int) -> None:
        """Give the service these endpoints, each with its state."""
        short = CLEANUP.service
        made = service_object(_service(short), 0)
        service = decode(Kind.SERVICE, made).object
        assert isinstance(service, Service)
        self._world.put_service(service)
        found = decode(Kind.ENDPOINT_SLICE, _slice(endpoints, port)).object
        assert isinstance(found, EndpointSlice)
        self._world.put_slice(found)
        self._apply()

    def delete(self) -> None:
        """Delete the service."""
        service = decode(Kind.SERVICE, service_object(_service(CLEANUP.service), 0)).object
        assert isinstance(service, Service)
        self._world.drop_service(service.name)
        self._apply()

    def _apply(self) -> None:
        for key, plan in self._world.replan().items():
            self._node.syncers[key.family].apply({key.name: plan})


def _service(short: Json) -> Json:
    ports = [
        {
            "name": name.lower(),
            "port": short["port"],
            "protocol": name,
            "nodePort": short["nodePort"],
        }
        for name in short["protocols"]
    ]
    return {
        "name": "ns/stale",
        "type": "LoadBalancer",
        "clusterIP": short["clusterIP"],
        "externalIPs": [short["externalIP"]],
        "lbIngress": [{"ip": short["lbIP"]}],
        "ports": ports,
    }


def _slice(endpoints: list[tuple[str, str]], port: int) -> Json:
    names = CLEANUP.service["protocols"]
    return slice_object(
        {
            "service": "ns/stale",
            "addressType": "IPv4",
            "ports": [{"name": n.lower(), "port": port, "protocol": n} for n in names],
            "endpoints": [{"ip": address, "state": state} for address, state in endpoints],
        },
        0,
    )


def _end(address: str, port: int) -> End:
    return End(ip_address(address).packed, port)


class Asking:
    """The client of one entry, whose packets come in by the device."""

    def __init__(self, hooks: Hooks, entry: Entry, number: int) -> None:
        self._hooks = hooks
        self._protocol = VIA[entry.protocol]
        self._client = client(FAMILY, port=20_000 + number)
        self._to = _end(entry.address, entry.port)

    def begin(self) -> End:
        """Send what begins a connection and return where it went; TCP's backend answers."""
        went = self._send(first=True)
        if self._protocol is Protocol.TCP and went != self._to:
            self._hooks.egress(self._hooks.answer(self._protocol, went, self._client))
            self.go_on()
        return went

    def go_on(self) -> End:
        """Send another packet of the same connection and return where it went."""
        return self._send(first=False)

    def _send(self, *, first: bool) -> End:
        came = self._hooks.ingress(self._packet(self._to, first=first))
        assert came.verdict == TC_NEXT
        size = packets.IP_BYTES[FAMILY]
        went = End(came.data[16:20], int.from_bytes(came.data[size + 2 : size + 4], "big"))
        assert came == passed(self._packet(went, first=first))
        return went

    def _packet(self, to: End, *, first: bool) -> bytes:
        if self._protocol is Protocol.SCTP:
            ports = self._client.port.to_bytes(2, "big") + to.port.to_bytes(2, "big")
            return packets.ip(self._client.address, to.address, packets.SCTP, ports + bytes(8))
        make = self._hooks.first if first else self._hooks.further
        return make(self._protocol, self._client, to)


@pytest.mark.parametrize("row", CLEANUP.rows, ids=[row.name for row in CLEANUP.rows])
def test_conntrack_cleanup(hooks: Hooks, row: Row) -> None:
    """A connection goes on or opens anew as kube-proxy keeps or deletes its entry."""
    for number, entry in enumerate(row.entries):
        proxied = Proxied(hooks.node)
        if entry.endpoint:
            proxied.put([(entry.endpoint, "ready")], entry.endpoint_port)
        asking = Asking(hooks, entry, number)
        went = asking.begin()
        _expect_before(entry, went)
        proxied.put(AFTER, CLEANUP.endpoints["port"])
        opened = hooks.node.counters(FAMILY)["packet_open"]
        goes = asking.go_on()
        opens = hooks.node.counters(FAMILY)["packet_open"] - opened
        serving = _end(CLEANUP.endpoints["serving"][0], CLEANUP.endpoints["port"])
        assert (goes, opens) == ((went, 0) if entry.is_kept else (serving, 1)), entry
        proxied.delete()
        hooks.node.forget_connections()


def _expect_before(entry: Entry, went: End) -> None:
    """The connection is the entry that is meant; SCTP, and what is no service's, is nobody's."""
    is_ours = entry.port in {CLEANUP.service["port"], CLEANUP.service["nodePort"]}
    if entry.endpoint and is_ours and entry.protocol != "SCTP":
        assert went == _end(entry.endpoint, entry.endpoint_port)
    else:
        assert went == _end(entry.address, entry.port)


@pytest.mark.parametrize("address", ["clusterIP", "externalIP", "lbIP"])
def test_conntrack_cleanup_newer_without_serving_endpoints(hooks: Hooks, address: str) -> None:
    """The last endpoint has gone: the next datagram is refused, it reaches no pod."""
    to, port = CLEANUP.service[address], CLEANUP.service["port"]
    gone, proxied = CLEANUP.endpoints["gone"][0], Proxied(hooks.node)
    proxied.put([(gone, "ready")], 9090)
    asking = Asking(hooks, Entry("UDP", to, port, gone, 9090, is_kept=False), 0)
    assert asking.begin() == _end(gone, 9090)
    proxied.put([(gone, "notready")], 9090)
    before = hooks.node.counters(FAMILY)
    datagram = hooks.udp(client(FAMILY, port=20_000), _end(to, port))
    assert hooks.ingress(datagram).verdict != TC_NEXT
    assert hooks.grown(before)["packet_refused"] == 1


@pytest.mark.parametrize("address", ["clusterIP", "externalIP", "lbIP"])
def test_conntrack_cleanup_newer_deleted_service(hooks: Hooks, address: str) -> None:
    """The service has gone: the next datagram is nobody's, and passes as it is."""
    to, port = CLEANUP.service[address], CLEANUP.service["port"]
    gone, proxied = CLEANUP.endpoints["gone"][0], Proxied(hooks.node)
    proxied.put([(gone, "ready")], 9090)
    asking = Asking(hooks, Entry("UDP", to, port, gone, 9090, is_kept=False), 0)
    assert asking.begin() == _end(gone, 9090)
    proxied.delete()
    assert asking.go_on() == _end(to, port)


def test_all_stale_entries_are_told() -> None:
    """kube-proxy's own test deletes 14; of the 58 that it keeps 18 stand in no line."""
    entries = [entry for row in CLEANUP.rows for entry in row.entries]
    assert sum(not entry.is_kept for entry in entries) == 14
    assert sum(entry.is_kept for entry in entries) == 58 - 18
