"""What the contract tests share: certificates of a job, and a server on a port of its own."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc import aio
from vaco.channels import Security, TokenInterceptor, bind, server_options
from vaco.v1 import learner_pb2, learner_pb2_grpc

AUTHORITY_DAYS = 2


class Authority:
    """A certificate authority that lives as long as the test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        self.certificate = builder.sign(self._key, hashes.SHA256())

    def write(self, folder: Path, name: str) -> Security:
        """Writes a certificate for `name` and what goes with it."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = self._builder(subject, key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        certificate = builder.sign(self._key, hashes.SHA256())
        folder.mkdir(exist_ok=True)
        security = Security(*(folder / n for n in ("ca.pem", "cert.pem", "key.pem", "token")))
        pem = serialization.Encoding.PEM
        security.ca.write_bytes(self.certificate.public_bytes(pem))
        security.cert.write_bytes(certificate.public_bytes(pem))
        security.key.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        security.token.write_text("token\n")
        return security

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=AUTHORITY_DAYS))
        )


class StatusServicer(learner_pb2_grpc.LearnerServiceServicer):
    async def GetStatus(  # type: ignore[override]  # noqa: N802 - the blocking API's, gRPC's name
        self, _request: learner_pb2.GetStatusRequest, _context: object
    ) -> learner_pb2.GetStatusResponse:
        return learner_pb2.GetStatusResponse(job_uid="job")


WriteSecurity = Callable[..., Security]


@pytest.fixture(scope="session")
def write_security() -> WriteSecurity:
    """Writes (or renews) credentials in a folder; those of one authority trust each other."""
    authorities: dict[str, Authority] = {}

    def write(folder: Path, name: str = "actor-0", authority: str = "job") -> Security:
        return authorities.setdefault(authority, Authority()).write(folder, name)

    return write


@pytest.fixture
def security(write_security: WriteSecurity, tmp_path: Path) -> Security:
    """The server's."""
    return write_security(tmp_path / "server", "learner")


@pytest.fixture
def client_security(write_security: WriteSecurity, tmp_path: Path) -> Security:
    """An actor's, of the same job."""
    return write_security(tmp_path / "client")


Serve = Callable[..., AbstractAsyncContextManager[str]]


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Runs a server for the length of a `with`; what is entered is its address."""

    @asynccontextmanager
    async def run(
        security: Security | None = None, add: Callable[[aio.Server], None] | None = None
    ) -> AsyncIterator[str]:
        interceptors = [TokenInterceptor(security)] if security else []
        server = aio.server(options=server_options(), interceptors=interceptors)
        learner_pb2_grpc.add_LearnerServiceServicer_to_server(StatusServicer(), server)
        if add:
            add(server)
        port = bind(server, "127.0.0.1:0", security)
        await server.start()
        try:
            yield f"localhost:{port}"
        finally:
            await server.stop(0)

    return run
