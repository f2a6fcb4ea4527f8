"""Groups of completions as an actor makes them, and held-out problems as it answers them."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from vaco.completions import CompletionGroup, CompletionSpec, IncomingCompletions
from vaco.errors import UserError
from vaco.job import VACOJob, dump_job
from vaco.v1 import trajectory_pb2 as pb
from vaco.weights import Weights
from vaco_actor.__main__ import main
from vaco_actor.identity import ActorIdentity
from vaco_actor.language.producer import LanguageProducer
from vaco_actor.mailbox import Mailbox
from vaco_policy.language.model import build
from vaco_policy.language.problems import load_problems
from vaco_policy.parameters import to_payload

MakeJob = Callable[..., VACOJob]
NEVER = threading.Event()
SIZE, PROMPTS, BUDGET = 4, 3, 6
REWARD = """
def length(problem, completion, answer):
    return len(completion) + int(answer) / 1000
def failing(problem, completion, answer):
    raise ValueError("no such answer")
"""


@pytest.fixture
def make_job(language_job: MakeJob, tmp_path: Path) -> Iterator[Callable[..., VACOJob]]:
    """Makes a job with ten problems to train on, four held out, and a reward of its own."""
    file = tmp_path / "producer_rewards.py"
    file.write_text(REWARD)

    def make(function: str = "length", task: dict[str, Any] | None = None, **spec: Any) -> VACOJob:
        whole_task = {
            "type": "languageModel",
            "maxPromptTokens": 8,
            "maxCompletionTokens": BUDGET,
            "data": {"digits": 1, "problems": 10, "heldOut": 4},
            "reward": {"type": "python", "function": f"producer_rewards.{function}"},
            "imports": [str(file)],
            **(task or {}),
        }
        parts = {
            "sampling": {"groupSize": SIZE, "prompts": PROMPTS},
            "evaluation": {"intervalEnvSteps": 100},
            **spec,
        }
        job = language_job(task=whole_task, **parts)
        return job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": "uid"})})

    yield make
    sys.modules.pop(file.stem, None)


def weights_of(job: VACOJob, version: int, incarnation: int = 1, seed: int = 0) -> Weights:
    model = build(job.spec.language, seed, pretrained=True)
    return Weights(incarnation, version, to_payload(model.published), model.contract())


def producer(
    job: VACOJob,
    index: int = 0,
    incarnation: int = 1,
    stepped: Callable[[], None] = lambda: None,
    mailbox: Mailbox | None = None,
) -> LanguageProducer:
    if mailbox is None:
        mailbox = Mailbox()
        mailbox.offer(weights_of(job, 5))
    identity = ActorIdentity(f"actor-{index}", index, incarnation)
    return LanguageProducer(job, identity, mailbox, stepped)


def some(made: LanguageProducer, count: int) -> list[CompletionGroup]:
    groups = [made.collect(NEVER) for _ in range(count)]
    assert all(group is not None for group in groups)
    return [group for group in groups if group is not None]


def test_groups_are_what_the_learner_expects(make_job: MakeJob) -> None:
    job = make_job()
    named = job.metadata.model_copy(update={"uid": "job-1"})
    job = job.model_copy(update={"metadata": named})
    made = producer(job)
    spec = CompletionSpec(100, 8, BUDGET, SIZE, 1e6)
    problems = load_problems(job.spec.language.task, "train")
    tokenizer = build(job.spec.language, 0, pretrained=False).tokenizer
    for sequence, group in enumerate(some(made, 7), start=1):
        parts, _ = group.to_parts()
        read = spec.decode(IncomingCompletions.parse(b"".join(bytes(part) for part in parts)))
        assert (read.id.actor_id, read.id.actor_incarnation) == ("actor-0", 1)
        assert read.id.sequence == sequence
        assert (read.min_version, read.max_version, read.weights_incarnation) == (5, 5, 1)
        assert read.samples == SIZE
        problem = problems[read.problem]
        assert tokenizer.decode(read.prompt, skip_special_tokens=True) == problem.prompt
        ends = np.cumsum(read.lengths)
        for start, end, reward, finished in zip(
            ends - read.lengths, ends, read.rewards, read.finished, strict=True
        ):
            text = tokenizer.decode(read.tokens[start:end], skip_special_tokens=True)
            assert reward == pytest.approx(len(text) + int(problem.answer) / 1000)
            assert finished == (read.tokens[end - 1] == tokenizer.eos_token_id)
            assert finished or end - start == BUDGET


def test_every_problem_comes_once_before_any_comes_again(make_job: MakeJob) -> None:
    orders = [
        [group.problem for group in some(producer(make_job(), index, incarnation), 20)]
        for index, incarnation in ((0, 1), (0, 1), (1, 1), (0, 2))
    ]
    for order in orders:
        assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0][:10] != orders[0][10:]


def test_an_actor_that_leaves_hands_over_what_is_complete(make_job: MakeJob) -> None:
    job = make_job()
    stop, steps = threading.Event(), []

    def stepped() -> None:
        steps.append(1)
        if len(steps) == 2:
            stop.set()

    made = producer(job, stepped=stepped)
    made._model.end_tokens = tuple(range(2, 100, 3))  # a third of the tokens end a completion
    made._backend._ends = made._backend._ends.new_tensor(made._model.end_tokens)  # type: ignore[attr-defined]
    groups = list(drained(made, stop))
    assert groups
    assert not made.ready
    assert all(0 < group.samples <= SIZE for group in groups)
    assert sum(group.samples for group in groups) < PROMPTS * SIZE
    for group in groups:
        assert group.finished.all()
        assert group.lengths.max() <= 2
        assert group.rewards.size == group.samples
    assert [group.id.sequence for group in groups] == list(range(1, len(groups) + 1))
    # Those that nobody gets are counted, also where no completion of a group was complete.
    missing = PROMPTS * SIZE - sum(group.samples for group in groups)
    whole = sum(group.samples == SIZE for group in groups)
    assert made.given_up == (missing, PROMPTS - whole)


def drained(made: LanguageProducer, stop: threading.Event) -> Iterator[CompletionGroup]:
    while (group := made.collect(stop)) is not None:
        yield group


def test_whole_groups_that_are_ready_are_not_lost(make_job: MakeJob) -> None:
    made, stop = producer(make_job()), threading.Event()
    assert not made.ready
    assert made.collect(stop) is not None
    assert made.ready
    stop.set()
    assert [group.samples for group in drained(made, stop)] == [SIZE] * (PROMPTS - 1)
    assert not made.ready
    assert made.given_up == (0, 0)


def test_without_weights_there_is_nothing_to_act_with(make_job: MakeJob) -> None:
    made = producer(make_job(), mailbox=Mailbox())
    assert made.acting is None
    with pytest.raises(LookupError):
        made.collect(NEVER)


def changing(
    job: VACOJob, incarnation: int
) -> tuple[LanguageProducer, list[np.ndarray], list[CompletionGroup]]:
    """Offer newer weights after two tokens; return the versions of the groups that came of it."""
    mailbox, steps = Mailbox(), []
    mailbox.offer(weights_of(job, 5))
    newer = weights_of(job, 8, incarnation, seed=1)

    def stepped() -> None:
        steps.append(1)
        if len(steps) == 2:
            mailbox.offer(newer)

    made = producer(job, mailbox=mailbox, stepped=stepped)
    groups = some(made, PROMPTS + 1)
    return made, [group.versions for group in groups], groups


def test_weights_change_between_groups(make_job: MakeJob) -> None:
    made, versions, groups = changing(make_job(), 1)
    assert all((each == 5).all() for each in versions[:-1])
    assert (versions[-1] == 8).all()
    assert made.acting is not None
    assert made.acting.version == 8
    assert groups[-1].max_version == 8


def test_weights_change_in_flight(make_job: MakeJob) -> None:
    sampling = {"groupSize": SIZE, "prompts": PROMPTS, "weightsChange": "inFlight"}
    _, versions, groups = changing(make_job(sampling=sampling), 1)
    for group, each in zip(groups[:-1], versions[:-1], strict=True):
        starts = np.cumsum(group.lengths) - group.lengths
        for start, length in zip(starts, group.lengths, strict=True):
            own = each[start : start + length].tolist()
            assert own == ([5, 5] + [8] * BUDGET)[:length]
    assert (groups[0].min_version, groups[0].max_version) == (5, 8)


def test_weights_of_another_incarnation_wait_for_the_next_groups(make_job: MakeJob) -> None:
    sampling = {"groupSize": SIZE, "prompts": PROMPTS, "weightsChange": "inFlight"}
    _, versions, groups = changing(make_job(sampling=sampling), 2)
    assert all((each == 5).all() for each in versions[:-1])
    assert [group.weights_incarnation for group in groups] == [1] * PROMPTS + [2]


@pytest.mark.parametrize(
    ("batch", "prompts", "group", "expected"),
    [(32, 8, 4, 8), (24, 4, 4, 3), (20, 4, 4, 1), (8, 4, 4, 2), (9, 4, 4, 3)],
)
def test_in_lock_step_no_batch_of_prompts_reaches_over_the_learners(
    make_job: MakeJob, batch: int, prompts: int, group: int, expected: int
) -> None:
    job = make_job(
        synchronous=True,
        actors={"replicas": 1, "minReplicas": 1, "maxReplicas": 1},
        learner={"batchSize": batch, "bufferBatches": 2},
        sampling={"groupSize": group, "prompts": prompts},
    )
    made = producer(job)
    assert made.collect(NEVER) is not None
    assert len(made._ready) == expected - 1


def evaluated(job: VACOJob, index: int = 0, **asked: int) -> pb.EvaluationResult:
    request = pb.EvaluationRequest(**{"request_id": 7, "episodes": 3, "seed": 11, **asked})
    result = producer(job, index).evaluate(request, NEVER)
    assert result is not None
    return result


def test_held_out_problems_are_answered_by_any_actor_alike(make_job: MakeJob) -> None:
    job = make_job()
    result = evaluated(job)
    assert (result.request_id, result.version) == (7, 5)
    assert len(result.returns) == len(result.lengths) == 3
    assert result == evaluated(job, index=1)
    answers = {int(p.answer) for p in load_problems(job.spec.language.task, "heldOut")}
    # The reward tells which answers were asked for.
    asked = [round(reward % 1 * 1000) for reward in result.returns]
    assert set(asked) <= answers
    whole = evaluated(job, episodes=100, seed=12)
    assert len(whole.returns) == 4
    assert all(0 < length <= BUDGET for length in whole.lengths)


def test_the_choice_of_held_out_problems_is_the_seeds(make_job: MakeJob) -> None:
    job = make_job(task={"data": {"digits": 2, "problems": 10, "heldOut": 50}})
    chosen = {tuple(evaluated(job, episodes=5, seed=seed).returns) for seed in (1, 1, 2, 3)}
    assert len(chosen) == 3


def test_an_evaluation_is_given_up_when_the_actor_has_to_stop(make_job: MakeJob) -> None:
    stop = threading.Event()
    made = producer(make_job(), stepped=stop.set)
    request = pb.EvaluationRequest(request_id=1, episodes=3, seed=0)
    assert made.evaluate(request, stop) is None


def test_a_reward_that_raises_stops_the_run_by_name(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match=r"producer_rewards.failing raised ValueError: no such"):
        producer(make_job("failing")).collect(NEVER)


def test_groups_too_large_for_the_wire_are_refused(make_job: MakeJob) -> None:
    job = make_job(
        sampling={"groupSize": 1024, "prompts": 1}, task={"maxCompletionTokens": 100_000}
    )
    with pytest.raises(UserError, match=r"1024 completions of up to 100000 tokens") as raised:
        producer(job, mailbox=Mailbox())
    assert raised.value.path == "spec.sampling.groupSize"


def test_what_vllm_does_not_do_is_refused(make_job: MakeJob) -> None:
    job = make_job(sampling={"groupSize": SIZE, "backend": "vllm"})
    with pytest.raises(UserError, match="vllm, with `tiny` or `lora`") as raised:
        producer(job, mailbox=Mailbox())
    assert raised.value.path == "spec.sampling.backend"


class _Engine:
    """Takes the place of vLLM's, which needs a GPU or a build of its own: it counts its reloads."""

    reloads = 0

    def __init__(self, **_settings: object) -> None:
        pass

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        assert method == "reload_weights"
        assert list(kwargs["weights_iterator"])
        _Engine.reloads += 1

    def reset_prefix_cache(self) -> None:
        pass

    def generate(self, asked: list[Any], parameters: Any, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        told = SimpleNamespace(
            token_ids=[2], logprobs=[{2: SimpleNamespace(logprob=-1.0)}], finish_reason="stop"
        )
        return [SimpleNamespace(outputs=[told] * parameters.n) for _ in asked]


def test_an_engine_gets_the_weights_of_a_learner_that_began_anew(
    make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when they have the number of the version that it has."""
    model = build(make_job().spec.language, 0, pretrained=True)
    model.network.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    model.tokenizer.save_pretrained(tmp_path / "model")
    parts = {"LLM": _Engine, "SamplingParams": SimpleNamespace, "TokensPrompt": SimpleNamespace}
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(**parts))
    monkeypatch.setattr(_Engine, "reloads", 0)
    job = make_job(
        policy={"type": "languageModel", "model": str(tmp_path / "model")},
        sampling={"groupSize": SIZE, "prompts": 1, "backend": "vllm"},
    )
    mailbox = Mailbox()
    made = producer(job, mailbox=mailbox)
    for incarnation, version, reloads in ((1, 5, 1), (1, 5, 1), (2, 5, 2), (2, 6, 3)):
        newest = mailbox.newest
        if newest is None or (newest.incarnation, newest.version) != (incarnation, version):
            mailbox.offer(weights_of(job, version, incarnation))
        (group,) = some(made, 1)
        assert group.weights_incarnation == incarnation
        assert group.versions.tolist() == [version] * SIZE
        assert _Engine.reloads == reloads


def test_a_probe_prints_the_contract(
    make_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job()
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert main(["probe", "--job", str(tmp_path / "job.yaml")]) == 0
    printed = json.loads(capsys.readouterr().out)
    contract = build(job.spec.language, 0, pretrained=True).contract()
    assert printed == json.loads(contract)


def test_a_probe_reads_the_problems(
    make_job: MakeJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(task={"data": {"digits": 1, "problems": 99, "heldOut": 4}})
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert main(["probe", "--job", str(tmp_path / "job.yaml")]) == 3
    assert "`spec.task.data.problems`" in capsys.readouterr().err
