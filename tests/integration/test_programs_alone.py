"""Learner and actors as a cluster runs them: each for itself, found by name, watched over HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from google.protobuf import json_format
from vaco.errors import EXIT_FENCED, EXIT_INTERRUPTED, EXIT_OK, EXIT_PERMANENT
from vaco.v1 import learner_pb2 as pb
from vaco_operator.cluster.credentials import derive, new_root_key
from vaco_operator.cluster.labels import JobIdentity
from vaco_operator.local.learner_probe import ReservedPort

pytestmark = pytest.mark.timeout(300)
SECONDS = 90.0
MANIFEST = """
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {{name: pole, namespace: fields, uid: {uid}}}
spec:
  task: {{environment: CartPole-v1}}
  rollout: {{environmentsPerActor: 4, fragmentLength: 16}}
  learner: {{batchSize: 256, tensorboard: false, checkpoint: {{intervalSeconds: 0.5, keep: 3}}}}
  actors: {{drainSeconds: 10}}
  stop: {{envSteps: {env_steps}}}
"""
PAUSE = threading.Event()


class Program:
    """One process, its log, and what it says over HTTP."""

    def __init__(self, log: Path, module: str, arguments: list[str], env: Mapping[str, str]):
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            )

    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
        deadline = time.monotonic() + seconds
        while not (seen := holds()):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            PAUSE.wait(0.05)
        return seen

    def wait_for_words(self, pattern: str) -> str:
        return str(self.wait_for(lambda: re.search(pattern, self.said()))[1])

    def end(self, by: signal.Signals | None = None, seconds: float = SECONDS) -> int:
        if by is not None:
            self.process.send_signal(by)
        return self.process.wait(seconds)

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://{self.monitoring()}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode().strip()
        except HTTPError as error:
            return error.code, error.read().decode().strip()

    def monitoring(self) -> str:
        raise NotImplementedError


class Learner(Program):
    def __init__(self, place: Place, name: str, run_dir: Path, *options: str, **env: str):
        run_dir.mkdir(exist_ok=True)
        self.run_dir = run_dir
        self.words = place.root / f"{name}-words"
        arguments = [
            *("--job", str(place.job), "--run-dir", str(run_dir)),
            *("--termination-log", str(self.words), *options),
        ]
        super().__init__(place.root / f"{name}.log", "vaco_learner", arguments, env)

    def status(self) -> pb.GetStatusResponse:
        """What it wrote into its run directory last."""
        with suppress(FileNotFoundError):
            text = (self.run_dir / "learner-status.json").read_text()
            return json_format.Parse(text, pb.GetStatusResponse())
        return pb.GetStatusResponse()

    def last_words(self) -> pb.GetStatusResponse:
        return json_format.Parse(self.words.read_text(), pb.GetStatusResponse())

    def incarnation(self) -> int:
        return int(self.wait_for_words(r"incarnation (\d+) listens on"))

    def address(self) -> str:
        return self.wait_for_words(r"incarnation \d+ listens on (\S+)")

    def monitoring(self) -> str:
        number = self.incarnation()
        self.wait_for(lambda: self.status().incarnation == number)
        return self.status().metrics_address

    def wait_until_trained(self, updates: int = 3) -> pb.GetStatusResponse:
        """Wait for so many updates of its own, and for a checkpoint."""
        number = self.incarnation()
        self.wait_for(lambda: self.status().incarnation == number)
        first = self.status().version

        def trained() -> bool:
            status = self.status()
            return (
                status.incarnation == number
                and status.version >= first + updates
                and status.checkpoint_version >= first + 1
            )

        self.wait_for(trained)
        return self.status()


class Actor(Program):
    def __init__(self, place: Place, name: str, learner: str, *options: str, **env: str):
        arguments = ["run", "--job", str(place.job), "--learner", learner, *options]
        env = {"POD_NAME": name, **env}
        super().__init__(place.root / f"{name}.log", "vaco_actor", arguments, env)

    def monitoring(self) -> str:
        return self.wait_for_words(r"metrics are served at (\S+)")


class Place:
    """Where the programs of one test run; what still runs at its end is killed."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.root = root
        self.job = root / "job.yaml"
        self.write_job()
        self._stack = stack

    def write_job(self, env_steps: int = 10**9, uid: str = "job-uid") -> None:
        self.job.write_text(MANIFEST.format(env_steps=env_steps, uid=uid))

    def learner(self, name: str = "learner", *options: str, **env: str) -> Learner:
        learner = Learner(self, name, self.root / "run", *options, **env)
        self._stack.callback(_kill, learner)
        return learner

    def actor(self, name: str, learner: str, *options: str, **env: str) -> Actor:
        actor = Actor(self, name, learner, *options, **env)
        self._stack.callback(_kill, actor)
        return actor


