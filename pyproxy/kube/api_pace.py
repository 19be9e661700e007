# SPDX-License-Identifier: Apache-2.0
"""How long is waited for what of the API server, and how fast it is asked again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Pace(NamedTuple):
    """Times in seconds.

    `silence_s`: a watch that says nothing for so long is taken for dead. API servers send a
    bookmark about once a minute; half as much again lets one be late. `watch_least_s` and
    `watch_most_s`: how long the server is asked to keep a watch (client-go: 5 to 10 minutes),
    at random, so that a cluster's nodes do not come back all at once.
    `settled_s`: a watch that lived so long was no failure. `absent_least_s` and `absent_most_s`:
    how often a resource is asked for that the server does not have. It may get it by an upgrade, or
    the answer may be of somebody in between, so at first it is asked soon.
    `event_least_s` and `event_most_s`: within what time an Event is posted; after `event_calm_s`
    without one the least counts again: see announcer.py. After `event_tries` failures in a row
    one is given up (client-go's number).
    """

    connect_s: float = 5.0
    answer_s: float = 30.0
    silence_s: float = 90.0
    watch_least_s: float = 300.0
    watch_most_s: float = 600.0
    settled_s: float = 5.0
    backoff_least_s: float = 0.1
    backoff_most_s: float = 30.0
    retry_after_most_s: float = 60.0
    absent_least_s: float = 60.0
    absent_most_s: float = 3600.0
    event_least_s: float = 30.0
    event_most_s: float = 3600.0
    event_calm_s: float = 600.0
    event_tries: int = 12
    page: int = 500

    @property
    def of_absent(self) -> Pace:
        """The pace at which to ask for what the server does not have."""
        least, most = self.absent_least_s, self.absent_most_s
        return self._replace(backoff_least_s=least, backoff_most_s=most)

    @property
    def of_events(self) -> Pace:
        """The pace at which to post Events."""
        least, most = self.event_least_s, self.event_most_s
        return self._replace(backoff_least_s=least, backoff_most_s=most)


class Backoff:
    """Waits that double, each with full jitter; the first one after reset() may be none at all.

    From the second on a wait is at least `backoff_least_s`, so whatever the server answers it
    is asked no more than 1/backoff_least_s times a second.
    """

    def __init__(self, pace: Pace, random: Callable[[], float]) -> None:
        self._least, self._most = pace.backoff_least_s, pace.backoff_most_s
        self._random = random
        self._tries = 0

    def next_s(self) -> float:
        """Return how long to wait now, in seconds."""
        # 2 ** 30 times any least wait is beyond any most.
        most = min(self._most, self._least * 2.0 ** min(self._tries, 30))
        least = self._least if self._tries else 0.0
        self._tries += 1
        return least + self._random() * (most - least)

    def reset(self) -> None:
        """Begin with the shortest wait again."""
        self._tries = 0
