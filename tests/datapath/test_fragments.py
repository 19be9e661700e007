# SPDX-License-Identifier: Apache-2.0
"""Fragments, as they pass the hooks before anybody puts them together (rule 25).

What becomes of each fragment of a datagram is the fragment of what becomes of the datagram.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK, NodeAddressFlag
from pyproxy.kernel.maps import HashMap
from pyproxy.model import Family, Prefix, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, node_address, plan, refusing
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import SYN, Chunk, End
from tests.datapath.pieces import cut, piece
from tests.datapath.prog_run import TC_REDIRECT

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
IPPROTO_GRE = 47  # RFC 2784
ELSEWHERE, HERE, REFUSED = 1, 2, 3
LONG = bytes(range(256)) + bytes(24)
WAIT_TICKS = 1788  # 30 s
KEY = ("src", "dst", "id", "proto", "side")
VALUE = ("src_port", "dst_port", "proto", "seen", "check")


@pytest.fixture(params=list(Wire), ids=lambda wire: wire.value)
def hooks(
    node: Node, family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Hooks]:
    """The hooks of an uplink; services with a backend elsewhere, one here, and none."""
    node.apply(
        plan(family, UDP, 1, [1]),
        plan(family, UDP, 2, [2], local=1),
        refusing(family, UDP, 3),
        plan(family, TCP, 2, [2], local=1),
    )
    with Hooks(node, family, request.param, tmp_path) as found:
        found.write_device(node_address(family), UPLINK)
        yield found
        found.path.write_addresses({})
        with closing(remembered(found)) as fragments:
            fragments.delete([key for key, _ in fragments.items()])


def remembered(hooks: Hooks) -> HashMap:
    """Return the map of fragments' ports."""
    return HashMap(str(hooks.node.loaded[hooks.family].pins.maps / "fragments"), KEY, VALUE)


def count_remembered(hooks: Hooks) -> int:
    """Return of how many packets the ports are known."""
    with closing(remembered(hooks)) as fragments:
        return len(fragments.items())


def datagram(hooks: Hooks, src: End, dst: End) -> bytes:
    """Return one that is cut into five."""
    return hooks.udp(src, dst, LONG)


def test_a_clients_fragments_and_the_backends(hooks: Hooks) -> None:
    """All of them are translated, both ways, where the client's address is kept."""
    family = hooks.family
    c, f, b = client(family), frontend(family, HERE), backend(family, HERE)
    there = zip(cut(datagram(hooks, c, f)), cut(datagram(hooks, c, b)), strict=True)
    with hooks.node.counting(family, packet_open=1, packet_in=5):
        for sent, expected in there:
            assert hooks.ingress(sent) == passed(expected)
    back = zip(cut(datagram(hooks, b, c)), cut(datagram(hooks, f, c)), strict=True)
    with hooks.node.counting(family, packet_out=5):
        for sent, expected in back:
            assert hooks.egress(sent) == passed(expected)


@pytest.mark.kernel
def test_fragments_with_an_address_of_the_node(hooks: Hooks) -> None:
    """In and out of the node, and back the same way."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    inside = [hooks.ingress(each).data for each in cut(datagram(hooks, c, f))]
    assert inside == cut(datagram(hooks, c, b))
    left = [hooks.egress(each) for each in inside]
    s = hooks.table.only().source
    assert left == [passed(each) for each in cut(datagram(hooks, s, b))]
    answers = [hooks.ingress(each).data for each in cut(datagram(hooks, b, s))]
    assert answers == cut(datagram(hooks, b, c))
    told = [hooks.egress(each) for each in answers]
    assert told == [passed(each) for each in cut(datagram(hooks, f, c))]


def test_a_later_fragment_without_an_address_of_the_node_does_not_leave(hooks: Hooks) -> None:
    """Its connection has none yet: the client's would be no use to the backend."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(cut(datagram(hooks, c, f))[0])
    # the entry that a first fragment would have left, though it was dropped
    first, second = cut(datagram(hooks, c, b))[:2]
    hooks.write_device(b"", UPLINK)
    assert hooks.egress(first) == dropped(first)
    assert hooks.egress(second) == passed(second)


def test_the_first_fragment_comes_late(hooks: Hooks) -> None:
    """Those before it are dropped and counted: nobody beyond knows a ClusterIP (rule 10)."""
    family = hooks.family
    c, f, b = client(family), frontend(family, HERE), backend(family, HERE)
    first, second, third, *_ = cut(datagram(hooks, c, f))
    with hooks.node.counting(family, packet_fragment=1):
        assert hooks.ingress(second) == dropped(second)
    assert hooks.ingress(first) == passed(cut(datagram(hooks, c, b))[0])
    assert hooks.ingress(third) == passed(cut(datagram(hooks, c, b))[2])


