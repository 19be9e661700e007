# SPDX-License-Identifier: Apache-2.0
"""Files of objects are one set, whatever the order in which they change."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.kube.catalogue import Catalogue
from pyproxy.kube.documents import Key, read_sections, split_yaml
from pyproxy.kube.events import Change, Event, Kind, Report
from pyproxy.model import ObjectName, Service
from tests import builders
from tests.builders import Json


def text_of(*documents: Json) -> bytes:
    """Write a YAML file of several documents."""
    return "---\n".join(yaml.dump(one, Dumper=yaml.CSafeDumper) for one in documents).encode()


def service(name: str, ip: str = "10.0.0.1") -> Json:
    """Return a Service with a clusterIP that tells versions apart."""
    return builders.service(name, cluster_ip=ip)


class State:
    """Follows events as the agent would, and refuses those that say nothing new."""

    def __init__(self) -> None:
        self.objects: dict[Key, Any] = {}
        self.reports: dict[str, str] = {}

    def apply(self, events: list[Event]) -> list[Event]:
        """Take events in; return them."""
        for event in events:
            if isinstance(event, Change):
                key = Key(event.kind, event.name)
                assert self.objects.get(key) != event.object, "a change that changes nothing"
                self.objects[key] = event.object
            elif isinstance(event, Report):
                assert self.reports.get(event.source, "") != event.message
                self.reports[event.source] = event.message
        self.objects = {key: one for key, one in self.objects.items() if one is not None}
        self.reports = {source: text for source, text in self.reports.items() if text}
        return events

    def ips(self) -> dict[str, int]:
        """Return the last byte of the first clusterIP of every service by name."""
        services = [one for one in self.objects.values() if isinstance(one, Service)]
        return {one.name.name: one.cluster_ips[0][-1] for one in services}


class Files:
    """A catalogue and the state that its events lead to."""

    def __init__(self) -> None:
        self.catalogue = Catalogue("dir/")
        self.state = State()

    def put(self, name: str, text: bytes | str) -> list[Event]:
        """Write a file."""
        raw = text.encode() if isinstance(text, str) else text
        return self.state.apply(self.catalogue.put(name, raw))

    def remove(self, name: str) -> list[Event]:
        """Remove a file."""
        return self.state.apply(self.catalogue.remove(name))

    @property
    def ips(self) -> dict[str, int]:
        """See State.ips."""
        return self.state.ips()

    @property
    def reports(self) -> dict[str, str]:
        """The reports in force by source."""
        return self.state.reports


DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": 3}
KNATIVE = {**service("knative"), "apiVersion": "serving.knative.dev/v1"}
BOTH = [service("a", "10.0.0.1"), service("b", "10.0.0.2")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("documents.yaml", text_of(*BOTH)),
        ("crlf.yaml", text_of(*BOTH).replace(b"\n", b"\r\n")),
        ("others.yaml", text_of(DEPLOYMENT, BOTH[0], KNATIVE, BOTH[1])),
        ("empties.yml", b"%YAML 1.1\n---\n---\n# c\n" + text_of(*BOTH) + b"---\n...\n---"),
        ("bom.yaml", b"\xef\xbb\xbf" + text_of(*BOTH)),
        ("list.yaml", text_of({"apiVersion": "v1", "kind": "List", "items": BOTH})),
        ("list.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": BOTH})),
        ("json-in.yaml", json.dumps({"apiVersion": "v1", "kind": "List", "items": BOTH}, indent=1)),
        ("tabs.yaml", json.dumps({"kind": "List", "apiVersion": "v1", "items": BOTH}, indent="\t")),
        ("concatenated.json", "\n".join(map(json.dumps, BOTH))),
        ("pair.json", f"{json.dumps(DEPLOYMENT)}{json.dumps(BOTH[0])}  {json.dumps(BOTH[1])}\n"),
    ],
)
def test_forms_of_files(name: str, text: bytes | str) -> None:
    """Several documents, lists and JSON all give the objects; other kinds are passed over."""
    files = Files()
    files.put(name, text)
    assert (files.ips, files.reports) == ({"a": 1, "b": 2}, {})


@pytest.mark.parametrize("form", [json.dumps, yaml.dump])
@pytest.mark.parametrize(
    ("version", "kind", "members", "expected"),
    [
        ("v1", "ServiceList", BOTH, Kind.SERVICE),
        ("v1", "NodeList", [builders.node()], Kind.NODE),
        (
            "discovery.k8s.io/v1",
            "EndpointSliceList",
            [builders.endpoint_slice()],
            Kind.ENDPOINT_SLICE,
        ),
        ("apps/v1", "DeploymentList", [DEPLOYMENT], None),
        ("v1", "ServiceList", None, None),
    ],
)
def test_typed_lists(
    form: Any, version: str, kind: str, members: list[Json] | None, expected: Kind | None
) -> None:
    """Members of a typed list say no kind of their own."""
    bare = [
        {k: v for k, v in one.items() if k not in ("kind", "apiVersion")} for one in members or []
    ]
    files = Files()
    name = "a.json" if form is json.dumps else "a.yaml"
    files.put(name, form({"apiVersion": version, "kind": kind, "items": bare if members else None}))
    assert {key.kind for key in files.state.objects} == ({expected} if expected else set())
    assert len(files.state.objects) == (len(bare) if expected else 0)
    assert files.reports == {}


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n---\n"])
def test_empty_files_hold_nothing(text: str) -> None:
    """A file without documents is no error, and empties what it held."""
    files = Files()
    files.put("a.yaml", text_of(service("a")))
    files.put("a.yaml", text)
    files.put("a.json", " \n")
    assert (files.state.objects, files.reports) == ({}, {})


def test_a_change_is_one_event() -> None:
    """Only what changed is told; the same text again is no event at all."""
    files = Files()
    files.put("a.yaml", text_of(*BOTH))
    assert files.put("a.yaml", text_of(*BOTH)) == []
    assert files.put("a.yaml", text_of(BOTH[1], BOTH[0])) == []
    events = files.put("a.yaml", text_of(BOTH[0], service("b", "10.0.0.9")))
    assert [event.name.name for event in events if isinstance(event, Change)] == ["b"]
    assert len(events) == 1
    gone = Change(Kind.SERVICE, ObjectName("default", "b"), None)
    assert files.put("a.yaml", text_of(BOTH[0])) == [gone]


def test_only_changed_sections_are_decoded_again() -> None:
    """Unchanged documents and list members keep their very records."""
    for text, only_json in ((text_of, False), (json_list, True)):
        first = read_sections(text(*BOTH), {}, only_json=only_json)
        changed = text(service("z"), BOTH[0], service("b", "10.0.0.9"))
        second = read_sections(changed, first, only_json=only_json)
        records = [section.found[0].record for section in second.values()]
        assert any(records[1] is section.found[0].record for section in first.values())
        assert len(set(first) & set(second)) == 1


def json_list(*documents: Json) -> bytes:
    """Write a JSON file of one list."""
    return json.dumps(builders_list(documents)).encode()


def builders_list(documents: tuple[Json, ...]) -> Json:
    """Return a v1 List."""
    return {"apiVersion": "v1", "kind": "List", "items": list(documents)}


def test_the_first_file_by_name_counts() -> None:
    """An object in several files comes from the first by name, in whatever order they come."""
    texts = {f"{n}.yaml": text_of(service("web", f"10.0.0.{n}")) for n in (1, 2, 3)}
    for order in permutations(texts):
        files = Files()
        for name in order:
            files.put(name, texts[name])
        assert files.ips == {"web": 1}
        assert list(files.reports) == ["Service default/web"]
        for part in ("dir/1.yaml and dir/2.yaml and dir/3.yaml", "the one in dir/1.yaml counts"):
            assert part in files.reports["Service default/web"]
        files.remove("1.yaml")
        assert files.ips == {"web": 2}
        files.remove("3.yaml")
        assert (files.ips, files.reports) == ({"web": 2}, {})
        files.remove("2.yaml")
        assert files.state.objects == {}


def test_the_first_in_a_file_counts() -> None:
    """An object that stands twice in one file is reported until one is gone."""
    files = Files()
    files.put("a.yaml", text_of(service("web", "10.0.0.1"), service("web", "10.0.0.2")))
    assert files.ips == {"web": 1}
    assert "stands twice" in files.reports["Service default/web in dir/a.yaml"]
    files.put("a.yaml", text_of(service("web", "10.0.0.2")))
    assert (files.ips, files.reports) == ({"web": 2}, {})


def test_an_unproxied_version_in_the_first_file_counts() -> None:
    """A headless Service in the first file hides the other file's one."""
    files = Files()
    files.put("b.yaml", text_of(service("web", "10.0.0.2")))
    files.put("a.yaml", text_of(service("web", "None")))
    assert files.state.objects == {}
    assert "Service default/web" in files.reports
    files.remove("a.yaml")
    assert (files.ips, files.reports) == ({"web": 2}, {})


