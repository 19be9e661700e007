# SPDX-License-Identifier: Apache-2.0
"""When a node is healthy: kube-proxy's own steps, and what is our own truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyproxy.agent.health import LOOK_EVERY_S, Healthiness
from pyproxy.agent.inbox import Inbox
from pyproxy.agent.messages import CoverChanged, Messages, ServersChanged
from pyproxy.kube.decode import decode
from pyproxy.kube.events import Change, Kind, Synced
from pyproxy.model import Family, ObjectName
from pyproxy.plan.options import Options
from pyproxy.serve.connection import Reply
from pyproxy.serve.health import HealthServer
from pyproxy.serve.http import HttpServer
from tests import builders
from tests.flows.load import FlowFile, steps_of
from tests.flows.objects import Json

START_NS = 1_767_225_600_000_000_000
GONE = Change(Kind.SERVICE, ObjectName("default", "web"), None)


class Node:
    """An agent's thread without kernel and sockets: what it is told, and how it answers."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.now_s = 1000.0
        self.attached = dict.fromkeys(Family, True)
        self.looks = 0
        self.messages = Messages(lambda: self.now_s)
        self.inbox = Inbox(Options("n1"))
        self.health = Healthiness(
            Family,
            timeout_s=timeout_s,
            queued_at=lambda: self.messages.queued_at,
            are_attached=self._is_attached,
            clock=lambda: self.now_s,
            now_ns=self._now_ns,
        )
        self.http = HttpServer()
        self.server = HealthServer(self.http, ("", 0), self.health.health, now_ns=self._now_ns)
        self.describe()

    def _now_ns(self) -> int:
        return START_NS + int(self.now_s * 1e9)

    def _is_attached(self, family: Family) -> bool:
        self.looks += 1
        return self.attached[family]

    def describe(self, *, taints: tuple[str, ...] = (), deleted: str = "") -> None:
        """Take the Node object as the API server has it."""
        self.inbox.take(decode(Kind.NODE, builders.node(taints=taints, deleted=deleted)))
        self._know()

    def forget(self) -> None:
        """Take that there is no Node object."""
        self.inbox.take(Change(Kind.NODE, ObjectName("", "n1"), None))
        self._know()

    def _know(self) -> None:
        self.health.know_node(self.inbox.world.node, must_be_known=True)

    def work(self, *unwritten: Family, has_lists: bool = True) -> None:
        """Take what is queued and apply it, but for some families."""
        self.messages.wait(0)
        self.health.begin(self.messages.taken_at)
        self.health.settle(unwritten, has_lists=has_lists)

    def queue(self) -> None:
        """Have a change wait."""
        self.messages.put(GONE)

    def ask(self, path: str) -> Reply:
        """Return the answer of now."""
        return self.server.answer(path)

    def codes(self) -> tuple[int, int]:
        """Return those of /healthz and /livez."""
        return self.ask("/healthz").status, self.ask("/livez").status

    def status(self) -> dict[str, bool]:
        """Return each family's health in /livez."""
        found = json.loads(self.ask("/livez").body).get("status", {})
        return {family: each["healthy"] for family, each in found.items()}


@contextmanager
def node(timeout_s: float = 60.0) -> Iterator[Node]:
    """Give one that has synced."""
    made = Node(timeout_s)
    made.messages.put(Synced())
    made.work()
    yield made
    made.http.stop()


def do(one: Node, step: str) -> None:
    """Do what a step says; KeyError for one that nobody understands."""
    queued = re.fullmatch(r"(IPv4|IPv6)(?: update)? queued, (\d+)s.*", step)
    idle = re.fullmatch(r"idle (\d+)s, nothing queued", step)
    tainted = re.fullmatch(r"node tainted (?:with )?(.*)", step)
    if queued:
        one.queue()
        one.work(next(family for family in Family if family.label == queued[1]))
        one.now_s += int(queued[2])
    elif idle:
        one.now_s += int(idle[1])
    elif tainted:
        one.work()
        one.describe(taints=(tainted[1],))
    elif step in {"both families Updated", "both Updated"}:
        one.queue()
        one.work()
    elif step == "queue again while pending":
        one.queue()
        one.work(*Family)
    else:
        known = {
            "start, nothing synced": one.describe,
            "taint removed": one.describe,
            "node has deletionTimestamp": lambda: one.describe(deleted=builders.CREATED),
            "node object unknown": one.forget,
        }
        known[step]()


def expect(one: Node, step: Json) -> None:
    """Compare with what a step expects."""
    answers = {path: one.ask(f"/{path}") for path in ("healthz", "livez")}
    for path, reply in answers.items():
        assert reply.status == step.get(path, reply.status), step
    body = json.loads(answers["healthz"].body)
    assert one.status() | step.get("status", {}) == one.status(), step
    assert body["nodeEligible"] == step.get("nodeEligible", body["nodeEligible"]), step
    assert body["healthy"] == step.get("healthyField", body["healthy"]), step


