# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors as the Kubernetes API defines them (labels and selectors)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tests.apiserver.answers import bad_request
from tests.apiserver.resources import Resource

KEY = r"(?P<key>[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?)"
EXISTS = re.compile(rf"(?P<absent>!?)\s*{KEY}")
EQUAL = re.compile(rf"{KEY}\s*(?P<operator>==|=|!=)\s*(?P<value>[A-Za-z0-9._-]*)")
AMONG = re.compile(rf"{KEY}\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
# Commas that do not stand in the parentheses of in (a,b).
COMMA = re.compile(r",(?![^(]*\))")


class Requirement(NamedTuple):
    """A key whose value must be (or, `wanted` False, must not be) among `values`.

    `values` None stands for any value; "must not be among" holds for an absent key too.
    """

    key: str
    values: frozenset[str] | None
    wanted: bool

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Say whether labels or fields meet it."""
        value = attributes.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found == self.wanted


class Selector(NamedTuple):
    """What of a resource is wanted; requirements are all to be met."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()
    namespace: str = ""

    def matches(self, namespace: str, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
        """Say whether an object with these attributes is wanted."""
        if self.namespace and namespace != self.namespace:
            return False
        return all(one.holds(labels) for one in self.labels) and all(
            one.holds(fields) for one in self.fields
        )

    @property
    def filters(self) -> bool:
        """Whether labels or fields are asked for (lists then don't count what remains)."""
        return bool(self.labels or self.fields)


def parse_selector(resource: Resource, namespace: str, query: Mapping[str, str]) -> Selector:
    """Return the selector of a request's query; ApiError (400) where it can't be read."""
    labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
    return Selector(
        tuple(_label_requirement(one, labels) for one in _split(labels)),
        tuple(_field_requirement(one, resource, query) for one in _split(fields)),
        namespace,
    )


def _split(text: str) -> list[str]:
    return [part.strip() for part in COMMA.split(text)] if text.strip() else []


def _label_requirement(text: str, whole: str) -> Requirement:
    if found := AMONG.fullmatch(text):
        values = frozenset(value.strip() for value in found["values"].split(","))
        return Requirement(found["key"], values, found["operator"] == "in")
    if found := EXISTS.fullmatch(text):
        return Requirement(found["key"], None, not found["absent"])
    if found := EQUAL.fullmatch(text):
        return _equality(found)
    raise bad_request(f"unable to parse requirement: found '{text}' in '{whole}'")


def _field_requirement(text: str, resource: Resource, query: Mapping[str, str]) -> Requirement:
    found = re.fullmatch(r"(?P<key>[\w.]+)(?P<operator>==|=|!=)(?P<value>[^=!]*)", text)
    if not found:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{text}'")
    if found["key"] not in resource.fields:
        raise bad_request(
            f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match'
            f' label selector "{query.get("labelSelector", "")}", field selector'
            f' "{query["fieldSelector"]}": field label not supported: {found["key"]}'
        )
    return _equality(found)


def _equality(found: re.Match[str]) -> Requirement:
    return Requirement(found["key"], frozenset({found["value"]}), found["operator"] != "!=")
