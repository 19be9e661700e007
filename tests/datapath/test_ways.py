# SPDX-License-Identifier: Apache-2.0
"""Where packets of the fast path go: what is written down of those that the stack sends."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyproxy.kernel.addresses import FAST, PEER
from pyproxy.kernel.connections import Life
from pyproxy.kernel.packetpath import now_ticks
from pyproxy.model import Family, Protocol
from pyproxy.plan.options import Options
from tests.datapath.flowtable import Record
from tests.datapath.node import Node
from tests.datapath.routing import (
    ASKING,
    ELSEWHERE,
    HERE,
    MACS,
    MTUS,
    SERVING,
    Conversation,
    Routing,
)
from tests.datapath.skipping import WAYS, Way

UDP = Protocol.UDP
# each packet has its way asked for with a chance of one in eight: (7/8)^200 is none
PATIENCE = 200
SERVICES = pytest.mark.parametrize("number", [ELSEWHERE, HERE], ids=["hidden", "seen"])
# one of each family in the guest, where each takes ten seconds
CONVERSATIONS = pytest.mark.parametrize(
    ("protocol", "number"),
    [
        pytest.param(UDP, ELSEWHERE, marks=pytest.mark.kernel, id="UDP-hidden"),
        pytest.param(UDP, HERE, id="UDP-seen"),
        pytest.param(Protocol.TCP, ELSEWHERE, id="TCP-hidden"),
        pytest.param(Protocol.TCP, HERE, id="TCP-seen"),
    ],
)
TRIES, KEPT_TICKS = 4, 3577  # WAY_TRIES, WAY_TICKS of bpf/way.c
WORDS = 24  # bytes of a way before `seen`


@pytest.fixture
def routing(node: Node, family: Family, tmp_path: Path) -> Iterator[Routing]:
    """A client and backends, with a router in between."""
    with ExitStack() as undo:
        yield Routing(node, family, tmp_path, undo)


def await_flags(talk: Conversation, flags: Life) -> Record:
    """Have a conversation go on until its connection has these flags."""
    for _ in range(PATIENCE):
        talk.exchange()
        record = talk.routing.table.only()
        if record.flags & flags == flags:
            return record
    raise AssertionError(f"after {PATIENCE} exchanges: {record}")


def never_gets(talk: Conversation, flags: Life) -> None:
    """Assert that a connection that goes on never has any of these flags."""
    for _ in range(PATIENCE):
        talk.exchange()
    assert not talk.routing.table.only().flags & flags


def way_to(routing: Routing, name: str, flags: int = 0) -> Way:
    """Return how packets get to a namespace."""
    near, far = (bytes.fromhex(mac.replace(":", "")) for mac in MACS[name])
    ifindex = routing.ends.asking if name == ASKING else routing.ends.serving
    return Way(ifindex, MTUS[name], far, near, flags)


def sent_by(routing: Routing, name: str) -> int:
    """Return how many packets have left by one of the router's devices."""
    shown = routing.run("ip", "-j", "-s", "link", "show", name)
    return int(json.loads(shown)[0]["stats64"]["tx"]["packets"])


@CONVERSATIONS
def test_both_ways_are_written_down(routing: Routing, protocol: Protocol, number: int) -> None:
    """Device, link-layer addresses, MTU, as the stack has sent; then packets go by them."""
    talk = Conversation(routing, protocol, number)
    record = await_flags(talk, WAYS)
    there, back = routing.numbers(record)
    assert routing.read_way(there)[:WORDS] == way_to(routing, SERVING).raw()[:WORDS]
    assert routing.read_way(back)[:WORDS] == way_to(routing, ASKING).raw()[:WORDS]
    before = routing.counted()
    for _ in range(10):
        talk.exchange()
    assert (routing.counted() - before)["packet_fast"] >= 18