def test_unknown_fragments_to_other_addresses_pass(hooks: Hooks) -> None:
    """To pods, to the node itself, even if that has a service's address (rule 21)."""
    family = hooks.family
    c = client(family)
    for dst in (backend(family, HERE), End(node_address(family), 80)):
        second = cut(datagram(hooks, c, dst))[1]
        with hooks.node.counting(family):
            assert hooks.ingress(second) == passed(second)
            assert hooks.egress(second) == passed(second)
    f = frontend(family, HERE)
    second = cut(datagram(hooks, c, f))[1]
    with hooks.node.counting(family, packet_fragment=1):
        assert hooks.egress(second) == dropped(second)
    hooks.path.write_addresses({f.address: NodeAddressFlag(0)})
    assert hooks.ingress(second) == passed(second)


def test_unknown_fragments_in_nftables_mode(hooks: Hooks) -> None:
    """A ServiceCIDR's address that is nobody's: only new connections to it are dropped."""
    family = hooks.family
    datapath = hooks.node.loaded[family].datapath
    c, f, nobody = client(family), frontend(family, HERE), frontend(family, 99)
    datapath.restrict((Prefix(bytes(family.address_bytes), 0),))
    try:
        second = cut(datagram(hooks, c, nobody))[1]
        assert hooks.ingress(second) == passed(second)
        second = cut(datagram(hooks, c, f))[1]
        assert hooks.ingress(second) == dropped(second)
    finally:
        datapath.restrict(None)
    assert hooks.ingress(second) == dropped(second)


@pytest.mark.parametrize("other", ["number", "client", "side"])
def test_fragments_of_another_packet(hooks: Hooks, other: str) -> None:
    """They are known by both addresses and a number; and what came in has not left."""
    family = hooks.family
    c, f = client(family), frontend(family, HERE)
    hooks.ingress(cut(datagram(hooks, c, f))[0])
    if other == "number":
        second = cut(datagram(hooks, c, f), number=2)[1]
    else:
        second = cut(datagram(hooks, client(family, 2) if other == "client" else c, f))[1]
    run = hooks.egress if other == "side" else hooks.ingress
    with hooks.node.counting(family, packet_fragment=1):
        assert run(second) == dropped(second)


def test_fragments_of_another_protocol(hooks: Hooks) -> None:
    """IPv4 numbers those of each protocol apart; IPv6 does not, and knows one by its first."""
    family = hooks.family
    c, f = client(family), frontend(family, HERE)
    hooks.ingress(cut(datagram(hooks, c, f))[0])
    whole = hooks.tcp(c, f, SYN, LONG)
    second = cut(whole)[1]
    if family is Family.IPV4:
        assert hooks.ingress(second) == dropped(second)
    else:
        moved = piece(hooks.tcp(c, backend(family, HERE), SYN, LONG), 64, 128)
        assert hooks.ingress(second) == passed(moved)


def test_segments_in_fragments(hooks: Hooks) -> None:
    """Rare, but the same: a SYN with data that somebody has cut."""
    family = hooks.family
    c, f, b = client(family), frontend(family, HERE), backend(family, HERE)
    both = zip(cut(hooks.tcp(c, f, SYN, LONG)), cut(hooks.tcp(c, b, SYN, LONG)), strict=True)
    for sent, expected in both:
        assert hooks.ingress(sent) == passed(expected)


def aged(hooks: Hooks, ticks: int) -> None:
    """Make what is known of the only fragment older."""
    with closing(remembered(hooks)) as fragments:
        ((key, value),) = fragments.items()
        *rest, seen, check = value
        older = (seen - ticks) & 0xFFFFFFFF
        fragments.update([(key, (*rest, older, check ^ seen ^ older))])


@pytest.mark.parametrize(("ticks", "known"), [(WAIT_TICKS - 60, True), (WAIT_TICKS + 2, False)])
def test_numbers_are_used_again(hooks: Hooks, ticks: int, known: bool) -> None:
    """After 30 s nobody waits for the rest of a packet: it is another one's."""
    family = hooks.family
    c, f = client(family), frontend(family, HERE)
    hooks.ingress(cut(datagram(hooks, c, f))[0])
    aged(hooks, ticks)
    second = cut(datagram(hooks, c, f))[1]
    assert (hooks.ingress(second) == dropped(second)) is not known


def test_a_value_that_is_anothers(hooks: Hooks) -> None:
    """Values of the map are used again at once for other keys (rule 7)."""
    family = hooks.family
    c, f = client(family), frontend(family, HERE)
    hooks.ingress(cut(datagram(hooks, c, f))[0])
    with closing(remembered(hooks)) as fragments:
        ((key, (src_port, *rest)),) = fragments.items()
        fragments.update([(key, (src_port + 1, *rest))])
    second = cut(datagram(hooks, c, f))[1]
    assert hooks.ingress(second) == dropped(second)


def test_another_first_fragment_takes_over(hooks: Hooks) -> None:
    """What overlaps is for whoever puts it together; it goes where its ports say."""
    family = hooks.family
    f, b = frontend(family, HERE), backend(family, HERE)
    one, other = client(family), client(family, port=40_001)
    hooks.ingress(cut(datagram(hooks, one, f))[0])
    hooks.ingress(cut(datagram(hooks, other, f))[0])
    assert count_remembered(hooks) == 1
    second = cut(datagram(hooks, other, f))[1]
    assert hooks.ingress(second) == passed(cut(datagram(hooks, other, b))[1])


