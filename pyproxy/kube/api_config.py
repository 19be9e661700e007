# SPDX-License-Identifier: Apache-2.0
"""Where the API server is and who we are to it: from a kubeconfig or from the pod we run in.

The kubernetes client reads kubeconfigs and runs plugins. Three things it leaves to us: files
that change (tokens, certificates, the kubeconfig itself) are read anew, blanks around tokens
are cut off, and private keys from a kubeconfig's text stay on no disk.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from kubernetes.client.configuration import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import incluster_config, kube_config
from urllib3.util import make_headers, parse_url

from pyproxy.errors import SourceError
from pyproxy.kube.bounded import Bounded
from pyproxy.kube.yamltext import load_document

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

# Credentials that say when they end are fetched anew so many seconds before.
_EXPIRY_MARGIN_S = 60.0
# How long a plugin may take: no thread that waits for it can say what it waits for.
_PLUGIN_S = 60.0
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")

_Stamp: TypeAlias = tuple[tuple[int, ...] | None, ...]


class ApiSettings(NamedTuple):
    """How to reach the API server.

    `kubeconfig`: None means in-cluster, by `service_account` and KUBERNETES_SERVICE_HOST and
    _PORT in `environ`. `master`: a URL that overrides the server ("": none).
    """

    kubeconfig: Path | None = None
    master: str = ""
    service_account: Path = SERVICE_ACCOUNT
    environ: Mapping[str, str] = os.environ


class Access(NamedTuple):
    """Credentials as they were read: what a connection needs.

    `stamp` tells the state of the files that they come from, `expires` when they end in
    seconds since the epoch (0.0: nobody said).
    """

    configuration: Configuration
    headers: Mapping[str, str]
    context: ssl.SSLContext | None
    files: tuple[Path, ...]
    stamp: _Stamp
    expires: float


class Credentials:
    """Access to the API server, read again whenever its files change. Safe for threads.

    `clock` returns seconds since the epoch; a plugin has `plugin_s` seconds to answer.
    """

    def __init__(
        self,
        settings: ApiSettings,
        clock: Callable[[], float],
        plugin_s: float = _PLUGIN_S,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._plugin_s = plugin_s
        self._loaded = Bounded(lambda: load(settings), plugin_s)
        self._lock = threading.Lock()
        self._access: Access | None = None

    def check(self) -> None:
        """Raise SourceError where no API server is named at all; runs no plugin."""
        if self._settings.kubeconfig is not None:
            _chosen(self._settings.kubeconfig)
        elif not (self._settings.master or _is_pod(self._settings)):
            raise SourceError(
                "there is no kubeconfig, and this is no pod (no KUBERNETES_SERVICE_HOST)",
                "give --kubeconfig FILE, or clientConnection.kubeconfig in --config",
            )

    def current(self) -> Access:
        """Return the credentials as the files have them now; raises SourceError.

        While files that changed cannot be used, what they held before is tried, as by client-go.
        """
        with self._lock:
            if self._access is None:
                self._access = self._load()
            elif self._is_stale(self._access):
                with contextlib.suppress(SourceError):
                    self._access = self._load()
            return self._access

    def renew(self, refused: Access) -> Access:
        """Return other credentials than those the server refused, if there are any.

        Raises SourceError.
        """
        with self._lock:
            if self._access is None or self._access is refused:
                self._access = self._load()
            return self._access

    def _load(self) -> Access:
        try:
            return self._loaded()
        except TimeoutError:
            raise SourceError(
                f"the credentials in {self._settings.kubeconfig} cannot be used: the plugin that "
                f"it names has not answered for {self._plugin_s:g} s and was ended",
                "run the plugin by hand; it may wait for somebody to log in",
            ) from None

    def _is_stale(self, access: Access) -> bool:
        ended = bool(access.expires) and access.expires - _EXPIRY_MARGIN_S <= self._clock()
        return ended or _stamp(access.files) != access.stamp


def load(settings: ApiSettings) -> Access:
    """Read the credentials, run plugins; raises SourceError, with what to mend."""
    try:
        if settings.kubeconfig is None:
            is_alone = settings.master and not _is_pod(settings)
            return _load_master(settings) if is_alone else _load_in_cluster(settings)
        return _load_kubeconfig(settings, settings.kubeconfig)
    except SourceError:
        raise
    # Plugins and issuers raise whatever their libraries do; it must not end the agent.
    except Exception as error:
        origin = settings.kubeconfig or settings.service_account
        raise SourceError(
            f"the credentials in {origin} cannot be used: {_said(error)}", "mend them"
        ) from error


def _is_pod(settings: ApiSettings) -> bool:
    return bool(settings.environ.get("KUBERNETES_SERVICE_HOST"))


def _load_master(settings: ApiSettings) -> Access:
    """Return no credentials: --master alone names a server that asks for none (parity A18.2)."""
    configuration = _new_configuration()
    configuration.host = _url(settings.master)
    return _access(configuration, (), (), 0.0)


def _load_in_cluster(settings: ApiSettings) -> Access:
    token, authority = settings.service_account / "token", settings.service_account / "ca.crt"
    files = (token, authority)
    stamp = _stamp(files)
    configuration = _new_configuration()
    loader: Any = incluster_config.InClusterConfigLoader
    loader(
        str(token), str(authority), try_refresh_token=False, environ=settings.environ
    ).load_and_set(configuration)
    configuration.host = _url(settings.master or configuration.host)
    return _access(configuration, files, stamp, 0.0)


def _load_kubeconfig(settings: ApiSettings, path: Path) -> Access:
    config, cluster, user = _chosen(path)
    # Without https:// the client would leave out the CA and the certificates.
    cluster["server"] = _url(settings.master or str(cluster["server"]))
    files = (path, *_files_named(path.parent, cluster, user))
    stamp = _stamp(files)
    configuration = _new_configuration()
    with _place_for_keys(cluster, user) as directory:
        make_loader: Any = kube_config.KubeConfigLoader
        loader = make_loader(
            config, config_base_path=str(path.absolute().parent), temp_file_path=directory
        )
        found = vars(loader)
        try:
            _authenticate(loader, configuration, user)
            if not (found.get("token") or found.get("cert_file")):
                _refuse_nobody(user)
            expiry = found.get("expiry")
        finally:
            # The loader refers to itself, and the agent runs without the garbage collector.
            found.clear()
        expires = expiry.timestamp() if isinstance(expiry, dt.datetime) else 0.0
        if cluster.get("proxy-url"):
            # As by client-go: NO_PROXY is about the proxy of the environment.
            configuration.no_proxy = None
        return _access(configuration, files, stamp, expires)


def _authenticate(loader: Any, configuration: Configuration, user: dict[str, Any]) -> None:
    try:
        loader.load_and_set(configuration)
    except Exception as error:
        if "auth-provider" not in user:
            raise
        raise ValueError(f"{_provider_failed(user)} ({_said(error)})") from error


def _refuse_nobody(user: dict[str, Any]) -> None:
    """Raise ValueError if a user has credentials that came to nothing.

    Requests would be made without any, and a 401 would say nothing of the reason.
    """
    if "exec" in user:
        raise ValueError(f"the plugin {_command(user)} gave none: run it by hand")
    if "auth-provider" in user:
        raise ValueError(_provider_failed(user))
    if "username" in user:
        raise ValueError("there is a username and no password")


def _provider_failed(user: dict[str, Any]) -> str:
    name = user["auth-provider"].get("name", "(no name)")
    return f"the auth-provider {name} gave none; name a plugin (exec) instead, as for kubectl"


def _place_for_keys(
    cluster: dict[str, Any], user: dict[str, Any]
) -> contextlib.AbstractContextManager[str]:
    """Give a directory for keys that stand in the text: they go as soon as they are read.

    The client writes those into files. A kubeconfig that has none works where nothing can be
    written.
    """
    has_keys = "exec" in user or any(key.endswith("-data") for key in (*cluster, *user))
    if not has_keys:
        return contextlib.nullcontext("/")
    return tempfile.TemporaryDirectory(prefix="pyproxy-")


def _new_configuration() -> Configuration:
    configuration = Configuration(retries=False, connection_pool_maxsize=1)
    # Peers that vanished without a word are found out by the kernel, as client-go does it.
    configuration.keep_alive = True
    return configuration


def _access(
    configuration: Configuration,
    files: tuple[Path, ...],
    stamp: _Stamp,
    expires: float,
) -> Access:
    configuration.refresh_api_key_hook = None
    _go_by_proxy(configuration)
    headers = {"Accept": "application/json", "User-Agent": "pyproxy"}
    token = " ".join((configuration.api_key.get("BearerToken") or "").split())
    if not token.isascii():
        raise ValueError("the token has characters that no token has")
    if token:
        headers["Authorization"] = token
    return Access(configuration, headers, _context(configuration), files, stamp, expires)


def _url(server: str) -> str:
    """Return a server's URL. Without a scheme it is TLS: client-go's choice for who has secrets."""
    return (server if "://" in server else f"https://{server}").rstrip("/")


def _go_by_proxy(configuration: Configuration) -> None:
    """Show the proxy the name and password of its URL; raises ValueError for one of no use."""
    try:
        if configuration.proxy and (auth := parse_url(configuration.proxy).auth):
            configuration.proxy_headers = make_headers(proxy_basic_auth=unquote(auth))
        RESTClientObject(configuration).close()
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"the proxy (proxy-url, or HTTPS_PROXY) is of no use: {_said(error)}; "
            "name one by http:// or https://"
        ) from error


def _context(configuration: Configuration) -> ssl.SSLContext | None:
    """Return TLS settings with all keys read in; None for a server without TLS."""
    if not configuration.host.startswith("https:"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif configuration.ssl_ca_cert:
        with _named_if_broken("certificate-authority"):
            context.load_verify_locations(configuration.ssl_ca_cert)
    else:
        context.load_default_certs()
    if configuration.cert_file:
        with _named_if_broken("client-certificate with its client-key"):
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(configuration.cert_file, configuration.key_file, password=b"")
    return context


@contextlib.contextmanager
def _named_if_broken(part: str) -> Iterator[None]:
    """Say which part it is that cannot be read: OpenSSL does not."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"the {part} cannot be read: {_said(error)}") from error


