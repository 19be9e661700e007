# SPDX-License-Identifier: Apache-2.0
"""Lists: selectors, pages, resource versions, single objects, and what the server refuses."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.api.server.asking import (
    NODES,
    SERVICES,
    SLICES,
    Query,
    Reply,
    bearer,
    connect,
    get,
    read_reply,
)
from tests.apiserver import ApiServer, CommandError
from tests.builders import endpoint_slice, node, service

KUBE_PROXY_SERVICES = {
    "labelSelector": "!service.kubernetes.io/service-proxy-name",
    "fieldSelector": "spec.clusterIP!=None",
}


def fill(server: ApiServer, count: int) -> int:
    """Put so many services s0, s1, ... and return the revision."""
    return server.put(*(service(f"s{index}") for index in range(count)))


def pages(server: ApiServer, query: Query) -> list[Reply]:
    """List to the end."""
    replies = [get(server, SERVICES, query)]
    while token := replies[-1].json["metadata"].get("continue"):
        replies.append(get(server, SERVICES, {**query, "continue": token}))
    return replies


def test_kube_proxys_selectors(plain: ApiServer) -> None:
    """A1.1: no headless services, none of another proxy; services without an address stay."""
    foreign = service("foreign", labels={"service.kubernetes.io/service-proxy-name": "x"})
    plain.put(service("a"), service("headless", cluster_ip="None"), foreign)
    plain.put(service("empty", cluster_ips=()))
    assert get(plain, SERVICES, KUBE_PROXY_SERVICES).names == ["a", "empty"]
    headless = endpoint_slice("b", labels={"service.kubernetes.io/headless": ""})
    plain.put(endpoint_slice("a"), headless)
    query = {"labelSelector": "!service.kubernetes.io/headless"}
    assert get(plain, SLICES, query).names == ["a"]
    plain.put(node("n1"), node("n2"))
    assert get(plain, NODES, {"fieldSelector": "metadata.name=n2"}).names == ["n2"]


def test_pages_add_up(plain: ApiServer) -> None:
    """Pages hold each object once, say what remains, and are of one revision."""
    revision = fill(plain, 5)
    replies = pages(plain, {"limit": 2})
    assert [reply.names for reply in replies] == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    assert {reply.revision for reply in replies} == {str(revision)}
    remaining = [reply.json["metadata"].get("remainingItemCount") for reply in replies]
    assert remaining == [3, 1, None]


def test_pages_of_a_selection_do_not_count(plain: ApiServer) -> None:
    """With a selector what remains is unknown, and the last page may be empty."""
    plain.put(service("a"), service("b", cluster_ip="None"))
    first, last = pages(plain, {**KUBE_PROXY_SERVICES, "limit": 1})
    assert (first.names, last.names) == (["a"], [])
    assert "remainingItemCount" not in first.json["metadata"]


def test_pages_within_a_namespace(plain: ApiServer) -> None:
    """A namespace's list holds its objects alone, in pages too."""
    plain.put(*(service(name, namespace=space) for space in ("a", "b", "b-c") for name in "xyz"))
    path = "/api/v1/namespaces/b/services"
    first = get(plain, path, {"limit": 2})
    token = first.json["metadata"]["continue"]
    last = get(plain, path, {"limit": 2, "continue": token})
    assert (first.names, last.names) == (["x", "y"], ["z"])
    assert {item["metadata"]["namespace"] for item in first.json["items"]} == {"b"}


def test_pages_expire(plain: ApiServer) -> None:
    """After a compaction a page is 410, and its new token goes on with what there is now."""
    fill(plain, 3)
    token = get(plain, SERVICES, {"limit": 1}).json["metadata"]["continue"]
    plain.delete("Service", "default", "s1")
    plain.compact()
    gone = get(plain, SERVICES, {"limit": 1, "continue": token})
    assert (gone.status, gone.json["reason"]) == (410, "Expired")
    again = {"limit": 1, "continue": gone.json["metadata"]["continue"]}
    assert get(plain, SERVICES, again).names == ["s2"]


def test_resource_versions_of_lists(plain: ApiServer) -> None:
    """Unset and 0 are now; Exact, or a limit with a revision, is then; else at least then."""
    then = fill(plain, 1)
    now = plain.put(service("later"))
    both = ["later", "s0"]
    at_then: Query = {"resourceVersion": then}
    assert get(plain, SERVICES).revision == str(now)
    assert get(plain, SERVICES, {"resourceVersion": 0, "limit": 1}).names == both
    assert get(plain, SERVICES, at_then).names == both
    assert get(plain, SERVICES, {**at_then, "resourceVersionMatch": "NotOlderThan"}).names == both
    exact = get(plain, SERVICES, {**at_then, "resourceVersionMatch": "Exact"})
    assert (exact.names, exact.revision) == (["s0"], str(then))
    assert get(plain, SERVICES, {**at_then, "limit": 9}).names == ["s0"]
    plain.compact()
    assert get(plain, SERVICES, {**at_then, "resourceVersionMatch": "Exact"}).status == 410


