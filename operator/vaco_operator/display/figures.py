"""The plots of a report, each from a run's history alone."""

from typing import Any, Final

import plotly.graph_objects as go
from vaco.job import VACOJob

from vaco_operator.display.history import History

BLUE: Final = "#2563eb"
ORANGE: Final = "#ea580c"
GREEN: Final = "#16a34a"
GREY: Final = "#94a3b8"
RED: Final = "#dc2626"
SECONDS: Final = "seconds of training"
VERSIONS: Final = "versions"
MAX_TICKS: Final = 12
"""Up to so many, each count has a tick of its own."""


def learning_curve(job: VACOJob, history: History) -> go.Figure:
    """Draw the return against environment steps, with the goal and the evaluations."""
    figure = new_figure("Learning curve", "environment steps", "return")
    steps = history.series("env_steps")
    add_line(figure, steps, history.series("return_mean"), "training episodes", BLUE)
    if history.evaluations:
        means = [event.get("return_mean") for event in history.evaluations]
        deviations = [event.get("return_std") for event in history.evaluations]
        figure.add_scatter(
            x=[event.get("env_steps") for event in history.evaluations],
            y=means,
            error_y={"type": "data", "array": deviations, "thickness": 1},
            mode="markers",
            name="evaluation",
            marker={"color": ORANGE},
        )
    if job.spec.stop.return_ is not None:
        goal = job.spec.stop.return_.mean
        figure.add_hline(y=goal, line_dash="dot", line_color=GREEN, annotation_text="goal")
    return figure


def total_variation(history: History) -> go.Figure:
    """Draw total variation against its threshold, and the share of samples filtered."""
    figure = new_figure("Total variation and filter", SECONDS, "total variation")
    seconds = history.series("train_seconds")
    add_line(figure, seconds, history.series("tv"), "total variation", BLUE)
    add_line(figure, seconds, history.series("threshold"), "threshold", RED, dash="dash")
    add_second_line(figure, seconds, history.series("filtered_share"), "filtered share")
    figure.data[-1].update(fill="tozeroy", fillcolor="rgba(234, 88, 12, 0.15)")
    figure.update_layout(
        yaxis={"rangemode": "tozero"}, yaxis2={"tickformat": ".0%", "rangemode": "tozero"}
    )
    return figure


def lag_histogram(history: History, samples: str = "samples") -> go.Figure:
    """Count the samples trained per lag in versions; of language models, the tokens."""
    figure = new_figure("Policy lag", "lag in versions when trained", samples)
    lags = sorted(history.lags)
    figure.add_bar(x=lags, y=[history.lags[lag] for lag in lags], marker={"color": BLUE})
    if not lags:
        _say_empty(figure, "no lag was recorded")
    elif lags[-1] <= MAX_TICKS:
        figure.update_layout(xaxis={"dtick": 1})
    return figure


def lag_over_time(history: History) -> go.Figure:
    """Draw percentiles of the lag over time."""
    figure = new_figure("Policy lag over time", SECONDS, VERSIONS)
    seconds = history.series("train_seconds")
    for name, color in (("p50", BLUE), ("p95", ORANGE), ("max", GREY)):
        add_line(figure, seconds, history.series("lag", name), name, color)
    return figure


def actors_over_time(history: History) -> go.Figure:
    """Draw actors desired and connected, with every scaling event and every death marked."""
    figure = new_figure("Actors", SECONDS, "actors")
    end = history.updates[-1]["train_seconds"] if history.updates else 0.0
    times, desired = _desired(history)
    if times:
        figure.add_scatter(
            x=[*times, max(end, times[-1])],
            y=[*desired, desired[-1]],
            name="desired",
            mode="lines",
            line={"color": BLUE, "shape": "hv"},
        )
    add_line(figure, history.series("train_seconds"), history.series("actors"), "connected", GREY)
    scaled = [event for event in history.events if event.get("event") == "scaled"]
    _mark(figure, history, scaled, "scaled", "triangle-up", [e.get("after") for e in scaled])
    died = [event for event in history.events if event.get("event") == "died"]
    _mark(figure, history, died, "a process died", "x", [0] * len(died))
    figure.update_layout(yaxis={"rangemode": "tozero"})
    if max(desired, default=0) <= MAX_TICKS:
        figure.update_layout(yaxis={"dtick": 1})
    return figure


