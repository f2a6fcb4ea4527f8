"""Channels and servers: the same limits, keepalive and credentials at both ends.

Between machines everything is mutual TLS with a job's own certificate authority, and a token
besides; on loopback a run may go without. Certificates and tokens are files that somebody else
renews: a server reads them again at the handshake after they changed, a client whenever it
makes a channel (so an actor makes a new one when it reconnects), tokens are read at every call.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import grpc
from grpc import aio

from vaco.errors import UserError

_LOG = logging.getLogger(__name__)

MAX_MESSAGE_BYTES: Final = 8 << 20
AUTHORIZATION: Final = "authorization"
_MAX_FILE_BYTES: Final = 1 << 20

_LIMITS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

# A peer that is gone without a word (a node lost its network) is noticed after 30 s.
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    *_LIMITS,
    *_KEEPALIVE,
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # The learner is a neighbour: what HTTPS_PROXY says is meant for the outside world.
    ("grpc.enable_http_proxy", 0),
    # Each channel has a connection of its own: a fragment's megabytes, which wait for the learner
    # to take them, do not hold up weights.
    ("grpc.use_local_subchannel_pool", 1),
)


def server_options() -> tuple[tuple[str, int], ...]:
    """Return what a server needs to serve clients with `CHANNEL_OPTIONS`."""
    return (
        *_LIMITS,
        *_KEEPALIVE,
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Two servers on one port would each get some of the actors.
        ("grpc.so_reuseport", 0),
    )


@cache
def hold_event_engine() -> grpc.Channel:
    """Keep gRPC's event engine until the process ends; for whoever makes secure channels.

    Otherwise it ends with the last channel or server. Whoever closes that one holds Python's lock
    and waits for the engine's threads, and one of them may wait for the lock, to let go of a
    token or to ask for certificates: the whole process freezes (grpc/grpc#42247).

    Returns:
        A channel that is never used.

    """
    return grpc.insecure_channel("unix:nobody", options=CHANNEL_OPTIONS)


@dataclass(frozen=True, slots=True)
class Security:
    """Where a process finds what it proves itself with.

    Attributes:
        ca: certificate authority of the job, PEM.
        cert: this process's certificate chain, PEM.
        key: its private key, PEM.
        token: the job's token, one line.

    """

    ca: Path
    cert: Path
    key: Path
    token: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Self | None:
        """Return what VACO_TLS_CA, VACO_TLS_CERT, VACO_TLS_KEY and VACO_TOKEN_FILE name.

        Returns:
            None when none of them is set.

        Raises:
            UserError: only some are set, or a file is missing, or certificate and key do not
                belong together.

        """
        names = ("VACO_TLS_CA", "VACO_TLS_CERT", "VACO_TLS_KEY", "VACO_TOKEN_FILE")
        values = [environ.get(name, "") for name in names]
        if not any(values):
            return None
        for name, value in zip(names, values, strict=True):
            if not value:
                raise UserError(name, "not set, though others are", f"Set all of {list(names)}.")
        security = cls(*(Path(value) for value in values))
        security.load_pair()
        security.load_authority()
        security.read_token()
        return security

    def read_token(self) -> str:
        """Return the token as it is now.

        Raises:
            UserError: the file cannot be read or holds no printable token.

        """
        token = _read(self.token).decode("ascii", errors="replace").strip()
        if not token or not token.isascii() or not token.isprintable():
            raise UserError(str(self.token), "holds no token", "Write one line of ASCII.")
        return token

    def load_pair(self) -> tuple[bytes, bytes]:
        """Return certificate chain and key, both PEM.

        Raises:
            UserError: a file cannot be read, or the two do not belong together.

        """
        pair = _read(self.cert), _read(self.key)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key)
        except (OSError, ValueError) as error:
            problem = f"does not go with {self.key}: {error}"
            raise UserError(str(self.cert), problem, "Renew the two together.") from error
        return pair

    def load_authority(self) -> bytes:
        """Return the certificate authority, PEM.

        Raises:
            UserError: the file cannot be read, or holds no certificate.

        """
        data = _read(self.ca)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca)
        except (OSError, ValueError) as error:
            raise UserError(str(self.ca), f"holds no certificate: {error}") from error
        return data

    def signature(self) -> tuple[tuple[int, int, int], ...]:
        """Return what changes whenever one of the certificate files does."""
        stats = [path.stat() for path in (self.ca, self.cert, self.key)]
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in stats)


def sync_channel(target: str, security: Security | None = None) -> grpc.Channel:
    """Open a blocking channel; with `security`, mutual TLS with the token in every call.

    Raises:
        UserError: a credential file cannot be read.

    """
    if security is None:
        return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
    return grpc.secure_channel(target, _channel_credentials(security), options=CHANNEL_OPTIONS)


def aio_channel(target: str, security: Security | None = None) -> aio.Channel:
    """Open an asyncio channel; with `security`, mutual TLS with the token in every call.

    Raises:
        UserError: a credential file cannot be read.

    """
    if security is None:
        return aio.insecure_channel(target, options=CHANNEL_OPTIONS)
    return aio.secure_channel(target, _channel_credentials(security), options=CHANNEL_OPTIONS)


def bind(server: aio.Server, address: str, security: Security | None = None) -> int:
    """Add a port to `server` (made with `server_options()`); return the port bound.

    Args:
        server: not started yet.
        address: host and port; port 0 lets the system choose.
        security: None: plain text, for loopback.

    Raises:
        UserError: plain text beyond loopback, the address is taken or not ours, or the
            credentials are not usable.

    """
    if security is None and not is_loopback(address):
        cure = "Give VACO_TLS_CA, VACO_TLS_CERT, VACO_TLS_KEY and VACO_TOKEN_FILE."
        raise UserError(address, "not loopback, and there are no TLS credentials", cure)
    try:
        if security is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, _server_credentials(security))
    except RuntimeError as error:
        raise UserError(address, f"cannot listen there: {error}", "Choose another.") from error
    return port


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can reach `address` (host:port or unix:path)."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class TokenInterceptor(aio.ServerInterceptor):
    """Refuse every call that does not carry the job's token (UNAUTHENTICATED)."""

    def __init__(self, security: Security) -> None:
        self._security = security

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Pass the call on, or answer it with a refusal."""
        handler = await continuation(handler_call_details)
        if handler is not None and not self._is_known(handler_call_details.invocation_metadata):
            return _refusal(handler)
        return handler  # type: ignore[return-value]  # None: no such method, which grpc answers

    def _is_known(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        try:
            expected = f"Bearer {self._security.read_token()}".encode()
        except UserError as error:
            _LOG.error("refusing every call: %s", error)
            return False
        given = [value for name, value in metadata if name == AUTHORIZATION]
        return (
            len(given) == 1
            and isinstance(given[0], str)
            and hmac.compare_digest(given[0].encode(), expected)
        )


def _refusal(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    """Return a handler of the same kind that aborts the call."""

    async def refuse_once(_request: object, context: aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the job's token is missing or wrong")

    if not (handler.request_streaming or handler.response_streaming):
        return grpc.unary_unary_rpc_method_handler(refuse_once)
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse_once)
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(refuse_once)
    return grpc.unary_stream_rpc_method_handler(refuse_once)


class _BearerToken(grpc.AuthMetadataPlugin):
    """Puts the token, as the file holds it now, into a call's metadata."""

    def __init__(self, security: Security) -> None:
        self._security = security

    def __call__(
        self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        try:
            metadata = ((AUTHORIZATION, f"Bearer {self._security.read_token()}"),)
        except UserError as error:
            callback((), error)
        else:
            callback(metadata, None)


def _channel_credentials(security: Security) -> grpc.ChannelCredentials:
    hold_event_engine()
    chain, key = security.load_pair()
    tls = grpc.ssl_channel_credentials(security.load_authority(), key, chain)
    token = grpc.metadata_call_credentials(_BearerToken(security), name="token")
    return grpc.composite_channel_credentials(tls, token)


def _server_credentials(security: Security) -> grpc.ServerCredentials:
    hold_event_engine()
    source = _CertificateSource(security)
    return grpc.dynamic_ssl_server_credentials(
        source.load(),
        source.load_if_changed,  # type: ignore[arg-type]  # None: no change, says grpc's reference
        require_client_authentication=True,
    )


class _CertificateSource:
    """Reads the certificates again when their files changed.

    gRPC asks at every handshake, in its own thread, and keeps what it has when told None.
    """

    def __init__(self, security: Security) -> None:
        self._security = security
        self._signature: tuple[tuple[int, int, int], ...] = ()

    def load(self) -> grpc.ServerCertificateConfiguration:
        signature = self._security.signature()
        chain, key = self._security.load_pair()
        configuration = grpc.ssl_server_certificate_configuration(
            [(key, chain)], root_certificates=self._security.load_authority()
        )
        self._signature = signature
        return configuration

    def load_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            if self._security.signature() == self._signature:
                return None
            configuration = self.load()
        except (OSError, UserError) as error:
            # Half-written: the old certificates hold until the new ones are whole.
            _LOG.warning("keeping the old certificates: %s", error)
            return None
        _LOG.info("certificates reloaded from %s", self._security.cert)
        return configuration


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(str(path), f"cannot be read: {error.strerror}") from error
    if len(data) > _MAX_FILE_BYTES:
        raise UserError(str(path), f"over {_MAX_FILE_BYTES} bytes")
    return data
