# SPDX-License-Identifier: Apache-2.0
"""The fast path: which packets skip the stack, how they leave, and which ones never do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import UPLINK
from pyproxy.kernel.connections import Life
from pyproxy.kernel.fastpath import FastPath
from pyproxy.kernel.packetpath import ADDRESS_EPOCH, FRONTEND_EPOCH
from pyproxy.model import Family, Protocol
from tests.datapath.ends import node_address, plan
from tests.datapath.flowtable import ANSWERED, ESTABLISHED
from tests.datapath.hooks import Hooks, Wire, let_device_sum
from tests.datapath.node import Node
from tests.datapath.packets import ACK, ETH_P, FIN, PLAIN, PSH, RST, SYN, TEXT, ether
from tests.datapath.prog_run import TC_REDIRECT
from tests.datapath.skipping import BOTH, PLACES, REPLIES, REQUESTS, WAYS, Skipping, Way

TCP, UDP = Protocol.TCP, Protocol.UDP
ELSEWHERE, HERE = 1, 2
OF = {"request": REQUESTS, "reply": REPLIES}
WHOSE = pytest.mark.parametrize("whose", OF)
SERVICES = pytest.mark.parametrize("number", [ELSEWHERE, HERE], ids=["hidden", "seen"])
CHECKSUM = slice(24, 26)  # of an IPv4 header in a frame
REFRESH_TICKS = 60  # bpf/connection.h


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an uplink; services with a backend elsewhere (1) and here (2)."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol, 1, [1]), plan(family, protocol, 2, [2], local=1))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found
        found.path.write_fast_path(FastPath(0))


def length(hooks: Hooks, protocol: Protocol) -> int:
    """Return how long the packets of these tests are, from the IP header on."""
    headers = (20 if hooks.family is Family.IPV4 else 40) + (20 if protocol is TCP else 8)
    return headers + len(TEXT)


def check_slow(skipping: Skipping, whose: str, flags: int = ACK) -> None:
    """Assert that the stack gets a packet, as it gets all while there is no fast path."""
    before = skipping.hooks.node.counters(skipping.hooks.family)
    ran = skipping.run(whose, flags=flags)
    assert ran.verdict != TC_REDIRECT
    assert "packet_fast" not in skipping.hooks.grown(before)


@pytest.mark.kernel
@WHOSE
@SERVICES
def test_both_ends_at_once(hooks: Hooks, protocol: Protocol, number: int, whose: str) -> None:
    """As by the stack: ends, checksums, a hop counted, the Ethernet addresses of the next."""
    skipping = Skipping(hooks, protocol, number)
    before = hooks.node.counters(hooks.family)
    ran = skipping.run(whose)
    assert (ran.verdict, ran.data) == (TC_REDIRECT, skipping.sent(whose, OF[whose]))
    assert hooks.grown(before) == {"packet_fast": 1}
    assert skipping.record.flags & WAYS == WAYS


@WHOSE
@SERVICES
def test_a_sum_of_the_device_stays_right(
    hooks: Hooks, protocol: Protocol, number: int, whose: str
) -> None:
    """CHECKSUM_COMPLETE, whose sum covers IPv6's hop limit (rule 24)."""
    skipping = Skipping(hooks, protocol, number)
    let_device_sum(hooks)
    assert skipping.run(whose).data == skipping.sent(whose, OF[whose])


@WHOSE
@pytest.mark.parametrize("ttl", [2, 255])
def test_every_checksum_of_a_header(hooks: Hooks, whose: str, ttl: int) -> None:
    """A hop less makes it 256 more, in ones' complement (RFC 1624), which may carry over."""
    skipping = Skipping(hooks, UDP, ELSEWHERE)
    for number in range(0, 65_536, 29):
        head = PLAIN._replace(ttl=ttl, number=number)
        assert skipping.run(whose, head).data == skipping.sent(whose, OF[whose], head)


@WHOSE
@pytest.mark.parametrize("check", [0xFEFE, 0xFEFF, 0xFF00])
def test_where_a_checksum_carries_over(hooks: Hooks, whose: str, check: int) -> None:
    """As Linux writes it (ip_decrease_ttl): ones' complement has two noughts."""
    if hooks.family is Family.IPV6:
        return  # its header has none
    skipping = Skipping(hooks, UDP, ELSEWHERE)
    heads = (PLAIN._replace(ttl=64, number=number) for number in range(65_536))
    wanted = check.to_bytes(2, "big")
    head = next(head for head in heads if skipping.come(whose, head)[CHECKSUM] == wanted)
    ran = skipping.run(whose, head).data[CHECKSUM]
    assert ran == skipping.sent(whose, OF[whose], head)[CHECKSUM]


