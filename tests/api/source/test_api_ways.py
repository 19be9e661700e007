# SPDX-License-Identifier: Apache-2.0
"""The ways to an API server that a kubeconfig can name: proxies, names, CAs, other servers."""

from __future__ import annotations

import base64
import json
import sys
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
from tests.api.source.tunnels import tunnelling
from tests.apiserver import ApiServer, Settings

PACE = FAST._replace(connect_s=2.0, answer_s=2.0, silence_s=5.0)
URL = "https://127.0.0.1:6443"
NAME = "apiserver.test"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """A server with TLS and another name, this node and a Service."""
    with ApiServer(Settings(names=(NAME,))) as one:
        one.put(builders.node("n1"), builders.service("web"))
        yield one


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no proxies but those of a test."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def change(config: Path, user: Json | None = None, **cluster: object) -> Path:
    """Change a kubeconfig's cluster, and its user if one is given; return its path."""
    content = json.loads(config.read_text())
    content["clusters"][0]["cluster"].update({k.replace("_", "-"): v for k, v in cluster.items()})
    if user is not None:
        content["users"][0]["user"] = user
    config.write_text(json.dumps(content))
    return config


def test_a_proxy_of_the_kubeconfig(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shown the name and password of its URL; NO_PROXY is not about it, as in client-go."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    secret = "Basic " + base64.b64encode(b"me:p@ss").decode()
    with tunnelling(secret) as proxy:
        url = f"http://me:p%40ss@127.0.0.1:{proxy.port}"
        config = change(server.kubeconfig(tmp_path / "config"), proxy_url=url)
        with following(ApiSettings(config), PACE) as source:
            source.until_synced()
            source.until(lambda: server.watches() == 3)
            started = time.monotonic()
            source.source.stop()
            assert time.monotonic() - started < 1.0, "watches in tunnels are cut short, too"
        target = server.url.removeprefix("https://")
        assert {(one.target, one.authorization) for one in proxy.asked} == {(target, secret)}


@pytest.mark.parametrize("no_proxy", ["", "127.0.0.0/8"])
def test_a_proxy_of_the_environment(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    """HTTPS_PROXY counts, but for what NO_PROXY names."""
    config = server.kubeconfig(tmp_path / "config")
    with tunnelling() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        with following(ApiSettings(config), PACE) as source:
            source.until_synced()
        assert bool(proxy.asked) is not bool(no_proxy)


def test_a_proxy_that_refuses_is_named(server: ApiServer, tmp_path: Path) -> None:
    """Else one would look for the fault at the API server."""
    with tunnelling("Basic other") as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        config = change(server.kubeconfig(tmp_path / "config"), proxy_url=url)
        with following(ApiSettings(config), PACE) as source:
            source.until_trouble(SERVER, "cannot be reached through its proxy", "407")
            change(config, proxy_url="")
            source.until_synced()
            source.until_calm()


@pytest.mark.filterwarnings("ignore:SOCKS support")
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "ftp://me:secret@p", "me:secret@p"])
def test_a_proxy_of_no_use_is_a_trouble(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """It ends no agent, says no password, and leaves no garbage; a mended file is taken up."""
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.delitem(sys.modules, "urllib3.contrib.socks", raising=False)
    config = change(server.kubeconfig(tmp_path / "config"), proxy_url=proxy)
    with without_garbage(), pytest.raises(SourceError, match="name one by http:// or") as refusal:
        load(ApiSettings(config))
    assert "secret" not in str(refusal.value)
    with following(ApiSettings(config), PACE) as source:
        source.until_trouble(SERVER, "proxy-url", "is of no use")
        change(config, proxy_url="")
        source.until_synced()


def test_the_name_of_the_certificate(server: ApiServer, tmp_path: Path) -> None:
    """tls-server-name is what the certificate is for, where the address is not."""
    url = server.url.replace("127.0.0.1", "localhost")
    config = change(server.kubeconfig(tmp_path / "config"), server=url)
    with following(ApiSettings(config), PACE) as source:
        source.until_trouble(SERVER, "Hostname mismatch")
        change(config, tls_server_name=NAME)
        source.until_synced()


@pytest.mark.parametrize("master", ["", "https", "none"])
def test_a_server_without_scheme(server: ApiServer, tmp_path: Path, master: str) -> None:
    """It, or a master in place of one, is asked with the CA and certificate of the kubeconfig."""
    bare = server.url.removeprefix("https://")
    config = server.kubeconfig(tmp_path / "config", user="clientCertificate")
    change(config, server="http://127.0.0.1:9" if master else bare)
    settings = ApiSettings(config, {"": "", "https": server.url, "none": bare}[master])
    with following(settings, PACE) as source:
        source.until_synced()


def test_another_authority_is_taken_up(tmp_path: Path) -> None:
    """While the CA's file is of before, the server is not believed; then all goes on."""
    with ApiServer() as server:
        server.put(builders.node("n1"), builders.service("web"))
        config = server.kubeconfig(tmp_path / "config", authority="file")
        with following(ApiSettings(config), PACE) as source:
            source.until_synced()
            server.rotate_authority()
            server.cut_watches()
            source.until_trouble(SERVER, "certificate verify failed")
            server.kubeconfig(config, authority="file")
            source.until_calm()
            source.until(lambda: server.watches() == 3)
            assert (source.names(), source.deletions()) == ({"web"}, [])


def test_certificates_that_are_garbage_for_a_while(server: ApiServer, tmp_path: Path) -> None:
    """The last good ones go on to be used; if those are refused the garbage is what is said."""
    config = server.kubeconfig(tmp_path / "config", user="clientCertificate")
    certificate = tmp_path / "config.crt"
    with following(ApiSettings(config), PACE) as source:
        source.until_synced()
        source.until(lambda: server.watches() == 3)
        good = certificate.read_bytes()
        certificate.write_text("nonsense")
        server.put(builders.service("new"))
        server.cut_watches()
        source.until(lambda: server.watches() == 3 and "new" in source.names())
        assert source.message(SERVER) == ""
        revoked = tmp_path / "revoked"
        revoked.write_bytes(good)
        server.revoke_certificate(revoked)
        server.cut_watches()
        source.until_trouble(SERVER, "client-certificate with its client-key cannot be read")
        server.kubeconfig(config, user="clientCertificate")
        source.until_calm()
        assert source.deletions() == []


def test_a_kubeconfig_that_names_another_server(tmp_path: Path) -> None:
    """When the one before is gone, the other is asked; what that does not have goes."""
    with ApiServer() as old, ApiServer() as new:
        old.put(builders.node("n1"), builders.service("web"), builders.service("old"))
        new.put(builders.node("n1"), builders.service("web"))
        config = old.kubeconfig(tmp_path / "config")
        with following(ApiSettings(config), PACE) as source:
            source.until_synced()
            new.kubeconfig(config)
            old.stop()
            source.until(lambda: source.names() == {"web"})
            source.until_calm()
            assert source.deletions() == ["old"]


def _jwt(**claims: object) -> str:
    """Return a token that looks like an issuer's."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "none"}, claims)
    )
    return f"{head}.{body}.c2ln"


@pytest.mark.parametrize("name", ["oidc", "gcp"])
def test_tokens_of_auth_providers(server: ApiServer, tmp_path: Path, name: str) -> None:
    """Those that the client knows are used while they are good."""
    token = _jwt(sub="me", iss=name, exp=int(time.time()) + 3600)
    server.allow_token(token, "me")
    user = {"auth-provider": {"name": name, "config": {"id-token": token, "access-token": token}}}
    config = change(server.kubeconfig(tmp_path / "config"), user)
    with following(ApiSettings(config), PACE) as source:
        source.until_synced()


@pytest.mark.parametrize(
    ("user", "part"),
    [
        ({"auth-provider": {"name": "azure"}}, "auth-provider azure gave none; name a plugin"),
        ({"auth-provider": {"name": "gcp"}}, "auth-provider gcp gave none; name a plugin"),
        (
            {"auth-provider": {"name": "oidc", "config": {"id-token": "x"}}},
            "auth-provider oidc gave none; name a plugin",
        ),
        (
            {"auth-provider": {"name": "oidc", "config": {"id-token": _jwt(exp=1)}}},
            "auth-provider oidc gave none.*idp-issuer-url",
        ),
        ({"auth-provider": {}}, r"auth-provider \(no name\) gave none"),
        ({"username": "me"}, "a username and no password"),
        ({"token": "\u20ac"}, "characters that no token has"),
    ],
    ids=["azure", "gcp", "oidc", "expired", "nameless", "username", "token"],
)
def test_credentials_that_come_to_nothing_are_explained(
    tmp_path: Path, user: Json, part: str
) -> None:
    """No request goes out without them: its 401 would tell nobody why."""
    with pytest.raises(SourceError, match=part):
        load(ApiSettings(kubeconfig(tmp_path / "config", URL, user)))


@pytest.mark.parametrize("key", ["as", "as-uid", "as-groups", "as-user-extra"])
def test_nobody_acts_as_somebody_else(tmp_path: Path, key: str) -> None:
    """The client would be the user itself, and say nothing."""
    config = kubeconfig(tmp_path / "config", URL, {"token": "x", key: ["root"]})
    with pytest.raises(SourceError, match="act as somebody else"):
        Credentials(ApiSettings(config), time.time).check()


def test_what_is_null_is_not_there(tmp_path: Path) -> None:
    """As for client-go, whose tools may write so."""
    user = {"exec": None, "auth-provider": None, "tokenFile": None, "token": "x"}
    config = kubeconfig(tmp_path / "config", URL, user)
    assert load(ApiSettings(config)).headers["Authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("part", "cluster", "user"),
    [
        ("certificate-authority", {"certificate-authority": "none.crt"}, {}),
        ("client-certificate with its client-key", {}, {"client-certificate": "none.crt"}),
    ],
)
def test_the_part_that_is_broken_is_named(
    tmp_path: Path, part: str, cluster: Json, user: Json
) -> None:
    """OpenSSL does not say which file it could not read."""
    (tmp_path / "none.crt").write_text("nonsense")
    config = kubeconfig(tmp_path / "config", URL, user, **cluster)
    with pytest.raises(SourceError, match=f"the {part} cannot be read"):
        load(ApiSettings(config))
