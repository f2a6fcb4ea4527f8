"""The learner as a process, fed by an actor written by hand: it trains, ends, and begins again."""

import json
import math
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from vaco.channels import sync_channel
from vaco.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_PERMANENT
from vaco.incoming_weights import WeightsAssembler
from vaco.trajectory import Fragment, FragmentId, to_requests, trajectory_stream
from vaco.v1 import learner_pb2, learner_pb2_grpc, weights_pb2
from vaco.v1 import trajectory_pb2 as pb
from vaco.weights import Weights, weights_stream
from vaco_policy.spaces import Box, Discrete, Spaces

JOB = "job-uid"
SECONDS = 90.0
T, B = 8, 4
SPACES = Spaces({"observation": Box((3,))}, Discrete(2))
MANIFEST = """
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {{name: pole, uid: {uid}}}
spec:
  task: {{environment: Scripted-v0}}
  policy: {{network: {network}}}
  rollout: {{environmentsPerActor: 4, fragmentLength: 8}}
  learner: {{batchSize: 64, tensorboard: false, checkpoint: {{intervalSeconds: 0.3, keep: 2}}}}
  stop: {{envSteps: {env_steps}}}
"""


class Learner:
    """One learner process in a run directory."""

    def __init__(
        self,
        root: Path,
        env_steps: int = 10**9,
        uid: str = JOB,
        network: str = "{type: mlp, hiddenSizes: [8]}",
    ) -> None:
        self.root = root
        job = root / "job.yaml"
        job.write_text(MANIFEST.format(uid=uid, env_steps=env_steps, network=network))
        self.address_file = root / "address"
        self.address_file.unlink(missing_ok=True)
        self.log = root / f"learner-{time.monotonic_ns()}.log"
        with self.log.open("w") as log:
            command = [sys.executable, "-m", "vaco_learner", "--job", str(job)]
            self.process = subprocess.Popen(
                [*command, "--run-dir", str(root), "--address-file", str(self.address_file)],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def channel(self) -> grpc.Channel:
        eventually(self.address_file.exists)
        return sync_channel(self.address_file.read_text().strip())

    def status(self) -> learner_pb2.GetStatusResponse:
        with self.channel() as channel:
            stub = learner_pb2_grpc.LearnerServiceStub(channel)
            return stub.GetStatus(learner_pb2.GetStatusRequest(), timeout=SECONDS)

    def last_status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.root / "learner-status.json").read_text())
        return document

    def end(self, by: signal.Signals | None = None) -> int:
        if by is not None:
            self.process.send_signal(by)
        return self.process.wait(SECONDS)


class ScriptedActor:
    """Sends random fragments of the newest weights; sends again what was not acknowledged."""

    def __init__(self, incarnation: int = 1) -> None:
        self.incarnation = incarnation
        self.unacknowledged: dict[int, Fragment] = {}
        self.fates: dict[int, int] = {}
        self.newest = Weights(1, 0, b"", "")
        self.versions: list[int] = []
        self._sequence = 0
        self._draw = np.random.default_rng(incarnation)

    def play(self, channel: grpc.Channel, enough: Callable[[], bool] = lambda: False) -> None:
        """Sends until there is enough, the learner says farewell, or the stream breaks."""
        requests: queue.Queue[pb.StreamTrajectoriesRequest | bytes | None] = queue.Queue()
        call = trajectory_stream(channel)(iter(requests.get, None))
        hello = pb.Hello(
            job_uid=JOB,
            actor_id="actor-0",
            actor_incarnation=self.incarnation,
            spaces_json=SPACES.to_json(),
        )
        requests.put(pb.StreamTrajectoriesRequest(hello=hello))
        try:
            granted = next(call).welcome.credits
            weights = self._watch(channel)
            for item in self.unacknowledged.values():
                requests.put(to_requests(item)[0])
            while not enough():
                while len(self.unacknowledged) < granted:
                    requests.put(to_requests(self._fragment())[0])
                response = next(call)
                if response.WhichOneof("message") == "farewell":
                    return
                alone = [response.ack] if response.HasField("ack") else []
                for ack in (*alone, *response.acks.acks):
                    self.unacknowledged.pop(ack.sequence, None)
                    self.fates[ack.sequence] = ack.fate
        except grpc.RpcError:
            return
        finally:
            requests.put(None)
            call.cancel()
            channel.close()
        weights.join(SECONDS)

    def fail(self, channel: grpc.Channel, message: str) -> None:
        """Says that the job cannot succeed."""
        failure = pb.ActorFailure(message=message, permanent=True)
        hello = pb.Hello(
            job_uid=JOB, actor_id="actor-1", actor_incarnation=1, spaces_json=SPACES.to_json()
        )
        requests = [
            pb.StreamTrajectoriesRequest(hello=hello),
            pb.StreamTrajectoriesRequest(failure=failure),
        ]
        for _ in trajectory_stream(channel)(iter(requests), timeout=SECONDS):
            pass

    def _watch(self, channel: grpc.Channel) -> threading.Thread:
        """Begins to follow the weights; returns when the first ones are there."""
        request = weights_pb2.WatchWeightsRequest(job_uid=JOB, actor_id="actor-0")
        call = weights_stream(channel)(request)
        assembler, first = WeightsAssembler(), threading.Event()

        def follow() -> None:
            with suppress(grpc.RpcError):
                for message in call:
                    weights = assembler.add(message)
                    if weights is not None:
                        self.newest = weights
                        self.versions.append(weights.version)
                        first.set()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        assert first.wait(SECONDS)
        return thread

    def _fragment(self) -> Fragment:
        self._sequence += 1
        falses = np.zeros((T, B), np.bool_)
        item = Fragment(
            id=FragmentId(JOB, "actor-0", self.incarnation, self._sequence),
            weights_incarnation=self.newest.incarnation,
            observations={"observation": self._draw.normal(size=(T + 1, B, 3)).astype(np.float32)},
            actions=self._draw.integers(0, 2, (T, B)),
            rewards=self._draw.normal(size=(T, B)).astype(np.float32),
            terminated=falses,
            truncated=falses,
            valid=np.ones((T, B), np.bool_),
            behaviour_logp=np.full((T, B), math.log(0.5), np.float32),
            versions=np.full(T, self.newest.version, np.int64),
            episode_start=np.zeros((T + 1, B), np.bool_),
            final_observations={},
            final_steps=np.zeros(0, np.int32),
            core_state={},
            return_carry=np.zeros(B, np.float32),
            episode_returns=np.array([1.5], np.float32),
            episode_lengths=np.array([8], np.int32),
            rollout_seconds=0.01,
        )
        self.unacknowledged[self._sequence] = item
        return item


