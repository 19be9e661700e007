# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus scrapes a real agent, and its lint finds nothing that is ours (A13, A20)."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.scene import Scene
from tests.lab import netns
from tests.lab.agent import Agent
from tests.lab.hosts import Node
from tests.lab.prober import answered
from tests.lab.waiting import wait_for

pytestmark = pytest.mark.once

TOOLS = Path(sys.prefix) / "prometheus"
"""Where scripts/lib/test_layers.sh puts Debian's Prometheus."""

METRICS = ("127.0.0.1", 10249)
PROMETHEUS = ("127.0.0.1", 9090)
CONFIG = """
scrape_configs:
- job_name: kube-proxy
  scrape_interval: 2s
  scrape_timeout: 2s
  static_configs:
  - targets: ["127.0.0.1:10249"]
"""
# kube-proxy's own names that break promtool's rules
THEIRS = {
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total": 'should not have "_total" suffix',
}
CONNECTIONS = 5
PATIENCE_S = 20.0


def get(node: Node, address: tuple[str, int], path: str) -> bytes:
    """Return what a server on a node answers with 200, nothing where it does not."""

    def ask() -> bytes:
        connection = http.client.HTTPConnection(*address, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        except OSError:
            return b""
        else:
            return body if answer.status == 200 else b""
        finally:
            connection.close()

    return netns.inside(node.netns, ask)


def values(agent: Agent) -> dict[str, float]:
    """Return all that a scrape of an agent has, by name and labels as PromQL writes them."""
    text = get(agent.node, METRICS, "/metrics").decode()
    return {
        _series(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _series(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


@pytest.fixture(scope="module")
def agent(scene: Scene) -> Agent:
    """The agent of node1."""
    return scene.agents[0]


class Prometheus:
    """A server that scrapes the agent of its node."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node = node
        config = directory / "prometheus.yml"
        config.write_text(CONFIG, encoding="utf-8")
        self._log = (directory / "log").open("wb")
        self.process = node.popen(
            TOOLS / "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--web.listen-address={}:{}".format(*PROMETHEUS),
            stdout=self._log,
            stderr=self._log,
        )

    def api(self, path: str) -> Any:
        """Return the data of an answer of its API, None for none."""
        text = get(self._node, PROMETHEUS, f"/api/v1/{path}")
        return json.loads(text)["data"] if text else None

    def query(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of the series that an expression finds."""
        data = self.api(f"query?query={quote(expression)}")
        return [each["metric"] for each in data["result"]] if data else []

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)
        self._log.close()


@pytest.fixture(scope="module")
def prometheus(agent: Agent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has scraped the agent."""
    made = Prometheus(agent.node, tmp_path_factory.mktemp("prometheus"))
    try:
        wait_for(lambda: made.query("up == 1"), PATIENCE_S, "a scrape")
        yield made
    finally:
        made.stop()


def test_connections_and_changes_show_in_the_next_scrape(scene: Scene, agent: Agent) -> None:
    """What status knows, a scrape has: sockets, maps, and that everything is written."""
    before = values(agent)
    app = scene.app("scraped")
    scene.run(app, scene.cluster.nodes[1].pods[:1])
    asked = values(agent)
    client = scene.cluster.nodes[0].pods[0]
    assert len(answered(client.prober.draw(app.tcp(), CONNECTIONS))) == 1
    after = values(agent)
    name = 'pyproxy_map_entries{ip_family="IPv4",map="services"}'
    assert after[name] - before[name] == 2
    name = "kubeproxy_sync_proxy_rules_endpoint_changes_total"
    assert after[name] - before[name] >= 2
    assert after["kubeproxy_sync_proxy_rules_endpoint_changes_pending"] == 0
    assert after["pyproxy_synced"] == 1
    ways = (
        'pyproxy_translated_sockets_total{call="connect",ip_family="IPv4"}',
        'pyproxy_packet_connections_total{ip_family="IPv4"}',
    )
    assert sum(after[way] - asked[way] for way in ways) == CONNECTIONS
    of_service = (
        f'pyproxy_service_connections_total{{ip_family="IPv4",namespace="default",path="{path}",'
        f'port="web",protocol="TCP",service="{app.name}"}}'
        for path in ("socket", "packet")
    )
    assert sum(after[name] - asked[name] for name in of_service) == CONNECTIONS


def test_the_configuration_in_force_is_shown(agent: Agent) -> None:
    """Under its group, with kube-proxy's defaults (A13.5)."""
    shown = json.loads(get(agent.node, METRICS, "/configz"))["kubeproxy.config.k8s.io"]
    assert (shown["kind"], shown["metricsBindAddress"]) == (
        "KubeProxyConfiguration",
        "127.0.0.1:10249",
    )


def test_prometheus_takes_all_of_it(prometheus: Prometheus) -> None:
    """Its scrape is whole and without an error, and it knows the types."""
    (target,) = prometheus.api("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    families = {
        each["ip_family"]
        for each in prometheus.query("kubeproxy_sync_proxy_rules_duration_seconds_count")
    }
    assert families == {"IPv4", "IPv6"}
    assert prometheus.query("process_cpu_seconds_total > 0")
    metadata = prometheus.api("targets/metadata")
    types = {each["metric"]: each["type"] for each in metadata}
    assert types["kubeproxy_sync_proxy_rules_no_local_endpoints_total"] == "gauge"
    assert types["pyproxy_dropped_packets_total"] == "counter"


@pytest.mark.parametrize("path", ["/metrics", "/metrics/slis"])
def test_promtool_finds_nothing_that_is_ours(agent: Agent, path: str) -> None:
    """Its lint names what is kube-proxy's own, and nothing else."""
    get(agent.node, METRICS, "/healthz")
    text = get(agent.node, METRICS, path)
    assert text
    checked = subprocess.run(
        [TOOLS / "promtool", "check", "metrics"], input=text, capture_output=True, check=False
    )
    complaints = (checked.stdout + checked.stderr).decode().splitlines()
    expected = [f"{name} non-counter metrics {rule}" for name, rule in THEIRS.items()]
    assert complaints == (expected if path == "/metrics" else [])


def test_the_mode_is_kube_proxys(agent: Agent) -> None:
    """What CNI installers and Kubernetes' own tests ask for (A13.3)."""
    assert get(agent.node, METRICS, "/proxyMode") == b"iptables"
