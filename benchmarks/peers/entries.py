"""What is compared, with which settings, and where those come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """What tells readers whether two figures can be compared.

    Attributes:
        source: where the settings are published.
        network: of the policy and of the critic.
        environments: how many, and how they are stepped.
        batch: samples between two changes of the policy, and samples of a gradient step.
        epochs: how often each sample is trained.
        processes: what runs on the two cores.
        steps: environment steps after which its publisher's run ends; None: it is not published
            for CartPole, so there is no threshold to wait for.

    """

    source: str
    network: str
    environments: str
    batch: str
    epochs: str
    processes: str
    steps: int | None = None

    @property
    def alone(self) -> bool:
        """Whether it runs in one process."""
        return self.processes == "1"


@dataclass(frozen=True, slots=True)
class Entry:
    """A program to be measured: `benchmarks/peers/<directory>/train.py`.

    Attributes:
        name: for readers.
        directory: of its script and, but for vaco, its `requirements.txt`.
        distribution: whose version is told.
        algorithm: for readers.
        own: its published settings for CartPole, or the nearest; None: not run with such.
        wide: 256 environments and one epoch.
        arguments: of the script, beside the kind of run and the seed.

    """

    name: str
    directory: str
    distribution: str
    algorithm: str
    own: Settings | None
    wide: Settings
    arguments: tuple[str, ...] = ()

    def settings(self, kind: str) -> Settings | None:
        """Give those of a kind of run, `own` or `wide`."""
        return self.own if kind == "own" else self.wide


KINDS = ("own", "wide")
ENTRIES = (
    Entry(
        "Sample Factory",
        "sample_factory",
        "sample-factory",
        "APPO",
        Settings(
            "`sf_examples/train_gym_env.py`, command in its docstring; two workers",
            "512, 512, ELU, shared",
            "2 x 20, one by one",
            "512, 512",
            "1",
            "learner, 2 rollout, 2 policy workers",
            10_000_000_000,
        ),
        Settings(
            "as own, one policy worker",
            "64, 64, tanh",
            "2 x 128, one by one",
            "16,384, 4,096",
            "1",
            "learner, 2 rollout, 1 policy worker",
        ),
    ),
    Entry(
        "stable-baselines3",
        "stable_baselines3",
        "stable-baselines3",
        "PPO",
        Settings(
            "rl-baselines3-zoo, `hyperparams/ppo.yml`; schedules end at 100,000 steps",
            "64, 64, tanh",
            "8, one by one",
            "256, 256",
            "20",
            "1",
            100_000,
        ),
        Settings(
            "PPO's defaults otherwise",
            "64, 64, tanh",
            "256, one by one",
            "16,384, 4,096",
            "1",
            "1",
        ),
    ),
    Entry(
        "RLlib",
        "rllib",
        "ray",
        "APPO",
        Settings(
            "`rllib/examples/algorithms/appo/cartpole_appo.py`; two runners, not five",
            "256, 256, tanh, shared",
            "2 x 16, gymnasium's `sync`",
            "500, 500",
            "0 to 2",
            "driver, learner, 2 environment runners",
            1_000_000,
        ),
        Settings(
            "as own",
            "64, 64, tanh",
            "2 x 128, vectorised",
            "4,096, 4,096",
            "0 to 1",
            "driver, learner, 2 environment runners",
        ),
    ),
    Entry(
        "TorchRL",
        "torchrl",
        "torchrl",
        "PPO",
        Settings(
            "`sota-implementations/ppo/config_mujoco.yaml`; there is none for CartPole",
            "64, 64, tanh",
            "1",
            "2,048, 64",
            "10",
            "1",
        ),
        Settings(
            "as own, without normalisation",
            "64, 64, tanh",
            "256, one by one",
            "16,384, 4,096",
            "1",
            "1",
        ),
    ),
    Entry(
        "TorchRL, two collectors",
        "torchrl",
        "torchrl",
        "PPO",
        None,
        Settings(
            "as TorchRL, with `MultiSyncCollector`",
            "64, 64, tanh",
            "2 x 128, one by one",
            "16,384, 4,096",
            "1",
            "trainer, 2 collectors",
        ),
        ("--collectors", "2"),
    ),
    Entry(
        "vaco",
        "vaco",
        "vaco",
        "VACO",
        Settings(
            "[examples/cartpole.yaml](../../examples/cartpole.yaml)",
            "64, 64, tanh",
            "1 to 2 x 1",
            "2,048, 512",
            "4",
            "learner, 1 to 2 actors, `vaco run`",
            3_000_000,
        ),
        Settings(
            "[cartpole-throughput](../../benchmarks/jobs/cartpole-throughput.yaml)",
            "64, 64, tanh",
            "256, vectorised",
            "16,384, 4,096",
            "1",
            "learner, 1 actor, `vaco run`",
        ),
    ),
    # Tells how much of vaco's throughput is the vectorised environment.
    Entry(
        "vaco, one by one",
        "vaco",
        "vaco",
        "VACO",
        None,
        Settings(
            "as vaco, with `task.vectorisation=sync`",
            "64, 64, tanh",
            "256, one by one",
            "16,384, 4,096",
            "1",
            "learner, 1 actor, `vaco run`",
        ),
        ("--set", "task.vectorisation=sync"),
    ),
)