@WHOSE
@pytest.mark.parametrize("ttl", [1, 2])
def test_the_last_hop_is_the_stacks(hooks: Hooks, protocol: Protocol, whose: str, ttl: int) -> None:
    """Who sent a packet whose time is over has to be told."""
    skipping = Skipping(hooks, protocol, ELSEWHERE)
    ran = skipping.run(whose, PLAIN._replace(ttl=ttl))
    assert (ran.verdict == TC_REDIRECT) is (ttl == 2)


@WHOSE
@pytest.mark.parametrize("missing", [0, 1])
def test_what_is_too_long_is_the_stacks(
    hooks: Hooks, protocol: Protocol, whose: str, missing: int
) -> None:
    """It is cut there, or its sender is told of the route's MTU."""
    skipping = Skipping(hooks, protocol, HERE)
    mtu = length(hooks, protocol) - missing
    skipping.write_way(whose, OF[whose]._replace(mtu=mtu))
    assert (skipping.run(whose).verdict == TC_REDIRECT) is (missing == 0)


@WHOSE
@pytest.mark.parametrize("missing", [0, 1])
def test_each_piece_of_what_a_device_cuts(
    hooks: Hooks, protocol: Protocol, whose: str, missing: int
) -> None:
    """All have all headers; how long the whole is does not matter."""
    skipping = Skipping(hooks, protocol, HERE)
    piece = 7
    mtu = length(hooks, protocol) - len(TEXT) + piece - missing
    skipping.write_way(whose, OF[whose]._replace(mtu=mtu))
    ran = hooks.frame("ingress", skipping.come(whose), piece)
    assert (ran.verdict == TC_REDIRECT) is (missing == 0)


@WHOSE
@pytest.mark.parametrize("flags", [SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, ACK, PSH | ACK])
def test_what_begins_or_ends_a_connection_is_the_stacks(
    hooks: Hooks, whose: str, flags: int
) -> None:
    """So that conntrack sees it, and who asks that."""
    skipping = Skipping(hooks, TCP, ELSEWHERE)
    is_fast = not flags & (SYN | FIN | RST)
    assert (skipping.run(whose, flags=flags).verdict == TC_REDIRECT) is is_fast


STATES = {
    "established": (ESTABLISHED, True),
    "answered": (ANSWERED, False),
    "half closed": (ESTABLISHED | Life.FIN_CLIENT, True),
    "closed": (ESTABLISHED | Life.FIN_CLIENT | Life.FIN_BACKEND, False),
    "reset": (ESTABLISHED | Life.RESET, False),
    "clash": (ESTABLISHED | Life.CLASH, False),
}


@WHOSE
@pytest.mark.parametrize("state", STATES)
def test_the_state_of_the_connection(
    hooks: Hooks, protocol: Protocol, whose: str, state: str
) -> None:
    """TCP that is established and not over; UDP has no such states."""
    flags, tcp = STATES[state]
    skipping = Skipping(hooks, protocol, HERE)
    skipping.know(flags | WAYS)
    assert (skipping.run(whose).verdict == TC_REDIRECT) is (tcp or protocol is UDP)


@WHOSE
@pytest.mark.parametrize("allowed", [FastPath(0), FastPath.UDP, FastPath.TCP, BOTH])
def test_only_what_is_allowed(
    hooks: Hooks, protocol: Protocol, whose: str, allowed: FastPath
) -> None:
    """The setting, and each protocol alone; off by default."""
    skipping = Skipping(hooks, protocol, HERE)
    hooks.path.write_fast_path(allowed)
    wanted = FastPath.TCP if protocol is TCP else FastPath.UDP
    assert (skipping.run(whose).verdict == TC_REDIRECT) is bool(allowed & wanted)


def by_another_device(skipping: Skipping) -> None:
    """Take the device's leave to skip the stack."""
    skipping.hooks.write_device(node_address(skipping.hooks.family), UPLINK)


def by_no_device(skipping: Skipping) -> None:
    """Forget all devices."""
    skipping.hooks.path.write_devices({})


def marked(skipping: Skipping) -> None:
    """Let nothing be known of ways."""
    skipping.know(ESTABLISHED)


def moved(skipping: Skipping) -> None:
    """Change the routes."""
    skipping.hooks.path.forget_ways()


