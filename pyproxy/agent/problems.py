# SPDX-License-Identifier: Apache-2.0
"""What is wrong, in the words of `pyproxy status`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong: a code for programs, a message and a remedy for people."""

    code: str
    message: str
    remedy: str


def malformed(source: str, message: str) -> Problem:
    """An object or file cannot be used; its last good version stays in force."""
    return Problem("malformed", f"{source}: {message}", "correct it; the rest works meanwhile")


def unreadable(source: str, message: str, since: float) -> Problem:
    """Objects cannot be read; what was read before stays in force. `since` is in epoch seconds."""
    when = datetime.fromtimestamp(since, UTC).isoformat(timespec="seconds")
    return Problem(
        "source-unreadable",
        f"{source} since {when.replace('+00:00', 'Z')}: {message}",
        "nothing programmed is lost, and it is tried again by itself; mend what is named",
    )


def config_invalid(message: str) -> Problem:
    """A changed configuration cannot be used; the one before stays in force."""
    return Problem(
        "config-invalid",
        f"the configuration stays as it was, since its files cannot be used: {message}",
        "correct what is named; 'pyproxy check --config FILE' tells whether it is right",
    )


def no_pod_cidrs(node: str) -> Problem:
    """Pods are to be recognised by podCIDRs (NodeCIDR), and the Node has none."""
    return Problem(
        "no-pod-cidrs",
        f"detectLocalMode is NodeCIDR, and the Node {node} has no podCIDRs: pods of this node are"
        " not told from other clients",
        "let the cluster give it podCIDRs (kube-controller-manager's --allocate-node-cidrs), or "
        "choose another detectLocalMode; they are taken up when they come",
    )


def refused(name: str, reason: str) -> Problem:
    """A service port does not fit into the maps."""
    return Problem(
        "map-full",
        f"service port {name} is not programmed: {reason}",
        "remove services or endpoints; it is tried again as soon as there is room",
    )


def kept(name: str) -> Problem:
    """A service port of an earlier agent may be in what cannot be read."""
    return Problem(
        "kept",
        f"service port {name} is kept as it was before the agent started: it may stand in what is "
        "malformed",
        "correct what is named; then it is updated or removed",
    )


def not_served(name: str, ports: str) -> Problem:
    """SCTP would have to change its port; its checksum cannot be made anew."""
    return Problem(
        "not-served",
        f"service port {name} is not served by {ports}: SCTP cannot change its port",
        "give the Service the endpoints' own port; nodePorts of SCTP are served where the "
        "endpoints have that very port",
    )


def conflict(address: str, winner: str, losers: str) -> Problem:
    """Several service ports claim one frontend."""
    return Problem(
        "frontend-claimed-twice",
        f"{address} belongs to {winner}, the oldest that claims it; {losers} go without",
        "give each service an address and port of its own",
    )


def not_reserved(message: str) -> Problem:
    """Sockets may get ports by themselves that services have."""
    return Problem(
        "ports-not-reserved",
        f"ports of services cannot be reserved: {message}",
        "let the agent write net.ipv4.ip_local_reserved_ports, or reserve them yourself",
    )


def not_accepted(family: str, message: str) -> Problem:
    """Our rules in netfilter's FORWARD cannot be written, or not removed."""
    return Problem(
        "forward-not-accepted",
        f"{family}: the rules of forwardAccept cannot be written: {message}",
        "install the node's iptables or mend what is named; or leave forwardAccept out, and accept "
        "by rules of your own what is forwarded",
    )


def sync_failed(family: str, message: str) -> Problem:
    """Writing the maps failed; what was written before works on."""
    return Problem(
        "sync-failed",
        f"{family}: {message}",
        "it is tried again by itself; look at the agent's log if it stays",
    )


def not_known(message: str) -> Problem:
    """What the programs know of devices, addresses or routes is not as it is now."""
    return Problem(
        "not-known",
        f"devices, addresses and routes: {message}",
        "mend what is named: until then packets are translated by what was known before",
    )


def not_attached(message: str) -> Problem:
    """A program could not be attached to a device."""
    return Problem(
        "not-attached",
        f"no programs on {message}",
        "mend what is named, or leave the device out with --devices: packets to services that "
        "come by it are not translated",
    )


def healthz_not_served(message: str) -> Problem:
    """Nobody can ask for this node's health; all else is served."""
    return Problem(
        "healthz-not-served", message, "free the address or give another; it is tried every 5 s"
    )


def metrics_not_served(message: str) -> Problem:
    """Nobody can scrape this node; all else is served."""
    return Problem(
        "metrics-not-served", message, "free the address or give another; it is tried every 5 s"
    )


def check_not_served(message: str) -> Problem:
    """A load balancer that asks for a service's health is not answered: it leaves this node out."""
    return Problem(
        "health-check-not-served",
        message,
        "free the address; it is tried again once a syncPeriod",
    )
