# SPDX-License-Identifier: Apache-2.0
"""A directory of manifests under test, and what its source's events have led to."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from pyproxy.kube.events import Event, Source, Synced
from pyproxy.kube.manifests import ManifestSource
from tests import builders
from tests.unit.kube.test_catalogue import State

BOUND_S = 5.0


def text_of(*ips: str) -> str:
    """Write Services a, b, ... with these clusterIPs."""
    documents = [builders.service(n, cluster_ip=ip) for n, ip in zip("abc", ips, strict=False)]
    return yaml.dump_all(documents, Dumper=yaml.CSafeDumper)


class Followed:
    """A directory, its source and what the source's events have led to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events: queue.Queue[Event] = queue.Queue()
        self.source: Source = ManifestSource(directory, self.events.put)
        self.state = State()
        self.seen: list[Event] = []

    def start(self) -> None:
        """Start the source and wait for Synced."""
        self.source.start()
        self.until(lambda: any(isinstance(event, Synced) for event in self.seen))

    def until(self, condition: Callable[[], bool]) -> None:
        """Take events until the condition holds; fails after a bounded wait."""
        deadline = time.monotonic() + BOUND_S
        while not condition():
            event = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            self.seen.append(event)
            self.state.apply([event])

    def until_ips(self, **ips: int) -> None:
        """Wait until the Services have these clusterIPs (their last byte)."""
        self.until(lambda: self.state.ips() == ips)

    def until_report(self, source: str, part: str) -> None:
        """Wait for a report in force ("" for none) about what ends in `source`."""
        self.until(lambda: part in self.report(source) and (bool(part) or not self.report(source)))

    def report(self, source: str) -> str:
        """Return the report in force about a source that ends so."""
        return next((t for s, t in self.state.reports.items() if s.endswith(source)), "")

    def fence(self) -> None:
        """Wait until all that was done before has been noticed: events keep their order."""
        fence = self.directory / "zz-fence.json"
        version = self.state.ips().get("fence", 0) % 250 + 1
        fence.write_text(json.dumps(builders.service("fence", cluster_ip=f"10.0.0.{version}")))
        self.until(lambda: self.state.ips().get("fence") == version)

    def write(self, name: str, text: str) -> None:
        """Write a file in place."""
        (self.directory / name).write_text(text)

    def replace(self, name: str, text: str) -> None:
        """Write a file beside and rename it into its place."""
        beside = self.directory / f".{name}.new"
        beside.write_text(text)
        beside.rename(self.directory / name)
