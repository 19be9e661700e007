# SPDX-License-Identifier: Apache-2.0
"""ServiceCIDRs: only in nftables mode, and from API servers that may not have or show them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pyproxy.kube.api_config import ApiSettings
from pyproxy.kube.api_pace import Backoff, Pace
from pyproxy.kube.api_troubles import SERVER
from pyproxy.kube.events import Kind
from tests import builders
from tests.api.source.api_following import (
    FAST,
    Followed,
    following,
    kubeconfig,
    without_garbage,
)
from tests.api.source.scripted import Answer, served, silence, status, text
from tests.apiserver import ApiServer, Seen, Settings

PLURAL = "servicecidrs"
TROUBLE = f"API server: {PLURAL}"
DISCOVERY = "/apis/networking.k8s.io/v1"
HOUR_S = 3600.0
RARE = FAST._replace(absent_least_s=HOUR_S, absent_most_s=2 * HOUR_S)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server with this node, a Service and the cluster's ServiceCIDR."""
    with ApiServer(Settings(tls=False)) as one:
        web = builders.service(cluster_ip="10.0.0.1")
        one.put(builders.node("n1"), web, builders.service_cidr())
        yield one


@pytest.fixture
def settings(server: ApiServer, tmp_path: Path) -> ApiSettings:
    """How to reach it."""
    return ApiSettings(server.kubeconfig(tmp_path / "config"))


follow = partial(following, service_cidrs=True)


def found(source: Followed) -> set[str]:
    """Return the names of the ServiceCIDRs that count."""
    return source.names(Kind.SERVICE_CIDR)


def discoveries(server: ApiServer) -> list[Seen]:
    """Return the questions of what there is."""
    return [one for one in server.requests if one.path == DISCOVERY]


def works(server: ApiServer, source: Followed) -> None:
    """Check that all the rest goes on."""
    server.put(builders.service("last", cluster_ip="10.0.0.200"))
    source.until(lambda: source.ip("last") == 200)
    assert source.synced == 1


def test_they_are_listed_and_watched(server: ApiServer, settings: ApiSettings) -> None:
    """All of them, without selectors (A1.1); Synced waits for them."""
    with follow(settings) as source:
        source.until_synced()
        key = (Kind.SERVICE_CIDR, "kubernetes")
        assert source.objects[key] == builders.service_cidr_record()
        assert server.asked(PLURAL, "list")[0].query == {"limit": "500"}
        server.put(builders.service_cidr("more", ["9.0.0.0/8"]))
        source.until(lambda: found(source) == {"kubernetes", "more"})
        server.delete("ServiceCIDR", "", "kubernetes")
        source.until(lambda: found(source) == {"more"})
        server.put(builders.service_cidr("more", ["9.0.0.0"]))
        source.until(lambda: "$.spec.cidrs[0]" in source.reports.get("ServiceCIDR more", ""))
        assert found(source) == {"more"}, "the last good version counts"


def test_other_modes_do_not_ask(server: ApiServer, settings: ApiSettings) -> None:
    """Nobody needs them there."""
    with following(settings) as source:
        source.until_synced()
        works(server, source)
        assert not server.asked(PLURAL, "list")
        assert found(source) == set()


def test_synced_waits_for_their_list(tmp_path: Path) -> None:
    """As long as the server may have them, whatever it says instead of a list."""
    with served() as server:
        server.always(PLURAL, "list", status(500, "InternalError"))
        with follow(ApiSettings(kubeconfig(tmp_path / "config", server.url))) as source:
            source.until_trouble(TROUBLE, "answers 500")
            source.until(lambda: bool(server.asked("services", "watch")))
            source.until(lambda: len(server.asked(PLURAL, "list")) >= 4)
            assert not source.synced
            server.always(PLURAL, "list", None)
            source.until_synced()
            source.until_calm()


def test_a_cluster_without_them_is_no_trouble(server: ApiServer, settings: ApiSettings) -> None:
    """Before Kubernetes 1.33: all else works, and they are followed once they are there."""
    server.withdraw(PLURAL)
    with follow(settings) as source:
        source.until_synced()
        source.until(lambda: len(server.asked(PLURAL, "list")) >= 3)
        works(server, source)
        assert source.troubles == {}
        assert source.reports == {}
        server.offer(PLURAL)
        source.until(lambda: found(source) == {"kubernetes"})
        server.put(builders.service_cidr("more", ["9.0.0.0/8"]))
        source.until(lambda: found(source) == {"kubernetes", "more"})
        assert source.troubles == {}
        assert source.synced == 1


def test_what_is_not_there_is_asked_for_rarely(server: ApiServer, settings: ApiSettings) -> None:
    """Once is enough for long, on no connection that stands about; stop() waits for nothing."""
    server.withdraw(PLURAL)
    with follow(settings, RARE) as source:
        source.until_synced()
        works(server, source)
        time.sleep(0.1)
        assert len(server.asked(PLURAL, "list")) == 1
        transports = {
            thread.name: line._transport
            for thread, line in zip(source.source._threads, source.source._lines, strict=True)
        }
        assert transports.pop(f"api-{PLURAL}") is None
        assert all(transports.values()), "the others are watching"
        began = time.monotonic()
    assert time.monotonic() - began < 0.5