def _kill(program: Program) -> None:
    if program.process.poll() is None:
        program.process.kill()
        program.process.wait()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def audit(run_dir: Path) -> list[dict[str, Any]]:
    """The updates that the newest weights stand on: balanced, no version back, nothing twice."""
    updates: list[dict[str, Any]] = []
    newest = -1
    for line in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        assert line["version"] > newest or line.get("event") == "restored"
        assert line["version"] >= newest, "the version went back"
        newest = line["version"]
        if line.get("event") == "restored":
            updates = [u for u in updates if u["version"] <= line["checkpoint_version"]]
        else:
            updates.append(line)
    trained = [tuple(identity) for u in updates for *identity, _ in u["fragments"]]
    assert len(trained) == len(set(trained)), "trained twice"
    assert sum(n for u in updates for *_, n in u["fragments"]) == updates[-1]["env_steps"]
    for update in updates:
        ledger = update["ledger"]
        parts = ("queued", "trained", "stale", "duplicate", "rejected")
        assert ledger["received"] == sum(ledger[part] for part in parts)
    return updates


# Probes.


def test_probes_follow_the_learner_and_its_actor(place: Place) -> None:
    with ReservedPort() as port:
        actor = place.actor("pole-actors-x", port.address)
        assert actor.ask("/livez") == (200, "ok")
        assert actor.ask("/readyz") == (503, "no learner has let us in")
        learner = place.learner("learner", "--listen", port.address)
        actor.wait_for(lambda: actor.ask("/readyz") == (200, "ok"))
        assert learner.ask("/livez") == (200, "ok")
        assert learner.ask("/readyz") == (200, "ok")
        assert "vaco_learner_version" in learner.ask("/metrics")[1]
        learner.wait_until_trained()
        assert learner.end(signal.SIGTERM) == EXIT_INTERRUPTED
        actor.wait_for(lambda: actor.ask("/readyz")[0] == 503)
        assert actor.ask("/livez") == (200, "ok"), "it waits, and is not stuck"


def block(path: Path) -> None:
    """A fault: a FIFO, which nobody reads, where a file is written aside again and again."""
    while True:
        with suppress(FileExistsError):
            os.mkfifo(path)
            return


@pytest.mark.parametrize(
    ("blocked", "stuck"),
    [("learner-status.json", "ingest"), ("checkpoints/claim-1.json", "training")],
)
def test_a_thread_that_hangs_fails_the_liveness_probe(
    place: Place, tmp_path: Path, blocked: str, stuck: str
) -> None:
    # Names of files written aside are drawn by lot; here the lot is always the same.
    known = tmp_path / "known"
    known.mkdir()
    (known / "sitecustomize.py").write_text("import secrets; secrets.token_hex = '{:08d}'.format")
    learner = place.learner(VACO_STUCK_SECONDS="3", PYTHONPATH=str(known))
    place.actor("pole-actors-x", learner.address())
    learner.wait_until_trained()
    assert learner.ask("/livez") == (200, "ok")
    address = learner.monitoring()
    learner.monitoring = lambda: address  # type: ignore[method-assign]  # it is not written anew
    folder, name = (learner.run_dir / blocked).parent, Path(blocked).name
    block(folder / f".tmp-{name}.{learner.process.pid}-00000004")
    learner.wait_for(lambda: learner.ask("/livez")[0] == 503)
    assert learner.ask("/livez")[1].startswith(f"{stuck} has not moved for ")


