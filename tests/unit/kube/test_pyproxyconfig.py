# SPDX-License-Identifier: Apache-2.0
"""--pyproxy-config: our own settings, read as kube-proxy's are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.errors import ConfigError
from pyproxy.kube.pyproxyconfig import (
    FIELDS,
    PyproxyConfig,
    parse_pyproxy_config,
    read_pyproxy_config,
)
from pyproxy.tables import ConnectionTable, PortRange, SocketTranslation

HEAD = "apiVersion: pyproxy/v1alpha1\nkind: PyproxyConfiguration\n"

FULL = (
    HEAD
    + """
socketTranslation: host
devices: [eth*, "cni[0-9]", 7up]
cgroupRoot: /sys/fs/cgroup/unified
bpffsRoot: /sys/fs/bpf/other
runDir: /run/other
cacheDir: /var/other
fastPath: true
forwardAccept: true
hideClients: true
ipv6LocalhostNodePorts: true
protectNodePorts: false
proxyModeAnswer: ebpf
removeKubeProxyRules: false
sameUplink: false
serviceMetrics: false
snatPortRange: 10000-19999
connectionTable:
  maxEntries: 100000
  tcpOpeningTimeout: 1m30s
  tcpClosedTimeout: 500ms
"""
)
EXPECTED = PyproxyConfig(
    socket_translation=SocketTranslation.HOST,
    devices=("eth*", "cni[0-9]", "7up"),
    cgroup_root=Path("/sys/fs/cgroup/unified"),
    bpffs_root=Path("/sys/fs/bpf/other"),
    run_dir=Path("/run/other"),
    cache_dir=Path("/var/other"),
    max_entries=100_000,
    tcp_opening_s=90,
    tcp_closed_s=1,
    fast_path=True,
    forward_accept=True,
    hide_clients=True,
    ipv6_localhost_node_ports=True,
    protect_node_ports=False,
    proxy_mode_answer="ebpf",
    remove_kube_proxy_rules=False,
    same_uplink=False,
    service_metrics=False,
    source_ports=PortRange(10_000, 10_000),
)


def parse(text: str) -> PyproxyConfig:
    """Parse the fields given, under the right head."""
    return parse_pyproxy_config((HEAD + text).encode())


def errors_of(text: str) -> list[str]:
    """Return all errors of a text that is refused, which is a failure but no wrong usage."""
    with pytest.raises(ConfigError) as caught:
        parse_pyproxy_config(text.encode())
    assert caught.value.exit_status == 1
    assert caught.value.remedy
    return caught.value.message.split("; ")


def in_blocks(values: dict[str, Any]) -> dict[str, Any]:
    """Return a file's structure from values by path."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        block, _, name = path.rpartition(".")
        if name != "connectionTable":
            (found.setdefault(block, {}) if block else found)[name] = value
    return found


def test_every_field_is_taken_up() -> None:
    """A full file gives its record, as YAML and as JSON."""
    assert parse_pyproxy_config(FULL.encode()) == EXPECTED
    assert parse_pyproxy_config(json.dumps(yaml.safe_load(FULL)).encode()) == EXPECTED
    default = PyproxyConfig()
    fields = set(PyproxyConfig._fields) - {"warnings"}
    assert [name for name in fields if getattr(EXPECTED, name) == getattr(default, name)] == []


def test_the_full_file_holds_every_known_field() -> None:
    """The table of fields and the full example are the same, path by path."""
    full = yaml.safe_load(FULL)
    assert {*full, *(f"connectionTable.{name}" for name in full["connectionTable"])} == set(FIELDS)


