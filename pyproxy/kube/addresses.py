# SPDX-License-Identifier: Apache-2.0
"""IP addresses and CIDRs as Kubernetes' components read them (parity A1.13).

Python's `ipaddress` refuses leading zeros, and the C library takes them for octal;
Kubernetes (k8s.io/utils/net ParseIPSloppy) has always read them as decimal.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pyproxy.model import V4_MAPPED, Address, Prefix, address_text

_DOTTED = re.compile(r"([0-9]{1,16})\.([0-9]{1,16})\.([0-9]{1,16})\.([0-9]{1,16})", re.ASCII)
_GROUP = re.compile(r"[0-9A-Fa-f]{1,16}", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,16}", re.ASCII)

_Item = TypeVar("_Item", Address, Prefix)


def parse_address(text: str) -> Address:
    """Return the 4 or 16 bytes, in network order, of an IPv4 or IPv6 address.

    Leading zeros are decimal; an IPv4-mapped IPv6 address is the IPv4 address, as it is to
    kube-proxy. Blanks and zones are not taken. Raises ValueError.
    """
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text)
    except (OSError, ValueError):
        packed = _parse_sloppy(text)
    return packed[12:] if packed.startswith(V4_MAPPED) else packed


def parse_prefix(text: str) -> Prefix:
    """Return a CIDR with its host bits cleared; blanks around it are trimmed.

    A CIDR inside ::ffff:0:0/96 is the IPv4 one that it maps. Raises ValueError.
    """
    host, slash, length_text = text.strip().partition("/")
    if not slash or not _LENGTH.fullmatch(length_text):
        raise ValueError(f"{text!r} is not a CIDR")
    address, length = parse_address(host), int(length_text)
    if len(address) == 4 and ":" in host:
        if length < 96:
            address = V4_MAPPED + address
        else:
            length -= 96
    if length > len(address) * 8:
        raise ValueError(f"{text!r} has more than {len(address) * 8} bits")
    return Prefix(_clear_host_bits(address, length), length)


def valid_addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    """Return the addresses that parse, each once, in their order; the others are skipped."""
    return _distinct(_try(parse_address, texts))


def valid_prefixes(texts: Iterable[str]) -> tuple[Prefix, ...]:
    """Return the CIDRs that parse, each once, in their order; the others are skipped."""
    return _distinct(_try(parse_prefix, texts))


def _try(parse: Callable[[str], _Item], texts: Iterable[str]) -> Iterator[_Item]:
    for text in texts:
        try:
            yield parse(text)
        except ValueError:
            continue


def _distinct(items: Iterable[_Item]) -> tuple[_Item, ...]:
    return tuple(dict.fromkeys(items))


def _clear_host_bits(address: Address, length: int) -> Address:
    bits = len(address) * 8
    number = int.from_bytes(address, "big") >> (bits - length) << (bits - length)
    return number.to_bytes(len(address), "big")


def _parse_sloppy(text: str) -> Address:
    return _sloppy_v6(text) if ":" in text else _sloppy_v4(text)


def _sloppy_v4(text: str) -> Address:
    match = _DOTTED.fullmatch(text)
    octets = [int(octet) for octet in match.groups()] if match else []
    if not octets or max(octets) > 255:
        raise ValueError(f"{text!r} is not an IP address")
    return bytes(octets)


def _sloppy_v6(text: str) -> Address:
    """Write every group and the dotted tail without leading zeros; then it is a usual address."""
    head, colon, tail = text.rpartition(":")
    tail = address_text(_sloppy_v4(tail)) if "." in tail else _shorten_groups(tail)
    try:
        return socket.inet_pton(socket.AF_INET6, _shorten_groups(head) + colon + tail)
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IP address") from None


def _shorten_groups(text: str) -> str:
    return _GROUP.sub(lambda group: group[0].lstrip("0") or "0", text)
