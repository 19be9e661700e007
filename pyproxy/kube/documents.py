# SPDX-License-Identifier: Apache-2.0
"""What a manifest file holds: its text cut into sections, each decoded once.

A section is a YAML document or a member of a JSON list. Sections are remembered by the digest
of their bytes, so a change in a big file costs what the changed sections cost.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import msgspec

from pyproxy.errors import SourceError
from pyproxy.kube import wire
from pyproxy.kube.decode import Document, decode, name_of, reference, typed
from pyproxy.kube.events import Kind, Record
from pyproxy.kube.yamltext import load_document
from pyproxy.model import ObjectName


class Key(NamedTuple):
    """Identity of an object."""

    kind: Kind
    name: ObjectName

    def __str__(self) -> str:
        return reference(self.kind, self.name)


class Found(NamedTuple):
    """An object of a section; `problem` says why it is malformed and is else "".

    `key` is None where not even its kind and name can be told; `record` is None for a malformed
    object and for one that is not to be proxied.
    """

    key: Key | None
    record: Record | None = None
    problem: str = ""


Digest: TypeAlias = bytes


class Section(NamedTuple):
    """Where a section stands in its file ("line 12", "item 3"), and what it holds."""

    place: str
    found: tuple[Found, ...]


Sections: TypeAlias = dict[Digest, Section]

_KINDS = {
    ("v1", "Service"): Kind.SERVICE,
    ("discovery.k8s.io/v1", "EndpointSlice"): Kind.ENDPOINT_SLICE,
    ("v1", "Node"): Kind.NODE,
    ("networking.k8s.io/v1", "ServiceCIDR"): Kind.SERVICE_CIDR,
    # clusters from before 1.33 have it, if they have any; its fields are the same
    ("networking.k8s.io/v1beta1", "ServiceCIDR"): Kind.SERVICE_CIDR,
}
_LISTS: dict[tuple[str | None, str | None], Kind | None] = {
    ("v1", "List"): None,
    **{(version, f"{kind}List"): found for (version, kind), found in _KINDS.items()},
}
# No API server speaks this any more, and its fields differ: nobody shall think that it works.
_GONE = ("discovery.k8s.io/v1beta1", "EndpointSlice")

_SEPARATOR = b"\n---"
_CONTENT = re.compile(rb"^(?![ \t]*(?:#|\.\.\.|\r?$|\Z)|%)", re.MULTILINE)
_BOM = b"\xef\xbb\xbf"


def read_sections(text: bytes, known: Mapping[Digest, Section], *, only_json: bool) -> Sections:
    """Return the sections of a file; those whose digest is in `known` are not decoded again.

    `only_json` is for .json files; others may be JSON too, as for kubectl. Raises ValueError
    where the text is neither; then nothing of it can be trusted.
    """
    text = text.removeprefix(_BOM)
    try:
        return _json_sections(text, known) if only_json else _any_sections(text, known)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _any_sections(text: bytes, known: Mapping[Digest, Section]) -> Sections:
    if text.lstrip().startswith(b"{"):
        try:
            return _json_sections(text, known)
        except ValueError:
            pass  # flow style YAML begins with { too
    return _yaml_sections(text, known)


def _yaml_sections(text: bytes, known: Mapping[Digest, Section]) -> Sections:
    sections: Sections = {}
    for line, chunk in split_yaml(text):
        # Without the separator, which the first document of a file need not have.
        digest = _digest(chunk.removeprefix(b"---").lstrip(b"\r\n"))
        before = known.get(digest)
        found = before.found if before else tuple(interpret(load_document(chunk, first_line=line)))
        sections.setdefault(digest, Section(f"line {line}", found))
    return sections


def split_yaml(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (first line, text) of every document of a YAML stream that is not empty.

    A line that begins with --- ends a document wherever it stands, in quotes too (YAML 1.2,
    section 9.1.2), so no parser is needed to find them.
    """
    line = 1
    for start, end in pairwise([0, *_separators(text), len(text)]):
        chunk = text[start:end]
        if _CONTENT.search(chunk.removeprefix(b"---").lstrip(b" \t")):
            yield line, chunk
        line += chunk.count(b"\n")


