# SPDX-License-Identifier: Apache-2.0
"""When the health servers listen, and who is told where they cannot."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pyproxy.agent.inbox import Inbox
from pyproxy.agent.messages import Messages, ServersChanged, Stop
from pyproxy.agent.serving import NODE_IP_WAIT_S, Serving, bind_failed
from pyproxy.kube.addresses import parse_address
from pyproxy.kube.events import Change, Kind, NodeListed, Synced
from pyproxy.kube.notices import Notice, TellNobody
from pyproxy.model import Address, Family, ObjectName
from pyproxy.plan.health import HealthCheck
from pyproxy.plan.options import Mode, Options
from pyproxy.serve.health import Health, HealthServer
from pyproxy.serve.http import HttpServer
from tests.builders import node_record
from tests.lab.waiting import wait_for
from tests.unit.agent.test_source import config
from tests.unit.plan.records import cidrs
from tests.unit.serve.test_health import free_port
from tests.unit.serve.test_service_health import ask, listens

WEB = ObjectName("default", "web")
LOOPBACK = Options("n1", node_port_addresses=cidrs("127.0.0.1/32"))
IPV4 = {Family.IPV4}


class Told(TellNobody):
    """Remembers what was told."""

    def __init__(self) -> None:
        self.checks: list[set[Notice]] = []
        self.node: list[tuple[str, str, str, float]] = []

    def tell_checks(self, failures: Iterable[Notice]) -> None:
        """Take all that there are now."""
        self.checks.append(set(failures))

    def about_node(
        self, reason: str, note: str, *, kind: str = "Warning", wait_s: float = 0.0
    ) -> None:
        """Take one."""
        self.node.append((reason, note, kind, wait_s))


class One:
    """Serving with a clock of its own; health is on a free port of the loopback address."""

    def __init__(self, manifests: Path | None = None) -> None:
        self.now_s = 500.0
        self.told = Told()
        self.http = HttpServer()
        self.http.start()
        self.port = free_port()
        self.healthz = HealthServer(self.http, ("127.0.0.1", self.port), lambda: Health({}))
        self.inbox = Inbox(Options("n1"))
        self.own: list[Address] = [parse_address("127.0.0.1")]
        self.asked = 0
        self.serving = Serving(
            config(Mode.IPTABLES, manifests),
            self.http,
            self.healthz,
            is_healthy=lambda: True,
            teller=self.told,
            own=self.addresses,
            clock=lambda: self.now_s,
        )

    def addresses(self, _family: Family) -> list[Address]:
        """Return the node's own."""
        self.asked += 1
        if not self.own:
            raise OSError("no netlink")
        return self.own

    def opens(self) -> bool:
        """Look whether it is time; return whether /healthz is served."""
        self.serving.open(self.inbox)
        if self.healthz._thread.ident is None:
            return False
        wait_for(lambda: listens(self.port), 5, "/healthz to be served")
        return True

    def take_node(self, **fields: Iterable[str]) -> None:
        """Take a Node object."""
        found = node_record(name="n1", **fields)
        self.inbox.take(Change(Kind.NODE, ObjectName("", "n1"), found))


@pytest.fixture
def one() -> Iterator[One]:
    """An agent that follows an API server."""
    made = One()
    yield made
    made.http.stop()


def check(port: int, endpoints: int = 1, *families: Family) -> dict[ObjectName, HealthCheck]:
    """Return what is to be served of a service on a port."""
    counts = dict.fromkeys(families or (Family.IPV4,), endpoints)
    return {WEB: HealthCheck(port, counts, "uid-1")}


def test_healthz_waits_for_the_node(one: One) -> None:
    """Not before the API server has answered, and then at once (parity A12.1)."""
    assert not one.opens()
    assert one.serving.patience() is None
    one.take_node()
    assert not one.opens()
    one.inbox.take(NodeListed())
    assert one.opens()
    assert one.serving.patience() is None


@pytest.mark.parametrize("is_known", [True, False])
def test_healthz_waits_for_an_address(one: One, *, is_known: bool) -> None:
    """Half a minute, whether the Node has none yet or is none (parity A12.1, A16.2)."""
    if is_known:
        one.take_node(addresses=())
    one.inbox.take(NodeListed())
    assert not one.opens()
    assert one.serving.patience() == NODE_IP_WAIT_S == 30
    one.now_s += NODE_IP_WAIT_S - 1
    assert not one.opens()
    assert one.serving.patience() == 1
    one.now_s += 1
    assert one.opens()


def test_an_address_that_comes_late_ends_the_wait(one: One) -> None:
    """As soon as it is there."""
    one.inbox.take(NodeListed())
    assert not one.opens()
    one.now_s += 1
    one.take_node()
    assert one.opens()


def test_manifests_are_waited_for_and_no_more(tmp_path: Path) -> None:
    """What they do not say of the Node nobody will say later."""
    one = One(tmp_path)
    assert not one.opens()
    one.inbox.take(Synced())
    assert one.opens()
    one.http.stop()


def test_services_are_served_where_their_family_is_written(one: One) -> None:
    """The other one's stay as they were until it is, too (parity A11.7)."""
    port, other = free_port(), free_port()
    checks = check(port, 2, *Family)
    assert not one.serving.serve(checks, Options("n1"), IPV4)
    assert (listens(port), listens(port, "::1")) == (True, False)
    assert json.loads(ask(port)[2])["localEndpoints"] == 2
    one.serving.serve(checks, Options("n1"), set(Family))
    assert listens(port, "::1")
    one.serving.serve(check(other, 1, *Family), Options("n1"), IPV4)
    assert (listens(port), listens(port, "::1"), listens(other)) == (False, True, True)


