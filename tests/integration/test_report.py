"""The report in a real browser: everything is drawn, nothing is loaded, no text is executed."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver
from vaco.job import AccuracyStatus, LedgerStatus, VACOJobStatus, parse_job
from vaco.metrics_file import MAX_UPDATES
from vaco_operator.display.excerpts import SHOWN
from vaco_operator.display.history import read_history
from vaco_operator.display.report import write_report
from vaco_operator.local.run_directory import RunDirectory

START = 1_790_000_000.0
HOSTILE = "</script><script>window.hacked = true</script><img src=x onerror='window.hacked = 1'>"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
    *("--window-size=1300,2600", "--force-device-scale-factor=1"),
)


def update(second: int, **changed: Any) -> dict[str, Any]:
    return {
        "time": START + second,
        "version": second,
        "incarnation": 1,
        "env_steps": 4096 * second,
        "train_seconds": float(second),
        "return_mean": 480 * (1 - math.exp(-second / 60)),
        "steps_per_second": 4096.0,
        "demand": 9000.0,
        "actors": 1 + second // 100,
        "lag": {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 3.0},
        "tv": 0.05 + 0.06 * math.sin(second / 9) ** 2,
        "threshold": 0.1,
        "filtered_share": 0.1 * math.sin(second / 9) ** 2,
        "entropy": 0.69 * math.exp(-second / 200),
        "explained_variance": 1 - math.exp(-second / 50),
        "ess": 1 - second / 4000,
        "kl": 0.01 + second / 1e5,
        "lag_samples": [[0, 1024], [1, 2048], [3, 1024]],
        "fragments": [["actor-0", 1, second, 4096]],
    } | changed


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    directory.store_job(
        parse_job(
            {
                "apiVersion": "training.vaco.dev/v1alpha1",
                "kind": "VACOJob",
                "metadata": {"name": "pole", "uid": "u-1"},
                "spec": {
                    "task": {"environment": "CartPole-v1"},
                    "actors": {"maxReplicas": 4},
                    "stop": {"return": {"mean": 475}},
                },
            }
        )
    )
    return directory


@pytest.fixture
def trained(directory: RunDirectory) -> RunDirectory:
    """A run of 300 updates, in which a learner died and the actors were scaled."""
    evaluation = {"event": "evaluation", "env_steps": 900_000, "return_mean": 500.0}
    updates = [
        *(update(second) for second in range(1, 151)),
        *(update(second, return_mean=-999.0) for second in range(151, 160)),
        {"event": "restored", "incarnation": 2, "checkpoint_version": 150, "version": 160},
        *(update(second) for second in range(160, 310)),
        {**evaluation, "return_std": 3.0},
    ]
    write_lines(directory.metrics_file, updates)
    events = [
        {"time": START, "event": "started", "actors": 1},
        {"time": START + 100, "event": "scaled", "before": 1, "after": 2, "reason": "demand"},
        {"time": START + 155, "event": "died", "process": "learner", "exit_code": -9},
        {"time": START + 200, "event": "scaled", "before": 2, "after": 4, "reason": HOSTILE},
        {"time": START + 310, "event": "complete", "message": HOSTILE},
    ]
    write_lines(directory.events_file, events)
    ledger = LedgerStatus(
        received=1_300_000, trained=1_228_800, queued=4096, stale=67_104, filtered=9000
    )
    directory.write_status(
        VACOJobStatus(
            phase="Complete",
            message=HOSTILE,
            env_steps=1_228_800,
            train_seconds=309.0,
            return_mean=477.2,
            ledger=ledger,
        )
    )
    return directory


def excerpts(version: int, **changed: Any) -> dict[str, Any]:
    told = {"prompt": "3+4=", "completion": f"the sum is {version}", "reward": 1.0, "tokens": 4}
    return {
        "event": "excerpts",
        "version": version,
        "excerpts": [{**told, "finished": True, **changed}],
    }


def language_update(second: int) -> dict[str, Any]:
    return update(
        second,
        env_steps=512 * second,
        tv_per_step=[0.004, 0.006],
        threshold=0.005,
        prompt_tv_p50=0.003,
        prompt_tv_p95=0.01,
        prompt_tv_max=0.2,
        mismatch_tv=1e-6 if second == 1 else None,
        mismatch_max=1e-5 if second == 1 else None,
        lagged_tv=0.004,
        reward_mean=second / 100,
        finished_share=0.9,
        completion_tokens=3.5,
        completion_tokens_max=5,
        groups=64,
        uniform_groups=16,
        gradient_norm=1.0,
    )


@pytest.fixture
def answered(directory: RunDirectory) -> RunDirectory:
    """A language model's run of 90 updates, whose completions are hostile."""
    job = directory.load_job().model_dump(by_alias=True)
    job["spec"] = {
        "task": {"type": "languageModel"},
        "policy": {"type": "languageModel", "tiny": {}},
        "algorithm": {"name": "vaco-lm"},
        "stop": {"envSteps": 100_000},
    }
    directory.store_job(parse_job(job))
    evaluation = {"event": "evaluation", "episodes": 100, "return_mean": 0.5, "return_std": 0.5}
    lines: list[dict[str, Any]] = [{**evaluation, "version": 0, "env_steps": 0, "accuracy": 0.25}]
    for second in range(1, 91):
        lines += [language_update(second), excerpts(second)]
    lines += [
        {**evaluation, "version": 60, "env_steps": 512 * 60, "accuracy": 0.75},
        excerpts(90, prompt=HOSTILE, completion=HOSTILE, reward=0.0, finished=False),
    ]
    write_lines(directory.metrics_file, lines)
    accuracy = AccuracyStatus(initial=0.25, best=0.875, latest=0.75)
    status = VACOJobStatus(phase="Complete", env_steps=46_080, train_seconds=90, accuracy=accuracy)
    directory.write_status(status)
    return directory


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