def _separators(text: bytes) -> Iterator[int]:
    """Yield where the lines begin that end a document; bytes.find is 20 times faster than re."""
    at = text.find(_SEPARATOR)
    while at != -1:
        end = at + len(_SEPARATOR)
        if text[end : end + 1] in b" \t\r\n":  # b"", the end of the text, is in it too
            yield at + 1
        at = text.find(_SEPARATOR, end)


def _json_sections(text: bytes, known: Mapping[Digest, Section]) -> Sections:
    sections: Sections = {}
    for index, (kind, document) in enumerate(_json_members(text)):
        digest = _digest(bytes(document), kind)
        before = known.get(digest)
        found = before.found if before else tuple(interpret(document, kind))
        sections.setdefault(digest, Section(f"item {index + 1}", found))
    return sections


def _json_members(text: bytes) -> Iterator[tuple[Kind | None, msgspec.Raw]]:
    """Yield the objects of a JSON text, those of lists one by one, with the kind lists give."""
    for document in _split_json(text):
        try:
            head = typed(document, wire.Head)
            list_key = (head.api_version, head.kind)
            members = typed(document, wire.JsonItems).items if list_key in _LISTS else None
        except msgspec.ValidationError:
            members = None
        if members is None:
            yield None, document
        else:
            yield from ((_LISTS[list_key], member) for member in members)


def _split_json(text: bytes) -> Iterable[msgspec.Raw]:
    """Return the documents of a text, which may follow each other as kubectl allows."""
    if not text.strip():
        return []
    try:
        return [msgspec.json.decode(text, type=msgspec.Raw)]
    except msgspec.DecodeError as error:
        if "trailing characters" not in str(error):
            raise ValueError(str(error)) from None
    return list(_split_concatenated(text.decode()))


def _split_concatenated(text: str) -> Iterator[msgspec.Raw]:
    decoder, start = json.JSONDecoder(), 0
    while rest := text[start:].lstrip():
        start = len(text) - len(rest)
        _, end = decoder.raw_decode(text, start)
        yield msgspec.Raw(text[start:end].encode())
        start = end


def _digest(text: bytes, kind: Kind | None = None) -> Digest:
    return hashlib.blake2b(
        text, digest_size=16, person=kind.value.encode() if kind else b""
    ).digest()


def interpret(document: Document, kind: Kind | None = None) -> Iterator[Found]:
    """Yield the objects of a document that are of our kinds, those of lists too.

    `kind` is what the list that the document stands in says. Other kinds are passed over: files
    for kubectl hold Deployments too.
    """
    if document is None:
        return
    try:
        head = typed(document, wire.Head)
    except msgspec.ValidationError as error:
        yield Found(None, problem=f"not a Kubernetes object: {error}")
        return
    kind = kind or _KINDS.get((head.api_version or "", head.kind or ""))
    if kind is not None:
        yield _decoded(kind, document)
    elif (head.api_version, head.kind) in _LISTS:
        yield from _members(document, _LISTS[head.api_version, head.kind])
    elif problem := _head_problem(head):
        yield Found(None, problem=problem)


def _members(document: Document, kind: Kind | None) -> Iterator[Found]:
    raw = isinstance(document, msgspec.Raw)
    try:
        found = typed(document, wire.JsonItems) if raw else typed(document, wire.PlainItems)
    except msgspec.ValidationError as error:
        yield Found(None, problem=f"a list is malformed: {error}")
        return
    for member in found.items or []:
        yield from interpret(member, kind)


def _head_problem(head: wire.Head) -> str:
    if not head.kind:
        return "an object has no kind: write one"
    if not head.api_version:
        return f"a {head.kind} has no apiVersion: write one"
    if (head.api_version, head.kind) == _GONE:
        return "an EndpointSlice is of discovery.k8s.io/v1beta1: write discovery.k8s.io/v1"
    return ""


def _decoded(kind: Kind, document: Document) -> Found:
    try:
        change = decode(kind, document)
    except SourceError as error:
        return Found(_key(kind, document), problem=str(error))
    return Found(Key(kind, change.name), change.object)


def _key(kind: Kind, document: Document) -> Key | None:
    try:
        return Key(kind, name_of(kind, document))
    except msgspec.ValidationError:
        return None
