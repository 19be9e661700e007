# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on demand is exactly what was asked for, as often, and for whom."""

from __future__ import annotations

import http.client
import json
import time

import pytest

from tests.api.server.asking import NODES, SERVICES, SLICES, WatchClient, get
from tests.apiserver import ApiServer
from tests.apiserver.faults import GARBAGE
from tests.builders import endpoint_slice, service
from tests.lab.waiting import wait_for


@pytest.mark.parametrize(
    ("status", "retry_after", "reason"),
    [(429, 7, ""), (500, None, "InternalError"), (503, 2, "ServiceUnavailable")],
)
def test_another_status(
    plain: ApiServer, status: int, retry_after: int | None, reason: str
) -> None:
    """It befalls as many requests as asked, of that resource and verb; 429 is plain text."""
    plain.fault("answer", "services", "list", times=2, status=status, retry_after=retry_after)
    assert get(plain, NODES).status == 200
    replies = [get(plain, SERVICES) for _ in range(3)]
    assert [reply.status for reply in replies] == [status, status, 200]
    assert replies[0].headers.get("retry-after") == (str(retry_after) if retry_after else None)
    assert (replies[0].json["reason"] if reason else "") == reason
    assert [seen.status for seen in plain.asked("services", "list")] == [status, status, 200]


def test_a_stalled_request(plain: ApiServer) -> None:
    """The request is read, and nothing comes back."""
    plain.fault("stall", "services")
    with pytest.raises(TimeoutError):
        get(plain, SERVICES, timeout_s=0.1)
    assert [seen.status for seen in plain.asked("services", "list")] == [0]
    assert get(plain, SERVICES).status == 200


def test_a_watch_stalled_after_its_headers(plain: ApiServer) -> None:
    """The watch looks alive but hears nothing, and is no watch of the server's."""
    plain.put(service())
    plain.fault("stall", "services", "watch", headers=True)
    with WatchClient(plain, SERVICES, timeout_s=0.1) as watch:
        assert watch.answer.status == 200
        assert plain.watches() == 0
        with pytest.raises(TimeoutError):
            watch.line()


def test_a_list_cut_in_a_chunk(plain: ApiServer) -> None:
    """The connection closes before the chunk is whole."""
    plain.put(service())
    plain.fault("cut", "services")
    with pytest.raises(http.client.IncompleteRead):
        get(plain, SERVICES)
    assert get(plain, SERVICES).names == ["web"]


def test_a_list_cut_in_its_json(plain: ApiServer) -> None:
    """The answer is whole as HTTP, half as JSON."""
    plain.put(service())
    whole = get(plain, SERVICES).body
    plain.fault("cut", "services", at="line")
    assert get(plain, SERVICES).body == whole[: len(whole) // 2]


def test_a_watch_cut_in_a_chunk(plain: ApiServer) -> None:
    """A live watch's next line breaks off with its connection."""
    with WatchClient(plain, SLICES, {"resourceVersion": plain.revision}) as watch:
        plain.put(endpoint_slice("whole"))
        assert watch.brief() == ("ADDED", "whole")
        plain.fault("cut", "endpointslices", "watch")
        plain.put(endpoint_slice("cut"))
        with pytest.raises(http.client.IncompleteRead):
            watch.rest()


def test_a_watch_cut_in_a_line(plain: ApiServer) -> None:
    """Half a line, then a clean end."""
    with WatchClient(plain, SLICES, {"resourceVersion": plain.revision}) as watch:
        plain.fault("cut", "endpointslices", "watch", at="line")
        plain.put(endpoint_slice())
        half = watch.rest()
    assert half.startswith(b'{"type":"ADDED"')
    assert not half.endswith(b"\n")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("garbage", [GARBAGE]),
        ("empty", [b"\n"]),
        ("half", [b'{"type":"MODIFIED","object":{"kind":"EndpointSlice"']),
        ("kind", [b'{"type":"MODIFIED","object":{"kind":"Pod","apiVersion"']),
        ("duplicate", [b'{"type":"MODIFIED"', b'{"type":"MODIFIED"']),
        ("stale", [b'{"type":"MODIFIED"', b'{"type":"MODIFIED"']),
    ],
)
def test_a_watch_that_lies(plain: ApiServer, how: str, expected: list[bytes]) -> None:
    """The line after the lie is true again."""
    revision = plain.put(endpoint_slice("web"))
    with WatchClient(plain, SLICES, {"resourceVersion": revision}) as watch:
        plain.fault("lie", "endpointslices", "watch", how=how)
        plain.put(endpoint_slice("web", addresses=("10.0.0.9",)), endpoint_slice("true"))
        lines = [watch.line() for _ in expected]
        assert watch.brief() == ("ADDED", "true")
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True))
    if how == "duplicate":
        assert lines[0] == lines[1]
    if how == "stale":
        new, old = (json.loads(line)["object"] for line in lines)
        assert int(old["metadata"]["resourceVersion"]) < int(new["metadata"]["resourceVersion"])
        assert old["endpoints"][0]["addresses"] == ["10.244.1.2"]


