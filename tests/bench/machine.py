# SPDX-License-Identifier: Apache-2.0
"""What the figures were taken on, for the JSON: two runs compare only where these agree."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def source_version() -> str:
    """Return which commit was measured, "-dirty" where files were changed; or "unknown"."""
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def machine_facts() -> dict[str, object]:
    """Return kernel, processor, CPUs and the load average before the run (no names of hosts)."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "hypervisor": _flag_in_cpuinfo("hypervisor"),
        "cpus": os.cpu_count(),
        "cpus_allowed": sorted(os.sched_getaffinity(0)),
        "memory_kb": _memory_kb(Path("/proc/meminfo").read_text(encoding="utf-8")),
        "loadavg_before": list(os.getloadavg()),
        "python": platform.python_version(),
        "bpf_jit": _setting("net/core/bpf_jit_enable"),
        "mitigations": _mitigations(),
    }


def _cpu_model(cpuinfo: str) -> str:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or "unknown"


def _flag_in_cpuinfo(flag: str) -> bool:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return any(flag in line.split() for line in text.splitlines() if line.startswith("flags"))


def _memory_kb(meminfo: str) -> int:
    return int(meminfo.partition("MemTotal:")[2].split(maxsplit=1)[0])


def _setting(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _mitigations() -> dict[str, str]:
    """Return what the kernel does against each CPU flaw: retpolines alone change a rate by 5 %."""
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    if not folder.is_dir():
        return {}
    return {path.name: path.read_text(encoding="utf-8").strip() for path in folder.iterdir()}
