"""Train CartPole with RLlib's APPO.

`own` are the settings of RLlib's example (`rllib/examples/algorithms/appo/cartpole_appo.py`), with
as many environment runners as suit two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from typing import Any

import ray
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from benchmarks.peers.lines import Report, start_once

RUNNERS = 2


def note_start(**_: Any) -> None:
    """Tell of the first step, in an environment runner."""
    start_once()


def keep_return(*, episode: Any, metrics_logger: Any, **_: Any) -> None:
    """Keep the return of an episode, in an environment runner.

    RLlib's own mean is of a window that differs from one report to the next. An episode object
    holds the rewards since the last fragment alone, but its length is whole, and CartPole gives a
    reward of one for every step.
    """
    metrics_logger.log_value("finished_returns", float(episode.t), reduce="item_series")


def configuration(settings: str, seed: int) -> APPOConfig:
    """Configure APPO by the named settings."""
    config = (
        APPOConfig()
        .environment("CartPole-v1")
        .debugging(seed=seed)
        .callbacks(on_episode_start=note_start, on_episode_end=keep_return)
        # Of its own accord it reports every ten seconds.
        .reporting(min_time_s_per_iteration=1)
    )
    if settings == "own":
        return (
            config.env_runners(num_env_runners=RUNNERS, num_envs_per_env_runner=16)
            .rl_module(model_config=DefaultModelConfig(vf_share_layers=True))
            .training(circular_buffer_iterations_per_batch=2, vf_loss_coeff=0.05, entropy_coeff=0.0)
        )
    network = DefaultModelConfig(fcnet_hiddens=[64, 64], vf_share_layers=False)
    return (
        config.env_runners(
            num_env_runners=RUNNERS,
            num_envs_per_env_runner=256 // RUNNERS,
            rollout_fragment_length=32,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .rl_module(model_config=network)
        .training(
            train_batch_size_per_learner=4096,
            circular_buffer_iterations_per_batch=1,
            vf_loss_coeff=0.05,
            entropy_coeff=0.0,
        )
    )


def main() -> None:
    """Train until the harness ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", choices=("own", "wide"), required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ray.init(
        # Only for Ray's book-keeping: runners and learner each ask for one.
        num_cpus=RUNNERS + 2,
        include_dashboard=False,
        object_store_memory=512 * 2**20,
        _temp_dir=tempfile.mkdtemp(prefix="r"),
    )
    algorithm = configuration(options.settings, options.seed).build_algo()
    returns: deque[float] = deque(maxlen=100)
    report = Report()
    while True:
        result = algorithm.train()
        runners = result.get("env_runners", {})
        returns.extend(runners.get("finished_returns", ()))
        learners = result.get("learners", {}).get("__all_modules__", {})
        trained = learners.get("num_env_steps_trained_lifetime", 0)
        sampled = runners.get("num_env_steps_sampled_lifetime", 0)
        # The former counts a sample as often as it is trained, and many are never: at most these.
        if steps := min(trained, sampled):
            report.progress(steps, returns)


if __name__ == "__main__":
    main()
