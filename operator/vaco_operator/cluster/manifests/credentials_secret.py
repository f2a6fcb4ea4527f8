"""Where credentials are kept: a Secret for each job, and the root key beside the operator."""

import base64
import binascii
from typing import Final

from vaco.errors import UserError
from vaco.job import VACOJob

from vaco_operator.cluster.credentials import ROOT_KEY_BYTES, Credentials
from vaco_operator.cluster.labels import COMPONENT, MANAGED_BY, MANAGER, NAME, ChildNames, Component
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.resources import SECRETS, Document
from vaco_operator.cluster.settings import Settings

CREDENTIALS_TYPE: Final = "training.vaco.dev/credentials"
"""Types of Secrets never change: the API server refuses to make somebody else's into ours."""
_ROOT_KEY: Final = "key"


def credentials_secret(job: VACOJob, credentials: Credentials) -> Document:
    """Build the Secret of a job; each pod is shown a part of it (`projected_items`)."""
    content = {"ca.crt": credentials.authorities, "token": credentials.token.encode()}
    for role, pair in (
        ("learner", credentials.learner),
        ("actor", credentials.actor),
        ("operator", credentials.operator),
    ):
        content |= {f"{role}.crt": pair.certificate, f"{role}.key": pair.key}
    data = {name: base64.b64encode(value).decode() for name, value in content.items()}
    name = ChildNames.of(job.metadata.name).credentials
    return owned(SECRETS, job, name, "job", type=CREDENTIALS_TYPE, data=data)


def projected_items(role: Component) -> list[dict[str, str]]:
    """Choose what a pod of a role is shown of the Secret, each under the name it has there."""
    paths = {
        "ca.crt": "ca.crt",
        f"{role}.crt": "tls.crt",
        f"{role}.key": "tls.key",
        "token": "token",
    }
    return [{"key": key, "path": path} for key, path in paths.items()]


def root_secret(settings: Settings, root_key: bytes) -> Document:
    """Build the Secret that holds the root key.

    It is nobody's child: who deletes it gives every job new credentials.
    """
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": {
            "name": settings.root_secret,
            "namespace": settings.namespace,
            "labels": {NAME: "vaco", COMPONENT: "operator", MANAGED_BY: MANAGER},
        },
        "type": "Opaque",
        "immutable": True,
        "data": {_ROOT_KEY: base64.b64encode(root_key).decode()},
    }


def read_root_key(secret: Document) -> bytes:
    """Read the root key from its Secret.

    Raises:
        UserError: it is not there, or too short.

    """
    path = f"Secret {secret['metadata']['name']}, data.{_ROOT_KEY}"
    cure = "Delete the Secret: the operator makes another, and jobs get new credentials."
    try:
        key = base64.b64decode(secret["data"][_ROOT_KEY], validate=True)
    except (KeyError, TypeError, binascii.Error) as error:
        raise UserError(path, "no root key", cure) from error
    if len(key) < ROOT_KEY_BYTES:
        raise UserError(path, f"{len(key)} bytes, not {ROOT_KEY_BYTES}", cure)
    return key
