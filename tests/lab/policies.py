# SPDX-License-Identifier: Apache-2.0
"""Network policies on pod addresses, as CNI plugins enforce them in a node's netfilter."""

from __future__ import annotations

import enum
from typing import NamedTuple

from tests.lab.hosts import Node


class Side(enum.Enum):
    """Which end a policy isolates: the value is how iptables names its address."""

    EGRESS = "-s"
    INGRESS = "-d"


class Policy(NamedTuple):
    """What a node thinks of new connections from `source` to `destination`.

    They are refused; or, with a side that is isolated, are all that its pod may have.
    """

    source: str
    destination: str
    isolated: Side | None = None

    @property
    def refused(self) -> tuple[tuple[str, str], ...]:
        """Which addresses what is refused has, each with its iptables option."""
        both = ((Side.EGRESS.value, self.source), (Side.INGRESS.value, self.destination))
        if self.isolated is None:
            return both
        return tuple(each for each in both if each[0] == self.isolated.value)


class Form(enum.Enum):
    """Who enforces policies, and how; the value is what a client is told of a refusal."""

    # as kube-router does: a pod's chain in FORWARD and OUTPUT, which rejects
    IPTABLES = "ECONNREFUSED"
    # as kube-network-policies does: a table of its own, before netfilter's source NAT
    NFTABLES = "TIMEOUT"

    def set(self, node: Node, family: int, policy: Policy) -> None:
        """Have a node enforce this policy and no other."""
        if self is Form.IPTABLES:
            command = {4: "iptables-restore", 6: "ip6tables-restore"}[family]
            node.run(command, "--noflush", input=_iptables(policy), check=True)
        else:
            node.run("nft", "-f", "-", input=_nftables(family, policy), check=True)

    def clear(self, node: Node) -> None:
        """Take all policies of a node away."""
        if self is Form.IPTABLES:
            for command in ("iptables-restore", "ip6tables-restore"):
                node.run(command, "--noflush", input=f"{_EMPTIED}-X POLICY\nCOMMIT\n", check=True)
        else:
            node.run("nft", f"{_TABLE}; delete table inet policies", check=True)


# iptables-restore empties a chain that it is told of, or makes it
_EMPTIED = "*filter\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POLICY -\n-F FORWARD\n-F OUTPUT\n"
_TABLE = "add table inet policies"


def _iptables(policy: Policy) -> str:
    """Return a policy as iptables-restore reads it."""
    pair = f"-s {policy.source} -d {policy.destination}"
    refused = f"-A POLICY {' '.join(word for each in policy.refused for word in each)}"
    rules = [
        "-A FORWARD -j POLICY",
        "-A OUTPUT -j POLICY",
        "-A POLICY -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        *([f"-A POLICY {pair} -j RETURN"] if policy.isolated else []),
        # a SYN's ICMP error would come while connect() holds the socket, and be lost on it
        f"{refused} -p tcp -j REJECT --reject-with tcp-reset",
        f"{refused} -j REJECT",
    ]
    return _EMPTIED + "\n".join(rules) + "\nCOMMIT\n"


def _nftables(family: int, policy: Policy) -> str:
    """Return a policy as nft reads it, in place of what was there."""
    ip = {4: "ip", 6: "ip6"}[family]
    names = {Side.EGRESS.value: f"{ip} saddr", Side.INGRESS.value: f"{ip} daddr"}
    refused = " ".join(f"{names[option]} {address}" for option, address in policy.refused)
    pair = f"{ip} saddr {policy.source} {ip} daddr {policy.destination} accept"
    return f"""{_TABLE}
delete table inet policies
table inet policies {{
    chain enforced {{
        type filter hook postrouting priority srcnat - 5; policy accept;
        ct state established,related accept
        {pair if policy.isolated else ""}
        {refused} drop
    }}
}}
"""
