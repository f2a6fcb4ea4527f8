"""The learner: a batch Job that runs one pod until training is complete.

How a pod ends decides what follows. A node that is drained, lost or needed for something else is
nobody's fault, and neither is a learner that was told to stop and has checkpointed: another pod
takes over, and no attempt of `backoffLimit` is used up. A learner that says that trying again is
in vain (exit status 3) fails the Job at once. All else uses up attempts, a learner too that is told
to stop because it is stuck: it knows, and ends with exit status 1 or is killed.

There is no PodDisruptionBudget: for a single pod it could only forbid, and a drain would hang
until someone gives in. The annotations ask those who only tidy up to leave the pod alone.
"""

from typing import Any, Final

from vaco.errors import EXIT_INTERRUPTED, EXIT_PERMANENT
from vaco.job import VACOJob

from vaco_operator.cluster.labels import (
    ATTEMPT,
    GRPC_PORT,
    METRICS_PORT,
    ChildNames,
    JobIdentity,
)
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.manifests.pod import JOB_PATH, PodShape, kept, pod_template
from vaco_operator.cluster.resources import JOBS, Document
from vaco_operator.cluster.settings import Settings

GRACE_SECONDS: Final = 120
"""Long enough for a checkpoint of some gigabytes."""
_RUN: Final = "/var/lib/vaco"
_FIXED: Final = ("completions", "completionMode", "podFailurePolicy", "podReplacementPolicy")
"""What can never be changed in a Job, beside its template."""


def learner_job(
    job: VACOJob,
    settings: Settings,
    *,
    attempt: int,
    suspended: bool,
    live: Document | None = None,
) -> Document:
    """Build the batch Job of the learner.

    Args:
        job: whose learner it is.
        settings: of the operator.
        attempt: counts the Jobs that the learner has had, from 1.
        suspended: whether it shall have no pod.
        live: the Job of this attempt as it is: what can never change, stays as it is there.

    Raises:
        UserError: `spec.learner.podTemplate` cannot be merged.

    """
    template = pod_template(job, settings, _shape(job, settings, attempt))
    spec: Document = {
        "parallelism": 1,
        "completions": 1,
        "completionMode": "NonIndexed",
        "backoffLimit": job.spec.backoff_limit,
        # The next learner starts when the one before is gone: two would race for the checkpoints.
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _failure_rules()},
        "suspend": suspended,
        "template": kept(template, live),
    }
    if live is not None:
        spec = {name: value for name, value in spec.items() if name not in _FIXED}
        spec |= {name: live["spec"][name] for name in _FIXED if name in live["spec"]}
    name = ChildNames.of(job.metadata.name).learner
    document = owned(JOBS, job, name, "learner", spec=spec)
    document["metadata"]["labels"][ATTEMPT] = str(attempt)
    return document


def live_attempt(learner: Document) -> int:
    """Tell which attempt a live Job is, by its template, which nobody can edit; 0: none of ours."""
    labels = learner["spec"]["template"].get("metadata", {}).get("labels") or {}
    text = str(labels.get(ATTEMPT, ""))
    return int(text) if text.isascii() and text.isdigit() else 0


def _shape(job: VACOJob, settings: Settings, attempt: int) -> PodShape:
    learner = job.spec.learner
    return PodShape(
        component="learner",
        image=settings.learner_image,
        command=(
            *("python", "-m", "vaco_learner", "--job", JOB_PATH, "--run-dir", _RUN),
            *("--listen", f"0.0.0.0:{GRPC_PORT}", "--metrics-port", str(METRICS_PORT)),
            # Where a container's last words are read from, unless the user's template says else.
            *("--termination-log", "/dev/termination-log"),
        ),
        threads=learner.threads,
        memory="2Gi",
        grace_seconds=GRACE_SECONDS,
        lost_node_seconds=60,
        restart_policy="Never",
        labels={ATTEMPT: str(attempt)},
        annotations={
            "karpenter.sh/do-not-disrupt": "true",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        },
        ports={"grpc": GRPC_PORT},
        environment=(),
        volumes=(_run_volume(job),),
        template=learner.pod_template,
    )


def _run_volume(job: VACOJob) -> tuple[Document, Document]:
    """Return the volume of the run directory, and its mount."""
    storage = job.spec.learner.storage
    mount: dict[str, Any] = {"name": "run", "mountPath": _RUN}
    if storage is None:
        return {"name": "run", "emptyDir": {}}, mount
    claim = storage.claim_name or ChildNames.of(job.metadata.name).volume_claim
    if storage.claim_name is not None:
        # Others may keep something there too: another job, or this one's namesake before it.
        identity = JobIdentity.of(job)
        mount["subPath"] = f"{identity.name}-{identity.uid}"
    return {"name": "run", "persistentVolumeClaim": {"claimName": claim}}, mount


def _failure_rules() -> list[Document]:
    def exits(action: str, status: int) -> Document:
        statuses = {"containerName": "learner", "operator": "In", "values": [status]}
        return {"action": action, "onExitCodes": statuses}

    disrupted = {"type": "DisruptionTarget", "status": "True"}
    return [
        {"action": "Ignore", "onPodConditions": [disrupted]},
        exits("FailJob", EXIT_PERMANENT),
        exits("Ignore", EXIT_INTERRUPTED),
    ]
