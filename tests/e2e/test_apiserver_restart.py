# SPDX-License-Identifier: Apache-2.0
"""An API server that restarts; agents have met no other failure, and so do not wait long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.followed import Followed
from tests.e2e.scene import Scene

# where objects come from has nothing to do with what translates
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def followed(own: Scene) -> Iterator[Followed]:
    """Two nodes, their agents, and the API server that these follow."""
    made = Followed(own)
    yield made
    made.close()


def test_sequence_apiserver_restart(followed: Followed) -> None:
    """Not one request to an old service fails while the server restarts; new ones come after."""
    scene, pods = followed.scene, followed.cluster.pods
    old, new = scene.app("old"), scene.app("new")
    followed.api.put(old.service(), *old.slices(pods[:1]))
    scene.await_backends(old, pods[:1])
    streams = {"tcp": old.tcp(4), "udp": old.udp(6)}
    for name, to in streams.items():
        pods[1].prober.start(name, to)
    followed.api.stop()
    followed.await_away(scene.agents[0])
    followed.api.start()
    followed.api.put(new.service(), *new.slices(pods[1:2]))
    scene.await_backends(new, pods[1:2])
    scene.await_backends(old, pods[:1])
    for name in streams:
        outcomes = pods[1].prober.stop(name)
        assert {(each.who, each.error) for each in outcomes} == {(pods[0].name, "")}, name
