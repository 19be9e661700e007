# SPDX-License-Identifier: Apache-2.0
"""Tables of legacy iptables, read as `iptables-save` does but never brought into being.

Asking for a table that is not there loads it, and from then on every packet passes its hooks; so
/proc is asked first (iptables itself does not).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from pyproxy.kernel.addresses import PROC_NET
from pyproxy.model import Family

FILTER = "filter"
# include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h
SO_GET_INFO, SO_GET_ENTRIES = 64, 65
NAMES = {
    Family.IPV4: PROC_NET / "ip_tables_names",
    Family.IPV6: PROC_NET / "ip6_tables_names",
}
NF_INET_FORWARD = 2  # include/uapi/linux/netfilter.h
DROP = -1  # -NF_DROP - 1: the verdict of a standard target

_INFO = struct.Struct("=32sI5I5III")  # struct ipt_getinfo
_ENTRIES = struct.Struct("=32sI4x")  # struct ipt_get_entries, up to its entries
# of struct ipt_entry and ip6t_entry: where target_offset and next_offset are
_OFFSETS = {Family.IPV4: 88, Family.IPV6: 140}
_TARGET = struct.Struct("=H29sB")  # struct xt_entry_target
_VERDICT = struct.Struct("=i")  # struct xt_standard_target
_ERROR = struct.Struct("=30s")  # struct xt_error_target


class Entry(NamedTuple):
    """A rule, a policy or, by a target ERROR, where a chain begins; `at` is its offset.

    `verdict` is a standard target's: an offset to jump to, or less than 0. `begins` is the chain's
    name.
    """

    at: int
    verdict: int | None = None
    begins: str = ""


class Table(NamedTuple):
    """A table `filter`: its entries, and where FORWARD's first one and its policy are."""

    entries: tuple[Entry, ...]
    first: int
    policy: int

    @property
    def drops(self) -> bool:
        """Whether FORWARD's policy is DROP."""
        return any(each.at == self.policy and each.verdict == DROP for each in self.entries)

    def rules(self, chain: str) -> list[Entry] | None:
        """Return the rules of a user's chain; None: there is none."""
        rest = self._behind(chain)
        if not rest:
            return None
        end = next((number for number, each in enumerate(rest) if each.begins), len(rest))
        return list(rest[: end - 1])  # the last one returns

    def jumps(self, chain: str) -> int:
        """Return how often FORWARD jumps to a user's chain."""
        rest = self._behind(chain)
        if not rest:
            return 0
        forward = (each for each in self.entries if self.first <= each.at < self.policy)
        return sum(each.verdict == rest[0].at for each in forward)

    def _behind(self, chain: str) -> tuple[Entry, ...]:
        """Return all from a user's chain's first entry on, none where there is no such chain."""
        begins = (number for number, each in enumerate(self.entries) if each.begins == chain)
        first = next(begins, None)
        return () if first is None else self.entries[first + 1 :]


def read(family: Family) -> Table | None:
    """Return the table of this network namespace, None where there is none; raises OSError."""
    if FILTER not in names(family):
        return None
    info = _info(family, FILTER)
    hooks, underflows = info[2:7], info[7:12]
    found = tuple(_entries(family, FILTER, info[13]))
    return Table(found, hooks[NF_INET_FORWARD], underflows[NF_INET_FORWARD])


def names(family: Family) -> list[str]:
    """Return the names of the tables that there are."""
    try:
        return NAMES[family].read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []


def chains(family: Family, table: str) -> list[str]:
    """Return the names of the users' chains of a table that is there; raises OSError."""
    found = _entries(family, table, _info(family, table)[13])
    # the last one ends the table
    return [each.begins for each in found if each.begins not in {"", "ERROR"}]


def entries(raw: bytes, family: Family) -> Iterator[Entry]:
    """Give the entries as they lie one after the other (struct ipt_entry, ip6t_entry)."""
    at = 0
    while at < len(raw):
        target, size = struct.unpack_from("=HH", raw, at + _OFFSETS[family])
        _, name, _ = _TARGET.unpack_from(raw, at + target)
        payload = at + target + _TARGET.size
        match name.rstrip(b"\0"):
            case b"":
                yield Entry(at, verdict=_VERDICT.unpack_from(raw, payload)[0])
            case b"ERROR":
                (begins,) = _ERROR.unpack_from(raw, payload)
                yield Entry(at, begins=begins.partition(b"\0")[0].decode("utf-8", "replace"))
            case _:
                yield Entry(at)
        at += size


def _info(family: Family, table: str) -> tuple[Any, ...]:
    question = _INFO.pack(table.encode(), *([0] * 13))
    return _INFO.unpack(_ask(family, SO_GET_INFO, question, _INFO.size))


def _entries(family: Family, table: str, size: int) -> Iterator[Entry]:
    question = _ENTRIES.pack(table.encode(), size)
    raw = _ask(family, SO_GET_ENTRIES, question, _ENTRIES.size + size)
    return entries(raw[_ENTRIES.size :], family)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _ask(family: Family, option: int, question: bytes, size: int) -> bytes:
    """Return what getsockopt(2) makes of a question; Python's own has no room for one."""
    level, domain = socket.IPPROTO_IP, socket.AF_INET
    if family is Family.IPV6:
        level, domain = socket.IPPROTO_IPV6, socket.AF_INET6
    buffer, length = ctypes.create_string_buffer(question, size), ctypes.c_uint32(size)
    with socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        if _libc().getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    return buffer.raw
