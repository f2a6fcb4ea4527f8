"""Every kind of bad manifest is refused with path, value, cause and cure, all problems at once."""

from pathlib import Path

import pytest
from vaco.job import FieldError, JobError, load_job, parse_job

GOOD = """\
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata:
  name: cartpole
spec:
  task:
    environment: CartPole-v1
  stop:
    envSteps: 1e6
"""


def refused(tmp_path: Path, text: str) -> list[FieldError]:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(JobError) as caught:
        load_job(path)
    assert str(caught.value).startswith(f"{path}: {len(caught.value.problems)} problem")
    return list(caught.value.problems)


def with_spec(extra: str) -> str:
    return GOOD + "".join(f"  {line}\n" for line in extra.splitlines())


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            "sed: 1",
            "`spec.sed` (line 10): unknown field. Did you mean `seed`? `spec` has seed, ",
        ),
        (
            "learner: {batch_size: 64}",
            "`spec.learner.batch_size` (line 10): unknown field. Did you mean `batchSize`? ",
        ),
        (
            "envSteps: 3",
            "`spec.envSteps` (line 10): unknown field. There is `spec.stop.envSteps`. ",
        ),
        (
            "algorithm: {name: ppo, delta: 0.1}",
            "`spec.algorithm.delta` (line 10): unknown field. "
            "It belongs to `name: vaco or vaco-lm`; this is ppo. `spec.algorithm` has learn",
        ),
        (
            "algorithm: {clipEpsilon: 0.1}",
            "`spec.algorithm.clipEpsilon` (line 10): unknown field. "
            "It belongs to `name: ppo, grpo or tis`; this is vaco. `spec.algorithm` has learn",
        ),
        (
            "algorithm: {name: vcao}",
            '`spec.algorithm.name` (line 10): "vcao" is none of its choices. '
            "Did you mean `vaco`? Give vaco, ppo, ppo-kl, spo, impala, vaco-lm, grpo, dppo or tis.",
        ),
        (
            "policy: {network: {type: transformer}}",
            '`spec.policy.network.type` (line 10): "transformer" is none of its choices. '
            "Give mlp or cnn.",
        ),
        (
            "policy: {network: {hiddenSizes: [64, 0]}}",
            "`spec.policy.network.hiddenSizes[1]` (line 10): 0 is too small. "
            "Give an integer from 1 to 4096.",
        ),
        (
            "policy: {network: {hiddenSizes: []}}",
            "`spec.policy.network.hiddenSizes` (line 10): 0 entries are too few. "
            "Give a list of at most 8, each an integer from 1 to 4096.",
        ),
        (
            "policy: {core: none}",
            '`spec.policy.core` (line 10): "none" is text. '
            "Give a mapping with type, hiddenSize, or null.",
        ),
        (
            "policy:\n  core:\n    hiddenSize: 4",
            "`spec.policy.core.type` (line 11): missing. Give gru or lstm: Kind of recurrent cell.",
        ),
        (
            "algorithm: {delta: 3.5}",
            "`spec.algorithm.delta` (line 10): 3.5 is too large. "
            "Give a number above 0 and up to 2.",
        ),
        (
            "algorithm: {delta: 0}",
            "`spec.algorithm.delta` (line 10): 0 is too small. Give a number above 0 and up to 2.",
        ),
        (
            "algorithm: {tvAnchor: behavior}",
            '`spec.algorithm.tvAnchor` (line 10): "behavior" is none of its choices. '
            "Did you mean `behaviour`? Give behaviour, learnerStart or gap.",
        ),
        (
            'algorithm: {gamma: "0.99"}',
            '`spec.algorithm.gamma` (line 10): "0.99" is text. Give a number from 0 to 1. '
            "Numbers, true and false are written without quotes.",
        ),
        (
            "algorithm: {epochs: 2.5}",
            "`spec.algorithm.epochs` (line 10): 2.5 is not whole. Give an integer from 1 to 64.",
        ),
        (
            "seed: true",
            "`spec.seed` (line 10): true is a truth value. Give an integer from 0 to ",
        ),
        (
            "synchronous: 1",
            "`spec.synchronous` (line 10): 1 is a number. Give true or false.",
        ),
        (
            "autoscaling: {mode: off}",
            "`spec.autoscaling.mode` (line 10): false is none of its choices. "
            "Give auto, external or fixed.",
        ),
        (
            "actors: [1]",
            "`spec.actors` (line 10): [1] is a list. Give a mapping with replicas, minReplicas, ",
        ),
        (
            "learner: {checkpoint: null}",
            "`spec.learner.checkpoint` (line 10): null is no value. "
            "Give a mapping with intervalSeconds, keep.",
        ),
        (
            "learner: {replicas: 2}",
            "`spec.learner.replicas` (line 10): 2 is too large. Give an integer that is 1.",
        ),
        (
            "learner: {storage: {size: 0Gi}}",
            '`spec.learner.storage.size` (line 10): "0Gi" is not spelled as it must be. '
            "Size of the claim, such as 10Gi or 500G.",
        ),
        (
            "learner: {storage: {size: 10}}",
            "`spec.learner.storage.size` (line 10): 10 is a number. Give text.",
        ),
        (
            "startDeadlineSeconds: null",
            "`spec.startDeadlineSeconds` (line 10): null is no value. Give a number above 0 and ",
        ),
        (
            'learner: {podTemplate: {spec: {containers: [{name: learner, image: ""}]}}}',
            "`spec.learner.podTemplate.spec.containers[0].image` (line 10): 0 characters are too "
            "few. Image; null for the program: ",
        ),
        (
            "actors: {podTemplate: {spec: {containers: [{name: actor, resources: {limits: "
            "{cpu: 2 cores}}}]}}}",
            "`spec.actors.podTemplate.spec.containers[0].resources.limits.cpu` (line 10): "
            '"2 cores" is no quantity. Give a whole number, or text such as 500m, 2.5 or 8Gi.',
        ),
        (
            "actors: {podTemplate: {spec: {containers: [{name: actor, resources: {requests: "
            "{cpu: 0.5}}}]}}}",
            "`spec.actors.podTemplate.spec.containers[0].resources.requests.cpu` (line 10): "
            "0.5 is no quantity. ",
        ),
        (
            "actors: {podTemplate: {metadata: {annotations: {evict: true}}}}",
            "`spec.actors.podTemplate.metadata.annotations.evict` (line 10): true is a truth value",
        ),
        (
            "actors: {podTemplate: {containers: []}}",
            "`spec.actors.podTemplate.containers` (line 10): unknown field. There is "
            "`spec.actors.podTemplate.spec.containers` and ",
        ),
        (
            "actors: {drainSeconds: .inf}",
            "`spec.actors.drainSeconds` (line 10): .inf is no finite number. Give a finite number.",
        ),
    ],
)
def test_a_bad_field_is_told_with_its_line_value_and_cure(
    tmp_path: Path, spec: str, told: str
) -> None:
    (problem,) = refused(tmp_path, with_spec(spec))
    assert str(problem).startswith(told)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("training.vaco.dev/v1alpha1", "training.vaco.dev/v2", "`apiVersion` (line 1): "),
        ("kind: VACOJob", "kind: VACOjob", "`kind` (line 2): "),
        ("kind: VACOJob\n", "", "`kind`: missing. Give VACOJob: Kind"),
        ("name: cartpole", "name: Cart Pole", '`metadata.name` (line 4): "Cart Pole" is not sp'),
        ("name: cartpole", f"name: {'a' * 64}", "`metadata.name` (line 4): 64 characters are too"),
        ("name: cartpole", "name: 2nd", '`metadata.name` (line 4): "2nd" is not spelled as it '),
        ("name: cartpole", "nmae: a\n  name: b", "`metadata.nmae` (line 4): unknown field. Did"),
        ("environment: CartPole-v1", "{}", "`spec.task.environment` (line 6): missing. Give text"),
        ("CartPole-v1", '""', "`spec.task.environment` (line 7): 0 characters are too few. Id of"),
        (
            "  stop:\n    envSteps: 1e6\n",
            "",
            "`spec.stop` (line 5): missing. Give a mapping: When training is complete. For example "
            "`stop: {envSteps: 1000000, return: {mean: 475}}`.",
        ),
        ("envSteps: 1e6", "{}", "`spec.stop` (line 8): no condition is given, so training would"),
        ("envSteps: 1e6", "return: {}", "`spec.stop.return.mean` (line 9): missing. Give a number"),
    ],
)
def test_a_bad_head_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    (problem,) = refused(tmp_path, GOOD.replace(old, new))
    assert str(problem).startswith(told)


