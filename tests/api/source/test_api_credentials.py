# SPDX-License-Identifier: Apache-2.0
"""Who the API source is to the server: every form of credentials, and their rotation on disk."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.errors import SourceError
from pyproxy.kube.api_config import ApiSettings, Credentials, load
from pyproxy.kube.api_troubles import SERVER
from tests import builders
from tests.api.source.api_following import FAST, following, kubeconfig, without_garbage
from tests.api.source.scripted import Json
from tests.apiserver import ApiServer

URL = "https://127.0.0.1:6443"
# TLS handshakes take their time on a busy machine.
TLS_PACE = FAST._replace(connect_s=2.0, answer_s=2.0, silence_s=5.0)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """A server with TLS, this node and a Service."""
    with ApiServer() as one:
        one.put(builders.node("n1"), builders.service("web"))
        yield one


def bearer(path: Path) -> str:
    """Return the Authorization that a kubeconfig leads to."""
    return load(ApiSettings(path)).headers.get("Authorization", "")


@pytest.mark.parametrize(
    "user",
    ["token", "tokenFile", "clientCertificate", "clientCertificateData", "exec", "basic"],
)
def test_every_form_of_credentials_works(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """Lists come over TLS with each of them, and no private key stays on the disk."""
    config = server.kubeconfig(tmp_path / "config", user=user)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with following(ApiSettings(config), TLS_PACE) as source:
        source.until_synced()
        assert source.names() == {"web"}
        assert list(temporary.iterdir()) == []
        started = time.monotonic()
        source.source.stop()
        assert time.monotonic() - started < 1.0, "TLS connections are cut short too"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("authority", ["data", "file", "insecure"])
def test_every_form_of_trust_works(server: ApiServer, tmp_path: Path, authority: str) -> None:
    """The server's certificate is checked by the CA that is named, or not at all if so wanted."""
    config = server.kubeconfig(tmp_path / "config", authority=authority)
    with following(ApiSettings(config), TLS_PACE) as source:
        source.until_synced()


def test_a_server_of_another_authority_is_refused(server: ApiServer, tmp_path: Path) -> None:
    """Without its CA the server is not believed, and the reason is said."""
    config = server.kubeconfig(tmp_path / "config", authority="none")
    with following(ApiSettings(config), TLS_PACE) as source:
        source.until_trouble(SERVER, "certificate verify failed")


def test_in_cluster_credentials_rotate(server: ApiServer, tmp_path: Path) -> None:
    """In a pod, a token that was replaced is taken up; the old one has got 401 meanwhile."""
    account = server.service_account(tmp_path / "account")
    host, _, port = server.url.removeprefix("https://").rpartition(":")
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    settings = ApiSettings(service_account=account, environ=environ)
    with following(settings, TLS_PACE) as source:
        source.until_synced()
        source.until(lambda: server.watches() == 3)
        server.rotate_token()
        server.cut_watches()
        source.until_trouble(SERVER, "401")
        server.service_account(account)
        source.until_calm()
        source.until(lambda: server.watches() == 3)
        assert (source.names(), source.deletions()) == ({"web"}, [])


def test_client_certificates_rotate(server: ApiServer, tmp_path: Path) -> None:
    """A certificate that was replaced on disk is shown in new connections."""
    config = server.kubeconfig(tmp_path / "config", user="clientCertificate")
    with following(ApiSettings(config), TLS_PACE) as source:
        source.until_synced()
        source.until(lambda: server.watches() == 3)
        server.revoke_certificate(tmp_path / "config.crt")
        server.cut_watches()
        source.until_trouble(SERVER, "401")
        server.kubeconfig(config, user="clientCertificate")
        source.until_calm()
        source.until(lambda: server.watches() == 3)
        assert source.deletions() == []


def test_the_token_file_counts_before_the_token(tmp_path: Path) -> None:
    """As in client-go; blanks around a token are none of it, and paths begin at the kubeconfig."""
    (tmp_path / "secret").write_text(" from-file\n")
    config = kubeconfig(tmp_path / "config", URL, {"token": "x", "tokenFile": "secret"})
    assert bearer(config) == "Bearer from-file"
    assert bearer(kubeconfig(tmp_path / "config", URL, {"token": "x\n"})) == "Bearer x"
    basic = {"username": "a", "password": "b"}
    plain = base64.b64encode(b"a:b").decode()
    assert bearer(kubeconfig(tmp_path / "config", URL, basic)) == f"Basic {plain}"
    assert bearer(kubeconfig(tmp_path / "config", URL)) == ""