def test_it_is_asked_for_once_an_hour_in_the_end() -> None:
    """Soon at first, in case somebody in between said so; all nodes at times of their own."""
    assert waits(0.0) == [0.0, *[60.0] * 8]
    assert waits(1.0) == [60.0 * 2**n for n in range(6)] + [HOUR_S] * 3


def waits(chance: float) -> list[float]:
    """Return the first waits for what is not there, as chance has it."""
    backoff = Backoff(Pace().of_absent, lambda: chance)
    return [backoff.next_s() for _ in range(9)]


def test_a_right_that_is_missing_is_named(server: ApiServer, settings: ApiSettings) -> None:
    """The server has them: what to allow is said, and what is not done until then."""
    server.forbid(PLURAL, "list")
    with follow(settings) as source:
        source.until_synced()
        trouble = source.until_trouble(TROUBLE, '"list"', f'"{PLURAL}"', '"networking.k8s.io"')
        assert trouble.message.endswith("packets to addresses that no Service has are not dropped")
        works(server, source)
        assert set(source.troubles) == {TROUBLE}
        server.forbid(PLURAL, "watch")
        server.permit(PLURAL, "list")
        source.until_trouble(TROUBLE, '"watch"')
        assert found(source) == {"kubernetes"}
        server.permit(PLURAL, "watch")
        source.until_calm()
        server.delete("ServiceCIDR", "", "kubernetes")
        source.until(lambda: found(source) == set())


def test_no_right_to_what_is_not_there_is_no_trouble(
    server: ApiServer, settings: ApiSettings
) -> None:
    """Clusters before 1.33 answer 403 first: their role for kube-proxy lacks the right."""
    server.withdraw(PLURAL)
    server.forbid(PLURAL)
    with follow(settings) as source:
        source.until_synced()
        source.until(lambda: len(discoveries(server)) >= 2)
        works(server, source)
        assert source.troubles == {}
        server.offer(PLURAL)
        source.until_trouble(TROUBLE, "403")
        server.permit(PLURAL)
        source.until_calm()
        assert found(source) == {"kubernetes"}


@pytest.mark.parametrize(
    ("discovery", "is_trouble"),
    [
        (status(404, "NotFound"), False),
        (text(b'{"kind": "APIResourceList", "resources": null}'), False),
        (text(b'{"kind": "APIResourceList", "resources": [{"name": "servicecidrs"}]}'), True),
        (text(b'{"kind": "APIResourceList", "resources": 7}'), True),
        (text(b'{"kind": "Status"}'), True),
        (text(b"<html>login</html>"), True),
        (text(b"[" * 100_000), True),
        (status(403, "Forbidden"), True),
        (status(500, "InternalError"), True),
        (silence(), True),
    ],
    ids=["404", "none", "some", "malformed", "kind", "html", "deep", "403", "500", "silence"],
)
def test_a_doubtful_server_counts_as_one_that_has_them(
    tmp_path: Path, discovery: Answer, *, is_trouble: bool
) -> None:
    """Only a whole answer says that there are none; the first one that is right ends it."""
    with served() as server, without_garbage():
        server.always(PLURAL, "list", status(403, "Forbidden"))
        server.always("v1", "list", discovery)
        with follow(ApiSettings(kubeconfig(tmp_path / "config", server.url))) as source:
            source.until_synced()
            if is_trouble:
                source.until_trouble(TROUBLE, "403")
            source.until(lambda: len(server.asked(PLURAL, "list")) >= 3)
            assert bool(source.message(TROUBLE)) is is_trouble
            server.always(PLURAL, "list", None)
            source.until(lambda: bool(server.asked(PLURAL, "watch")))
            source.until_calm()


def test_what_was_there_stays_when_the_kind_goes(server: ApiServer, settings: ApiSettings) -> None:
    """API servers of two releases during an upgrade: an error removes nothing, a list does."""
    with follow(settings) as source:
        source.until_synced()
        source.until(lambda: server.watches(PLURAL) == 1)
        server.forget_requests()
        server.withdraw(PLURAL)
        source.until(lambda: len(server.asked(PLURAL, "list")) >= 3)
        assert found(source) == {"kubernetes"}
        assert source.troubles == {}
        server.put(builders.service_cidr("more", ["9.0.0.0/8"]))
        server.delete("ServiceCIDR", "", "kubernetes")
        server.offer(PLURAL)
        source.until(lambda: found(source) == {"more"})
        works(server, source)


def test_a_server_that_goes_away_is_a_trouble_as_ever(
    server: ApiServer, settings: ApiSettings
) -> None:
    """Whether it has them or not."""
    server.withdraw(PLURAL)
    with follow(settings) as source:
        source.until_synced()
        server.stop()
        source.until_trouble(SERVER, "refused")
        server.start()
        source.until_calm()
        works(server, source)
