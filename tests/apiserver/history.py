# SPDX-License-Identifier: Apache-2.0
"""All objects and how they came to be: one revision counts every write, as etcd's does.

No input or output here. An object is encoded once, when it is put; lists and watches join bytes.
"""

from __future__ import annotations

import random
import time
import uuid
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.apiserver.answers import Json, compact
from tests.apiserver.resources import STORED, Resource, resource_of_object

# metadata as Go's struct has it: what stands before and after resourceVersion.
BEFORE_REVISION = ("name", "generateName", "namespace", "selfLink", "uid")
AFTER_REVISION = (
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
)


class CompactedError(Exception):
    """The state or the changes at a revision are no longer known."""


class Entry(NamedTuple):
    """An object at a revision: `head`, its resourceVersion and `tail` make its JSON."""

    key: str
    namespace: str
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    head: bytes
    tail: bytes
    revision: int
    uid: str
    created: str
    generation: int | None

    def encoded(self, revision: int | None = None) -> bytes:
        """Return its JSON without kind and apiVersion, as in a list; `revision` may be another."""
        return b'%b"%d"%b' % (self.head, revision or self.revision, self.tail)


class Change(NamedTuple):
    """A write: what was (None: nothing) and what is (None: deleted)."""

    revision: int
    before: Entry | None
    after: Entry | None


class _Kept:
    """The objects of one resource, by key, with the changes since the compaction."""

    def __init__(self) -> None:
        self.objects: dict[str, Entry] = {}
        self.changes: list[Change] = []
        # The state last asked for: pages of one list ask for the same again and again.
        self.sorted: tuple[int, list[Entry]] = (-1, [])


