"""The learner, and the rollouts that feed it."""

from typing import Literal

from pydantic import Field

from vaco.schema.base import Broken, Cel, Part, Rule
from vaco.schema.metadata import ObjectName
from vaco.schema.pod_template import PodTemplate


class RolloutSpec(Part):
    """What one actor sends at a time: a fragment of T steps of B environments."""

    environments_per_actor: int = Field(
        default=16, ge=1, le=4096, description="Environments that one actor steps at once (B)."
    )
    fragment_length: int = Field(
        default=64, ge=1, le=4096, description="Steps of each environment in one fragment (T)."
    )


class CheckpointSpec(Part):
    """When the learner saves its state, and how much of the past it keeps."""

    interval_seconds: float = Field(
        default=30.0,
        gt=0,
        le=86400,
        description="Seconds between checkpoints. One is also taken at the end and at SIGTERM.",
    )
    keep: int = Field(
        default=3,
        ge=2,
        le=1000,
        description="Newest checkpoints that are kept; at least the one before the newest, to fall "
        "back to if the newest is damaged.",
    )


def _class_is_of_a_new_claim(storage: "StorageSpec") -> Broken | None:
    if storage.claim_name is None or storage.storage_class_name is None:
        return None
    return Broken(
        f"the claim {storage.claim_name} exists and has a storage class already",
        "Leave out `storageClassName`, or leave out `claimName` for a claim of the job's own.",
    )


class StorageSpec(Part):
    """The volume that the run directory, checkpoints included, is kept on."""

    size: str = Field(
        default="10Gi",
        max_length=16,
        pattern=r"^[1-9][0-9]*(\.[0-9]+)?([KMGTPE]i|[kMGTPE])?$",
        description="Size of the claim, such as 10Gi or 500G. It may grow, where the storage class "
        "can expand volumes; less than the claim has changes nothing. Not used with `claimName`.",
    )
    storage_class_name: ObjectName | None = Field(
        default=None, description="Storage class of the claim; null: the cluster's default."
    )
    access_mode: Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"] = Field(
        default="ReadWriteOnce",
        description="Who may mount the volume at once: the pods of one node, a single pod, or the "
        "pods of many nodes.",
    )
    claim_name: ObjectName | None = Field(
        default=None,
        description="A PersistentVolumeClaim that is there already and that the job uses and "
        "leaves behind; null: the job makes its own, which is deleted with the job.",
    )

    rules = (
        Rule(
            ("storage_class_name", "claim_name"),
            ("storageClassName",),
            _class_is_of_a_new_claim,
            Cel(
                "!has(self.storageClassName) || !has(self.claimName)",
                "the claim {self.claimName} exists and has a storage class already. "
                "Leave out `storageClassName`, or leave out `claimName` for a claim of the job's "
                "own.",
            ),
        ),
    )


def _files_have_a_path(transport: "WeightsTransport") -> Broken | None:
    if transport.type != "filesystem" or transport.path is not None:
        return None
    return Broken("missing", "Name a directory that all pods mount, or a URL that fsspec knows.")


def _the_stream_has_no_path(transport: "WeightsTransport") -> Broken | None:
    if transport.type != "stream" or transport.path is None:
        return None
    return Broken(
        "the weights go by the stream", "Leave out `path`, or set `type` to `filesystem`."
    )


class WeightsTransport(Part):
    """The way of the weights from the learner to the actors."""

    type: Literal["stream", "filesystem"] = Field(
        default="stream",
        description="`stream`: over each actor's connection. `filesystem`: the learner writes each "
        "version to `path` once and the actors read it there.",
    )
    path: str | None = Field(
        default=None,
        max_length=1024,
        pattern=r"^(/|[a-z][a-z0-9+.-]*://)([^:]|:[^:])*$",
        description="Directory with an absolute path that the learner and all actors have mounted "
        "(by their pod templates), or a URL of an object store, such as s3://bucket/weights, for "
        "which the images need the fsspec package of that store.",
    )

    rules = (
        Rule(
            ("type", "path"),
            ("path",),
            _files_have_a_path,
            Cel(
                "!has(self.type) || self.type != 'filesystem' || has(self.path)",
                "missing. Name a directory that all pods mount, or a URL that fsspec knows.",
            ),
        ),
        Rule(
            ("type", "path"),
            ("path",),
            _the_stream_has_no_path,
            Cel(
                "has(self.type) && self.type != 'stream' || !has(self.path)",
                "the weights go by the stream. Leave out `path`, or set `type` to `filesystem`.",
            ),
        ),
    )


class LearnerSpec(Part):
    """The learner: how much it takes at a time, how stale that may be, and what it runs on."""

    batch_size: int = Field(
        default=4096,
        ge=1,
        le=2**24,
        description="Samples per optimisation phase; a phase takes whole fragments until it has at "
        "least as many. Each phase makes one version of the weights.",
    )
    max_policy_lag: int = Field(
        default=64,
        ge=0,
        le=10**6,
        description="Versions by which the oldest weights in a fragment may be behind the newest "
        "when it is trained; an older fragment is counted as stale and not trained.",
    )
    buffer_batches: int = Field(
        default=2,
        ge=1,
        le=64,
        description="Bound of the queue, in batches. When it is full, the learner reads no more "
        "fragments and the actors wait.",
    )
    micro_batch_tokens: int = Field(
        default=16384,
        ge=1,
        le=2**31 - 1,
        description="Tokens that go through a language model at once, padding included; gradients "
        "are accumulated over as many micro-batches as there are. A longer sequence goes alone.",
    )
    checkpoint: CheckpointSpec = Field(default=CheckpointSpec(), description="Checkpoints.")
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="Number format of the networks' forward and backward passes over minibatches. "
        "Weights, log-densities, ratios and losses stay fp32 in either.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where the learner computes; `auto`: on a GPU if there is one."
    )
    threads: int = Field(
        default=1, ge=1, le=1024, description="CPU threads of the learner's computations."
    )
    replicas: int = Field(
        default=1, ge=1, le=1, description="Learner processes; only 1 is supported."
    )
    tensorboard: bool = Field(
        default=True,
        description="Whether TensorBoard event files are written into the run directory.",
    )
    weights_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Number format in which weights are sent to the actors; bfloat16 halves the "
        "traffic.",
    )
    weights_transport: WeightsTransport = Field(
        default=WeightsTransport(),
        description="How weights get to the actors; `filesystem` is for models and numbers of "
        "actors that one learner's network cannot serve.",
    )
    storage: StorageSpec | None = Field(
        default=None,
        description="Volume that keeps checkpoints when the learner's pod is gone; null: they end "
        "with the pod, and a learner that moves to another node begins anew. Whether there is one "
        "never changes. Has no meaning for a local run.",
    )
    pod_template: PodTemplate = Field(
        default={},
        description="Kubernetes pod template that is merged into the learner's own; has no meaning "
        "for a local run.",
    )
