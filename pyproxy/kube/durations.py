# SPDX-License-Identifier: Apache-2.0
"""Durations as Kubernetes' configurations have them: "30s", "1h30m0s", "1.5h".

Source: Go's time.ParseDuration, which metav1.Duration decodes with.
"""

from __future__ import annotations

import re

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # the micro sign, and below the Greek letter
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = r"(?:([0-9]+)(?:\.([0-9]*))?|\.([0-9]+))(ns|us|µs|μs|ms|s|m|h)"
_PARTS = re.compile(_PART)
_DURATION = re.compile(rf"([-+]?)(0|(?:{_PART})+)")
# Go counts nanoseconds in 64 bits with a sign: 292 years. More digits than that hold no more.
_MOST_NS = 2**63 - 1
_MOST_DIGITS = 20
_AFTER_POINT = 10**20


def parse_duration(text: str) -> int:
    """Return a duration in nanoseconds; raises ValueError for what is none."""
    whole = _DURATION.fullmatch(text)
    if whole is None:
        raise ValueError(f"{text!r} is no duration such as 30s")
    size = sum(_part(*part.groups()) for part in _PARTS.finditer(text))
    if size > _MOST_NS:
        raise ValueError(f"{text!r} is longer than any duration")
    return -size if whole[1] == "-" else size


def whole_seconds(text: str) -> int:
    """Return a duration in seconds, rounded up: what is not 0 stays more than 0.

    Raises ValueError for what is no duration.
    """
    return -(-parse_duration(text) // _UNITS["s"])


def _part(digits: str | None, fraction: str | None, only_fraction: str | None, unit: str) -> int:
    """Return one number with its unit in nanoseconds; what is below one is cut off."""
    count = (digits or "").lstrip("0")
    if len(count) > _MOST_DIGITS:
        return _MOST_NS + 1
    below = (fraction or only_fraction or "")[:_MOST_DIGITS].ljust(_MOST_DIGITS, "0")
    return int(count or 0) * _UNITS[unit] + int(below) * _UNITS[unit] // _AFTER_POINT


def format_duration(span_ns: int) -> str:
    """Return a duration of nanoseconds, 0 or more, as Go writes it: "15m0s", "1.5s", "250ms"."""
    if span_ns < _UNITS["s"]:
        unit = next((each for each in ("ms", "µs") if span_ns >= _UNITS[each]), "ns")
        return f"{_decimal(span_ns, _UNITS[unit])}{unit}" if span_ns else "0s"
    minutes, rest = divmod(span_ns, _UNITS["m"])
    seconds = f"{_decimal(rest, _UNITS['s'])}s"
    if not minutes:
        return seconds
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}"


def _decimal(count: int, unit: int) -> str:
    whole, below = divmod(count, unit)
    digits = f"{below:0{len(str(unit)) - 1}d}".rstrip("0") if below else ""
    return f"{whole}.{digits}" if digits else str(whole)
