# SPDX-License-Identifier: Apache-2.0
"""The API source and the tests' API server: what either of them alone might get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.kube.api_config import ApiSettings
from pyproxy.kube.api_troubles import SERVER
from pyproxy.kube.events import Kind
from tests import builders
from tests.api.source.api_following import FAST, Followed, following
from tests.apiserver import ApiServer, Settings

SERVICES = "API server: services"


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server with this node, a Service and its slice."""
    with ApiServer(Settings(tls=False)) as one:
        one.put(builders.node("n1"), service(1), builders.endpoint_slice())
        yield one


@pytest.fixture
def source(server: ApiServer, tmp_path: Path) -> Iterator[Followed]:
    """A source that follows it, all its watches begun."""
    settings = ApiSettings(server.kubeconfig(tmp_path / "config"))
    with following(settings, FAST._replace(page=2)) as one:
        one.until_synced()
        one.until(lambda: server.watches() == 3)
        yield one


def service(ip: int, name: str = "web") -> builders.Json:
    """Return the Service 10.0.0.`ip`."""
    return builders.service(name, cluster_ip=f"10.0.0.{ip}")


def all_is_well(server: ApiServer, source: Followed) -> None:
    """Check that changes arrive, that no trouble is left, and that only `old` ever went."""
    server.put(service(200, "last"))
    source.until(lambda: source.ip("last") == 200)
    source.until_calm()
    assert source.names(Kind.ENDPOINT_SLICE) == {"web-a"}
    assert source.names(Kind.NODE) == {"n1"}
    assert set(source.deletions()) <= {"old"}
    assert source.synced == 1


def test_pages_and_events(server: ApiServer, source: Followed) -> None:
    """Lists of several pages, then what happens afterwards."""
    server.put(*[service(n, f"s{n}") for n in range(2, 9)], service(9, "old"))
    source.until(lambda: len(source.names()) == 9)
    server.compact()
    server.cut_watches()
    source.until(lambda: len(server.asked("services", "list")) >= 6)
    server.delete("Service", "default", "old")
    source.until(lambda: "old" not in source.names())
    labels = {"service.kubernetes.io/service-proxy-name": "other"}
    server.put(builders.service("s2", cluster_ip="10.0.0.2", labels=labels))
    source.until(lambda: "s2" not in source.names())


@pytest.mark.parametrize("answer", ["event", "status"])
def test_a_compacted_history(server: ApiServer, source: Followed, answer: str) -> None:
    """410 in both forms: what went meanwhile is gone afterwards, and nothing else."""
    server.put(service(9, "old"))
    source.until(lambda: "old" in source.names())
    server.stop()
    source.until_trouble(SERVER, "refused")
    server.delete("Service", "default", "old")
    server.compact(answer=answer)
    assert source.names() == {"web", "old"}
    server.start()
    source.until(lambda: source.names() == {"web"})
    all_is_well(server, source)


@pytest.mark.parametrize("history", ["same", "newer", "reset"])
def test_a_restart(server: ApiServer, source: Followed, history: str) -> None:
    """Whatever the server remembers, the source finds to it again."""
    server.advance(to=5000)
    server.bookmark()
    server.restart(history=history)
    server.put(service(7))
    source.until(lambda: source.ip("web") == 7)
    all_is_well(server, source)


def test_a_server_that_takes_connections_and_no_more(server: ApiServer, source: Followed) -> None:
    """A mute server is a trouble as good as a dead one."""
    server.stop(mute=True)
    source.until_trouble(SERVER, "does not answer")
    server.start()
    all_is_well(server, source)


def test_watches_that_die_silently(server: ApiServer, source: Followed) -> None:
    """Open connections that carry nothing any more are noticed, and nothing is missed."""
    server.bookmark()
    server.silence_watches()
    server.put(service(8))
    source.until(lambda: source.ip("web") == 8)
    all_is_well(server, source)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("cut", {"at": "chunk"}),
        ("cut", {"at": "line"}),
        ("lie", {"how": "garbage"}),
        ("lie", {"how": "half"}),
        ("lie", {"how": "kind"}),
        ("lie", {"how": "duplicate"}),
        ("lie", {"how": "stale"}),
        ("lie", {"how": "empty"}),
        ("slow", {}),
    ],
    ids=str,
)
def test_a_fault_in_a_watch(
    server: ApiServer, source: Followed, kind: str, options: dict[str, str]
) -> None:
    """After any fault in a line, the next change of the object is right again."""
    server.fault(kind, "services", "watch", **options)
    server.put(service(5))
    server.put(service(6))
    source.until(lambda: source.ip("web") == 6)
    all_is_well(server, source)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("stall", {}),
        ("answer", {"status": 429, "retry_after": 1}),
        ("answer", {"status": 500}),
        ("answer", {"status": 503}),
        ("cut", {"at": "chunk"}),
        ("cut", {"at": "line"}),
        ("lie", {"how": "garbage"}),
        ("lie", {"how": "half"}),
        ("lie", {"how": "kind"}),
        ("lie", {"how": "duplicate"}),
        ("lie", {"how": "stale"}),
        ("lie", {"how": "empty"}),
        ("slow", {"size": 256}),
    ],
    ids=str,
)
def test_a_fault_in_a_relist(
    server: ApiServer, source: Followed, kind: str, options: dict[str, object]
) -> None:
    """A list that goes wrong takes nothing away, and the next one puts things right."""
    server.fault(kind, "services", "list", **options)
    server.compact()
    server.put(service(5))
    server.cut_watches("services")
    source.until(lambda: source.ip("web") == 5)
    all_is_well(server, source)


def test_a_right_that_is_taken_away(server: ApiServer, source: Followed) -> None:
    """403 names the right; what was programmed stays, and all goes on when it is given back."""
    server.forbid("services", "watch")
    server.cut_watches("services")
    source.until_trouble(SERVICES, '"watch"', '"services"')
    server.put(service(4))
    assert source.ip("web") == 1
    server.permit("services", "watch")
    source.until(lambda: source.ip("web") == 4)
    all_is_well(server, source)
