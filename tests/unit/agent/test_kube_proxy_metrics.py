# SPDX-License-Identifier: Apache-2.0
"""A scrape has kube-proxy's metrics, name by name, with their types, labels and buckets (A20)."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.agent.config import RunConfig
from pyproxy.agent.meters import Meters
from pyproxy.agent.scrape import Scrape
from pyproxy.model import Family, Protocol, ServicePortName
from pyproxy.plan.options import Options
from pyproxy.tables import ServiceCounters

TABLE: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("kube_proxy_metrics.toml").read_text(encoding="utf-8")
)
THEIRS = ("kubeproxy_", "rest_client_", "process_", "kubernetes_", "go_")
SOMEWHERE = Path("/nonexistent")


def run_config(**fields: Any) -> RunConfig:
    """Return a configuration with nothing in it that matters here but `fields`."""
    return RunConfig(
        manifests=None,
        kubeconfig=None,
        options=Options(node_name="n1"),
        healthz_bind_address=None,
        metrics_bind_address=None,
        cgroup_root=SOMEWHERE,
        bpffs_root=SOMEWHERE,
        run_dir=SOMEWHERE,
        cache_dir=SOMEWHERE,
        devices=(),
    )._replace(**fields)


def scraped(scrape: Scrape) -> dict[str, Metric]:
    """Return the metrics of a scrape by the name that stands in the text."""
    text = b"".join(scrape.exposition().chunks()).decode()
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family
    return found


def of_mode(mode: str) -> dict[str, Metric]:
    """Return what an agent of a mode has, which has asked the API server for something."""
    meters = Meters(tuple(Family), mode)
    meters.api.asked("GET", "https://10.0.0.1:6443", 200)
    meters.api.took("GET", "https://10.0.0.1:6443", 0.01)
    return scraped(Scrape(run_config(proxy_mode=mode), meters))


def wanted(mode: str) -> dict[str, dict[str, Any]]:
    """Return the rows of the table that a mode of ours has."""
    return {
        name: row
        for name, row in TABLE.items()
        if "missing" not in row and mode in row.get("modes", [mode])
    }


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
def test_the_metrics_are_those_of_the_table(mode: str) -> None:
    """All that the table promises are there, and no others under the names of theirs."""
    theirs = {name for name in of_mode(mode) if name.startswith(THEIRS)}
    assert theirs == set(wanted(mode))


@pytest.mark.parametrize(("name", "row"), wanted("iptables").items())
def test_type_labels_and_buckets_are_kube_proxys(name: str, row: dict[str, Any]) -> None:
    """To the letter of a bucket's bound, which is a label: 1 and not 1.0."""
    family = of_mode("iptables")[name]
    assert family.type == row["type"]
    assert family.samples
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    one = {key: value for key, value in family.samples[0].labels.items() if key != "le"}
    assert sorted(one) == sorted(row["labels"])
    if row["type"] == "histogram":
        mine = [s.labels["le"] for s in buckets if one.items() <= s.labels.items()]
        assert mine == [*row["buckets"], "+Inf"]


def test_both_families_are_there_from_the_start() -> None:
    """A counter that begins at its first event shows no rate for it."""
    families = of_mode("iptables")["kubeproxy_sync_proxy_rules_duration_seconds"].samples
    assert {sample.labels["ip_family"] for sample in families} == {"IPv4", "IPv6"}


@pytest.mark.parametrize("answer", ["", "ebpf"])
def test_the_mode_is_the_files_unless_a_setting_says_otherwise(answer: str) -> None:
    """By proxyModeAnswer, for who has to be told something else (A13.3)."""
    config = run_config(proxy_mode="nftables", proxy_mode_answer=answer)
    contents = Scrape(config, Meters([Family.IPV4])).contents()
    assert contents.page("/proxyMode", "").body == (answer or "nftables").encode()


@pytest.mark.parametrize("wanted", [True, False])
def test_metrics_of_services_can_be_left_out(*, wanted: bool) -> None:
    """By serviceMetrics; all others stay."""
    scrape = Scrape(run_config(service_metrics=wanted), Meters([Family.IPV4]))
    web = ServicePortName("default", "web", "http", Protocol.TCP)
    scrape.services = lambda: {(Family.IPV4, web): ServiceCounters(1, 2, 3, 4)}
    found = scraped(scrape)
    assert ("pyproxy_service_bytes_total" in found) is wanted
    assert "pyproxy_agent_info" in found


def test_answers_of_the_health_port_are_counted() -> None:
    """By path and code, both codes from the start (A20.7)."""
    scrape = Scrape(run_config(), Meters([Family.IPV4]))
    scrape.answers = lambda: {("/healthz", 503): 2, ("/livez", 200): 5}
    found = scraped(scrape)
    counted = {
        (name, sample.labels["code"]): sample.value
        for name in ("kubeproxy_proxy_healthz_total", "kubeproxy_proxy_livez_total")
        for sample in found[name].samples
    }
    healthz, livez = "kubeproxy_proxy_healthz_total", "kubeproxy_proxy_livez_total"
    assert counted == {
        (healthz, "200"): 0,
        (healthz, "503"): 2,
        (livez, "200"): 5,
        (livez, "503"): 0,
    }
