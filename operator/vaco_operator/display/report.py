"""The report of a run: one HTML file with all plots, which loads nothing from anywhere.

plotly.js is in the file, once; a content-security policy makes the browser refuse whatever would
still ask the network. All text that comes from the run is escaped.
"""

import time
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Final

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from vaco.files import replace_file
from vaco.job import AccuracyStatus, VACOJob, VACOJobStatus, dump_job

from vaco_operator.display import figures, language_figures
from vaco_operator.display.excerpts import HEAD, excerpt_rows
from vaco_operator.display.history import History, read_history
from vaco_operator.display.words import words_for
from vaco_operator.local.run_directory import RunDirectory

SHOWN_EVENTS: Final = 500

_STYLE: Final = """
body { margin: 0; background: #f1f5f9; color: #1e293b; font: 14px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px; }
h1 { margin: 0; font-size: 24px; } h2 { font-size: 16px; margin: 0 0 8px; }
.phase { padding: 2px 10px; border-radius: 99px; font-size: 14px; vertical-align: middle;
  background: #e2e8f0; }
.Complete, .Running { background: #dcfce7; color: #166534; }
.Failed { background: #fee2e2; color: #991b1b; } .Suspended { background: #fef9c3; color: #854d0e; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 16px 0; }
.tile, section { background: white; border: 1px solid #e2e8f0; border-radius: 8px; }
.tile { padding: 8px 14px; } .tile b { display: block; font-size: 20px; }
.tile span { color: #64748b; }
.plots { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 12px;
  margin-bottom: 12px; }
section { padding: 12px; margin-bottom: 12px; overflow-x: auto; } .plots section { margin: 0; }
@media (max-width: 900px) { .plots { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(2, 1fr); } }
table { border-collapse: collapse; width: 100%; } td, th { padding: 3px 10px; text-align: left; }
th { color: #64748b; font-weight: 500; border-bottom: 1px solid #e2e8f0; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
#completions td { white-space: pre-wrap; overflow-wrap: anywhere; vertical-align: top; }
pre { margin: 0; font-size: 12px; } footer { color: #64748b; }
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline';
 script-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} - vaco</title><style>{style}</style><script>{plotly}</script></head>
<body><main>
<h1>{name} <span class="phase {phase}">{phase}</span></h1><p>{message}</p>
<div class="tiles">{tiles}</div>
<div class="plots">{plots}</div>
{tables}
<section><details><summary>Manifest</summary><pre>{manifest}</pre></details></section>
<footer>{footer}</footer>
</main></body></html>
"""


def write_report(directory: RunDirectory) -> Path:
    """Write the report of a run as it is now; returns where it is.

    Raises:
        UserError: this is no run directory, or its files are damaged.

    """
    job = directory.load_job()
    status = directory.read_status() or VACOJobStatus()
    page = render(job, status, read_history(directory))
    replace_file(directory.report_file, page)
    return directory.report_file


def render(job: VACOJob, status: VACOJobStatus, history: History) -> str:
    """Return the report as HTML."""
    plots = _plots_of_language(job, history) if job.spec.is_language else _plots(job, history)
    return _PAGE.format(
        name=escape(job.metadata.name),
        style=_STYLE,
        plotly=get_plotlyjs(),
        phase=status.phase,
        message=escape(status.message),
        tiles="".join(_tile(label, value) for label, value in _key_figures(job, status)),
        plots="".join(f"<section>{_plot(name, plot)}</section>" for name, plot in plots.items()),
        tables=_tables(job, status, history),
        manifest=escape(dump_job(job)),
        footer=escape(_footer(job, history)),
    )


def _plots(job: VACOJob, history: History) -> dict[str, go.Figure]:
    return {
        "learning-curve": figures.learning_curve(job, history),
        "total-variation": figures.total_variation(history),
        "actors": figures.actors_over_time(history),
        "throughput": figures.throughput(history),
        "lag-histogram": figures.lag_histogram(history),
        "lag-over-time": figures.lag_over_time(history),
        "optimisation": figures.optimisation(history),
        "divergence": figures.divergence(history),
    }


def _plots_of_language(job: VACOJob, history: History) -> dict[str, go.Figure]:
    return {
        "accuracy": language_figures.accuracy(history, over_time=False),
        "accuracy-over-time": language_figures.accuracy(history, over_time=True),
        "reward": language_figures.reward(job, history),
        "lengths": language_figures.lengths(history),
        "total-variation": language_figures.total_variation(history),
        "prompts": language_figures.prompts(history),
        "mismatch": language_figures.mismatch(history),
        "divergence": figures.divergence(history),
        "lag-histogram": figures.lag_histogram(history, "tokens"),
        "lag-over-time": figures.lag_over_time(history),
        "actors": figures.actors_over_time(history),
        "throughput": figures.throughput(history, "completions"),
        "optimisation": language_figures.optimisation(history),
    }