def open_report(browser: WebDriver, report: Path) -> None:
    browser.get(report.as_uri())
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


def series(browser: WebDriver, plot: str, name: str) -> tuple[list[Any], list[Any]]:
    """Return what plotly was really given to draw."""
    script = (
        "const t = document.getElementById(arguments[0])._fullData"
        ".find(t => t.name === arguments[1]); return [Array.from(t.x), Array.from(t.y)]"
    )
    x, y = browser.execute_script(script, plot, name)
    return x, y


def test_all_plots_are_drawn_without_the_network(trained, browser, tmp_path):
    open_report(browser, write_report(trained))
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return window.hacked") is None
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.js-plotly-plot')].map(p => "
        "[p.id, p.querySelectorAll('.scatterlayer .trace, .barlayer .trace').length])"
    )
    assert dict(drawn) == {
        "learning-curve": 2,
        "total-variation": 3,
        "actors": 4,
        "throughput": 2,
        "lag-histogram": 1,
        "lag-over-time": 3,
        "optimisation": 2,
        "divergence": 2,
    }
    tiles = browser.find_element("css selector", ".tiles").text
    assert "477.2\nreturn, of 475 wanted" in tiles
    assert browser.get_screenshot_as_file(str(tmp_path / "report.png"))


def test_the_plots_show_what_happened(trained, browser):
    open_report(browser, write_report(trained))
    steps, returns = series(browser, "learning-curve", "training episodes")
    assert len(steps) == 300
    assert (steps[0], steps[-1]) == (4096, 4096 * 309)
    # What the dead learner had trained after its checkpoint was undone, and is not shown.
    assert min(returns) > 0
    assert series(browser, "lag-histogram", "trace 0")[0] == [0, 1, 3]
    assert series(browser, "actors", "desired") == ([0, 100, 200, 309], [1, 2, 4, 4])
    assert series(browser, "actors", "scaled") == ([100, 200], [2, 4])
    assert len(series(browser, "actors", "a process died")[0]) == 1
    assert set(series(browser, "total-variation", "threshold")[1]) == {0.1}
    ledger = browser.find_element("id", "ledger").text
    assert "balances" in ledger
    assert "stale 67,104 5.16%" in ledger
    assert HOSTILE in browser.find_element("id", "events").text


def test_a_run_that_never_trained_has_a_report_too(directory, browser):
    open_report(browser, write_report(directory))
    assert "no lag was recorded" in browser.find_element("id", "lag-histogram").text


def test_a_language_models_report_has_its_accuracy_and_completions_to_read(answered, browser):
    open_report(browser, write_report(answered))
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.execute_script("return window.hacked") is None
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('.js-plotly-plot')].map(p => "
        "[p.id, p.querySelectorAll('.scatterlayer .trace, .barlayer .trace').length])"
    )
    assert dict(drawn) == {
        "accuracy": 1,
        "accuracy-over-time": 1,
        "reward": 2,
        "lengths": 3,
        "total-variation": 3,
        "prompts": 4,
        "mismatch": 3,
        "divergence": 2,
        "lag-histogram": 1,
        "lag-over-time": 3,
        "actors": 1,
        "throughput": 2,
        "optimisation": 2,
    }
    assert series(browser, "accuracy", "held-out accuracy") == ([0, 512 * 60], [0.25, 0.75])
    assert series(browser, "accuracy-over-time", "held-out accuracy") == ([0, 60], [0.25, 0.75])
    assert series(browser, "total-variation", "gradient step")[1][:3] == [0.004, 0.006, 0.004]
    tiles = browser.find_element("css selector", ".tiles").text
    assert "75.0%\nheld-out accuracy at the last evaluation, from 25.0%, best 87.5%" in tiles
    assert "environment" not in tiles
    told = browser.find_elements("css selector", "#completions tbody tr")
    assert len(told) == SHOWN
    assert told[0].text == "1 3+4= the sum is 1 1 4 by itself"
    assert told[-1].text == f"90 {HOSTILE} {HOSTILE} 0 4 at the budget"


def test_a_language_model_that_never_trained_has_a_report_too(answered, browser):
    answered.metrics_file.unlink()
    open_report(browser, write_report(answered))
    assert browser.find_elements("css selector", "#completions tbody tr") == []


def test_a_long_history_is_thinned_and_keeps_its_end(directory):
    length = 2 * MAX_UPDATES + 77
    write_lines(directory.metrics_file, [update(second) for second in range(1, length + 1)])
    with directory.metrics_file.open("a") as file:
        file.write('{"torn')
    history = read_history(directory)
    assert MAX_UPDATES / 2 < len(history.updates) <= MAX_UPDATES
    versions = [entry["version"] for entry in history.updates]
    assert versions == sorted(set(versions))
    assert versions[-1] == length
    assert history.damaged == 1
    assert history.lags == {0: 1024 * length, 1: 2048 * length, 3: 1024 * length}


def test_between_two_runs_time_passes_but_no_training(directory):
    later = [update(s, time=START + 1e6 + s, train_seconds=10.0 + s) for s in range(1, 11)]
    write_lines(directory.metrics_file, [*(update(s) for s in range(1, 11)), *later])
    history = read_history(directory)
    assert history.train_seconds(START - 5) == 0
    assert history.train_seconds(START + 7.5) == 7.5
    assert history.train_seconds(START + 5e5) == 11
    assert history.train_seconds(START + 2e6) == 20
