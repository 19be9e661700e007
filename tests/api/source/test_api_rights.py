# SPDX-License-Identifier: Apache-2.0
"""The agent needs no rights but kube-proxy's: those of the ClusterRole system:node-proxier."""

from __future__ import annotations

from pathlib import Path

from pyproxy.kube.announcer import Announcer
from pyproxy.kube.api_config import ApiSettings
from pyproxy.model import Protocol, ServicePortName
from tests import builders
from tests.api.source.api_following import FAST, NODE, following
from tests.apiserver import ApiServer, Settings
from tests.apiserver.routes import find_route
from tests.lab.waiting import wait_for

# parity A17.9: verbs by API group and resource
ROLE = {
    ("", "services"): {"list", "watch"},
    ("", "endpoints"): {"list", "watch"},
    ("", "nodes"): {"get", "list", "watch"},
    ("", "events"): {"create", "patch", "update"},
    ("events.k8s.io", "events"): {"create", "patch", "update"},
    ("discovery.k8s.io", "endpointslices"): {"list", "watch"},
    ("networking.k8s.io", "servicecidrs"): {"list", "watch"},
}
QUICK = FAST._replace(event_least_s=0.01, event_most_s=0.03)
PORT = ServicePortName("default", "web", "sctp", Protocol.SCTP)


def used(server: ApiServer) -> set[tuple[str, str, str]]:
    """Return group, resource and verb of all requests; paths of no resource have their path."""
    found = set()
    for each in server.requests:
        route = find_route(each.method, each.path, each.query)
        group = route.resource.group if route.resource else ""
        found.add((group, route.plural or each.path, route.verb))
    return found


def test_no_request_needs_more_than_kube_proxys_role(tmp_path: Path) -> None:
    """Reading everything, again after its history was forgotten, and posting Events."""
    with ApiServer(Settings(tls=False)) as server:
        server.put(builders.node(NODE), builders.service("web"), builders.service_cidr())
        settings = ApiSettings(server.kubeconfig(tmp_path / "config"))
        with following(settings, service_cidrs=True) as source:
            source.until_synced()
            before = len(server.asked("services", "list"))
            server.advance(by=10)
            server.compact()
            server.cut_watches()
            source.until(lambda: len(server.asked("services", "list")) > before)
            announcer = Announcer(settings, NODE, pace=QUICK)
            announcer.tell({PORT: "not served"}, lambda _: "uid")
            wait_for(lambda: server.asked("events", "create"), 5, "an Event")
            announcer.stop()
        asked = used(server)
    assert {(group, plural) for group, plural, _ in asked} == ROLE.keys() - {
        ("", "endpoints"), ("", "events"),
    }  # fmt: skip
    assert [each for each in asked if each[2] not in ROLE[each[:2]]] == []
