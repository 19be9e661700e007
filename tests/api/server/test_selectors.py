# SPDX-License-Identifier: Apache-2.0
"""Label selectors mean what the Kubernetes documentation says."""

from __future__ import annotations

import pytest

from tests.apiserver.answers import ApiError
from tests.apiserver.resources import SERVICES
from tests.apiserver.selectors import parse_selector

LABELS = {"app": "web", "tier": "front", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app", True),
        ("!app", False),
        ("!absent", True),
        ("app=web", True),
        ("app==web", True),
        ("app!=web", False),
        ("absent!=web", True),
        ("empty=", True),
        ("app in (web, db)", True),
        ("app notin (web, db)", False),
        ("absent notin (web)", True),
        ("app in (db),tier", False),
        ("app,tier=front,!absent", True),
        ("example.org/a-b_c.d", False),
    ],
)
def test_label_selectors(text: str, matches: bool) -> None:
    """Requirements are joined by and; "not" holds for absent labels."""
    selector = parse_selector(SERVICES, "", {"labelSelector": text})
    assert selector.matches("default", LABELS, {}) is matches


@pytest.mark.parametrize("text", ["a b", "=x", "a in b", "a,,b", "!a=b", "a>1x,"])
def test_wrong_label_selectors(text: str) -> None:
    """What can't be read is 400."""
    with pytest.raises(ApiError, match="unable to parse"):
        parse_selector(SERVICES, "", {"labelSelector": text})
