"""`queuectl status`: the spool as it is now, for people, programs and Prometheus."""

from __future__ import annotations

import time
from collections import defaultdict
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.columns import columns
from queuectl.cli.opening import spool_to_read
from queuectl.ids import first_of
from queuectl.states import STATES, WAITING
from queuectl.units import duration_text, plain, utc_text
from queuectl.workers import owners, requests
from queuectl.workers.hindrances import NO_WORKER, SEE_LOG, continued_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from queuectl.spool.layout import Found, Layout

    _Runs = defaultdict[str | None, list[Found]]

_DUE_READ = 1000  # files of a state read at most to tell what is due next
_DUE_SHOWN = 5
_SETTLED_S = 1.0  # a job is held no longer than this after its end, except on a very slow disk
_RUNNING_SHOWN = 20  # jobs of each worker
_FORMATS = ("text", "json", "prometheus")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="text",
    help="text, json, or prometheus for a textfile collector.",
)
@click.pass_context
def status(ctx: click.Context, /, *, as_json: bool, form: str) -> None:
    """Show how many jobs are in each state, what each worker runs, and what is due when.

    \b
    queuectl status
    queuectl status --json
    queuectl status --format prometheus > q.tmp && mv q.tmp queuectl.prom
    """
    if as_json and form == "prometheus":
        raise click.UsageError("--json and --format prometheus cannot be combined")
    spool = spool_to_read(ctx)
    runs = by_owner(spool.running())
    document = _describe(spool, runs)
    if form == "prometheus":
        from queuectl.cli.metrics import exposition

        running = chain.from_iterable(runs.values())
        text = exposition(spool, document, running, now=time.time())
        click.echo(text, nl=False, color=True)
    elif as_json or form == "json":
        due = [
            {"id": found.job.id, "state": found.state, "at": utc_text(at)}
            for at, found in _due(spool)[:_DUE_SHOWN]
        ]
        render.json_document({**document, "due": due})
    else:
        _print_status(spool, document, runs)


def _describe(spool: Layout, runs: _Runs) -> dict[str, Any]:
    """Return what `status --json` prints, except what is due; no job at rest is read for it."""
    return {
        "spool": spool.path,
        "paused": spool.paused,
        "jobs": {state: sum(1 for _ in spool.file_names(state)) for state in STATES},
        "workers": describe_workers(spool, runs),
        "lost": describe_lost(spool),
    }


def describe_workers(spool: Layout, runs: _Runs) -> list[dict[str, Any]]:
    """Return the pools that are alive, with the ids of the jobs that each runs."""
    return [
        {
            "worker": worker.worker,
            "host": worker.host,
            "pid": worker.pid,
            "user": owners.user_of(spool, worker.worker),
            "slots": worker.slots,
            "since": worker.since,
            "version": worker.version,
            "stopping": requests.is_asked_to_stop(spool, worker.worker),
            "suspended": worker.suspended,
            "stalled": owners.is_stalled(spool, worker.worker),
            "running": [found.job.id for found in runs[worker.worker]],
        }
        for worker in owners.workers(spool)
    ]


def describe_lost(spool: Layout) -> list[dict[str, Any]]:
    """Return the jobs that are held by dead owners, or by nobody, and are not recovered yet."""
    return [
        {"worker": owner, "ids": sorted(job_ids)}
        for owner, job_ids in sorted(_held_by_owner(spool).items())
        if owners.is_lost(spool, owner)
    ]


def busy_slots(worker: dict[str, Any], runs: Sequence[Found]) -> int:
    """Return how many of these jobs a worker runs; some that it holds may have just ended.

    The result exceeds its slots only if their number was lowered since.
    """
    slots: int = worker["slots"]
    before = time.time() - _SETTLED_S
    surely = sum((found.job.instant("started_at") or 0.0) < before for found in runs)
    return max(min(len(runs), slots), surely)


def by_owner(running: Iterable[Found]) -> _Runs:
    """Return the jobs that run, grouped by owner and sorted by id."""
    runs: _Runs = defaultdict(list)
    for found in sorted(running, key=lambda found: found.job.id):
        runs[found.owner].append(found)
    return runs


