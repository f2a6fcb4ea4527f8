"""What an operator is told when it starts: flags, or environment variables named after them.

`--learner-image` is also read from `VACO_OPERATOR_LEARNER_IMAGE`, and so on for every flag; a flag
wins. Lists are separated by commas. The chart sets the environment; a person at a shell uses flags.
"""

import argparse
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from vaco.errors import UserError

PREFIX: Final = "VACO_OPERATOR_"
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, slots=True)
class Settings:
    """How this operator runs; all times in seconds.

    Attributes:
        namespace: the operator's own: of its Lease, and of the Secret with the root key.
        learner_image: image of learners whose job names none.
        actor_image: image of actors whose job names none.
        watch_namespaces: where jobs are looked after; empty: in the whole cluster.
        image_pull_policy: of both images; empty: the kubelet's own default.
        image_pull_secrets: names of Secrets in the job's namespace.
        root_secret: the Secret from which all credentials of jobs are derived.
        cluster_domain: DNS suffix of Services.
        lease_name: the Lease that replicas compete for.
        identity: this replica's name in the Lease.
        lease_duration: after so long without a renewal another replica may take over.
        renew_deadline: a leader that could not renew for so long ends.
        retry_period: between two attempts to take or renew the Lease.
        workers: how many jobs are reconciled at the same time.
        resync_period: every job is looked at this often although nothing happened.
        watch_silence: a watch without event or bookmark for so long is taken to be dead.
        request_timeout: of one attempt of an ordinary request.
        stuck_after: a worker on one job, or a watch that is dead, for so long is unhealthy.
        listen: host:port of /livez, /readyz and /metrics; port 0: any.
        address_file: gets the address that is listened on.
        kubeconfig: how to reach the API server; None: from inside of the cluster.
        context: of the kubeconfig; empty: its current one.
        log_level: one of `LOG_LEVELS`.

    """

    namespace: str
    learner_image: str
    actor_image: str
    watch_namespaces: tuple[str, ...] = ()
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    root_secret: str = "vaco-operator-root"  # noqa: S105
    cluster_domain: str = "cluster.local"
    lease_name: str = "vaco-operator"
    identity: str = ""
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    # More make an API server that is busy slower, and no job is done sooner (docs/performance.md).
    workers: int = 2
    resync_period: float = 300.0
    watch_silence: float = 150.0
    request_timeout: float = 10.0
    stuck_after: float = 300.0
    listen: str = "0.0.0.0:8080"
    address_file: Path | None = None
    kubeconfig: Path | None = None
    context: str = ""
    log_level: str = "info"

    def __post_init__(self) -> None:
        for name in ("namespace", "learner_image", "actor_image"):
            if not getattr(self, name):
                raise UserError(_flag(name), "is not given", f"Or set {_variable(name)}.")
        if not 0 < self.retry_period < self.renew_deadline < self.lease_duration:
            raise UserError(
                "--renew-deadline",
                f"{self.renew_deadline:g} s is not between --retry-period"
                f" ({self.retry_period:g} s) and --lease-duration ({self.lease_duration:g} s)",
                "Otherwise two replicas could lead at once.",
            )
        if self.lease_duration < 1:
            raise UserError(
                "--lease-duration", f"{self.lease_duration:g} s", "A Lease has whole seconds."
            )
        for name in ("resync_period", "watch_silence", "request_timeout", "stuck_after"):
            if getattr(self, name) <= 0:
                raise UserError(_flag(name), f"{getattr(self, name):g} is not above 0 seconds")
        if not 1 <= self.workers <= 64:
            raise UserError("--workers", f"{self.workers} is not from 1 to 64")
        if self.log_level not in LOG_LEVELS:
            raise UserError(
                "--log-level", f"`{self.log_level}` is not one of {', '.join(LOG_LEVELS)}"
            )
        if self.image_pull_policy and self.image_pull_policy not in PULL_POLICIES:
            raise UserError(
                "--image-pull-policy",
                f"`{self.image_pull_policy}` is not one of {', '.join(PULL_POLICIES)}",
            )


def read_settings(
    arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Settings:
    """Read flags, and from the environment what no flag gives.

    Raises:
        UserError: a setting is missing or wrong.

    """
    given = vars(_parser(environment).parse_args(arguments))
    for name in ("watch_namespaces", "image_pull_secrets"):
        given[name] = tuple(part.strip() for part in given[name].split(",") if part.strip())
    for name in ("address_file", "kubeconfig"):
        given[name] = Path(given[name]) if given[name] else None
    given["identity"] = given["identity"] or f"{socket.gethostname()}_{secrets.token_hex(4)}"
    return Settings(**given)


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    """Build a flag for every field, with its documentation as help."""
    parser = argparse.ArgumentParser(
        prog="vaco_operator.cluster",
        description=f"Each flag is also read from the environment: --workers is {PREFIX}WORKERS.",
        allow_abbrev=False,
    )
    helps = _documentation()
    for field in fields(Settings):
        default = "" if not isinstance(field.default, str | int | float) else field.default
        parser.add_argument(
            _flag(field.name),
            default=environment.get(_variable(field.name), str(default)),
            type={int: int, float: float}.get(type(field.default), str),
            help=f"{helps.get(field.name, '')}"
            + (f" (default {default})" if default != "" else ""),
        )
    return parser


def _documentation() -> dict[str, str]:
    """Return what `Settings` says of each of its attributes."""
    helps: dict[str, str] = {}
    for line in (Settings.__doc__ or "").partition("Attributes:")[2].splitlines():
        name, colon, text = line.strip().partition(": ")
        if colon:
            helps[name] = text.replace("%", "%%")
    return helps


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return PREFIX + name.upper()
