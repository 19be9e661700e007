# SPDX-License-Identifier: Apache-2.0
"""Health-check node ports: kube-proxy's own steps, exact answers, addresses, mishaps."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.kube.addresses import parse_address
from pyproxy.model import ObjectName
from pyproxy.serve.http import HttpServer
from pyproxy.serve.service_health import WEIGHT, ServiceHealth
from tests.flows.load import FlowFile, steps_of
from tests.flows.objects import Json
from tests.unit.serve.test_health import free_port

SERVICE = ObjectName("a", "b")
ANYWHERE = (bytes(4),)


class Served:
    """A server of one family whose proxy's health can be set."""

    def __init__(self, *addresses: bytes) -> None:
        self.healthy = True
        self.http = HttpServer()
        self.http.start()
        self.health = ServiceHealth(self.http, addresses or ANYWHERE, lambda: self.healthy)
        self.ports: dict[int, int] = {}

    def port(self, number: int) -> int:
        """Return a free port that stands for one of a file of steps."""
        return self.ports.setdefault(number, free_port())

    def stop(self) -> None:
        """End it."""
        self.http.stop()


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve IPv4 on all addresses for the length of a test."""
    made = Served()
    yield made
    made.stop()


def ask(
    port: int, host: str = "127.0.0.1", method: str = "GET", path: str = "/"
) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether somebody takes connections."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        return sock.connect_ex((host, port)) == 0


def do(one: Served, step: str, current: int) -> int:
    """Do what a step says; return the port as the file has it."""
    ports = [int(each) for each in re.findall(r"(?:NodePort|changed|->) (\d+)", step)]
    endpoints = re.fullmatch(r"(?:proxy unhealthy, )?(\d+)(?: local ready)? endpoints", step)
    if ports:
        for number in ports:
            assert not one.health.sync_services({SERVICE: one.port(number)})
        return ports[-1]
    if endpoints:
        one.healthy = not step.startswith("proxy unhealthy")
        one.health.sync_endpoints({SERVICE: int(endpoints[1])})
    elif step == "endpoint map without the service":
        one.health.sync_endpoints({ObjectName("a", "other"): 3})
    elif step == "service removed":
        assert not one.health.sync_services({})
    else:
        assert step == "proxy healthy again", step
        one.healthy = True
    return current


def expect(one: Served, port: int, wanted: Json | str) -> None:
    """Compare with what a step expects."""
    if wanted == "listener closed":
        assert not listens(one.port(port))
        return
    if isinstance(wanted, str):
        assert wanted.startswith("old listener closed, new opened with count 0"), wanted
        assert [number for number in one.ports if listens(one.port(number))] == [port]
        wanted = {"status": 503, "localEndpoints": 0}
    status, headers, text = ask(one.port(port))
    body = json.loads(text)
    got = {
        "status": status,
        "localEndpoints": body["localEndpoints"],
        "serviceProxyHealthy": body["serviceProxyHealthy"],
        "weightHeader": headers[WEIGHT],
        "listen": f"0.0.0.0:{port}" if listens(one.port(port), "127.0.0.7") else "",
    }
    assert got | wanted == got


def test_healthcheck_server(served: Served, flow_file: FlowFile) -> None:
    """kube-proxy's TestServer, step by step (parity A11)."""
    port = 0
    for step in steps_of(flow_file.path, "healthcheck_server").get("steps", ()):
        port = do(served, step["do"], port)
        expect(served, port, step["expect"])


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "BREW"])
@pytest.mark.parametrize("path", ["/", "/healthz", "/any/thing?x=y", "*"])
def test_any_request_gets_the_same_answer(served: Served, method: str, path: str) -> None:
    """To the byte, with its headers (parity A11.1 to A11.3)."""
    port = free_port()
    name = ObjectName("ns", "svc")
    served.health.sync_services({name: port})
    served.health.sync_endpoints({name: 1})
    status, headers, body = ask(port, method=method, path=path)
    assert body == (
        '{\n\t"service": {\n\t\t"namespace": "ns",\n\t\t"name": "svc"\n\t},\n'
        '\t"localEndpoints": 1,\n\t"serviceProxyHealthy": true\n}'
    )
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Load-Balancing-Endpoint-Weight"] == "1"


