# SPDX-License-Identifier: Apache-2.0
"""The rules that kube-proxy writes in nftables mode, as text for `nft -f`. Pure.

    packet ─► nat-prerouting ─► services ─► service-… ─► endpoint-… : dnat
              filter-…, state new ─► has it endpoints? is it refused?
              nat-postrouting ─► masquerading: the marked ones

The form is that of Kubernetes 1.31: a table a family, a verdict map from address, protocol and
port to the service's chain, a random number to the endpoint's chain, DNAT there. Without
clusterCIDR, as our agent runs beside it, kube-proxy writes no rule that masquerades clients from
outside of the cluster; who comes by a NodePort it marks all the same (externalTrafficPolicy
Cluster), in a chain external-… before the service's.

The text comes in parts, because taking nftables off the path has to take connection tracking
off as well, and each `ct`, `dnat` and `masquerade` of a table holds on to it, wherever it
stands (nf_ct_netns_get() in nft_ct.c, nft_nat.c, nft_masq.c):

- what stands stays in the kernel all the time: tables, sets, maps, the chains of the services
  that nobody calls. Their endpoints' chains lack the dnat, which no packet would reach.
  Without a base chain none of it is on any packet's path.
- what switches are the base chains, the masquerading rule and the dialled service, whole.

Loading all anew would take half a minute of the kernel's time with 5,000 services, as each
lookup rule searches the list of all sets for its own (nft_set_lookup_global()).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.bench.objects import Object

# Services in one transaction: 5,000 at once take four times as long as these one by one, since
# the search above goes through the transaction, too.
TRANSACTION = 500
MARK = "0x4000"


class Endpoint(NamedTuple):
    """Where a service port leads."""

    address: str
    port: int


class Port(NamedTuple):
    """A port of a service in one family; `name` is namespace/service/protocol/port, as there.

    `node_port` is 0 where it has none.
    """

    name: str
    cluster_ip: str
    protocol: str
    port: int
    endpoints: tuple[Endpoint, ...]
    node_port: int = 0


class BaseChain(NamedTuple):
    """A chain at a hook, with the condition and target of each of its rules, in order."""

    name: str
    kind: str
    hook: str
    priority: int
    rules: tuple[tuple[str, str], ...]


# Filtering looks at destinations from before DNAT, so it runs ahead of it (-100), but for what
# is left over then: packets to ClusterIPs that no rule has translated.
NEW = "ct state new"
BASE_CHAINS = (
    BaseChain(
        "filter-prerouting-pre-dnat", "filter", "prerouting", -110, ((NEW, "firewall-check"),),
    ),
    BaseChain(
        "filter-input", "filter", "input", -110,
        ((NEW, "nodeport-endpoints-check"), (NEW, "service-endpoints-check")),
    ),
    BaseChain(
        "filter-forward", "filter", "forward", -110,
        ((NEW, "service-endpoints-check"), (NEW, "cluster-ips-check")),
    ),
    BaseChain(
        "filter-output-pre-dnat", "filter", "output", -110,
        ((NEW, "service-endpoints-check"), (NEW, "firewall-check")),
    ),
    BaseChain("filter-output", "filter", "output", 0, ((NEW, "cluster-ips-check"),)),
    BaseChain("nat-prerouting", "nat", "prerouting", -100, (("", "services"),)),
    BaseChain("nat-output", "nat", "output", -100, (("", "services"),)),
    BaseChain("nat-postrouting", "nat", "postrouting", 100, (("", "masquerading"),)),
)  # fmt: skip


def ports_of(objects: Sequence[Object], family: int) -> list[Port]:
    """Return the ports of Services in a family (4, 6) with the endpoints of their slices.

    `objects` are dual-stack Services and their EndpointSlices, as objects.py makes them.
    """
    slices: dict[str, Object] = {}
    for each in objects:
        if each["kind"] == "EndpointSlice" and each["addressType"] == f"IPv{family}":
            slices[each["metadata"]["labels"]["kubernetes.io/service-name"]] = each
    services = [each for each in objects if each["kind"] == "Service"]
    return [
        _port(service, port, slices[service["metadata"]["name"]], family)
        for service in services
        for port in service["spec"]["ports"]
    ]


def _port(service: Object, port: Object, endpoint_slice: Object, family: int) -> Port:
    meta, protocol = service["metadata"], port["protocol"].lower()
    numbers = {each["name"]: each["port"] for each in endpoint_slice["ports"]}
    return Port(
        name=f"{meta['namespace']}/{meta['name']}/{protocol}/{port['name']}",
        cluster_ip=service["spec"]["clusterIPs"][family == 6],
        protocol=protocol,
        port=port["port"],
        endpoints=tuple(
            Endpoint(address, numbers[port["name"]])
            for each in endpoint_slice["endpoints"]
            for address in each["addresses"]
        ),
        node_port=port.get("nodePort", 0),
    )


class Ruleset:
    """The rules of one family (4, 6) on a node with this address."""

    def __init__(self, family: int, node_address: str, dialled: Sequence[Port]) -> None:
        self._ip = "ip6" if family == 6 else "ip"
        self._node_address = node_address
        self._dialled = dialled

    def standing(self, crowd: Sequence[Port]) -> Iterator[str]:
        """Yield the transactions that make what stands, with these services beside."""
        yield _text(self._tables())
        for first in range(0, len(crowd), TRANSACTION):
            part = crowd[first : first + TRANSACTION]
            yield _text(line for port in part for line in self._service(port, translating=False))

    def on(self) -> str:
        """Return the transaction that puts what stands on the path of packets."""
        return _text(self._on())

    def off(self) -> str:
        """Return the transaction that takes away what on() added."""
        return _text(self._off())

    def gone(self) -> str:
        """Return the transaction that leaves nothing."""
        return _text([f"delete table {self._ip} kube-proxy"])

    def _tables(self) -> Iterator[str]:
        ip, table = self._ip, f"{self._ip} kube-proxy"
        address = "ipv6_addr" if ip == "ip6" else "ipv4_addr"
        served = f"{ip} daddr . meta l4proto . th dport"
        at_node = f"{ip} daddr @nodeport-ips meta l4proto . th dport"
        yield f"add table {table}"
        yield f"add set {table} cluster-ips {{ type {address}; }}"
        yield f"add set {table} nodeport-ips {{ type {address}; }}"
        yield f"add element {table} nodeport-ips {{ {self._node_address} }}"
        for name in ("service-ips", "no-endpoint-services", "firewall-ips"):
            kind = f"{address} . inet_proto . inet_service : verdict"
            yield f"add map {table} {name} {{ type {kind}; }}"
        for name in ("service-nodeports", "no-endpoint-nodeports"):
            yield f"add map {table} {name} {{ type inet_proto . inet_service : verdict; }}"
        yield from self._chain("mark-for-masquerade", [f"meta mark set meta mark or {MARK}"])
        yield from self._chain("reject-chain", ["reject"])
        yield from self._chain(
            "services", [f"{served} vmap @service-ips", f"{at_node} vmap @service-nodeports"]
        )
        yield from self._chain("firewall-check", [f"{served} vmap @firewall-ips"])
        yield from self._chain("service-endpoints-check", [f"{served} vmap @no-endpoint-services"])
        yield from self._chain(
            "nodeport-endpoints-check", [f"{at_node} vmap @no-endpoint-nodeports"]
        )
        yield from self._chain("cluster-ips-check", [f"{ip} daddr @cluster-ips reject"])

    def _chain(self, name: str, rules: Sequence[str]) -> Iterator[str]:
        yield f"add chain {self._ip} kube-proxy {name}"
        for rule in rules:
            yield f"add rule {self._ip} kube-proxy {name} {rule}"

    def _service(self, port: Port, *, translating: bool) -> Iterator[str]:
        table, chain = f"{self._ip} kube-proxy", f"service-{_hashed(port.name)}"
        chains = [_endpoint_chain(port, endpoint) for endpoint in port.endpoints]
        for name, endpoint in zip(chains, port.endpoints, strict=True):
            # A pod that reaches itself: replies have to come back by the node.
            rules = [f"{self._ip} saddr {endpoint.address} jump mark-for-masquerade"]
            if translating:
                rules.append(f"meta l4proto {port.protocol} dnat to {socket_text(endpoint)}")
            yield from self._chain(name, rules)
        choices = ", ".join(f"{number} : goto {name}" for number, name in enumerate(chains))
        yield from self._chain(chain, [f"numgen random mod {len(chains)} vmap {{ {choices} }}"])
        yield f"add element {table} cluster-ips {{ {port.cluster_ip} }}"
        yield f"add element {table} service-ips {{ {_key(port)} : goto {chain} }}"
        if port.node_port:
            yield from self._external(port, chain)

    def _external(self, port: Port, chain: str) -> Iterator[str]:
        """Yield what leads from a NodePort to the service's chain, with a mark."""
        external = f"external-{_hashed(port.name)}"
        yield from self._chain(external, ["jump mark-for-masquerade", f"goto {chain}"])
        verdict = f"{_node_key(port)} : goto {external}"
        yield f"add element {self._ip} kube-proxy service-nodeports {{ {verdict} }}"

    def _on(self) -> Iterator[str]:
        table = f"{self._ip} kube-proxy"
        for port in self._dialled:
            yield from self._service(port, translating=True)
        masquerade = f"meta mark set meta mark xor {MARK} masquerade fully-random"
        yield from self._chain("masquerading", [f"meta mark and {MARK} != 0 {masquerade}"])
        for name, kind, hook, priority, rules in BASE_CHAINS:
            yield f"add chain {table} {name} {{ type {kind} hook {hook} priority {priority}; }}"
            for condition, target in rules:
                yield f"add rule {table} {name} {condition} jump {target}".replace("  ", " ")

    def _off(self) -> Iterator[str]:
        table = f"{self._ip} kube-proxy"
        for chain in BASE_CHAINS:
            yield f"delete chain {table} {chain.name}"
        yield f"delete chain {table} masquerading"
        for port in self._dialled:
            yield f"delete element {table} service-ips {{ {_key(port)} }}"
            if port.node_port:
                yield f"delete element {table} service-nodeports {{ {_node_key(port)} }}"
                yield f"delete chain {table} external-{_hashed(port.name)}"
            yield f"delete chain {table} service-{_hashed(port.name)}"
            for endpoint in port.endpoints:
                yield f"delete chain {table} {_endpoint_chain(port, endpoint)}"
        for address in sorted({port.cluster_ip for port in self._dialled}):
            yield f"delete element {table} cluster-ips {{ {address} }}"


def _key(port: Port) -> str:
    return f"{port.cluster_ip} . {port.protocol} . {port.port}"


def _node_key(port: Port) -> str:
    return f"{port.protocol} . {port.node_port}"


def _endpoint_chain(port: Port, endpoint: Endpoint) -> str:
    # A colon ends a word of nft's.
    address = endpoint.address.replace(":", ".")
    return f"endpoint-{_hashed(port.name)}__{address}/{endpoint.port}"


def _hashed(name: str) -> str:
    """Return the name behind eight letters that differ early: chains are compared by name."""
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest())
    return f"{digest[:8].decode()}-{name}"


def socket_text(endpoint: Endpoint) -> str:
    """Return an endpoint as both tools take it."""
    address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{address}:{endpoint.port}"


def _text(lines: Iterator[str] | list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
