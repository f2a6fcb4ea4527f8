"""Train CartPole with TorchRL's PPO.

TorchRL publishes no PPO settings for CartPole: `own` are those of its script for MuJoCo
(`sota-implementations/ppo/config_mujoco.yaml`), with a categorical policy.
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import dataclass, replace
from functools import partial

import gymnasium
import torch
from gymnasium.vector import AutoresetMode
from tensordict.nn import TensorDictModule
from torchrl.collectors import BaseCollector, Collector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
from torchrl.envs import (
    ClipTransform,
    DoubleToFloat,
    RewardSum,
    StepCounter,
    TransformedEnv,
    VecNorm,
)
from torchrl.envs.libs.gym import GymEnv, GymWrapper
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.advantages import GAE

from benchmarks.peers.lines import Report


@dataclass(frozen=True)
class Settings:
    """What the two kinds of run differ in."""

    environments: int
    frames: int
    minibatch: int
    epochs: int
    normalise: bool
    # The learning rate goes down to zero in so many environment steps; None: it stays.
    anneal_steps: int | None


SETTINGS = {
    "own": Settings(1, 2048, 64, 10, normalise=True, anneal_steps=1_000_000),
    "wide": Settings(256, 16384, 4096, 1, normalise=False, anneal_steps=None),
}
LEARNING_RATE = 3e-4


def make_environment(settings: Settings, seed: int) -> TransformedEnv:
    """Make CartPole: one environment, or a vector of them."""
    if settings.environments == 1:
        base = GymEnv("CartPole-v1", device="cpu", categorical_action_encoding=True)
    else:
        vector = gymnasium.make_vec(
            "CartPole-v1",
            num_envs=settings.environments,
            vectorization_mode="sync",
            # CartPole's own vectorised environment resets at the next step, which TorchRL refuses.
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        )
        base = GymWrapper(vector, device="cpu", categorical_action_encoding=True)
    environment = TransformedEnv(base)
    if settings.normalise:
        environment.append_transform(VecNorm(in_keys=["observation"], decay=0.99999, eps=1e-2))
        environment.append_transform(ClipTransform(in_keys=["observation"], low=-10, high=10))
    environment.append_transform(RewardSum())
    environment.append_transform(StepCounter())
    if environment.observation_spec["observation"].dtype is torch.float64:
        environment.append_transform(DoubleToFloat(in_keys=["observation"]))
    environment.set_seed(seed)
    return environment


def make_networks(environment: TransformedEnv) -> tuple[ProbabilisticActor, ValueOperator]:
    """Two layers of 64, tanh, orthogonal: the published policy and critic."""
    inputs = environment.observation_spec["observation"].shape[-1]

    def network(outputs: int, gain: float) -> MLP:
        layers = MLP(
            in_features=inputs,
            out_features=outputs,
            num_cells=[64, 64],
            activation_class=torch.nn.Tanh,
        )
        for layer in layers.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.orthogonal_(layer.weight, gain)
                torch.nn.init.zeros_(layer.bias)
        return layers

    actor = ProbabilisticActor(
        TensorDictModule(network(2, 1.0), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=environment.full_action_spec_unbatched,
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    return actor, ValueOperator(network(1, 0.01), in_keys=["observation"])


def make_collector(
    settings: Settings, actor: ProbabilisticActor, seed: int, workers: int
) -> BaseCollector:
    """Collect in this process, or in `workers` with an equal part of the environments each."""
    frames = {"frames_per_batch": settings.frames, "total_frames": -1}
    if workers == 1:
        return Collector(make_environment(settings, seed), actor, device="cpu", **frames)
    part = replace(settings, environments=settings.environments // workers)
    seeds = range(seed * workers, (seed + 1) * workers)
    makers = [partial(make_environment, part, each) for each in seeds]
    return MultiSyncCollector(makers, actor, device="cpu", **frames)


def main() -> None:
    """Train until the harness ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", choices=SETTINGS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collectors", type=int, default=1, help="processes that step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    settings = SETTINGS[options.settings]
    actor, critic = make_networks(make_environment(settings, options.seed))
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=critic, average_gae=False)
    loss = ClipPPOLoss(
        actor_network=actor,
        critic_network=critic,
        clip_epsilon=0.2,
        loss_critic_type="l2",
        entropy_coeff=0.0,
        critic_coeff=0.25,
        normalize_advantage=True,
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=LEARNING_RATE, eps=1e-5)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(settings.frames),
        sampler=SamplerWithoutReplacement(),
        batch_size=settings.minibatch,
    )
    collector = make_collector(settings, actor, options.seed, options.collectors)
    updates_per_batch = settings.epochs * settings.frames // settings.minibatch
    returns: deque[float] = deque(maxlen=100)
    steps, updates = 0, 0
    report = Report()
    report.start()
    for batch in collector:
        finished = batch["next", "done"]
        returns.extend(batch["next", "episode_reward"][finished].tolist())
        for _ in range(settings.epochs):
            with torch.no_grad():
                advantage(batch)
            buffer.extend(batch.reshape(-1))
            for minibatch in buffer:
                if settings.anneal_steps is not None:
                    total = settings.anneal_steps // settings.frames * updates_per_batch
                    left = max(0.0, 1 - updates / total)
                    for group in optimizer.param_groups:
                        group["lr"] = LEARNING_RATE * left
                optimizer.zero_grad(set_to_none=True)
                losses = loss(minibatch)
                parts = ("loss_critic", "loss_objective", "loss_entropy")
                sum(losses[part] for part in parts).backward()
                optimizer.step()
                updates += 1
        collector.update_policy_weights_()
        steps += batch.numel()
        report.progress(steps, returns)


if __name__ == "__main__":
    main()