def eventually(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + SECONDS
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.02)


def journal(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def audit(root: Path) -> list[dict[str, Any]]:
    """The updates that the run's last weights stand on; nothing in them was trained twice."""
    valid: list[dict[str, Any]] = []
    newest = -1
    for line in journal(root):
        if line.get("event") == "restored":
            assert line["version"] >= newest, "the version went back"
            valid = [u for u in valid if u["version"] <= line["checkpoint_version"]]
            continue
        assert line["version"] > newest, "the version went back"
        newest = line["version"]
        valid.append(line)
    trained, seen = 0, set()
    for update in valid:
        for actor_id, incarnation, sequence, samples in update["fragments"]:
            identity = (actor_id, incarnation, sequence)
            assert identity not in seen, "trained twice"
            seen.add(identity)
            trained += samples
        ledger = update["ledger"]
        parts = ("queued", "trained", "stale", "duplicate", "rejected")
        assert ledger["received"] == sum(ledger[part] for part in parts)
        assert ledger["trained"] == trained == update["env_steps"]
    return valid


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Learner]]:
    started: list[Learner] = []

    def begin(**options: Any) -> Learner:
        started.append(Learner(tmp_path, **options))
        return started[-1]

    yield begin
    for learner in started:
        if learner.process.poll() is None:
            learner.process.kill()
            learner.process.wait()


def test_it_trains_to_the_end_and_sends_its_actor_home(
    start: Callable[..., Learner], tmp_path: Path
) -> None:
    learner, actor = start(env_steps=2_000), ScriptedActor()
    actor.play(learner.channel())
    assert learner.end() == EXIT_OK, learner.log.read_text()
    updates = audit(tmp_path)
    assert updates[-1]["env_steps"] >= 2_000
    assert updates[-1]["return_mean"] == 1.5
    assert {u["gradient_steps"] for u in updates} == {4}
    assert actor.versions == sorted(set(actor.versions))
    last = learner.last_status()
    assert last["phase"] == "LEARNER_PHASE_COMPLETE"
    assert int(last["checkpointVersion"]) == int(last["version"]) == updates[-1]["version"]
    checkpoints = sorted(path.name for path in (tmp_path / "checkpoints").glob("v*"))
    assert len(checkpoints) <= 2
    assert checkpoints[-1] == f"v{updates[-1]['version']:09d}"
    # What came too late is stale, nothing waits any more, and the checkpoint says the same.
    kept = json.loads((tmp_path / "checkpoints" / checkpoints[-1] / "state.json").read_text())
    told = {name: int(samples) for name, samples in last["ledger"].items()}
    assert {name: samples for name, samples in kept["ledger"].items() if samples} == told
    assert "queued" not in told
    assert told["stale"] > 0
    assert told["received"] == sum(told.get(f, 0) for f in ("trained", "stale", "duplicate"))


def test_it_checkpoints_at_sigterm_and_goes_on_where_it_was(
    start: Callable[..., Learner], tmp_path: Path
) -> None:
    learner, actor = start(), ScriptedActor()
    actor.play(learner.channel(), enough=lambda: len(actor.fates) > 20)
    assert learner.end(by=signal.SIGTERM) == EXIT_INTERRUPTED, learner.log.read_text()
    before = learner.last_status()
    assert before["phase"] == "LEARNER_PHASE_INTERRUPTED"

    again = start(env_steps=int(before["envSteps"]) + 1_000)
    eventually(lambda: again.status().incarnation == 2)
    status = again.status()
    assert status.version == status.checkpoint_version == int(before["version"])
    assert status.env_steps == int(before["envSteps"])
    assert status.episodes == int(before["episodes"])
    assert status.train_seconds == pytest.approx(before["trainSeconds"], abs=1.0)
    actor.play(again.channel())
    assert again.end() == EXIT_OK, again.log.read_text()
    versions = [update["version"] for update in audit(tmp_path)]
    assert versions == list(range(1, len(versions) + 1)), "no version was skipped"


