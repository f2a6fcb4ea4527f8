"""Real child processes: started apart, restarted within bounds, drained, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from vaco_operator.local.actor_pool import ActorPool, Candidate, Connection, choose_victims
from vaco_operator.local.interrupts import Interrupts
from vaco_operator.local.processes import Process, describe_exit
from vaco_operator.local.restarts import FIRST_DELAY_SECONDS, HEALTHY_SECONDS, Restarts
from vaco_operator.local.supervised import Supervised

T = TypeVar("T")
PAUSE = threading.Event()

READY = "import signal, sys, time; print('ready', flush=True); "
PATIENT = READY + "time.sleep(600)"
OBEDIENT = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); " + PATIENT
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PATIENT
FAMILY = (
    "import subprocess, sys; "
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print(child.pid, flush=True); "
)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start Python code as a child; what is left at the end is killed."""
    started: list[Process] = []

    def begin(code: str, name: str = "child", **rest: object) -> Process:
        process = Process.start(
            name, [sys.executable, "-c", code], tmp_path / f"{name}.log", **rest
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        wait_for(lambda process=process: process.exit_code() is not None)


def wait_for(look: Callable[[], T], seconds: float = 20) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it never happened"
        PAUSE.wait(0.01)
    return seen


def end_of(process: Process) -> int:
    wait_for(lambda: process.exit_code() is not None)
    code = process.exit_code()
    assert code is not None
    return code


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_a_child_says_is_logged_and_its_exit_code_kept(start):
    first = start("print('of an earlier run')")
    assert end_of(first) == 0
    process = start("import sys; print('hello'); print('oh', file=sys.stderr); sys.exit(3)")
    assert end_of(process) == 3
    assert process.last_words().splitlines() == ["hello", "oh"]
    assert "of an earlier run" in process.log.read_text()


def test_last_words_are_bounded(start):
    process = start("print('x' * 10**6)\nfor i in range(100): print(i)")
    end_of(process)
    assert process.last_words(3).splitlines() == ["97", "98", "99"]
    assert len(process.last_words(1000)) < 20_000


def test_a_child_leads_its_own_group_and_takes_its_children_along(start):
    process = start(FAMILY + "import time; time.sleep(600)")
    grandchild = int(wait_for(process.last_words))
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    process.kill()
    assert end_of(process) == -signal.SIGKILL
    wait_for(lambda: is_gone(grandchild))


def test_what_a_child_leaves_behind_at_its_own_end_is_ended_too(start):
    process = start(FAMILY + "sys.exit(0)")
    assert end_of(process) == 0
    grandchild = int(process.last_words())
    wait_for(lambda: is_gone(grandchild))


def test_children_die_with_a_runner_that_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; "
        "from vaco_operator.local.processes import Process; "
        f"p = Process.start('c', [sys.executable, '-c', {STUBBORN!r}], Path(sys.argv[1])); "
        "print(p.pid, flush=True); time.sleep(600)"
    )
    log = tmp_path / "c.log"
    runner = subprocess.Popen([sys.executable, "-c", code, str(log)], stdout=subprocess.PIPE)
    try:
        assert runner.stdout is not None
        child = int(runner.stdout.readline())
        wait_for(lambda: "ready" in log.read_text())
        assert not is_gone(child)
    finally:
        runner.kill()
        runner.communicate()
    wait_for(lambda: is_gone(child))


def test_a_program_that_cannot_be_started_ends_and_says_why(tmp_path):
    process = Process.start("child", ["/no/such/program"], tmp_path / "child.log")
    assert end_of(process) == 1
    assert "/no/such/program" in process.last_words() or "No such file" in process.last_words()


def test_exits_are_told_in_words():
    assert describe_exit(3) == "exit status 3"
    assert describe_exit(-9) == "killed by SIGKILL"


def supervise(start: Callable[[], Process], limit: int = 2, now: float = 0) -> Supervised:
    return Supervised("child", start, Restarts(limit), now)


def test_a_dying_child_is_started_again_with_doubling_delay_until_the_bound(start):
    child = supervise(lambda: start("raise SystemExit(1)"), limit=3)
    now, delays, starts = 0.0, [], 0
    while True:
        child.tick(now)
        starts += child.state == "running"
        death = wait_for(lambda now=now: child.tick(now))
        assert (death.name, death.exit_code) == ("child", 1)
        if (delay := child.restart(death, now)) is None:
            break
        delays.append(delay)
        assert child.tick(now + delay - 0.01) is None
        assert child.state == "waiting"
        now += delay
    assert delays == [FIRST_DELAY_SECONDS, 2 * FIRST_DELAY_SECONDS, 4 * FIRST_DELAY_SECONDS]
    assert starts == 4


def test_long_health_forgets_failures_and_delays_are_bounded():
    tired = Restarts(limit=3, failures=3)
    assert tired.after(1.0).exhausted
    assert not tired.after(HEALTHY_SECONDS).exhausted
    assert Restarts(limit=10**6, failures=10**5).delay == 30


