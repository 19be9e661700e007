# SPDX-License-Identifier: Apache-2.0
"""Changes of nftables' tables, several in one step, by netlink: no `nft` is needed.

Numbers are those of include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from pyproxy.kernel.netlink import NLM_F_ACK, NLM_F_REQUEST, Request, attribute, batch
from pyproxy.kernel.nftables import NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES, number_of

# include/uapi/linux/netfilter/nfnetlink.h
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE = 0, 2, 3, 6
NLM_F_CREATE, NLM_F_APPEND = 0x400, 0x800
NF_INET_POST_ROUTING, NF_IP_PRI_NAT_SRC = 4, 100

TABLE = "pyproxy"
CHAIN = "conntrack"

_HEAD = struct.Struct("=BBH")  # struct nfgenmsg


class Change(NamedTuple):
    """A step of a batch: what is made or deleted, in which family, by which attributes."""

    kind: int
    flags: int
    family: str
    attributes: bytes


def delete_table(family: str, name: str) -> Change:
    """Return what deletes a table with all that is in it."""
    return Change(NFT_MSG_DELTABLE, 0, family, _text(1, name))


def holding_table(family: str) -> list[Change]:
    """Return what makes our table, which keeps connections tracked and translated.

    The kernel does neither from when the last chain that translates, and the last rule that asks
    for a connection's state, are gone. Its chain sees what begins a connection alone.
    """
    hook = _number(1, NF_INET_POST_ROUTING) + _number(2, NF_IP_PRI_NAT_SRC)
    chain = _text(1, TABLE) + _text(3, CHAIN) + attribute(4, hook) + _text(7, "nat")
    # `ct state` into a register, of which nothing is made
    state = _text(1, "ct") + attribute(2, _number(1, 1) + _number(2, 0))
    rule = _text(1, TABLE) + _text(2, CHAIN) + attribute(4, attribute(1, state))
    return [
        # there may be one already, but for the kernel it has to be there to be deleted
        *unhold(family),
        Change(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, _text(1, TABLE)),
        Change(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, chain),
        Change(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, rule),
    ]


def unhold(family: str) -> list[Change]:
    """Return what takes our table away, whether it is there or not."""
    return [
        Change(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, _text(1, TABLE)),
        delete_table(family, TABLE),
    ]


def apply(changes: Iterable[Change]) -> None:
    """Make all changes or none; raises OSError."""
    # the subsystem is in the order of the network here
    bound = _HEAD.pack(socket.AF_UNSPEC, 0, socket.htons(NFNL_SUBSYS_NFTABLES))
    steps = [
        Request(
            NFNL_SUBSYS_NFTABLES << 8 | each.kind,
            NLM_F_REQUEST | NLM_F_ACK | each.flags,
            _HEAD.pack(number_of(each.family), 0, 0) + each.attributes,
        )
        for each in changes
    ]
    begin = Request(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, bound)
    end = Request(NFNL_MSG_BATCH_END, NLM_F_REQUEST, bound)
    batch(NETLINK_NETFILTER, [begin, *steps, end])


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    """Return a 32-bit attribute, in network order as nf_tables has them."""
    return attribute(kind, struct.pack("!I", number))
