# SPDX-License-Identifier: Apache-2.0
"""Rule 6: what SYN, RST and FIN make of a connection, how long it lives, and when it is anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.kernel.packetpath import REFRESH_TICKS
from pyproxy.model import Family, Protocol
from tests.datapath.ends import backend, client, frontend, plan
from tests.datapath.flowtable import ANSWERED, ESTABLISHED, OPENED, begin_tick
from tests.datapath.hooks import Hooks, Wire, passed
from tests.datapath.node import Node
from tests.datapath.packets import ACK, FIN, PSH, RST, SYN
from tests.datapath.prog_run import Ran

TCP, UDP = Protocol.TCP, Protocol.UDP
FIN_CLIENT, FIN_BACKEND = Life.FIN_CLIENT, Life.FIN_BACKEND
BOTH_FIN = FIN_CLIENT | FIN_BACKEND
UDP_SENT = OPENED | Life.UDP


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device, and a service for each protocol."""
    for protocol in (TCP, UDP):
        node.apply(plan(family, protocol))
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        yield found


class Step(NamedTuple):
    """A segment of one end, and what the record's flags are then."""

    by: str
    flags: int
    after: Life


def client_sends(flags: int, after: Life) -> Step:
    """Return a step of the client."""
    return Step("client", flags, after)


def backend_sends(flags: int, after: Life) -> Step:
    """Return a step of the backend."""
    return Step("backend", flags, after)


HANDSHAKE = (
    client_sends(SYN, OPENED),
    client_sends(SYN, OPENED),
    backend_sends(SYN | ACK, ANSWERED),
    client_sends(SYN, ANSWERED),
    backend_sends(SYN | ACK, ANSWERED),
    client_sends(ACK, ESTABLISHED),
    backend_sends(ACK | PSH, ESTABLISHED),
    client_sends(ACK | PSH, ESTABLISHED),
)
LIVES: dict[str, tuple[Step, ...]] = {
    "closed-by-the-client": (
        *HANDSHAKE,
        client_sends(FIN | ACK, ESTABLISHED | FIN_CLIENT),
        backend_sends(ACK | PSH, ESTABLISHED | FIN_CLIENT),
        client_sends(ACK, ESTABLISHED | FIN_CLIENT),
        backend_sends(FIN | ACK, ESTABLISHED | BOTH_FIN),
        client_sends(ACK, ESTABLISHED | BOTH_FIN),
    ),
    "closed-by-the-backend": (
        *HANDSHAKE,
        backend_sends(FIN | ACK, ESTABLISHED | FIN_BACKEND),
        client_sends(ACK | PSH, ESTABLISHED | FIN_BACKEND),
        client_sends(FIN | ACK, ESTABLISHED | BOTH_FIN),
        backend_sends(ACK, ESTABLISHED | BOTH_FIN),
    ),
    "reset-by-the-client-then-data": (
        *HANDSHAKE,
        client_sends(RST, ESTABLISHED | Life.RESET),
        client_sends(ACK, ESTABLISHED),
        client_sends(RST | ACK, ESTABLISHED | Life.RESET),
        backend_sends(ACK, ESTABLISHED),
    ),
    "reset-by-the-backend-then-data": (
        *HANDSHAKE,
        backend_sends(RST, ESTABLISHED | Life.RESET),
        backend_sends(ACK, ESTABLISHED),
        backend_sends(RST | ACK, ESTABLISHED | Life.RESET),
        client_sends(ACK, ESTABLISHED),
    ),
    "half-closed-then-reset": (
        *HANDSHAKE,
        client_sends(FIN | ACK, ESTABLISHED | FIN_CLIENT),
        client_sends(RST, ESTABLISHED | FIN_CLIENT | Life.RESET),
        backend_sends(ACK, ESTABLISHED | FIN_CLIENT),
    ),
    "begun-anew-while-the-backend-waits-for-the-end": (
        *HANDSHAKE,
        client_sends(FIN | ACK, ESTABLISHED | FIN_CLIENT),
        client_sends(SYN, ESTABLISHED | FIN_CLIENT),
        backend_sends(ACK, ESTABLISHED | FIN_CLIENT),
        client_sends(RST, ESTABLISHED | FIN_CLIENT | Life.RESET),
        client_sends(SYN, ESTABLISHED | FIN_CLIENT),
        backend_sends(SYN | ACK, ESTABLISHED),
        client_sends(ACK, ESTABLISHED),
        backend_sends(FIN | ACK, ESTABLISHED | FIN_BACKEND),
    ),
    "refused": (
        client_sends(SYN, OPENED),
        backend_sends(RST | ACK, OPENED | Life.RESET),
        client_sends(SYN, OPENED),
    ),
    "given-up-by-the-client": (
        client_sends(SYN, OPENED),
        client_sends(RST, OPENED | Life.RESET),
    ),
    "answered-without-syn": (
        client_sends(SYN, OPENED),
        client_sends(ACK, OPENED),
        backend_sends(SYN, OPENED),
        client_sends(ACK, OPENED),
    ),
    "a-syn-on-an-established-one": (*HANDSHAKE, client_sends(SYN, ESTABLISHED)),
}