def test_proxier_health(flow_file: FlowFile) -> None:
    """kube-proxy's TestHealthzServer and TestLivezServer, step by step (parity A12.5, A12.6)."""
    section = steps_of(flow_file.path, "proxier_health")
    one = Node(section.get("healthTimeoutSeconds", 60.0))
    asked = 0
    for step in section.get("steps", ()):
        before = one.codes()
        asked += 2
        do(one, step["do"])
        expect(one, step)
        if "healthz" not in step:
            assert one.codes() == before, "nothing that the step says of"
            asked += 1
    counts = one.server.counts()
    assert sum(each for (path, _), each in counts.items() if path == "healthz") == asked
    one.http.stop()


def test_waiting_for_the_first_lists_is_healthy() -> None:
    """However long it takes; no family has anything to say yet (parity A12.5)."""
    one = Node()
    for _ in range(3):
        one.queue()
        one.work(has_lists=False)
        one.queue()
        one.now_s += 3600
        assert one.codes() == (200, 200)
        assert one.status() == {}
    one.http.stop()


def test_first_lists_that_cannot_be_written_are_a_fault() -> None:
    """Everything is there, and nothing of it is programmed."""
    one = Node()
    one.messages.put(Synced())
    one.work(*Family)
    assert one.codes() == (200, 200)
    one.now_s += 60
    assert one.codes() == (503, 503)
    assert one.status() == {"IPv4": False, "IPv6": False}
    one.work()
    assert one.codes() == (200, 200)
    one.http.stop()


def test_a_thread_that_hangs_is_a_fault() -> None:
    """Whether it never takes a change or never comes back from one."""
    with node() as one:
        one.queue()
        one.now_s += 59.9
        assert one.codes() == (200, 200)
        one.now_s += 0.1
        assert one.codes() == (503, 503)
        one.messages.wait(0)
        one.health.begin(one.messages.taken_at)
        assert one.codes() == (503, 503)
        one.health.settle(())
        assert one.codes() == (200, 200)


def test_only_objects_are_changes() -> None:
    """What else wakes the thread waits for nothing to be applied."""
    with node() as one:
        one.messages.put(CoverChanged())
        one.messages.put(ServersChanged())
        one.now_s += 3600
        assert one.codes() == (200, 200)


def test_harm_that_cannot_be_mended_is_a_fault() -> None:
    """A look at the maps found it, and no change is queued."""
    with node() as one:
        one.work(Family.IPV6)
        one.now_s += 60
        one.work(Family.IPV6)
        assert one.status() == {"IPv4": True, "IPv6": False}
        one.work()
        assert one.codes() == (200, 200)


def test_programs_that_are_gone_are_a_fault_at_once() -> None:
    """kube-proxy has nothing like it: its rules may be gone for a syncPeriod."""
    with node() as one:
        one.attached[Family.IPV4] = False
        one.now_s += LOOK_EVERY_S
        assert one.codes() == (503, 503)
        assert one.status() == {"IPv4": False, "IPv6": True}


def test_programs_are_looked_at_now_and_then_only() -> None:
    """A thousand services may be asked for all the time."""
    with node() as one:
        before = one.looks
        for _ in range(1000):
            assert one.health.is_healthy()
        assert one.looks - before <= len(Family)


def test_a_device_that_stays_uncovered_is_a_fault() -> None:
    """For as long as any change may wait nobody minds; then services are not served by it."""
    with node() as one:
        for _ in range(2):
            one.health.know_devices(covered=False)
            assert one.codes() == (200, 200)
            one.now_s += 30
        assert one.codes() == (503, 503)
        one.health.know_devices(covered=True)
        assert one.codes() == (200, 200)


@pytest.mark.parametrize(("must_be_known", "code"), [(True, 503), (False, 200)])
def test_a_node_that_nobody_describes(*, must_be_known: bool, code: int) -> None:
    """With manifests it is eligible, or such an agent never would be; a taint counts there, too."""
    with node() as one:
        one.health.know_node(None, must_be_known=must_be_known)
        assert one.codes() == (code, 200)
        one.describe(taints=("ToBeDeletedByClusterAutoscaler",))
        one.health.know_node(one.inbox.world.node, must_be_known=must_be_known)
        assert one.codes() == (503, 200)


def test_a_family_says_when_it_was_last_written() -> None:
    """Whether or not the other one was."""
    with node() as one:
        one.now_s += 10
        one.queue()
        one.work(Family.IPV6)
        body = json.loads(one.ask("/livez").body)
        assert body["status"]["IPv4"]["lastUpdated"] == "2026-01-01T00:16:50Z"
        assert body["status"]["IPv6"]["lastUpdated"] == "2026-01-01T00:16:40Z"
