# SPDX-License-Identifier: Apache-2.0
"""Rule 4: direct traffic from a port that also talks to a service, in both orders.

Direct connections are tracked by nobody, so their packets must be told from a service's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.flowtable import ANSWERED, ESTABLISHED, OPENED, Key, Role, Side, begin_tick
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, FIN, RST, SYN, End

TCP, UDP = Protocol.TCP, Protocol.UDP
BOTH_FIN = Life.FIN_CLIENT | Life.FIN_BACKEND


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and a service for each protocol."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


def inner(hooks: Hooks, frontend_end: End) -> End:
    """Return the client as the backend sees it in the connection to a frontend."""
    (record,) = [each for each in hooks.table.records() if each.frontend == frontend_end]
    return record.inner


@pytest.mark.kernel
def test_rule_04_tcp_direct_first(hooks: Hooks) -> None:
    """The backend answers the service's SYN for the direct one: the next goes by another port."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    for direct in (hooks.tcp(c, b, SYN), hooks.tcp(c, b, ACK)):
        assert hooks.ingress(direct) == passed(direct)
    assert hooks.ingress(hooks.tcp(c, f, SYN)) == passed(hooks.tcp(c, b, SYN))
    challenge = hooks.tcp(b, c, ACK)
    assert hooks.egress(challenge) == passed(challenge)
    assert hooks.table.only().flags == OPENED | Life.CLASH
    before = hooks.node.counters(family)
    after = hooks.ingress(hooks.tcp(c, f, SYN))
    other = inner(hooks, f)
    assert other.port != c.port
    assert after == passed(hooks.tcp(other, b, SYN))
    assert hooks.grown(before) == {"packet_open": 1, "packet_in": 1, "packet_clash": 1}
    assert hooks.egress(hooks.tcp(b, other, SYN | ACK)) == passed(hooks.tcp(f, c, SYN | ACK))
    assert hooks.ingress(hooks.tcp(c, f, ACK)) == passed(hooks.tcp(other, b, ACK))
    for direct in (hooks.tcp(b, c, ACK), hooks.tcp(b, c, FIN | ACK)):
        assert hooks.egress(direct) == passed(direct)
    assert set(hooks.table.entries()) == {
        Key(c, f, TCP, Side.INGRESS),
        Key(b, other, TCP, Side.EGRESS),
    }
    assert len(hooks.table.claimed()) == 1


@pytest.mark.parametrize("flags", [ACK, FIN | ACK, 0])
def test_rule_04_only_what_answers_a_syn_is_no_clash(hooks: Hooks, flags: int) -> None:
    """Anything but SYN and RST, before the SYN was answered, belongs to somebody else."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.tcp(c, f, SYN))
    stray = hooks.tcp(b, c, flags)
    assert hooks.egress(stray) == passed(stray)
    assert hooks.table.only().flags == OPENED | Life.CLASH
    reset = hooks.tcp(b, c, RST | ACK)
    assert hooks.egress(reset) == passed(hooks.tcp(f, c, RST | ACK))


@pytest.mark.parametrize("seq", [0x1122FFF0, 0x11220000, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [b"", b"what goes with a SYN", bytes(1400)])
def test_rule_04_what_acknowledges_the_syn_is_no_clash(hooks: Hooks, seq: int, data: bytes) -> None:
    """Data that answers data of the SYN overtakes the SYN that accepts both (RFC 7413)."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.tcp(c, f, SYN, data, seq=seq))
    ack = (seq + 1 + len(data)) % 2**32
    for flags in (ACK, FIN | ACK):
        answer = hooks.tcp(b, c, flags, ack=ack)
        assert hooks.egress(answer) == passed(hooks.tcp(f, c, flags, ack=ack))
    assert hooks.table.only().flags == OPENED | Life.FIN_BACKEND
    accepted = hooks.egress(hooks.tcp(b, c, SYN | ACK, ack=ack))
    assert accepted == passed(hooks.tcp(f, c, SYN | ACK, ack=ack))
    assert hooks.table.only().flags == ANSWERED | Life.FIN_BACKEND


@pytest.mark.parametrize("ahead", [-0x10001, -0x20001, 0x20000, 0x7FFF0000])
def test_rule_04_what_acknowledges_something_else_is_a_clash(hooks: Hooks, ahead: int) -> None:
    """Of a SYN and its data no more than a packet has can be acknowledged."""
    family, seq = hooks.family, 0x11220000
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.tcp(c, f, SYN, seq=seq))
    stray = hooks.tcp(b, c, ACK, ack=(seq + 1 + ahead) % 2**32)
    assert hooks.egress(stray) == passed(stray)
    assert hooks.table.only().flags == OPENED | Life.CLASH


