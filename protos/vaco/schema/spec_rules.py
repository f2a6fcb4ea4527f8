"""What must hold between the parts of a job, each rule for Python and for an API server."""

from math import ceil
from typing import TYPE_CHECKING

from vaco.schema.base import Broken, Cel, Rule
from vaco.schema.language_algorithm import LanguageAlgorithm
from vaco.schema.language_policy import SamplingSpec
from vaco.schema.learner import RolloutSpec
from vaco.schema.tree import one_of

if TYPE_CHECKING:
    from vaco.schema.spec import VACOJobSpec


_ROLLOUT = RolloutSpec()
_CONTROL_NAMES = ("vaco", "ppo", "ppo-kl", "spo", "impala")
_LANGUAGE_NAMES = ("vaco-lm", "grpo", "dppo", "tis")


def _one_actor_in_lock_step(spec: "VACOJobSpec") -> Broken | None:
    actors = spec.actors
    if not spec.synchronous or actors.replicas == actors.min_replicas == actors.max_replicas == 1:
        return None
    return Broken(
        f"lock-step has exactly one actor, not {actors.min_replicas} to {actors.max_replicas}",
        "Leave out `spec.actors.replicas`, `minReplicas` and `maxReplicas`.",
    )


def _nobody_else_scales_lock_step(spec: "VACOJobSpec") -> Broken | None:
    if not spec.synchronous or spec.autoscaling.mode != "external":
        return None
    return Broken(
        "lock-step has exactly one actor, so it cannot be scaled externally",
        "Set `spec.autoscaling.mode` to fixed.",
    )


def _policy_is_of_the_task(spec: "VACOJobSpec") -> Broken | None:
    fitting = "languageModel" if spec.is_language else "actorCritic"
    if spec.policy.type == fitting:
        return None
    return Broken(
        f"a task of type {spec.task.type} has no policy of type {spec.policy.type}",
        f"Set `spec.policy.type` to {fitting}.",
    )


def _algorithm_is_of_the_task(spec: "VACOJobSpec") -> Broken | None:
    if isinstance(spec.algorithm, LanguageAlgorithm) == spec.is_language:
        return None
    fitting = _LANGUAGE_NAMES if spec.is_language else _CONTROL_NAMES
    return Broken(
        f"{spec.algorithm.name} is not for tasks of type {spec.task.type}",
        f"Choose {one_of(fitting)}.",
    )


def _sampling_is_of_the_task(spec: "VACOJobSpec") -> Broken | None:
    if spec.sampling is None or spec.is_language:
        return None
    return Broken(
        f"a task of type {spec.task.type} has no completions to sample",
        "Leave it out, or set `spec.task.type` to languageModel.",
    )


def _rollout_is_of_the_task(spec: "VACOJobSpec") -> Broken | None:
    rollout = spec.rollout
    if not spec.is_language or rollout == _ROLLOUT:
        return None
    return Broken(
        f"{rollout.environments_per_actor} environments and {rollout.fragment_length} steps a "
        "fragment, but a task of type languageModel has neither",
        "Leave it out; `spec.sampling` says what an actor makes at once.",
    )


def _what_is_sampled_at_once_fits_the_buffer(spec: "VACOJobSpec") -> Broken | None:
    if spec.policy.type != "languageModel":
        return None
    sampling = spec.sampling or SamplingSpec()
    at_once = sampling.group_size * sampling.prompts
    buffer = spec.learner.batch_size * spec.learner.buffer_batches
    if at_once <= buffer:
        return None
    return Broken(
        f"an actor makes {at_once} completions at once, but the learner's buffer holds {buffer}",
        "Lower `prompts` or `groupSize`, or raise `spec.learner.batchSize`.",
    )


def _minibatches_have_groups(spec: "VACOJobSpec") -> Broken | None:
    if spec.policy.type != "languageModel":
        return None
    size = (spec.sampling or SamplingSpec()).group_size
    groups = ceil(spec.learner.batch_size / size)
    if spec.algorithm.minibatches <= groups:
        return None
    return Broken(
        f"{spec.algorithm.minibatches} minibatches of {groups} groups, which stay whole",
        "Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
    )


