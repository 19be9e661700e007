# SPDX-License-Identifier: Apache-2.0
"""What the agent writes for the packet path is what is in the maps, and what programs read."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator

import pytest

from pyproxy.kernel.addresses import NODE, PORT, UPLINK, DeviceFacts
from pyproxy.kernel.maps import ArrayMap, HashMap
from pyproxy.kernel.marks import endpoint_hash
from pyproxy.kernel.packetpath import (
    BRIDGED_UNTIL,
    NODE_PORT_RANGE,
    PREFIXES,
    REFRESH_TICKS,
    SETTINGS,
    STRICT_PREFIXES,
    Detector,
    Policy,
    netns_cookie,
    ticks,
)
from pyproxy.kernel.ports import local_port_range
from pyproxy.model import Family, Prefix, Protocol
from pyproxy.plan.options import Options
from pyproxy.tables import ConnectionTimeouts, FrontendKey, PortRange, SocketTranslation
from tests.datapath import children
from tests.datapath.covering import Covering
from tests.datapath.node import Loaded, Node
from tests.datapath.services import service
from tests.datapath.wire import FAR, FLAVOURS, NEAR, SERVICE_AT, talk
from tests.lab import netns
from tests.lab.waiting import wait_for

IPV4, IPV6 = Family
TIMEOUTS = ConnectionTimeouts(1, 2, 3, 4, 5, 6)


def prefix(text: str) -> Prefix:
    """Return a network as the configuration has it."""
    net = ipaddress.ip_network(text)
    return Prefix(net.network_address.packed, net.prefixlen)


@pytest.fixture
def configured(node: Node) -> Iterator[Node]:
    """The node, with an agent's default settings afterwards."""
    try:
        yield node
    finally:
        node.configure()
        for each in node.loaded.values():
            each.path.write_devices({})


def timeout(seconds: int) -> int:
    """Return a timeout as it is written: that packets are noted late costs nobody time."""
    return ticks(seconds) + REFRESH_TICKS


def settings_of(loaded: Loaded) -> dict[str, int]:
    """Return the settings that configure() writes, as they are in the kernel, by name."""
    array = ArrayMap(str(loaded.pins.maps / "settings"), write=False)
    values = memoryview(array.read(0, array.max)).cast("Q").tolist()
    array.close()
    found = dict(zip(SETTINGS, values, strict=True))
    # say which frontends there are, and for how long yet something is so
    del found[PREFIXES], found[STRICT_PREFIXES], found[NODE_PORT_RANGE], found[BRIDGED_UNTIL]
    return found


def cidrs_of(loaded: Loaded) -> set[tuple[int, bytes]]:
    """Return the cluster's networks that are in the kernel."""
    cidrs = HashMap(str(loaded.pins.maps / "local_cidrs"), ("length", "addr"), ("",))
    found = {(length, address) for (length, address), _ in cidrs.items()}
    cidrs.close()
    return found


def devices_of(loaded: Loaded) -> dict[int, DeviceFacts]:
    """Return what the kernel knows of devices."""
    found = HashMap(str(loaded.pins.maps / "devices"), ("",), DeviceFacts._fields)
    facts = {key[0]: DeviceFacts(*value) for key, value in found.items()}
    found.close()
    return facts


def test_every_setting_is_written(configured: Node, family: Family) -> None:
    """Each stands where the programs look for it, times in ticks."""
    configured.configure(
        translation=SocketTranslation.HOST,
        timeouts=TIMEOUTS,
        ports=PortRange(2_000, 500),
        options=Options(
            "here",
            local_cidrs=(prefix("10.0.0.0/8"),),
            forward_accept=True,
            masquerade_bit=31,
        ),
    )
    first, last = netns.inside(configured.namespace, local_port_range)
    expected = {
        "local_ports": first | (last - first + 1) << 32,
        "host_netns": netns.inside(configured.namespace, netns_cookie),
        "netns": netns.inside(configured.namespace, netns_cookie),
        "detector": Detector.CIDRS if family is IPV4 else Detector.NONE,
        "policy": Policy.PROTECT_PORTS | Policy.SAME_UPLINK,
        "forward_mark": 1 << 31,
        "source_port_first": 2_000,
        "source_port_count": 500,
        **{name: timeout(n) for n, name in enumerate(ConnectionTimeouts._fields, start=1)},
    }
    found = settings_of(configured.loaded[family])
    # random, what changes of addresses, frontends and routes count, and what the Cover says
    epochs = {"address_epoch", "frontend_epoch", "way_epoch", "fast_path"}
    assert found.keys() - expected.keys() == {"source_seed", *epochs}
    assert expected.items() <= found.items()
    assert expected["host_netns"] not in {0, netns_cookie()}