def test_a_list_of_the_future_waits() -> None:
    """A list at a revision that is reached in time is answered."""
    with ApiServer() as server:
        revision = fill(server, 1)
        connection = connect(server)
        path = f"{SERVICES}?resourceVersion={revision + 1}"
        connection.request("GET", path, headers=bearer(server.token))
        server.put(service("awaited"))
        assert read_reply(connection).names == ["awaited", "s0"]
        connection.close()


def test_an_object_changes_only_by_difference(plain: ApiServer) -> None:
    """An equal put changes nothing; another keeps uid and counts a slice's generation."""
    first = plain.put(endpoint_slice())
    assert plain.put(endpoint_slice()) == first
    before = get(plain, SLICES).json["items"][0]["metadata"]
    second = plain.put(endpoint_slice(addresses=("10.0.0.9",)))
    after = get(plain, SLICES).json["items"][0]["metadata"]
    assert (before["generation"], after["generation"]) == (1, 2)
    assert (before["uid"], after["resourceVersion"]) == (after["uid"], str(second))


def test_an_object_of_nothing_but_its_name(plain: ApiServer) -> None:
    """What an object lacks is not made up, and its JSON is whole."""
    plain.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bare"}})
    (bare,) = get(plain, NODES).json["items"]
    assert bare.keys() == {"metadata"}


def test_single_objects(plain: ApiServer) -> None:
    """An object by its name has kind and apiVersion; one that isn't there is 404."""
    plain.put(service("web"), node("n1"))
    found = get(plain, "/api/v1/namespaces/default/services/web").json
    assert (found["kind"], found["apiVersion"], found["metadata"]["name"]) == (
        "Service",
        "v1",
        "web",
    )
    assert get(plain, "/api/v1/nodes/n1").json["kind"] == "Node"
    missing = get(plain, "/api/v1/nodes/n2")
    assert (missing.status, missing.json["message"]) == (404, 'nodes "n2" not found')


@pytest.mark.parametrize(
    ("query", "status", "part"),
    [
        ({"labelSelector": "a b"}, 400, "unable to parse requirement"),
        ({"fieldSelector": "spec.ports=1"}, 400, "field label not supported: spec.ports"),
        ({"continue": "nonsense!"}, 400, "continue key is not valid"),
        ({"resourceVersion": "abc"}, 400, "invalid syntax"),
        ({"limit": "few"}, 400, "invalid syntax"),
        ({"resourceVersionMatch": "Exact"}, 422, "unless resourceVersion is provided"),
        ({"resourceVersionMatch": "Exact", "resourceVersion": "0"}, 422, "forbidden"),
        ({"sendInitialEvents": "true"}, 422, "forbidden for list"),
        ({"watch": "1", "sendInitialEvents": "true"}, 422, "NotOlderThan"),
        ({"watch": "1", "resourceVersionMatch": "Exact"}, 422, "unless sendInitialEvents"),
    ],
)
def test_wrong_requests(plain: ApiServer, query: Query, status: int, part: str) -> None:
    """What the API server does not understand it refuses, and so is a client's mistake seen."""
    reply = get(plain, SERVICES, query)
    assert reply.status == status
    assert part in reply.json["message"]


def test_other_paths(plain: ApiServer) -> None:
    """The version and the health paths answer; unknown paths are 404."""
    assert get(plain, "/version").json["gitVersion"].startswith("v1.")
    assert get(plain, "/version/").status == 200
    assert get(plain, "/readyz").body == b"ok"
    assert get(plain, "/api/v1/pods").status == 404


def test_programs_get_compact_json(plain: ApiServer) -> None:
    """Only people (curl, browsers, ?pretty) get line breaks; big answers are zipped if wanted."""
    fill(plain, 400)
    reply = get(plain, SERVICES)
    assert reply.body.count(b"\n") == 1
    assert reply.headers["transfer-encoding"] == "chunked"
    assert get(plain, SERVICES, {"pretty": "true"}).body.count(b"\n") > 300
    zipped = get(plain, SERVICES, None, {"Accept-Encoding": "gzip", **bearer(plain.token)})
    assert zipped.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(zipped.body)) == reply.json


@pytest.mark.parametrize(
    "value", [{"kind": "Pod", "apiVersion": "v1", "metadata": {}}, service("")]
)
def test_what_cannot_be_put(plain: ApiServer, value: dict[str, object]) -> None:
    """Unknown kinds and nameless objects are a test's mistake, said in a sentence."""
    with pytest.raises(CommandError, match=r"give one of|needs metadata\.name"):
        plain.put(value)
