# SPDX-License-Identifier: Apache-2.0
"""A router with the packet path between a client and backends: what the stack does is real."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from pyproxy.kernel.addresses import FAST, PEER, PORT, UPLINK, DeviceFacts
from pyproxy.kernel.devices import devices
from pyproxy.kernel.fastpath import FastPath
from pyproxy.kernel.maps import ArrayMap
from pyproxy.kernel.packetpath import PacketPath
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import ConnectionTimeouts, SocketTranslation
from tests.datapath.asking import TIMEOUT_S
from tests.datapath.ends import SOURCE_PORTS, backend, client, frontend, node_address, plan
from tests.datapath.flavours import KINDS
from tests.datapath.flowtable import FlowTable, Record
from tests.datapath.node import Node, run_ip
from tests.datapath.packets import End
from tests.datapath.skipping import BOTH
from tests.lab import netns

QUIET = {f"net/ipv6/conf/{which}/accept_dad": "0" for which in ("all", "default")}
FORWARDING = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv6/conf/default/forwarding": "1",
}
ROUTER, ASKING, SERVING = "router", "asking", "serving"
BRIDGE, BRIDGE_MAC = "bridge", "02:b6:1d:70:5e:9a"
MACS = {
    ASKING: ("02:a7:41:3c:9e:01", "02:5d:08:f3:62:1b"),
    SERVING: ("02:13:c9:70:b4:e5", "02:e8:36:ad:57:92"),
}
ELSEWHERE, HERE = 1, 2  # services: of the first one the client is hidden
# hosts send less than that: an IPv6 router cuts nothing
MTUS, HOST_MTU = {ASKING: 1480, SERVING: 1440}, 1400
DOMAINS = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


class Ends(NamedTuple):
    """The router's devices, by ifindex: the client's, and that of the backends."""

    asking: int
    serving: int


class Routing:
    """The namespaces of a family, joined by veths; programs are on both of the router's devices."""

    def __init__(self, node: Node, family: Family, directory: Path, undo: ExitStack) -> None:
        self.node, self.family, self._undo = node, family, undo
        self._directory = directory
        self._undo.callback(self._forget)
        self.paths = {name: self._namespace(name) for name in (ROUTER, ASKING, SERVING)}
        self._plug(ASKING, [client(family).address])
        self._plug(SERVING, [backend(family, n).address for n in (ELSEWHERE, HERE)])
        present = netns.inside(self.paths[ROUTER], devices)
        index = {device.name: device.ifindex for device in present}
        self.ends = Ends(index[ASKING], index[SERVING])
        self.devices = present
        self.table = self._undo.enter_context(closing(FlowTable(node.loaded[family])))
        self._undo.callback(self.table.clear)
        self.configure()
        for protocol in (Protocol.TCP, Protocol.UDP):
            node.apply(
                plan(family, protocol, ELSEWHERE, [ELSEWHERE]),
                plan(family, protocol, HERE, [HERE], local=1),
            )
        self._undo.callback(node.detach, present, self.paths[ROUTER])
        assert node.attach(present, self.paths[ROUTER]) == {}

    @property
    def path(self) -> PacketPath:
        """What the agent tells the packet path."""
        return self.node.loaded[self.family].path

    def _forget(self) -> None:
        """Have the node as other tests expect it."""
        self.node.clear()
        self.clear_ways()
        self.path.write_devices({})
        self.path.write_fast_path(FastPath(0))
        self.node.configure()

    def _namespace(self, name: str) -> Path:
        path = self._directory / name
        netns.create(path, QUIET | (FORWARDING if name == ROUTER else {}))
        self._undo.callback(path.unlink)
        self._undo.callback(netns.unmount, path)
        return path

    def _plug(self, name: str, addresses: list[bytes]) -> None:
        """Join the router to another namespace, which has these addresses."""
        router, other = self.paths[ROUTER], self.paths[name]
        near, far = MACS[name]
        gateway = self.gateway(name)
        length = 32 if self.family is Family.IPV4 else 128
        peer = f"peer name {name} address {far} netns {other}"
        run_ip(router, f"link add name {name} address {near} type veth {peer}")
        run_ip(router, "link set lo up", f"link set {name} mtu {MTUS[name]} up")
        run_ip(router, f"addr add {gateway}/{length} dev {name}")
        run_ip(other, "link set lo up", f"link set {name} mtu {HOST_MTU} up")
        for each in map(ipaddress.ip_address, addresses):
            run_ip(other, f"addr add {each}/{length} dev {name}")
            run_ip(router, f"route add {each}/{length} dev {name}")
        run_ip(other, f"route add {gateway} dev {name}", f"route add default via {gateway}")

    def gateway(self, name: str) -> str:
        """Return the router's address towards a namespace."""
        return str(ipaddress.ip_address(node_address(self.family, 1 + (name == SERVING))))

    def configure(
        self, options: Options | None = None, *, asking: int = FAST, serving: int = FAST
    ) -> None:
        """Write the settings, and which flags the two devices have besides UPLINK."""
        self.path.configure(
            options or Options("here"), SocketTranslation.ALL, ConnectionTimeouts(), SOURCE_PORTS
        )
        self.path.write_devices(
            {
                self.ends.asking: DeviceFacts(node_address(self.family, 1), UPLINK | asking),
                self.ends.serving: DeviceFacts(node_address(self.family, 2), UPLINK | serving),
            }
        )
        self.path.write_fast_path(BOTH)

    def bridge_asking(self) -> None:
        """Make the client's device a port of a bridge, which has the router's address then."""
        router, gateway = self.paths[ROUTER], self.gateway(ASKING)
        address = ipaddress.ip_address(client(self.family).address)
        length = address.max_prefixlen
        run_ip(router, f"addr flush dev {ASKING} scope global", f"link add {BRIDGE} type bridge")
        run_ip(router, f"link set {BRIDGE} address {BRIDGE_MAC} mtu {MTUS[ASKING]} up")
        run_ip(router, f"link set {ASKING} master {BRIDGE}")
        run_ip(router, f"addr add {gateway}/{length} dev {BRIDGE}")
        run_ip(router, f"route replace {address}/{length} dev {BRIDGE}")
        (bridge,) = (each for each in netns.inside(router, devices) if each.name == BRIDGE)
        self._undo.callback(self.node.detach, [bridge], router)
        assert self.node.attach([bridge], router) == {}
        mac = bytes.fromhex(BRIDGE_MAC.replace(":", ""))
        near, far = node_address(self.family, 1), node_address(self.family, 2)
        self.path.write_devices(
            {
                self.ends.asking: DeviceFacts(near, UPLINK | FAST | PORT, bridge=mac),
                bridge.ifindex: DeviceFacts(near, UPLINK | FAST),
                self.ends.serving: DeviceFacts(far, UPLINK | FAST | PEER),
            }
        )

    def open(self, where: str, protocol: Protocol) -> socket.socket:
        """Return a socket of a namespace, which is closed in the end."""
        domain = DOMAINS[self.family]
        made = netns.inside(self.paths[where], lambda: socket.socket(domain, KINDS[protocol]))
        return self.keep(made)

    def keep(self, made: socket.socket) -> socket.socket:
        """Have a socket closed in the end."""
        made.settimeout(TIMEOUT_S)
        self._undo.callback(made.close)
        return made

    def run(self, *command: str) -> str:
        """Run a command on the router; return what it prints."""
        argv = ["nsenter", f"--net={self.paths[ROUTER]}", *command]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def counted(self) -> Counter[str]:
        """Return what the family's programs have counted."""
        return Counter(self.node.counters(self.family))

    @contextmanager
    def _opened(self, name: str) -> Iterator[ArrayMap]:
        found = ArrayMap(str(self.node.loaded[self.family].pins.maps / name), write=True)
        try:
            yield found
        finally:
            found.close()

    def write_way(self, number: int, raw: bytes) -> None:
        """Write one of the ways."""
        with self._opened("ways") as ways:
            ways.write(number, raw)

    def read_way(self, number: int) -> bytes:
        """Return one of the ways as it lies in the map."""
        with self._opened("ways") as ways:
            return bytes(ways.read(number))

    def clear_ways(self) -> None:
        """Forget all next hops, and that connections have known any."""
        with self._opened("ways") as ways:
            ways.write(0, bytes(ways.max * ways.stride))
        self.path.forget_ways()

    def numbers(self, record: Record) -> tuple[int, int]:
        """Return where a connection's requests and replies go, as places in the ways."""
        raw = bytes(self.table.connections.read(record.number))
        at = [self.table.connections.layout[name].offset for name in ("request_way", "reply_way")]
        first, second = (int.from_bytes(raw[n : n + 2], sys.byteorder) for n in at)
        return first, second


