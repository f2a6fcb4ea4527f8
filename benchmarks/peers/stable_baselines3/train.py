"""Train CartPole with stable-baselines3's PPO.

`own` are the settings of rl-baselines3-zoo (`hyperparams/ppo.yml`, CartPole-v1).
"""

from __future__ import annotations

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from benchmarks.peers.lines import Report

# The zoo's linear schedules end here.
OWN_STEPS = 100_000


class Tell(BaseCallback):
    """Reports what has been trained whenever the next rollout begins."""

    def __init__(self) -> None:
        super().__init__()
        self.report = Report()

    def _on_training_start(self) -> None:
        self.report.start()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            self._tell()

    def _on_training_end(self) -> None:
        self._tell()

    def _on_step(self) -> bool:
        return True

    def _tell(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        self.report.progress(self.num_timesteps, returns)


def main() -> None:
    """Train until the settings' steps are done or the harness ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", choices=("own", "wide"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # The networks are small. Two were not tried on a quiet machine.
    torch.set_num_threads(1)
    if options.settings == "own":
        environments, steps = 8, OWN_STEPS
        settings = {
            "n_steps": 32,
            "batch_size": 256,
            "n_epochs": 20,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "ent_coef": 0.0,
            "learning_rate": lambda remaining: 0.001 * remaining,
            "clip_range": lambda remaining: 0.2 * remaining,
        }
    else:
        environments, steps = 256, 10**9
        settings = {"n_steps": 64, "batch_size": 4096, "n_epochs": 1}
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=environments, seed=options.seed),
        seed=options.seed,
        device="cpu",
        **settings,
    )
    model.learn(steps, callback=Tell())


if __name__ == "__main__":
    main()