@pytest.mark.parametrize("peer", [0, PEER], ids=["device", "peer"])
def test_the_other_end_gets_it_at_once(routing: Routing, peer: int) -> None:
    """Where nobody sees what leaves by a device, it does not leave by it."""
    routing.configure(asking=FAST | peer, serving=FAST | peer)
    talk = Conversation(routing, UDP, HERE)
    record = await_flags(talk, WAYS)
    for where, name in zip(routing.numbers(record), (SERVING, ASKING), strict=True):
        assert routing.read_way(where)[:WORDS] == way_to(routing, name, peer).raw()[:WORDS]
    for name in (SERVING, ASKING):
        before, fast = sent_by(routing, name), routing.counted()["packet_fast"]
        for _ in range(10):
            talk.exchange()
        grown = routing.counted()["packet_fast"] - fast
        assert grown >= 18
        assert (sent_by(routing, name) - before >= 10) is (peer == 0)


def test_what_comes_by_a_bridge_gets_into_a_pod_at_once(routing: Routing) -> None:
    """At a bridge's port a frame counts as somebody else's, which the pod's stack would drop."""
    routing.bridge_asking()
    talk = Conversation(routing, UDP, HERE)
    await_flags(talk, Life.WAY_REQUEST)
    before = routing.counted()
    for _ in range(10):
        talk.exchange()
    assert (routing.counted() - before)["packet_fast"] >= 9


def test_few_are_asked_for(routing: Routing) -> None:
    """What ends after a packet or two would pay for what it never uses."""
    talk = Conversation(routing, UDP, HERE)
    for _ in range(150):
        talk.begin_anew()
        talk.exchange()
    known = [each for each in routing.table.records() if each.flags & WAYS]
    assert 3 < len(known) < 75


@SERVICES
def test_who_has_had_one_is_asked_for_at_once(
    routing: Routing, protocol: Protocol, number: int
) -> None:
    """After routes have changed the next packet of each way is the stack's, and then none."""
    talk = Conversation(routing, protocol, number)
    await_flags(talk, WAYS)
    for _ in range(5):
        routing.path.forget_ways()
        before = routing.counted()
        talk.exchange()
        assert (routing.counted() - before)["packet_fast"] == 0
        talk.exchange()
        assert (routing.counted() - before)["packet_fast"] >= 1
        talk.exchange()
        talk.exchange()
        assert (routing.counted() - before)["packet_fast"] >= 4


@SERVICES
@pytest.mark.parametrize("name", [ASKING, SERVING])
def test_what_others_see_come_is_not_asked_for(routing: Routing, name: str, number: int) -> None:
    """Packets that come by such a device have to go by the stack, all of them."""
    if name == ASKING:
        routing.configure(asking=0)
    else:
        routing.configure(serving=0)
    talk = Conversation(routing, UDP, number)
    other, same = Life.WAY_REPLY, Life.WAY_REQUEST
    if name == SERVING:
        other, same = same, other
    await_flags(talk, other)
    never_gets(talk, same)


@contextmanager
def ruled(routing: Routing, hook: str, rule: str) -> Iterator[None]:
    """Have a rule in the router's netfilter."""
    kind = "nat" if "masquerade" in rule else "filter"
    chain = f"{{ type {kind} hook {hook}; }}"
    lines = (
        "add table inet own",
        f"add chain inet own one {chain}",
        f"add rule inet own one {rule}",
    )
    routing.run("nft", ";".join(lines))
    yield
    routing.run("nft", "delete table inet own")


@SERVICES
def test_marked_packets_may_have_a_way_of_their_own(routing: Routing, number: int) -> None:
    """A mark may choose the route: but for the one that we set ourselves."""
    talk = Conversation(routing, UDP, number)
    with ruled(routing, "forward priority 0", "meta mark set 0x8000"):
        never_gets(talk, WAYS)
        routing.configure(Options("here", forward_accept=True, masquerade_bit=15))
        await_flags(talk, WAYS)


def test_what_others_masquerade_is_none_of_ours(routing: Routing) -> None:
    """Its requests leave with ends that no connection has."""
    with ruled(routing, "postrouting priority 100", f"oifname {SERVING} masquerade"):
        talk = Conversation(routing, UDP, HERE)
        never_gets(talk, Life.WAY_REQUEST)


