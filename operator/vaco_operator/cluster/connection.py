"""Where the API server is, and how the operator proves who it is.

Inside of the cluster that takes a few lines: an address in the environment, a certificate authority
and a token that the kubelet renews in a file. Kubeconfig files know a dozen ways (exec plugins,
OIDC, certificates); they are read by the official client, whose import costs 12 MB and a second,
so that only who uses one pays for it.
"""

import asyncio
import contextlib
import os
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vaco.errors import UserError

if TYPE_CHECKING:
    from kubernetes.aio.client import Configuration

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS: Final = 60.0
"""How long a token that was read is used: the kubelet renews it long before it expires."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach and convince one API server.

    Attributes:
        url: without a slash at the end.
        tls: None for a plain http:// address.
        authorization: returns the header's value of this moment; empty: there is none.
        server_name: the name to expect in the server's certificate; None: that of the URL.
        proxy: URL of a proxy; None: there is none.

    """

    url: str
    tls: ssl.SSLContext | None
    authorization: Callable[[], str]
    server_name: str | None = None
    proxy: str | None = None


@contextlib.asynccontextmanager
async def connected(kubeconfig: Path | None, context: str = "") -> AsyncIterator[Connection]:
    """Find the API server, and keep the credentials fresh while the context lasts.

    Args:
        kubeconfig: the file to read; None: the environment of a pod.
        context: of the file; empty: its current one.

    Raises:
        UserError: there is no cluster to be found, or the file is wrong.

    """
    if kubeconfig is None:
        yield in_cluster(os.environ, SERVICE_ACCOUNT)
        return
    async with _by_kubeconfig(kubeconfig, context) as connection:
        yield connection


def in_cluster(environment: Mapping[str, str], account: Path) -> Connection:
    """Use the service account of the pod this process runs in.

    Raises:
        UserError: this is no pod, or it has no token.

    """
    host = environment.get("KUBERNETES_SERVICE_HOST", "")
    port = environment.get("KUBERNETES_SERVICE_PORT", "")
    if not host or not port:
        raise UserError("--kubeconfig", "is not given, and this is no pod of a cluster")
    token = _TokenFile(account / "token")
    try:
        token.read()
        tls = _trusting(str(account / "ca.crt"))
    except OSError as error:
        raise UserError(
            str(account),
            f"cannot be read ({error})",
            "The pod needs its service account's token: automountServiceAccountToken.",
        ) from None
    bracketed = f"[{host}]" if ":" in host else host
    return Connection(f"https://{bracketed}:{port}", tls, token.header)


class _TokenFile:
    """A token that somebody else renews."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._header = ""
        self._read_at = float("-inf")

    def read(self) -> None:
        self._header = f"Bearer {self._path.read_text(encoding='utf-8').strip()}"
        self._read_at = time.monotonic()

    def header(self) -> str:
        if time.monotonic() - self._read_at > TOKEN_SECONDS:
            # While the file is being replaced, the token before is still good.
            with contextlib.suppress(OSError):
                self.read()
        return self._header


@contextlib.asynccontextmanager
async def _by_kubeconfig(path: Path, context: str) -> AsyncIterator[Connection]:
    # The official client is heavy: see above. The operator's image does not even have it.
    try:
        from kubernetes.aio import config
        from kubernetes.aio.client import Configuration as Found
    except ImportError:
        raise UserError(
            "--kubeconfig", "needs the package kubernetes", "Install vaco[operator]."
        ) from None

    found = Found()
    # The client writes keys that stand in the file to files of its own, for OpenSSL to read.
    with tempfile.TemporaryDirectory(prefix="vaco-operator-") as folder:
        try:
            loader = await config.load_kube_config(  # type: ignore[no-untyped-call]
                str(path), context or None, found, persist_config=False, temp_file_path=folder
            )
            tls = _tls(found) if found.host.startswith("https") else None
        except (config.ConfigException, OSError, ValueError) as error:
            raise UserError(
                "--kubeconfig", f"{path} leads to no cluster: {error}", "See kubectl config view."
            ) from None
        renewal = asyncio.create_task(config.refresh_token(loader, found))  # type: ignore[no-untyped-call]
        try:
            yield Connection(
                found.host.rstrip("/"),
                tls,
                lambda: str(found.api_key.get("BearerToken", "")),
                found.tls_server_name,
                found.proxy,
            )
        finally:
            renewal.cancel()


def _tls(configuration: "Configuration") -> ssl.SSLContext:
    tls = _trusting(configuration.ssl_ca_cert)
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return tls


def _trusting(authority: str | None) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=authority)
    # Authorities of managed clusters lack what Python 3.13 asks of certificates by default.
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return tls