def _named(end: End) -> tuple[str, int]:
    """Return an end as sockets take it."""
    return str(ipaddress.ip_address(end.address)), end.port


def _received(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes of a stream, or what there is before its end."""
    found = b""
    while len(found) < size and (part := sock.recv(size - len(found))):
        found += part
    return found


class Conversation:
    """A client and a backend of a service that talk as long as a test wants."""

    def __init__(self, routing: Routing, protocol: Protocol, number: int) -> None:
        self.routing, self.protocol = routing, protocol
        family = routing.family
        self._to = _named(frontend(family, number))
        self.backend = routing.open(SERVING, protocol)
        self.backend.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.backend.bind(_named(backend(family, number)))
        self.client = routing.open(ASKING, protocol)
        if protocol is Protocol.TCP:
            self.backend.listen()
            self.client.connect(self._to)
            accepted, _ = self.backend.accept()
            self.served = routing.keep(accepted)
        else:
            self.client.connect(self._to)

    def begin_anew(self) -> None:
        """Have another client ask, by datagrams."""
        self.client.close()
        self.client = self.routing.open(ASKING, self.protocol)
        self.client.connect(self._to)

    def exchange(self, text: bytes = b"who?") -> None:
        """Send a text to the backend and back."""
        self.client.sendall(text)
        if self.protocol is Protocol.TCP:
            assert _received(self.served, len(text)) == text
            self.served.sendall(text)
            assert _received(self.client, len(text)) == text
        else:
            asked, peer = self.backend.recvfrom(65_536)
            assert asked == text
            self.backend.sendto(text, peer)
            assert self.client.recv(65_536) == text
