# SPDX-License-Identifier: Apache-2.0
"""Services without endpoints: who asks hears at once, in the right words (parity A8.1, A8.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from pyproxy.tables import ServiceFlag
from tests.datapath import packets as p
from tests.datapath.ends import client, frontend, plan, refusing
from tests.datapath.hooks import NOPS, Hooks, Wire, dropped
from tests.datapath.node import Node
from tests.datapath.packets import ACK, IP_BYTES, PLAIN, RST, SYN, Head
from tests.datapath.prog_run import TC_DROP, TC_REDIRECT, Ran

TCP, UDP = Protocol.TCP, Protocol.UDP

# an answer's own IP header: nothing of what it answers is in it
ANSWER = Head(ttl=64, tos=0, number=0)
# type and code of "port unreachable", and how much of the packet an error may quote: as much as
# fits into 576 bytes (RFC 1812 4.3.2.3), or 1280 (RFC 4443 2.4 c)
UNREACHABLE = {Family.IPV4: (3, 3), Family.IPV6: (1, 4)}
QUOTED = {Family.IPV4: 576 - 20 - 8, Family.IPV6: 1280 - 40 - 8}


@pytest.fixture(params=Wire, ids=lambda wire: wire.value)
def hooks(
    node: Node, family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Hooks]:
    """The hooks of each kind of device, and services without endpoints."""
    for protocol in (TCP, UDP):
        node.apply(refusing(family, protocol))
    with Hooks(node, family, request.param, tmp_path) as found:
        yield found


def unreachable(packet: bytes, family: Family) -> Ran:
    """Return the answer to a packet of the client's: an error that quotes it."""
    kind, code = UNREACHABLE[family]
    body = bytes(4) + packet[: QUOTED[family]]
    to = client(family).address
    error = p.icmp(frontend(family).address, to, kind, code, body, head=ANSWER)
    return Ran(TC_REDIRECT, error)


def reset(family: Family, ack: int) -> Ran:
    """Return the answer to a SYN (RFC 9293 3.10.7.1)."""
    segment = p.tcp(
        frontend(family), client(family), RST | ACK, seq=0, ack=ack, window=0, head=ANSWER
    )
    return Ran(TC_REDIRECT, segment)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("seq", [0x11223344, 0xFFFFFFFF, 0])
def test_a_syn_is_answered_with_a_reset(hooks: Hooks, seq: int, length: int) -> None:
    """SEQ=0, ACK=SEG.SEQ+SEG.LEN, and SYN counts as one of the length; no state is kept."""
    family = hooks.family
    payload = bytes(range(250)) * 4
    packet = hooks.tcp(client(family), frontend(family), SYN, payload[:length], seq=seq)
    with hooks.node.counting(family, packet_refused=1):
        assert hooks.ingress(packet) == reset(family, (seq + 1 + length) % 2**32)
    assert not hooks.table.claimed()


@pytest.mark.kernel
def test_a_syn_with_options_and_payload(hooks: Hooks) -> None:
    """TCP's options are no payload; the answer has none."""
    family = hooks.family
    options = struct.pack("!BBHBBBB", 2, 4, 1460, 1, 3, 3, 7)
    head = PLAIN if hooks.wire is Wire.ETHERNET else PLAIN._replace(options=NOPS)
    packet = p.tcp(
        client(family), frontend(family), SYN, b"text", seq=7, options=options, head=head
    )
    assert hooks.ingress(packet) == reset(family, 7 + 1 + 4)


@pytest.mark.kernel
def test_what_a_frame_is_padded_with_is_no_payload(hooks: Hooks) -> None:
    """Ethernet's frames have 60 bytes at least: where the packet ends its header says."""
    family = hooks.family
    padding = b"\xa5" * 13
    c, f = client(family), frontend(family)
    syn, datagram = hooks.tcp(c, f, SYN, seq=7), hooks.udp(c, f, b"eight by")
    assert hooks.ingress(syn + padding) == reset(family, 8)
    assert hooks.ingress(datagram + padding) == unreachable(datagram, family)