def test_rule_04_the_last_syn_is_the_one_that_is_answered(hooks: Hooks) -> None:
    """A client that gave up may begin again with its port, by another number."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    for seq in (0x11220000, 0x55660000):
        hooks.ingress(hooks.tcp(c, f, SYN, seq=seq))
    answer = hooks.tcp(b, c, ACK, ack=0x55660001)
    assert hooks.egress(answer) == passed(hooks.tcp(f, c, ACK, ack=0x55660001))
    former = hooks.tcp(b, c, ACK, ack=0x11220001)
    assert hooks.egress(former) == passed(former)


@pytest.mark.kernel
def test_rule_04_service_first_then_direct(hooks: Hooks, protocol: Protocol) -> None:
    """The direct connection gets another port, so that its answers are not the service's."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    hooks.egress(hooks.answer(protocol, b, c))
    before = hooks.node.counters(family)
    after = hooks.ingress(hooks.first(protocol, c, b))
    other = inner(hooks, b)
    assert other.port != c.port
    assert after == passed(hooks.first(protocol, other, b))
    assert hooks.ingress(hooks.first(protocol, c, b)) == after
    assert hooks.grown(before) == {"packet_open": 1, "packet_in": 2, "packet_clash": 1}
    answer = hooks.answer(protocol, b, other)
    assert hooks.egress(answer) == passed(hooks.answer(protocol, b, c))
    assert hooks.egress(hooks.answer(protocol, b, c)) == passed(hooks.answer(protocol, f, c))
    direct = next(each for each in hooks.table.records() if each.frontend == b)
    assert direct.service == 0
    if protocol is TCP:
        assert hooks.ingress(hooks.tcp(c, b, ACK)) == passed(hooks.tcp(other, b, ACK))
        assert hooks.ingress(hooks.tcp(c, f, ACK)) == passed(hooks.tcp(c, b, ACK))


def test_rule_04_udp_direct_first(hooks: Hooks) -> None:
    """Nothing is known of the first datagram; the one after the service's gets its own port."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    direct = hooks.udp(c, b)
    assert hooks.ingress(direct) == passed(direct)
    assert hooks.ingress(hooks.udp(c, f)) == passed(hooks.udp(c, b))
    after = hooks.ingress(direct)
    other = inner(hooks, b)
    assert other.port != c.port
    assert after == passed(hooks.udp(other, b))
    assert hooks.egress(hooks.udp(b, other)) == passed(hooks.udp(b, c))
    assert hooks.egress(hooks.udp(b, c)) == passed(hooks.udp(f, c))


@pytest.mark.parametrize("older", [False, True], ids=["just-not-idle", "idle"])
def test_rule_04_an_idle_udp_connection_makes_way(hooks: Hooks, older: bool) -> None:
    """The service's is over when it was idle for as long as one without answers lives."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.udp(c, f))
    hooks.egress(hooks.udp(b, c))
    record = hooks.table.only()
    begin_tick()
    stream = record.flags | Life.ESTABLISHED
    hooks.table.set_life(record.number, stream, hooks.timeout("udp") + older)
    direct = hooks.udp(c, b)
    after = hooks.ingress(direct)
    if older:
        assert after == passed(direct)
        assert not hooks.table.entries()
        assert not hooks.table.claimed()
    else:
        assert after == passed(hooks.udp(inner(hooks, b), b))
        assert len(hooks.table.claimed()) == 2


@pytest.mark.parametrize(
    ("flags", "ends"),
    [
        (ESTABLISHED | BOTH_FIN, True),
        (OPENED | Life.RESET, True),
        (ESTABLISHED, False),
        (ESTABLISHED | Life.FIN_CLIENT, False),
    ],
    ids=["closed", "refused", "established", "half-closed"],
)
def test_rule_04_a_closed_tcp_connection_makes_way(hooks: Hooks, flags: Life, ends: bool) -> None:
    """A direct SYN ends a service's connection that is over, and no other."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.tcp(c, f, SYN))
    hooks.table.set_life(hooks.table.only().number, flags, 0)
    direct = hooks.tcp(c, b, SYN)
    after = hooks.ingress(direct)
    assert (after == passed(direct)) is ends
    assert len(hooks.table.claimed()) == (0 if ends else 2)


def test_rule_04_an_expired_connection_clashes_with_nothing(
    hooks: Hooks, protocol: Protocol
) -> None:
    """What nobody needs any more is no reason for another port."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    setting = "tcp_opening" if protocol is TCP else "udp"
    hooks.table.age(hooks.table.only().number, hooks.timeout(setting) + 1)
    direct = hooks.first(protocol, c, b)
    assert hooks.ingress(direct) == passed(direct)


def test_rule_04_other_clients_and_ports_do_not_clash(hooks: Hooks, protocol: Protocol) -> None:
    """A direct connection from another port to the same backend is left alone."""
    family = hooks.family
    hooks.ingress(hooks.first(protocol, client(family), frontend(family)))
    for other in (client(family, 2), client(family, port=40_001)):
        direct = hooks.first(protocol, other, backend(family))
        assert hooks.ingress(direct) == passed(direct)
    assert len(hooks.table.claimed()) == 1


def test_rule_04_a_client_that_is_a_backend(hooks: Hooks, protocol: Protocol) -> None:
    """What a backend itself begins towards a client is no answer of its own to anybody."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    entries = hooks.table.entries()
    assert entries[Key(b, c, protocol, Side.EGRESS)].role == Role.REPLY
    stranger = hooks.first(protocol, b, client(family, 3))
    assert hooks.egress(stranger) == passed(stranger)
    assert hooks.ingress(stranger) == passed(stranger)
    assert hooks.table.entries() == entries