@pytest.mark.parametrize("broken", ["a: [", "a: b: c", "{", "x: *y", b"\xff\xfe\x00", "\x00"])
def test_a_file_that_stops_parsing_keeps_its_objects(broken: bytes | str) -> None:
    """It is reported by its path; mending it withdraws the report."""
    files = Files()
    files.put("a.yaml", text_of(service("web", "10.0.0.1")))
    files.put("a.yaml", broken)
    assert files.ips == {"web": 1}
    assert "cannot be parsed" in files.reports["dir/a.yaml"]
    files.put("a.yaml", text_of(service("web", "10.0.0.2")))
    assert (files.ips, files.reports) == ({"web": 2}, {})


def test_a_broken_document_leaves_the_whole_file_as_it_was() -> None:
    """A syntax error in one document says nothing good of the others of its file."""
    files = Files()
    files.put("a.yaml", text_of(*BOTH))
    files.put("a.yaml", text_of(service("a", "10.0.0.7")) + b"---\nkind: [")
    assert files.ips == {"a": 1, "b": 2}
    assert "line " in files.reports["dir/a.yaml"]
    files.remove("a.yaml")
    assert (files.state.objects, files.reports) == ({}, {})


@pytest.mark.parametrize("text", ["{", '{"kind": ', "[", "nonsense", '{"a": 1} x', "kind: Service"])
def test_a_json_file_must_be_json(text: str) -> None:
    """What is no JSON in a .json file is reported."""
    files = Files()
    files.put("a.json", text)
    assert "cannot be parsed" in files.reports["dir/a.json"]


