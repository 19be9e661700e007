# SPDX-License-Identifier: Apache-2.0
"""scripts/soak's options."""

from __future__ import annotations

import pytest

from tests.soak.__main__ import parse


@pytest.mark.parametrize(
    ("argv", "seconds"),
    [([], 600), (["--minutes", "2"], 120), (["--seconds", "60"], 60), (["--minutes", "1.5"], 90)],
)
def test_how_long(argv: list[str], seconds: float) -> None:
    """Ten minutes, unless it is said."""
    arguments = parse(argv)
    assert (arguments.seconds, arguments.rate) == (seconds, 200)


@pytest.mark.parametrize(
    "argv",
    [
        ["--seconds", "49"],
        ["--minutes", "nan"],
        ["--minutes", "1", "--seconds", "60"],
        ["--rate", "0"],
        ["--rate", "201"],
        ["--json", "/no/such/folder/file"],
        ["quick"],
    ],
)
def test_wrong_usage_ends_with_status_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What makes no sense is not tried."""
    with pytest.raises(SystemExit) as ended:
        parse(argv)
    assert ended.value.code == 2
    assert "usage: scripts/soak" in capsys.readouterr().err
