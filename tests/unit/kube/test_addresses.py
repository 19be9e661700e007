# SPDX-License-Identifier: Apache-2.0
"""Addresses are read as Kubernetes reads them (parity A1.13)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.kube.addresses import (
    parse_address,
    parse_prefix,
    valid_addresses,
    valid_prefixes,
)
from pyproxy.model import Prefix, address_text

V4 = bytes([172, 30, 0, 41])
V6 = bytes.fromhex("20010db8000000000000000000000001")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("172.30.0.41", V4),
        ("172.30.0.041", V4),
        ("0172.030.000.0000041", V4),
        ("::ffff:172.30.0.41", V4),
        ("::ffff:172.030.0.041", V4),
        ("::ffff:ac1e:29", V4),
        ("2001:db8::1", V6),
        ("2001:0DB8::00001", V6),
        ("2001:db8:0:0:0:0:0:000001", V6),
        ("::", bytes(16)),
        ("::00.0.0.01", bytes(15) + b"\x01"),
    ],
)
def test_address_is_read_as_decimal(text: str, expected: bytes) -> None:
    """Leading zeros are decimal and a mapped address is the IPv4 address."""
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "None", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.-4", "1.2.3.4 ", " 1.2.3.4"),
        *("1.2.3.4/32", "1.2.3.4%eth0", "fe80::1%eth0", "2001:db8::1::", "12345::", "1:2:3:4:5"),
        *("1.2.3.\u0664", "1.2.3.4\0", ":", "::1.2.3", "::1.2.3.256", "1.2.3.4:80", "[::1]"),
        *("0x1.2.3.4", "1:2:3:4:5:6:7:8:9", "::g"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Anything else raises ValueError, whatever the C library thinks of it."""
    with pytest.raises(ValueError, match="is not an IP address"):
        parse_address(text)


@given(st.ip_addresses(), st.lists(st.integers(0, 5), min_size=8, max_size=8))
def test_any_address_survives_any_number_of_leading_zeros(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, zeros: list[int]
) -> None:
    """Zeros before a group change nothing; the standard library agrees on the value."""
    separator = "." if address.version == 4 else ":"
    groups = address.exploded.split(separator)
    text = separator.join("0" * n + group for n, group in zip(zeros, groups, strict=False))
    mapped = getattr(address, "ipv4_mapped", None)
    assert parse_address(text) == (mapped or address).packed


@given(st.text(alphabet="0123456789abcdefx:./% []", max_size=24) | st.text(max_size=12))
def test_no_text_gives_another_error(text: str) -> None:
    """A text is an address of 4 or 16 bytes or a ValueError, never anything else."""
    try:
        assert len(parse_address(text)) in (4, 16)
    except ValueError:
        assert valid_addresses([text]) == ()
    assert len(valid_prefixes([text])) <= 1


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6, network="2001::/16"), st.integers(0, 128))
def test_prefix_agrees_with_the_standard_library(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    """Host bits are cleared as ipaddress clears them."""
    length %= address.max_prefixlen + 1
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    expected = Prefix(network.network_address.packed, length)
    assert parse_prefix(f" {address}/0{length}\t") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("203.0.113.000/025", Prefix(bytes([203, 0, 113, 0]), 25)),
        (" 10.1.2.3/8 ", Prefix(bytes([10, 0, 0, 0]), 8)),
        ("0.0.0.0/0", Prefix(bytes(4), 0)),
        ("::ffff:10.1.2.3/104", Prefix(bytes([10, 0, 0, 0]), 8)),
        ("::ffff:10.1.2.3/80", Prefix(bytes(16), 80)),
        ("2001:db8::1/32", Prefix(V6[:4] + bytes(12), 32)),
    ],
)
def test_prefix(text: str, expected: Prefix) -> None:
    """A CIDR is trimmed, its zeros are decimal and its host bits are cleared."""
    assert parse_prefix(text) == expected


@pytest.mark.parametrize(
    "text", ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8"]
)
def test_what_is_no_prefix_is_refused(text: str) -> None:
    """A CIDR needs an address and a length that fits it."""
    with pytest.raises(ValueError, match=r"is not a|has more than"):
        parse_prefix(text)


def test_invalid_ones_are_skipped_and_doubles_dropped() -> None:
    """What does not parse is passed over in lists; order is kept."""
    assert valid_addresses(["", "x", "1.2.3.4", "1.2.3.04", "::1"]) == (
        bytes([1, 2, 3, 4]),
        bytes(15) + b"\x01",
    )
    assert valid_prefixes(["x", "10.0.0.1/8", "10.0.0.0/8"]) == (Prefix(b"\x0a\0\0\0", 8),)


@given(st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16))
def test_text_of_an_address_reads_back(packed: bytes) -> None:
    """address_text is the inverse of parse_address, but for the mapped ones."""
    mapped = packed.startswith(bytes(10) + b"\xff\xff")
    assert parse_address(address_text(packed)) == (packed[12:] if mapped else packed)