def test_flow_yaml_is_yaml() -> None:
    """A brace at the beginning does not make JSON of a .yaml file."""
    files = Files()
    files.put(
        "a.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: '::7'}}",
    )
    assert (files.ips, files.reports) == ({"web": 7}, {})


def test_a_malformed_object_among_good_ones() -> None:
    """The good ones work; the malformed one keeps its last good version and is reported."""
    files = Files()
    bad = builders.service("b", ports=[{"port": "80"}])
    files.put("a.yaml", text_of(BOTH[0], bad))
    assert files.ips == {"a": 1}
    files.put("a.yaml", text_of(*BOTH))
    assert (files.ips, files.reports) == ({"a": 1, "b": 2}, {})
    files.put("a.yaml", text_of(service("a", "10.0.0.7"), bad))
    assert files.ips == {"a": 7, "b": 2}
    assert list(files.reports) == ["Service default/b in dir/a.yaml"]
    assert "$.spec.ports[0].port" in files.reports["Service default/b in dir/a.yaml"]
    files.put("a.yaml", text_of(service("a", "10.0.0.8"), bad))
    assert files.ips == {"a": 8, "b": 2}
    files.put("a.yaml", text_of(service("a", "10.0.0.8")))
    assert (files.ips, files.reports) == ({"a": 8}, {})


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("just text", "not a Kubernetes object"),
        ("[1, 2]", "not a Kubernetes object"),
        ("kind: 5", "$.kind"),
        ("a: 1", "no kind"),
        ("kind: Service", "no apiVersion"),
        ("{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1beta1}", "v1beta1"),
        ("{kind: Service, apiVersion: v1}", "without a name"),
        ("{kind: List, apiVersion: v1, items: 5}", "$.items"),
        ("{kind: List, apiVersion: v1, items: [5]}", "not a Kubernetes object"),
    ],
)
def test_what_is_no_object_is_reported_by_its_line(document: str, why: str) -> None:
    """A nameless problem is found by file and line, and leaves the rest alone."""
    files = Files()
    good = text_of(service("a")).decode()
    files.put("a.yaml", f"{good}---\n{document}\n")
    (source,) = files.reports
    assert source == f"dir/a.yaml, line {good.count(chr(10)) + 1}"
    assert why in files.reports[source]
    assert files.ips == {"a": 1}


