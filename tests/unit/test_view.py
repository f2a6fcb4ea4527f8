"""What one sees: progress to the nearest stop condition, plain lines, and the live picture."""

import io
import math
from itertools import pairwise

import pytest
from rich.console import Console
from vaco.job import (
    API_VERSION,
    AccuracyStatus,
    ActorsStatus,
    EvaluationStatus,
    LagStatus,
    LedgerStatus,
    ReturnGoal,
    ScalingStatus,
    StopSpec,
    VACOJob,
    VACOJobStatus,
)
from vaco_operator.display.progress import CURVE_POINTS, Journey, progress
from vaco_operator.display.view import (
    LiveView,
    PlainView,
    open_view,
    picture,
    sparkline,
    status_line,
)
from vaco_operator.display.words import CONTROL, words_for

GOAL = StopSpec(return_=ReturnGoal(mean=475), env_steps=1000)

RUNNING = VACOJobStatus(
    phase="Running",
    env_steps=34_000,
    train_seconds=8.2,
    steps_per_second=61_234.4,
    return_mean=301.25,
    version=312,
    lag=LagStatus(p50=2, p95=4.5, p99=6, max=7),
    tv=0.043,
    tv_threshold=0.1,
    filtered_share=0.031,
    ledger=LedgerStatus(
        received=34_711, queued=400, trained=34_000, stale=211, duplicate=90, rejected=10
    ),
    actors=ActorsStatus(desired=3, ready=2, min=1, max=4),
    scaling=ScalingStatus(events=1, last_reason="demand asks for 3"),
)


def seen(env_steps: int, return_mean: float | None = None, seconds: float = 0) -> VACOJobStatus:
    return VACOJobStatus(env_steps=env_steps, return_mean=return_mean, train_seconds=seconds)


def drawn(status: VACOJobStatus, returns: list[float], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    done = progress(GOAL, status, 20.0)
    console.print(picture("pole  runs/pole", status, done, returns))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("status", "first", "share", "text"),
    [
        (seen(250), None, 0.25, "250 of 1,000 steps"),
        (seen(250, 247.5), 20.0, 0.5, "return 247.5 of 475"),
        (seen(600, 247.5), 20.0, 0.6, "600 of 1,000 steps"),
        (seen(10, 480), 20.0, 1.0, "return 480 of 475"),
        (seen(0, 10), 20.0, 0.0, "0 of 1,000 steps"),
        (seen(5000), None, 1.0, "5,000 of 1,000 steps"),
    ],
)
def test_progress_is_towards_the_nearest_stop_condition(status, first, share, text):
    done = progress(GOAL, status, first)
    assert done.share == pytest.approx(share)
    assert done.text == text


def test_progress_to_a_negative_goal_is_measured_from_the_first_return():
    stop = StopSpec(return_=ReturnGoal(mean=-200))
    assert progress(stop, seen(1, -1200), -1200).share == 0
    assert progress(stop, seen(1, -700), -1200).share == pytest.approx(0.5)
    assert progress(stop, seen(1, -150), -1200).share == 1


def test_progress_in_time():
    stop = StopSpec(wall_clock_seconds=60)
    done = progress(stop, seen(9, seconds=45), None)
    assert (done.share, done.text) == (0.75, "45 of 60 s")


def test_a_journey_begins_at_its_first_return_and_keeps_a_bounded_curve():
    journey = Journey(GOAL)
    assert journey.see(seen(0)).share == 0
    for step in range(10_000):
        journey.see(seen(step, float(step)))
        journey.see(seen(step, float(step)))
    assert journey.first_return == 0
    assert CURVE_POINTS <= len(journey.curve) < 2 * CURVE_POINTS
    assert journey.curve == sorted(set(journey.curve))
    assert journey.curve[-1] > 9000
    gaps = [later - earlier for earlier, later in pairwise(journey.curve)]
    assert max(gaps) == min(gaps)
    assert Journey(GOAL, first_return=-3.0).see(seen(1, 236.0)).share == pytest.approx(0.5)