def test_sctp_in_fragments(hooks: Hooks) -> None:
    """Its checksum covers no addresses, and its port stays."""
    family, port = hooks.family, 7_000
    c, f, b = client(family), frontend(family, HERE, port), backend(family, HERE, port)
    hooks.node.apply(plan(family, SCTP, 2, [b], frontends=[f], local=1))
    before, after = (cut(hooks.sctp(c, to, Chunk.INIT, LONG)) for to in (f, b))
    for sent, expected in zip(before, after, strict=True):
        assert hooks.ingress(sent) == passed(expected)


def test_fragments_of_a_protocol_without_ports_are_not_remembered(hooks: Hooks) -> None:
    """Whatever stands where ports would."""
    if hooks.wire is Wire.BARE:
        return  # BPF_PROG_TEST_RUN takes few first bytes
    family = hooks.family
    c, f = client(family), frontend(family, HERE)
    body = struct.pack("!HH", c.port, f.port) + LONG
    first = cut(p.ip(c.address, f.address, IPPROTO_GRE, body))[0]
    assert hooks.ingress(first) == passed(first)
    assert count_remembered(hooks) == 0


def test_others_fragments_are_not_remembered(hooks: Hooks) -> None:
    """The map has room for what may be a connection's."""
    family = hooks.family
    first = cut(datagram(hooks, client(family), backend(family, 9)))[0]
    assert hooks.ingress(first) == passed(first)
    assert hooks.egress(first) == passed(first)
    # a whole packet has no fragments to wait for
    hooks.ingress(datagram(hooks, client(family), frontend(family, HERE)))
    assert count_remembered(hooks) == 0


def test_a_first_fragment_without_ports(hooks: Hooks) -> None:
    """RFC 1858 3: too little of it to know whose it is; dropped where nobody else has use of it."""
    if hooks.wire is Wire.BARE:
        return  # BPF_PROG_TEST_RUN takes none that are so short
    family = hooks.family
    c, f, b = client(family), frontend(family, HERE), backend(family, HERE)
    tiny = piece(datagram(hooks, c, f), 0, 3, more=True)
    with hooks.node.counting(family, packet_fragment=1):
        assert hooks.ingress(tiny) == dropped(tiny)
    tiny = piece(datagram(hooks, c, b), 0, 3, more=True)
    with hooks.node.counting(family):
        assert hooks.ingress(tiny) == passed(tiny)
    # all that is needed and no more
    least = piece(datagram(hooks, c, f), 0, 8, more=True)
    assert hooks.ingress(least) == passed(piece(datagram(hooks, c, b), 0, 8, more=True))


def test_a_service_without_endpoints(hooks: Hooks) -> None:
    """The first fragment is answered, the others are dropped."""
    family = hooks.family
    c, f = client(family), frontend(family, REFUSED)
    first, second, *_ = cut(datagram(hooks, c, f))
    if hooks.wire is not Wire.BARE:
        assert hooks.ingress(first).verdict == TC_REDIRECT
    with hooks.node.counting(family, packet_fragment=1):
        assert hooks.ingress(second) == dropped(second)


def test_a_connection_that_is_over(hooks: Hooks) -> None:
    """Its later fragments are nobody's."""
    family = hooks.family
    c, f = client(family), frontend(family, HERE)
    hooks.ingress(cut(datagram(hooks, c, f))[0])
    hooks.table.age(hooks.table.claimed()[0], hooks.timeout("udp") + 2)
    second = cut(datagram(hooks, c, f))[1]
    assert hooks.ingress(second) == dropped(second)


def test_frames_of_others(hooks: Hooks) -> None:
    """A fragment for another host, or a VLAN's, is not looked at (rule 14)."""
    if hooks.wire is Wire.BARE:
        return
    family = hooks.family
    c, f = client(family), frontend(family, HERE)
    second = cut(datagram(hooks, c, f))[1]
    frame = p.ether(second, p.ETH_P[family], dst=p.PEER_MAC)
    assert hooks.frame("ingress", frame) == passed(frame)
    tagged = p.vlan(second, p.ETH_P[family])
    for side in ("ingress", "egress"):
        assert hooks.frame(side, tagged) == passed(tagged)


def test_what_is_no_packet_at_all(hooks: Hooks) -> None:
    """Another version, a header that is too short, or one that is cut off."""
    family = hooks.family
    second = cut(datagram(hooks, client(family), frontend(family, HERE)))[1]
    lies = [bytes((second[0] ^ 0x10,)) + second[1:]]
    if family is Family.IPV4:
        lies.append(bytes((second[0] & 0xF4,)) + second[1:])
    for packet in lies:
        with hooks.node.counting(family):
            assert hooks.ingress(packet) == passed(packet)