def nowhere(skipping: Skipping) -> None:
    """Have ways that are nobody's."""
    for whose in PLACES:
        skipping.write_way(whose, Way(0))


def half_written(skipping: Skipping) -> None:
    """Have ways whose parts are of two."""
    for whose, way in OF.items():
        raw = way.raw()
        skipping.write_way(whose, way, raw[:8] + bytes([raw[8] ^ 1]) + raw[9:])


def a_second_later(skipping: Skipping) -> None:
    """Let a second pass."""
    skipping.hooks.table.age(skipping.record.number, REFRESH_TICKS + 1)


@WHOSE
@SERVICES
@pytest.mark.parametrize(
    "change",
    [by_another_device, by_no_device, marked, moved, nowhere, half_written, a_second_later],
    ids=lambda change: change.__name__,
)
def test_what_the_stack_has_to_be_asked(
    hooks: Hooks,
    protocol: Protocol,
    number: int,
    whose: str,
    change: Callable[[Skipping], None],
) -> None:
    """Nothing is known, or not any more: packets go on by the stack, translated as ever."""
    skipping = Skipping(hooks, protocol, number)
    change(skipping)
    check_slow(skipping, whose)


def test_after_a_second_both_ways_are_asked_for(hooks: Hooks, protocol: Protocol) -> None:
    """So that what the firewall of the node says now holds a second later."""
    skipping = Skipping(hooks, protocol, ELSEWHERE)
    a_second_later(skipping)
    check_slow(skipping, "request")
    assert not skipping.record.flags & WAYS
    check_slow(skipping, "reply")


def test_within_a_second_neither(hooks: Hooks, protocol: Protocol) -> None:
    """The stack has had its say."""
    skipping = Skipping(hooks, protocol, ELSEWHERE)
    hooks.table.age(skipping.record.number, REFRESH_TICKS - 1)
    assert skipping.run("request").verdict == TC_REDIRECT


@pytest.mark.parametrize("epoch", [ADDRESS_EPOCH, FRONTEND_EPOCH])
def test_what_the_node_has_lost(hooks: Hooks, protocol: Protocol, epoch: str) -> None:
    """An address that stood for clients, or a frontend: it has to be looked for (rules 8, 18)."""
    skipping = Skipping(hooks, protocol, ELSEWHERE)
    skipping.advance(epoch)
    # a TCP connection goes on whatever its frontend leads to by now
    if epoch == FRONTEND_EPOCH and protocol is TCP:
        assert skipping.run("request").verdict == TC_REDIRECT
    else:
        check_slow(skipping, "request")


def test_a_backend_that_has_left(hooks: Hooks) -> None:
    """A datagram goes to another one at once (rule 18); an answer of the former one arrives."""
    skipping = Skipping(hooks, UDP, HERE)
    hooks.node.apply(plan(hooks.family, UDP, HERE, [3], local=1))
    check_slow(skipping, "request")


def test_somebody_has_marked_it(hooks: Hooks, protocol: Protocol) -> None:
    """A mark may choose the route, which is the stack's to know."""
    skipping = Skipping(hooks, protocol, HERE)
    packet = skipping.packet(*skipping.ends("request")[0])
    before = hooks.node.counters(hooks.family)
    hooks.mark_after("ingress", packet, 0x10)
    assert "packet_fast" not in hooks.grown(before)
    hooks.mark_after("ingress", packet, 0)
    assert hooks.grown(before)["packet_fast"] == 1


def test_a_datagram_without_a_checksum(hooks: Hooks) -> None:
    """It stays without one (RFC 768)."""
    skipping = Skipping(hooks, UDP, HERE)
    (src, dst), _ = skipping.ends("request")
    frame = ether(hooks.udp(src, dst, checksum=False), ETH_P[hooks.family])
    ran = hooks.frame("ingress", frame)
    assert ran.data[-len(TEXT) - 2 : -len(TEXT)] == b"\0\0"
    assert ran.verdict == TC_REDIRECT


def test_who_is_hidden_is_not_found_by_what_is_direct(hooks: Hooks, protocol: Protocol) -> None:
    """What a backend sends to the client itself is no answer to the node's address."""
    skipping = Skipping(hooks, protocol, ELSEWHERE)
    direct = skipping.packet(skipping.backend, skipping.client)
    before = hooks.node.counters(hooks.family)
    ran = hooks.ingress(direct)
    assert (ran.verdict, ran.data) != (TC_REDIRECT, skipping.sent("reply", REPLIES))
    assert "packet_fast" not in hooks.grown(before)
