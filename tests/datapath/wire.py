# SPDX-License-Identifier: Apache-2.0
"""Two namespaces joined by a veth pair: `near` has the packet path, `far` is somebody else.

Each has a service's address on lo, so that a packet which nobody touches arrives there. None of
their sockets is in a cgroup with programs.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from pyproxy.kernel.devices import Device, devices
from pyproxy.model import Family, Protocol
from tests.datapath import children
from tests.datapath.asking import TIMEOUT_S
from tests.datapath.children import Where
from tests.datapath.flavours import KINDS, SERVICE_PORT, Flavour, SockAddr, named
from tests.datapath.node import Node, run_ip
from tests.lab import netns

T = TypeVar("T")

NEAR, FAR = "near", "far"
DEVICE = "wire"
MARKER_PORT = 9
REQUEST, REPLY = b"who?", b"me"
# by side: a service whose address is on its lo
SERVICE_AT = {NEAR: 1, FAR: 2}
FLAVOURS = {Family.IPV4: Flavour.IPV4, Family.IPV6: Flavour.IPV6}


def end_address(family: Family, side: str) -> str:
    """Return the address of an end of the wire."""
    last = 1 if side == NEAR else 2
    return f"10.2.0.{last}" if family is Family.IPV4 else f"fd00:2::{last}"


def other(side: str) -> str:
    """Return the other side."""
    return FAR if side == NEAR else NEAR


class Wire:
    """Both namespaces and the pair of devices, each named `wire`."""

    def __init__(self, node: Node, undo: ExitStack) -> None:
        self.paths = {side: node.make_namespace(side, undo) for side in (NEAR, FAR)}
        self.plug()
        for side in (NEAR, FAR):
            self.address(side)

    def plug(self, ifindex: int = 0) -> None:
        """Make the pair of devices; the near one gets `ifindex` if that is not 0."""
        number = f"index {ifindex}" if ifindex else ""
        peer = f"peer name {DEVICE} netns {self.paths[FAR]}"
        run_ip(self.paths[NEAR], f"link add name {DEVICE} {number} type veth {peer}")
        for path in self.paths.values():
            run_ip(path, f"link set {DEVICE} up")

    def unplug(self) -> None:
        """Delete both devices."""
        run_ip(self.paths[NEAR], f"link del {DEVICE}")

    def address(self, side: str, device: str = DEVICE) -> None:
        """Give a side its addresses and its route, on a device that has none yet."""
        lines = [f"addr replace 10.96.0.{SERVICE_AT[side]}/32 dev lo",
                 f"addr replace fd00:96::{SERVICE_AT[side]}/128 dev lo nodad"]  # fmt: skip
        for family, length in ((Family.IPV4, 24), (Family.IPV6, 64)):
            dad = " nodad" if family is Family.IPV6 else ""
            lines.append(f"addr add {end_address(family, side)}/{length} dev {device}{dad}")
            lines.append(f"route replace default via {end_address(family, other(side))}")
        run_ip(self.paths[side], *lines)

    def inside(self, work: Callable[[], T], side: str = NEAR) -> T:
        """Run a function in a child in a namespace and return its result."""
        return children.run(Where(self.paths[side]), work)

    @property
    def device(self) -> Device:
        """The near device as the agent lists it."""
        (found,) = self.inside(lambda: devices([DEVICE]))
        return found

    def tc(self, *words: str | Path) -> Any:
        """Run tc in `near` and return what it says in JSON; raises CalledProcessError."""
        command = ["nsenter", f"--net={self.paths[NEAR]}", "tc", "-j", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout) if done.stdout.strip() else []

    def qdiscs(self) -> set[str]:
        """Return the kinds of the near device's qdiscs."""
        return {each["kind"] for each in self.tc("qdisc", "show", "dev", DEVICE)}

    def filters(self, side: str = "ingress") -> list[tuple[int, str]]:
        """Return preference and name of the filters on one side of the near device."""
        found = self.tc("filter", "show", "dev", DEVICE, side)
        return [(f["pref"], f["options"]["bpf_name"]) for f in found if "options" in f]

    def socket(self, side: str, family: Family, protocol: Protocol) -> socket.socket:
        """Return a socket of a namespace."""

        def make() -> socket.socket:
            return socket.socket(FLAVOURS[family].domain, KINDS[protocol])

        made = netns.inside(self.paths[side], make)
        made.settimeout(TIMEOUT_S)
        return made


