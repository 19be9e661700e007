# SPDX-License-Identifier: Apache-2.0
"""Wires what is counted to the port where it is scraped (parity A13)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyproxy.agent import kubeproxymetrics as kp
from pyproxy.agent.config import RunConfig
from pyproxy.agent.figures import Figures, of_agent
from pyproxy.agent.meters import Meters
from pyproxy.kube.proxydocument import configz
from pyproxy.meters import Labels, Reading
from pyproxy.model import Family, ServicePortName
from pyproxy.serve.debug import Contents, debug_server
from pyproxy.serve.exposition import Exposition
from pyproxy.serve.listening import Listener
from pyproxy.tables import ServiceCounters

_HEALTH = {"healthz": kp.HEALTHZ, "livez": kp.LIVEZ}
_CODES = ("200", "503")


class Scrape:
    """What a scrape of this agent gets. Parts that come up later are handed in as they do.

    `answers` counts what the health port has answered, by path and status; `services` gives what
    there was of each service port; `configuration` is the one in force. All are called by the
    threads that scrape.
    """

    def __init__(self, config: RunConfig, meters: Meters) -> None:
        self._config = config
        self._meters = meters
        self._listener: Listener | None = None
        self._said = ""
        self.figures = Figures(lambda: meters.maps)
        self.answers: Callable[[], Mapping[tuple[str, int], int]] = dict
        self.configuration: Callable[[], Mapping[str, Any]] = lambda: config.configuration
        self.services: Callable[[], Mapping[tuple[Family, ServicePortName], ServiceCounters]] = dict

    def exposition(self) -> Exposition:
        """Return what /metrics reads."""
        sources = (
            self._meters.read,
            self._meters.api.read,
            self._health,
            self._agent,
            self.figures.counters,
            self.figures.maps,
        )
        return Exposition(sources, self._of_services if self._config.service_metrics else None)

    def server(self, failed: Callable[[str], None] = lambda _: None) -> Listener | None:
        """Return the server, to be started; None where there shall be none.

        `failed` is called with what went wrong where it cannot listen, once while it is the same.
        """
        address = self._config.metrics_bind_address
        if address is None:
            return None
        self._listener = debug_server(address, self.contents(), self._once(address, failed))
        return self._listener

    @property
    def failure(self) -> str:
        """Why nobody can scrape, "" where somebody can, or nobody shall."""
        return "" if self._listener is None or self._listener.is_listening else self._said

    def _once(
        self, address: tuple[str, int], failed: Callable[[str], None]
    ) -> Callable[[OSError], None]:
        """Return what calls `failed` with a sentence whenever that is another one than before."""

        def tell(error: OSError) -> None:
            host, port = address
            why = f"failed to start metrics server on {host}:{port}: {error.strerror}"
            if why != self._said:
                self._said = why
                failed(why)

        return tell

    def contents(self) -> Contents:
        """Return what the port answers."""
        mode = self._config.proxy_mode_answer or self._config.proxy_mode
        return Contents(self.exposition(), mode, self._configz)

    def _configz(self) -> str:
        return configz(self.configuration())

    def _of_services(self) -> Mapping[tuple[Family, ServicePortName], ServiceCounters]:
        return self.services()

    def _agent(self) -> Iterator[Reading]:
        return of_agent(self._config, self._meters.state)

    def _health(self) -> Iterator[Reading]:
        """Yield what the health port has answered (A20.7)."""
        counted = self.answers()
        for path, spec in _HEALTH.items():
            values: dict[Labels, float] = {(code,): 0 for code in _CODES}
            for (asked, code), number in counted.items():
                if asked.strip("/") == path:
                    values[(str(code),)] = number
            yield Reading(spec, values)
