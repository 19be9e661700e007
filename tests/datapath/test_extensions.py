# SPDX-License-Identifier: Apache-2.0
"""IPv6 extension headers before the transport's (RFC 8200 4)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend, plan, refusing
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import HOP_BY_HOP
from tests.datapath.pieces import (
    DESTINATION,
    ROUTING,
    cut,
    extended,
    fragment,
    options,
    routing,
)
from tests.datapath.prog_run import TC_REDIRECT

IPV6 = Family.IPV6
HOP, END, ROUTE, FRAGMENT = HOP_BY_HOP, DESTINATION, ROUTING, p.FRAGMENT
AUTHENTICATION = 51
TRANSLATED = {
    "hop-by-hop": [(HOP, options())],
    "a long one": [(HOP, options(8))],
    "options-for-the-end": [(END, options(1))],
    "at-its-end": [(ROUTE, routing(0))],
    "a-fragment-that-is-all": [(FRAGMENT, fragment(0, more=False))],
    "as-in-rfc-8200-4.1": [
        (HOP, options()), (END, options()), (ROUTE, routing(0)),
        (FRAGMENT, fragment(0, more=True)), (END, options()),
    ],
    "six": [(END, options())] * 6,
}  # fmt: skip
UNTOUCHED = {
    "hops-left": [(ROUTE, routing(1))],
    "hops-left-after-options": [(HOP, options()), (ROUTE, routing(255))],
    "seven": [(END, options())] * 7,
    "authenticated": [(AUTHENTICATION, bytes((4, *bytes(22))))],
    "too-far": [(END, options(40)), (END, options(40))],
}


@pytest.fixture(params=[Wire.ETHERNET, Wire.BARE], ids=lambda wire: wire.value)
def hooks(node: Node, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and a service with a backend here."""
    for protocol in (Protocol.TCP, Protocol.UDP):
        node.apply(plan(IPV6, protocol, 1, [1], local=1))
    with Hooks(node, IPV6, request.param, tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.kernel if "rfc" in kind else ()) for kind in TRANSLATED],
)
def test_what_stands_between_stays(hooks: Hooks, protocol: Protocol, kind: str) -> None:
    """The ends change, and the checksum where it lies."""
    c, f, b = client(IPV6), frontend(IPV6), backend(IPV6)
    headers = TRANSLATED[kind]
    first = extended(hooks.first(protocol, c, f), *headers)
    assert hooks.ingress(first) == passed(extended(hooks.first(protocol, c, b), *headers))
    answer = extended(hooks.answer(protocol, b, c), *headers)
    assert hooks.egress(answer) == passed(extended(hooks.answer(protocol, f, c), *headers))


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_what_is_not_ours(hooks: Hooks, protocol: Protocol, kind: str) -> None:
    """Not at its destination yet, signed, or more than anybody sends."""
    packet = extended(hooks.first(protocol, client(IPV6), frontend(IPV6)), *UNTOUCHED[kind])
    with hooks.node.counting(IPV6):
        assert hooks.ingress(packet) == passed(packet)
        assert hooks.egress(packet) == passed(packet)


def test_headers_that_are_cut_off(hooks: Hooks) -> None:
    """They say that more follows than there is."""
    if hooks.wire is Wire.BARE:
        return  # BPF_PROG_TEST_RUN takes none that are so short
    whole = extended(
        hooks.udp(client(IPV6), frontend(IPV6), b""), (HOP, options()), (END, options())
    )
    for length in (44, 52):
        packet = whole[:length]
        with hooks.node.counting(IPV6):
            assert hooks.ingress(packet) == passed(packet)


def test_fragments_with_options_before_and_after(hooks: Hooks) -> None:
    """What comes before the fragment header is in each of them, what comes after in the first."""
    c, f, b = client(IPV6), frontend(IPV6), backend(IPV6)
    sent, expected = (
        [
            extended(each, (HOP, options()))
            for each in cut(extended(hooks.udp(c, end, bytes(200)), (END, options())))
        ]
        for end in (f, b)
    )
    assert [hooks.ingress(each) for each in sent] == [passed(each) for each in expected]


def test_a_refused_one_is_answered_without_them(node: Node, hooks: Hooks) -> None:
    """By what answers a plain SYN: nobody's options are given back (RFC 9293 3.10.7.1)."""
    if hooks.wire is Wire.BARE:
        return  # redirected, it shows the address that the device was given
    node.apply(refusing(IPV6, Protocol.TCP, 2))
    plain = hooks.first(Protocol.TCP, client(IPV6), frontend(IPV6, 2))
    answered = hooks.ingress(extended(plain, (HOP, options()), (END, options())))
    assert answered.verdict == TC_REDIRECT
    assert answered == hooks.ingress(plain)