def test_all_sockets_are_translated_by_default(configured: Node, family: Family) -> None:
    """No namespace is singled out then, and the timeouts are the documented ones."""
    configured.configure()
    found = settings_of(configured.loaded[family])
    assert (found["host_netns"], found["detector"]) == (0, Detector.NONE)
    for name, seconds in ConnectionTimeouts()._asdict().items():
        assert found[name] == timeout(seconds)


def test_the_clusters_networks_are_replaced(configured: Node, family: Family) -> None:
    """Each family has its own; another configuration leaves none of the former one's."""
    loaded = configured.loaded[family]
    first = [prefix("10.0.0.0/8"), prefix("fd00::/16"), prefix("10.1.0.0/16"), prefix("::/0")]
    for wanted in (first, first[1:3], [prefix("fd00:1::/64")], []):
        configured.configure(options=Options("here", local_cidrs=tuple(wanted)))
        own = [(each.length, each.address) for each in wanted]
        own = [each for each in own if len(each[1]) == family.address_bytes]
        # the first one counts (parity A9.14)
        assert cidrs_of(loaded) == set(own[:1])
        assert settings_of(loaded)["detector"] == (Detector.CIDRS if own else Detector.NONE)


def test_what_is_known_of_devices_is_replaced(configured: Node, family: Family) -> None:
    """New devices come, changed ones change, those that are not named go."""
    loaded = configured.loaded[family]
    one, two = (bytes([n]) * family.address_bytes for n in (1, 2))
    up, port = DeviceFacts(two, UPLINK, 9, one), DeviceFacts(one, PORT, 0, two, b"bridge")
    node = DeviceFacts(one, 0, 0, two)
    for wanted in (
        {2: port._replace(flags=0), 7: up, NODE: node},
        {2: port, 9: up, NODE: node},
        {},
    ):
        loaded.path.write_devices(wanted)
        assert devices_of(loaded) == wanted


def test_programs_and_agent_agree_on_marks(node: Node, covered: Covering, family: Family) -> None:
    """The ends of a connection are marked where endpoint_hash() says, and nothing else is."""
    node.apply(service(family, SERVICE_AT[NEAR], [1], local=1))
    seen = talk(covered.wire, family, Protocol.TCP)
    flavour = FLAVOURS[family]
    ends = [seen.by_client, flavour.backend(1)]
    marks = node.loaded[family].datapath.marks
    busy = marks.layout["busy"].offset
    raw = marks.read(0, marks.max)[busy :: marks.stride]
    marked = {index for index, byte in enumerate(raw) if byte}
    expected = {endpoint_hash(ipaddress.ip_address(a).packed, port) for a, port in ends}
    assert marked == expected


def test_any_frontend_is_found_by_its_mark(node: Node, covered: Covering, family: Family) -> None:
    """Packets to random addresses and ports are served once they are a frontend's, not before."""
    wire, draw = covered.wire, random.Random(7)
    datapath = node.loaded[family].datapath
    node.apply(service(family, SERVICE_AT[NEAR], [1], protocol=Protocol.UDP, local=1))
    talk(wire, family, Protocol.UDP)  # from here on nothing waits for a neighbour's address
    (value,) = datapath.read().frontends.values()
    keys = [_frontend(family, draw) for _ in range(20)]

    def opened() -> int:
        return node.counters(family)["packet_open"]

    with wire.socket(FAR, family, Protocol.UDP) as sender:
        # one socket: what it sends stays in order, so the first cannot be counted last
        for key in keys:
            to, before = (str(ipaddress.ip_address(key.address)), key.port), opened()
            sender.sendto(b"?", to)
            datapath.put_frontends([(key, value)])
            sender.sendto(b"?", to)
            wait_for(lambda: opened() > before, children.patience_s(), "the packet")  # noqa: B023 - at once
            assert opened() == before + 1
            datapath.delete_frontends([key])


def _frontend(family: Family, draw: random.Random) -> FrontendKey:
    # 11.0.0.0/8 and fd11::/16 are nobody's here: they go by the default route
    host = draw.randbytes(family.address_bytes - 1)
    address = b"\x0b" + host if family is IPV4 else b"\xfd\x11" + host[1:]
    return FrontendKey(address, draw.randrange(1, 65536), int(Protocol.UDP))