def _held_by_owner(spool: Layout) -> dict[str, list[str]]:
    held: dict[str, list[str]] = {}
    for job_id, owner, _ in spool.held():
        held.setdefault(owner, []).append(job_id)
    return held


def _print_status(spool: Layout, document: dict[str, Any], runs: _Runs) -> None:
    paused = click.style("  paused: nothing new starts", fg="yellow") if document["paused"] else ""
    click.echo(f"spool    {plain(document['spool'])}{paused}")
    jobs = "  ".join(f"{render.state_text(s)} {n:,}" for s, n in document["jobs"].items())
    click.echo(f"jobs     {jobs}")
    for number, worker in enumerate(document["workers"]):
        head = "workers  " if number == 0 else "         "
        up = render.since_text(worker["since"])
        who = f" as {plain(worker['user'])}" if spool.config.shared else ""
        busy = f"{busy_slots(worker, runs[worker['worker']])} of {worker['slots']} busy"
        busy += ", stopping" if worker["stopping"] else ""
        busy += f", suspended ({continued_by(worker['pid'])})" if worker["suspended"] else ""
        busy += f", stalled ({SEE_LOG})" if worker["stalled"] else ""
        click.echo(f"{head}{worker['worker']}{who}  {busy}, up {up}")
        _print_running(spool, runs[worker["worker"]])
    if not document["workers"]:
        waits = any(document["jobs"][state] for state in WAITING)
        hint = f"; {NO_WORKER.todo}" if waits else ""
        click.echo(f"workers  none{hint}")
    for lost in document["lost"]:
        who = f"{plain(lost['worker'])}, which is dead" if lost["worker"] else "nobody"
        click.echo(f"lost     {plain(first_of(lost['ids']))}, held by {who}")
        seen = owners.look_up(spool, lost["worker"])
        click.echo(f"           ({owners.recovered_by(spool, lost['worker'], seen)})")
    _print_due(spool, document["jobs"])
    if document["jobs"]["dead"]:
        render.remark("`queuectl dlq list` says why jobs are dead")


def _print_running(spool: Layout, runs: list[Found]) -> None:
    for found in runs[:_RUNNING_SHOWN]:
        click.echo(_running_text(spool, found))
    if len(runs) > _RUNNING_SHOWN:
        more = len(runs) - _RUNNING_SHOWN
        click.echo(f"           and {more} more: `queuectl list --state processing`")


def _running_text(spool: Layout, found: Found) -> str:
    job = found.job
    since = render.since_text(job.record.get("started_at"))
    is_known = render.limit_is_known(spool, found)
    limit_s = job.timeout_s(spool.config.job_timeout) if is_known else None
    limit = "" if limit_s is None else f" of {duration_text(limit_s)}"
    text = f"           {plain(job.id)}  {since}{limit}  "
    room = max(20, render.cell_limit(1) - columns(text))
    return text + render.command_text(job.command, room)


def _due(spool: Layout) -> list[tuple[float, Found]]:
    """Return what is due, the next first; of very many, read only some, since a person waits."""
    due, now = [], time.time()
    for state in ("failed", "pending"):
        for found in islice(spool.jobs(state), _DUE_READ):
            at = found.job.not_before(state, now)
            if at is not None and (at > now or state == "failed"):
                due.append((at, found))
    return sorted(due, key=lambda item: item[0])


def _print_due(spool: Layout, counts: dict[str, int]) -> None:
    due = _due(spool)
    for number, (at, found) in enumerate(due[:_DUE_SHOWN]):
        head = "due      " if number == 0 else "         "
        why = found.job.error if found.state == "failed" else ""
        line = f"{head}{plain(found.job.id)}  {render.in_text(at)}  {plain(why)}"
        click.echo(line.rstrip())
    if due and any(counts[state] > _DUE_READ for state in WAITING):
        click.echo(f"         (of {_DUE_READ} read in each of failed/ and pending/)")
    elif len(due) > _DUE_SHOWN:
        click.echo(f"         and {len(due) - _DUE_SHOWN} later")
