# SPDX-License-Identifier: Apache-2.0
"""What the API source makes of lists: pages, lies, malformed objects, what is gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kube.api_config import ApiSettings
from pyproxy.kube.events import Change, Kind, Synced
from tests import builders
from tests.api.source.api_following import following, kubeconfig
from tests.api.source.scripted import (
    Answer,
    Json,
    Scripted,
    page,
    served,
    silence,
    status,
    status_json,
    text,
    versioned,
)

EXPIRED = status(410, "Expired")


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server with this node."""
    with served() as one:
        one.objects["nodes"] = [versioned(builders.node("n1"), 10)]
        yield one


@pytest.fixture
def settings(server: Scripted, tmp_path: Path) -> ApiSettings:
    """How to reach it."""
    return ApiSettings(kubeconfig(tmp_path / "config", server.url))


def services(*names: str, version: int = 50) -> list[Json]:
    """Return Services 10.0.0.1, 10.0.0.2, ..."""
    return [
        versioned(builders.service(name, cluster_ip=f"10.0.0.{index}"), version)
        for index, name in enumerate(names, 1)
    ]


def test_three_kinds_are_listed_with_their_selectors(
    server: Scripted, settings: ApiSettings
) -> None:
    """Each kind is asked for by kube-proxy's selectors, in pages; Synced comes once, at the end."""
    server.objects["services"] = services("a")
    server.objects["endpointslices"] = [versioned(builders.endpoint_slice("a-1"), 51)]
    with following(settings) as source:
        source.until_synced()
        queries = {one.plural: one.query for one in server.requests if one.verb == "list"}
        assert queries == {
            "services": {
                "labelSelector": "!service.kubernetes.io/service-proxy-name",
                "fieldSelector": "spec.clusterIP!=None",
                "limit": "500",
            },
            "endpointslices": {"labelSelector": "!service.kubernetes.io/headless", "limit": "500"},
            "nodes": {"fieldSelector": "metadata.name=n1", "limit": "500"},
        }
        assert set(source.objects) == {
            (Kind.SERVICE, "a"),
            (Kind.ENDPOINT_SLICE, "a-1"),
            (Kind.NODE, "n1"),
        }
        assert isinstance(source.seen[-1], Synced)
        assert source.reports == {}


def test_pages_are_one_list(server: Scripted, settings: ApiSettings) -> None:
    """Each page brings the token of the next; what it holds counts at once."""
    server.script("services", "list", page(services("a"), 7, "one"), page(services("b"), 7))
    with following(settings) as source:
        source.until_synced()
        assert source.names() == {"a", "b"}
        tokens = [one.query.get("continue") for one in server.asked("services", "list")]
        assert tokens == [None, "one"]
        source.until(lambda: bool(server.asked("services", "watch")))
        assert server.asked("services", "watch")[0].query["resourceVersion"] == "7"


def test_an_expired_token_means_to_list_anew(server: Scripted, settings: ApiSettings) -> None:
    """410 in the middle of a list: all is listed again, and nothing is lost."""
    server.script("services", "list", page(services("a"), 7, "one"), EXPIRED)
    server.objects["services"] = services("a", "b")
    with following(settings) as source:
        source.until_synced()
        assert source.names() == {"a", "b"}
        tokens = [one.query.get("continue") for one in server.asked("services", "list")]
        assert tokens == [None, "one", None]
        assert source.deletions() == []


def test_tokens_that_expire_again_and_again(server: Scripted, settings: ApiSettings) -> None:
    """A list whose pages come too late for their tokens is asked for in one piece."""
    server.script("services", "list", *[page(services("a"), 7, "one"), EXPIRED] * 2)
    server.objects["services"] = services("a", "b")
    with following(settings) as source:
        source.until_trouble("API server: services", "answers 410")
        source.until_synced()
        assert source.names() == {"a", "b"}
        limits = [one.query.get("limit") for one in server.asked("services", "list")]
        assert limits == ["500"] * 4 + [None]
        source.until_calm()


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_page_that_fails_is_asked_for_again(
    server: Scripted, settings: ApiSettings, failures: int
) -> None:
    """A server under load is not asked for the pages before it, unless its token may be wrong."""
    broken = [status(429, "TooManyRequests")] * failures
    server.script("services", "list", page(services("a"), 7, "one"), *broken)
    if failures < 3:
        server.script("services", "list", page(services("b"), 7))
    server.objects["services"] = services("a", "b")
    with following(settings) as source:
        source.until_synced()
        assert source.names() == {"a", "b"}
        tokens = [one.query.get("continue") for one in server.asked("services", "list")]
        last = "one" if failures < 3 else None
        assert tokens == [None, *["one"] * failures, last]
        assert source.deletions() == []


def test_a_list_that_never_ends_is_given_up(server: Scripted, settings: ApiSettings) -> None:
    """The same token again and again is no list, and no reason to ask without end."""
    server.script("services", "list", *[page(services("a"), 7, "one")] * 3)
    with following(settings) as source:
        source.until_trouble("API server: services", "never ends its list")
        assert len(server.asked("services", "list")) == 2
        source.until_synced()
        source.until_calm()


