# SPDX-License-Identifier: Apache-2.0
"""The server goes away and comes back on the same port, with one history or another."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest

from tests.api.server.asking import SERVICES, WatchClient, get
from tests.apiserver import ApiServer, CommandError, Settings
from tests.builders import service


def test_connections_are_refused_while_it_is_away(plain: ApiServer) -> None:
    """Live connections are reset, new ones refused; later all is as before, on the same port."""
    plain.put(service("a"))
    url = plain.url
    with WatchClient(plain, SERVICES) as watch:
        plain.stop()
        with pytest.raises(ConnectionResetError):
            watch.rest()
    with pytest.raises(ConnectionRefusedError):
        get(plain, SERVICES)
    plain.put(service("b"))
    plain.start()
    assert plain.url == url
    assert get(plain, SERVICES).names == ["a", "b"]


def test_a_mute_server(plain: ApiServer) -> None:
    """Connections open and nothing answers, then it serves again."""
    plain.stop(mute=True)
    address = urlsplit(plain.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=0.05) as one:
        one.sendall(b"GET /version HTTP/1.1\r\n\r\n")
        with pytest.raises(TimeoutError):
            one.recv(1)
    plain.start()
    assert get(plain, SERVICES).status == 200


def test_the_same_history(plain: ApiServer) -> None:
    """A watch goes on from where it was."""
    revision = plain.put(service("a"))
    plain.restart()
    plain.put(service("b"))
    with WatchClient(plain, SERVICES, {"resourceVersion": revision}) as watch:
        assert watch.brief() == ("ADDED", "b")


def test_a_newer_history(plain: ApiServer) -> None:
    """What a client knew is too old, and the objects are there."""
    revision = plain.put(service("a"))
    plain.restart("newer")
    with WatchClient(plain, SERVICES, {"resourceVersion": revision}) as watch:
        assert json.loads(watch.rest())["object"]["code"] == 410
    assert get(plain, SERVICES).names == ["a"]
    assert plain.revision > revision + 100


def test_a_reset_history(plain: ApiServer) -> None:
    """A watch from before hangs, as of a revision not reached; a list begins anew."""
    plain.put(service("a"))
    revision = plain.advance(5000)
    plain.restart("reset")
    listed = get(plain, SERVICES)
    assert listed.names == ["a"]
    assert int(listed.revision) < 100
    with WatchClient(plain, SERVICES, {"resourceVersion": revision}) as watch:
        plain.put(service("b"))
        plain.end_watches()
        assert watch.rest() == b""
    with WatchClient(plain, SERVICES, {"resourceVersion": listed.revision}) as watch:
        assert watch.brief() == ("ADDED", "b")


def test_a_port_that_is_taken(plain: ApiServer) -> None:
    """Two servers cannot have one port, and who starts the second hears so."""
    port = urlsplit(plain.url).port or 0
    with pytest.raises(OSError, match="in use"):
        ApiServer(Settings(tls=False, port=port))


def test_a_history_that_there_is_not(plain: ApiServer) -> None:
    """A misspelt history changes nothing."""
    with pytest.raises(CommandError, match="give one of same, newer, reset"):
        plain.restart("older")
    with pytest.raises(CommandError, match="can't go back"):
        plain.advance(0)
    assert get(plain, SERVICES).status == 200