def test_a_list_that_lies(plain: ApiServer) -> None:
    """Status 200, and each kind of nonsense, once; then the truth."""
    plain.put(service("a"), service("b"))
    bodies = {}
    for how in ("garbage", "empty", "half", "kind", "duplicate", "stale"):
        plain.fault("lie", "services", "list", how=how)
        reply = get(plain, SERVICES)
        assert reply.status == 200
        bodies[how] = reply
    assert bodies["garbage"].body == GARBAGE
    assert bodies["empty"].body == b""
    assert bodies["kind"].json["kind"] == "PodList"
    assert bodies["duplicate"].names == ["a", "a", "b"]
    assert bodies["stale"].revision == "1"
    with pytest.raises(json.JSONDecodeError):
        bodies["half"].json  # noqa: B018 - reading it is the point
    assert get(plain, SERVICES).names == ["a", "b"]


def test_a_slow_answer(plain: ApiServer) -> None:
    """It drips, for lists and for lines of watches, and is whole in the end."""
    plain.put(service())
    whole = get(plain, SERVICES).body
    plain.fault("slow", "services", times=2, size=64, pause_s=0.002)
    started = time.monotonic()
    assert get(plain, SERVICES).body == whole
    assert time.monotonic() - started > len(whole) / 64 * 0.002
    with WatchClient(plain, SERVICES) as watch:
        assert watch.brief() == ("ADDED", "web")


def test_a_watch_that_dies_silently(plain: ApiServer) -> None:
    """Live watches of the resource hear nothing more; the next watch is as always."""
    query = {"resourceVersion": plain.put(service("a"))}
    with WatchClient(plain, SERVICES, query, timeout_s=0.1) as dead:
        assert plain.silence_watches("endpointslices") == 0
        assert plain.silence_watches("services") == 1
        plain.put(service("b"))
        plain.bookmark()
        plain.end_watches()
        with pytest.raises(TimeoutError):
            dead.line()
        assert plain.watches() == 0
        with WatchClient(plain, SERVICES, query) as other:
            assert other.brief() == ("ADDED", "b")


def test_live_watches_are_reset(plain: ApiServer) -> None:
    """The client sees its connection reset at once."""
    with WatchClient(plain, SERVICES) as watch:
        wait_for(lambda: plain.watches("services"), 2, "the watch")
        assert plain.cut_watches("services") == 1
        with pytest.raises(ConnectionResetError):
            watch.line()
    wait_for(lambda: plain.watches() == 0, 2, "the watch to be forgotten")


def test_faults_are_cleared(plain: ApiServer) -> None:
    """A fault without end ends when it is cleared."""
    plain.fault("answer", times=None, status=503)
    assert {get(plain, path).status for path in (SERVICES, SLICES, NODES)} == {503}
    plain.clear_faults()
    assert get(plain, SERVICES).status == 200


@pytest.mark.parametrize(
    "options", [{"kind": "flood"}, {"kind": "lie", "how": "boast"}, {"kind": "cut", "verb": "sing"}]
)
def test_a_fault_that_there_is_not(plain: ApiServer, options: dict[str, str]) -> None:
    """Misspelt faults are said to be so, with what there is."""
    with pytest.raises(ValueError, match="give one of"):
        plain.fault(**options)