def test_an_unreadable_file_keeps_its_objects() -> None:
    """`fail` reports and keeps; the next text mends it."""
    files = Files()
    files.put("a.yaml", text_of(service("a")))
    files.state.apply(files.catalogue.fail("a.yaml", "cannot be read: Permission denied"))
    assert files.ips == {"a": 1}
    assert "Permission denied" in files.reports["dir/a.yaml"]
    assert files.catalogue.names == {"a.yaml"}
    files.put("a.yaml", text_of(service("a")))
    assert (files.ips, files.reports) == ({"a": 1}, {})


def test_a_name_of_any_bytes_can_be_printed() -> None:
    """File names need not be text, reports are."""
    files = Files()
    files.put("\udcff.yaml", "a: [")
    assert [source.encode() for source in files.reports] == [b"dir/\\udcff.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a: 1\n---\nb: 2\n", [(1, b"a: 1\n"), (2, b"---\nb: 2\n")]),
        (b"a: |\n  ---\n---x: 1\n", [(1, b"a: |\n  ---\n---x: 1\n")]),
        (b"--- {a: 1}\n---", [(1, b"--- {a: 1}\n")]),
        (b"---\n\n\n---\r\n# c\na: 1", [(4, b"---\r\n# c\na: 1")]),
        (b"", []),
    ],
)
def test_splitting(text: bytes, expected: list[tuple[int, bytes]]) -> None:
    """Documents are cut at lines that begin with ---, with the line each begins on."""
    assert list(split_yaml(text)) == expected


OBJECTS = st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.booleans())
CONTENTS = st.lists(OBJECTS, max_size=3)
STEPS = st.lists(
    st.tuples(st.sampled_from(["1.yaml", "2.yaml", "3.json"]), st.none() | CONTENTS), max_size=8
)


def written(name: str, objects: list[tuple[str, int, bool]]) -> bytes:
    """Write services by (name, version, proxied) in the form of the file's suffix."""
    documents = [
        service(which, f"10.0.0.{version}" if proxied else "None")
        for which, version, proxied in objects
    ]
    return json_list(*documents) if name.endswith("json") else text_of(*documents)


@given(STEPS)
def test_any_order_of_changes_ends_in_the_same_state(steps: list[tuple[str, Any]]) -> None:
    """The state depends on what the files hold now, and is empty when they are gone."""
    files = Files()
    final: dict[str, list[tuple[str, int, bool]]] = {}
    for name, objects in steps:
        final.pop(name, None)
        if objects is None:
            files.remove(name)
        else:
            files.put(name, written(name, objects))
            final[name] = objects
    fresh = Files()
    for name in sorted(final):
        fresh.put(name, written(name, final[name]))
    assert files.state.objects == fresh.state.objects
    assert files.reports == fresh.reports
    assert all(isinstance(one, Service) for one in files.state.objects.values())
    for name in final:
        files.remove(name)
    assert (files.state.objects, files.reports) == ({}, {})
    assert (files.catalogue._claims, files.catalogue._in_force) == ({}, {})
