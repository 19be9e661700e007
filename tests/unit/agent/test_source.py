# SPDX-License-Identifier: Apache-2.0
"""Which source an agent gets from its settings, and who posts its Events."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pyproxy.agent import main
from pyproxy.agent.config import Chosen, RunConfig
from pyproxy.agent.main import _source, _teller
from pyproxy.agent.reconfigure import reread
from pyproxy.kernel.lock import Lock, holder
from pyproxy.kube.announcer import Announcer
from pyproxy.kube.api import ApiSource
from pyproxy.kube.api_meters import ApiMeters
from pyproxy.kube.events import Kind
from pyproxy.kube.manifests import ManifestSource
from pyproxy.kube.notices import TellNobody
from pyproxy.plan.options import Mode, Options

SOMEWHERE = Path("/nowhere")


def config(mode: Mode, manifests: Path | None = None) -> RunConfig:
    """Return settings of an agent that is never started."""
    return RunConfig(
        manifests=manifests,
        kubeconfig=SOMEWHERE,
        options=Options(node_name="n1", mode=mode),
        healthz_bind_address=None,
        metrics_bind_address=None,
        cgroup_root=SOMEWHERE,
        bpffs_root=SOMEWHERE,
        run_dir=SOMEWHERE,
        cache_dir=SOMEWHERE,
        devices=(),
    )


@pytest.mark.parametrize("mode", Mode)
def test_service_cidrs_are_asked_for_in_nftables_mode_only(mode: Mode) -> None:
    """No other mode uses them (A8.7)."""
    source = _source(config(mode), print, ApiMeters())
    assert isinstance(source, ApiSource)
    kinds = {one.kind for one in source._resources}
    assert kinds - {Kind.SERVICE_CIDR} == {Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.NODE}
    assert (Kind.SERVICE_CIDR in kinds) is (mode is Mode.NFTABLES)


def test_a_kubeconfig_that_is_not_there_ends_no_agent_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a configuration is bad: an agent could not start with it."""
    monkeypatch.setattr(main, "check_node", lambda _: None)
    monkeypatch.setattr(main, "check_places", lambda *_: None)
    changed = config(Mode.IPTABLES)
    read = reread(lambda: Chosen(changed, ()), main.check_again)
    assert read.chosen is None
    assert f"{SOMEWHERE} cannot be read" in read.error
    manifests = config(Mode.IPTABLES, SOMEWHERE)
    assert reread(lambda: Chosen(manifests, ()), main.check_again).chosen


def test_a_run_dir_that_cannot_be_made_ends_no_agent_that_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor one that nobody could lock; and an agent that holds the lock is not in its own way."""
    monkeypatch.setattr(main, "check_node", lambda _: None)
    run_dir, bpffs_root = tmp_path / "run", tmp_path / "bpf"
    lock = Lock(run_dir, bpffs_root)
    good = config(Mode.IPTABLES, SOMEWHERE)._replace(run_dir=run_dir, bpffs_root=bpffs_root)
    assert reread(lambda: Chosen(good, ()), main.check_again).chosen
    assert holder(run_dir)
    (tmp_path / "file").touch()
    bad = good._replace(run_dir=tmp_path / "file" / "run")
    read = reread(lambda: Chosen(bad, ()), main.check_again)
    assert read.chosen is None
    assert "give --run-dir" in read.error
    lock.release()


def test_manifests_come_first() -> None:
    """Whatever else is given."""
    assert isinstance(_source(config(Mode.NFTABLES, SOMEWHERE), print, ApiMeters()), ManifestSource)


def test_events_are_posted_where_there_is_an_api_server() -> None:
    """Manifests have none; what posts ends with the agent."""
    with contextlib.ExitStack() as running:
        nobody = _teller(config(Mode.IPTABLES, SOMEWHERE), running, ApiMeters())
        assert isinstance(nobody, TellNobody)
        nobody.tell({}, str)
        nobody.tell_checks(())
        nobody.about_node("Starting", "pyproxy", wait_s=60)
        announcer = _teller(config(Mode.IPTABLES), running, ApiMeters())
        assert isinstance(announcer, Announcer)
        assert not announcer._stopping.is_set()
    assert announcer._stopping.is_set()