def ticks(ago: int = 0) -> bytes:
    """Return a time as ways have it."""
    return (now_ticks() - ago).to_bytes(8, sys.byteorder)


class Placing:
    """A connection whose ways are written down anew, and where those of its requests go first."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing
        self._talk = Conversation(routing, UDP, HERE)
        self.first, _ = routing.numbers(await_flags(self._talk, WAYS))
        self.way = routing.read_way(self.first)[:WORDS]
        routing.clear_ways()

    def occupy(self, number: int, ago: int = 0) -> None:
        """Have another next hop in a place, which was in use a while ago."""
        raw = Way(99, dst=bytes([2, 0, 0, 0, 0, number % 256])).raw()[:WORDS]
        self._routing.write_way(number, raw + ticks(ago))

    def again(self) -> int:
        """Return where the way is now, 0 if there was no place."""
        for _ in range(5):
            self._talk.exchange()
        record = self._routing.table.only()
        if not record.flags & Life.WAY_REQUEST:
            return 0
        number, _ = self._routing.numbers(record)
        assert self._routing.read_way(number)[:WORDS] == self.way
        return number


@pytest.mark.parametrize("busy", range(TRIES + 1))
def test_a_place_that_others_use_is_theirs(routing: Routing, busy: int) -> None:
    """The next one does, and the stack where there are too many."""
    placing = Placing(routing)
    for number in range(busy):
        placing.occupy(placing.first + number)
    assert placing.again() == (placing.first + busy if busy < TRIES else 0)


@pytest.mark.parametrize(("ago", "place"), [(KEPT_TICKS - 300, 1), (KEPT_TICKS, 0)])
def test_a_place_that_nobody_uses_is_free(routing: Routing, ago: int, place: int) -> None:
    """A minute after a connection's packets have gone there for the last time."""
    placing = Placing(routing)
    placing.occupy(placing.first, ago)
    assert placing.again() == placing.first + place


def test_a_next_hop_has_one_place(routing: Routing) -> None:
    """All connections that go there share it, and keep it."""
    placing = Placing(routing)
    routing.write_way(placing.first, placing.way + ticks(KEPT_TICKS + 300))
    before = now_ticks()
    assert placing.again() == placing.first
    seen = int.from_bytes(routing.read_way(placing.first)[WORDS:], sys.byteorder)
    assert before <= seen <= now_ticks()


@pytest.mark.parametrize("word", range(5))
def test_all_of_a_next_hop_counts(routing: Routing, word: int) -> None:
    """What differs in anything is another one."""
    placing = Placing(routing)
    almost = bytearray(placing.way)
    almost[4 * word] ^= 1
    routing.write_way(placing.first, bytes(almost) + ticks())
    assert placing.again() == placing.first + 1


def test_datagrams_in_pieces_come_back(routing: Routing) -> None:
    """What leaves in pieces has no way, and is translated all the same."""
    talk = Conversation(routing, UDP, HERE)
    await_flags(talk, WAYS)
    for _ in range(5):
        talk.exchange(bytes(range(250)) * 16)


def test_who_is_refused_is_told(routing: Routing) -> None:
    """An error about what was sent on the fast path goes back to who has sent it."""
    talk = Conversation(routing, UDP, HERE)
    await_flags(talk, WAYS)
    talk.backend.close()
    talk.client.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        talk.client.recv(64)


@SERVICES
def test_segments_that_a_device_cuts(routing: Routing, number: int) -> None:
    """What counts is how long each piece is on the wire: large ones skip the stack as well."""
    talk = Conversation(routing, Protocol.TCP, number)
    await_flags(talk, WAYS)
    before = routing.counted()
    for _ in range(20):
        talk.exchange(bytes(60_000))
    grown = routing.counted() - before
    assert grown["packet_fast"] > 2 * (grown["packet_in"] + grown["packet_out"])
