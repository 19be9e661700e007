# SPDX-License-Identifier: Apache-2.0
"""How many CPUs there may be: what the kernel keeps by CPU it keeps for all of them."""

from __future__ import annotations

from pathlib import Path

POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")


def possible_cpus() -> int:
    """Return how many CPUs may be there, plugged in later ones too."""
    return count_cpus(POSSIBLE_CPUS.read_text(encoding="ascii"))


def count_cpus(text: str) -> int:
    """Return how many CPUs "0-3,8" names."""
    parts = [part.partition("-") for part in text.strip().split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in parts)