def test_all_problems_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    problems = refused(
        tmp_path,
        with_spec(
            "learner:\n"
            "  batchSize: many\n"
            "  batchSize: 64\n"
            "algorithm:\n"
            "  learningRateSchedule: linear\n"
            "actors: {minReplicas: 4, maxReplicas: 2, threads: 0}\n"
            "synchronus: true\n"
            "task: {imports: [gone.py]}"
        )
        .replace("  task:\n    environment: CartPole-v1\n", "")
        .replace("envSteps: 1e6", "return: 1"),
    )
    assert [problem.path for problem in problems] == [
        "spec.stop.return",
        "spec.learner.batchSize",
        "spec.actors.threads",
        "spec.actors.minReplicas",
        "spec.synchronus",
        "spec.task.imports[0]",
        "spec.task.environment",
    ]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            "algorithm: {name: vcao, gamma: 7, clipEpsilon: 0.1}\nseed: -1",
            [
                ("spec.algorithm.name", "Did you mean `vaco`? "),
                ("spec.algorithm.gamma", "Give a number from 0 to 1."),
                (
                    "spec.algorithm.clipEpsilon",
                    "It belongs to `name: ppo, grpo or tis`; this is vaco. ",
                ),
                ("spec.seed", ""),
            ],
        ),
        (
            # Nothing says which algorithm is meant: what some of them has is no problem.
            "algorithm: {name: sac, gamma: 7, clipEpsilon: 0.1, delta: 9, alpha: 1}",
            [
                ("spec.algorithm.name", "Give vaco, "),
                ("spec.algorithm.gamma", ""),
                ("spec.algorithm.delta", ""),
                ("spec.algorithm.alpha", ""),
            ],
        ),
        (
            "policy:\n  network: {type: cn, channels: [8], hiddenSize: 0}\nsynchronous: true\n"
            "actors: {replicas: 2}",
            [
                ("spec.policy.network.type", "Did you mean `cnn`? "),
                ("spec.policy.network.hiddenSize", ""),
                ("spec.policy.network.channels", "Leave out `channels`"),
                ("spec.synchronous", ""),
            ],
        ),
        (
            "policy: {network: {type: transformer, width: 3}}",
            [("spec.policy.network.type", "Give mlp or cnn."), ("spec.policy.network.width", "")],
        ),
    ],
)
def test_an_unknown_name_or_type_hides_no_other_problem(
    tmp_path: Path, spec: str, told: list[tuple[str, str]]
) -> None:
    problems = refused(tmp_path, with_spec(spec))
    assert [problem.path for problem in problems] == [path for path, _ in told]
    for problem, (_, cure) in zip(problems, told, strict=True):
        assert cure in problem.cure


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, with_spec(f"seed: {'x' * 1000}"))
    assert len(problem.problem) < 100
    assert "..." in problem.problem


def test_python_spelling_is_not_the_manifests() -> None:
    document = {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {"name": "x"},
        "spec": {"task": {"environment": "a"}, "stop": {"env_steps": 5}},
    }
    with pytest.raises(JobError) as caught:
        parse_job(document, "here")
    assert caught.value.problems[0].path == "spec.stop.env_steps"
    assert "Did you mean `envSteps`?" in caught.value.problems[0].cure
