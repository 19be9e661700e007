# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's packet cases on real maps: what pods and clients outside send, by loaded programs.

The shorthand of a case does not say by which device a packet comes: by one that is no uplink.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from pyproxy.kernel.connections import Life
from pyproxy.model import Family, Protocol, endpoint_text, family_of
from pyproxy.plan.connection import Connection, Decision
from pyproxy.plan.options import Options, is_local
from pyproxy.plan.world import World
from pyproxy.tables import Backend, BackendFlag
from tests.datapath.flowtable import Record
from tests.datapath.hooks import Hooks, Wire, dropped, passed
from tests.datapath.node import Node
from tests.datapath.packets import End
from tests.datapath.prog_run import TC_DROP, TC_NEXT, TC_REDIRECT
from tests.datapath.staging import (
    DRAWS,
    ON_THE_NODE,
    decider,
    forget_case,
    spoiled,
    uneven,
    write_case,
)
from tests.flows.load import KUBE_PROXY, Case, Flow, FlowFile, read_flow_file

FIRST_PORT = 20_000
# where an IP header has the source
SOURCE_AT = {Family.IPV4: slice(12, 16), Family.IPV6: slice(8, 24)}
VERDICTS = {"REJECT": TC_REDIRECT, "DROP": TC_DROP, "PASS": TC_NEXT, "ACCEPT": TC_NEXT}


class Stage:
    """A case in the kernel, and its flows as packets."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node = node
        self._undo = ExitStack()
        self._hooks = {
            family: self._undo.enter_context(
                Hooks(node, family, Wire.ETHERNET, directory / str(family.value))
            )
            for family in Family
        }

    def close(self) -> None:
        """Leave nothing of a case."""
        self._undo.close()
        forget_case(self._node)

    def set_up(self, case: Case) -> World:
        """Write a case; return its objects and plans."""
        world = write_case(self._node, case)
        for family, hooks in self._hooks.items():
            hooks.configure(cidrs=world.options.local_cidrs, options=world.options)
            hooks.write_device(world.options.node_ip(family))
        return world

    def try_one(self, flow: Flow, decision: Decision, options: Options) -> Iterator[str]:
        """Send what a flow begins with; yield what is wrong with what becomes of it."""
        asked = flow.connection
        hooks = self._hooks[family_of(asked.destination)]
        hooks.table.clear()
        if isinstance(flow.expect, str):
            packet = first(hooks, asked, FIRST_PORT)
            found = hooks.ingress(packet)
            if found == passed(packet) and not is_local(asked.destination, options):
                found = hooks.egress(packet)
            if found.verdict != VERDICTS[flow.expect]:
                yield f"{flow.name}: expected {flow.expect}, got verdict {found.verdict}"
            if flow.expect != "REJECT" and found not in {passed(packet), dropped(packet)}:
                yield f"{flow.name}: the packet was changed"
            return
        drawn = draw(hooks, asked, DRAWS * len(flow.expect))
        counts = Counter(each for each, _ in drawn.elements())
        yield from uneven(flow, counts)
        for backend in decision.backends:
            text = endpoint_text(backend.address, backend.port)
            wanted = is_hidden(backend, asked, decision, options)
            if (text, not wanted) in drawn:
                yield f"{flow.name}: {text} sees {'the client' if wanted else 'a node'}"
        yield from self._wrong_sources(hooks, flow, options)

    def _wrong_sources(self, hooks: Hooks, flow: Flow, options: Options) -> Iterator[str]:
        """Let one connection to each backend leave the node; yield what comes from elsewhere."""
        seen: dict[End, Record] = {each.backend: each for each in hooks.table.records()}
        own = options.node_ip(hooks.family)
        for backend, record in seen.items():
            asked = flow.connection._replace(source=record.client.address)
            sent = hooks.ingress(first(hooks, asked, record.client.port))
            left = hooks.egress(sent.data)
            hidden = bool(record.flags & Life.SOURCE_WANTED)
            source = left.data[SOURCE_AT[hooks.family]]
            if left.verdict != TC_NEXT or source != (own if hidden else record.client.address):
                yield f"{flow.name}: {endpoint_text(*backend)} is asked from {source.hex()}"


def first(hooks: Hooks, asked: Connection, port: int) -> bytes:
    """Return what a connection begins with, from a port."""
    ends = End(asked.source, port), End(asked.destination, asked.port)
    return hooks.first(Protocol(asked.protocol), *ends)


def draw(hooks: Hooks, asked: Connection, many: int) -> Counter[tuple[str, bool]]:
    """Begin so many connections; return which backends they have, and who sees the client."""
    at = 14 + (20 if hooks.family is Family.IPV4 else 40)
    runs = hooks.tuples("ingress", first(hooks, asked, FIRST_PORT))
    for number in range(many):
        runs.run([(at, (FIRST_PORT + number).to_bytes(2, "big"))])
    return Counter(
        (endpoint_text(*each.backend), bool(each.flags & Life.SOURCE_WANTED))
        for each in hooks.table.records()
    )


def is_hidden(backend: Backend, asked: Connection, decision: Decision, options: Options) -> bool:
    """Return whether a backend is to see a node: one on this node sees the client (rule 15)."""
    if not decision.masquerades(backend):
        return False
    is_near = bool(backend.flags & BackendFlag.LOCAL) and backend.address != asked.source
    return not is_near or options.masquerade_all


@pytest.fixture(scope="module")
def stage(whole_run: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The hooks of both families."""
    directory = tmp_path_factory.mktemp("flows")
    for family in Family:
        (directory / str(family.value)).mkdir()
    made = Stage(whole_run, directory)
    yield made
    made.close()


def test_packets_go_where_kube_proxy_sends_them(stage: Stage, flow_case: Case) -> None:
    """Each flow of a pod or from outside has its verdict, backends, shares and source."""
    world = stage.set_up(flow_case)
    decide_here = decider(world)
    complaints: list[str] = []
    for flow in flow_case.flows:
        decision = decide_here(flow.connection)
        if flow.role in ON_THE_NODE:
            continue
        complaints += stage.try_one(flow, decision, world.options)
    assert complaints == []


def test_what_is_not_sent_as_packets_is_counted(
    flow_file: FlowFile, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is the node's own: test_flows_of_sockets.py."""
    roles: Counter[str] = Counter()
    for case in flow_file.cases:
        for flow in case.flows:
            roles["on the node" if flow.role in ON_THE_NODE else "as packets"] += 1
    with capsys.disabled():
        print(f"\n{flow_file.path.name}: {dict(roles)} of {flow_file.found} flows")
    assert sum(roles.values()) == flow_file.found


def test_wrong_expectations_of_packets_are_noticed(stage: Stage) -> None:
    """One changed expectation is one complaint or more; so is a source that is not as it says."""
    random = Random(3)
    cases = [case for case in read_flow_file(KUBE_PROXY).cases if case.flows]
    for case in random.sample(cases, 40):
        world = stage.set_up(case)
        decide_here, options = decider(world), world.options
        for flow in case.flows:
            decision = decide_here(flow.connection)
            if flow.role in ON_THE_NODE:
                continue
            wrong = spoiled(flow, random)
            assert list(stage.try_one(wrong, decision, options)), (case.id, wrong)
            hides = not decision.masquerade
            changed = decision._replace(masquerade=hides, hairpins=())
            far = any(not b.flags & BackendFlag.LOCAL for b in decision.backends)
            if far and not decision.hairpins:
                assert list(stage.try_one(flow, changed, options)), (case.id, flow)