def throughput(history: History, samples: str = "environment steps") -> go.Figure:
    """Draw samples trained per second, and what the learner could have trained."""
    figure = new_figure("Throughput", SECONDS, f"{samples} per second")
    seconds = history.series("train_seconds")
    add_line(figure, seconds, history.series("steps_per_second"), "trained", BLUE)
    demand = [value or None for value in history.series("demand")]
    add_line(figure, seconds, demand, "learner's limit", GREY, dash="dash")
    figure.update_layout(yaxis={"rangemode": "tozero"})
    return figure


def optimisation(history: History) -> go.Figure:
    """Draw how well the critic explains the returns, and how sure the policy is."""
    figure = new_figure("Critic and entropy", SECONDS, "explained variance")
    seconds = history.series("train_seconds")
    add_line(figure, seconds, history.series("explained_variance"), "explained variance", BLUE)
    add_second_line(figure, seconds, history.series("entropy"), "entropy")
    figure.update_layout(yaxis={"range": [-1, 1.05]})
    return figure


def divergence(history: History) -> go.Figure:
    """Draw how far the policy is from those that made its data."""
    figure = new_figure("Distance to the behaviour policy", SECONDS, "effective sample size")
    seconds = history.series("train_seconds")
    add_line(figure, seconds, history.series("ess"), "effective sample size", BLUE)
    add_second_line(figure, seconds, history.series("kl"), "KL")
    figure.update_layout(yaxis={"tickformat": ".0%"})
    return figure


def new_figure(title: str, x: str, y: str) -> go.Figure:
    """Return a figure without lines."""
    return go.Figure(
        layout={
            "title": {"text": title, "x": 0.01, "xanchor": "left", "font": {"size": 16}},
            "xaxis": {"title": {"text": x}, "gridcolor": "#eef2f7", "zeroline": False},
            "yaxis": {"title": {"text": y}, "gridcolor": "#eef2f7", "zeroline": False},
            "plot_bgcolor": "white",
            "paper_bgcolor": "white",
            "margin": {"l": 64, "r": 24, "t": 48, "b": 80},
            "legend": {"orientation": "h", "x": 0, "y": -0.24, "yanchor": "top"},
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#334155"},
            "height": 360,
            "hovermode": "x unified",
        }
    )


def add_line(
    figure: go.Figure,
    x: list[float | None],
    y: list[float | None],
    name: str,
    color: str,
    dash: str = "solid",
) -> None:
    """Add a line; one without a point can be seen in the legend only."""
    style = {"color": color, "width": 1.5, "dash": dash}
    figure.add_scatter(x=x, y=y, name=name, mode="lines", line=style)
    if not any(value is not None for value in y):
        figure.data[-1].visible = "legendonly"


def add_second_line(
    figure: go.Figure, x: list[float | None], y: list[float | None], name: str
) -> None:
    """Add a line with an axis of its own, on the right."""
    add_line(figure, x, y, name, ORANGE)
    figure.data[-1].yaxis = "y2"
    figure.update_layout(
        yaxis2={
            "title": {"text": name},
            "overlaying": "y",
            "side": "right",
            "automargin": True,
            "showgrid": False,
        }
    )


def _desired(history: History) -> tuple[list[float], list[int]]:
    times, desired = [], []
    for event in history.events:
        count = {"started": event.get("actors"), "scaled": event.get("after")}.get(
            str(event.get("event"))
        )
        if isinstance(count, int):
            times.append(history.train_seconds(float(event["time"])))
            desired.append(count)
    return times, desired


def _mark(
    figure: go.Figure,
    history: History,
    events: list[dict[str, Any]],
    name: str,
    symbol: str,
    heights: list[Any],
) -> None:
    if not events:
        return
    figure.add_scatter(
        x=[history.train_seconds(float(event["time"])) for event in events],
        y=heights,
        name=name,
        mode="markers",
        marker={"symbol": symbol, "size": 11, "color": ORANGE if symbol != "x" else RED},
        text=[event_text(event) for event in events],
        hovertemplate="%{text}<extra></extra>",
        cliponaxis=False,
    )


def event_text(event: dict[str, Any]) -> str:
    """Tell an event of the run in words."""
    kind = event.get("event")
    if kind == "scaled":
        return f"{event.get('before')} -> {event.get('after')} actors: {event.get('reason')}"
    if kind == "died":
        return f"{event.get('process')} ended with {event.get('exit_code')}"
    if kind == "started":
        count = event.get("actors")
        return f"started with {count} actor{'' if count == 1 else 's'}"
    return f"{kind}: {event.get('message', '')}"


def _say_empty(figure: go.Figure, text: str) -> None:
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