def kill_after(fates: int, learner: Learner, actor: ScriptedActor) -> threading.Thread:
    def kill() -> None:
        eventually(lambda: len(actor.fates) >= fates)
        learner.end(by=signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


@pytest.mark.timeout(400)
def test_it_survives_being_killed(start: Callable[..., Learner], tmp_path: Path) -> None:
    """Three times: no sample is trained twice, and no version goes back."""
    actor = ScriptedActor()
    for _ in range(3):
        learner = start()
        channel = learner.channel()
        killer = kill_after(len(actor.fates) + 30, learner, actor)
        actor.play(channel)
        killer.join()
    last = start(env_steps=int(journal(tmp_path)[-1]["env_steps"]) + 1_000)
    actor.play(last.channel())
    assert last.end() == EXIT_OK, last.log.read_text()
    updates = audit(tmp_path)
    assert updates[-1]["incarnation"] == 4
    assert actor.versions == sorted(set(actor.versions)), "an actor saw a version go back"
    assert updates[-1]["ledger"]["rejected"] == 0


def test_a_disk_that_is_full_for_a_while_ends_nothing(
    start: Callable[..., Learner], tmp_path: Path
) -> None:
    """The kernel injects the fault: no file of the learner can grow."""
    learner, actor = start(env_steps=40_000), ScriptedActor()
    channel = learner.channel()
    playing = threading.Thread(target=actor.play, args=(channel,))
    playing.start()
    eventually(lambda: len(actor.fates) > 20)
    pid, (soft, hard) = learner.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    eventually(lambda: "training waits for the disk" in learner.status().message)
    waiting = learner.status()
    assert waiting.phase == learner_pb2.LEARNER_PHASE_TRAINING
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
    eventually(lambda: learner.status().version > waiting.version)
    assert learner.status().message == ""
    playing.join(SECONDS)
    assert learner.end() == EXIT_OK, learner.log.read_text()
    assert learner.last_status()["phase"] == "LEARNER_PHASE_COMPLETE"
    assert [line for line in journal(tmp_path) if line.get("event") == "gap"]


def test_a_permanent_failure_of_an_actor_fails_the_job(start: Callable[..., Learner]) -> None:
    learner, actor = start(), ScriptedActor()
    actor.play(learner.channel(), enough=lambda: len(actor.fates) > 10)
    actor.fail(learner.channel(), "Scripted-v0: the reward is nan")
    assert learner.end() == EXIT_PERMANENT
    last = learner.last_status()
    assert last["phase"] == "LEARNER_PHASE_FAILED"
    assert "Scripted-v0: the reward is nan" in last["message"]
    again = start()
    eventually(lambda: again.status().incarnation == 2)
    assert again.status().checkpoint_version == int(last.get("checkpointVersion", 0))


def test_a_policy_that_does_not_fit_the_spaces_fails_the_job(start: Callable[..., Learner]) -> None:
    learner = start(network="{type: cnn, architecture: nature}")
    with learner.channel() as channel:
        hello = pb.Hello(
            job_uid=JOB, actor_id="actor-0", actor_incarnation=1, spaces_json=SPACES.to_json()
        )
        request = pb.StreamTrajectoriesRequest(hello=hello)
        with suppress(grpc.RpcError):
            list(trajectory_stream(channel)(iter([request]), timeout=SECONDS))
    assert learner.end() == EXIT_PERMANENT
    last = learner.last_status()
    assert last["phase"] == "LEARNER_PHASE_FAILED"
    assert "`spec.policy.network" in last["message"]
    assert "type cnn needs an image" in last["message"]
    assert "{type: mlp}" in last["message"]
    assert "Traceback" not in learner.log.read_text()


def test_a_checkpoint_of_another_job_is_refused(start: Callable[..., Learner]) -> None:
    learner, actor = start(), ScriptedActor()
    actor.play(learner.channel(), enough=lambda: len(actor.fates) > 4)
    learner.end(by=signal.SIGTERM)
    other = start(uid="another")
    assert other.end() == EXIT_PERMANENT
    assert "of job 'job-uid', this is 'another'" in other.log.read_text()


def test_prometheus_is_served_where_the_status_says(start: Callable[..., Learner]) -> None:
    learner, actor = start(), ScriptedActor()
    actor.play(learner.channel(), enough=lambda: len(actor.fates) > 4)
    address = learner.status().metrics_address
    assert f"metrics are served at {address}" in learner.log.read_text()
    with urlopen(f"http://{address}/metrics", timeout=SECONDS) as answer:
        text = answer.read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values["vaco_learner_env_steps_total"]) >= 64
    assert float(values['vaco_learner_samples_total{fate="trained"}']) >= 64
    assert float(values["vaco_learner_version"]) >= 1
