"""One cell of a matrix: one training run, and what tells it from all others."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from vaco.job import VACOJob

ASYNC: Final = "async"
Lag = int | Literal["async"]


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        environment: Label, like the next ones.
        algorithm: Of the algorithm.
        lag: K, the versions that fragments draw from; or `async`, a real run.
        switch: Of the variant.
        seed: Of everything that draws at random.
        job: With all of that in it.
        final_episodes: Episodes that its final return is a mean over.

    """

    environment: str
    algorithm: str
    lag: Lag
    switch: str
    seed: int
    job: VACOJob
    final_episodes: int

    @cached_property
    def key(self) -> str:
        """Its name in a file system: labels to read, and a digest of all that decides its result.

        A cell of an edited matrix has its old key if it would do the same as before.
        """
        spec = self.job.spec.model_dump(mode="json", by_alias=True)
        decides = json.dumps([spec, self.lag, self.seed, self.final_episodes], sort_keys=True)
        digest = hashlib.sha256(decides.encode()).hexdigest()[:12]
        labels = (self.environment, self.algorithm, f"K{self.lag}", self.switch, f"s{self.seed}")
        words = [re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_") for label in labels]
        return "-".join([*(word for word in words if word), digest])

    def __str__(self) -> str:
        switch = f" {self.switch}" if self.switch != "-" else ""
        return f"{self.environment} {self.algorithm}{switch} K={self.lag} seed {self.seed}"
