# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's packet cases at plan level: which endpoints, which verdict, which source."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pyproxy.plan import decide as rules
from pyproxy.plan.connection import Verdict
from tests.flows.judge import judge
from tests.flows.load import KUBE_PROXY, Case, FlowFile, FlowFileError, read_flow_file


def test_case_is_decided_as_kube_proxy_does(flow_case: Case) -> None:
    """Every flow of a case has kube-proxy's verdict, backends and masquerading."""
    judgement = judge(flow_case)
    assert judgement.complaints == ()
    assert judgement.executed == len(flow_case.flows)


def test_every_flow_is_executed(flow_file: FlowFile, capsys: pytest.CaptureFixture[str]) -> None:
    """As many flows are tried as a plain count of the file finds, per mode and state."""
    executed = sum(judge(case).executed for case in flow_file.cases)
    with capsys.disabled():
        others = ", ".join(f"{key} {count}" for key, count in flow_file.others.items())
        print(f"\n{flow_file.path.name}: executed {executed} = found {flow_file.found} flows")
        print(f"  sections of other kinds, not run here: {others or 'none'}")
    assert executed == flow_file.found > 0


def test_health_check_counts_local_ready_endpoints(flow_file: FlowFile) -> None:
    """Where a case states what a load balancer's health check sees, the plans say the same."""
    for case in flow_file.cases:
        expected = case.body.get("healthcheck")
        if expected is None or case.id.endswith(("-after", "-before")):
            continue
        world = case.world()
        world.replan()
        assert list(world.health_check_node_ports().values()) == [expected["port"]]
        (check,) = world.health_checks.values()
        assert check.port == expected["port"]
        assert list(check.endpoints.values()) == [expected["localEndpoints"]]


def test_wrong_expectations_are_noticed() -> None:
    """One changed expectation in a case is always one complaint or more."""
    draw = random.Random(2)
    file = read_flow_file(KUBE_PROXY)
    for case in draw.sample([case for case in file.cases if case.flows], 60):
        flows = list(case.flows)
        number = draw.randrange(len(flows))
        flow = flows[number]
        wrong = draw.choice(
            [
                flow._replace(masquerade=not flow.masquerade),
                flow._replace(expect="DROP" if flow.expect != "DROP" else "REJECT"),
                flow._replace(expect=frozenset({"10.99.99.99:1"})),
            ]
        )
        flows[number] = wrong
        assert judge(case._replace(flows=tuple(flows))).complaints, (case.id, wrong)


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("_verdict_without_match", Verdict.PASS),
        ("_accept_health_check", Verdict.ACCEPT),
        ("_check_cluster_ips", Verdict.PASS),
        ("_is_filtered_by_source", False),
        ("_is_filtered_by_source", True),
        ("_refusal", None),
        ("_refusal", Verdict.DROP),
        ("_lacks_endpoints", False),
        ("_is_policy_local", False),
        ("_is_policy_local", True),
        ("has_detector", False),
        ("has_detector", True),
        ("is_pod", False),
        ("is_pod", True),
        ("is_local", False),
        ("is_node_port_address", True),
        ("is_node_port_address", False),
    ],
)
def test_breaking_a_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch, rule: str, broken: object
) -> None:
    """Whichever rule of the decision always answers the same, some flow complains."""
    monkeypatch.setattr(rules, rule, lambda *_args: broken)
    assert any(judge(case).complaints for case in read_flow_file(KUBE_PROXY).cases)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("schema: other/1\n", "pyproxy-flows/1"),
        ("a: [", "can't be read as YAML"),
        ("- 1\n", "pyproxy-flows/1"),
    ],
)
def test_unusable_file_is_refused_in_a_sentence(tmp_path: Path, text: str, reason: str) -> None:
    """A file that holds no packet cases is named with the reason, not run as empty."""
    path = tmp_path / "flows.yaml"
    path.write_text(text)
    with pytest.raises(FlowFileError, match=reason):
        read_flow_file(path)


LABELLED = """
schema: pyproxy-flows/1
sequences: [{id: one}]
cases:
- id: labelled
  backends: [iptables, nftables]
  node: {name: n1, ips: [192.168.0.2], podCIDR: 10.0.0.0/8}
  config: {detectLocal: {mode: ClusterCIDR, cidrs: [10.0.0.0/8]}, masqueradeAll: false,
           localhostNodePorts: true, nodePortAddresses: [], serviceCIDRs: [172.30.0.0/16]}
  services:
  - {name: ns/a, type: ClusterIP, clusterIP: 172.30.0.1, ports: [{name: p, port: 80}]}
  endpointslices:
  - {service: ns/a, addressType: IPv4, labels: {service.kubernetes.io/headless: ""},
     ports: [{name: p, port: 8080, protocol: TCP}], endpoints: [{ip: 10.0.0.1}]}
  flows:
  - &flow {name: labelled, src: 10.0.0.2, srcRole: pod, dst: 172.30.0.1, port: 80, proto: TCP,
           expect: REJECT, masq: false}
  before: [{flows: [{<<: *flow, name: without, expect: ["10.0.0.1:8080"]}]}]
  after: [{action: delete all endpointslices, flows: [{<<: *flow, only: [nftables]}]}]
"""


def test_states_of_a_case_are_each_tried(tmp_path: Path) -> None:
    """`before` is the case without labels on slices, `after` the one without slices."""
    path = tmp_path / "flows.yaml"
    path.write_text(LABELLED)
    file = read_flow_file(path)
    judgements = [judge(case) for case in file.cases]
    assert [c for judgement in judgements for c in judgement.complaints] == []
    assert sum(judgement.executed for judgement in judgements) == file.found == 5
    assert file.others == {"sequences": 1}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("delete all endpointslices", "juggle", "unknown action 'juggle'"),
        ("iptables", "ipvs", "'ipvs' is not a valid Mode"),
        ("expect: REJECT, ", "", "missing or unknown 'expect'"),
        ("src: 10.0.0.2", "src: 10.0.0", "not an IP address"),
    ],
)
def test_malformed_case_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """A case that isn't understood is an error, never a case less."""
    path = tmp_path / "flows.yaml"
    path.write_text(LABELLED.replace(old, new))
    with pytest.raises(FlowFileError, match=reason):
        read_flow_file(path)


def test_missing_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A file that isn't there is an error of the call."""
    with pytest.raises(FlowFileError, match="can't be read"):
        read_flow_file(tmp_path / "none.yaml")
