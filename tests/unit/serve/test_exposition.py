# SPDX-License-Identifier: Apache-2.0
"""What a scraper reads is what was counted, and 10,000 services cost little."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyproxy.meters import Distribution, Reading, Spec, Type
from pyproxy.model import Family, Protocol, ServicePortName
from pyproxy.serve.exposition import Exposition, bound_text
from pyproxy.serve.servicelines import CHUNK_LINES
from pyproxy.tables import ServiceCounters

TOOK = Spec("took_seconds", Type.HISTOGRAM, "How long.", ("colour",), (0.5, 1.0))
COUNTED = Spec("things_total", Type.COUNTER, "Things.")
# the issue allows 0.5 s; a machine that does other work, too, counts some of it as ours
MOST_CPU_S = 1.0
Counted = Mapping[tuple[Family, ServicePortName], ServiceCounters]


def text_of(exposition: Exposition) -> str:
    """Return the whole text of a scrape."""
    return b"".join(exposition.chunks()).decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of a text by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def many(services: int = 10_000) -> Counted:
    """Return what so many services of both families have."""
    return {
        (family, ServicePortName(f"team-{n % 100}", f"service-{n}", "http", Protocol.TCP)):
            ServiceCounters(n * 7919, n * 104_729, n**3, n**4)
        for n in range(services)
        for family in Family
    }  # fmt: skip


def test_buckets_add_up() -> None:
    """Each bucket has those of the smaller ones, too, and the last one has all."""
    reading = Reading(TOOK, {("red",): Distribution((2, 3, 4), 9.5)})
    found = samples(text_of(Exposition([lambda: [reading]], process=False)))
    red = ("colour", "red")
    assert found == {
        ("took_seconds_bucket", frozenset({red, ("le", "0.5")})): 2,
        ("took_seconds_bucket", frozenset({red, ("le", "1")})): 5,
        ("took_seconds_bucket", frozenset({red, ("le", "+Inf")})): 9,
        ("took_seconds_count", frozenset({red})): 9,
        ("took_seconds_sum", frozenset({red})): 9.5,
    }


@pytest.mark.parametrize(
    ("bound", "text"), [(0.0, "0"), (1.0, "1"), (0.25, "0.25"), (300.0, "300")]
)
def test_bounds_are_written_as_go_writes_them(bound: float, text: str) -> None:
    """A bound is a label: other texts would be other series than kube-proxy's."""
    assert bound_text(bound) == text


def test_a_source_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """All others are there, and the log says so once until it works again."""
    works = True

    def broken() -> Iterator[Reading]:
        if not works:
            raise OSError("the pins are gone")
        yield Reading(COUNTED, {(): 1})

    info = Reading(COUNTED._replace(name="others_total"), {(): 2})
    exposition = Exposition([broken, lambda: [info]], process=False)
    told = []
    for works in (True, False, False, True, False):
        found = {name for name, _ in samples(text_of(exposition))}
        assert found == {"others_total", *(["things_total"] if works else [])}
        told.append(len(caplog.records))
    assert told == [0, 1, 1, 1, 2]


def test_services_that_cannot_be_read_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """As any source: all else is there, and whole."""

    def broken() -> Counted:
        raise ValueError("the map is gone")

    info = Reading(COUNTED, {(): 2})
    exposition = Exposition([lambda: [info]], broken, process=False)
    for _ in range(2):
        assert {name for name, _ in samples(text_of(exposition))} == {"things_total"}
    assert len(caplog.records) == 1


def test_each_service_has_its_counters() -> None:
    """By namespace, name, port, protocol, family; connections by their path."""
    web = ServicePortName("shop", "web", "http", Protocol.TCP)
    dns = ServicePortName("kube-system", "dns", "", Protocol.UDP)
    counted = {
        (Family.IPV4, web): ServiceCounters(1, 2, 3, 4),
        (Family.IPV6, dns): ServiceCounters(5, 6, 7, 8 * 10**18),
    }
    found = samples(text_of(Exposition([], lambda: counted, process=False)))
    expected: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for (family, name), (sockets, packeted, packets, number) in counted.items():
        of_port = {
            ("namespace", name.namespace),
            ("service", name.name),
            ("port", name.port),
            ("protocol", name.protocol.name),
            ("ip_family", family.label),
        }
        connections = "pyproxy_service_connections_total"
        expected |= {
            (connections, frozenset({*of_port, ("path", "socket")})): sockets,
            (connections, frozenset({*of_port, ("path", "packet")})): packeted,
            ("pyproxy_service_packets_total", frozenset(of_port)): packets,
            ("pyproxy_service_bytes_total", frozenset(of_port)): number,
        }
    assert found == expected


def test_labels_are_escaped() -> None:
    """Names of objects need no escapes; a manifest may have any."""
    odd = 'a"b\\c\nd'
    name = ServicePortName("ns", odd, "", Protocol.TCP)
    counted = {(Family.IPV4, name): ServiceCounters(1, 2, 3, 4)}
    found = samples(text_of(Exposition([], lambda: counted, process=False)))
    assert {dict(labels)["service"] for _, labels in found} == {odd}


def test_without_services_there_is_nothing_of_them() -> None:
    """serviceMetrics: false."""
    assert text_of(Exposition([], process=False)) == ""


def test_the_processs_own_are_there() -> None:
    """Those that dashboards of kube-proxy show."""
    found = {name for name, _ in samples(text_of(Exposition([])))}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= found


def test_ten_thousand_services_cost_little_and_come_in_pieces() -> None:
    """0.1 s of a CPU for 80,000 samples, of which there are never all in memory."""
    counted = many()
    exposition = Exposition([], lambda: counted)
    best, longest, lines = MOST_CPU_S, 0, 0
    for _ in range(3):
        started = time.process_time()
        pieces = [(len(piece), piece.count(b"\n")) for piece in exposition.chunks()]
        best = min(best, time.process_time() - started)
        longest = max(length for length, _ in pieces)
        lines = sum(count for _, count in pieces)
    print(f"{lines} lines: {best:.3f} s of a CPU, with the process's own")
    assert best < MOST_CPU_S
    assert longest < CHUNK_LINES * 300
    assert lines > 80_000
