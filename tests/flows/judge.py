# SPDX-License-Identifier: Apache-2.0
"""Tries a case's flows on plans and says in sentences what differs from kube-proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pyproxy.model import endpoint_text
from pyproxy.plan.connection import Connection, Decision, Verdict
from pyproxy.plan.decide import decide, tables_of
from pyproxy.tables import Backend, PortPlan, ServiceFlag
from tests.flows.load import Case, Flow

Decide = Callable[[Connection], Decision]


class Judgement(NamedTuple):
    """How many flows were tried, and what was wrong with them."""

    executed: int
    complaints: tuple[str, ...]


def judge(case: Case) -> Judgement:
    """Plan a case's objects and try each of its flows."""
    world = case.world()
    world.replan()
    tables = tables_of(world.plans.values(), world.health_check_node_ports().values())

    def decide_here(connection: Connection) -> Decision:
        return decide(connection, tables, world.options)

    complaints = [c for flow in case.flows for c in complaints_of(flow, decide_here)]
    complaints += categorize_complaints(case, world.plans.values())
    return Judgement(len(case.flows), tuple(f"{case.id}: {c}" for c in complaints))


def complaints_of(flow: Flow, decide_here: Decide) -> Iterator[str]:
    """Yield what is wrong with the decision about one flow."""
    decision = decide_here(flow.connection)
    forwards = decision.verdict is Verdict.FORWARD
    got = backend_texts(decision.backends) if forwards else decision.verdict.value
    if got != flow.expect:
        yield f"{flow.name}: expected {_sorted(flow.expect)}, decided {_sorted(got)}"
    if len(decision.backends) != len(set(decision.backends)):
        yield f"{flow.name}: a backend stands twice, so it would get two shares"
    masquerade = any(decision.masquerades(backend) for backend in decision.backends)
    if masquerade != flow.masquerade:
        yield f"{flow.name}: expected masq {flow.masquerade}, decided {masquerade}"


def categorize_complaints(case: Case, plans: Iterable[PortPlan]) -> Iterator[str]:
    """Yield how the endpoint sets of a case with `categorize` differ; it has one service port."""
    expected = case.body.get("categorize")
    if expected is None or case.id.endswith(("-after", "-before")):
        return
    found = list(plans)
    if len(found) != 1:
        yield f"categorize: {len(found)} service ports, where it is for one"
        return
    (plan,) = found
    got = {
        "cluster": backend_texts(plan.cluster),
        "local": backend_texts(plan.local),
        "allReachable": backend_texts(plan.backends),
        "hasAnyEndpoints": ServiceFlag.HAS_ENDPOINTS in plan.flags,
    }
    for key, value in got.items():
        wanted = expected[key] if isinstance(value, bool) else frozenset(expected[key] or ())
        if value != wanted:
            yield f"{key}: expected {_sorted(wanted)}, planned {_sorted(value)}"


def backend_texts(backends: Iterable[Backend]) -> frozenset[str]:
    """Return backends as the cases write them: "10.0.0.1:80", "[fd00::1]:80"."""
    return frozenset(endpoint_text(b.address, b.port) for b in backends)


def _sorted(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value
