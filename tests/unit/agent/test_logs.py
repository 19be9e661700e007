# SPDX-License-Identifier: Apache-2.0
"""What is logged, how much of it, and in which form (parity A18.8, A19.8)."""

from __future__ import annotations

import json
import logging

import pytest

from pyproxy.agent import logs
from pyproxy.kube.proxylogging import LogSettings

pytestmark = pytest.mark.usefixtures("logging_as_before")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was written to stderr."""
    return capsys.readouterr().err.splitlines()


def say_all() -> None:
    """Log on each level, by two modules."""
    for name in ("sync", "cover"):
        log = logging.getLogger(f"pyproxy.agent.{name}")
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            record = log.makeRecord(
                log.name, level, f"/x/{name}.py", 7, "%s", (logging.getLevelName(level),), None
            )
            if log.isEnabledFor(level):
                log.handle(record)


@pytest.mark.parametrize(
    ("settings", "debug"),
    [
        (LogSettings(), []),
        (LogSettings(verbosity=3), []),
        (LogSettings(verbosity=4), ["sync", "cover"]),
        (LogSettings(vmodule=(("sy*", 4),)), ["sync"]),
        (LogSettings(verbosity=9, vmodule=(("sync", 0), ("s*", 9))), ["cover"]),
    ],
)
def test_verbosity(
    capsys: pytest.CaptureFixture[str], settings: LogSettings, debug: list[str]
) -> None:
    """From 4 on, or for single modules; the first pattern that fits counts."""
    logs.configure(settings)
    say_all()
    found = lines(capsys)
    assert [line.split()[3].rpartition(".")[2][:-1] for line in found if " D " in line] == debug
    assert len(found) == 4 + len(debug)


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, with Kubernetes' keys; an error has no v and says what was raised."""
    logs.configure(LogSettings(json=True, verbosity=4))
    say_all()
    log = logging.getLogger("pyproxy.x")
    try:
        int("broken\nin two")
    except ValueError:
        log.exception("it failed")
    found = [json.loads(line) for line in lines(capsys)]
    assert [each["msg"] for each in found] == [*["DEBUG", "INFO", "ERROR"] * 2, "it failed"]
    assert [each.get("v") for each in found] == [4, 0, None, 4, 0, None, None]
    assert found[0]["caller"] == "sync.py:7"
    assert found[0]["ts"] > 1e12
    assert "ValueError: invalid literal" in found[-1]["err"]


def test_it_can_be_changed_at_any_time(capsys: pytest.CaptureFixture[str]) -> None:
    """The former form is gone; nothing is written twice, and others' handlers stay."""
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    logs.configure(LogSettings(json=True, verbosity=9))
    logs.configure(LogSettings())
    logging.getLogger("pyproxy.x").warning("once")
    (line,) = lines(capsys)
    assert line.endswith(" W pyproxy.x: once")
    assert other in logging.getLogger().handlers