@pytest.mark.parametrize("steps", LIVES.values(), ids=LIVES)
def test_rule_06_the_life_of_a_connection(hooks: Hooks, steps: tuple[Step, ...]) -> None:
    """Each segment is translated, and the record says after it what the connection is."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    for number, step in enumerate(steps):
        if step.by == "client":
            after = hooks.ingress(hooks.tcp(c, f, step.flags))
            assert after == passed(hooks.tcp(c, b, step.flags)), number
        else:
            after = hooks.egress(hooks.tcp(b, c, step.flags))
            assert after == passed(hooks.tcp(f, c, step.flags)), number
        assert hooks.table.only().flags == step.after, number
    assert len(hooks.table.claimed()) == 1
    assert len(hooks.table.entries()) == 2


def test_rule_06_udp_that_goes_on_is_a_stream(hooks: Hooks) -> None:
    """Answered, and a datagram after a second's silence: no mere question any more."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.udp(c, f))
    number = hooks.table.only().number
    hooks.table.age(number, REFRESH_TICKS + 1)
    hooks.ingress(hooks.udp(c, f))
    assert hooks.table.only().flags == UDP_SENT
    hooks.egress(hooks.udp(b, c))
    begin_tick()
    hooks.table.age(number, REFRESH_TICKS)
    hooks.ingress(hooks.udp(c, f))
    assert hooks.table.only().flags == UDP_SENT | Life.REPLIED
    hooks.table.age(number, REFRESH_TICKS + 1)
    hooks.ingress(hooks.udp(c, f))
    assert hooks.table.only().flags == UDP_SENT | Life.REPLIED | Life.ESTABLISHED


def test_rule_06_udp_is_answered_or_not(hooks: Hooks) -> None:
    """A datagram of the backend is all there is to know at first."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.udp(c, f))
    assert hooks.table.only().flags == UDP_SENT
    hooks.egress(hooks.udp(b, c))
    hooks.ingress(hooks.udp(c, f))
    assert hooks.table.only().flags == UDP_SENT | Life.REPLIED


TIMES: dict[str, tuple[Life, str]] = {
    "opening": (OPENED, "tcp_opening"),
    "answered": (ANSWERED, "tcp_opening"),
    "established": (ESTABLISHED, "tcp_established"),
    "closed-by-the-client": (ESTABLISHED | FIN_CLIENT, "tcp_close_wait"),
    "closed-by-the-backend": (ESTABLISHED | FIN_BACKEND, "tcp_close_wait"),
    "closed-by-both": (ESTABLISHED | BOTH_FIN, "tcp_closed"),
    "reset": (ESTABLISHED | Life.RESET, "tcp_closed"),
    "reset-while-opening": (OPENED | Life.RESET, "tcp_closed"),
    "reset-while-half-closed": (ESTABLISHED | FIN_CLIENT | Life.RESET, "tcp_closed"),
    "udp": (UDP_SENT, "udp"),
    "udp-answered": (UDP_SENT | Life.REPLIED, "udp"),
    "udp-stream": (UDP_SENT | Life.REPLIED | Life.ESTABLISHED, "udp_stream"),
}


@pytest.mark.parametrize("name", TIMES)
def test_rule_06_how_long_a_connection_lives(hooks: Hooks, name: str) -> None:
    """It lives for exactly its state's time without packets; then they are none of ours.

    A late packet of the backend, and one of TCP's in mid-stream, pass as they are.
    """
    family = hooks.family
    flags, setting = TIMES[name]
    protocol = UDP if flags & Life.UDP else TCP
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    number = hooks.table.only().number

    def at_age(age: int, packet: bytes, run: Callable[[bytes], Ran]) -> Ran:
        for _ in range(10):
            before = begin_tick()
            hooks.table.set_life(number, flags, age)
            after = run(packet)
            if begin_tick() == before + 1:
                return after
        pytest.fail("this machine is too slow for a tick")

    late = hooks.timeout(setting)
    # RST: whatever the state, it is no clash and opens nothing
    request, reply = (
        (hooks.tcp(c, f, RST), hooks.tcp(b, c, RST))
        if protocol is TCP
        else (hooks.udp(c, f), hooks.udp(b, c))
    )
    assert at_age(late + 1, reply, hooks.egress) == passed(reply)
    if protocol is TCP:
        assert at_age(late + 1, request, hooks.ingress) == passed(request)
    else:
        before = hooks.node.counters(family)
        hooks.table.set_life(number, flags, late + 1)
        hooks.ingress(request)
        assert hooks.grown(before) == {"packet_open": 1, "packet_in": 1}
        number = hooks.table.only().number
    assert at_age(late, reply, hooks.egress) != passed(reply)
    assert at_age(late, request, hooks.ingress) != passed(request)


def test_rule_06_what_is_seen_is_noted_once_a_second(hooks: Hooks) -> None:
    """A packet that changes nothing writes nothing until the note is older than a second."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.tcp(c, f, SYN))
    number = hooks.table.only().number
    for run, packet in (
        (hooks.ingress, hooks.tcp(c, f, ACK)),
        (hooks.egress, hooks.tcp(b, c, ACK)),
    ):
        begin_tick()
        hooks.table.set_life(number, ESTABLISHED, REFRESH_TICKS)
        seen = hooks.table.record(number).seen
        run(packet)
        assert hooks.table.record(number).seen == seen
        hooks.table.set_life(number, ESTABLISHED, REFRESH_TICKS + 1)
        run(packet)
        record = hooks.table.record(number)
        assert record.flags == ESTABLISHED
        assert record.seen > seen


