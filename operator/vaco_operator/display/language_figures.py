"""The plots of a language model's report, beside those that it has in common with others."""

import math
from typing import Any, Final

import plotly.graph_objects as go
from vaco.job import VACOJob

from vaco_operator.display.figures import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SECONDS,
    add_line,
    add_second_line,
    new_figure,
)
from vaco_operator.display.history import History

MAX_STEP_POINTS: Final = 8192
"""Gradient steps that are drawn; of more, evenly spaced ones."""


def accuracy(history: History, *, over_time: bool) -> go.Figure:
    """Draw the accuracy on held-out problems, with its standard errors.

    Args:
        history: of the run.
        over_time: over seconds of training; else over completions.

    """
    x_title = SECONDS if over_time else "completions trained"
    title = "Accuracy over time" if over_time else "Accuracy"
    figure = new_figure(title, x_title, "held-out accuracy")
    events = [event for event in history.evaluations if _is_number(event.get("accuracy"))]
    figure.add_scatter(
        x=[
            history.seconds_of_version(int(event.get("version", 0)))
            if over_time
            else event.get("env_steps")
            for event in events
        ],
        y=[event["accuracy"] for event in events],
        error_y={"type": "data", "array": [_error(event) for event in events], "thickness": 1},
        mode="lines+markers",
        name="held-out accuracy",
        line={"color": BLUE, "width": 1.5},
    )
    figure.update_layout(yaxis={"tickformat": ".0%", "rangemode": "tozero"})
    return figure


def reward(job: VACOJob, history: History) -> go.Figure:
    """Draw the mean reward of each batch against completions, and of the last episodes."""
    figure = new_figure("Reward", "completions trained", "reward")
    steps = history.series("env_steps")
    add_line(figure, steps, history.series("reward_mean"), "batch", GREY)
    add_line(figure, steps, history.series("return_mean"), "recent completions", BLUE)
    if job.spec.stop.return_ is not None:
        goal = job.spec.stop.return_.mean
        figure.add_hline(y=goal, line_dash="dot", line_color=GREEN, annotation_text="goal")
    return figure


def lengths(history: History) -> go.Figure:
    """Draw how long completions are, and how many of them ended by themselves."""
    figure = new_figure("Completions", SECONDS, "tokens")
    seconds = history.series("train_seconds")
    add_line(figure, seconds, history.series("completion_tokens"), "mean length", BLUE)
    add_line(figure, seconds, history.series("completion_tokens_max"), "longest", GREY)
    add_second_line(figure, seconds, history.series("finished_share"), "finished share")
    figure.update_layout(
        yaxis={"rangemode": "tozero"}, yaxis2={"tickformat": ".0%", "range": [0, 1.02]}
    )
    return figure


def total_variation(history: History) -> go.Figure:
    """Draw each gradient step's total variation against the threshold, and what is filtered."""
    figure = new_figure("Total variation per gradient step", SECONDS, "total variation")
    seconds = history.series("train_seconds")
    x, y = _steps(history)
    marker = {"color": BLUE, "size": 3, "opacity": 0.6}
    figure.add_scatter(x=x, y=y, mode="markers", name="gradient step", marker=marker)
    add_line(figure, seconds, history.series("threshold"), "threshold", RED, dash="dash")
    add_second_line(figure, seconds, history.series("filtered_share"), "filtered share of tokens")
    figure.data[-1].update(fill="tozeroy", fillcolor="rgba(234, 88, 12, 0.15)")
    figure.update_layout(
        yaxis={"rangemode": "tozero"}, yaxis2={"tickformat": ".0%", "rangemode": "tozero"}
    )
    return figure


def prompts(history: History) -> go.Figure:
    """Draw how far prompts are from the weights that completed them, and the useless ones."""
    figure = new_figure("Total variation per prompt", SECONDS, "total variation")
    seconds = history.series("train_seconds")
    for name, color in (("p50", BLUE), ("p95", ORANGE), ("max", GREY)):
        add_line(figure, seconds, history.series(f"prompt_tv_{name}"), name, color)
    uniform = _ratio(history.series("uniform_groups"), history.series("groups"))
    add_second_line(figure, seconds, uniform, "groups that earned the same")
    figure.data[-1].line.color = GREEN
    # One token can be hundreds of times as likely as it was, in the worst prompt of a batch.
    figure.update_layout(yaxis={"type": "log"}, yaxis2={"tickformat": ".0%"})
    return figure


def mismatch(history: History) -> go.Figure:
    """Draw what actors and learner disagree on with the very same weights, and with others.

    Tokens that the very weights of the phase's start sampled (lag 0) show how two programs compute
    one model; the others show lag besides.
    """
    figure = new_figure("Actor and learner apart", SECONDS, "total variation")
    seconds = history.series("train_seconds")
    add_line(figure, seconds, history.series("lagged_tv"), "TV, tokens with lag", GREY)
    add_line(figure, seconds, history.series("mismatch_tv"), "TV, tokens without lag", BLUE)
    add_second_line(
        figure, seconds, history.series("mismatch_max"), "largest |log ratio|, tokens without lag"
    )
    # There may be few updates with tokens of no lag, far between.
    figure.data[1].mode = figure.data[2].mode = "lines+markers"
    figure.update_layout(yaxis={"rangemode": "tozero"}, yaxis2={"rangemode": "tozero"})
    return figure


def optimisation(history: History) -> go.Figure:
    """Draw how sure the model is, and how steep its loss."""
    figure = new_figure("Entropy and gradient", SECONDS, "entropy per token")
    seconds = history.series("train_seconds")
    add_line(figure, seconds, history.series("entropy"), "entropy", BLUE)
    add_second_line(figure, seconds, history.series("gradient_norm"), "gradient norm")
    return figure


def _steps(history: History) -> tuple[list[float], list[float]]:
    """Return the seconds and the total variation of gradient steps."""
    points = [
        (float(update["train_seconds"]), float(value))
        for update in history.updates
        for value in update.get("tv_per_step") or ()
        if _is_number(value)
    ]
    stride = -(-len(points) // MAX_STEP_POINTS) or 1
    return [x for x, _ in points[::stride]], [y for _, y in points[::stride]]


def _ratio(part: list[float | None], whole: list[float | None]) -> list[float | None]:
    return [a / b if a is not None and b else None for a, b in zip(part, whole, strict=True)]


def _error(event: dict[str, Any]) -> float:
    """Return the standard error of a share, by the binomial distribution."""
    share, count = float(event["accuracy"]), event.get("episodes")
    if not _is_number(count) or not count:
        return 0.0
    return math.sqrt(max(0.0, share * (1 - share)) / float(count))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
