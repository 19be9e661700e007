# SPDX-License-Identifier: Apache-2.0
"""Packets of services, in and out: ends and checksums change, and not one byte besides."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.flowtable import Key, Lead, Role, Side
from tests.datapath.hooks import Hooks, Wire, let_device_sum, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, FIN, PSH, SYN, TEXT

TCP, UDP = Protocol.TCP, Protocol.UDP


@pytest.fixture(params=Wire, ids=lambda wire: wire.value)
def hooks(
    node: Node, family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Hooks]:
    """The hooks of each kind of device."""
    with Hooks(node, family, request.param, tmp_path) as found:
        yield found


@pytest.mark.kernel
def test_a_conversation(hooks: Hooks, protocol: Protocol) -> None:
    """Requests reach the backend, replies come from the frontend, ports of the client stay."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol))
    c, f, b = client(family), frontend(family), backend(family)
    before = hooks.node.counters(family)
    for _ in range(2):
        assert hooks.ingress(hooks.first(protocol, c, f)) == passed(hooks.first(protocol, c, b))
        assert hooks.egress(hooks.answer(protocol, b, c)) == passed(hooks.answer(protocol, f, c))
    if protocol is TCP:
        for flags in (ACK, ACK | PSH, FIN | ACK):
            assert hooks.ingress(hooks.tcp(c, f, flags)) == passed(hooks.tcp(c, b, flags))
            assert hooks.egress(hooks.tcp(b, c, flags)) == passed(hooks.tcp(f, c, flags))
    many = 5 if protocol is TCP else 2
    assert hooks.grown(before) == {"packet_open": 1, "packet_in": many, "packet_out": many}
    record = hooks.table.only()
    assert (record.client, record.frontend, record.backend) == (c, f, b)
    assert hooks.table.entries() == {
        Key(c, f, protocol, Side.INGRESS): Lead(record.number, Role.REQUEST),
        Key(b, c, protocol, Side.EGRESS): Lead(record.number, Role.REPLY),
    }
    assert hooks.table.claimed() == [record.number]


def test_payloads_of_all_lengths(hooks: Hooks, protocol: Protocol) -> None:
    """Odd lengths, empty ones and a whole frame's worth are translated alike."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol))
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    hooks.egress(hooks.answer(protocol, b, c))
    shortest = 6 if hooks.wire is Wire.BARE else 0
    for length in (shortest, shortest + 1, 7, 64, 999, 1400):
        payload = bytes(n * 7 % 256 for n in range(length))

        def made(src: p.End, dst: p.End, text: bytes = payload) -> bytes:
            tcp = hooks.tcp(src, dst, ACK, text)
            return tcp if protocol is TCP else hooks.udp(src, dst, text)

        assert hooks.ingress(made(c, f)) == passed(made(c, b))
        assert hooks.egress(made(b, c)) == passed(made(f, c))


def test_ports_alone_change(hooks: Hooks, protocol: Protocol) -> None:
    """A backend on the frontend's own address needs other ports only."""
    family = hooks.family
    other = p.End(frontend(family).address, 8080)
    hooks.node.apply(plan(family, protocol, backends=[other]))
    c, f = client(family), frontend(family)
    assert hooks.ingress(hooks.first(protocol, c, f)) == passed(hooks.first(protocol, c, other))


def test_addresses_alone_change(hooks: Hooks, protocol: Protocol) -> None:
    """A backend on the frontend's port keeps the ports as they are."""
    family = hooks.family
    same = p.End(backend(family).address, frontend(family).port)
    hooks.node.apply(plan(family, protocol, backends=[same]))
    c, f = client(family), frontend(family)
    assert hooks.ingress(hooks.first(protocol, c, f)) == passed(hooks.first(protocol, c, same))
    answer = hooks.answer(protocol, same, c)
    assert hooks.egress(answer) == passed(hooks.answer(protocol, f, c))


@pytest.mark.kernel
def test_a_udp_checksum_that_is_not_used_stays_unused(hooks: Hooks) -> None:
    """0 means "none" (RFC 768): it is no sum that could be put right."""
    family = hooks.family
    hooks.node.apply(plan(family, UDP))
    c, f, b = client(family), frontend(family), backend(family)
    sent, arrives = (hooks.udp(c, to, checksum=False) for to in (f, b))
    assert hooks.ingress(sent) == passed(arrives)
    back, left = (hooks.udp(by, c, checksum=False) for by in (b, f))
    assert hooks.egress(back) == passed(left)


def test_a_udp_checksum_that_becomes_zero_is_written_as_ones(hooks: Hooks) -> None:
    """A sum of 0 is sent as 0xffff (RFC 768): else it would say that there is none."""
    family = hooks.family
    hooks.node.apply(plan(family, UDP))
    c, f, b = client(family), frontend(family), backend(family)
    # a last word that makes the sum of all others all ones
    rest = hooks.udp(c, b, TEXT + bytes(2))
    at = len(rest) - len(TEXT) - 4
    payload = TEXT + rest[at : at + 2]
    arrives = hooks.udp(c, b, payload)
    assert arrives[at : at + 2] == b"\xff\xff"
    assert hooks.ingress(hooks.udp(c, f, payload)) == passed(arrives)


def test_rule_24_what_a_device_has_summed_stays_right(hooks: Hooks, protocol: Protocol) -> None:
    """A sum of the whole packet that came from the device (CHECKSUM_COMPLETE) stays right."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol))
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    if hooks.wire is Wire.BARE:
        return  # the kernel's test would sum from byte 14 on
    let_device_sum(hooks)
    assert hooks.ingress(hooks.first(protocol, c, f)) == passed(hooks.first(protocol, c, b))
    assert hooks.egress(hooks.answer(protocol, b, c)) == passed(hooks.answer(protocol, f, c))


def test_urgent_data_and_tcp_options_stay(hooks: Hooks) -> None:
    """Nothing of a TCP header changes but ports and checksum."""
    family = hooks.family
    hooks.node.apply(plan(family, TCP))
    c, f, b = client(family), frontend(family), backend(family)
    options = struct.pack("!BBHBBBB", 2, 4, 1460, 1, 3, 3, 7)
    head = p.PLAIN
    if hooks.wire is not Wire.ETHERNET:
        head = head._replace(options=b"\x01" * 4)
    sent, arrives = (
        p.tcp(c, to, SYN | p.ECE | p.CWR, seq=0xFFFFFFFF, ack=0, options=options, head=head)
        for to in (f, b)
    )
    assert hooks.ingress(sent) == passed(arrives)


def test_the_builders_sum_as_the_documents_do() -> None:
    """The example of RFC 1071 3, and every packet with its pseudo-header sums to all ones."""
    assert p.words_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    for family in Family:
        c, b = client(family), backend(family)
        at = p.IP_BYTES[family]
        for proto, raw in ((6, p.tcp(c, b, SYN, b"odd")), (17, p.udp(c, b, b"odd"))):
            data = raw[at:]
            assert p.words_sum(p.pseudo(c.address, b.address, proto, len(data)) + data) == 0xFFFF
            assert family is Family.IPV6 or p.words_sum(raw[:at]) == 0xFFFF
