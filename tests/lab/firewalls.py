# SPDX-License-Identifier: Apache-2.0
"""What CNI plugins and operators put into a node's netfilter: the rules, and how they are set."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from tests.lab.hosts import Host, Node
from tests.lab.topology import NodeNet

PODS = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}
# conntrack minds no packet of TCP that it has not seen
LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"
GROUPS = {4: "224.0.0.0/4", 6: "ff00::/8"}
# of the node's own pods' network, all pods', and multicast groups
Rules: TypeAlias = Callable[[str, str, str], str]


def flannel(own: str, pods: str, groups: str) -> str:
    """Return the chains of flannel 0.25 as iptables-restore reads them."""
    return f"""*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s {own} -d {pods} -j RETURN
-A FLANNEL-POSTRTG -s {pods} -d {own} -j RETURN
-A FLANNEL-POSTRTG ! -s {pods} -d {own} -j RETURN
-A FLANNEL-POSTRTG -s {pods} ! -d {groups} -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {pods} -d {pods} -j MASQUERADE --random-fully
COMMIT
*filter
:FORWARD DROP [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -j FLANNEL-FWD
-A FLANNEL-FWD -s {pods} -j ACCEPT
-A FLANNEL-FWD -d {pods} -j ACCEPT
COMMIT
"""


def kindnet(own: str, pods: str, groups: str) -> str:  # noqa: ARG001 - see Rules
    """Return kind's chain: all that leaves the pods' networks is masqueraded."""
    return f"""*nat
:KIND-MASQ-AGENT - [0:0]
-A POSTROUTING -m addrtype ! --dst-type LOCAL -j KIND-MASQ-AGENT
-A KIND-MASQ-AGENT -d {pods} -j RETURN
-A KIND-MASQ-AGENT -j MASQUERADE --random-fully
COMMIT
"""


def no_invalid(own: str, pods: str, groups: str) -> str:  # noqa: ARG001 - see Rules
    """Return what drops packets that conntrack calls INVALID, wherever they go."""
    return """*filter
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A OUTPUT -m conntrack --ctstate INVALID -j DROP
COMMIT
"""


def set_rules(node: Node, net: NodeNet, rules: Rules) -> None:
    """Put rules into a node's tables of both families, beside those that are there."""
    for family, own, command in (
        (4, net.cidr4, "iptables-restore"),
        (6, net.cidr6, "ip6tables-restore"),
    ):
        network = str(ipaddress.ip_network(own))
        text = rules(network, PODS[family], GROUPS[family])
        node.run(command, "--noflush", input=text, check=True)


def counted(node: Node, net: NodeNet) -> Callable[[Rules], bool]:
    """Return what tells whether some of the rules of a kind have seen packets of IPv4 by now."""
    saved = node.run("iptables-save", "-c", check=True).stdout.splitlines()
    seen = {line.partition("] ")[2] for line in saved if line[:1] == "[" and line[:5] != "[0:0]"}
    network = str(ipaddress.ip_network(net.cidr4))
    return lambda rules: not seen.isdisjoint(rules(network, PODS[4], GROUPS[4]).splitlines())


def clear_rules(node: Node) -> None:
    """Take all rules out of a node's tables again."""
    empty = "*nat\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n"
    for command in ("iptables-restore", "ip6tables-restore"):
        node.run(command, input=empty, check=True)


class Drop(enum.Enum):
    """How a node drops what it forwards by policy: by either iptables, or by a table of its own."""

    NFT = "iptables-nft"
    INET = "nft"
    LEGACY = "iptables-legacy"

    def set(self, node: Node) -> None:
        """Have the node do so, in both families."""
        if self is Drop.INET:
            chain = "{ type filter hook forward priority 0; policy drop; }"
            text = f"add table inet own; add chain inet own routed {chain}"
            node.run("nft", text, check=True)
        else:
            self._iptables(node, "DROP")

    def clear(self, node: Node) -> None:
        """Take that away, with all that was added since."""
        if self is Drop.INET:
            node.run("nft", "delete table inet own", check=True)
        else:
            self._iptables(node, "ACCEPT")

    def _iptables(self, node: Node, policy: str) -> None:
        """Make this the policy of a FORWARD without rules."""
        text = f"*filter\n:FORWARD {policy} [0:0]\nCOMMIT\n"
        for command in (self.value, self.value.replace("ip", "ip6", 1)):
            node.run(f"{command}-restore", input=text, check=True)


def set_sysctl(host: Host, name: str, value: str) -> None:
    """Write a sysctl of a host's network namespace; `name` is a path below /proc/sys."""
    host.run("tee", Path("/proc/sys", name), input=value, check=True)


def get_sysctl(host: Host, name: str) -> str:
    """Read a sysctl of a host's network namespace; `name` is a path below /proc/sys."""
    return str(host.run("cat", Path("/proc/sys", name), check=True).stdout).strip()
