# SPDX-License-Identifier: Apache-2.0
"""The objects of many files as one set: which file counts, what changed, what to report.

Pure: file texts in, events out. The order in which files arrive does not matter for the state
that results.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pyproxy.kube.documents import Key, Sections, read_sections
from pyproxy.kube.events import Change, Event, Record, Report


class _File(NamedTuple):
    sections: Sections
    objects: dict[Key, Record | None]
    problems: dict[str, str]


_KEPT = "what it held before stays in force"
_TWICE = "stands twice in the file; the first counts: delete the other"
_EMPTY = _File({}, {}, {})


class Catalogue:
    """All manifest files of a directory by name.

    An object that several files hold comes from the first of them by name. `prefix` ("DIR/")
    makes file names into what reports call them.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._files: dict[str, _File] = {}
        self._claims: dict[Key, list[str]] = {}
        self._in_force: dict[Key, Record] = {}
        self._reports: dict[str, str] = {}

    @property
    def names(self) -> frozenset[str]:
        """The names of all files that are known, unreadable ones included."""
        return frozenset(self._files)

    def put(self, name: str, text: bytes) -> list[Event]:
        """Take the file's new text. Where it does not parse, all that it held stays."""
        before = self._files.get(name, _EMPTY)
        try:
            sections = read_sections(text, before.sections, only_json=name.endswith(".json"))
        except ValueError as error:
            return self.fail(name, f"cannot be parsed: {error}; correct it")
        after = self._assemble(name, sections, before)
        return [*self._replace(name, before, after), *self._problems(before, after)]

    def fail(self, name: str, why: str) -> list[Event]:
        """Keep what the file held, as it cannot be used now; `why` goes into the report."""
        before = self._files.setdefault(name, _EMPTY)
        after = before._replace(problems={**before.problems, self._path(name): f"{why} ({_KEPT})"})
        self._files[name] = after
        return list(self._problems(before, after))

    def remove(self, name: str) -> list[Event]:
        """Forget the file and its objects."""
        before = self._files.get(name)
        if before is None:
            return []
        return [*self._replace(name, before, None), *self._problems(before, _EMPTY)]

    def _path(self, name: str) -> str:
        """Return what reports call the file; names may be any bytes, reports are text."""
        return (self._prefix + name).encode("utf-8", "backslashreplace").decode()

    def _assemble(self, name: str, sections: Sections, before: _File) -> _File:
        """Collect a file's objects; a malformed one is replaced by its last good version."""
        objects: dict[Key, Record | None] = {}
        problems: dict[str, str] = {}
        path = self._path(name)
        for section in sections.values():
            for key, record, problem in section.found:
                if problem:
                    source = f"{key} in {path}" if key else f"{path}, {section.place}"
                    problems.setdefault(source, problem)
                if key is None or (problem and key not in before.objects):
                    continue
                if key in objects:
                    problems[f"{key} in {path}"] = _TWICE
                    continue
                objects[key] = before.objects[key] if problem else record
        return _File(sections, objects, problems)

    def _replace(self, name: str, before: _File, after: _File | None) -> Iterator[Event]:
        """Put a file in the place of another; yield what changes for the whole set."""
        objects = after.objects if after else {}
        if after:
            self._files[name] = after
        else:
            del self._files[name]
        touched = [key for key, record in objects.items() if _differs(key, record, before)]
        touched += [key for key in before.objects if key not in objects]
        for key in touched:
            self._claim(key, name, held=key in objects)
        for key in touched:
            yield from self._settle(key)
        for key in touched:
            yield from self._report(str(key), self._duplicate(key))

    def _claim(self, key: Key, name: str, *, held: bool) -> None:
        names = self._claims.setdefault(key, [])
        if held and name not in names:
            insort(names, name)
        elif not held:
            names.remove(name)
        if not names:
            del self._claims[key]

    def _settle(self, key: Key) -> Iterator[Event]:
        """Yield the change, if there is one, that makes the first file's version count."""
        names = self._claims.get(key)
        wanted = self._files[names[0]].objects[key] if names else None
        if wanted == self._in_force.get(key):
            return
        if wanted is None:
            del self._in_force[key]
        else:
            self._in_force[key] = wanted
        yield Change(key.kind, key.name, wanted)

    def _duplicate(self, key: Key) -> str:
        names = self._claims.get(key, [])
        if len(names) < 2:
            return ""
        paths = [self._path(name) for name in names]
        return f"stands in {' and '.join(paths)}; the one in {paths[0]} counts: delete the others"

    def _problems(self, before: _File, after: _File) -> Iterator[Event]:
        for source in _union(before.problems, after.problems):
            yield from self._report(source, after.problems.get(source, ""))

    def _report(self, source: str, message: str) -> Iterator[Event]:
        if message == self._reports.get(source, ""):
            return
        if message:
            self._reports[source] = message
        else:
            del self._reports[source]
        yield Report(source, message)


def _differs(key: Key, record: Record | None, before: _File) -> bool:
    return key not in before.objects or before.objects[key] != record


def _union(first: Iterable[str], second: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys([*first, *second])