def _chosen(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return a kubeconfig with the cluster and the user of its current context.

    Raises SourceError.
    """
    remedy = "give --kubeconfig (clientConnection.kubeconfig in --config) a file for kubectl"
    try:
        config = load_document(path.read_bytes())
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"] if context.get("user") else {}
        # Something that is null is not there; the loader reads from the same dictionary.
        user = user or {}
        for key in [key for key, value in user.items() if value is None]:
            del user[key]
        _ = cluster["server"]
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}", remedy) from error
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise SourceError(f"{path} is no usable kubeconfig: {error}", remedy) from error
    if any(user.get(key) for key in _IMPERSONATION):
        raise SourceError(f"{path} asks to act as somebody else (as)", "name the user itself")
    if user.get("tokenFile"):
        # client-go's precedence; the client would never look at the file beside a token.
        user.pop("token", None)
    return config, cluster, user


def _named(config: dict[str, Any], section: str, name: str) -> dict[str, Any]:
    for item in config[section]:
        if item["name"] == name:
            found: dict[str, Any] = item
            return found
    raise LookupError(f"there is no {name!r} among its {section}")


def _files_named(base: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Iterable[Path]:
    named = (
        cluster.get("certificate-authority"),
        *(user.get(key) for key in ("tokenFile", "client-certificate", "client-key")),
    )
    return (base / name for name in named if name)


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _command(user: dict[str, Any]) -> str:
    return str(user["exec"].get("command", "(no command)"))


def _stamp(files: Iterable[Path]) -> _Stamp:
    """Return what changes when a file is written, replaced or its link turned."""
    return tuple(map(_stamp_of, files))


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_ino, found.st_mtime_ns, found.st_size)