class History:
    """Every object now, and every change since `compacted`.

    `revision` counts writes of all resources; a list shows it, an object keeps that of its own
    last write. `now` returns seconds since the epoch; `rng` makes uids.
    """

    def __init__(
        self, now: Callable[[], float] = time.time, rng: random.Random | None = None
    ) -> None:
        self.revision = 1
        self.compacted = 0
        self._now = now
        self._rng = rng or random.Random()
        self._kept = {resource: _Kept() for resource in map(_name, STORED)}

    def put(self, value: Mapping[str, Any]) -> Change | None:
        """Create or replace an object; return None where nothing differs, as the API has it.

        uid, creationTimestamp and generation are kept where given. Raises ValueError for an object
        without a name, a namespace its kind needs, or of an unknown kind.
        """
        resource = resource_of_object(value)
        kept = self._kept[_name(resource)]
        before = kept.objects.get(_key(resource, value["metadata"]))
        after = self._entry(resource, value, before)
        if before and (before.head, before.tail) == (after.head, after.tail):
            return None
        if before and resource.has_generation and "generation" not in value["metadata"]:
            after = self._entry(resource, value, before, (before.generation or 0) + 1)
        self.revision += 1
        kept.objects[after.key] = after
        change = Change(self.revision, before, after)
        kept.changes.append(change)
        return change

    def delete(self, resource: Resource, namespace: str, name: str) -> Change:
        """Delete an object; raises KeyError where there is none."""
        kept = self._kept[_name(resource)]
        key = _key(resource, {"namespace": namespace, "name": name})
        if key not in kept.objects:
            raise KeyError(f"there is no {resource.kind} {key[1:]} to delete")
        self.revision += 1
        change = Change(self.revision, kept.objects.pop(key), None)
        kept.changes.append(change)
        return change

    def get(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """Return an object as it is now."""
        return self._kept[_name(resource)].objects.get(
            _key(resource, {"namespace": namespace, "name": name})
        )

    def advance(self, revision: int) -> None:
        """Let writes of things that aren't ours bring the revision up; raises ValueError."""
        if revision < self.revision:
            raise ValueError(f"revision {self.revision} can't go back to {revision}: use reset")
        self.revision = revision

    def compact(self, revision: int) -> None:
        """Forget what was before `revision`: older lists and watches can't be had any more."""
        self.compacted = max(self.compacted, min(revision, self.revision))
        for kept in self._kept.values():
            first = bisect_right(kept.changes, self.compacted, key=lambda one: one.revision)
            kept.changes = kept.changes[first:]

    def reset(self) -> None:
        """Start counting anew with the same objects, as a restored backup does."""
        self.revision, self.compacted = 1, 0
        for kept in self._kept.values():
            kept.changes, kept.sorted = [], (-1, [])
            for key, entry in kept.objects.items():
                self.revision += 1
                kept.objects[key] = entry._replace(revision=self.revision)
        self.compacted = self.revision

    def at(self, resource: Resource, revision: int) -> list[Entry]:
        """Return the objects at a revision up to now, by key; raises CompactedError."""
        if revision < self.compacted:
            raise CompactedError
        kept = self._kept[_name(resource)]
        if kept.sorted[0] != revision:
            state = dict(kept.objects)
            for change in reversed(self.since(resource, revision)):
                _undo(state, change)
            kept.sorted = (revision, [state[key] for key in sorted(state)])
        return kept.sorted[1]

    def since(self, resource: Resource, revision: int) -> list[Change]:
        """Return the changes after a revision; raises CompactedError."""
        if revision < self.compacted:
            raise CompactedError
        changes = self._kept[_name(resource)].changes
        return changes[bisect_right(changes, revision, key=lambda one: one.revision) :]

    def _entry(
        self,
        resource: Resource,
        value: Mapping[str, Any],
        before: Entry | None,
        generation: int | None = None,
    ) -> Entry:
        metadata = dict(value["metadata"])
        kept_generation = before.generation if before else 1
        if resource.has_generation:
            metadata.setdefault("generation", generation or kept_generation)
        metadata.setdefault("uid", before.uid if before else self._uid())
        metadata.setdefault("creationTimestamp", before.created if before else self._timestamp())
        head, tail = _encode(value, metadata)
        return Entry(
            key=_key(resource, metadata),
            namespace=metadata.get("namespace", "") if resource.namespaced else "",
            labels=dict(metadata.get("labels") or {}),
            fields={path: _field(value, path) for path in resource.fields},
            head=head,
            tail=tail,
            revision=self.revision + 1,
            uid=metadata["uid"],
            created=metadata["creationTimestamp"],
            generation=metadata.get("generation"),
        )

    def _uid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _timestamp(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))


def _name(resource: Resource) -> str:
    return resource.qualified


def _key(resource: Resource, metadata: Mapping[str, Any]) -> str:
    """Return /namespace/name or /name: the order of keys is the order of lists."""
    name, namespace = metadata.get("name", ""), metadata.get("namespace", "")
    if not name or (resource.namespaced and not namespace):
        raise ValueError(f"a {resource.kind} needs metadata.name and, if namespaced, namespace")
    return f"/{namespace}/{name}" if resource.namespaced else f"/{name}"


def _encode(value: Mapping[str, Any], metadata: Json) -> tuple[bytes, bytes]:
    first = {key: metadata[key] for key in BEFORE_REVISION if metadata.get(key)}
    last = {key: metadata[key] for key in AFTER_REVISION if metadata.get(key)}
    hidden = {"apiVersion", "kind", "metadata"}
    rest = compact({key: field for key, field in value.items() if key not in hidden})
    head = b'{"metadata":%b,"resourceVersion":' % compact(first)[:-1]
    tail = b",%b%b%b" % (compact(last)[1:], b"," if len(rest) > len(b"{}") else b"", rest[1:])
    return head, tail


def _field(value: Mapping[str, Any], path: str) -> str:
    found: Any = value
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return str(found).lower() if isinstance(found, bool) else str(found or "")


def _undo(state: dict[str, Entry], change: Change) -> None:
    if change.before:
        state[change.before.key] = change.before
    elif change.after:
        del state[change.after.key]
