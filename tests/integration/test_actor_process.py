"""Real actor processes against a real gRPC server that takes whatever they send."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from torch import nn
from vaco.channels import server_options
from vaco.errors import EXIT_FAILURE, EXIT_OK, EXIT_PERMANENT
from vaco.job import ActorCriticPolicy, load_job
from vaco.trajectory import Fragment, IncomingFragment
from vaco.v1 import trajectory_pb2 as pb
from vaco.v1 import trajectory_pb2_grpc
from vaco.weights import Weights, add_weight_servicer, weights_frames, weights_header
from vaco_actor.environments import probe_spaces
from vaco_policy.language.model import build
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy
from vaco_policy.spaces import Spaces
from vaco_policy.stored import StoredPolicy, write_export

SECONDS = 120.0
COUNTING = str(Path(__file__).parents[1] / "environments" / "counting.py")
ROLLOUT = {"rollout": {"environmentsPerActor": 3, "fragmentLength": 8}}
Response = pb.StreamTrajectoriesResponse


class Learner(trajectory_pb2_grpc.TrajectoryServiceServicer):
    """Publishes fresh weights, says what it is told to, and keeps everything it receives."""

    def __init__(
        self, credits_granted: int = 4, acks: bool = True, model: nn.Module | None = None
    ) -> None:
        self.received: queue.Queue[pb.StreamTrajectoriesRequest] = queue.Queue()
        self.say: queue.Queue[Any] = queue.Queue()
        self.versions: queue.Queue[int] = queue.Queue()
        self.spaces: queue.Queue[str] = queue.Queue()
        self._credits = credits_granted
        self._acks = acks
        self._model = model

    def StreamTrajectories(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        context.add_callback(lambda: self.say.put(None))
        self.spaces.put(next(requests).hello.spaces_json)
        self.say.put(Response(welcome=pb.Welcome(learner_incarnation=1, credits=self._credits)))
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        yield from iter(self.say.get, None)

    def _read(self, requests: Any) -> None:
        try:
            for request in requests:
                self.received.put(request)
                kind = request.WhichOneof("message")
                if kind in ("trajectory", "completions") and self._acks:
                    self.ack(getattr(request, kind))
                elif kind == "goodbye":
                    self.say.put(Response(farewell=pb.Farewell()))
        except grpc.RpcError:
            pass
        self.say.put(None)

    def ack(self, fragment: pb.Trajectory | pb.CompletionGroup) -> None:
        self.say.put(Response(ack=pb.Ack(sequence=fragment.id.sequence, fate=pb.FATE_TRAINED)))

    def WatchWeights(self, _request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        context.add_callback(lambda: self.versions.put(-1))
        spaces_json = self.spaces.get(timeout=SECONDS)
        model = self._model or Policy(ActorCriticPolicy(), Spaces.from_json(spaces_json), seed=3)
        payload = to_payload(model)
        while (version := self.versions.get()) >= 0:
            weights = Weights(1, version, payload, spaces_json)
            yield from weights_frames(weights_header(weights), payload)

    def get(self, *kinds: str) -> Any:
        request = self.received.get(timeout=SECONDS)
        kind = request.WhichOneof("message")
        assert kind in kinds, request
        return getattr(request, kind)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Learner, str]]]:
    stops: list[Callable[[], Any]] = []

    def begin(**rest: Any) -> tuple[Learner, str]:
        pool = ThreadPoolExecutor(8)
        server = grpc.server(pool, options=server_options())
        learner = Learner(**rest)
        trajectory_pb2_grpc.add_TrajectoryServiceServicer_to_server(learner, server)
        add_weight_servicer(learner, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        learner.versions.put(1)
        stops.append(lambda: (server.stop(None).wait(10), pool.shutdown()))
        return learner, f"127.0.0.1:{port}"

    yield begin
    for stop in stops:
        stop()


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    def write(environment: str, kwargs: dict[str, Any] | None = None, **spec: Any) -> Path:
        document = {
            "apiVersion": "training.vaco.dev/v1alpha1",
            "kind": "VACOJob",
            "metadata": {"name": "test", "uid": "job-1"},
            "spec": {
                "task": {"environment": environment, "imports": [COUNTING], "kwargs": kwargs or {}},
                **({} if "sampling" in spec else ROLLOUT),
                "stop": {"envSteps": 1000},
                **spec,
            },
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    return write


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str | Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "vaco_actor", *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=SECONDS)


Start = Callable[..., "subprocess.Popen[str]"]
Serve = Callable[..., tuple[Learner, str]]
Manifest = Callable[..., Path]


def actor(start: Start, job: Path, address: str) -> "subprocess.Popen[str]":
    return start(
        *("run", "--job", job, "--learner", address),
        *("--actor-id", "actor-2", "--index", "2", "--incarnation", "5"),
    )


def fragment_of(message: pb.Trajectory) -> Fragment:
    return Fragment.decode(IncomingFragment.parse(message.SerializeToString()))


def test_sigterm_drains_and_the_exit_is_clean(
    start: Start, serve: Serve, manifest: Manifest
) -> None:
    learner, address = serve()
    process = actor(start, manifest("CartPole-v1"), address)
    fragments = [fragment_of(learner.get("trajectory")) for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    while (request := learner.received.get(timeout=SECONDS)).WhichOneof("message") != "goodbye":
        fragments.append(fragment_of(request.trajectory))
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_OK, told
    assert learner.received.empty(), told
    assert [f.id.sequence for f in fragments] == list(range(1, len(fragments) + 1))
    assert {(f.id.job_uid, f.id.actor_id, f.id.actor_incarnation) for f in fragments} == {
        ("job-1", "actor-2", 5)
    }
    assert all(f.length == 8 for f in fragments[:-1])
    assert 1 <= fragments[-1].length <= 8


def test_sigterm_while_held_back_drains_too(start: Start, serve: Serve, manifest: Manifest) -> None:
    learner, address = serve(credits_granted=2, acks=False)
    process = actor(start, manifest("CartPole-v1"), address)
    for _ in range(2):
        learner.get("trajectory")
    process.send_signal(signal.SIGTERM)
    learner.get("goodbye")
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_OK, told


LANGUAGE: dict[str, Any] = {
    "task": {"type": "languageModel", "maxPromptTokens": 8, "maxCompletionTokens": 4},
    "policy": {"type": "languageModel", "tiny": {"layers": 1, "hiddenSize": 16, "heads": 2}},
    "algorithm": {"name": "vaco-lm"},
    "sampling": {"groupSize": 2, "prompts": 8},
    "learner": {"batchSize": 64},
}


def test_sigterm_hands_over_all_groups_that_are_ready(
    start: Start, serve: Serve, manifest: Manifest
) -> None:
    """Eight prompts are completed at once; the learner takes one group, and then is busy."""
    job = manifest("", **LANGUAGE)
    model = build(load_job(job).spec.language, 0, pretrained=False)
    learner, address = serve(credits_granted=1, acks=False, model=model.published)
    process = actor(start, job, address)
    groups = [learner.get("completions")]
    process.send_signal(signal.SIGTERM)
    for _ in range(7):
        learner.ack(groups[-1])
        groups.append(learner.get("completions"))
    learner.ack(groups[-1])
    learner.get("goodbye")
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_OK, told
    assert [each.id.sequence for each in groups] == list(range(1, 9))
    assert {each.completions for each in groups} == {2}


def test_what_a_leaving_actor_gives_up_is_told(
    start: Start, serve: Serve, manifest: Manifest
) -> None:
    """The learner takes one group of eight, answers none, and grants no other credit."""
    job = manifest("", **LANGUAGE, actors={"drainSeconds": 2})
    model = build(load_job(job).spec.language, 0, pretrained=False)
    learner, address = serve(credits_granted=1, acks=False, model=model.published)
    process = actor(start, job, address)
    learner.get("completions")
    process.send_signal(signal.SIGTERM)
    learner.get("goodbye")
    _, told = process.communicate(timeout=SECONDS)
    parts = "14 completions of 7 groups got no credit, 2 completions of 1 groups got no answer"
    assert told.count(f"gave up 16 completions of 8 groups: {parts}") == 1, told


def test_sigterm_without_a_learner_does_not_wait_for_one(start: Start, manifest: Manifest) -> None:
    process = actor(start, manifest("CartPole-v1"), "127.0.0.1:9")
    assert process.stderr is not None
    line = process.stderr.readline()
    while "the stream broke" not in line:
        assert line, "the actor ended"
        line = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_OK


def test_a_farewell_sends_the_actor_home(start: Start, serve: Serve, manifest: Manifest) -> None:
    learner, address = serve()
    process = actor(start, manifest("CartPole-v1"), address)
    learner.get("trajectory")
    learner.say.put(Response(farewell=pb.Farewell()))
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_OK, told


def test_an_unknown_environment_is_named_with_a_suggestion(
    start: Start, manifest: Manifest
) -> None:
    process = actor(start, manifest("CartPool-v1"), "127.0.0.1:9")
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_PERMANENT, told
    assert "`spec.task.environment`: 'CartPool-v1'" in told
    assert "Did you mean `CartPole-v1`?" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("dose", ["nan", "1e30"])
def test_a_poisonous_reward_fails_the_job_and_names_the_environment(
    start: Start, serve: Serve, manifest: Manifest, dose: str
) -> None:
    learner, address = serve()
    job = manifest("test/Poisonous-v0", {"dose": dose, "after": 20})
    process = actor(start, job, address)
    for sequence in (1, 2):
        fragment = fragment_of(learner.get("trajectory"))
        assert fragment.id.sequence == sequence
        assert abs(fragment.rewards).max() < 1e6
    failure = learner.get("failure")
    assert failure.permanent
    assert "test/Poisonous-v0 gave a reward of" in failure.message
    assert "spec.task.environment" in failure.message
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_PERMANENT, told
    assert failure.message in told
    assert learner.received.empty()


def test_an_environment_that_breaks_may_be_tried_again(
    start: Start, serve: Serve, manifest: Manifest
) -> None:
    learner, address = serve()
    process = actor(start, manifest("test/Breaking-v0"), address)
    learner.get("trajectory")
    failure = learner.get("failure")
    assert not failure.permanent
    assert failure.message == "test/Breaking-v0: RuntimeError: a joint broke"
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_FAILURE
    assert "Traceback" in told


def test_fragments_too_large_for_the_wire_are_refused_before_they_are_made(
    start: Start, manifest: Manifest
) -> None:
    rollout = {"environmentsPerActor": 4096, "fragmentLength": 4096}
    job = manifest("CartPole-v1", rollout=rollout, learner={"batchSize": 2**24})
    process = actor(start, job, "127.0.0.1:9")
    _, told = process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_PERMANENT
    assert "`spec.rollout`: the observations of one fragment take 268500992 bytes" in told


def test_lock_step_makes_one_batch_per_version(
    start: Start, serve: Serve, manifest: Manifest
) -> None:
    learner, address = serve(credits_granted=9, acks=False)
    job = manifest("CartPole-v1", synchronous=True, learner={"batchSize": 40})
    process = actor(start, job, address)
    for version in (1, 2, 3):
        batch = []
        while sum(fragment_of(t).samples for t in batch) < 40:
            batch.append(learner.get("trajectory"))
        assert {v for t in batch for v in (t.min_version, t.max_version)} == {version}
        for trajectory in batch:
            assert learner.received.empty()
            learner.ack(trajectory)
        with pytest.raises(queue.Empty):
            learner.received.get(timeout=0.5)
        learner.versions.put(version + 1)
    learner.get("trajectory")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    assert process.returncode == EXIT_OK


def test_an_evaluation_is_played_whole_and_aside(
    start: Start, serve: Serve, manifest: Manifest
) -> None:
    learner, address = serve()
    actor(start, manifest("test/Counting-v0"), address)
    learner.get("trajectory")
    request = pb.EvaluationRequest(request_id=7, episodes=5, seed=0)
    learner.say.put(Response(evaluation_request=request))
    while isinstance(answer := learner.get("trajectory", "evaluation_result"), pb.Trajectory):
        pass
    assert (answer.request_id, answer.version) == (7, 1)
    # Five environments play one episode each: number 0 of environment i, of 2 + i % 3 steps.
    assert list(answer.lengths) == [2, 3, 4, 2, 3]
    assert list(answer.returns) == [3, 306, 810, 603, 1206]


def store(directory: Path, job: Path) -> None:
    spec = load_job(job).spec
    spaces = probe_spaces(spec.task)
    payload = to_payload(Policy(spec.policy, spaces))
    write_export(directory, StoredPolicy(spec.policy, spaces, 12, payload))


def test_evaluate_prints_one_document(start: Start, manifest: Manifest, tmp_path: Path) -> None:
    job = manifest("test/Counting-v0", evaluation={"intervalEnvSteps": 100, "seed": 0})
    store(tmp_path / "policy", job)
    given = ("evaluate", "--job", job, "--checkpoint", tmp_path / "policy", "--episodes", "2")
    written, told = start(*given, "--json").communicate(timeout=SECONDS)
    assert json.loads(written)["returns"] == [3, 306], told


def test_probe_prints_the_spaces(start: Start, manifest: Manifest) -> None:
    written, told = start("probe", "--job", manifest("CartPole-v1")).communicate(timeout=SECONDS)
    described = load_job(manifest("CartPole-v1")).spec.task
    assert written.strip() == probe_spaces(described).to_json(), told