def _tables(job: VACOJob, status: VACOJobStatus, history: History) -> str:
    tables = _ledger_table(status) + _event_table(history) + _condition_table(status)
    return (_excerpt_table(history) if job.spec.is_language else "") + tables


def _plot(name: str, figure: go.Figure) -> str:
    config = {"displayModeBar": False, "responsive": True}
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config=config, default_width="100%"
    )
    return html


def _key_figures(job: VACOJob, status: VACOJobStatus) -> Iterable[tuple[str, str]]:
    mean = status.env_steps / status.train_seconds if status.train_seconds else 0.0
    goal, words = job.spec.stop.return_, words_for(job.spec)
    wanted = f"{words.earned}, of {goal.mean:g} wanted" if goal else words.earned
    digits = ".3f" if words.accurate else ".1f"
    if words.accurate:
        yield _accuracy_figure(status.accuracy)
    yield wanted, "-" if status.return_mean is None else f"{status.return_mean:{digits}}"
    yield words.long_samples, f"{status.env_steps:,}"
    yield "seconds of training", f"{status.train_seconds:.1f}"
    yield f"{words.samples} per second, mean", f"{mean:,.0f}"
    yield "version", f"{status.version:,}"
    yield f"{words.lag} p50 / p95", f"{status.lag.p50:g} / {status.lag.p95:g}"
    if not words.accurate:
        yield "scaling events", str(status.scaling.events)
    yield "learner restarts", str(status.learner_restarts)


def _accuracy_figure(accuracy: AccuracyStatus | None) -> tuple[str, str]:
    if accuracy is None or accuracy.latest is None:
        return "held-out accuracy", "-"
    first, best = accuracy.initial or 0.0, accuracy.best or 0.0
    return (
        f"held-out accuracy at the last evaluation, from {first:.1%}, best {best:.1%}",
        f"{accuracy.latest:.1%}",
    )


def _tile(label: str, value: str) -> str:
    return f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def _ledger_table(status: VACOJobStatus) -> str:
    ledger = status.ledger
    names = ("trained", "queued", "stale", "duplicate", "rejected", "received")
    rows = []
    for name in names:
        samples = getattr(ledger, name)
        share = f"{samples / ledger.received:.2%}" if ledger.received else "-"
        rows.append((name, f"{samples:,}", share))
    verdict = "balances" if ledger.balanced else "DOES NOT BALANCE"
    caption = f"Ledger: every sample that reached the learner ({verdict})"
    note = f"Of the trained samples, {ledger.filtered:,} gave no policy gradient at some steps."
    return _table("ledger", caption, ("", "samples", "share"), rows, note)


def _excerpt_table(history: History) -> str:
    note = "The first completion of the first and of the last prompt of a batch, not chosen."
    return _table("completions", "Completions to read", HEAD, excerpt_rows(history), note)


def _event_table(history: History) -> str:
    rows = [
        (f"{history.train_seconds(float(event['time'])):.1f} s", figures.event_text(event))
        for event in history.events[-SHOWN_EVENTS:]
    ]
    hidden = len(history.events) - len(rows)
    note = f"{hidden} earlier events are in events.jsonl." if hidden else ""
    return _table("events", "Events", ("training", "what happened"), rows, note)


def _condition_table(status: VACOJobStatus) -> str:
    rows = [(c.type, c.status, c.reason, c.message) for c in status.conditions]
    return _table("conditions", "Conditions", ("condition", "status", "reason", "message"), rows)


def _table(
    name: str, caption: str, head: Iterable[str], rows: Iterable[Iterable[str]], note: str = ""
) -> str:
    heading = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<section id="{name}"><h2>{escape(caption)}</h2>'
        f"<table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"
        f"<p>{escape(note)}</p></section>"
    )


def _footer(job: VACOJob, history: History) -> str:
    parts = [f"job {job.metadata.uid}", f"{len(history.updates)} updates shown"]
    if history.undone:
        parts.append(f"{history.undone} updates undone by restarts left out")
    if history.damaged:
        parts.append(f"{history.damaged} damaged lines left out")
    return f"{'; '.join(parts)}; written {time.strftime('%Y-%m-%d %H:%M:%S %Z')}."
