"""Train CartPole with Sample Factory's APPO.

`own` are the settings of its gym example (`sf_examples/train_gym_env.py`, the command line in its
docstring), with as many workers as there are cores, which is its default.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import gymnasium
from sample_factory.algo.utils.misc import LEARNER_ENV_STEPS
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import make_runner

from benchmarks.peers.lines import Report, start_once

ENVIRONMENT = "CartPole-v1"
COMMON = ["--algo=APPO", "--use_rnn=False", "--recurrence=1", "--with_vtrace=False", "--device=cpu"]
COMMON += ["--reward_scale=0.1", "--num_workers=2", "--save_every_sec=10"]
COMMON += ["--experiment_summaries_interval=10", "--experiment=peers", f"--env={ENVIRONMENT}"]
SETTINGS = {
    "own": ["--num_envs_per_worker=20", "--policy_workers_per_policy=2", "--batch_size=512"],
    "wide": [
        "--num_envs_per_worker=128",
        "--policy_workers_per_policy=1",
        "--batch_size=4096",
        "--num_batches_per_epoch=4",
        "--num_epochs=1",
        "--encoder_mlp_layers",
        "64",
        "64",
        "--nonlinearity=tanh",
        "--actor_critic_share_weights=False",
    ],
}


class First(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Tells of the first step, which is in a process of its own."""

    def step(self, action: Any) -> Any:
        """Step, and from then on by the environment itself."""
        start_once()
        self.step = self.env.step  # type: ignore[method-assign]
        return self.env.step(action)


def make_environment(
    name: str,
    config: Any = None,  # noqa: ARG001 (Sample Factory names it)
    env_config: Any = None,  # noqa: ARG001
    render_mode: str | None = None,
) -> gymnasium.Env[Any, Any]:
    """Make an environment in a worker."""
    environment = gymnasium.make(name, render_mode=render_mode)
    return First(environment)


def main() -> None:
    """Train until the harness ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", choices=SETTINGS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    register_env(ENVIRONMENT, make_environment)
    with tempfile.TemporaryDirectory(prefix="peer-sample-factory-") as directory:
        arguments = [*COMMON, *SETTINGS[options.settings]]
        arguments += [f"--seed={options.seed}", f"--train_dir={directory}"]
        sf_parser, _ = parse_sf_args(argv=arguments)
        _, runner = make_runner(parse_full_cfg(sf_parser, arguments))
        report = Report()

        def tell(runner: Any, message: dict[str, Any], policy: int) -> None:
            if steps := message[LEARNER_ENV_STEPS]:
                returns = runner.policy_avg_stats.get("reward", [()])[policy]
                report.progress(steps, returns)

        runner.policy_msg_handlers[LEARNER_ENV_STEPS].append(tell)
        runner.init()
        sys.exit(runner.run())


if __name__ == "__main__":
    main()
