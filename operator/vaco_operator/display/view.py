"""What one sees of a run: a live picture in a terminal, plain lines everywhere else.

Both are made of the status alone, so `vaco status --watch` shows what `vaco run` shows. They are
drawn by the thread that calls them, and only then.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from vaco.job import AccuracyStatus, LedgerStatus, StopSpec, VACOJobStatus

from vaco_operator.display.progress import CURVE_POINTS, Journey, Progress
from vaco_operator.display.words import CONTROL, Words

LINE_SECONDS: Final = 5.0
ECHO_COLUMNS: Final = 4
_PHASE_STYLES: Final = {
    "Running": "bold green",
    "Complete": "bold green",
    "Failed": "bold red",
    "Suspended": "bold yellow",
}
ENDED: Final = ("Complete", "Failed", "Suspended")
_BARS: Final = "▁▂▃▄▅▆▇█"


class PlainView:
    """Writes a line every few seconds, if it says anything new, and one for each event.

    Args:
        journey: the run so far.
        write: takes a line without its end.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        journey: Journey,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journey = journey
        self._write, self._clock = write, clock
        self._due = float("-inf")
        self._phase = self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing behind: there is nothing."""

    def show(self, status: VACOJobStatus) -> None:
        """Write a line, if it is time or the phase changed."""
        done = self._journey.see(status)
        now = self._clock()
        if now >= self._due or status.phase != self._phase:
            self._due, self._phase = now + LINE_SECONDS, status.phase
            line = status_line(status, done, self._journey.words)
            if line != self._last:
                self._last = line
                self._write(line)

    def note(self, text: str) -> None:
        """Write what happened."""
        self._write(text)


class LiveView:
    """Redraws a picture of the run in place, below what happened.

    Args:
        title: what the run is called.
        journey: the run so far.
        console: a terminal.

    """

    def __init__(self, title: str, journey: Journey, console: Console) -> None:
        self._journey = journey
        self._title = title
        self._live = Live(console=console, auto_refresh=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, status: VACOJobStatus) -> None:
        """Redraw the picture."""
        done = self._journey.see(status)
        journey = self._journey
        drawn = picture(self._title, status, done, journey.curve, journey.words)
        # A terminal echoes ^C after the last line: were that full, the echo would wrap, and the
        # picture be redrawn one line too low.
        width = max(20, self._live.console.width - ECHO_COLUMNS)
        self._live.update(Constrain(drawn, width), refresh=True)

    def note(self, text: str) -> None:
        """Write what happened above the picture."""
        self._live.console.print(Text(text, style="dim"))


def open_view(
    title: str,
    stop: StopSpec,
    console: Console,
    first_return: float | None = None,
    words: Words = CONTROL,
) -> PlainView | LiveView:
    """Choose what suits the place: a picture for a terminal, lines for a file or a pipe."""
    journey = Journey(stop, first_return, words)
    # Colours may be forced upon a pipe; a picture that redraws itself may not.
    if console.file.isatty() and not console.is_dumb_terminal:
        return LiveView(title, journey, console)
    return PlainView(journey, lambda line: console.out(line, highlight=False))


def status_line(status: VACOJobStatus, done: Progress, words: Words = CONTROL) -> str:
    """Tell a status in one line."""
    if status.phase in ("Pending", "Starting"):
        return f"{status.phase}: {status.message}" if status.message else status.phase
    parts = (
        f"{status.train_seconds:.0f} s {status.phase} {done.share:.0%}",
        *([done.missed] if done.missed else []),
        *([f"accuracy {accuracy_text(status.accuracy)}"] if words.accurate else []),
        f"{words.earned} {_earned(status, words)}",
        f"{words.samples} {status.env_steps:,} ({status.steps_per_second:,.0f}/s)",
        f"version {status.version}",
        f"{words.lag} p50 {status.lag.p50:.1f} p95 {status.lag.p95:.1f}",
        f"{words.tv} {_or_dash(status.tv, '.3f')}/{_or_dash(status.tv_threshold, '.3f')}",
        f"{words.filtered} {_or_dash(status.filtered_share, '.1%')}",
        f"actors {status.actors.ready}/{status.actors.desired}",
        ledger_text(status.ledger),
    )
    return " | ".join(parts)


def picture(
    title: str,
    status: VACOJobStatus,
    done: Progress,
    curve: list[float],
    words: Words = CONTROL,
) -> RenderableType:
    """Draw a status.

    Args:
        title: what the run is called.
        status: of the run.
        done: how far it is.
        curve: the curve so far.
        words: that fit the job.

    """
    heading = Text.assemble(
        (title, "bold"), "  ", (status.phase, _PHASE_STYLES.get(status.phase, "bold cyan"))
    )
    if done.missed:
        heading.append(f"  {done.missed}", "bold yellow")
    way = Table.grid(expand=True, padding=(0, 1))
    way.add_column(ratio=1)
    way.add_column(justify="right")
    way.add_row(
        ProgressBar(total=1.0, completed=done.share), Text(f"{done.share:.0%}  {done.text}")
    )
    parts: list[RenderableType] = [way, _figures(status, curve, words)]
    if words.accurate:
        parts.append(_labelled("accuracy", accuracy_text(status.accuracy)))
    if status.scaling.last_reason:
        parts.append(_labelled("scaling", status.scaling.last_reason))
    parts.append(_labelled("ledger", ledger_text(status.ledger)))
    # How it ended is said in full below the picture.
    if status.message and status.phase not in ENDED:
        parts.append(_labelled("message", status.message))
    return Panel(Group(*parts), title=heading, title_align="left", border_style="dim")


def ledger_text(ledger: LedgerStatus) -> str:
    """Tell the account of the samples."""
    return (
        f"received {ledger.received:,} = trained {ledger.trained:,} + queued {ledger.queued:,}"
        f" + stale {ledger.stale:,} + duplicate {ledger.duplicate:,}"
        f" + rejected {ledger.rejected:,}"
    )


def accuracy_text(accuracy: AccuracyStatus | None) -> str:
    """Tell the share of right answers: now, before training, and the best so far."""
    if accuracy is None:
        return "-"
    now, first, best = accuracy.latest, accuracy.initial, accuracy.best
    return (
        f"{_or_dash(now, '.1%')} (initial {_or_dash(first, '.1%')}, best {_or_dash(best, '.1%')})"
    )


def sparkline(values: list[float], width: int) -> str:
    """Draw the last `width` values as bars between their least and their greatest."""
    shown = values[-width:]
    if not shown:
        return ""
    least, span = min(shown), max(shown) - min(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - least) / span * top) if span else 0] for value in shown)


def _figures(status: VACOJobStatus, curve: list[float], words: Words) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(style="dim")
        table.add_column()
    lag, actors = status.lag, status.actors
    table.add_row(
        *(words.earned, Text(_earned(status, words), style="bold")),
        *(f"{words.samples}/s", f"{status.steps_per_second:,.0f}"),
        *(words.samples, f"{status.env_steps:,} in {status.train_seconds:.0f} s"),
    )
    table.add_row(
        *("version", f"{status.version:,}"),
        *(words.lag, f"p50 {lag.p50:.1f}  p95 {lag.p95:.1f}"),
        *("actors", f"{actors.ready}/{actors.desired} ready, {actors.min} to {actors.max}"),
    )
    table.add_row(
        *(words.tv, _tv(status)),
        *(words.filtered, _or_dash(status.filtered_share, ".1%")),
        *("curve", sparkline(curve, CURVE_POINTS // 2)),
    )
    return table


def _earned(status: VACOJobStatus, words: Words) -> str:
    # Rewards are often 0 or 1.
    return _or_dash(status.return_mean, ".3f" if words.accurate else ".1f")


def _tv(status: VACOJobStatus) -> Text:
    over = (
        status.tv is not None
        and status.tv_threshold is not None
        and status.tv > status.tv_threshold
    )
    text = f"{_or_dash(status.tv, '.3f')} of {_or_dash(status.tv_threshold, '.3f')}"
    return Text(text, style="yellow" if over else "")


def _labelled(label: str, text: str) -> Text:
    return Text.assemble((f"{label}  ", "dim"), text, overflow="ellipsis", no_wrap=True)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
