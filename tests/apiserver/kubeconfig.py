# SPDX-License-Identifier: Apache-2.0
"""Writes kubeconfig files of every form of credential, and a pod's service account directory."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import NamedTuple

from tests.apiserver.answers import Json
from tests.apiserver.certificates import Pair

USERS = (
    "token",
    "tokenFile",
    "clientCertificate",
    "clientCertificateData",
    "exec",
    "basic",
    "none",
)
AUTHORITIES = ("data", "file", "insecure", "none")


class Access(NamedTuple):
    """What a kubeconfig needs to know of a server and its client."""

    url: str
    authority: Path | None
    token: str
    client: Pair | None
    password: tuple[str, str]


def write_kubeconfig(path: Path, access: Access, user: str, authority: str) -> None:
    """Write a kubeconfig (JSON, which is YAML) and the files it refers to beside it.

    `user` is one of USERS, `authority` one of AUTHORITIES; raises ValueError for others. Beside
    `path`: PATH.token (tokenFile), PATH.crt and PATH.key (clientCertificate), PATH.exec.json (what
    the exec plugin prints), PATH.ca (authority file).
    """
    if user not in USERS or authority not in AUTHORITIES:
        raise ValueError(
            f"no kubeconfig with user {user!r} and authority {authority!r}:"
            f" give one of {', '.join(USERS)} and one of {', '.join(AUTHORITIES)}"
        )
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": _cluster(path, access, authority)}],
        "users": [{"name": "tests", "user": _user(path, access, user)}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    }
    path.write_text(json.dumps(config, indent=2) + "\n")


def write_service_account(directory: Path, access: Access) -> None:
    """Write what a pod finds in /var/run/secrets/kubernetes.io/serviceaccount."""
    directory.mkdir(parents=True, exist_ok=True)
    replace(directory / "token", access.token)
    replace(directory / "namespace", "kube-system")
    if access.authority:
        replace(directory / "ca.crt", access.authority.read_text())


def exec_credential(token: str) -> str:
    """Return what an exec plugin prints for a token (client.authentication.k8s.io/v1)."""
    return json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {"token": token},
        }
    )


def replace(path: Path, text: str) -> None:
    """Write a file in one step, as whatever rotates credentials on disk does."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)


def beside(path: Path, suffix: str) -> Path:
    """Return the file beside a kubeconfig that has its name and a suffix: PATH.token."""
    return path.with_name(f"{path.name}.{suffix}")


def _cluster(path: Path, access: Access, authority: str) -> Json:
    cluster: Json = {"server": access.url}
    if authority == "insecure":
        cluster["insecure-skip-tls-verify"] = True
    elif access.authority and authority == "data":
        cluster["certificate-authority-data"] = _base64(access.authority)
    elif access.authority and authority == "file":
        replace(beside(path, "ca"), access.authority.read_text())
        cluster["certificate-authority"] = str(beside(path, "ca"))
    return cluster


def _user(path: Path, access: Access, user: str) -> Json:
    if user == "token":
        return {"token": access.token}
    if user == "tokenFile":
        replace(beside(path, "token"), access.token)
        return {"tokenFile": str(beside(path, "token"))}
    if user == "exec":
        replace(beside(path, "exec.json"), exec_credential(access.token))
        return {"exec": _plugin(beside(path, "exec.json"))}
    if user == "basic":
        return {"username": access.password[0], "password": access.password[1]}
    return _certificate(path, access, user) if user != "none" else {}


def _certificate(path: Path, access: Access, user: str) -> Json:
    if access.client is None:
        raise ValueError("a server without TLS takes no client certificates: use a token")
    if user == "clientCertificateData":
        return {
            "client-certificate-data": _base64(access.client.certificate),
            "client-key-data": _base64(access.client.key),
        }
    replace(beside(path, "key"), access.client.key.read_text())
    replace(beside(path, "crt"), access.client.certificate.read_text())
    return {
        "client-certificate": str(beside(path, "crt")),
        "client-key": str(beside(path, "key")),
    }


def _plugin(credential: Path) -> Json:
    """Return an exec plugin that needs no program of ours: it prints a file."""
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "cat",
        "args": [str(credential)],
        "env": None,
        "interactiveMode": "Never",
        "provideClusterInfo": False,
    }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
