# SPDX-License-Identifier: Apache-2.0
"""The most memory that an agent ever has, which follows an API server with 10,000 services."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pyproxy.errors import PyproxyError
from tests.apiserver.api import ApiServer
from tests.bench import objects
from tests.bench.bench import Bench
from tests.bench.figures import Figure, at_most, worst_figure
from tests.bench.following import RESOURCES, api_server, await_watches, follower, put_all
from tests.bench.startup import memory_mb
from tests.lab.agent import Agent
from tests.lab.cluster import Cluster
from tests.lab.waiting import wait_for

SERVICES = 10_000
SYNC_TIMEOUT_S = 60.0
PEAK = at_most(120.0)


def api_memory_figures(bench: Bench) -> Iterator[Figure]:
    """Yield the peak (VmHWM) of the agent: once it is synced, and after all was listed again.

    Each service has a slice of ten endpoints. The list again is what a forgotten history asks
    for (410): the agent then has the old objects and the new ones to compare.
    """
    bench.progress(f"memory: an agent that follows {SERVICES} services of an API")
    with Cluster(nodes=1, pods_per_node=0) as cluster, api_server(cluster) as api:
        put_all(api, list(chain(*map(objects.whole_member, range(SERVICES)))))
        agent = follower(cluster, cluster.nodes[0], api)
        agent.launch()
        wait_for(lambda: _synced(agent), SYNC_TIMEOUT_S, "the agent to be synced", interval_s=0.1)
        await_watches(api, SYNC_TIMEOUT_S)
        synced = _peak_mb(agent)
        _list_again(api)
        listed = _peak_mb(agent)
        _check(agent)
        agent.stop()
    yield worst_figure("control-plane/agent-memory-api/synced", "MB", [synced], PEAK)
    yield worst_figure("control-plane/agent-memory-api/listed-again", "MB", [listed], PEAK)


def _synced(agent: Agent) -> bool:
    if not agent.running:
        raise PyproxyError(f"the agent has ended{agent.tail()}")
    return agent.healthz() == 200


def _list_again(api: ApiServer) -> None:
    """Forget the history and wait until the agent has listed everything and watches again."""
    api.forget_requests()
    api.compact()
    api.cut_watches()

    def listed() -> bool:
        return all(api.asked(resource, "list") for resource in RESOURCES)

    wait_for(listed, SYNC_TIMEOUT_S, "the agent to list again", interval_s=0.1)
    await_watches(api, SYNC_TIMEOUT_S)


def _peak_mb(agent: Agent) -> float:
    return memory_mb(Path(f"/proc/{agent.pid}/status").read_text(encoding="utf-8"))["VmHWM"]


def _check(agent: Agent) -> None:
    """Raise unless all services are programmed: memory that nothing is done with is no figure."""
    programmed = sum(len(service["backends"]) for service in agent.services())
    wanted = SERVICES * objects.ENDPOINTS_OF_A_WHOLE
    if programmed != wanted:
        raise PyproxyError(f"{programmed} of {wanted} backends are programmed", "see its status")