class Seen(NamedTuple):
    """What a client and the backend that answered it saw of each other."""

    by_client: SockAddr
    client: SockAddr
    by_backend: SockAddr


def talk(
    wire: Wire,
    family: Family,
    protocol: Protocol,
    number: int = 1,
    timeout_s: float = TIMEOUT_S,
    *,
    source: str = "",
) -> Seen:
    """Ask the service of the near side from the far side; raises OSError without an answer.

    Backend `number` answers in the near namespace, where nothing but packets can be translated.
    `source` is the client's address, if it is not the one of its side of the wire.
    """
    flavour = FLAVOURS[family]
    with (
        wire.socket(NEAR, family, protocol) as backend,
        wire.socket(FAR, family, protocol) as client,
    ):
        backend.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        backend.bind(flavour.backend(number))
        backend.settimeout(timeout_s)
        client.bind((source, 0))
        work = _by_stream if protocol is Protocol.TCP else _by_datagram
        return work(client, backend, flavour.service(SERVICE_AT[NEAR], SERVICE_PORT))


def _by_stream(client: socket.socket, listener: socket.socket, to: SockAddr) -> Seen:
    listener.listen()
    client.connect(to)
    served, peer = listener.accept()
    with served:
        served.settimeout(TIMEOUT_S)
        client.sendall(REQUEST)
        assert served.recv(64) == REQUEST
        served.sendall(REPLY)
        assert client.recv(64) == REPLY
        # a connection that is over has no peer any more
        seen = Seen(named(client.getpeername()), named(client.getsockname()), named(peer))
        client.shutdown(socket.SHUT_WR)
        assert served.recv(64) == b""
    assert client.recv(64) == b""
    return seen


def _by_datagram(client: socket.socket, backend: socket.socket, to: SockAddr) -> Seen:
    # connected: it takes no datagram of anybody else's
    client.connect(to)
    client.send(REQUEST)
    asked, peer = backend.recvfrom(64)
    assert asked == REQUEST
    backend.sendto(REPLY, peer)
    told, source = client.recvfrom(64)
    assert told == REPLY
    return Seen(named(source), named(client.getsockname()), named(peer))


class Arrivals:
    """Listens on a side for what is sent to its service, and for a marker sent after that."""

    def __init__(self, wire: Wire, side: str, family: Family, protocol: Protocol) -> None:
        self._wire, self._side, self._family, self._protocol = wire, side, family, protocol
        self._undo = ExitStack()
        self._to: SockAddr = FLAVOURS[family].service(SERVICE_AT[side], SERVICE_PORT)
        self._marker_to = (end_address(family, side), MARKER_PORT)
        self._service = self._bound(self._to, protocol)
        self._marker = self._bound(self._marker_to, Protocol.UDP)

    def _bound(self, address: SockAddr, protocol: Protocol) -> socket.socket:
        sock = self._undo.enter_context(self._wire.socket(self._side, self._family, protocol))
        sock.bind(address)
        if protocol is Protocol.TCP:
            sock.listen()
        return sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def passes(self) -> bool:
        """Send the first packet to the service from the other side; return whether it arrives.

        A wire keeps the order: once the marker is there, what was sent before is or never will.
        """
        sender = self._wire.socket(other(self._side), self._family, self._protocol)
        marker = self._wire.socket(other(self._side), self._family, Protocol.UDP)
        with sender, marker:
            sender.setblocking(False)
            if self._protocol is Protocol.TCP:
                sender.connect_ex(self._to)
            else:
                sender.sendto(b"?", self._to)
            marker.sendto(b"!", self._marker_to)
            assert self._marker.recv(64) == b"!"
            return self._arrived()

    def _arrived(self) -> bool:
        self._service.setblocking(False)
        try:
            if self._protocol is Protocol.TCP:
                self._service.accept()[0].close()
            else:
                self._service.recv(64)
        except BlockingIOError:
            return False
        return True