# Last words.


def test_a_learner_leaves_its_last_status_however_it_ends(place: Place) -> None:
    learner = place.learner("first")
    place.actor("pole-actors-x", learner.address())
    trained = learner.wait_until_trained()
    assert learner.end(signal.SIGTERM) == EXIT_INTERRUPTED
    words = learner.last_words()
    assert words.phase == pb.LEARNER_PHASE_INTERRUPTED
    assert words.checkpoint_version == words.version >= trained.version
    assert words.env_steps == words.ledger.trained >= trained.env_steps

    place.write_job(env_steps=words.env_steps + 500)
    second = place.learner("second")
    place.actor("pole-actors-y", second.address())
    assert second.end() == EXIT_OK, second.said()
    assert second.last_words().phase == pb.LEARNER_PHASE_COMPLETE
    assert "environment steps are trained" in second.last_words().message

    place.write_job(uid="another")
    third = place.learner("third")
    assert third.end() == EXIT_PERMANENT
    refused = third.last_words()
    assert (refused.job_uid, refused.phase) == ("another", pb.LEARNER_PHASE_FAILED)
    assert "of job 'job-uid', this is 'another'" in refused.message


# Told to stop together.


def test_case_14_an_actor_that_is_told_to_go_with_its_learner_leaves_first(place: Place) -> None:
    """A drained node tells all its pods; nothing is trained any more, and the buffer is full."""
    learner = place.learner()
    actors = [place.actor(f"pole-actors-{name}", learner.address()) for name in "xy"]
    for actor in actors:
        actor.wait_for(lambda actor=actor: actor.ask("/readyz")[0] == 200)
    learner.wait_until_trained()
    learner.process.send_signal(signal.SIGTERM)
    learner.wait_for_words("(told to stop)")
    for actor in actors:
        held = waiting_seconds(actor)
        actor.wait_for(lambda actor=actor, held=held: waiting_seconds(actor) > held + 0.2)
    for actor in actors:
        actor.process.send_signal(signal.SIGTERM)
    assert [actor.end() for actor in actors] == [EXIT_OK, EXIT_OK], actors[0].said()
    assert learner.end() == EXIT_INTERRUPTED


def waiting_seconds(actor: Actor) -> float:
    """How long it was held back so far, because nobody takes what it makes."""
    text = actor.ask("/metrics")[1]
    return float(re.search(r"^vaco_actor_waiting_seconds_total (\S+)$", text, re.M)[1])


# Two learners.


@pytest.mark.parametrize("frozen", [True, False])
def test_case_15_a_replaced_learner_that_comes_back_neither_writes_nor_serves(
    place: Place, frozen: bool
) -> None:
    """The volume is shared; the old one was cut off with its node, or never noticed anything."""
    old = place.learner("old")
    cut_off = place.actor("pole-actors-x", old.address())
    old.wait_until_trained()
    if frozen:
        old.process.send_signal(signal.SIGSTOP)
    new = place.learner("new")
    place.actor("pole-actors-y", new.address())
    new.wait_until_trained()
    claims = sorted(path.name for path in (new.run_dir / "checkpoints").glob("claim-*"))
    assert claims == ["claim-1.json", "claim-2.json"]
    old.process.send_signal(signal.SIGCONT)

    assert old.end(seconds=20) == EXIT_FENCED, old.said()
    told = "incarnation 1, does not hold the run directory any more: incarnation 2 has taken over"
    assert told in old.said()
    assert told in old.last_words().message
    cut_off.wait_for(lambda: cut_off.ask("/readyz")[0] == 503)

    new.wait_until_trained(updates=10)
    assert new.end(signal.SIGTERM) == EXIT_INTERRUPTED, new.said()
    updates = audit(new.run_dir)
    assert updates[-1]["version"] == new.last_words().version
    lives = [update["incarnation"] for update in updates]
    assert set(lives) == {1, 2}
    assert lives == sorted(lives), "nothing of the old one after the new one began"
    again = place.learner("again")
    again.wait_for(lambda: again.status().incarnation == 3)
    assert again.status().version == new.last_words().version