def test_defaults() -> None:
    """An empty file says what no file says; so does one of nulls."""
    nulls = "".join(f"{path}: null\n" for path in FIELDS if "." not in path)
    nulls = nulls.replace("apiVersion: null\nkind: null\n", "")
    below = "connectionTable: {maxEntries: null, tcpOpeningTimeout: ~, tcpClosedTimeout: }"
    for text in ("", nulls, below, "devices: []", "connectionTable: {}"):
        assert parse(text) == PyproxyConfig()
    default, table = PyproxyConfig(), ConnectionTable()
    assert default.socket_translation is SocketTranslation.ALL
    assert default.max_entries == table.max_entries
    assert default.tcp_opening_s == table.timeouts.tcp_opening
    assert default.tcp_closed_s == table.timeouts.tcp_closed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("socketTranslation", "pods"),
        ("socketTranslation", "ALL"),
        ("socketTranslation", ""),
        ("socketTranslation", True),
        ("socketTranslation", ["all"]),
        ("devices", "eth0"),
        ("devices", ["eth0,eth1"]),
        ("devices", [""]),
        ("devices", ["eth0 "]),
        ("devices", ["/sys/class/net/eth0"]),
        ("devices", [0]),
        ("cgroupRoot", "cgroup"),
        ("cgroupRoot", ""),
        ("bpffsRoot", "./bpf"),
        ("bpffsRoot", "/a\0b"),
        ("runDir", 5),
        ("connectionTable", 65536),
        ("connectionTable", []),
        ("connectionTable.maxEntries", 1023),
        ("connectionTable.maxEntries", 4_194_305),
        ("connectionTable.maxEntries", "65536"),
        ("connectionTable.maxEntries", 65536.5),
        ("connectionTable.maxEntries", True),
        ("connectionTable.tcpOpeningTimeout", "0s"),
        ("connectionTable.tcpOpeningTimeout", "-1s"),
        ("connectionTable.tcpOpeningTimeout", "-1ns"),
        ("connectionTable.tcpOpeningTimeout", 60),
        ("connectionTable.tcpClosedTimeout", "8760h1ns"),
        ("connectionTable.tcpClosedTimeout", "10"),
        ("connectionTable.tcpClosedTimeout", "10 s"),
    ],
)
def test_a_wrong_value_is_fatal(path: str, value: object) -> None:
    """The message names the field by its path, and what would be right."""
    file = yaml.safe_load(FULL)
    block, _, name = path.rpartition(".")
    (file[block] if block else file)[name] = value
    (error,) = errors_of(json.dumps(file))
    assert error == f"{path} must be {FIELDS[path].name}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("connectionTable.maxEntries", 1024),
        ("connectionTable.maxEntries", 4_194_304),
        ("connectionTable.tcpOpeningTimeout", "1ns"),
        ("connectionTable.tcpClosedTimeout", "8760h"),
    ],
)
def test_bounds_belong_to_what_is_right(path: str, value: object) -> None:
    """The least and the most."""
    block, _, name = path.rpartition(".")
    found = parse(f"{block}: {{{name}: {value}}}")
    assert found != PyproxyConfig()
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("head", "error"),
    [
        ("kind: PyproxyConfiguration", "apiVersion must be pyproxy/v1alpha1, not ''"),
        (
            "apiVersion: pyproxy/v1\nkind: PyproxyConfiguration",
            "apiVersion must be pyproxy/v1alpha1, not 'pyproxy/v1'",
        ),
        ("apiVersion: pyproxy/v1alpha1", "kind must be PyproxyConfiguration, not ''"),
        (
            "apiVersion: pyproxy/v1alpha1\nkind: KubeProxyConfiguration",
            "kind must be PyproxyConfiguration, not 'KubeProxyConfiguration'",
        ),
    ],
)
def test_another_version_or_kind_is_fatal(head: str, error: str) -> None:
    """What the file is must be said, exactly."""
    assert errors_of(head) == [error]


def test_all_errors_come_together() -> None:
    """An operator mends a file once."""
    text = "kind: x\nsocketTranslation: y\ndevices: z\nconnectionTable: {maxEntries: 1}"
    begins = [error.split(" ")[0] for error in errors_of(text)]
    assert sorted(begins) == [
        "apiVersion",
        "connectionTable.maxEntries",
        "devices",
        "kind",
        "socketTranslation",
    ]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("mode: nftables", "mode is unknown: it is passed over"),
        ("sockettranslation: host", "sockettranslation is unknown: it is passed over"),
        (
            "connectionTable: {udpTimeout: 5s}",
            "connectionTable.udpTimeout is unknown: it is passed over",
        ),
        ("runDir: /a\nrunDir: null", "runDir stands twice: the last one counts"),
    ],
)
def test_unknown_and_duplicate_fields_are_warned_of(text: str, warning: str) -> None:
    """They are passed over, as in kube-proxy's file (A19.1)."""
    assert parse(text) == PyproxyConfig(warnings=(warning,))


@pytest.mark.parametrize("text", ["", "5", "- a", "a: [", "{", HEAD + "---\n" + HEAD, "\x00"])
def test_what_is_no_configuration(text: str) -> None:
    """Not YAML, not a mapping, two documents: one clear error."""
    assert errors_of(text)


def test_files(tmp_path: Path) -> None:
    """Errors of a file name it, and the flag where that is what to mend."""
    path = tmp_path / "pyproxy.yaml"
    with pytest.raises(ConfigError, match=f"{path} cannot be read: No such file") as caught:
        read_pyproxy_config(path)
    assert caught.value.exit_status == 2
    assert "--pyproxy-config" in caught.value.remedy
    path.write_text(HEAD + "socketTranslation: some", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{path}: socketTranslation must be all or") as caught:
        read_pyproxy_config(path)
    assert caught.value.exit_status == 1
    path.write_text(FULL, encoding="utf-8")
    assert read_pyproxy_config(path) == EXPECTED


ANY_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.text(max_size=3), max_size=2), st.just({}),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), ANY_VALUE))
def test_any_values_are_taken_or_named(values: dict[str, Any]) -> None:
    """Whatever stands in the fields: a record, or an error for each field that is wrong."""
    values |= {"apiVersion": "pyproxy/v1alpha1", "kind": "PyproxyConfiguration"}
    text = json.dumps(in_blocks(values)).encode()
    try:
        found = parse_pyproxy_config(text)
    except ConfigError as error:
        named = {one.split(" ")[0] for one in error.message.split("; ")}
        assert named <= set(values)
    else:
        assert found.warnings == ()
        assert 1024 <= found.max_entries <= 4_194_304


@pytest.mark.parametrize(
    "text",
    ["10000", "10000-", "-10000", "1023-2000", "20000-10000", "1024-65536", "a-b", "1e3-2e3"],
)
def test_what_is_no_range_of_ports(text: str) -> None:
    """The range has to be free ports, in order."""
    (error,) = errors_of(HEAD + f'snatPortRange: "{text}"\n')
    assert "snatPortRange" in error
    assert "10000-19999" in error


def test_the_widest_range_of_ports() -> None:
    """All that are nobody's by their number."""
    assert parse("snatPortRange: 1024-65535\n").source_ports == PortRange(1_024, 64_512)
