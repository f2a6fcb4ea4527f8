"""How the learner and the actors are started on this machine."""

import sys
from dataclasses import dataclass

from vaco.job import VACOJob

from vaco_operator.local.actor_pool import actor_name
from vaco_operator.local.processes import Process
from vaco_operator.local.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Programs:
    """Starts the processes of one run.

    Attributes:
        job: resolved.
        directory: of the run.
        address: where the learner listens.
        lock: descriptor of the run's lock. The learner inherits it: while one lives, no other
            runner can start a second one in the same directory.

    """

    job: VACOJob
    directory: RunDirectory
    address: str
    lock: int

    def start_learner(self) -> Process:
        """Start the learner."""
        command = [
            *(sys.executable, "-m", "vaco_learner"),
            *("--job", str(self.directory.job_file), "--run-dir", str(self.directory.root)),
            *("--listen", self.address, "--address-file", str(self.directory.address_file)),
        ]
        return self._start("learner", command, self.job.spec.learner.threads, (self.lock,))

    def start_actor(self, index: int) -> Process:
        """Start the actor of a slot, with an incarnation it never had."""
        name = actor_name(index)
        command = [
            *(sys.executable, "-m", "vaco_actor", "run", "--job", str(self.directory.job_file)),
            *("--learner", self.address, "--actor-id", name, "--index", str(index)),
            *("--incarnation", str(self.directory.next_incarnation(name))),
        ]
        return self._start(name, command, self.job.spec.actors.threads)

    def _start(
        self, name: str, command: list[str], threads: int, keep_open: tuple[int, ...] = ()
    ) -> Process:
        # Numerical libraries start one thread per core unless told before they are loaded.
        pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = dict.fromkeys(pools, str(threads)) | {"PYTHONUNBUFFERED": "1"}
        log = self.directory.log_file(name)
        return Process.start(name, command, log, environment, keep_open)
