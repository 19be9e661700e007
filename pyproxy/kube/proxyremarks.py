# SPDX-License-Identifier: Apache-2.0
"""One line each on what a KubeProxyConfiguration says in vain, or may not mean (A19.12)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyproxy.kube.configwalk import Walk
from pyproxy.kube.proxydocument import default_of, effective
from pyproxy.kube.proxyoptions import EXTERNAL_IPS_GATE, PRIMARY, feature_gates
from pyproxy.kube.proxyperiods import block_of
from pyproxy.model import Address, Family, Prefix, family_of
from pyproxy.plan.options import DetectLocalMode, Options

_AT_ONCE = "every change takes effect at once, and is one store in a map"
_NO_IPVS = "pyproxy has no IPVS: backends are drawn at random, as in iptables mode"
_WINDOWS = "it is for Windows"
_BY_JSON = "objects are read as JSON"
_FEW = "the agent sends few requests, and slows down when the API server asks for it"
_LOGGED = "a line is written at once, to stderr"

IN_VAIN = {
    "clientConnection.acceptContentTypes": _BY_JSON,
    "clientConnection.burst": _FEW,
    "clientConnection.contentType": _BY_JSON,
    "clientConnection.qps": _FEW,
    "configSyncPeriod": "objects are watched, and read anew only where a watch cannot go on",
    "enableProfiling": "only a Go program has pprof, and /debug answers 404",
    "iptables.minSyncPeriod": _AT_ONCE,
    "ipvs.excludeCIDRs": _NO_IPVS,
    "ipvs.minSyncPeriod": _AT_ONCE,
    "ipvs.scheduler": _NO_IPVS,
    "ipvs.strictARP": _NO_IPVS,
    "ipvs.tcpFinTimeout": _NO_IPVS,
    "ipvs.tcpTimeout": _NO_IPVS,
    "ipvs.udpTimeout": _NO_IPVS,
    "logging.flushFrequency": _LOGGED,
    "logging.options.json.infoBufferSize": _LOGGED,
    "logging.options.json.splitStream": _LOGGED,
    "logging.options.text.infoBufferSize": _LOGGED,
    "logging.options.text.splitStream": _LOGGED,
    "nftables.minSyncPeriod": _AT_ONCE,
    "portRange": "no port is taken on the node; kube-proxy ignores it, too",
    "showHiddenMetricsForVersion": "pyproxy hides no metrics",
    "windowsRunAsService": _WINDOWS,
    "winkernel.enableDSR": _WINDOWS,
    "winkernel.forwardHealthCheckVip": _WINDOWS,
    "winkernel.networkName": _WINDOWS,
    "winkernel.rootHnsEndpointName": _WINDOWS,
    "winkernel.sourceVip": _WINDOWS,
}
# which mode's block says what; in ipvs mode all but the periods are the iptables block's (A19.9)
_PERIODS = frozenset({"syncPeriod", "minSyncPeriod"})


class Addresses(NamedTuple):
    """What families are read from."""

    bind: Address
    cluster_cidrs: tuple[Prefix, ...]


def remarks(found: Walk, options: Options, addresses: Addresses) -> tuple[str, ...]:
    """Return what an operator should know of a configuration that is valid."""
    by_cidr = options.detect_local_mode is DetectLocalMode.CLUSTER_CIDR
    cluster = _families(addresses.cluster_cidrs) if by_cidr else set()
    return (
        *_in_vain(found),
        *_gates(found),
        *_node_port_warnings(found, options, cluster),
        *_family_warnings(found, addresses.bind, cluster),
    )


def _in_vain(found: Walk) -> Iterator[str]:
    """Name the fields that are not at their default, together where the reason is one."""
    by_reason: dict[str, list[str]] = {}
    for path in found.values:
        reason = IN_VAIN.get(path) or _of_other_mode(path, found)
        if reason and effective(path, found) != default_of(path, found):
            by_reason.setdefault(reason, []).append(found.names.get(path, path))
    for reason, paths in by_reason.items():
        named = tuple(dict.fromkeys(paths))
        has = "have" if len(named) > 1 else "has"
        yield f"{', '.join(named)} {has} no meaning here: {reason}"
    if block_of(found) == "ipvs":
        yield f"mode ipvs is served as iptables: {_NO_IPVS.partition(': ')[0]}"


def _of_other_mode(path: str, found: Walk) -> str:
    block, _, name = path.partition(".")
    if block not in {"iptables", "nftables", "ipvs"}:
        return ""
    mode = block_of(found)
    counts = "iptables" if mode == "ipvs" and name not in _PERIODS else mode
    return "" if block == counts else f"mode is {mode}"


def _gates(found: Walk) -> Iterator[str]:
    others = sorted(feature_gates(found).keys() - {EXTERNAL_IPS_GATE})
    if others:
        yield f"featureGates {', '.join(others)} have no meaning here: pyproxy has no such gates"


def _node_port_warnings(found: Walk, options: Options, cluster: set[Family]) -> Iterator[str]:
    """Warn as checkBadConfig does."""
    if not effective("nodePortAddresses", found):
        yield (
            "nodePortAddresses is not set: NodePorts are served on all addresses of the node;"
            f" {PRIMARY!r} serves them on the Node's own alone"
        )
        return
    families = _families(options.node_port_addresses)
    if len(families) == 1 and len(cluster) == 2:
        (other,) = cluster - families
        yield (
            "nodePortAddresses has CIDRs of one family, and clusterCIDR of both: NodePorts are"
            f" served on all {other.label} addresses of the node"
        )


def _family_warnings(found: Walk, bind: Address, cluster: set[Family]) -> Iterator[str]:
    """Warn as checkBadIPConfig does; the Node's own family is not known yet."""
    if len(cluster) != 1:
        return
    (known,) = cluster
    if any(bind) and family_of(bind) is not known:
        yield (
            f"bindAddress is of {family_of(bind).label} and clusterCIDR is not: pods of that"
            " family are not told from other clients"
        )
    for field in ("healthzBindAddress", "metricsBindAddress"):
        text = found.text(field)
        family = Family.IPV6 if text.count(":") > 1 else Family.IPV4
        if text and family is not known:
            yield f"{field} {text} is of {family.label} and clusterCIDR is not"


def _families(prefixes: Iterable[Prefix]) -> set[Family]:
    return {family_of(each.address) for each in prefixes}
