# SPDX-License-Identifier: Apache-2.0
"""Chains and rules of nftables, iptables-nft's among them, as the kernel tells: no `nft` is needed.

Only what is asked of them here; the shape of rules is libnftnl's matter.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from pyproxy.kernel.netlink import NLM_F_ACK, NLM_F_DUMP, ask, attribute, attributes_of

NETLINK_NETFILTER = 12  # include/uapi/linux/netlink.h
NFNL_SUBSYS_NFTABLES = 10  # include/uapi/linux/netfilter/nfnetlink.h
# include/uapi/linux/netfilter/nf_tables.h
NFT_MSG_GETCHAIN, NFT_MSG_GETRULE = 4, 7
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 1, 3, 4, 5
NFTA_HOOK_HOOKNUM, NFTA_HOOK_DEV, NFTA_HOOK_DEVS = 1, 3, 4
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS = 1, 2, 4
# include/uapi/linux/netfilter.h
NF_INET_FORWARD, NF_INET_INGRESS, NF_DROP = 2, 5, 0
NFPROTO_INET, NFPROTO_NETDEV = 1, 5

INET = "inet"
WORDS = {1: INET, 2: "ip", 10: "ip6"}
"""What `nft` calls the families whose hooks see IP packets: enum nfproto."""

# a kernel without nfnetlink, or without nf_tables (nfnetlink_rcv_msg)
_ABSENT = {errno.EPROTONOSUPPORT, errno.EINVAL}

_HEAD = struct.Struct("=BBH")  # struct nfgenmsg


class Chain(NamedTuple):
    """A chain; `family` is `nft`'s word.

    `forwards`: it stands at hook forward; `drops`: and what passes it is dropped.
    """

    family: str
    table: str
    name: str
    forwards: bool = False
    drops: bool = False


def chains() -> list[Chain]:
    """Return the chains of IP's families in this network namespace; raises OSError."""
    return _chains(NLM_F_DUMP, _HEAD.pack(0, 0, 0))


def chained_devices() -> set[str]:
    """Return the devices, by name, that have chains of their own; raises OSError.

    Those see packets before IP does, or after it.
    """
    found = set()
    for number, attributes in _chain_answers(NLM_F_DUMP, _HEAD.pack(0, 0, 0)):
        hook = dict(attributes_of(attributes.get(NFTA_CHAIN_HOOK, b"")))
        is_ingress = _number(hook.get(NFTA_HOOK_HOOKNUM, b"")) == NF_INET_INGRESS
        if number != NFPROTO_NETDEV and not (number == NFPROTO_INET and is_ingress):
            continue
        names = [name for _, name in attributes_of(hook.get(NFTA_HOOK_DEVS, b""))]
        found |= {_text(name) for name in (*names, hook.get(NFTA_HOOK_DEV, b"")) if name}
    return found


def chain(family: str, table: str, name: str) -> Chain | None:
    """Return one of them, None where there is none; raises OSError. A node may have thousands."""
    wanted = _attribute(NFTA_CHAIN_TABLE, table) + _attribute(NFTA_CHAIN_NAME, name)
    try:
        found = _chains(NLM_F_ACK, _HEAD.pack(number_of(family), 0, 0) + wanted)
    except FileNotFoundError:
        return None
    return found[0] if found else None


def rules(of: Chain) -> list[bytes]:
    """Return the expressions of a chain's rules as the kernel has them; raises OSError."""
    head = _HEAD.pack(number_of(of.family), 0, 0)
    wanted = _attribute(NFTA_RULE_TABLE, of.table) + _attribute(NFTA_RULE_CHAIN, of.name)
    return [
        attributes.get(NFTA_RULE_EXPRESSIONS, b"")
        for _, attributes in _ask(NFT_MSG_GETRULE, NLM_F_DUMP, head + wanted)
    ]


def number_of(word: str) -> int:
    """Return the kernel's number of a family that `nft` calls so."""
    return next(number for number, each in WORDS.items() if each == word)


def _chains(flags: int, body: bytes) -> list[Chain]:
    answers = _chain_answers(flags, body)
    return [_read(WORDS[number], found) for number, found in answers if number in WORDS]


def _chain_answers(flags: int, body: bytes) -> list[tuple[int, dict[int, bytes]]]:
    try:
        return _ask(NFT_MSG_GETCHAIN, flags, body)
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise


def _read(family: str, attributes: dict[int, bytes]) -> Chain:
    hook = dict(attributes_of(attributes.get(NFTA_CHAIN_HOOK, b"")))
    forwards = _number(hook.get(NFTA_HOOK_HOOKNUM, b"")) == NF_INET_FORWARD
    return Chain(
        family,
        _text(attributes[NFTA_CHAIN_TABLE]),
        _text(attributes[NFTA_CHAIN_NAME]),
        forwards,
        forwards and _number(attributes.get(NFTA_CHAIN_POLICY, b"")) == NF_DROP,
    )


def _ask(kind: int, flags: int, body: bytes) -> list[tuple[int, dict[int, bytes]]]:
    """Return the family of each answer, and its attributes."""
    return [
        (answer[0], dict(attributes_of(answer[_HEAD.size :])))
        for answer in ask(NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES << 8 | kind, flags, body)
    ]


def _attribute(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "replace")


def _number(raw: bytes) -> int | None:
    """Return a 32-bit attribute, which is in network order here; None where there is none."""
    return socket.ntohl(int(struct.unpack("=I", raw)[0])) if len(raw) == 4 else None