def _schedule_has_an_end(spec: "VACOJobSpec") -> Broken | None:
    if spec.algorithm.learning_rate_schedule != "linear" or spec.stop.env_steps is not None:
        return None
    return Broken(
        "linear needs `spec.stop.envSteps`, where the learning rate reaches zero",
        "Give `spec.stop.envSteps`, or choose constant.",
    )


def _minibatches_have_samples(spec: "VACOJobSpec") -> Broken | None:
    minibatches, batch = spec.algorithm.minibatches, spec.learner.batch_size
    if minibatches <= batch:
        return None
    return Broken(
        f"{minibatches} minibatches of {batch} samples",
        "Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
    )


def _a_fragment_fits_the_buffer(spec: "VACOJobSpec") -> Broken | None:
    if spec.policy.type == "languageModel":
        return None
    rollout = spec.rollout
    fragment = rollout.environments_per_actor * rollout.fragment_length
    buffer = spec.learner.batch_size * spec.learner.buffer_batches
    if fragment <= buffer:
        return None
    return Broken(
        f"one fragment has {fragment} samples, but the learner's buffer holds {buffer}",
        "Lower `environmentsPerActor` or `fragmentLength`, or raise `spec.learner.batchSize`.",
    )


def _minibatches_have_sequences(spec: "VACOJobSpec") -> Broken | None:
    if spec.policy.type == "languageModel" or spec.policy.core is None:
        return None
    sequences = ceil(spec.learner.batch_size / spec.rollout.fragment_length)
    if spec.algorithm.minibatches <= sequences:
        return None
    return Broken(
        f"{spec.algorithm.minibatches} minibatches of {sequences} sequences: a recurrent policy "
        "is trained on whole sequences of `spec.rollout.fragmentLength` steps",
        "Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
    )


_MOST_ACTORS = (
    "(has(self.actors.maxReplicas) ? self.actors.maxReplicas : "
    "self.actors.replicas > self.actors.minReplicas ? self.actors.replicas : "
    "self.actors.minReplicas)"
)
_SEQUENCES = (
    "(self.learner.batchSize + self.rollout.fragmentLength - 1) / self.rollout.fragmentLength"
)

_IS_LANGUAGE = "self.task.type == 'languageModel'"
_POLICY_IS_LANGUAGE = "self.policy.type == 'languageModel'"
_ALGORITHM_IS_LANGUAGE = f"self.algorithm.name in {list(_LANGUAGE_NAMES)}"
_GROUP = "(has(self.sampling) ? self.sampling.groupSize : 8)"
_PROMPTS = "(has(self.sampling) ? self.sampling.prompts : 8)"
_GROUPS = f"(self.learner.batchSize + {_GROUP} - 1) / {_GROUP}"
_BUFFER = "self.learner.batchSize * self.learner.bufferBatches"