def test_the_same_state_costs_nothing(one: One) -> None:
    """It is looked at after each message."""
    checks = check(free_port())
    for _ in range(3):
        one.serving.serve(checks, LOOPBACK, IPV4)
    assert one.asked == 1
    assert one.told.checks == []


def test_addresses_are_chosen_once(one: One) -> None:
    """At the first sync; later ones of the node do not count (parity A11.6)."""
    port = free_port()
    one.serving.serve({}, LOOPBACK, IPV4)
    one.own = [parse_address("127.0.0.9")]
    one.serving.serve(check(port), Options("n1"), IPV4)
    assert (listens(port), listens(port, "127.0.0.9")) == (True, False)


def test_the_nodes_own_addresses_are_waited_for(one: One) -> None:
    """They listen where nodePortAddresses is primary; after half a minute without any all do."""
    primary = Options("n1", node_ports_on_primary=True)
    port = free_port()
    one.take_node(addresses=())
    one.inbox.take(NodeListed())
    assert not one.opens()
    one.serving.serve(check(port), primary, IPV4)
    assert not listens(port)
    one.now_s += 30
    assert one.opens()
    one.serving.serve(check(port), primary, IPV4)
    wait_for(lambda: listens(port), 5, "the port to be served")


def test_a_port_in_use_is_told(one: One, caplog: pytest.LogCaptureFixture) -> None:
    """In the log, in status and by an Event on the Service, until it is served (parity A11.7)."""
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert one.serving.serve(check(port), LOOPBACK, IPV4)
        assert not one.serving.retry(check(port), LOOPBACK), "it is nothing new"
    note = (
        f'node n1 failed to start healthcheck "default/web" on port {port}: '
        f"127.0.0.1:{port}: Address already in use"
    )
    assert [record.message for record in caplog.records] == [note]
    (problem,) = one.serving.problems()
    assert (problem.code, problem.message) == ("health-check-not-served", note)
    ((notice,),) = one.told.checks
    assert (notice.reason, notice.action) == ("FailedToStartServiceHealthcheck", "Listen")
    assert (notice.kind, notice.name, notice.uid, notice.note) == ("Service", WEB, "uid-1", note)
    assert one.serving.retry(check(port), LOOPBACK)
    assert listens(port)
    assert one.told.checks[1:] == [set()]
    assert one.serving.problems() == []
    assert not one.serving.retry(check(port), LOOPBACK)


def test_addresses_that_cannot_be_read_are_read_again(one: One) -> None:
    """What depends on them is named meanwhile."""
    port = free_port()
    one.own = []
    assert one.serving.serve(check(port), LOOPBACK, IPV4)
    assert "no netlink" in one.serving.problems()[0].message
    one.own = [parse_address("127.0.0.1")]
    assert one.serving.retry(check(port), LOOPBACK)
    assert listens(port)


def test_a_service_without_a_port_is_named_once(one: One, caplog: pytest.LogCaptureFixture) -> None:
    """The API server gives one to all that need one (parity A10.5)."""
    for _ in range(2):
        one.serving.serve(check(0), Options("n1"), IPV4)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "default/web" in caplog.text


def test_healthz_that_cannot_listen_is_a_problem(one: One) -> None:
    """Status says it as the log does."""
    one.healthz.failure = "failed to start proxy healthz on 127.0.0.1:1: in use"
    (problem,) = one.serving.problems()
    assert (problem.code, problem.message) == ("healthz-not-served", one.healthz.failure)


def test_metrics_that_cannot_be_scraped_are_a_problem(one: One) -> None:
    """Status says it as the log does."""
    one.serving.metrics_failure = lambda: "failed to start metrics server on ::1:1: in use"
    (problem,) = one.serving.problems()
    assert (problem.code, problem.message) == ("metrics-not-served", one.serving.metrics_failure())


def test_a_server_that_listens_at_last_is_no_problem_any_more(one: One) -> None:
    """Nothing else need happen on the node for status to say so."""
    one.healthz.failure = "failed to start proxy healthz on 127.0.0.1:1: in use"
    assert one.serving.problems()
    assert not one.serving.retry({}, Options("n1"))
    one.healthz.failure = ""
    assert one.serving.retry({}, Options("n1"))
    assert not one.serving.problems()
    assert not one.serving.retry({}, Options("n1"))


@pytest.mark.parametrize("hard", [False, True])
def test_an_address_that_cannot_be_had_is_an_event(*, hard: bool) -> None:
    """With bindAddressHardFail the agent ends, after the Event was posted (parity A12.7)."""
    told, messages = Told(), Messages()
    bind_failed("FailedToStartProxierHealthcheck", told, messages, hard=hard)("in use")
    ((reason, note, kind, wait_s),) = told.node
    assert (reason, note, kind) == ("FailedToStartProxierHealthcheck", "in use", "Warning")
    assert bool(wait_s) is hard
    (message,) = messages.wait(0)
    if hard:
        assert isinstance(message, Stop)
        assert message.reason == "in use"
    else:
        assert isinstance(message, ServersChanged)