def test_the_line_tells_all_that_is_asked_for():
    line = status_line(RUNNING, progress(GOAL, RUNNING, 20.0))
    for part in (
        "Running 100%",
        "return 301.2",
        "34,000 (61,234/s)",
        "version 312",
        "lag p50 2.0 p95 4.5",
        "TV 0.043/0.100",
        "filtered 3.1%",
        "actors 2/3",
        "received 34,711 = trained 34,000 + queued 400 + stale 211 + duplicate 90 + rejected 10",
    ):
        assert part in line
    assert "\n" not in line


def test_what_is_not_known_yet_is_a_dash():
    line = status_line(VACOJobStatus(phase="Running"), progress(GOAL, seen(0), None))
    assert "return -" in line
    assert "TV -/-" in line
    assert "filtered -" in line


def test_the_picture_tells_the_same():
    text = drawn(RUNNING, [20.0, 100.0, 301.25])
    for part in (
        *("pole", "runs/pole", "Running", "301.2", "61,234", "312", "p50 2.0", "p95 4.5"),
        *("0.043 of 0.100", "3.1%", "2/3 ready, 1 to 4", "demand asks for 3", "stale 211"),
        *("return", "100%", "▁▃█"),
    ):
        assert part in text


@pytest.mark.parametrize(
    ("phase", "reached", "missed"),
    [
        ("Complete", 301.25, True),
        ("Complete", None, True),
        ("Complete", 475.0, False),
        ("Running", 301.25, False),
    ],
)
def test_what_is_complete_without_its_return_says_so(phase, reached, missed):
    status = RUNNING.model_copy(update={"phase": phase, "return_mean": reached})
    told = "return goal of 475 missed"
    assert (told in status_line(status, progress(GOAL, status, 20.0))) is missed
    assert (told in drawn(status, [20.0])) is missed


def test_how_a_run_ended_is_not_said_in_the_picture_and_again_below_it():
    told = RUNNING.model_copy(update={"message": "it broke"})
    assert "it broke" in drawn(told, [20.0])
    assert "it broke" not in drawn(told.model_copy(update={"phase": "Failed"}), [20.0])


def test_the_picture_fits_a_narrow_terminal_and_takes_hostile_text():
    message = "[bold]not markup[/bold] [/] " + "x" * 500
    status = RUNNING.model_copy(update={"message": message})
    text = drawn(status, [math.pi] * 500, width=60)
    assert max(len(line) for line in text.splitlines()) <= 60
    assert "[bold]not markup[/bold]" in text


def test_a_sparkline_spans_from_least_to_greatest():
    assert sparkline([], 5) == ""
    assert sparkline([3.0, 3.0], 5) == "▁▁"
    assert sparkline([9.0, 0.0, 7.0], 2) == "▁█"


def test_lines_come_every_few_seconds_and_when_the_phase_changes():
    now, lines = [0.0], []
    view = PlainView(Journey(GOAL), lines.append, clock=lambda: now[0])
    for second in range(11):
        now[0] = float(second)
        view.show(RUNNING.model_copy(update={"env_steps": second}))
    assert len(lines) == 3
    now[0] = 100.0
    view.show(RUNNING.model_copy(update={"env_steps": 10}))
    assert len(lines) == 3
    view.note("actor-1 ended")
    view.show(RUNNING.model_copy(update={"phase": "Failed", "message": "it broke"}))
    assert lines[3] == "actor-1 ended"
    assert "Failed" in lines[4]


def test_a_pipe_gets_lines_even_when_colours_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(file=io.StringIO())
    with open_view("pole", GOAL, console) as view:
        assert isinstance(view, PlainView)
        view.show(RUNNING)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b" not in console.file.getvalue()
    assert console.file.getvalue().count("\n") == 1