def test_the_master_overrides_the_server(tmp_path: Path) -> None:
    """--master names another address of the same cluster."""
    config = kubeconfig(tmp_path / "config", URL)
    access = load(ApiSettings(config, master="http://10.0.0.1:8080/"))
    assert access.configuration.host == "http://10.0.0.1:8080"
    assert access.context is None


def test_the_master_overrides_the_server_in_a_pod(server: ApiServer, tmp_path: Path) -> None:
    """The service's own address cannot be reached before an agent has run."""
    account = server.service_account(tmp_path / "account")
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    access = load(ApiSettings(None, "10.0.0.1:6443/", account, environ))
    assert access.configuration.host == "https://10.0.0.1:6443"
    own = load(ApiSettings(None, "", account, environ))
    assert own.configuration.host == "https://10.96.0.1:443"


def test_the_master_alone_is_asked_by_nobody() -> None:
    """Neither a kubeconfig nor a pod: no credentials, as kube-proxy has none then (A18.2)."""
    settings = ApiSettings(None, "http://10.0.0.1:8080", environ={})
    Credentials(settings, time.time).check()
    access = load(settings)
    assert access.configuration.host == "http://10.0.0.1:8080"
    assert (access.files, access.context) == ((), None)
    assert "authorization" not in {name.lower() for name in access.headers}
    with pytest.raises(SourceError, match="there is no kubeconfig"):
        Credentials(ApiSettings(None, environ={}), time.time).check()


def test_a_server_without_scheme_is_asked_by_tls(tmp_path: Path) -> None:
    """As by client-go: a token would go over the wire in clear text else."""
    config = kubeconfig(tmp_path / "config", "127.0.0.1:6443", {"token": "x"})
    access = load(ApiSettings(config))
    assert access.configuration.host == URL
    assert access.context is not None


def test_a_kubeconfig_without_keys_needs_no_place_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may have nothing that can be written."""
    config = kubeconfig(tmp_path / "config", URL, {"token": "x"})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert bearer(config) == "Bearer x"


def plugin(directory: Path, status: Json, code: int = 0) -> Json:
    """Write an exec plugin that counts its runs; return the user that has it."""
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": status,
    }
    script = directory / "plugin"
    script.write_text(
        f"#!/bin/sh\necho >>{directory}/runs\necho '{json.dumps(answer)}'\nexit {code}"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": answer["apiVersion"], "command": str(script)}}


def runs(directory: Path) -> int:
    """Return how often the plugin ran."""
    return len((directory / "runs").read_text().splitlines())


def test_a_plugin_runs_when_it_must_and_not_before(tmp_path: Path) -> None:
    """Its credentials are kept until a minute before they end, or until they are refused."""
    status = {"token": "t", "expirationTimestamp": "2030-01-01T00:00:00Z"}
    config = kubeconfig(tmp_path / "config", URL, plugin(tmp_path, status))
    expiry = 1893456000.0
    now = [expiry - 3600]
    credentials = Credentials(ApiSettings(config), lambda: now[0])
    credentials.check()
    first = credentials.current()
    assert credentials.current() is first
    assert runs(tmp_path) == 1
    now[0] = expiry - 59
    second = credentials.current()
    assert runs(tmp_path) == 2
    now[0] = expiry - 3600
    assert credentials.renew(first) is second, "another thread has renewed them already"
    assert credentials.renew(second) is not second
    assert runs(tmp_path) == 3


def test_a_plugin_that_fails_is_named(tmp_path: Path) -> None:
    """What gives no credentials is said, not tried without any."""
    config = kubeconfig(tmp_path / "config", URL, plugin(tmp_path, {"token": "t"}, code=1))
    with pytest.raises(SourceError, match="plugin gave none: run it by hand"):
        load(ApiSettings(config))
    with following(ApiSettings(config)) as source:
        source.until_trouble(SERVER, f"the credentials in {config} cannot be used", "plugin")


def test_a_plugin_that_hangs_is_named_and_ended(tmp_path: Path) -> None:
    """It is tried again, and what it says then counts."""
    user = plugin(tmp_path, {"token": "t"})
    script = tmp_path / "plugin"
    # a plugin of its own children: they hold its output open
    hangs = f"[ -e {tmp_path}/go ] || sh -c 'sleep 1000; :'\necho "
    script.write_text(script.read_text().replace("echo '", f"{hangs}'"))
    credentials = Credentials(
        ApiSettings(kubeconfig(tmp_path / "config", URL, user)), time.time, plugin_s=0.5
    )
    for _ in range(2):
        with pytest.raises(SourceError, match=r"plugin that it names has not answered for 0\.5 s"):
            credentials.current()
    (tmp_path / "go").touch()
    assert credentials.current().headers["Authorization"] == "Bearer t"
    assert runs(tmp_path) == 3


@pytest.mark.parametrize("user", ["plugin", "file"])
def test_credentials_that_fail_leave_no_garbage(tmp_path: Path, user: str) -> None:
    """A plugin that is broken for days costs an agent without garbage collector nothing."""
    named = plugin(tmp_path, {}, code=1) if user == "plugin" else {"client-certificate": "gone"}
    credentials = Credentials(ApiSettings(kubeconfig(tmp_path / "config", URL, named)), time.time)
    with without_garbage():
        for _ in range(5):
            with contextlib.suppress(SourceError):
                credentials.current()
                pytest.fail("there are no credentials")


def test_whatever_a_plugin_raises_is_a_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries of identity providers raise errors of their own, which must not end the agent."""

    def fail(*_: object) -> None:
        raise Unforeseen("the issuer\nis away")

    monkeypatch.setattr("kubernetes.config.kube_config.KubeConfigLoader.load_and_set", fail)
    with pytest.raises(SourceError, match="cannot be used: the issuer is away"):
        load(ApiSettings(kubeconfig(tmp_path / "config", URL, {"token": "t"})))


