# SPDX-License-Identifier: Apache-2.0
"""Credentials of every kind, over TLS: taken, rotated, refused."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import subprocess
from pathlib import Path

import pytest

from tests.api.server.asking import SERVICES, SLICES, bearer, connect, get, read_reply
from tests.apiserver import ApiServer, CommandError
from tests.apiserver.certificates import Pair
from tests.apiserver.kubeconfig import AUTHORITIES, USERS


def test_a_token_rotates(secured: ApiServer) -> None:
    """The new token is good at once, the one before gets 401, on a live connection too."""
    old = secured.token
    connection = connect(secured)
    connection.request("GET", SERVICES, headers=bearer(old))
    assert read_reply(connection).status == 200
    new = secured.rotate_token()
    statuses = []
    for token in (old, new):
        connection.request("GET", SERVICES, headers=bearer(token))
        statuses.append(read_reply(connection).status)
    connection.close()
    assert statuses == [401, 200]


def test_no_credentials(secured: ApiServer) -> None:
    """Nobody is 401, and has no priority level."""
    reply = get(secured, SERVICES, headers={})
    assert reply.status == 401
    assert "x-kubernetes-pf-flowschema-uid" not in reply.headers


def test_a_client_certificate(secured: ApiServer) -> None:
    """Its common name is the user; once revoked it is 401, and a new one is good."""
    first, second = (secured.client_certificate("agent") for _ in range(2))
    assert get(secured, SERVICES, headers={}, client=first).status == 200
    assert secured.requests[-1].user == "agent"
    secured.revoke_certificate(first.certificate)
    assert get(secured, SERVICES, headers={}, client=first).status == 401
    assert get(secured, SERVICES, headers={}, client=second).status == 200


def test_a_wrong_password(secured: ApiServer, tmp_path: Path) -> None:
    """A known name with another password, an unknown name, and nonsense are 401."""
    secured.kubeconfig(tmp_path / "config", "basic")
    for secret in (b"tester:guess", b"nobody:let me in", b"\xff"):
        headers = {"Authorization": f"Basic {base64.b64encode(secret).decode()}"}
        assert get(secured, SERVICES, headers=headers).status == 401


def test_a_right_is_taken_and_given_back(secured: ApiServer) -> None:
    """403 concerns one resource, verb and user, and is named as the authorizer names it."""
    secured.forbid("endpointslices", "list")
    refused = get(secured, "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices")
    assert refused.status == 403
    assert refused.json["message"].endswith(
        'cannot list resource "endpointslices" in API group "discovery.k8s.io" in the namespace "a"'
    )
    assert get(secured, SERVICES).status == 200
    secured.permit("endpointslices", "list")
    assert get(secured, SLICES).status == 200


def test_another_authority() -> None:
    """After the CA has changed, new connections are trusted by the new one alone."""
    with ApiServer() as server:
        old = ssl.create_default_context(cafile=str(server.authority))
        server.rotate_authority()
        assert get(server, SERVICES).status == 200
        host = server.url.removeprefix("https://")
        connection = http.client.HTTPSConnection(host, context=old, timeout=5)
        with pytest.raises(ssl.SSLCertVerificationError):
            connection.request("GET", SERVICES)


@pytest.mark.parametrize("user", USERS)
def test_a_kubeconfigs_user(secured: ApiServer, tmp_path: Path, user: str) -> None:
    """Every form of credential that the writer knows is good (none: 401)."""
    path = secured.kubeconfig(tmp_path / "config", user, "file")
    config = json.loads(path.read_text())
    headers, client = credentials(config["users"][0]["user"], tmp_path)
    reply = get(secured, SERVICES, headers=headers, client=client)
    assert reply.status == (401 if user == "none" else 200)


def credentials(user: dict[str, object], folder: Path) -> tuple[dict[str, str], Pair | None]:
    """Return the headers and the client certificate that a kubeconfig's user means."""
    fields = {key: str(value) for key, value in user.items()}
    if isinstance(plugin := user.get("exec"), dict):
        printed = subprocess.check_output([plugin["command"], *plugin["args"]])
        return bearer(json.loads(printed)["status"]["token"]), None
    if "client-certificate-data" in fields:
        pair = Pair(folder / "client.crt", folder / "client.key")
        pair.certificate.write_bytes(base64.b64decode(fields["client-certificate-data"]))
        pair.key.write_bytes(base64.b64decode(fields["client-key-data"]))
        return {}, pair
    if "client-certificate" in fields:
        return {}, Pair(Path(fields["client-certificate"]), Path(fields["client-key"]))
    if "username" in fields:
        secret = f"{fields['username']}:{fields['password']}".encode()
        return {"Authorization": f"Basic {base64.b64encode(secret).decode()}"}, None
    if "tokenFile" in fields:
        return bearer(Path(fields["tokenFile"]).read_text().strip()), None
    return (bearer(fields["token"]) if fields else {}), None


@pytest.mark.parametrize("authority", AUTHORITIES)
def test_a_kubeconfigs_cluster(secured: ApiServer, tmp_path: Path, authority: str) -> None:
    """The CA comes as data or as a file; or is not looked at, or not given."""
    path = secured.kubeconfig(tmp_path / "config", "token", authority)
    cluster = json.loads(path.read_text())["clusters"][0]["cluster"]
    assert cluster.pop("server") == secured.url
    assert secured.authority
    if "certificate-authority" in cluster:
        file = Path(cluster["certificate-authority"])
        cluster["certificate-authority"] = base64.b64encode(file.read_bytes()).decode()
    encoded = base64.b64encode(secured.authority.read_bytes()).decode()
    assert (
        cluster
        == {
            "data": {"certificate-authority-data": encoded},
            "file": {"certificate-authority": encoded},
            "insecure": {"insecure-skip-tls-verify": True},
            "none": {},
        }[authority]
    )


def test_a_service_account(secured: ApiServer, tmp_path: Path) -> None:
    """A pod's directory holds token, CA and namespace."""
    folder = secured.service_account(tmp_path / "serviceaccount")
    assert secured.authority
    assert (folder / "token").read_text() == secured.token
    assert (folder / "ca.crt").read_text() == secured.authority.read_text()
    assert (folder / "namespace").read_text()


def test_a_plain_server_has_no_certificates(plain: ApiServer, tmp_path: Path) -> None:
    """Asking for what only TLS has is a test's mistake."""
    with pytest.raises(CommandError, match="without TLS"):
        plain.kubeconfig(tmp_path / "config", "clientCertificate")
    with pytest.raises(ValueError, match="give one of"):
        plain.kubeconfig(tmp_path / "config", "password")
