"""Derived credentials: the same bytes from the same root, and nothing in common otherwise."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from vaco_operator.cluster.credentials import (
    EPOCH,
    ROOT_KEY_BYTES,
    Credentials,
    derive,
    epoch_at,
    epoch_end,
    new_root_key,
)
from vaco_operator.cluster.labels import JobIdentity

ROOT = bytes(range(ROOT_KEY_BYTES))
CREATED = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
JOB = JobIdentity("cartpole", "research", "6f1c9d1e-4b52-4d0a-9a52-0c6f2f0f7a11", CREATED)


def derived(root: bytes = ROOT, job: JobIdentity = JOB, epoch: int = 0) -> Credentials:
    return derive(root, job, epoch, "cluster.local")


def certificate(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def digest(key: x509.Certificate) -> str:
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()[:16]


def test_the_same_inputs_give_the_same_bytes() -> None:
    assert derived() == derived()


def test_what_is_derived_does_not_change_from_release_to_release() -> None:
    """Another derivation would give every job of a cluster new credentials at an upgrade.

    The values come from RFC 5869 written down with hmac alone.
    """
    assert derived().token[:16] == "0c6d1c83d41c48c8"
    assert digest(certificate(derived().learner.certificate)) == "3cb245821261a4d5"
    assert digest(certificate(derived(epoch=1).actor.certificate)) == "41d878a97b31e84b"


def secrets_of(credentials: Credentials) -> set[object]:
    pairs = [credentials.learner, credentials.actor, credentials.operator]
    return {credentials.token, *(pair.key for pair in pairs)} | {
        certificate(pair.certificate).serial_number for pair in pairs
    }


@pytest.mark.parametrize(
    "other",
    [
        derived(root=bytes(ROOT_KEY_BYTES)),
        derived(job=replace(JOB, uid="6f1c9d1e-4b52-4d0a-9a52-0c6f2f0f7a12")),
    ],
    ids=["root key", "uid"],
)
def test_another_root_or_another_job_shares_no_secret(other: Credentials) -> None:
    assert not secrets_of(derived()) & secrets_of(other)
    assert other.authorities != derived().authorities


def test_another_epoch_shares_the_token_only() -> None:
    """Pods get renewed files at different moments: a token of the epoch would part them."""
    assert secrets_of(derived()) & secrets_of(derived(epoch=1)) == {derived().token}


def test_all_keys_of_a_job_differ() -> None:
    assert len(secrets_of(derived())) == 1 + 3 + 3


@pytest.mark.parametrize(
    ("role", "usage"),
    [
        ("learner", ExtendedKeyUsageOID.SERVER_AUTH),
        ("actor", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("operator", ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
)
def test_a_certificate_is_for_its_role_and_certifies_nobody(
    role: str, usage: x509.ObjectIdentifier
) -> None:
    found = certificate(getattr(derived(), role).certificate).extensions
    assert list(found.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
    use = found.get_extension_for_class(x509.KeyUsage)
    assert use.critical
    assert use.value.digital_signature
    assert not use.value.key_cert_sign
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca


def test_the_learner_is_known_by_every_name_of_its_service() -> None:
    found = certificate(derived().learner.certificate).extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [
        "cartpole-learner",
        "cartpole-learner.research",
        "cartpole-learner.research.svc",
        "cartpole-learner.research.svc.cluster.local",
    ]


@pytest.mark.parametrize("trusted", [0, 1, 2])
def test_the_epochs_around_are_trusted(trusted: int) -> None:
    """An independent verifier accepts the learner of either neighbour, at the time of epoch 1."""
    authorities = x509.load_pem_x509_certificates(derived(epoch=1).authorities)
    verifier = (
        PolicyBuilder()
        .store(Store(authorities))
        .time(CREATED + 2 * EPOCH - timedelta(hours=1))
        .build_server_verifier(x509.DNSName("cartpole-learner.research.svc"))
    )
    learner = certificate(derived(epoch=trusted).learner.certificate)
    assert len(verifier.verify(learner, [])) == 2


def test_other_epochs_are_not_trusted() -> None:
    subjects = [
        each.subject for each in x509.load_pem_x509_certificates(derived(epoch=3).authorities)
    ]
    issuers = [certificate(derived(epoch=n).actor.certificate).issuer for n in range(6)]
    assert [issuer in subjects for issuer in issuers] == [False, False, True, True, True, False]


def test_an_authority_can_be_told_from_its_neighbours_and_cannot_delegate() -> None:
    authorities = x509.load_pem_x509_certificates(derived(epoch=1).authorities)
    assert len({each.subject for each in authorities}) == 3
    for each in authorities:
        constraints = each.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_certificates_hold_from_before_their_epoch_until_two_after_it() -> None:
    found = certificate(derived(epoch=2).learner.certificate)
    start = CREATED + timedelta(days=60)
    assert found.not_valid_before_utc == start - timedelta(days=1)
    assert found.not_valid_after_utc == start + timedelta(days=90)


@pytest.mark.parametrize(
    ("age", "epoch"),
    [
        (timedelta(seconds=-90), 0),
        (timedelta(0), 0),
        (EPOCH - timedelta(seconds=1), 0),
        (EPOCH, 1),
        (3 * EPOCH + timedelta(days=1), 3),
    ],
)
def test_an_epoch_is_counted_from_the_jobs_creation(age: timedelta, epoch: int) -> None:
    now = CREATED + age
    assert epoch_at(CREATED, now) == epoch
    assert epoch_at(CREATED, epoch_end(CREATED, epoch)) == epoch + 1
    assert now < epoch_end(CREATED, epoch)


def test_a_job_of_the_longest_name_gets_certificates() -> None:
    """X.509 bounds a common name to 64 characters."""
    named = replace(JOB, name="j" * 52)
    assert derived(job=named, epoch=999).learner.certificate


def test_a_short_root_key_is_refused() -> None:
    with pytest.raises(ValueError, match="a root key has 32 bytes, not 31"):
        derived(root=ROOT[1:])


def test_root_keys_are_drawn_at_random() -> None:
    assert new_root_key() != new_root_key()
    assert len(new_root_key()) == ROOT_KEY_BYTES


def test_parts_of_a_purpose_cannot_be_mistaken_for_each_other() -> None:
    """A job whose uid ends like an epoch begins is another job in every epoch."""
    one = derived(job=replace(JOB, uid="job-1"), epoch=11)
    other = derived(job=replace(JOB, uid="job-11"), epoch=1)
    keys = [{getattr(each, f.name).key for f in fields(each) if f.name in ("learner", "actor")}
            for each in (one, other)]  # fmt: skip
    assert not keys[0] & keys[1]


def test_secrets_are_not_shown() -> None:
    made = derived()
    shown = repr(made)
    assert made.token not in shown
    assert "PRIVATE KEY" not in shown
    assert "CERTIFICATE" in shown
