"""`queuectl stats`: a period in figures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.columns import columns, fit, pad
from queuectl.cli.frame import sparkline
from queuectl.cli.opening import spool_to_read
from queuectl.cli.params import DURATION, json_option
from queuectl.cli.progress import Progress
from queuectl.states import FINISHED, OUTCOMES, STATES
from queuectl.stats.figures import Figures
from queuectl.stats.survey import Survey
from queuectl.units import duration_text, local_text, plain, utc_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PERIOD_S = 7 * 86400
_BAR_COLUMNS = 24
_NAME_COLUMNS = 34
_BESIDE_NAME = 52  # columns of the figures and the bar
_SHARES = ("p50", "p90", "p95", "p99", "max")


def since_option(command: Any) -> Any:
    """Add --since, the period that the figures are for."""
    return click.option(
        "--since",
        "period_s",
        type=DURATION,
        default=_PERIOD_S,
        metavar="DURATION",
        help="How far back to look, such as 24h or 30d. Default: 7d.",
    )(command)


@click.command()
@since_option
@json_option
@click.pass_context
def stats(ctx: click.Context, /, *, period_s: float, as_json: bool) -> None:
    """Show what happened: outcomes, success rate, waits, run times, retries, busiest commands.

    \b
    queuectl stats
    queuectl stats --since 24h --json
    """
    spool = spool_to_read(ctx)
    now = time.time()
    since_s = now - period_s
    survey, figures = Survey(spool, since_s), Figures(since_s, spool.config)
    for record in records_of(survey):
        figures.add(record)
    document = {
        "spool": spool.path,
        "since": since_s,
        "until": now,
        "read": survey.document(),
        "jobs": {state: survey.jobs[state] for state in STATES},
        **figures.document(now),
    }
    if as_json:
        render.json_document(_with_times(document))
    else:
        _print(document, survey)


def _with_times(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with its instants written as in records."""
    timeline = [{**column, "at": utc_text(column["at"])} for column in document["timeline"]]
    times = {name: utc_text(document[name]) for name in ("since", "until")}
    return {**document, **times, "timeline": timeline}


def records_of(survey: Survey) -> Iterator[dict[str, Any]]:
    """Yield the records of a survey, and show the progress to a person at the terminal.

    Raises:
        SpoolError: a directory cannot be read.
    """
    with Progress() as progress:
        yield from survey.records(lambda: progress.tell(lambda: f"{survey.text()} ..."))


# --- for people -----------------------------------------------------------------------------


def _print(document: dict[str, Any], survey: Survey) -> None:
    period = duration_text(document["until"] - document["since"])
    click.echo(f"since     {local_text(document['since'])} ({period})")
    ended = document["ended"]
    parts = [f"{render.state_text(state)} {ended[state]:,}" for state in FINISHED]
    if document["cancelled"]:
        parts[-1] += f" ({document['cancelled']:,} cancelled)"
    rate = document["success_rate"]
    parts.append("" if rate is None else f"success {rate:.1%}")
    click.echo(f"ended     {'  '.join(parts)}".rstrip())
    runs = document["runs"]
    given_back = f", {document['given_back']:,} given back" if document["given_back"] else ""
    click.echo(f"runs      {runs['total']:,}, {document['retries']:,} of them retried{given_back}")
    _print_times(document)
    _print_timeline(document)
    _print_bars("tries until completed", document["tries_to_complete"].items())
    _print_bars("failures", document["failures"].items())
    _print_groups("busiest tags", document["tags"])
    _print_groups("busiest commands (numbers shown as #)", document["commands"])
    more = "; the quietest commands and tags are left out" if document["groups_dropped"] else ""
    render.note("")
    render.note(f"{survey.text()}, in {duration_text(survey.took_s)}{more}")


def _print_times(document: dict[str, Any]) -> None:
    if not document["run_time"]["count"]:
        return
    click.echo()
    table = render.Table("", *_SHARES, "OF")
    for title, key in (("wait", "wait"), ("run time", "run_time")):
        spread = document[key]
        cells = ["-" if spread[name] is None else duration_text(spread[name]) for name in _SHARES]
        table.row(title, *cells, f"{spread['count']:,}")
    table.end()


def _print_timeline(document: dict[str, Any]) -> None:
    timeline = document["timeline"]
    if not timeline:
        return
    click.echo()
    click.echo(click.style(f"runs by outcome, {duration_text(document['step'])} each", bold=True))
    for outcome in OUTCOMES:
        counts = [column[outcome] for column in timeline]
        bars = click.style(
            sparkline(counts, ascii_only=render.ascii_only()), fg=render.COLOURS[outcome]
        )
        click.echo(f"  {outcome:<9} {bars} at most {max(counts):,}")
    click.echo(f"  from {local_text(timeline[0]['at'])}")


def _print_bars(title: str, counts: Iterable[tuple[str, int]]) -> None:
    rows = list(counts)
    if not rows:
        return
    click.echo()
    click.echo(click.style(title, bold=True))
    width = max(columns(plain(name)) for name, _ in rows)
    most = max(count for _, count in rows)
    for name, count in rows:
        click.echo(f"  {pad(plain(name), width)}  {count:>7,}  {_bar(count, most)}")


def _print_groups(title: str, groups: list[dict[str, Any]]) -> None:
    if not groups:
        return
    click.echo()
    click.echo(click.style(title, bold=True))
    room = _NAME_COLUMNS
    if render.person_looks():
        room = max(10, min(room, render.width() - _BESIDE_NAME))
    names = [fit(plain(group["name"]), room, ascii_only=render.ascii_only()) for group in groups]
    width = max(map(columns, names))
    most = max(group["runs"] for group in groups)
    for name, group in zip(names, groups, strict=True):
        failed = f"{group['failed'] / group['runs']:>4.0%} failed" if group["failed"] else " " * 11
        mean = f"{duration_text(group['mean']):>7} each"
        bar = _bar(group["runs"], most, _BAR_COLUMNS // 2)
        runs = f"{group['runs']:>7,}"
        click.echo(f"  {pad(name, width)}  {runs}  {mean}  {failed}  {bar}".rstrip())


def _bar(count: int, most: int, width: int = _BAR_COLUMNS) -> str:
    """Return a bar in eighths of a column; any count above 0 shows."""
    if render.ascii_only():
        return "#" * -(-count * width // most)
    eighths = -(-count * width * 8 // most)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()
