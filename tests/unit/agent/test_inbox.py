# SPDX-License-Identifier: Apache-2.0
"""Events become objects, reports become problems."""

from __future__ import annotations

from pyproxy.agent.inbox import Inbox
from pyproxy.kube.events import Change, Kind, Report, Synced
from pyproxy.model import ObjectName
from pyproxy.plan.options import Options
from tests.builders import node_record, service_cidr_record, service_record, slice_record


def test_objects_come_and_go() -> None:
    """A change puts an object, one without an object drops it."""
    inbox = Inbox(Options(node_name="node1"))
    service, piece = service_record(), slice_record()
    node = node_record(name="node1")
    inbox.take(Change(Kind.SERVICE, service.name, service))
    inbox.take(Change(Kind.ENDPOINT_SLICE, piece.name, piece))
    inbox.take(Change(Kind.NODE, ObjectName("", "node1"), node))
    inbox.take(Change(Kind.SERVICE_CIDR, ObjectName("", "kubernetes"), service_cidr_record()))
    assert inbox.world.replan()
    assert inbox.world.options.node_ips == node.addresses[:1] or inbox.world.options.node_ips
    assert inbox.world.options.service_cidrs == service_cidr_record().cidrs
    inbox.take(Change(Kind.SERVICE, service.name, None))
    inbox.take(Change(Kind.ENDPOINT_SLICE, piece.name, None))
    inbox.take(Change(Kind.NODE, ObjectName("", "node1"), None))
    inbox.take(Change(Kind.SERVICE_CIDR, ObjectName("", "kubernetes"), None))
    assert set(inbox.world.replan().values()) == {None}
    assert inbox.world.is_empty()
    assert inbox.world.options.service_cidrs == ()


def test_synced_is_set_by_the_event_alone() -> None:
    """Objects may come before the lists are whole."""
    inbox = Inbox(Options(node_name="node1"))
    inbox.take(Change(Kind.SERVICE, service_record().name, service_record()))
    assert not inbox.synced
    inbox.take(Synced())
    assert inbox.synced


def test_a_report_is_a_problem_until_it_is_mended() -> None:
    """One problem a source, and none after an empty message."""
    inbox = Inbox(Options(node_name="node1"))
    inbox.take(Report("a.yaml", "no YAML"))
    inbox.take(Report("a.yaml", "still no YAML"))
    assert [p.message for p in inbox.problems()] == ["a.yaml: still no YAML"]
    inbox.take(Report("a.yaml", ""))
    assert inbox.problems() == []


def test_a_frontend_claimed_twice_is_a_problem() -> None:
    """The winner and the loser are named, with the address."""
    inbox = Inbox(Options(node_name="node1"))
    for name, created in (("old", "2020-01-01T00:00:00Z"), ("new", "2021-01-01T00:00:00Z")):
        service = service_record(name=name)._replace(created=created)
        inbox.take(Change(Kind.SERVICE, service.name, service))
    inbox.world.replan()
    (problem,) = inbox.problems()
    assert problem.code == "frontend-claimed-twice"
    assert problem.message.index("/old") < problem.message.index("/new")