class Unforeseen(Exception):  # noqa: N818 - somebody else's
    """No error that anybody has heard of."""


def test_files_that_cannot_be_read_for_a_moment_do_no_harm(tmp_path: Path) -> None:
    """While a kubeconfig is half written, what it held before goes on to be used."""
    config = kubeconfig(tmp_path / "config", URL, {"token": "x"})
    credentials = Credentials(ApiSettings(config), time.time)
    first = credentials.current()
    config.write_text("{")
    assert credentials.current() is first
    config.unlink()
    assert credentials.current() is first
    kubeconfig(config, URL, {"token": "y"})
    assert credentials.current().headers["Authorization"] == "Bearer y"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"current-context": "other"}, "no 'other' among its contexts"),
        ({"clusters": []}, "no 'k' among its clusters"),
        ({"users": "nonsense"}, "no usable kubeconfig"),
        ({"clusters": [{"name": "k", "cluster": {}}]}, "server"),
        ({"users": [{"name": "u", "user": {"as": "root"}}]}, "act as somebody else"),
    ],
    ids=["context", "cluster", "users", "server", "as"],
)
def test_a_wrong_kubeconfig_is_explained(tmp_path: Path, change: Json, part: str) -> None:
    """What no client could use is refused at the start, in a sentence."""
    config = kubeconfig(tmp_path / "config", URL)
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(SourceError, match=part):
        Credentials(ApiSettings(config), time.time).check()
    with pytest.raises(SourceError):
        load(ApiSettings(config))


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", "contexts: 5"])
def test_what_is_no_kubeconfig_is_explained(tmp_path: Path, text: str) -> None:
    """Any other file is refused in a sentence."""
    config = tmp_path / "config"
    config.write_text(text)
    with pytest.raises(SourceError, match="no usable kubeconfig"):
        Credentials(ApiSettings(config), time.time).check()


def test_a_certificate_that_is_none_is_explained(tmp_path: Path) -> None:
    """Broken certificates are a trouble with a sentence, not a crash."""
    (tmp_path / "crt").write_text("nonsense")
    user = {"client-certificate": "crt", "client-key": "crt"}
    with pytest.raises(SourceError, match="cannot be used"):
        load(ApiSettings(kubeconfig(tmp_path / "config", URL, user)))
    with pytest.raises(SourceError, match="cannot be used"):
        load(ApiSettings(service_account=tmp_path, environ=os.environ))
