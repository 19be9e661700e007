# SPDX-License-Identifier: Apache-2.0
"""Services by devices of many kinds: the node is between a client and a backend, or has that.

The far side has no programs: its sockets see what is on the wire.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.agent.cover import Cover
from pyproxy.kernel import libbpf
from pyproxy.kernel.addresses import UPLINK, DeviceFacts, device_facts
from pyproxy.kernel.devices import devices
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import Kind as FrontendKind
from tests.datapath.asking import TIMEOUT_S
from tests.datapath.ends import plan
from tests.datapath.flavours import PORT, PROTOCOLS, SockAddr, backend_address
from tests.datapath.kinds import KINDS, Joined, client_address, lan_address
from tests.datapath.node import Node
from tests.datapath.packets import End
from tests.datapath.test_rule_15 import forward
from tests.datapath.wire import DEVICE, FAR, FLAVOURS, NEAR, end_address
from tests.lab import netns

pytestmark = pytest.mark.kernel

HERE, BEHIND, ASIDE = 1, 2, 3  # services, by where their backends are
NODE_PORT = 31_000
BULK = bytes(range(256)) * 400
MUCH = bytes(range(250)) * 16  # three fragments
# the first one may be larger than the path takes, which its sender is told
WITH_PATH_MTU, ATTEMPTS, PATIENCE_S = 3, 20, 2.0
WAYS = ("a backend here", "a backend behind it", "a client behind it")


class Way(NamedTuple):
    """Who asks what, where the backend is, and which address it sees."""

    client: str
    to: SockAddr
    side: str
    backend: str
    seen: str


def way_of(name: str, family: Family) -> Way:
    """Return a way by its name."""
    client, lan = client_address(family), lan_address(family, NEAR)
    service = FLAVOURS[family].service
    return {
        "a backend here": Way(client, service(HERE), NEAR, FLAVOURS[family].backend(1)[0], client),
        "a backend behind it": Way(
            lan_address(family, FAR),
            (lan, NODE_PORT),
            FAR,
            end_address(family, FAR),
            end_address(family, NEAR),
        ),
        "a client behind it": Way(client, service(ASIDE), FAR, lan_address(family, FAR), lan),
    }[name]


@pytest.fixture(scope="module", params=KINDS)
def joined(
    request: pytest.FixtureRequest, whole_run: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Joined]:
    """Both sides joined by each kind; all devices of the near one are covered as by an agent."""
    node = whole_run
    with ExitStack() as undo:
        made = Joined(node, undo, KINDS[request.param])
        netns.inside(made.paths[NEAR], forward)
        for path in made.paths.values():
            netns.inside(path, announce_its_own)
        undo.callback(node.clear)
        for family in made.kind.families:
            undo.callback(forget, node, family)
            serve(node, family)
        cover(node, made, tmp_path_factory.mktemp("kind"), undo)
        yield made


def announce_its_own() -> None:
    """Ask for neighbours from an address of the device: the others are on its far side, too."""
    Path("/proc/sys/net/ipv4/conf/all/arp_announce").write_text("2", encoding="ascii")


def serve(node: Node, family: Family) -> None:
    """Program the services."""

    def end(address: str, port: int = PORT) -> End:
        return End(ipaddress.ip_address(address).packed, port)

    for protocol in PROTOCOLS:
        here, behind = End(backend_address(family, 1), PORT), end(end_address(family, FAR))
        any_address = End(bytes(family.address_bytes), NODE_PORT)
        node.apply(
            plan(family, protocol, HERE, [here], local=1),
            plan(family, protocol, BEHIND, [behind], frontends=[any_address],
                 kind=FrontendKind.NODE_PORT),
            plan(family, protocol, ASIDE, [end(lan_address(family, FAR))]),
        )  # fmt: skip


def cover(node: Node, joined: Joined, run_dir: Path, undo: ExitStack) -> None:
    """Attach the programs to all devices of the near side, and tell them what there is."""
    node.configure(options=Options("here"))
    undo.callback(node.configure)
    entries = node.entries(run_dir, tcx=libbpf.tcx_exists())
    paths = {family: node.loaded[family].path for family in joined.kind.families}
    undo.callback(lambda: joined.inside(lambda: entries.detach(devices())))

    def work() -> list[str]:
        made = Cover(entries, paths, Options("here"), (), lambda: None,
                     bridged=lambda _: None, check_s=30)  # fmt: skip
        made.refresh()
        return [*made.failures, made.facts_failure]

    assert joined.inside(work) == [""]


def forget(node: Node, family: Family) -> None:
    """Have the programs know of no devices and addresses."""
    path = node.loaded[family].path
    path.write_devices({})
    path.write_addresses({})
    path.write_networks({})
    path.write_hop_sources({})


def test_the_device_is_of_its_kind(joined: Joined) -> None:
    """And leads out of the node, where no route by it has a gateway, too."""
    shown = joined.run(joined.paths[NEAR], "ip", "-d", "-j", "link", "show", DEVICE)
    (link,) = json.loads(shown)
    kinds = {link["linkinfo"]["info_kind"], link["qdisc"]}
    assert {name for name, kind in KINDS.items() if kind is joined.kind} <= kinds
    for family in joined.kind.families:
        facts = joined.inside(partial(facts_of, family))
        assert facts[joined.device.ifindex].flags & UPLINK


def facts_of(family: Family) -> dict[int, DeviceFacts]:
    """Return what an agent knows of the devices of this namespace."""
    return device_facts(family, devices(), Options("here"))


@pytest.mark.parametrize("name", WAYS)
def test_every_way_by_a_device(joined: Joined, name: str, protocol: Protocol) -> None:
    """Little and much, both ways, and the backend sees whom it may see."""
    for family in joined.kind.families:
        way = way_of(name, family)
        with (
            joined.socket(way.side, family, protocol) as backend,
            joined.socket(FAR, family, protocol) as client,
        ):
            backend.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            backend.bind((way.backend, PORT))
            client.bind((way.client, 0))
            if protocol is Protocol.TCP:
                assert ask_by_stream(client, backend, way.to) == way.seen
            else:
                attempts = ATTEMPTS if joined.kind.loses else WITH_PATH_MTU
                assert ask_by_datagram(client, backend, way.to, attempts) == {way.seen}


def ask_by_stream(client: socket.socket, listener: socket.socket, to: SockAddr) -> str:
    """Have much given back; return who asked, as the backend sees that."""
    listener.listen()
    client.connect(to)
    served, peer = listener.accept()
    served.settimeout(TIMEOUT_S)
    threads = [
        threading.Thread(target=give_back, args=(served,), daemon=True),
        threading.Thread(target=client.sendall, args=(BULK,), daemon=True),
    ]
    for each in threads:
        each.start()
    got = b""
    while len(got) < len(BULK) and (part := client.recv(65_536)):
        got += part
    assert got == BULK
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    for each in threads:
        each.join(TIMEOUT_S)
    return str(peer[0])


def give_back(served: socket.socket) -> None:
    """Send back what comes until nothing more does."""
    with served:
        while data := served.recv(65_536):
            served.sendall(data)


def ask_by_datagram(
    client: socket.socket, backend: socket.socket, to: SockAddr, attempts: int
) -> set[str]:
    """Have datagrams of both sizes given back; return who asked, as the backend sees that."""
    seen = set()
    # connected: it takes no datagram of anybody else's
    client.connect(to)
    for each in (client, backend):
        each.settimeout(PATIENCE_S)
    for text in (b"who?", MUCH):
        tries = (given_back(client, backend, text) for _ in range(attempts))
        peer = next(filter(None, tries), None)
        assert peer, f"lost {attempts} times"
        seen.add(peer)
    return seen


def given_back(client: socket.socket, backend: socket.socket, text: bytes) -> str | None:
    """Have a datagram given back; return who asked, None if it got lost on the way."""
    try:
        client.send(text)
        asked, peer = backend.recvfrom(65_536)
        backend.sendto(asked, peer)
        assert (asked, client.recv(65_536)) == (text, text)
    except TimeoutError:
        return None
    except OSError as error:
        # what a router said of the datagram before
        if error.errno != errno.EMSGSIZE:
            raise
        return None
    return str(peer[0])
