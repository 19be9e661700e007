# SPDX-License-Identifier: Apache-2.0
"""Rule 24 for what is no plain packet: a device's sum of it (CHECKSUM_COMPLETE) stays right.

The kernel sums each packet before and after a run; EBADMSG says that a program has left the
device's sum wrong, for which a host beyond would count a good packet as damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.model import Family, Protocol
from tests.datapath import packets as p
from tests.datapath.ends import backend, client, frontend
from tests.datapath.hooks import Hooks, Wire, let_device_sum, passed
from tests.datapath.node import Node
from tests.datapath.pieces import DESTINATION, ROUTING, cut, extended, options, routing
from tests.datapath.test_icmp_errors import HERE, error, on_uplink, opened, router

LENGTHS = (280, 281)  # the last fragment of the second one has an odd length
LONG = bytes(range(256)) * 2


@pytest.fixture(params=[Wire.ETHERNET, Wire.OPTIONS], ids=lambda wire: wire.value)
def hooks(
    node: Node, family: Family, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Hooks]:
    """The hooks of an uplink that has summed what comes by it."""
    with on_uplink(node, family, request.param, tmp_path) as found:
        let_device_sum(found)
        yield found


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("checksum", [True, False])
def test_rule_24_fragments(hooks: Hooks, length: int, checksum: bool) -> None:
    """Both ways, at both hooks; those after the first one have no checksum of their own."""
    family, text = hooks.family, LONG[:length]
    c, f, b = client(family), frontend(family), backend(family)

    def pieces(src: p.End, dst: p.End) -> list[bytes]:
        return cut(hooks.udp(src, dst, text, checksum=checksum))

    inside = [hooks.ingress(each) for each in pieces(c, f)]
    assert inside == [passed(each) for each in pieces(c, b)]
    left = [hooks.egress(each.data) for each in inside]
    source = hooks.table.only().source
    assert left == [passed(each) for each in pieces(source, b)]
    came = [hooks.ingress(each) for each in pieces(b, source)]
    assert came == [passed(each) for each in pieces(b, c)]
    assert [hooks.egress(each.data) for each in came] == [passed(each) for each in pieces(f, c)]


def test_rule_24_datagrams_without_a_checksum(hooks: Hooks) -> None:
    """Nothing in them makes up for other ports."""
    family = hooks.family
    c, f, b = client(family), frontend(family, HERE), backend(family, HERE)
    sent, inside = (hooks.udp(c, to, checksum=False) for to in (f, b))
    assert hooks.ingress(sent) == passed(inside)
    back, told = (hooks.udp(src, c, checksum=False) for src in (b, f))
    assert hooks.egress(back) == passed(told)


@pytest.mark.parametrize("whole", [True, False])
def test_rule_24_errors_about_what_the_client_has_sent(
    hooks: Hooks, protocol: Protocol, whole: bool
) -> None:
    """The quoted packet changes, and with it the message's sum; the frame's is made of all."""
    family, flow = hooks.family, opened(hooks, protocol)
    quoted = [hooks.first(protocol, src, dst) for src, dst in (
        (flow.source, flow.backend), (flow.client, flow.backend), (flow.client, flow.frontend),
    )]  # fmt: skip
    told = flow.client.address
    sent = error(hooks, router(family), flow.source.address, quoted[0], whole=whole)
    came = hooks.ingress(sent)
    assert came == passed(error(hooks, router(family), told, quoted[1], whole=whole))
    left = hooks.egress(came.data)
    assert left == passed(error(hooks, flow.frontend.address, told, quoted[2], whole=whole))


@pytest.mark.parametrize("whole", [True, False])
def test_rule_24_errors_about_what_the_backend_has_sent(
    hooks: Hooks, protocol: Protocol, whole: bool
) -> None:
    """From the client, about an answer."""
    flow = opened(hooks, protocol, HERE)
    outside = hooks.answer(protocol, flow.frontend, flow.client)
    inside = hooks.answer(protocol, flow.backend, flow.client)
    sender = flow.client.address
    sent = error(hooks, sender, flow.frontend.address, outside, whole=whole)
    expected = error(hooks, sender, flow.backend.address, inside, whole=whole)
    assert hooks.ingress(sent) == passed(expected)


def test_rule_24_extension_headers(hooks: Hooks) -> None:
    """The transport stands farther back, and so does its sum."""
    if hooks.family is Family.IPV4 or hooks.wire is Wire.OPTIONS:
        return  # it has none, or they are the same packets
    c, f, b = client(hooks.family), frontend(hooks.family), backend(hooks.family)
    chain = ((p.HOP_BY_HOP, options()), (ROUTING, routing(0)), (DESTINATION, options(2)))
    assert hooks.ingress(extended(p.udp(c, f), *chain)) == passed(extended(p.udp(c, b), *chain))
