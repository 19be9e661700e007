# SPDX-License-Identifier: Apache-2.0
"""sessionAffinity ClientIP: who comes again gets the backend of the last time (parity A6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf, links
from pyproxy.kernel.packetpath import ticks
from pyproxy.model import Family, Protocol
from pyproxy.tables import Frontend, FrontendKey, Kind, PortPlan, ServiceFlag
from tests.datapath.asking import errno_of, open_socket
from tests.datapath.children import Broker, Where
from tests.datapath.ends import backend, client, frontend, node_address, packed, plan
from tests.datapath.flavours import Flavour
from tests.datapath.hooks import Hooks, Wire
from tests.datapath.node import Node
from tests.datapath.packets import End
from tests.datapath.peers import Peers
from tests.datapath.services import service
from tests.datapath.test_redundant_checks import rewrite

TCP, UDP = Protocol.TCP, Protocol.UDP
HOUR = 3_600
MANY = (1, 2, 3, 4, 5)
HAS, LOCAL = ServiceFlag.HAS_ENDPOINTS, ServiceFlag.EXTERNAL_LOCAL


@pytest.fixture
def hooks(node: Node, family: Family, tmp_path: Path) -> Iterator[Hooks]:
    """The hooks of a device; nobody is remembered."""
    forget(node, family)
    with Hooks(node, family, Wire.ETHERNET, tmp_path) as found:
        found.write_device(node_address(family))
        yield found


def planned(family: Family, protocol: Protocol, backends: tuple[int, ...] = MANY) -> PortPlan:
    """Return a service with affinity."""
    return plan(family, protocol, 1, backends)._replace(affinity_timeout_s=HOUR)


def drawn(hooks: Hooks, protocol: Protocol, number: int, to: End, many: int = 12) -> set[End]:
    """Return the backends of new connections of one client."""
    hooks.table.clear()
    for n in range(many):
        hooks.ingress(hooks.first(protocol, client(hooks.family, number, 40_000 + n), to))
    return {each.backend for each in hooks.table.records()}


def memory(node: Node, family: Family) -> Path:
    """Return where the map of affinities is pinned."""
    return node.loaded[family].pins.maps / "affinity"


def entries(node: Node, family: Family) -> list[bytes]:
    """Return the keys of what is remembered."""
    with links.opened(memory(node, family)) as fd:
        shape = libbpf.map_info(fd)
        return [key for key, _ in libbpf.map_dump(fd, shape.key_size, shape.value_size)]


def forget(node: Node, family: Family) -> None:
    """Let nobody be remembered."""
    with links.opened(memory(node, family)) as fd:
        for key in entries(node, family):
            libbpf.map_delete(fd, key)


def grow_old(node: Node, family: Family, seconds: int, *, torn: bool = False) -> None:
    """Let all connections have begun so much earlier; torn: and the check words wrong."""

    def change(value: bytearray) -> None:
        words = memoryview(value).cast("I")
        seen = (words[-2] - ticks(seconds)) & 0xFFFFFFFF
        words[-1] ^= 1 if torn else words[-2] ^ seen
        words[-2] = seen

    rewrite(memory(node, family), change)


def test_a_client_stays_with_its_backend(hooks: Hooks, protocol: Protocol) -> None:
    """Whatever its port; different clients are spread as ever (A6.1)."""
    family = hooks.family
    hooks.node.apply(planned(family, protocol))
    found = {n: drawn(hooks, protocol, n, frontend(family)) for n in range(1, 40)}
    assert {len(ends) for ends in found.values()} == {1}
    assert len(set().union(*found.values())) > 1
    again = {n: drawn(hooks, protocol, n, frontend(family)) for n in range(1, 40)}
    assert again == found


def test_all_frontends_of_a_service_port_share_it(hooks: Hooks, protocol: Protocol) -> None:
    """Not so another port's (A6.1)."""
    family = hooks.family
    outside = End(packed(family, "203.0.113.7", "2001:db8::7"), 443)
    made = planned(family, protocol)
    more = Frontend(FrontendKey(*outside, int(protocol)), Kind.EXTERNAL_IP)
    other = plan(family, protocol, 2, MANY)._replace(affinity_timeout_s=HOUR)
    hooks.node.apply(made._replace(frontends=(*made.frontends, more)), other)
    differs = False
    for n in range(1, 20):
        first = drawn(hooks, protocol, n, frontend(family))
        assert drawn(hooks, protocol, n, outside) == first
        differs |= drawn(hooks, protocol, n, frontend(family, 2)) != first
    assert differs


@pytest.mark.parametrize(("seconds", "remembered"), [(HOUR - 2, True), (HOUR + 2, False)])
def test_sequence_affinity_timeout(
    hooks: Hooks, protocol: Protocol, seconds: int, remembered: bool
) -> None:
    """It lasts as long as it says, from the last new connection on (A6.2)."""
    family = hooks.family
    hooks.node.apply(planned(family, protocol))
    to = frontend(family)
    before = [drawn(hooks, protocol, n, to) for n in range(1, 20)]
    grow_old(hooks.node, family, seconds)
    assert ([drawn(hooks, protocol, n, to, 1) for n in range(1, 20)] == before) is remembered
    # that began the time anew
    between = [drawn(hooks, protocol, n, to, 1) for n in range(1, 20)]
    grow_old(hooks.node, family, HOUR - 2)
    assert [drawn(hooks, protocol, n, to, 1) for n in range(1, 20)] == between


