# SPDX-License-Identifier: Apache-2.0
"""YAML as kubectl reads it: plain objects as JSON has them, built from libyaml's events.

PyYAML's own loaders follow YAML 1.1 to the letter, which breaks valid manifests: an unquoted
creationTimestamp becomes a date and the address 1:2:3:4:5:6:7:8 a number in base 60. They also
resolve every scalar by a list of regular expressions (two thirds of their time), build what
aliases ask for without a limit and crash on deep nesting. What a word means here is what
go-yaml v2, under sigs.k8s.io/yaml, makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)

Pairs: TypeAlias = list[tuple[str, Any]]

MAX_DEPTH = 200
MAX_ALIASED_VALUES = 100_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_NUMBER_STARTS = frozenset("0123456789+-.")
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"), False),
}


def merged(pairs: Pairs) -> dict[str, Any]:
    """Return a mapping of the pairs: the last of equal keys counts, "<<" fills in what lacks."""
    found = dict(pairs)
    if "<<" not in found:
        return found
    base = found.pop("<<")
    sources = base if isinstance(base, list) else [base]
    if not all(isinstance(source, dict) for source in sources):
        raise ValueError("<< takes mappings")
    filled: dict[str, Any] = {}
    for source in reversed(sources):
        filled.update(source)
    return {**filled, **found}


def load_document(
    text: bytes | str, mapping: Callable[[Pairs], Any] = merged, first_line: int = 1
) -> Any:
    """Return the one document of a text, None for an empty text; `mapping` builds mappings.

    `first_line` is the text's line in its file. Raises ValueError ("line 3: why") for what is
    not YAML, for a second document, and beyond MAX_DEPTH levels or MAX_ALIASED_VALUES.
    """
    loader: Any = None
    try:
        loader = _LOADER(text)
        return _Builder(loader.get_event, mapping).only_document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise ValueError(f"line {first_line + (mark.line if mark else 0)}: {reason}") from None
    finally:
        if loader is not None:
            loader.dispose()


def plain_value(text: str) -> Any:
    """Return what an unquoted word means: null, a boolean, a number or the word itself."""
    if text in _WORDS:
        return _WORDS[text]
    # The length keeps hostile digits away from int(), which takes quadratic time.
    if text[0] not in _NUMBER_STARTS or len(text) > 64:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text.replace("_", ""))
    return float(text.replace("_", "")) if _FLOAT.fullmatch(text) else text


def _integer(text: str) -> int | str:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    octal = len(digits) > 1 and digits[0] == "0" and digits[1].isdecimal()
    try:
        return sign * int(digits, 8 if octal else 0)
    except ValueError:
        return text


class _Builder:
    """Turns the events of one document into plain objects."""

    def __init__(self, next_event: Callable[[], Any], mapping: Callable[[Pairs], Any]) -> None:
        self._next = next_event
        self._mapping = mapping
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self._aliased = 0

    def only_document(self) -> Any:
        self._next()  # the start of the stream
        event = self._next()
        if type(event) is StreamEndEvent:
            return None
        found = self._value(self._next(), 0)
        self._next()  # the end of the document
        event = self._next()
        if type(event) is DocumentStartEvent:
            raise _problem("a second document begins here: put --- before it", event)
        return found

    def _value(self, event: Any, depth: int) -> Any:
        kind = type(event)
        if kind is AliasEvent:
            return self._alias(event)
        if depth > MAX_DEPTH:
            raise _problem(f"nested more than {MAX_DEPTH} levels deep", event)
        before = self._values
        self._values += 1
        if kind is ScalarEvent:
            found = _scalar(event)
        elif kind is MappingStartEvent:
            found = self._pairs(event, depth + 1)
        else:
            found = self._sequence(depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = (found, self._values - before)
        return found

    def _sequence(self, depth: int) -> list[Any]:
        found = []
        while type(event := self._next()) is not SequenceEndEvent:
            found.append(self._value(event, depth))
        return found

    def _pairs(self, start: Any, depth: int) -> Any:
        found: Pairs = []
        while type(event := self._next()) is not MappingEndEvent:
            if type(event) is not ScalarEvent:
                raise _problem("a key is not a word", event)
            found.append((event.value, self._value(self._next(), depth)))
        try:
            return self._mapping(found)
        except ValueError as error:
            raise _problem(str(error), start) from None

    def _alias(self, event: Any) -> Any:
        """Return the value of an anchor; what all aliases would unfold to is bounded."""
        if event.anchor not in self._anchors:
            raise _problem(f"the anchor of *{event.anchor} does not come before it", event)
        found, values = self._anchors[event.anchor]
        self._values += values
        self._aliased += values
        if self._aliased > MAX_ALIASED_VALUES:
            raise _problem(f"aliases unfold to more than {MAX_ALIASED_VALUES} values", event)
        return found


def _scalar(event: Any) -> Any:
    tag = event.tag
    if tag is None:
        return plain_value(event.value) if event.implicit[0] else event.value
    if tag in ("!", _TAG + "str"):
        return event.value
    if tag in (_TAG + "int", _TAG + "bool", _TAG + "float", _TAG + "null"):
        return plain_value(event.value)
    raise _problem(f"the tag {tag.replace(_TAG, '!!')} has no meaning in an object", event)


def _problem(text: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=event.start_mark)
