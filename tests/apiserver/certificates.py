# SPDX-License-Identifier: Apache-2.0
"""Certificates made at run time with the openssl command (3.0 or newer; Debian has it)."""

from __future__ import annotations

import ipaddress
import ssl
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

DAYS = "2"


class Pair(NamedTuple):
    """Files of a certificate and its key, both PEM."""

    certificate: Path
    key: Path

    @property
    def serial(self) -> int:
        """The certificate's serial number."""
        command = ["x509", "-in", str(self.certificate), "-noout", "-serial"]
        return int(_openssl(command).strip().partition("=")[2], 16)


class Authority:
    """A certificate authority that lives in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._issued = 0
        self._pair = self._made("ca", "/CN=pyproxy-tests", ("basicConstraints=critical,CA:TRUE",))

    @property
    def certificate(self) -> Path:
        """The file that clients trust."""
        return self._pair.certificate

    def server(self, names: Iterable[str]) -> Pair:
        """Return a server certificate for these host names and addresses."""
        alternatives = ",".join(sorted({_alternative(name) for name in names}))
        extensions = (f"subjectAltName={alternatives}", "extendedKeyUsage=serverAuth")
        return self._made("server", "/CN=apiserver", extensions, signed=True)

    def client(self, user: str) -> Pair:
        """Return a new client certificate for `user` (common name)."""
        extensions = ("extendedKeyUsage=clientAuth",)
        return self._made("client", f"/CN={user.replace('/', '_')}", extensions, signed=True)

    def _made(
        self, name: str, subject: str, extensions: Iterable[str], *, signed: bool = False
    ) -> Pair:
        self._issued += 1
        stem = self._directory / f"{name}-{self._issued}"
        pair = Pair(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", DAYS, "-subj", subject]
        command += ["-keyout", str(pair.key), "-out", str(pair.certificate)]
        for extension in extensions:
            command += ["-addext", extension]
        if signed:
            signer = self._pair
            command += ["-CA", str(signer.certificate), "-CAkey", str(signer.key)]
        _openssl(command)
        return pair


def server_context(pair: Pair, authority: Authority) -> ssl.SSLContext:
    """Return the TLS settings of a server that asks for, but does without, client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_cert_chain(pair.certificate, pair.key)
    context.load_verify_locations(authority.certificate)
    return context


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(arguments: list[str]) -> str:
    command = ["openssl", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError("there is no openssl: install it (apt-get install openssl)") from error
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
