"""The actors: a Deployment, whose pods may come and go.

Nothing says here how they are spread over the nodes: the scheduler spreads the pods of a Deployment
by itself, softly, and a constraint of ours would be a hard one to Karpenter, which would buy a node
for every actor. Whoever wants more writes it into `spec.actors.podTemplate`.
"""

from math import ceil
from typing import Final

from vaco.job import VACOJob

from vaco_operator.cluster.labels import (
    GRPC_PORT,
    METRICS_PORT,
    ChildNames,
    JobIdentity,
    learner_host,
    pod_selector,
)
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.manifests.pod import JOB_PATH, PodShape, kept, pod_template
from vaco_operator.cluster.resources import DEPLOYMENTS, Document
from vaco_operator.cluster.settings import Settings

# After the drain an actor says good-bye and its interpreter ends.
_EXIT_SECONDS: Final = 10


def actors_deployment(
    job: VACOJob, settings: Settings, *, replicas: int, live: Document | None = None
) -> Document:
    """Build the Deployment of the actors.

    Args:
        job: whose actors they are.
        settings: of the operator.
        replicas: how many there shall be.
        live: the Deployment as it is; None: there is none, or its pods shall be replaced by those
            that this operator makes.

    Raises:
        UserError: `spec.actors.podTemplate` cannot be merged.

    """
    template = pod_template(job, settings, _shape(job, settings))
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": pod_selector(job.metadata.name, "actor")},
        "strategy": _strategy(job),
        "revisionHistoryLimit": 2,
        "template": kept(template, live),
    }
    name = ChildNames.of(job.metadata.name).actors
    return owned(DEPLOYMENTS, job, name, "actor", spec=spec)


def _strategy(job: VACOJob) -> Document:
    # In lock-step there is one actor and never a second one beside it.
    if job.spec.synchronous:
        return {"type": "Recreate"}
    # Never more than decided, for quotas and for the lag; one at least goes on acting.
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "25%"}}


def _shape(job: VACOJob, settings: Settings) -> PodShape:
    actors = job.spec.actors
    learner = f"{learner_host(JobIdentity.of(job))}:{GRPC_PORT}"
    return PodShape(
        component="actor",
        image=settings.actor_image,
        command=(
            *("python", "-m", "vaco_actor", "run", "--job", JOB_PATH, "--learner", learner),
            *("--actor-id", "$(POD_NAME)", "--metrics-port", str(METRICS_PORT)),
        ),
        threads=actors.threads,
        memory="1Gi",
        grace_seconds=ceil(actors.drain_seconds) + _EXIT_SECONDS,
        lost_node_seconds=30,
        restart_policy="Always",
        labels={},
        annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
        ports={},
        environment=(
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ),
        volumes=(),
        template=actors.pod_template,
    )
