# SPDX-License-Identifier: Apache-2.0
"""forwardAccept is looked after: what it says, and what it asks of the kernel."""

from __future__ import annotations

import pytest

from pyproxy.agent.forwarding import Forwarding
from pyproxy.errors import KernelError
from pyproxy.kernel import accepting
from pyproxy.model import Family

MARK = 0x4000


class Tables:
    """Stands for the kernel's tables of one family."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bool]] = []
        self.changed = False
        self.error = ""

    def accept(self, _: Family, mark: int, *, again: bool = False) -> bool:
        """Stand for accepting.accept()."""
        self.calls.append((mark, again))
        if self.error:
            raise KernelError(self.error)
        return again or self.changed

    def withdraw(self, family: Family) -> bool:
        """Stand for accepting.withdraw()."""
        return self.accept(family, 0, again=True)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    """Tables of which none is ours."""
    made = Tables()
    monkeypatch.setattr(accepting, "accept", made.accept)
    monkeypatch.setattr(accepting, "withdraw", made.withdraw)
    return made


def test_all_is_written_once_and_then_what_is_missing(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    """Only what was missing later is worth a line."""
    made = Forwarding([Family.IPV4], MARK)
    made.keep()
    made.keep()
    assert tables.calls == [(MARK, True), (MARK, False)]
    assert caplog.messages == []
    tables.changed = True
    made.keep()
    assert caplog.messages == ["IPv4: rules of PYPROXY-FORWARD were changed: written again"]


def test_turned_off_it_is_withdrawn_once(tables: Tables, caplog: pytest.LogCaptureFixture) -> None:
    """Rules of an earlier agent; who has none pays for one look."""
    made = Forwarding([Family.IPV6], 0)
    made.keep()
    made.keep()
    assert tables.calls == [(0, True)]
    assert caplog.messages == []


def test_what_fails_is_a_problem_until_it_does_not(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and tried again as at the start."""
    made = Forwarding([Family.IPV4], MARK)
    tables.error = "iptables-restore is not installed"
    made.keep()
    made.keep()
    assert tables.calls == [(MARK, True)] * 2
    assert caplog.messages == ["IPv4: rules of PYPROXY-FORWARD: iptables-restore is not installed"]
    (problem,) = made.problems()
    assert problem.code == "forward-not-accepted"
    assert tables.error in problem.message
    tables.error = ""
    made.keep()
    assert made.problems() == []