def test_rule_06_a_packet_from_the_future_is_no_old_one(hooks: Hooks) -> None:
    """Another CPU may have written a later time than ours."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.tcp(c, f, SYN))
    hooks.table.set_life(hooks.table.only().number, ESTABLISHED, -2)
    assert hooks.ingress(hooks.tcp(c, f, ACK)) == passed(hooks.tcp(c, b, ACK))


def begun(hooks: Hooks, flags: Life, protocol: Protocol = TCP) -> tuple[bytes, Ran]:
    """Begin a connection to one of many backends, give it flags; return its first packet."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol, backends=range(1, 100)))
    first = hooks.first(protocol, client(family), frontend(family))
    after = hooks.ingress(first)
    hooks.table.set_life(hooks.table.only().number, flags, 0)
    return first, after


@pytest.mark.parametrize(
    "flags",
    [
        OPENED,
        ANSWERED,
        ESTABLISHED,
        ESTABLISHED | FIN_CLIENT,
        ESTABLISHED | FIN_BACKEND,
        ANSWERED | Life.RESET,
        ESTABLISHED | Life.RESET,
    ],
    ids=str,
)
def test_rule_06_a_syn_on_a_live_connection_keeps_its_backend(hooks: Hooks, flags: Life) -> None:
    """A retransmitted SYN goes where the first one went, a forged one ends nothing."""
    first, after = begun(hooks, flags)
    number = hooks.table.only().number
    assert all(hooks.ingress(first) == after for _ in range(20))
    record = hooks.table.only()
    assert (record.number, record.flags) == (number, flags & ~Life.RESET)


@pytest.mark.parametrize(
    "flags",
    [ESTABLISHED | BOTH_FIN, OPENED | Life.RESET, ANSWERED | BOTH_FIN | Life.RESET],
    ids=["closed", "refused", "closed-and-reset"],
)
def test_rule_06_a_syn_on_a_closed_connection_begins_another(hooks: Hooks, flags: Life) -> None:
    """The client may use its port again: a backend is chosen anew, and the old record is freed."""
    first, after = begun(hooks, flags)
    family = hooks.family
    chosen = {after.data}
    for _ in range(8):
        hooks.table.set_life(hooks.table.only().number, flags, 0)
        with hooks.node.counting(family, packet_open=1, packet_in=1):
            chosen.add(hooks.ingress(first).data)
        record = hooks.table.only()
        assert record.flags == OPENED
        assert hooks.table.claimed() == [record.number]
        assert len(hooks.table.entries()) == 2
    assert len(chosen) > 1


def test_rule_06_a_syn_on_an_expired_connection_begins_another(
    hooks: Hooks, protocol: Protocol
) -> None:
    """Whoever was not heard of for so long has forgotten the connection."""
    flags = ESTABLISHED if protocol is TCP else UDP_SENT
    first, _ = begun(hooks, flags, protocol)
    old = hooks.table.only()
    setting = "tcp_established" if protocol is TCP else "udp"
    hooks.table.age(old.number, hooks.timeout(setting) + 1)
    with hooks.node.counting(hooks.family, packet_open=1, packet_in=1):
        hooks.ingress(first)
    assert len(hooks.table.claimed()) == 1
    assert len(hooks.table.entries()) == 2


def test_rule_06_a_service_that_is_gone(hooks: Hooks, protocol: Protocol) -> None:
    """What is open goes on in mid-stream; first packets pass, and end what there was."""
    family = hooks.family
    c, f, b = client(family), frontend(family), backend(family)
    hooks.ingress(hooks.first(protocol, c, f))
    hooks.egress(hooks.answer(protocol, b, c))
    hooks.node.remove(plan(family, protocol))
    assert hooks.egress(hooks.answer(protocol, b, c)) == passed(hooks.answer(protocol, f, c))
    if protocol is TCP:
        assert hooks.ingress(hooks.tcp(c, f, ACK)) == passed(hooks.tcp(c, b, ACK))
    first = hooks.first(protocol, c, f)
    assert hooks.ingress(first) == passed(first)
    assert not hooks.table.entries()
    assert not hooks.table.claimed()


def test_rule_06_the_flags_are_those_of_the_programs() -> None:
    """`enum life` of bpf/types.h, word for word."""
    text = (Path(__file__).parents[2] / "bpf/types.h").read_text(encoding="utf-8")
    body = text.partition("enum life {")[2].partition("};")[0]
    lines = [line.split(",")[0].split() for line in body.splitlines() if "=" in line]
    assert {name.removeprefix("LIFE_"): int(value) for name, _, value in lines} == {
        life.name: life.value for life in Life
    }
