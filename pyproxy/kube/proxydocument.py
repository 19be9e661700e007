# SPDX-License-Identifier: Apache-2.0
"""The effective KubeProxyConfiguration: what a file or flags say, with every default filled in.

Source: SetDefaults_KubeProxyConfiguration and platformApplyDefaults of kube-proxy (parity A19.2
to A19.8). Fields are as Go writes them: sorted, durations as "15m0s", nothing left out but
what v1alpha1 leaves out where it is empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from pyproxy.kube.configtypes import DURATION, FLUSH, MAPPING, SPAN, STRING, is_block
from pyproxy.kube.configwalk import Schema, Walk
from pyproxy.kube.durations import format_duration, parse_duration
from pyproxy.kube.proxyoptions import PRIMARY
from pyproxy.plan.options import DetectLocalMode, Mode

CONFIGZ_NAME = "kubeproxy.config.k8s.io"

# only null means these: an explicit zero is one (pointers in v1alpha1)
_POINTERS: Mapping[str, Any] = {
    "conntrack.maxPerCore": 32_768,
    "conntrack.min": 131_072,
    "conntrack.tcpCloseWaitTimeout": "1h0m0s",
    "conntrack.tcpEstablishedTimeout": "24h0m0s",
    "iptables.localhostNodePorts": True,
    "iptables.masqueradeBit": 14,
    "nftables.masqueradeBit": 14,
    "oomScoreAdj": -999,
}
# null, "" and 0 mean these
_DEFAULTS: Mapping[str, Any] = {
    "bindAddress": "0.0.0.0",
    "clientConnection.burst": 10,
    "clientConnection.contentType": "application/vnd.kubernetes.protobuf",
    "clientConnection.qps": 5,
    "configSyncPeriod": "15m0s",
    "detectLocalMode": DetectLocalMode.CLUSTER_CIDR.value,
    "iptables.minSyncPeriod": "1s",
    "iptables.syncPeriod": "30s",
    "ipvs.syncPeriod": "30s",
    "logging.flushFrequency": "5s",
    "logging.format": "text",
    "logging.options.json.infoBufferSize": "0",
    "logging.options.text.infoBufferSize": "0",
    "mode": Mode.IPTABLES.value,
    "nftables.minSyncPeriod": "1s",
    "nftables.syncPeriod": "30s",
}
# what is null where it is empty, and what is left out
_NULL = frozenset({"nodePortAddresses", "ipvs.excludeCIDRs"})
_LEFT_OUT = frozenset(
    {
        "featureGates",
        "logging.options.json.splitStream",
        "logging.options.text.splitStream",
        "logging.vmodule",
        "windowsRunAsService",
    }
)
_DURATIONS = (DURATION, SPAN, FLUSH)
_ZERO = {STRING: "", **dict.fromkeys(_DURATIONS, "0s")}


def default_of(path: str, found: Walk) -> Any:
    """Return what a field is where it is not given."""
    if path in _POINTERS:
        return _POINTERS[path]
    if path in _DEFAULTS:
        return _DEFAULTS[path]
    if path == "nodePortAddresses" and found.text("mode") == Mode.NFTABLES.value:
        return [PRIMARY]
    if path in _NULL or path in _LEFT_OUT:
        return None
    kind = found.fields[path]
    return _ZERO.get(kind, 0 if kind.name.startswith(("an integer", "a number")) else False)


def effective(path: str, found: Walk) -> Any:
    """Return what a field is, with the default where it has one."""
    value = found.values.get(path)
    kind = found.fields[path]
    if value is not None and kind in _DURATIONS:
        value = _duration(value)
    if value is None or (path not in _POINTERS and value in ("", 0, "0", "0s", [])):
        return default_of(path, found)
    return _plain(value)


def document(found: Walk, schema: Schema, addresses: Mapping[str, str]) -> dict[str, Any]:
    """Return the effective configuration as a v1alpha1 object.

    `addresses` are the values of fields that other fields bear upon.
    """
    made: dict[str, Any] = {}
    for path in sorted(schema.fields, key=str.lower):
        if schema.fields[path] is MAPPING:
            continue
        value = addresses.get(path, effective(path, found))
        if path in _LEFT_OUT and not value:
            continue
        *blocks, name = path.split(".")
        into = made
        for block in blocks:
            into = into.setdefault(block, {})
        into[name] = value
    return made | {"apiVersion": schema.api_version, "kind": schema.kind}


def to_yaml(configuration: Mapping[str, Any]) -> str:
    """Return a configuration as a file of kube-proxy's (--write-config-to)."""
    return str(yaml.safe_dump(dict(configuration), sort_keys=True, default_flow_style=False))


def configz(configuration: Mapping[str, Any]) -> str:
    """Return the body of /configz: the effective configuration under its group (parity A13.5)."""
    return json.dumps({CONFIGZ_NAME: configuration}, sort_keys=True, separators=(",", ":"))


def _duration(value: Any) -> str:
    """Return a duration as Go writes it; a number is of nanoseconds (FLUSH)."""
    span = value if isinstance(value, int) else parse_duration(value)
    return format_duration(span) if span >= 0 else f"-{format_duration(-span)}"


def _plain(value: Any) -> Any:
    if is_block(value):
        return {name: _plain(each) for name, each in value.pairs}
    return [_plain(each) for each in value] if isinstance(value, list) else value