def test_a_learner_that_lost_everything_is_newer_than_what_its_actors_remember(
    place: Place,
) -> None:
    """An emptyDir went with its pod; the actors stayed, with weights and fragments of before."""
    began = int(time.time())
    with ReservedPort() as port:
        listen = ("--listen", port.address)
        first = place.learner("first", *listen, "--incarnation", str(began))
        actors = [place.actor(f"pole-actors-{n}", port.address) for n in "xy"]
        former = first.wait_until_trained(updates=30)
        first.end(signal.SIGKILL)
        shutil.rmtree(first.run_dir)
        place.write_job(env_steps=20_000)
        second = place.learner("second", *listen, "--incarnation", str(int(time.time())))
        assert second.end() == EXIT_OK, second.said()
        assert [actor.end() for actor in actors] == [EXIT_OK, EXIT_OK]
    words = second.last_words()
    assert words.incarnation > former.incarnation
    assert words.ledger.rejected == words.ledger.duplicate == 0
    assert words.ledger.stale > 0, "what was made with weights that nobody knows any more"
    updates = audit(second.run_dir)
    assert updates[0]["version"] == 1
    assert {actor for actor, *_ in updates[-1]["fragments"]} <= {"pole-actors-x", "pole-actors-y"}


# Found by name, over the job's credentials.


class NameServer:
    """Answers every question for an IPv4 address with the same one; a name server of one name."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer(self) -> None:
        with suppress(OSError):
            while True:
                question, sender = self._socket.recvfrom(512)
                if not question:
                    return
                end = question.index(b"\0", 12) + 5
                is_ipv4 = question[end - 4 : end - 2] == b"\0\1"
                count = b"\0\1" if is_ipv4 else b"\0\0"
                header = question[:2] + b"\x85\x80\0\1" + count + b"\0\0\0\0"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(self.address)
                reply = header + question[12:end] + (record if is_ipv4 else b"")
                self._socket.sendto(reply, sender)


@pytest.fixture
def names() -> Iterator[NameServer]:
    server = NameServer("127.0.0.1")
    yield server
    server.close()


@pytest.fixture
def credentials(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Writes what a pod of a role is shown of the job's credentials; returns its environment."""
    identity = JobIdentity("pole", "fields", "job-uid", datetime.now(UTC))
    derived = derive(new_root_key(), identity, 0, "cluster.local")

    def write(role: str) -> dict[str, str]:
        pair = getattr(derived, role)
        files = {
            "VACO_TLS_CA": derived.authorities,
            "VACO_TLS_CERT": pair.certificate,
            "VACO_TLS_KEY": pair.key,
            "VACO_TOKEN_FILE": derived.token.encode(),
        }
        for variable, content in files.items():
            (tmp_path / f"{role}-{variable}").write_bytes(content)
        return {variable: str(tmp_path / f"{role}-{variable}") for variable in files}

    return write


def test_an_actor_finds_its_learner_at_another_address_of_the_same_name(
    place: Place, names: NameServer, credentials: Callable[[str], dict[str, str]]
) -> None:
    began = int(time.time())
    with ReservedPort() as reserved:
        port = reserved.address.rpartition(":")[2]
        name = f"dns://127.0.0.1:{names.port}/pole-learner.fields.svc:{port}"
        first = place.learner("first", "--listen", f"0.0.0.0:{port}", **credentials("learner"))
        actor = place.actor("pole-actors-x", name, **credentials("actor"))
        first.wait_until_trained()
        assert began <= first.incarnation() <= time.time()
        assert first.status().metrics_address.startswith("0.0.0.0:")
        assert first.end(signal.SIGTERM) == EXIT_INTERRUPTED
        actor.wait_for(lambda: actor.ask("/readyz")[0] == 503)
        names.address = "127.0.0.2"
        second = place.learner("second", "--listen", f"127.0.0.2:{port}", **credentials("learner"))
        second.wait_until_trained()
        assert second.incarnation() == first.incarnation() + 1
        assert actor.ask("/readyz") == (200, "ok")
        assert actor.end(signal.SIGTERM) == EXIT_OK
        audit(second.run_dir)