@pytest.mark.parametrize(
    ("lie", "part"),
    [
        (text(b"{}"), "a None instead of a list"),
        (text(json.dumps(status_json(200, "OK")).encode()), "a Status instead of a list"),
        (text(b'{"kind": "PodList", "metadata": {"resourceVersion": "5"}}'), "a PodList"),
        (text(b'{"kind": "ServiceList", "metadata": {}, "items": []}'), "without resourceVersion"),
        (text(b"<html>login</html>"), "no list"),
        (text(b'{"kind": "ServiceList", "metadata": {"resourceVers'), "no list"),
        (text(b""), "no list"),
        (text(b"[" * 100_000), "no list"),
        (status(500, "InternalError"), "500: said InternalError"),
        (status(404, "NotFound"), "404: said NotFound"),
        (status(302, "Found", ("Location", "/elsewhere")), "302"),
    ],
    ids=["{}", "Status", "kind", "version", "html", "half", "empty", "deep", "500", "404", "302"],
)
def test_nothing_but_a_whole_list_removes_objects(
    server: Scripted, settings: ApiSettings, lie: Answer, part: str
) -> None:
    """What is no list removes nothing, is said, and is over when the server is right again."""
    server.objects["services"] = services("a", "b")
    with following(settings) as source:
        source.until_synced()
        source.until(lambda: bool(server._watches["services"]))
        server.always("services", "list", lie)
        server.script("services", "watch", EXPIRED)
        server.push_bytes("services", None)
        found = source.until_trouble("API server: services", part)
        assert server.url in found.message
        assert source.names() == {"a", "b"}
        server.objects["services"] = services("b", version=60)
        server.always("services", "list", None)
        source.until_calm()
        assert source.names() == {"b"}
        assert source.deletions() == ["a"]
        assert source.synced == 1


def test_a_list_that_stalls_is_asked_for_again(server: Scripted, settings: ApiSettings) -> None:
    """A server that takes a request and never answers is said to be silent, and asked again."""
    server.script("services", "list", silence(), silence(b'{"kind": "Serv'))
    with following(settings) as source:
        found = source.until_trouble("API server", "does not answer")
        assert found.since < source.source._clocks.now() - 0.15, "since it was asked"
        source.until_synced()
        source.until_calm()


def test_what_a_later_list_lacks_is_gone(server: Scripted, settings: ApiSettings) -> None:
    """After 410, a relist removes what is gone and says nothing of what has not changed."""
    server.objects["services"] = services("a", "b", "c")
    with following(settings) as source:
        source.until_synced()
        source.until(lambda: bool(server._watches["services"]))
        server.objects["services"] = services("a", "x", "c", "d", version=60)
        server.script("services", "watch", EXPIRED)
        before = len(source.seen)
        server.push_bytes("services", None)
        source.until(lambda: source.names() == {"a", "x", "c", "d"})
        changed = [one.name.name for one in source.seen[before:] if isinstance(one, Change)]
        assert changed == ["x", "d", "b"], "additions first, then what is gone"
        assert source.troubles == {}, "410 is everyday life"


def test_malformed_objects_are_reported_and_the_rest_works(
    server: Scripted, settings: ApiSettings
) -> None:
    """The last good version of an object counts until it is mended; its neighbours never notice."""
    good, bad = services("a", "b"), services("a", "b", version=60)
    bad[0]["spec"]["ports"][0]["port"] = "eighty"
    server.objects["services"] = good
    with following(settings) as source:
        source.until_synced()
        source.until(lambda: bool(server._watches["services"]))
        server.push("services", "MODIFIED", bad[0])
        source.until(lambda: "ports" in source.reports.get("Service default/a", ""))
        assert source.names() == {"a", "b"}
        server.objects["services"] = bad
        server.script("services", "watch", EXPIRED)
        server.push_bytes("services", None)
        source.until(lambda: len(server.asked("services", "list")) == 2)
        source.until(lambda: bool(server._watches["services"]))
        assert source.names() == {"a", "b"}, "a malformed member of a list is not gone"
        server.push("services", "MODIFIED", versioned(good[0], 70))
        source.until(lambda: source.reports["Service default/a"] == "")


def test_a_malformed_object_that_goes_is_reported_no_more(
    server: Scripted, settings: ApiSettings
) -> None:
    """A report ends with its object."""
    bad = services("a")[0]
    bad["spec"]["clusterIPs"] = ["nonsense"]
    nameless = services("x")[0]
    del nameless["metadata"]["name"]
    server.objects["services"] = [bad, nameless, *services("b")]
    with following(settings) as source:
        source.until_synced()
        assert source.names() == {"b"}
        assert set(source.reports) == {"Service default/a", "Service without a usable name"}
        server.objects["services"] = services("b")
        source.until(lambda: bool(server._watches["services"]))
        server.script("services", "watch", EXPIRED)
        server.push_bytes("services", None)
        source.until(lambda: not any(source.reports.values()))


def test_a_node_that_does_not_exist_counts_as_listed(
    server: Scripted, settings: ApiSettings
) -> None:
    """Services work before the node registers; what is missing is reported until it is there."""
    server.objects["nodes"] = []
    with following(settings) as source:
        source.until_synced()
        assert "--hostname-override" in source.reports["Node n1"]
        source.until(lambda: bool(server._watches["nodes"]))
        server.push("nodes", "ADDED", versioned(builders.node("n2"), 101))
        source.until(lambda: bool(source.reports.get("Node without a usable name")))
        assert source.names(Kind.NODE) == set(), "another node is none of ours"
        server.push("nodes", "ADDED", versioned(builders.node("n1"), 102))
        source.until(lambda: source.names(Kind.NODE) == {"n1"} and not source.reports["Node n1"])
        server.push("nodes", "DELETED", versioned(builders.node("n1"), 103))
        source.until(lambda: source.names(Kind.NODE) == set() and bool(source.reports["Node n1"]))
