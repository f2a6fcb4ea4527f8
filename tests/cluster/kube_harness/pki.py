"""The cluster's certificate authority and the kubeconfig files made with it.

One authority signs servers and clients alike: who is who stands in the certificate's subject
(common name = user, organisations = groups), as Kubernetes reads it.
"""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=7)
BACKDATED = datetime.timedelta(hours=1)
MASTERS = "system:masters"


@dataclass(frozen=True, slots=True)
class Files:
    """Where a certificate and its key were written, both PEM."""

    cert: Path
    key: Path


class Authority:
    """A self-signed authority in `folder`, which alone holds its keys (mode 0700)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("vaco-test-ca", ())
        builder = _builder(self._name, self._name, self._key.public_key())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        builder = builder.add_extension(constraints, critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        self._cert = builder.sign(self._key, hashes.SHA256())
        self.files = _write(folder, "ca", self._cert, self._key)

    def issue(
        self, name: str, groups: Sequence[str] = (), *, hosts: Sequence[str] = (), file: str = ""
    ) -> Files:
        """A certificate for the user or server `name`; `hosts` are its DNS names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject(name, groups), self._name, key.public_key())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(authority, critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return _write(self.folder, file or name, builder.sign(self._key, hashes.SHA256()), key)

    def signing_key(self) -> Path:
        """A key for service account tokens: its format is one that verifiers read too."""
        path = self.folder / "service-accounts.key"
        _write_private(path, _pem(ec.generate_private_key(ec.SECP256R1())))
        return path

    def kubeconfig(
        self, path: Path, server: str, user: str, groups: Sequence[str] = (), *, label: str = "vaco"
    ) -> Path:
        """Write a kubeconfig that needs no other file; `user` authenticates by certificate."""
        pair = self.issue(user, groups, file=f"client-{path.stem}")
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": label,
            "clusters": [
                {
                    "name": label,
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": _base64(self.files.cert),
                    },
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _base64(pair.cert),
                        "client-key-data": _base64(pair.key),
                    },
                }
            ],
            "contexts": [{"name": label, "context": {"cluster": label, "user": user}}],
        }
        _write_private(path, yaml.safe_dump(document, sort_keys=False).encode())
        return path


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - BACKDATED,
        not_valid_after=now + LIFETIME,
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _subject(name: str, groups: Sequence[str]) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def _write(
    folder: Path, name: str, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> Files:
    stem = name.replace(":", "-")
    files = Files(folder / f"{stem}.crt", folder / f"{stem}.key")
    files.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    _write_private(files.key, _pem(key))
    return files


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
