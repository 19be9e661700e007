# SPDX-License-Identifier: Apache-2.0
"""`--pyproxy-config FILE`: the settings that kube-proxy has none for, YAML or JSON.

A file has the shape of kube-proxy's and is read in the same way (kube.configwalk). Its fields
are our flags', so they mean what those mean, and those win; null means "the default".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from pyproxy.kube.configtypes import (
    ABSOLUTE_PATH,
    BOOL,
    DEVICE_PATTERNS,
    MAPPING,
    PORT_RANGE,
    STRING,
    TIMEOUT,
    FieldType,
    integer_from,
    one_of,
    ports_of,
)
from pyproxy.kube.configwalk import Found, Schema, Walk, read_config_file, walk
from pyproxy.kube.durations import whole_seconds
from pyproxy.tables import ConnectionTable, PortRange, SocketTranslation

FIELDS: Mapping[str, FieldType] = MappingProxyType(
    {
        "apiVersion": STRING,
        "kind": STRING,
        "socketTranslation": one_of(*(choice.value for choice in SocketTranslation)),
        "devices": DEVICE_PATTERNS,
        "fastPath": BOOL,
        "forwardAccept": BOOL,
        "hideClients": BOOL,
        "ipv6LocalhostNodePorts": BOOL,
        "protectNodePorts": BOOL,
        "proxyModeAnswer": STRING,
        "removeKubeProxyRules": BOOL,
        "sameUplink": BOOL,
        "serviceMetrics": BOOL,
        "snatPortRange": PORT_RANGE,
        "cgroupRoot": ABSOLUTE_PATH,
        "bpffsRoot": ABSOLUTE_PATH,
        "runDir": ABSOLUTE_PATH,
        "cacheDir": ABSOLUTE_PATH,
        "connectionTable": MAPPING,
        "connectionTable.maxEntries": integer_from(1024, 4_194_304),
        "connectionTable.tcpOpeningTimeout": TIMEOUT,
        "connectionTable.tcpClosedTimeout": TIMEOUT,
    }
)
"""What is known, by path, and which values are right."""

SCHEMA = Schema("pyproxy/v1alpha1", "PyproxyConfiguration", FIELDS)

_DEFAULT = ConnectionTable()


class PyproxyConfig(NamedTuple):
    """What a file holds, and what holds without one.

    Directories are None where the file leaves them open. `devices` are shell patterns, none for all
    devices. Timeouts are in seconds, rounded up. `source_ports` stand for clients before all
    others do; None: those that nobody gets by himself. `proxy_mode_answer` is what /proxyMode says,
    "" for the mode. `warnings` name the fields that were passed over, for the log.
    """

    socket_translation: SocketTranslation = SocketTranslation.ALL
    devices: tuple[str, ...] = ()
    cgroup_root: Path | None = None
    bpffs_root: Path | None = None
    run_dir: Path | None = None
    cache_dir: Path | None = None
    max_entries: int = _DEFAULT.max_entries
    tcp_opening_s: int = _DEFAULT.timeouts.tcp_opening
    tcp_closed_s: int = _DEFAULT.timeouts.tcp_closed
    fast_path: bool = False
    forward_accept: bool = False
    hide_clients: bool = False
    ipv6_localhost_node_ports: bool = False
    protect_node_ports: bool = True
    proxy_mode_answer: str = ""
    remove_kube_proxy_rules: bool = True
    same_uplink: bool = True
    service_metrics: bool = True
    source_ports: PortRange | None = None
    warnings: tuple[str, ...] = ()


def read_pyproxy_config(path: Path) -> PyproxyConfig:
    """Return a file's configuration.

    Raises ConfigError if it cannot be read, BadFileError with everything that is wrong in it.
    """
    return read_config_file(path, "--pyproxy-config", parse_pyproxy_config)


def parse_pyproxy_config(text: bytes) -> PyproxyConfig:
    """Return the configuration of a YAML or JSON text. Raises BadFileError."""
    found = walk(text, SCHEMA)
    found.refuse_errors()  # the table of fields has tested every value
    return _config(found)


def examine_own(path: Path) -> Found:
    """Return what is wrong with a file, unknown fields and duplicates included.

    Raises ConfigError if it cannot be read or is no mapping.
    """
    return read_config_file(path, "--pyproxy-config", _examined)


def _examined(text: bytes) -> Found:
    found = walk(text, SCHEMA)
    return Found([*found.errors, *found.oddities], [])


def _port_range(text: str) -> PortRange:
    ports = ports_of(text)
    return PortRange(ports.start, len(ports))


def _config(found: Walk) -> PyproxyConfig:
    default = PyproxyConfig()
    table = "connectionTable."
    return PyproxyConfig(
        socket_translation=found.parsed(
            "socketTranslation", SocketTranslation, default.socket_translation
        ),
        devices=tuple(found.values.get("devices", ())),
        cgroup_root=found.parsed("cgroupRoot", Path, None),
        bpffs_root=found.parsed("bpffsRoot", Path, None),
        run_dir=found.parsed("runDir", Path, None),
        cache_dir=found.parsed("cacheDir", Path, None),
        max_entries=found.values.get(table + "maxEntries", default.max_entries),
        tcp_opening_s=found.parsed(
            table + "tcpOpeningTimeout", whole_seconds, default.tcp_opening_s
        ),
        tcp_closed_s=found.parsed(table + "tcpClosedTimeout", whole_seconds, default.tcp_closed_s),
        fast_path=found.values.get("fastPath") is True,
        forward_accept=found.values.get("forwardAccept") is True,
        hide_clients=found.values.get("hideClients") is True,
        ipv6_localhost_node_ports=found.values.get("ipv6LocalhostNodePorts") is True,
        protect_node_ports=found.values.get("protectNodePorts") is not False,
        proxy_mode_answer=found.text("proxyModeAnswer"),
        remove_kube_proxy_rules=found.values.get("removeKubeProxyRules") is not False,
        same_uplink=found.values.get("sameUplink") is not False,
        service_metrics=found.values.get("serviceMetrics") is not False,
        source_ports=found.parsed("snatPortRange", _port_range, None),
        warnings=tuple(found.oddities),
    )