def test_a_changed_timeout_counts_for_what_is_remembered(hooks: Hooks, protocol: Protocol) -> None:
    """A memory's age is looked at when somebody comes again, by the timeout of then (A6.4)."""
    family = hooks.family
    to, made = frontend(family), planned(family, protocol)
    hooks.node.apply(made)
    before = [drawn(hooks, protocol, n, to) for n in range(1, 20)]
    grow_old(hooks.node, family, 60)
    hooks.node.apply(made._replace(affinity_timeout_s=62))
    assert [drawn(hooks, protocol, n, to, 1) for n in range(1, 20)] == before
    grow_old(hooks.node, family, 60)
    hooks.node.apply(made._replace(affinity_timeout_s=58))
    assert [drawn(hooks, protocol, n, to, 1) for n in range(1, 20)] != before


def test_what_is_torn_is_not_believed(hooks: Hooks) -> None:
    """A value may be another key's by now (rule 7)."""
    family = hooks.family
    hooks.node.apply(planned(family, TCP))
    to = frontend(family)
    before = [drawn(hooks, TCP, n, to, 1) for n in range(1, 30)]
    grow_old(hooks.node, family, 0, torn=True)
    assert [drawn(hooks, TCP, n, to, 1) for n in range(1, 30)] != before


def test_a_backend_that_left_is_replaced(hooks: Hooks, protocol: Protocol) -> None:
    """Another one is drawn, and stays from then on (A6.3)."""
    family = hooks.family
    hooks.node.apply(planned(family, protocol))
    to = frontend(family)
    (gone,) = drawn(hooks, protocol, 1, to)
    left = tuple(n for n in MANY if backend(family, n) != gone)
    hooks.node.apply(planned(family, protocol, left))
    (second,) = drawn(hooks, protocol, 1, to)
    assert second != gone
    hooks.node.apply(planned(family, protocol))
    assert drawn(hooks, protocol, 1, to) == {second}


@pytest.mark.parametrize("local", [True, False])
def test_a_backend_that_the_policy_does_not_let_in_is_replaced(hooks: Hooks, local: bool) -> None:
    """It is a member, but not of the set that applies now (A6.3)."""
    family = hooks.family
    outside = End(packed(family, "203.0.113.7", "2001:db8::7"), 443)

    def made(flags: ServiceFlag, cluster: tuple[int, int]) -> PortPlan:
        return plan(
            family, TCP, 1, (1, 2), frontends=[outside], kind=Kind.EXTERNAL_IP, local=1,
            flags=flags, cluster=cluster,
        )._replace(affinity_timeout_s=HOUR)  # fmt: skip

    near, far = backend(family, 1), backend(family, 2)
    # first where the other one alone may be used, then where only the set that counts has it not
    first, then = (HAS, HAS | LOCAL) if local else (HAS | LOCAL, HAS)
    hooks.node.apply(made(first, (1, 1)))
    assert drawn(hooks, TCP, 1, outside) == ({far} if local else {near})
    hooks.node.apply(made(then, (1, 1)))
    assert drawn(hooks, TCP, 1, outside) == ({near} if local else {far})


def test_without_affinity_nobody_is_remembered(hooks: Hooks, protocol: Protocol) -> None:
    """Nor does it cost anything."""
    family = hooks.family
    hooks.node.apply(plan(family, protocol, 1, MANY))
    assert len(drawn(hooks, protocol, 1, frontend(family), 60)) > 1
    assert entries(hooks.node, family) == []


def test_sockets_of_a_namespace_are_one_client(
    node: Node, flavour: Flavour, protocol: Protocol
) -> None:
    """They have no address yet when they connect; a pod has a namespace (A6.5)."""
    family = flavour.family
    forget(node, family)
    made = service(family, 1, MANY, protocol=protocol)._replace(affinity_timeout_s=HOUR)
    node.apply(made)
    found = []
    with ExitStack() as undo:
        peers = undo.enter_context(closing(Peers(node)))
        makers = [node.make_socket]
        for n in range(6):
            namespace = node.make_namespace(f"pod{n}", undo)
            broker = undo.enter_context(closing(Broker(Where(namespace, node.cgroup))))
            makers.append(broker.socket)
        for make in makers * 2:
            with open_socket(flavour, protocol, make) as sock:
                # nobody listens in a pod
                errno_of(lambda s=sock: s.connect(flavour.service(1)))  # type: ignore[misc]  # mypy can't infer a lambda with defaults
                found.append(peers.of(sock, family))
    assert None not in found
    assert found[: len(makers)] == found[len(makers) :]
    assert len(entries(node, family)) == len(makers)
