# SPDX-License-Identifier: Apache-2.0
"""kube-proxy's packet cases at plan level: which endpoints, which verdict, which source."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from pyproxy.plan import decide as rules
from pyproxy.plan.connection import Verdict
from tests.flows.judge import judge
from tests.flows.load import CORNERS, KUBE_PROXY, Case, FlowFile, FlowFileError, read_flow_file


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
        for each in flow_file.unknown:
            print(f"  means nothing here: {each}")
    assert executed == flow_file.found
    assert flow_file.found or flow_file.others


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
        ("iptables", "ipvs", r"'ipvs' - at `\$.backends\[0\]`"),
        ("expect: REJECT, ", "", r"missing required field `expect` - at `\$.flows\[0\]`"),
        ("expect: REJECT", "expect: 7", r"got `int` - at `\$.flows\[0\].expect`"),
        ("masq: false", "masq: 0", r"got `int` - at `\$.flows\[0\].masq`"),
        ("srcRole: pod", "srcRole: host", r"'host' - at `\$.flows\[0\].srcRole`"),
        ("src: 10.0.0.2", "src: 10.0.0", "not an IP address"),
        ("mode: ClusterCIDR", "mode: Guess", "'Guess' is not a valid DetectLocalMode"),
        ("{ip: 10.0.0.1}", "{ip: 10.0.0.1, state: ill}", r"'ill' - at `\$.endpointslices"),
        ("ip: 10.0.0.1", "ip: 10.0.1", "EndpointSlice ns/a-000-slice is malformed"),
        ("service: ns/a", "service: a", "'a' is no namespace/name"),
        ("before: [{", "before: [{flows: 1}, {", r"got `int` - at `\$.before\[0\].flows`"),
    ],
)
def test_malformed_case_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """A case that isn't understood is an error that names it, never a case less."""
    path = tmp_path / "flows.yaml"
    path.write_text(LABELLED.replace(old, new))
    with pytest.raises(FlowFileError, match=f"flows.yaml, case labelled: .*{reason}"):
        read_flow_file(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cases: {}", "`cases` is no list"),
        ("cases: [7]", "case number 1: Expected `object`, got `int`"),
        ("cases: [{id: a}]", "case a: Object missing required field `backends`"),
        ("sequences: [one]", "`sequences` is no list of mappings"),
    ],
)
def test_malformed_section_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """Whatever stands where cases or sequences should is named in a sentence."""
    path = tmp_path / "flows.yaml"
    path.write_text(f"schema: pyproxy-flows/1\n{text}\n")
    with pytest.raises(FlowFileError, match=reason):
        read_flow_file(path)


def test_keys_that_mean_nothing_are_named(tmp_path: Path) -> None:
    """What the loader does not know may change what a case means: it is told where it stands."""
    path = tmp_path / "flows.yaml"
    text = LABELLED.replace("{ip: 10.0.0.1}", "{ip: 10.0.0.1, weight: 3}")
    text = text.replace("type: ClusterIP", "type: ClusterIP, externalTraficPolicy: Local")
    path.write_text(text.replace("- id: labelled", "- id: labelled\n  mood: good"))
    assert set(read_flow_file(path).unknown) == {
        "case labelled: mood",
        "case labelled: services[0].externalTraficPolicy",
        "case labelled: endpointslices[0].endpoints[0].weight",
    }
    assert [f for f in (KUBE_PROXY, CORNERS) if read_flow_file(f).unknown] == []


def test_sets_of_several_ports_are_no_sets(tmp_path: Path) -> None:
    """`categorize` is about the only port of a case; where there are two, that is the complaint."""
    path = tmp_path / "flows.yaml"
    sets = "{cluster: [], local: null, allReachable: [], hasAnyEndpoints: false}"
    text = LABELLED.replace("- id: labelled", f"- id: labelled\n  categorize: {sets}")
    path.write_text(text.replace("port: 80}]", "port: 80}, {name: q, port: 81}]"))
    complaints = [c for case in read_flow_file(path).cases for c in judge(case).complaints]
    assert {c.partition(": ")[2] for c in complaints} == {
        "categorize: 2 service ports, where it is for one"
    }


def run_with_flows(tmp_path: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    """Run pytest on this file's first tests with --flows; return what it says."""
    options = [option for file in files for option in ("--flows", str(file))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    chosen = "labelled or test_every_flow_is_executed"
    return subprocess.run(
        [*command, "-k", chosen, *options, f"--basetemp={tmp_path / 'base'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
    )


def test_several_files_may_be_given(tmp_path: Path) -> None:
    """Each is executed and counted once, however often it is named; one bad file is a sentence."""
    paths = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for path in paths:
        path.write_text(LABELLED)
    done = run_with_flows(tmp_path, *paths, paths[0], KUBE_PROXY)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("executed 5 = found 5 flows") == 2
    assert done.stdout.count("kube-proxy.yaml: executed") == 1
    paths[1].write_text("schema: other/1")
    refused = run_with_flows(tmp_path, *paths)
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "two.yaml is no file of packet cases" in refused.stderr


def test_missing_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A file that isn't there is an error of the call."""
    with pytest.raises(FlowFileError, match="can't be read"):
        read_flow_file(tmp_path / "none.yaml")
