# SPDX-License-Identifier: Apache-2.0
"""What a field of a configuration file may hold: types of values, with their name in messages."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from pyproxy.kube.durations import parse_duration, whole_seconds
from pyproxy.kube.yamltext import Pairs

LONGEST_TIMEOUT_S = 365 * 86_400
"""The longest timeout of a connection: the programs count time in ticks of 2^24 ns, 32 bits of
them (TICK_SHIFT in bpf/types.h), and tell past from future up to 417 days."""

_QUANTITY = re.compile(
    r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]+)?"
)
# What no name of a device has, and the comma that separates names in --devices.
_NO_DEVICE = re.compile(r"[\s/,]")


class FieldType(NamedTuple):
    """A type of values: its name in messages, and the test for it."""

    name: str
    fits: Callable[[Any], bool]


class Block(NamedTuple):
    """A mapping with further fields, written down by their whole path."""

    pairs: Pairs


def one_of(*words: str) -> FieldType:
    """Return the type of a field that takes one of some words."""
    return FieldType(
        " or ".join(filter(None, words)), lambda value: _is_string(value) and value in words
    )


def integer_from(least: int, most: int) -> FieldType:
    """Return the type of integers within bounds."""
    return FieldType(
        f"an integer from {least} to {most}",
        lambda value: _is_int(value) and least <= value <= most,
    )


def is_block(value: Any) -> bool:
    """Tell whether a value is a mapping."""
    return isinstance(value, Block)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not _is_bool(value)


def _is_int32(value: Any) -> bool:
    return _is_int(value) and -(2**31) <= value < 2**31


def _is_count(value: Any) -> bool:
    return _is_int32(value) and value >= 0


def _is_flush_frequency(value: Any) -> bool:
    """Tell a duration, or the number of nanoseconds that it was before Kubernetes 1.28."""
    return _is_duration(value) or _is_int(value)


def _is_number(value: Any) -> bool:
    # JSON has no others
    return isinstance(value, int | float) and not _is_bool(value) and math.isfinite(value)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_string, value))


def _is_duration(value: Any) -> bool:
    try:
        return _is_string(value) and isinstance(parse_duration(value), int)
    except ValueError:
        return False


def _is_span(value: Any) -> bool:
    return _is_duration(value) and parse_duration(value) >= 0


def _is_timeout(value: Any) -> bool:
    return _is_duration(value) and 0 < whole_seconds(value) <= LONGEST_TIMEOUT_S


def _is_quantity(value: Any) -> bool:
    if _is_string(value):
        return _QUANTITY.fullmatch(value) is not None
    return _is_number(value)


def _is_flags(value: Any) -> bool:
    return is_block(value) and all(_is_bool(flag) for _, flag in value.pairs)


def _is_port_range(value: Any) -> bool:
    return _is_string(value) and bool(ports_of(value))


def ports_of(text: str) -> range:
    """Return the ports of FIRST-LAST, none if it is no such range of free ports (RFC 6335 6)."""
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        return range(0)
    found = range(int(first), int(last) + 1)
    return found if found and found[0] >= 1024 and found[-1] < 65_536 else range(0)


def _is_absolute_path(value: Any) -> bool:
    return _is_string(value) and value.startswith("/") and "\0" not in value


def _is_device_patterns(value: Any) -> bool:
    return _is_strings(value) and all(one and not _NO_DEVICE.search(one) for one in value)


STRING = FieldType("a string", _is_string)
BOOL = FieldType("true or false", _is_bool)
BIT = integer_from(0, 31)
OOM_SCORE_ADJ = integer_from(-1000, 1000)
VERBOSITY = integer_from(0, 2**31 - 1)
LOG_FORMAT = one_of("", "text", "json")
COUNT = FieldType("an integer of 32 bits, 0 or more", _is_count)
NUMBER = FieldType("a number", _is_number)
STRINGS = FieldType("a list of strings", _is_strings)
DURATION = FieldType("a duration such as 30s", _is_duration)
SPAN = FieldType("a duration of 0s or more, such as 30s", _is_span)
TIMEOUT = FieldType(
    f"a duration such as 10s, more than 0s and at most {LONGEST_TIMEOUT_S // 3600}h", _is_timeout
)
FLUSH = FieldType("a duration such as 5s", _is_flush_frequency)
QUANTITY = FieldType("a quantity such as 64Ki", _is_quantity)
FLAGS = FieldType("a mapping of names to true or false", _is_flags)
MAPPING = FieldType("a mapping", is_block)
ABSOLUTE_PATH = FieldType("an absolute path", _is_absolute_path)
PORT_RANGE = FieldType("a range of ports such as 10000-19999, from 1024 on", _is_port_range)
DEVICE_PATTERNS = FieldType("a list of device names or shell patterns", _is_device_patterns)
