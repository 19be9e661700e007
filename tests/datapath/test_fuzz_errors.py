# SPDX-License-Identifier: Apache-2.0
"""ICMP errors of which a few bytes are anything: who is told of a packet has sent it, or nothing.

What the program makes of each is compared with a second reading of the same bytes (reading.py).
Sums stay as right as they were: a message that was broken on its way does not become whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.model import Family, Protocol
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import FRAGMENT, End, pseudo, words_sum
from tests.datapath.pieces import ends_of, extended, fragment
from tests.datapath.reading import HEADERS, Quote, quoted
from tests.datapath.test_fuzz import FUZZ, changed, changes
from tests.datapath.test_icmp_errors import (
    ELSEWHERE,
    HERE,
    KINDS,
    NO_MATTER,
    Flow,
    on_uplink,
    opened,
    router,
)

TCP, UDP = Protocol.TCP, Protocol.UDP
BEYOND = 112  # how far into a packet bytes change


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of an uplink, and a connection of each protocol to a backend here and elsewhere."""
    with on_uplink(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


class Told(NamedTuple):
    """Both ends of a packet that is quoted, before and after a hook."""

    before: tuple[End, End]
    after: tuple[End, End]


def out_of(flow: Flow) -> Told:
    """Return what the backend of a flow, or a router before it, says of the client's packets."""
    return Told((flow.client, flow.backend), (flow.client, flow.frontend))


def into(flow: Flow) -> Told:
    """Return what a router beyond the node says of what left it: the service's name comes last."""
    return Told((flow.source, flow.backend), (flow.client, flow.backend))


def messages(hooks: Hooks, sender: bytes, told: Told, protocol: Protocol) -> list[bytes]:
    """Return errors about a packet, of every kind, with all of it and with little."""
    about = hooks.first(protocol, *told.before)
    receiver = told.before[0].address
    return [
        hooks.icmp(sender, receiver, *kind, NO_MATTER + about[:length])
        for kind in KINDS[hooks.family]
        for length in (len(about), len(about) - 4)
    ]


def fields(family: Family, quote: Quote) -> set[int]:
    """Return where bytes may change: addresses, ports, and sums of these."""
    transport = quote.at + quote.about.transport
    check = transport + HEADERS[quote.about.proto][1]
    first, size = (12, 8) if family is Family.IPV4 else (8, 32)
    sums = (10, quote.at + 10) if family is Family.IPV4 else ()
    places = {*range(transport, transport + 4), check, check + 1}
    places |= {quote.message + 2, quote.message + 3}
    for start in (first, quote.at + first):
        places |= set(range(start, start + size))
    for start in sums:
        places |= {start, start + 1}
    return places


def sums(family: Family, quote: Quote, packet: bytes) -> list[int]:
    """Return what is summed up, each modulo 0xffff: as right or wrong as it was."""
    message, about = packet[quote.message :], packet[quote.at :]
    transport = quote.about.transport
    check = transport + HEADERS[quote.about.proto][1]
    src, dst = ends_of(packet)
    inner = b"".join(ends_of(about)) + about[transport : transport + 4]
    found = [words_sum(message)]
    if family is Family.IPV6:
        found = [words_sum(pseudo(src, dst, 58, len(message)) + message)]
    else:
        found += [words_sum(packet[: (packet[0] & 15) * 4]), words_sum(about[:transport])]
    has_check = len(about) >= check + 2
    if has_check and not (quote.about.proto == UDP and about[check : check + 2] == b"\0\0"):
        found.append(words_sum(inner + about[check : check + 2]))
    return [each % 0xFFFF for each in found]


def judge(hooks: Hooks, told: dict[int, Told], packet: bytes, made: bytes) -> None:
    """Assert that an error became what it has to."""
    family = hooks.family
    before = quoted(family, packet)
    mine = told.get(before.about.proto) if before else None
    if not before or not mine or (before.about.src, before.about.dst) != mine.before:
        assert made == packet
        return
    if ends_of(packet)[1] != before.about.src.address:
        assert made == packet, "told to somebody else than who has sent it"
        return
    after = quoted(family, made)
    assert after
    assert (after.message, after.at) == (before.message, before.at)
    assert (after.about.src, after.about.dst) == mine.after
    assert ends_of(made)[1] == mine.after[0].address
    differing = {at for at, (old, new) in enumerate(zip(packet, made, strict=True)) if old != new}
    assert differing <= fields(family, before)
    assert sums(family, after, made) == sums(family, before, packet)


def begun(family: Family, message: bytes) -> bytes:
    """Return a message as the first fragment of a longer one."""
    if family is Family.IPV6:
        return extended(message, (FRAGMENT, fragment(0, more=True)))
    return message[:6] + b"\x20\x00" + message[8:]


def test_the_first_fragment_of_an_error(hooks: Hooks, protocol: Protocol) -> None:
    """It quotes the packet, and so it is led to who has sent that, as a whole one is."""
    told = into(opened(hooks, protocol, ELSEWHERE))
    sent, *_ = messages(hooks, router(hooks.family), told, protocol)
    packet = begun(hooks.family, sent)
    made = hooks.ingress(packet)
    assert made.data != packet
    judge(hooks, {int(protocol): told}, packet, made.data)


CHANGES = changes(BEYOND, 3)


@given(data=st.data())
@FUZZ
def test_what_leaves(hooks: Hooks, data: st.DataObject) -> None:
    """Errors of a backend on this node about what a client has sent it."""
    hooks.table.clear()
    told = {int(each): out_of(opened(hooks, each, HERE)) for each in (TCP, UDP)}
    found = []
    for protocol in (TCP, UDP):
        backend = told[int(protocol)].before[1].address
        found += messages(hooks, backend, told[int(protocol)], protocol)
    packet = changed(data, found, CHANGES)
    made = hooks.egress(packet)
    assert made == passed(made.data)
    judge(hooks, told, packet, made.data)


@given(data=st.data())
@FUZZ
def test_what_comes_in(hooks: Hooks, data: st.DataObject) -> None:
    """Errors of a router about what this node has sent for a client, whom they are led to."""
    hooks.table.clear()
    protocol = data.draw(st.sampled_from((TCP, UDP)))
    told = {int(protocol): into(opened(hooks, protocol, ELSEWHERE))}
    found = messages(hooks, router(hooks.family), told[int(protocol)], protocol)
    packet = changed(data, found, CHANGES)
    made = hooks.ingress(packet)
    assert made == passed(made.data)
    judge(hooks, told, packet, made.data)
