# SPDX-License-Identifier: Apache-2.0
"""Lists by pages: limit, continue and resourceVersion as the API defines them.

Where the documentation leaves room, the API server 1.36 decides (its watch cache): with
resourceVersion=0 the limit is ignored, and a page may be empty when what remains is not selected.
"""

from __future__ import annotations

import base64
import binascii
import json
from bisect import bisect_left
from collections.abc import Mapping
from typing import NamedTuple

from tests.apiserver.answers import Answer, ApiError, bad_request, compact, invalid_option, refusal
from tests.apiserver.history import CompactedError, Entry, History
from tests.apiserver.resources import Resource
from tests.apiserver.selectors import Selector, parse_selector

TOKEN_VERSION = "meta.k8s.io/v1"  # noqa: S105 - a version, no secret
CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start"
    " a new list without the continue parameter, or use the continue token in this response to"
    " retrieve the remainder of the results. Continuing with the provided token results in an"
    " inconsistent list - objects that were created, modified, or deleted between the time the"
    " first chunk was returned and now may show up in the list."
)
LIST_EXPIRED = "The resourceVersion for the provided list is too old."


class NotReachedError(Exception):
    """The server is not at `revision` yet; the request waits, or is answered 504."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"revision {revision} is not reached yet")
        self.revision = revision


class Page(NamedTuple):
    """Which part of which state is asked for; `start` is a key, `limit` 0 stands for all."""

    revision: int
    start: str
    limit: int


def list_answer(
    history: History, resource: Resource, namespace: str, query: Mapping[str, str]
) -> Answer:
    """Answer a list; raises ApiError, and NotReachedError where waiting may help."""
    _check_options(query)
    selector = parse_selector(resource, namespace, query)
    prefix = f"/{namespace}" if namespace else ""
    page = _page(history, query, prefix)
    try:
        entries = history.at(resource, page.revision)
    except CompactedError as error:
        raise _expired(query) from error
    chosen, remaining = _choose(entries, selector, page, prefix)
    metadata = {"resourceVersion": str(page.revision)}
    extra = b""
    if remaining:
        metadata["continue"] = encode_token(page.revision, chosen[-1].key.removeprefix(prefix))
        if not selector.filters:
            extra = b',"remainingItemCount":%d' % remaining
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
    body = b'%b,"metadata":%b%b},"items":[%b]}\n' % (
        compact(head)[:-1],
        compact(metadata)[:-1],
        extra,
        b",".join([entry.encoded() for entry in chosen]),
    )
    return Answer(200, body)


def parse_revision(text: str) -> int:
    """Return a resourceVersion as a number; ApiError (400) where it is none."""
    if text and not (text.isascii() and text.isdecimal()):
        raise bad_request(
            f'resourceVersion: Invalid value: "{text}":'
            f' strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return int(text or 0)


def parse_number(query: Mapping[str, str], option: str) -> int:
    """Return an option that is a number, 0 where it is absent; ApiError (400) for other text."""
    text = query.get(option) or "0"
    if not (text.isascii() and text.isdecimal()):
        raise bad_request(f'{option}: strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def encode_token(revision: int, key: str) -> str:
    """Return the continue token for what follows `key` at `revision`."""
    text = compact({"v": TOKEN_VERSION, "rv": revision, "start": f"{key}\0"})
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode_token(token: str) -> tuple[int, str]:
    """Return revision and start of a continue token; ApiError (400) where it is none."""
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        value = json.loads(text)
        version, revision, start = value["v"], int(value["rv"]), str(value["start"])
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    if version != TOKEN_VERSION:
        raise bad_request(f"continue key is not valid: server does not recognize {version}")
    return revision, start


def _check_options(query: Mapping[str, str]) -> None:
    match, revision = query.get("resourceVersionMatch", ""), query.get("resourceVersion", "")
    option = "resourceVersionMatch"
    if match and not revision:
        raise invalid_option(option, f"{option} is forbidden unless resourceVersion is provided")
    if match and query.get("continue"):
        raise invalid_option(option, f"{option} is forbidden when continue is provided")
    if match == "Exact" and revision == "0":
        raise invalid_option(option, f'{option} "exact" is forbidden for resourceVersion "0"')
    if "sendInitialEvents" in query:
        raise invalid_option("sendInitialEvents", "sendInitialEvents is forbidden for list")
    if query.get("continue") and revision not in {"", "0"}:
        raise bad_request("specifying resource version is not allowed when using continue")


def _page(history: History, query: Mapping[str, str], prefix: str) -> Page:
    limit = parse_number(query, "limit")
    if token := query.get("continue"):
        revision, start = decode_token(token)
        key = f"{prefix}/{start.removeprefix('/')}"
        return Page(_reached(history, history.revision if revision < 0 else revision), key, limit)
    text, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    revision = _reached(history, parse_revision(text))
    # A limit with a resourceVersion and no word about the match has always meant "exactly".
    exact = revision and (match == "Exact" or (limit and not match))
    return Page(revision if exact else history.revision, "", 0 if text == "0" else limit)


def _reached(history: History, revision: int) -> int:
    if revision > history.revision:
        raise NotReachedError(revision)
    return revision


def _choose(
    entries: list[Entry], selector: Selector, page: Page, prefix: str
) -> tuple[list[Entry], int]:
    """Return the page's objects, and how many objects (selected or not) follow it."""
    first = bisect_left(entries, page.start or f"{prefix}/", key=lambda one: one.key)
    # "0" is the character after "/": the end of a namespace's keys.
    last = bisect_left(entries, f"{prefix}0", key=lambda one: one.key)
    chosen: list[Entry] = []
    for index in range(first, last):
        entry = entries[index]
        if selector.matches(entry.namespace, entry.labels, entry.fields):
            chosen.append(entry)
        if page.limit and len(chosen) >= page.limit:
            return chosen, last - index - 1
    return chosen, 0


def _expired(query: Mapping[str, str]) -> ApiError:
    token = query.get("continue", "")
    if not token:
        return refusal(410, "Expired", LIST_EXPIRED)
    start = decode_token(token)[1].removesuffix("\0")
    return refusal(410, "Expired", CONTINUE_EXPIRED, continue_=encode_token(-1, start))
