# SPDX-License-Identifier: Apache-2.0
"""Rules as kube-proxy has them for one service, in each form; kubelet's and a stranger's beside."""

from __future__ import annotations

import enum
import ipaddress
import subprocess
from typing import NamedTuple

from tests.lab.hosts import Node

NFT_TABLE = "kube-proxy"
# what has to stay: the chain of a CNI plugin, kubelet's, and Docker's
OTHERS = ("KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-FIREWALL", "CNI-HOSTPORT", "DOCKER")


class Way(NamedTuple):
    """A service's address and port, its only endpoint's, and its NodePort."""

    address: str
    port: int
    to: str
    to_port: int
    node_port: int

    @property
    def is_ipv6(self) -> bool:
        """Whether the addresses are IPv6's."""
        return ipaddress.ip_address(self.address).version == 6

    @property
    def destination(self) -> str:
        """The endpoint as DNAT names it."""
        return f"[{self.to}]:{self.to_port}" if self.is_ipv6 else f"{self.to}:{self.to_port}"


class Form(enum.Enum):
    """Who wrote the rules; the value is a binary of iptables' two flavours, or nft."""

    NFT = "iptables-nft"
    LEGACY = "iptables-legacy"
    NFTABLES = "nft"

    def set(self, node: Node, way: Way) -> None:
        """Write the rules of kube-proxy and of others into a node's tables."""
        if self is Form.NFTABLES:
            node.run("nft", "-f", "-", input=_nftables(way), check=True)
        else:
            text = iptables(way)
            node.run(self._tool(way, "-restore"), "--noflush", input=text, check=True)

    def saved(self, node: Node, way: Way) -> str:
        """Return what is in the node's tables of this form and family."""
        if self is Form.NFTABLES:
            return node.run("nft", "list", "ruleset", check=True).stdout
        return node.run(self._tool(way, "-save"), check=True).stdout

    def clear(self, node: Node, way: Way) -> None:
        """Take away what is left."""
        if self is Form.NFTABLES:
            node.run("nft", "flush ruleset", check=True)
        else:
            empty = "".join(f"*{table}\nCOMMIT\n" for table in ("nat", "filter", "mangle"))
            node.run(self._tool(way, "-restore"), input=empty, check=True)

    def _tool(self, way: Way, suffix: str) -> str:
        usual = self.value.replace("ip", "ip6", 1) if way.is_ipv6 else self.value
        return usual + suffix


def leftovers(saved: str) -> list[str]:
    """Return the lines that name what is kube-proxy's."""
    return [
        line
        for line in saved.splitlines()
        if ("KUBE-" in line or f"table ip {NFT_TABLE}" in line or f"table ip6 {NFT_TABLE}" in line)
        and not any(each in line for each in OTHERS)
    ]


def run_as_kube_proxy(node: Node) -> subprocess.Popen[bytes]:
    """Start a process that is called kube-proxy, and does nothing."""
    program = "import time; open('/proc/self/comm', 'w').write('kube-proxy'); time.sleep(600)"
    return node.popen(*node.interpreter, "-c", program)


def iptables(way: Way) -> str:
    """Return the tables of both kube-proxy and others as iptables-restore reads them."""
    return _MANGLE + _nat(way) + _filter("::1/128" if way.is_ipv6 else "127.0.0.0/8")


_MANGLE = """*mangle
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
"""


def _nat(way: Way) -> str:
    service, endpoint = "KUBE-SVC-ABCDEFGHIJ234567", "KUBE-SEP-ZYXWVUTSRQ765432"
    external = "KUBE-EXT-ABCDEFGHIJ234567"
    return f"""*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:{external} - [0:0]
:{service} - [0:0]
:{endpoint} - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -m comment --comment "not -j KUBE-SERVICES" -j DOCKER
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES -d {way.address} -p tcp -m tcp --dport {way.port} -j {service}
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-NODEPORTS -p tcp -m tcp --dport {way.node_port} -j {external}
-A {external} -j KUBE-MARK-MASQ
-A {external} -j {service}
-A {service} -j {endpoint}
-A {endpoint} -s {way.to} -j KUBE-MARK-MASQ
-A {endpoint} -p tcp -m tcp -j DNAT --to-destination {way.destination}
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"""


def _filter(loopback: str) -> str:
    return f"""*filter
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FIREWALL ! -s {loopback} -d {loopback} -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
"""


def _nftables(way: Way) -> str:
    ip = "ip6" if way.is_ipv6 else "ip"
    of, at = f"ipv{6 if way.is_ipv6 else 4}_addr", f"{way.address} . tcp . {way.port}"
    return f"""
table {ip} {NFT_TABLE} {{
    map service-ips {{
        type {of} . inet_proto . inet_service : verdict
        elements = {{ {at} : goto service }}
    }}
    map service-nodeports {{
        type inet_proto . inet_service : verdict
        elements = {{ tcp . {way.node_port} : goto external }}
    }}
    chain external {{ meta mark set mark or 0x4000; goto service; }}
    chain service {{ meta l4proto tcp dnat to {way.destination}; }}
    chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips; }}
    chain nodeports {{ fib daddr type local meta l4proto . th dport vmap @service-nodeports; }}
    chain nat-prerouting {{
        type nat hook prerouting priority dstnat
        jump services
        jump nodeports
    }}
    chain nat-postrouting {{
        type nat hook postrouting priority srcnat
        mark and 0x4000 != 0 masquerade fully-random
    }}
    chain nat-output {{ type nat hook output priority -100; jump services; }}
    chain filter-forward {{ type filter hook forward priority -110; ct state new jump services-2; }}
    chain services-2 {{ }}
}}
table {ip} others {{
    chain DOCKER {{ }}
}}
"""