def test_a_terminal_gets_one_picture_that_is_redrawn():
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    with LiveView("pole  runs/pole", Journey(GOAL), console) as view:
        view.show(RUNNING)
        view.note("actors 2 -> 3: demand")
        view.show(RUNNING.model_copy(update={"env_steps": 35_000}))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b[" in text
    assert "actors 2 -> 3: demand" in text
    # What is last on the screen is the newest picture, drawn over the one before.
    assert "\x1b[2K" in text
    assert "35,000" in text[text.rindex("actors 2 -> 3") :]


def a_language_job(**algorithm: object) -> VACOJob:
    spec = {
        "task": {"type": "languageModel"},
        "policy": {"type": "languageModel", "tiny": {}},
        "algorithm": {"name": "vaco-lm", **algorithm},
        "stop": {"envSteps": 1000},
    }
    document = {"apiVersion": API_VERSION, "kind": "VACOJob", "metadata": {"name": "adds"}}
    return VACOJob.model_validate({**document, "spec": spec})


LANGUAGE = words_for(a_language_job().spec)
ANSWERING = RUNNING.model_copy(
    update={
        "return_mean": 0.578,
        "accuracy": AccuracyStatus(initial=0.25, best=0.625, latest=0.5),
        "evaluation": EvaluationStatus(
            version=300, env_steps=32_000, episodes=500, return_mean=0.5, return_std=0.5
        ),
    }
)


def test_the_line_of_a_language_model_has_its_accuracy_and_its_own_words():
    done = progress(StopSpec(env_steps=68_000), ANSWERING, None, LANGUAGE)
    line = status_line(ANSWERING, done, LANGUAGE)
    for part in (
        "accuracy 50.0% (initial 25.0%, best 62.5%)",
        "reward 0.578",
        "completions 34,000 (61,234/s)",
        "token lag p50 2.0 p95 4.5",
        "TV per prompt 0.043/0.100",
        "tokens filtered 3.1%",
    ):
        assert part in line
    assert "step" not in line
    assert done.text == "34,000 of 68,000 completions"


def test_the_picture_of_a_language_model_has_its_accuracy():
    done = progress(GOAL, ANSWERING, 0.0, LANGUAGE)
    console = Console(file=io.StringIO(), width=110, force_terminal=False)
    console.print(picture("adds  runs/adds", ANSWERING, done, [0.25, 0.5], LANGUAGE))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in ("50.0% (initial 25.0%, best 62.5%)", "completions/s", "token lag", "▁█", "0.578"):
        assert part in text
    assert "steps" not in text


def test_before_the_first_evaluation_the_accuracy_is_a_dash():
    done = progress(GOAL, RUNNING, None, LANGUAGE)
    assert "accuracy -" in status_line(RUNNING, done, LANGUAGE)


def test_what_is_missed_has_the_words_too():
    status = ANSWERING.model_copy(update={"phase": "Complete"})
    assert progress(GOAL, status, 0.0, LANGUAGE).missed == "reward goal of 475 missed"


def test_the_curve_of_a_language_model_has_a_point_for_each_evaluation():
    journey = Journey(StopSpec(env_steps=10_000), words=LANGUAGE)
    evaluation = ANSWERING.evaluation
    assert evaluation is not None
    for steps in range(0, 1000, 10):
        accuracy = AccuracyStatus(initial=0.0, best=1.0, latest=steps // 100 / 10)
        update = {"env_steps": steps // 100 * 100}
        journey.see(
            seen(steps, 0.5).model_copy(
                update={"accuracy": accuracy, "evaluation": evaluation.model_copy(update=update)}
            )
        )
    assert journey.curve == [number / 10 for number in range(10)]


def test_words_follow_the_task_and_the_scope():
    assert words_for(a_language_job(scope="batch").spec).tv == "TV per token"
    job = a_language_job().model_dump(by_alias=True)
    job["spec"] |= {"algorithm": {"name": "grpo"}}
    assert words_for(VACOJob.model_validate(job).spec).accurate
    assert CONTROL.samples == "steps"
