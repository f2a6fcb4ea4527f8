"""Credentials of a job, derived from one root key: same inputs, same bytes, nothing to read back.

Every job has an authority of its own, and under it a certificate for the learner, one that its
actors share and one for the operator, and a token. They are a pure function of the root key, the
job's identity and the epoch, so a Secret that was lost or altered is made again as it was, without
the right to read Secrets (docs/decisions/0008-derived-credentials.md).

    root key --HKDF(job's uid)----------> token
             --HKDF(job's uid, epoch)---> authority --signs--> learner, actor, operator

An epoch is 30 days from the job's creation, a certificate holds for 90. Who was given the files of
the epoch before or after still fits, because everybody trusts the authorities of three epochs: pods
get renewed files at different moments.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from vaco_operator.cluster.labels import ChildNames, JobIdentity, learner_host

ROOT_KEY_BYTES: Final = 32
EPOCH: Final = timedelta(days=30)
VALIDITY: Final = timedelta(days=90)
# The clocks of nodes differ, and a job's first certificates are used at once.
BACKDATED: Final = timedelta(days=1)

# Changing it, or what is derived with it, gives every job new credentials.
_SALT: Final = b"vaco job credentials 1"
_CURVE: Final = ec.SECP256R1()
_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# Half as long again as the order: the remainder is then as good as uniform (FIPS 186-5, A.2.1).
_SCALAR_BYTES: Final = 48
_SERIAL_BYTES: Final = 19


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the parties of one job prove themselves with.

    `authorities` is PEM too: those of the epoch before, of this one and of the next.
    """

    authorities: bytes
    learner: KeyPair
    actor: KeyPair
    operator: KeyPair
    token: str = field(repr=False)


def new_root_key() -> bytes:
    """Draw a root key, for the first operator in a namespace."""
    return secrets.token_bytes(ROOT_KEY_BYTES)


def epoch_at(created: datetime, now: datetime) -> int:
    """Count the epochs that a job has gone through; a clock before its creation counts as then."""
    return max(0, (now - created) // EPOCH)


def epoch_end(created: datetime, epoch: int) -> datetime:
    """Tell when the next epoch begins, and credentials are to be derived again."""
    return created + (epoch + 1) * EPOCH


def derive(root_key: bytes, job: JobIdentity, epoch: int, cluster_domain: str) -> Credentials:
    """Derive the credentials of a job in an epoch.

    Args:
        root_key: of the operator.
        job: whose they are.
        epoch: from `epoch_at`.
        cluster_domain: DNS suffix of Services, for the learner's full name.

    Raises:
        ValueError: the root key is shorter than `ROOT_KEY_BYTES`.

    """
    if len(root_key) < ROOT_KEY_BYTES:
        raise ValueError(f"a root key has {ROOT_KEY_BYTES} bytes, not {len(root_key)}")
    around = [_Authority(root_key, job, each) for each in range(max(0, epoch - 1), epoch + 2)]
    own = next(each for each in around if each.epoch == epoch)
    return Credentials(
        authorities=b"".join(_pem(each.certificate) for each in around),
        learner=own.issue("learner", ExtendedKeyUsageOID.SERVER_AUTH, _dns(job, cluster_domain)),
        actor=own.issue("actor", ExtendedKeyUsageOID.CLIENT_AUTH),
        operator=own.issue("operator", ExtendedKeyUsageOID.CLIENT_AUTH),
        token=_derived(root_key, (job.uid, "token"), 32).hex(),
    )


class _Authority:
    """The authority of one job in one epoch."""

    def __init__(self, root_key: bytes, job: JobIdentity, epoch: int) -> None:
        self.epoch = epoch
        self._root_key = root_key
        self._job = job
        # Told apart by name too, as everybody trusts several.
        self._name = _name(f"{job.name}-ca-{epoch}")
        self._key = self._derived_key("authority")
        builder = self._builder("authority", self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), True)
        self.certificate = self._signed(builder)

    def issue(
        self, role: str, usage: ObjectIdentifier, host_names: tuple[str, ...] = ()
    ) -> KeyPair:
        """Certify the key of a role, as a server or as a client but never as both."""
        key = self._derived_key(role)
        subject = _name(f"{self._job.name}-{role}")
        builder = self._builder(role, subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
        if host_names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in host_names])
            builder = builder.add_extension(alternatives, False)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return KeyPair(_pem(self._signed(builder)), private)

    def _builder(
        self, role: str, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        start = self._job.created + self.epoch * EPOCH
        serial = int.from_bytes(self._derived((role, "serial"), _SERIAL_BYTES)) + 1
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder(issuer_name=self._name, subject_name=subject, public_key=key)
            .serial_number(serial)
            .not_valid_before(start - BACKDATED)
            .not_valid_after(start + VALIDITY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(authority, False)
        )

    def _signed(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        # Ordinary ECDSA draws a random number for each signature; RFC 6979 derives it.
        return builder.sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)

    def _derived_key(self, role: str) -> ec.EllipticCurvePrivateKey:
        drawn = int.from_bytes(self._derived((role, "key"), _SCALAR_BYTES))
        return ec.derive_private_key(drawn % (_CURVE_ORDER - 1) + 1, _CURVE)

    def _derived(self, purpose: tuple[str, ...], length: int) -> bytes:
        return _derived(self._root_key, (self._job.uid, str(self.epoch), *purpose), length)


def _derived(root_key: bytes, purpose: tuple[str, ...], length: int) -> bytes:
    """Derive bytes for one purpose (RFC 5869)."""
    # A byte that is in none of the parts keeps ("a", "bc") and ("ab", "c") apart.
    info = "\0".join(purpose).encode()
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=_SALT, info=info).derive(root_key)


def _dns(job: JobIdentity, cluster_domain: str) -> tuple[str, ...]:
    service, host = ChildNames.of(job.name).learner, learner_host(job)
    return service, f"{service}.{job.namespace}", host, f"{host}.{cluster_domain}"


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
