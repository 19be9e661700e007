# SPDX-License-Identifier: Apache-2.0
"""Durations are read as Go reads them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyproxy.kube.durations import parse_duration, whole_seconds

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
MOST = 2**63 - 1


def as_go_writes(nanoseconds: int) -> str:
    """Return what Duration.String() of Go makes of nanoseconds, and so Kubernetes' own files."""
    sign, size = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if size == 0:
        return "0s"
    for unit, power in (("ns", 0), ("µs", 3), ("ms", 6)):
        if size < 10 ** (power + 3):
            return sign + decimal(size, power) + unit
    rest = decimal(size % MINUTE, 9) + "s"
    if size < MINUTE:
        return sign + rest
    minutes = f"{size // MINUTE % 60}m{rest}"
    return f"{sign}{size // HOUR}h{minutes}" if size >= HOUR else sign + minutes


def decimal(value: int, power: int) -> str:
    """Return value / 10^power without needless digits."""
    whole, below = divmod(value, 10**power)
    digits = str(below).rjust(power, "0").rstrip("0") if below else ""
    return f"{whole}.{digits}" if digits else str(whole)


@given(st.integers(-MOST, MOST))
@example(MOST)
@example(1)
def test_what_kubernetes_writes_is_read_back(nanoseconds: int) -> None:
    """Every duration there is, to the nanosecond."""
    assert parse_duration(as_go_writes(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0s", 0),
        ("10s", 10 * SECOND),
        ("1m30s", 90 * SECOND),
        ("30s1m", 90 * SECOND),
        ("24h0m0s", 24 * HOUR),
        ("1.5h", 90 * MINUTE),
        ("1.h", HOUR),
        (".5s", SECOND // 2),
        ("+1s", SECOND),
        ("-1m1s", -61 * SECOND),
        ("1ms1us1µs1μs1ns", 1_003_001),
        ("0.9999999999s", 999_999_999),
        ("0." + "0" * 5000 + "1s", 0),
        ("0" * 5000 + "7s", 7 * SECOND),
    ],
)
def test_go_reads_it(text: str, nanoseconds: int) -> None:
    """Parts in any order, fractions cut off below a nanosecond."""
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    "text",
    [
        "", "-", "1", "00", "s", ".s", "1 s", "1s ", " 1s", "1d", "1S", "1,5s", "1e3s", "--1s",
        "1s-1s", "\u0661s", "1s\n", "2562048h", "9223372036.854775808s", "9" * 5000 + "s",
        "1" * 100_000,
    ],
)  # fmt: skip
def test_go_does_not(text: str) -> None:
    """No unit, blanks, other digits, and what 64 bits of nanoseconds don't hold."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.text(alphabet="0159.-+ hmsnuµμ", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """By the grammar: a sign, then numbers with their units."""
    number = r"(\d+\.?\d*|\.\d+)"
    is_duration = re.fullmatch(rf"[-+]?(0|({number}(h|m|s|ms|us|µs|μs|ns))+)", text)
    try:
        parse_duration(text)
    except ValueError:
        assert not is_duration or len(text) >= 8  # else it is none, or too long a time
    else:
        assert is_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1ns", 1), ("1s", 1), ("1s1ns", 2), ("0s", 0), ("1m30s", 90), ("24h", 86_400)],
)
def test_seconds_are_rounded_up(text: str, seconds: int) -> None:
    """Nothing is forgotten sooner than was asked, and no time is not some time."""
    assert whole_seconds(text) == seconds
