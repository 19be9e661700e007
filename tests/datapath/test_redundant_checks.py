# SPDX-License-Identifier: Apache-2.0
"""Checks that stand in several places, each looked at where only it can tell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pyproxy.kernel import libbpf, links
from pyproxy.model import Family, Protocol
from tests.datapath.asking import Answer, Told, ask, ask_connected, draw, errno_of
from tests.datapath.flavours import PORT, Flavour, named
from tests.datapath.node import Node
from tests.datapath.services import refusing, service, service_name
from tests.datapath.test_stale import Maps

UDP = Protocol.UDP

# struct connected (bpf/types.h): where the words of its value stand
FAMILY_WORD, CHECK_WORD = 0, 1
# struct association, counted from its end
SERVICE_ID_WORD, ASSOCIATION_CHECK_WORD = -3, -1


def connected(node: Node, protocol: Protocol) -> Path:
    """Return where the map of connected sockets is pinned."""
    name = "connected" if protocol is Protocol.TCP else "connected_udp"
    return node.loaded[Family.IPV4].pins.shared / name


def rewrite(pin: Path, change: Callable[[bytearray], None]) -> None:
    """Change all values of a hash map."""
    with links.opened(pin) as fd:
        shape = libbpf.map_info(fd)
        for key, value in libbpf.map_dump(fd, shape.key_size, shape.value_size):
            changed = bytearray(value)
            change(changed)
            libbpf.map_update(fd, key, bytes(changed))


def flip(word: int) -> Callable[[bytearray], None]:
    """Return a change of one word of a value."""

    def change(value: bytearray) -> None:
        value[4 * word] ^= 2

    return change


@pytest.mark.parametrize("wrong", ["service", "generation"])
def test_rule_07_an_empty_set_of_another_decides_nothing(
    node: Node, flavour: Flavour, protocol: Protocol, wrong: str
) -> None:
    """A header of another service, or of another state, is stale even if it has no backend."""
    maps = Maps(node, flavour.family, protocol)
    node.apply(refusing(flavour.family, 3, protocol))
    empty = node.syncers[flavour.family].books.programmed[service_name(3, protocol)]
    owner = maps.mine.service if wrong == "generation" else empty.service
    generation = maps.run.generation + (wrong == "generation")
    maps.datapath.write_run(owner, empty.run._replace(generation=generation))
    maps.publish(empty.run.first, maps.run.generation)
    with node.counting(flavour.family, refused=1, stale=1):
        attempt = errno_of(lambda: draw(flavour, protocol, flavour.service(1), node.make_socket))
        assert attempt == "ECONNREFUSED"
    maps.repair()


@pytest.mark.parametrize("word", [FAMILY_WORD, CHECK_WORD], ids=["family", "check"])
def test_rule_07_a_connected_sockets_value_that_is_anothers_names_nothing(
    node: Node, flavour: Flavour, protocol: Protocol, word: int
) -> None:
    """A value that was reused under a reader's eyes: the socket shows its real peer."""
    node.apply(service(flavour.family, 1, [3], protocol=protocol))
    with node.socket(flavour, protocol) as sock:
        sock.connect(flavour.service(1))
        assert named(sock.getpeername()) == flavour.service(1)
        rewrite(connected(node, protocol), flip(word))
        assert named(sock.getpeername()) == flavour.backend(3)


@pytest.mark.parametrize("word", [FAMILY_WORD, CHECK_WORD], ids=["family", "check"])
def test_rule_07_a_connected_sockets_value_that_is_anothers_moves_no_datagram(
    node: Node, flavour: Flavour, word: int
) -> None:
    """sendto() on a connected socket asks the service anew where the value is not the socket's."""
    node.apply(service(flavour.family, 1, [3], protocol=UDP))
    with node.socket(flavour, UDP) as sock:
        sock.connect(flavour.service(1))
        node.apply(refusing(flavour.family, 1, UDP))
        assert ask(sock, flavour.service(1)).answer == Answer(3, PORT)
        rewrite(connected(node, UDP), flip(word))
        assert errno_of(lambda: sock.sendto(b"?", flavour.service(1))) == "ECONNREFUSED"


@pytest.mark.parametrize(
    "word", [SERVICE_ID_WORD, ASSOCIATION_CHECK_WORD], ids=["service", "check"]
)
def test_rule_07_a_further_association_that_is_anothers_is_not_kept(
    node: Node, flavour: Flavour, word: int
) -> None:
    """A value that was reused under a reader's eyes: the service chooses anew."""
    family, to = flavour.family, flavour.service(2)
    node.apply(service(family, 1, [1], protocol=UDP), service(family, 2, [3], protocol=UDP))
    with node.socket(flavour, UDP) as sock:
        ask(sock, flavour.service(1))
        ask(sock, to)
        node.apply(service(family, 2, [4], protocol=UDP, leaving=[3]))
        assert ask(sock, to).answer == Answer(3, PORT)
        rewrite(node.loaded[family].pins.maps / "udp_backends", flip(word))
        assert ask(sock, to) == Told(Answer(4, PORT), to)


def test_a_connected_socket_asks_another_service_for_itself(node: Node, flavour: Flavour) -> None:
    """sendto() to another service than the connected one gets that one's answer: a refusal."""
    node.apply(service(flavour.family, 1, [3], protocol=UDP), refusing(flavour.family, 2, UDP))
    with node.socket(flavour, UDP) as sock:
        sock.connect(flavour.service(1))
        assert errno_of(lambda: sock.sendto(b"?", flavour.service(2))) == "ECONNREFUSED"
        assert ask_connected(sock) == Told(Answer(3, PORT), flavour.service(1))


def test_beyond_the_map_connected_sockets_keep_their_backend(small: Node, flavour: Flavour) -> None:
    """sendto() on sockets that the full map has no room for: as on all connected ones."""
    family, to = flavour.family, flavour.service(1)
    small.apply(service(family, 1, [3], protocol=UDP), refusing(family, 2, UDP))
    socks = [small.socket(flavour, UDP) for _ in range(4)]
    for sock in socks:
        sock.connect(to)
    small.apply(service(family, 1, [4], protocol=UDP))
    for sock in socks:
        assert ask(sock, to) == Told(Answer(3, PORT), to)
        assert errno_of(partial(sock.sendto, b"?", flavour.service(2))) == "ECONNREFUSED"
        sock.close()


def test_other_sockets_do_not_end_what_a_socket_asked_for_first(
    small: Node, flavour: Flavour
) -> None:
    """Many sockets fill the LRU maps: the first service of a socket stands in its own storage."""
    family, to = flavour.family, flavour.service(1)
    second = service(family, 2, [5], protocol=UDP)
    small.apply(service(family, 1, [3], protocol=UDP), second)
    with small.socket(flavour, UDP) as sock:
        assert ask(sock, to) == Told(Answer(3, PORT), to)
        small.apply(service(family, 1, [4], protocol=UDP, leaving=[3]))
        for _ in range(200):
            with small.socket(flavour, UDP) as other:
                ask(other, to)
                ask(other, flavour.service(2))
        assert ask(sock, to) == Told(Answer(3, PORT), to)
