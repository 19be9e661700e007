# SPDX-License-Identifier: Apache-2.0
"""The rules that kube-proxy writes in iptables mode, as text for iptables-restore. Pure.

    packet ─► PREROUTING ─► KUBE-SERVICES ─► KUBE-SVC-… ─► KUBE-SEP-… : DNAT
                               └─ to the node: KUBE-NODEPORTS ─► KUBE-EXT-… ─► KUBE-SVC-…
              FORWARD, INPUT, state new ─► is it refused?
              POSTROUTING ─► KUBE-POSTROUTING: the marked ones

The form is that of Kubernetes 1.31, without clusterCIDR as in ruleset.py: a rule a service, one
after the other, a chance for each endpoint but the last one, DNAT in the endpoint's chain. The
chains of services without endpoints and of load balancers stand there empty, as kube-proxy has
them, for new packets look into them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence

from tests.bench.ruleset import MARK, Endpoint, Port, socket_text

MASK = f"{MARK}/{MARK}"
NEW = "-m conntrack --ctstate NEW"
# The jumps from the chains that every table has, in kube-proxy's order.
FILTER_JUMPS = (
    ("INPUT", NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("INPUT", "", "kubernetes health check service ports", "KUBE-NODEPORTS"),
    ("INPUT", NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("FORWARD", NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("FORWARD", "", "kubernetes forwarding rules", "KUBE-FORWARD"),
    ("FORWARD", NEW, "kubernetes service portals", "KUBE-SERVICES"),
    ("FORWARD", NEW, "kubernetes externally-visible service portals", "KUBE-EXTERNAL-SERVICES"),
    ("OUTPUT", NEW, "kubernetes load balancer firewall", "KUBE-PROXY-FIREWALL"),
    ("OUTPUT", NEW, "kubernetes service portals", "KUBE-SERVICES"),
)
NAT_JUMPS = (
    ("PREROUTING", "", "kubernetes service portals", "KUBE-SERVICES"),
    ("OUTPUT", "", "kubernetes service portals", "KUBE-SERVICES"),
    ("POSTROUTING", "", "kubernetes postrouting rules", "KUBE-POSTROUTING"),
)
FORWARD_RULES = (
    "-m conntrack --ctstate INVALID -j DROP",
    f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {MASK} -j ACCEPT',
    (
        '-m comment --comment "kubernetes forwarding conntrack rule" '
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    ),
)
POSTROUTING_RULES = (
    f"-m mark ! --mark {MASK} -j RETURN",
    f"-j MARK --xor-mark {MARK}",
    '-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
)
LAST_RULE = (
    '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in '
    'this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS'
)


def restore_text(ports: Sequence[Port]) -> str:
    """Return all rules of a family, whose ports these are, for iptables-restore --noflush."""
    return "".join(f"{line}\n" for line in (*_filter(), *_nat(ports)))


def _filter() -> Iterator[str]:
    yield "*filter"
    targets = dict.fromkeys(target for *_, target in FILTER_JUMPS)
    yield from (f":{target} - [0:0]" for target in targets)
    yield from _jumps(FILTER_JUMPS)
    yield from (f"-A KUBE-FORWARD {rule}" for rule in FORWARD_RULES)
    yield "COMMIT"


def _nat(ports: Sequence[Port]) -> Iterator[str]:
    rules = [*_jumps(NAT_JUMPS), *_appended("KUBE-POSTROUTING", *POSTROUTING_RULES)]
    rules += _appended("KUBE-MARK-MASQ", f"-j MARK --or-mark {MARK}")
    for port in ports:
        rules += _service(port)
    rules += _appended("KUBE-SERVICES", LAST_RULE)
    own = (rule.split(maxsplit=2)[1] for rule in rules)
    chains = dict.fromkeys(name for name in own if name.startswith("KUBE-"))
    yield "*nat"
    # KUBE-NODEPORTS has no rule of its own where no service has a NodePort.
    yield from (f":{name} - [0:0]" for name in dict.fromkeys([*chains, "KUBE-NODEPORTS"]))
    yield from rules
    yield "COMMIT"


def _jumps(jumps: Sequence[tuple[str, str, str, str]]) -> Iterator[str]:
    for chain, condition, comment, target in jumps:
        begun = f"-A {chain} {condition}".rstrip()
        yield f'{begun} -m comment --comment "{comment}" -j {target}'


def _appended(chain: str, *rules: str) -> list[str]:
    return [f"-A {chain} {rule}" for rule in rules]


def _service(port: Port) -> Iterator[str]:
    name, proto = _comment(port), f"-m {port.protocol} -p {port.protocol}"
    service, external = _chain("SVC", port.name), _chain("EXT", port.name)
    to = f"-d {port.cluster_ip} --dport {port.port}"
    yield f'-A KUBE-SERVICES -m comment --comment "{name} cluster IP" {proto} {to} -j {service}'
    if port.node_port:
        at = f"--dport {port.node_port}"
        hidden = f"masquerade traffic for {name} external destinations"
        yield f"-A KUBE-NODEPORTS -m comment --comment {name} {proto} {at} -j {external}"
        yield f'-A {external} -m comment --comment "{hidden}" -j KUBE-MARK-MASQ'
        yield f"-A {external} -j {service}"
    for number, endpoint in enumerate(port.endpoints):
        yield from _endpoint(port, endpoint, len(port.endpoints) - number)


def _endpoint(port: Port, endpoint: Endpoint, left: int) -> Iterator[str]:
    """Yield the rules of an endpoint, where so many are `left`, with this one."""
    name, to = _comment(port), socket_text(endpoint)
    chain = _chain("SEP", f"{port.name}{to}")
    chance = f" -m statistic --mode random --probability {1 / left:.10f}" if left > 1 else ""
    service = _chain("SVC", port.name)
    yield f'-A {service} -m comment --comment "{name} -> {to}"{chance} -j {chain}'
    yield f"-A {chain} -m comment --comment {name} -s {endpoint.address} -j KUBE-MARK-MASQ"
    proto = f"-m {port.protocol} -p {port.protocol}"
    yield f"-A {chain} -m comment --comment {name} {proto} -j DNAT --to-destination {to}"


def _comment(port: Port) -> str:
    """Return the name that kube-proxy's comments have: namespace/service:port."""
    namespace, service, _, name = port.name.split("/")
    return f"{namespace}/{service}:{name}"


def _chain(kind: str, name: str) -> str:
    digest = base64.b32encode(hashlib.sha256(name.encode()).digest())
    return f"KUBE-{kind}-{digest[:16].decode()}"