def test_a_child_told_to_leave_does_and_is_no_death(start):
    child = supervise(lambda: start(OBEDIENT))
    child.tick(0)
    wait_for(lambda: "ready" in child.process.last_words())
    child.leave(0, grace=100)
    wait_for(lambda: child.tick(1) or child.state == "gone")
    assert child.exit_code == 0


def test_a_child_that_outstays_its_grace_is_killed(start):
    child = supervise(lambda: start(STUBBORN))
    child.tick(0)
    wait_for(lambda: "ready" in child.process.last_words())
    child.leave(0, grace=5)
    assert child.tick(4.9) is None
    assert child.exit_code is None
    child.tick(5.0)
    wait_for(lambda: child.tick(5.1) or child.state == "gone")
    assert child.exit_code == -signal.SIGKILL


def test_a_child_waiting_for_its_restart_leaves_without_being_started(start):
    child = supervise(lambda: start("raise SystemExit(1)"))
    child.tick(0)
    child.restart(wait_for(lambda: child.tick(0)), 0)
    child.leave(0, 10)
    child.tick(100)
    assert child.state == "gone"


def test_victims_are_those_of_least_use():
    candidates = [
        Candidate(0, running=True, connected=True, lag=2.0),
        Candidate(1, running=True, connected=True, lag=9.0),
        Candidate(2, running=True, connected=False, lag=0.0),
        Candidate(3, running=False, connected=False, lag=0.0),
        Candidate(4, running=True, connected=True, lag=2.0),
    ]
    assert choose_victims(candidates, 5) == [3, 2, 1, 4, 0]
    assert choose_victims(candidates, 1) == [3]
    assert choose_victims(candidates, 0) == []
    assert choose_victims(candidates, -2) == []


class Cast:
    """Starts the actors of a pool, and knows which of them are alive."""

    def __init__(self, start: Callable[..., Process], code: str) -> None:
        self.started: list[tuple[int, Process]] = []
        self._start, self._code = start, code

    def __call__(self, index: int) -> Process:
        process = self._start(self._code, name=f"{index}-{len(self.started)}")
        self.started.append((index, process))
        return process

    def alive(self) -> dict[int, Process]:
        return {i: process for i, process in self.started if process.exit_code() is None}

    def settle(self, pool: ActorPool, *indices: int) -> None:
        """Drive the pool until exactly these are alive, and ready to be told to leave."""
        wait_for(lambda: pool.tick(0) or tuple(sorted(self.alive())) == indices)
        wait_for(lambda: all("ready" in p.last_words() for p in self.alive().values()))
        pool.tick(0)


def test_a_pool_grows_shrinks_by_the_rule_and_gives_indices_back(start):
    cast = Cast(start, OBEDIENT)
    pool = ActorPool(cast, backoff_limit=1, drain_seconds=60)
    pool.resize(3, {}, 0)
    cast.settle(pool, 0, 1, 2)
    connections = {f"actor-{i}": Connection(True, lag) for i, lag in enumerate([1.0, 7.0, 2.0])}
    assert pool.ready(connections) == 3
    pool.resize(2, connections, 0)
    assert pool.ready(connections) == 2
    cast.settle(pool, 0, 2)
    pool.resize(3, connections, 0)
    cast.settle(pool, 0, 1, 2)
    assert [index for index, _ in cast.started] == [0, 1, 2, 1]
    pool.leave(0, 60)
    cast.settle(pool)
    assert pool.empty
    assert [process.exit_code() for _, process in cast.started] == [0, 0, 0, 0]


def test_an_actor_that_still_drains_keeps_its_index(start):
    cast = Cast(start, STUBBORN)
    pool = ActorPool(cast, backoff_limit=1, drain_seconds=60)
    pool.resize(2, {}, 0)
    cast.settle(pool, 0, 1)
    pool.resize(1, {}, 0)
    pool.resize(2, {}, 0)
    cast.settle(pool, 0, 1, 2)


def test_a_pool_reports_a_death_and_restarts_it_in_its_place(start):
    cast = Cast(start, PATIENT)
    pool = ActorPool(cast, backoff_limit=1, drain_seconds=60)
    pool.resize(2, {}, 0)
    cast.settle(pool, 0, 1)
    os.kill(cast.alive()[1].pid, signal.SIGKILL)
    (death,) = wait_for(lambda: pool.tick(0))
    assert (death.name, death.exit_code) == ("actor-1", -signal.SIGKILL)
    assert pool.restart(death, 0) == FIRST_DELAY_SECONDS
    pool.resize(2, {}, 0)
    pool.tick(FIRST_DELAY_SECONDS)
    cast.settle(pool, 0, 1)
    os.kill(cast.alive()[1].pid, signal.SIGKILL)
    (death,) = wait_for(lambda: pool.tick(1))
    assert pool.restart(death, 1) is None


def test_a_signal_wakes_the_waiting_loop_and_doubled_ones_count_once():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        began = time.monotonic()
        interrupts.wait(60)
        assert time.monotonic() - began < 30
        assert (interrupts.asked, interrupts.by) == (1, signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