def test_families_share_a_port() -> None:
    """Each has its own sockets and its own count; IPv6's take no IPv4 (parity A11.4, A11.6)."""
    port = free_port()
    with ExitStack() as ending:
        for address, count in ((bytes(4), 4), (bytes(16), 6)):
            one = Served(address)
            ending.callback(one.stop)
            assert not one.health.sync_services({SERVICE: port})
            one.health.sync_endpoints({SERVICE: count})
        for host, count in (("127.0.0.1", 4), ("::1", 6)):
            assert json.loads(ask(port, host)[2])["localEndpoints"] == count


def test_chosen_addresses_alone_are_listened_on() -> None:
    """kube-proxy's TestServerWithSelectiveListeningAddress (parity A11.6)."""
    one, port = Served(parse_address("127.0.0.5"), parse_address("127.0.0.6")), free_port()
    assert not one.health.sync_services({SERVICE: port})
    assert [host for host in range(1, 8) if listens(port, f"127.0.0.{host}")] == [5, 6]
    one.stop()


def test_no_address_that_matches_is_said() -> None:
    """NodePortAddresses may match none: a load balancer then finds nobody here."""
    http_server = HttpServer()
    health = ServiceHealth(http_server, (), lambda: True)
    (why,) = health.sync_services({SERVICE: 1}).values()
    assert "nodePortAddresses" in why
    http_server.stop()


def test_a_port_in_use_is_tried_again(served: Served) -> None:
    """The reason is given each time, and another service is served meanwhile (parity A11.7)."""
    port, other = free_port(), free_port()
    wanted = {SERVICE: port, ObjectName("a", "other"): other}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        for _ in range(2):
            failures = served.health.sync_services(wanted)
            assert failures == {SERVICE: f"0.0.0.0:{port}: Address already in use"}
        assert listens(other)
    assert not served.health.sync_services(wanted)
    assert listens(port)


def test_of_several_addresses_all_or_none_are_had() -> None:
    """A port that is free on one of two only is given back there."""
    one, port = Served(parse_address("127.0.0.5"), parse_address("127.0.0.6")), free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.6", port))
        taken.listen()
        assert one.health.sync_services({SERVICE: port})
        assert not listens(port, "127.0.0.5")
    one.stop()


def test_a_port_goes_from_one_service_to_another(served: Served) -> None:
    """In one call: what is closed is free before anything is opened."""
    port, other = free_port(), free_port()
    names = [ObjectName("a", "one"), ObjectName("a", "two")]
    for turn in range(20):
        first, second = names[turn % 2], names[1 - turn % 2]
        assert not served.health.sync_services({first: port, second: other})
        served.health.sync_endpoints({first: 1, second: 0})
        assert json.loads(ask(port)[2])["service"]["name"] == first.name


def test_a_request_that_races_with_closing_is_answered(served: Served) -> None:
    """200 without a body, as kube-proxy does (parity A11.8)."""
    port = free_port()
    served.health.sync_services({SERVICE: port})
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        time.sleep(0.05)
        served.health.sync_services({})
        assert not listens(port)
        client.sendall(b"Host: x\r\nConnection: close\r\n\r\n")
        answer = client.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


def test_a_thousand_services_need_one_thread() -> None:
    """They are opened, asked and closed in a moment, and nothing of them is left."""
    one = Served(parse_address("127.0.0.1"))
    before = len(list(_files()))
    wanted = {ObjectName("ns", f"s{number}"): 0 for number in range(1000)}
    reserved = [_reserve() for _ in wanted]
    wanted = dict(zip(wanted, (sock.getsockname()[1] for sock in reserved), strict=True))
    for sock in reserved:
        sock.close()
    started = time.monotonic()
    failures = one.health.sync_services(wanted)
    assert len(failures) < 10, "somebody else may have taken one"
    one.health.sync_endpoints(dict.fromkeys(wanted, 2))
    for name in list(wanted.keys() - failures.keys())[::50]:
        assert ask(wanted[name])[0] == 200
    one.health.sync_services({})
    assert time.monotonic() - started < 10
    assert len(list(_files())) <= before + 2
    one.stop()


def _reserve() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def _files() -> Iterator[Path]:
    return Path("/proc/self/fd").iterdir()