SPEC_RULES = (
    Rule(
        ("task", "policy"),
        ("policy", "type"),
        _policy_is_of_the_task,
        Cel(
            f"({_IS_LANGUAGE}) == ({_POLICY_IS_LANGUAGE})",
            "a task of type {self.task.type} has no policy of type {self.policy.type}. "
            f"Set `spec.policy.type` to {{{_IS_LANGUAGE} ? 'languageModel' : 'actorCritic'}}.",
        ),
    ),
    Rule(
        ("task", "algorithm"),
        ("algorithm", "name"),
        _algorithm_is_of_the_task,
        Cel(
            f"({_IS_LANGUAGE}) == ({_ALGORITHM_IS_LANGUAGE})",
            "{self.algorithm.name} is not for tasks of type {self.task.type}. "
            f"Choose {{{_IS_LANGUAGE} ? '{one_of(_LANGUAGE_NAMES)}' : "
            f"'{one_of(_CONTROL_NAMES)}'}}.",
        ),
    ),
    Rule(
        ("task", "sampling"),
        ("sampling",),
        _sampling_is_of_the_task,
        Cel(
            f"!has(self.sampling) || {_IS_LANGUAGE}",
            "a task of type {self.task.type} has no completions to sample. "
            "Leave it out, or set `spec.task.type` to languageModel.",
        ),
    ),
    Rule(
        ("task", "rollout"),
        ("rollout",),
        _rollout_is_of_the_task,
        # The server fills the defaults in, so whether they were written cannot be told.
        Cel(
            f"!({_IS_LANGUAGE}) || "
            f"self.rollout.environmentsPerActor == {_ROLLOUT.environments_per_actor} && "
            f"self.rollout.fragmentLength == {_ROLLOUT.fragment_length}",
            "{self.rollout.environmentsPerActor} environments and {self.rollout.fragmentLength} "
            "steps a fragment, but a task of type languageModel has neither. "
            "Leave it out; `spec.sampling` says what an actor makes at once.",
        ),
    ),
    Rule(
        ("policy", "sampling", "learner"),
        ("sampling",),
        _what_is_sampled_at_once_fits_the_buffer,
        Cel(
            f"!({_POLICY_IS_LANGUAGE}) || {_GROUP} * {_PROMPTS} <= {_BUFFER}",
            f"an actor makes {{{_GROUP} * {_PROMPTS}}} completions at once, but the learner's "
            f"buffer holds {{{_BUFFER}}}. Lower `prompts` or `groupSize`, or raise "
            "`spec.learner.batchSize`.",
        ),
    ),
    Rule(
        ("policy", "algorithm", "sampling", "learner"),
        ("algorithm", "minibatches"),
        _minibatches_have_groups,
        Cel(
            f"!({_POLICY_IS_LANGUAGE}) || self.algorithm.minibatches <= {_GROUPS}",
            f"{{self.algorithm.minibatches}} minibatches of {{{_GROUPS}}} groups, which stay "
            "whole. Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
        ),
    ),
    Rule(
        ("synchronous", "actors"),
        ("synchronous",),
        _one_actor_in_lock_step,
        Cel(
            "!self.synchronous || self.actors.replicas == 1 && self.actors.minReplicas == 1 "
            f"&& {_MOST_ACTORS} == 1",
            "lock-step has exactly one actor, not {self.actors.minReplicas} to "
            f"{{{_MOST_ACTORS}}}. "
            "Leave out `spec.actors.replicas`, `minReplicas` and `maxReplicas`.",
        ),
    ),
    Rule(
        ("synchronous", "autoscaling"),
        ("synchronous",),
        _nobody_else_scales_lock_step,
        Cel(
            "!self.synchronous || self.autoscaling.mode != 'external'",
            "lock-step has exactly one actor, so it cannot be scaled externally. "
            "Set `spec.autoscaling.mode` to fixed.",
        ),
    ),
    Rule(
        ("algorithm", "stop"),
        ("algorithm", "learningRateSchedule"),
        _schedule_has_an_end,
        Cel(
            "self.algorithm.learningRateSchedule != 'linear' || has(self.stop.envSteps)",
            "linear needs `spec.stop.envSteps`, where the learning rate reaches zero. "
            "Give `spec.stop.envSteps`, or choose constant.",
        ),
    ),
    Rule(
        ("algorithm", "learner"),
        ("algorithm", "minibatches"),
        _minibatches_have_samples,
        Cel(
            "self.algorithm.minibatches <= self.learner.batchSize",
            "{self.algorithm.minibatches} minibatches of {self.learner.batchSize} samples. "
            "Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
        ),
    ),
    Rule(
        ("policy", "rollout", "learner"),
        ("rollout",),
        _a_fragment_fits_the_buffer,
        Cel(
            f"{_POLICY_IS_LANGUAGE} || self.rollout.environmentsPerActor "
            f"* self.rollout.fragmentLength <= {_BUFFER}",
            "one fragment has {self.rollout.environmentsPerActor * self.rollout.fragmentLength} "
            "samples, but the learner's buffer holds "
            "{self.learner.batchSize * self.learner.bufferBatches}. "
            "Lower `environmentsPerActor` or `fragmentLength`, or raise `spec.learner.batchSize`.",
        ),
    ),
    Rule(
        ("policy", "algorithm", "rollout", "learner"),
        ("algorithm", "minibatches"),
        _minibatches_have_sequences,
        Cel(
            f"!has(self.policy.core) || self.algorithm.minibatches <= {_SEQUENCES}",
            f"{{self.algorithm.minibatches}} minibatches of {{{_SEQUENCES}}} sequences: a "
            "recurrent policy is trained on whole sequences of `spec.rollout.fragmentLength` "
            "steps. Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
        ),
    ),
)
