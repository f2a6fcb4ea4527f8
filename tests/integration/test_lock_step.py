"""Without lag, the asynchronous path is the plain algorithm, bit for bit."""

import json
import threading

import pytest
import torch
from vaco.job import VACOJob, load_job
from vaco.weights import Weights
from vaco_actor.environments import make_vector_env
from vaco_actor.mailbox import Mailbox
from vaco_actor.rollout import Rollout, RolloutSettings
from vaco_learner.batch import collate
from vaco_learner.update import Updater
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy
from vaco_policy.seeding import derive

pytestmark = pytest.mark.timeout(600)
MANIFEST = """
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {name: pole}
spec:
  seed: 3
  synchronous: true
  task: {environment: CartPole-v1}
  policy: {normaliseObservations: true, normaliseReturns: true, core: CORE}
  algorithm: {epochs: 2, learningRate: 1.0e-3}
  rollout: {environmentsPerActor: 8, fragmentLength: 32}
  learner: {batchSize: 1024, tensorboard: false, weightsTransport: TRANSPORT}
  stop: {envSteps: 10_000}
"""


def plain_loop(job: VACOJob) -> tuple[bytes, int]:
    """Collect a batch, update, and again: no processes, no wire. Return weights and updates."""
    spec = job.spec
    seeds = {name: derive(spec.seed, "actor", 0, 1, name) for name in ("environments", "actions")}
    mailbox, steps, version = Mailbox(), 0, 0
    envs = spec.rollout.environments_per_actor
    with make_vector_env(spec.task, envs, seeds["environments"]) as environment:
        updater = Updater(job, environment.spaces)
        settings = RolloutSettings(
            job_uid="plain",
            actor_id="plain",
            actor_incarnation=1,
            fragment_length=spec.rollout.fragment_length,
            gamma=spec.algorithm.gamma,
            reward_bound=spec.task.reward_bound,
            seed=seeds["actions"],
        )
        actor = Rollout(environment, Policy(spec.policy, environment.spaces), mailbox, settings)
        while True:
            payload = to_payload(updater.policy)
            mailbox.offer(Weights(1, version, payload, ""))
            if steps >= (spec.stop.env_steps or 0):
                return payload, version
            fragments = []
            while sum(fragment.samples for fragment in fragments) < spec.learner.batch_size:
                fragment = actor.collect(threading.Event())
                assert fragment is not None
                fragments.append(fragment)
            steps += updater.update(collate(fragments, "cpu")).samples
            version += 1


@pytest.mark.parametrize(
    ("core", "transport"),
    [
        ("null", "{type: stream}"),
        ("{type: gru, hiddenSize: 16}", "{type: stream}"),
        ("null", "{type: filesystem, path: VOLUME}"),
    ],
)
def test_lock_step_gives_the_same_weights_as_a_plain_loop(start_run, tmp_path, core, transport):
    volume = tmp_path / "volume"
    manifest = MANIFEST.replace("CORE", core).replace("TRANSPORT", transport)
    run = start_run(manifest.replace("VOLUME", str(volume)))
    assert run.end() == 0, run.output()
    status = run.status()
    assert status["lag"]["max"] == 0
    job = load_job(run.root / "job.yaml")
    # As the learner has it: the order of a sum's terms depends on the number of threads.
    torch.set_num_threads(job.spec.learner.threads)
    weights, updates = plain_loop(job)
    assert status["version"] == updates
    checkpoint = run.root / "checkpoints" / f"v{updates:09}"
    assert (checkpoint / "policy.safetensors").read_bytes() == weights
    lines = (run.root / "metrics.jsonl").read_text().splitlines()
    assert volume.exists() == ("filesystem" in transport)
    assert not list(volume.rglob("*.safetensors")), "removed at the end"
    assert all(json.loads(line)["rho_max"] == pytest.approx(1.0, abs=1e-4) for line in lines)
