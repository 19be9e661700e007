# SPDX-License-Identifier: Apache-2.0
"""The Vagrantfile, by Debian's vagrant: what it accepts, and what it refuses with which words."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
VALIDATE = Path(__file__).with_name("validate.rb")
PROVIDERS = ("libvirt", "virtualbox")
PROXIES = ("pyproxy", "iptables", "ipvs", "nftables", "none")
# All that vagrant asks of VirtualBox before it validates the settings for it.
VBOXMANAGE = '#!/bin/sh\n[ "$*" = --version ] && echo 7.0.20r163906\n'
TIMEOUT_S = 100


class Said(NamedTuple):
    """The exit status of a command and what it said."""

    status: int
    text: str


def project(folder: Path, *, replacing: str = "", by: str = "") -> Path:
    """Make a folder with our Vagrantfile, changed in one place, and what it reads."""
    text = (ROOT / "Vagrantfile").read_text("utf-8")
    assert replacing in text
    (folder / "scripts/vm").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/vm/versions.env", folder / "scripts/vm")
    (folder / "Vagrantfile").write_text(text.replace(replacing, by), "utf-8")
    return folder


def validate(home: Path, runs: list[tuple[Path, dict[str, str]]]) -> list[Said]:
    """Run `vagrant validate` in these folders, with these environments."""
    tools = home / "tools"
    tools.mkdir()
    vboxmanage = tools / "VBoxManage"
    vboxmanage.write_text(VBOXMANAGE)
    vboxmanage.chmod(0o755)
    given = {name: value for name, value in os.environ.items() if not name.startswith("VAGRANT")}
    for setting in ("PROXY", "WORKERS", "MEMORY", "CPUS", "KUBERNETES"):
        given.pop(setting, None)
    given |= {
        "PATH": f"{tools}:{given['PATH']}",
        "VAGRANT_HOME": str(home / "vagrant.d"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }
    lines = ["\t".join([str(at), *(f"{k}={v}" for k, v in env.items())]) for at, env in runs]
    # /usr/bin/ruby: vagrant belongs to Debian's, whatever else is on PATH
    done = subprocess.run(
        ["/usr/bin/ruby", str(VALIDATE)],
        input="\n".join(lines),
        env=given,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(runs)
    return [Said(each["status"], each["said"]) for each in found]


def test_every_proxy_is_valid_with_both_providers(tmp_path: Path) -> None:
    """`vagrant validate` passes for each PROXY, with libvirt and with VirtualBox."""
    at = project(tmp_path / "project")
    # a control plane and a worker have all that there is
    runs = [
        (at, {"VAGRANT_DEFAULT_PROVIDER": provider, "PROXY": proxy, "WORKERS": "1"})
        for provider, proxy in product(PROVIDERS, PROXIES)
    ]
    for run, said in zip(runs, validate(tmp_path, runs), strict=True):
        assert said == Said(0, "Vagrantfile validated successfully.\n"), run
    # the token that workers join by is made once, for its owner alone
    token = at / ".vagrant/pyproxy-join-token"
    assert re.fullmatch(r"[0-9a-f]{6}\.[0-9a-f]{16}\n", token.read_text())
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "line", ["libvirt.cpus", "virtualbox.linked_clone", "config.vm.box_version"]
)
def test_what_is_misspelt_is_in_the_vagrantfile(line: str) -> None:
    """The lines that the next test misspells are there once: it tests what it says."""
    assert (ROOT / "Vagrantfile").read_text("utf-8").count(f"{line} = ") == 1


def test_a_misspelt_key_fails(tmp_path: Path) -> None:
    """A setting that vagrant, libvirt or VirtualBox does not have is refused by its name."""
    misspelt = [
        ("libvirt.cpus", "libvirt.cpu_s", "libvirt"),
        ("virtualbox.linked_clone", "virtualbox.linked_clon", "virtualbox"),
        ("config.vm.box_version", "config.vm.box_versoin", "libvirt"),
    ]
    runs = []
    for number, (right, wrong, provider) in enumerate(misspelt):
        at = project(tmp_path / str(number), replacing=f"{right} = ", by=f"{wrong} = ")
        runs.append((at, {"VAGRANT_DEFAULT_PROVIDER": provider}))
    for (_, wrong, _), said in zip(misspelt, validate(tmp_path, runs), strict=True):
        assert said.status == 1
        assert f"The following settings shouldn't exist: {wrong.split('.')[-1]}\n" in said.text


def test_a_wrong_setting_is_refused(tmp_path: Path) -> None:
    """A value that cannot be meant ends with a line that says what it has to be."""
    at = project(tmp_path / "project")
    wrong = {
        "PROXY": ("IPVS", "one of pyproxy, iptables, ipvs, nftables, none"),
        "WORKERS": ("0", "a number of workers from 1 to 9"),
        "MEMORY": ("2047", "MB of memory of each machine, 2048 or more"),
        "CPUS": ("1", "a number of CPUs of each machine, 2 or more"),
        "KUBERNETES": ("1.36.0", "a release from 1.31 to 1.35, for example "),
    }
    said = validate(tmp_path, [(at, {name: value}) for name, (value, _) in wrong.items()])
    for (name, (value, rule)), each in zip(wrong.items(), said, strict=True):
        assert each.status == 1
        assert each.text.startswith(f"error: {name}={value}: it has to be {rule}")
        assert each.text.count("\n") == 1
