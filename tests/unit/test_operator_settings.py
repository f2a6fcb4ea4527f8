"""What the operator is told when it starts, and how it finds its API server."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from vaco.errors import UserError
from vaco_operator.cluster.connection import TOKEN_SECONDS, in_cluster
from vaco_operator.cluster.settings import Settings, read_settings

NEEDED = {
    "VACO_OPERATOR_NAMESPACE": "vaco",
    "VACO_OPERATOR_LEARNER_IMAGE": "learner:1",
    "VACO_OPERATOR_ACTOR_IMAGE": "actor:1",
}


def test_settings_come_from_flags_and_the_environment_and_a_flag_wins() -> None:
    environment = NEEDED | {
        "VACO_OPERATOR_WORKERS": "8",
        "VACO_OPERATOR_WATCH_NAMESPACES": "a, b",
        "VACO_OPERATOR_RESYNC_PERIOD": "60",
    }
    settings = read_settings(["--workers=2", "--kubeconfig", "/k"], environment)
    assert settings.workers == 2
    assert settings.watch_namespaces == ("a", "b")
    assert settings.resync_period == 60.0
    assert settings.kubeconfig == Path("/k")
    assert settings.address_file is None
    assert (settings.lease_duration, settings.renew_deadline, settings.retry_period) == (15, 10, 2)


def test_each_replica_has_another_identity() -> None:
    first, second = (read_settings([], NEEDED).identity for _ in range(2))
    assert first != second
    assert first


@pytest.mark.parametrize(
    ("changed", "flag"),
    [
        ({"namespace": ""}, "--namespace"),
        ({"learner_image": ""}, "--learner-image"),
        ({"renew_deadline": 15.0}, "--renew-deadline"),
        ({"retry_period": 10.0}, "--renew-deadline"),
        ({"lease_duration": 0.9, "renew_deadline": 0.5, "retry_period": 0.1}, "--lease-duration"),
        ({"workers": 0}, "--workers"),
        ({"workers": 65}, "--workers"),
        ({"stuck_after": 0.0}, "--stuck-after"),
        ({"log_level": "loud"}, "--log-level"),
        ({"image_pull_policy": "Sometimes"}, "--image-pull-policy"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_flag(changed: dict[str, Any], flag: str) -> None:
    right: dict[str, Any] = {"namespace": "a", "learner_image": "b", "actor_image": "c"}
    with pytest.raises(UserError) as refused:
        Settings(**(right | changed))
    assert refused.value.path == flag


def test_a_pod_finds_its_api_server_and_its_renewed_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("")
    with pytest.raises(UserError, match="service account"):
        in_cluster(service, tmp_path)

    _write_authority(tmp_path / "ca.crt")
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    connection = in_cluster(service, tmp_path)
    assert connection.url == "https://[fd00::1]:443"
    (tmp_path / "token").write_text("second\n")
    assert connection.authorization() == "Bearer first"
    now += TOKEN_SECONDS + 1
    assert connection.authorization() == "Bearer second"
    (tmp_path / "token").unlink()
    now += TOKEN_SECONDS + 1
    assert connection.authorization() == "Bearer second", "while the file is replaced"


def test_who_is_in_no_pod_is_told_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--kubeconfig"):
        in_cluster({}, tmp_path)


def _write_authority(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