def test_a_packet_that_says_it_is_longer(hooks: Hooks) -> None:
    """No more is quoted than there is."""
    family = hooks.family
    cut = hooks.udp(client(family), frontend(family), bytes(300))[:101]
    assert hooks.ingress(cut) == unreachable(cut, family)


@pytest.mark.parametrize(("says", "is_refused"), [(0, False), (7, False), (8, True)])
def test_a_datagram_that_says_it_ends_before_it_begins(
    hooks: Hooks, says: int, *, is_refused: bool
) -> None:
    """The IP header's length leaves no room for UDP's header: a kernel would not answer that."""
    family = hooks.family
    whole = hooks.udp(client(family), frontend(family), b"some text")
    own = len(hooks.udp(client(family), frontend(family), b"")) - 8
    short = shortened(whole, family, own + says)
    refused = {"packet_refused": 1} if is_refused else {}
    with hooks.node.counting(family, **refused):
        ran = hooks.ingress(short)
    assert ran.verdict == (TC_REDIRECT if is_refused else TC_DROP)


def shortened(packet: bytes, family: Family, length: int) -> bytes:
    """Return a packet whose IP header says another length."""
    if family is Family.IPV6:
        return packet[:4] + struct.pack("!H", length - 40) + packet[6:]
    return packet[:2] + struct.pack("!H", length) + packet[4:]


@pytest.mark.parametrize("checksum", [True, False])
def test_a_datagram_is_answered_with_an_error_that_quotes_it(hooks: Hooks, checksum: bool) -> None:
    """Port unreachable with as much of the datagram as fits, of odd lengths too."""
    family = hooks.family
    text = bytes(n * 13 % 256 for n in range(1400))
    most = QUOTED[family]
    own = len(hooks.udp(client(family), frontend(family), b""))
    lengths = {6, 7, 8, 9, 471, 500, 1400, *range(most - own - 5, most - own + 6)}
    for length in sorted(lengths):
        packet = hooks.udp(client(family), frontend(family), text[:length], checksum=checksum)
        with hooks.node.counting(family, packet_refused=1):
            assert hooks.ingress(packet) == unreachable(packet, family), length
    assert not hooks.table.claimed()


def test_datagrams_of_all_lengths(node: Node, family: Family, tmp_path: Path) -> None:
    """Each length from an empty datagram to a full frame gets an answer with a right checksum."""
    node.apply(refusing(family, UDP))
    text = bytes(n * 29 % 256 for n in range(1500))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as hooks:
        for length in range(1500 - IP_BYTES[family] - 8 + 1):
            packet = hooks.udp(client(family), frontend(family), text[:length])
            assert hooks.ingress(packet) == unreachable(packet, family), length


def test_a_service_whose_last_endpoint_left(hooks: Hooks, protocol: Protocol) -> None:
    """First packets are refused, whatever connection they had; TCP goes on in mid-stream."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol))
    c, f = client(family), frontend(family)
    first = hooks.first(protocol, c, f)
    arrives = hooks.ingress(first)
    hooks.node.apply(refusing(family, protocol))
    if protocol is TCP:
        data = hooks.tcp(c, f, ACK)
        assert hooks.ingress(data).data[-len(p.TEXT) :] == p.TEXT
        assert hooks.ingress(data).data != data
        assert hooks.ingress(first) == reset(family, 0x11223345)
    else:
        assert hooks.ingress(first) == unreachable(first, family)
    assert not hooks.table.entries()
    hooks.node.apply(plan(family, protocol))
    assert hooks.ingress(first) == arrives


def test_a_local_policy_without_local_endpoints_drops(hooks: Hooks, protocol: Protocol) -> None:
    """There are endpoints elsewhere: nothing is said (A8.2)."""
    family = hooks.family
    flags = ServiceFlag.INTERNAL_LOCAL | ServiceFlag.HAS_ENDPOINTS
    hooks.node.apply(plan(family, protocol, flags=flags))
    first = hooks.first(protocol, client(family), frontend(family))
    with hooks.node.counting(family, packet_drop=1):
        assert hooks.ingress(first) == dropped(first)
    assert not hooks.table.claimed()
    hooks.node.apply(plan(family, protocol, flags=flags, local=1))
    with hooks.node.counting(family, packet_open=1, packet_in=1):
        hooks.ingress(first)
