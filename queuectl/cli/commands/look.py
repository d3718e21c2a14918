"""`queuectl list` and `show`, which read and change nothing."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.columns import fit
from queuectl.cli.completing import complete_ids
from queuectl.cli.matching import Selection, changed_at, select
from queuectl.cli.misses import Misses
from queuectl.cli.naming import last_begun, resolve_id
from queuectl.cli.opening import spool_to_read
from queuectl.cli.params import Count, json_option
from queuectl.cli.selection import select_options, selects
from queuectl.record.outcome import CODES, ended_text, is_cancelled, means_later
from queuectl.spool.filenames import STREAMS
from queuectl.spool.joblogs import log_file, record_here
from queuectl.states import FINISHED, STATES
from queuectl.system.moving import is_there
from queuectl.units import codes_text, duration_text, instant, plain
from queuectl.workers import owners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from queuectl.record.job import Job
    from queuectl.spool.layout import Found, Layout

_LEAST_DETAIL = 20
_DETAIL_SHARE = 3  # DETAIL may take a third of a line

_limit_option = click.option(
    "--limit",
    type=Count(min=0),
    callback=lambda _ctx, _param, value: value if value is None else min(value, sys.maxsize),
    metavar="N",
    help="List at most N jobs.",
)
_newest_option = click.option(
    "--newest-first", is_flag=True, help="Last changed first, whatever the state."
)


def listing_options(command: Any) -> Any:
    """Add the options of a command that lists jobs: their order, their number, the format."""
    ids = click.option("--ids", "only_ids", is_flag=True, help="Print only ids, one per line.")
    for option in (ids, json_option, _limit_option, _newest_option):
        command = option(command)
    return command


@click.command("list")
@click.argument("texts", metavar="[ID]...", nargs=-1, shell_complete=complete_ids())
@select_options(*STATES)
@listing_options
@click.pass_context
def list_jobs(ctx: click.Context, /, texts: tuple[str, ...], **options: Any) -> None:
    """List jobs, sorted by state, then by id (the ids that queuectl makes sort by time).

    Jobs that move to another state while it looks come last.

    \b
    queuectl list --state failed --state dead
    queuectl list --newest-first --limit 20
    queuectl list --tag nightly --json
    queuectl list --error-matches '^timed out' --ids | xargs -r queuectl logs
    queuectl list --state completed --older-than 2h --command-matches '^rsync '
    queuectl list job1 job2 --json
    """
    selection = Selection.of(options)
    selects(selection, texts)  # raises if jobs are named too
    if texts:
        _print_named(spool_to_read(ctx), texts, options)
    else:
        print_selected(spool_to_read(ctx), selection, options)


def print_selected(spool: Layout, selection: Selection, options: dict[str, Any]) -> None:
    """Print the selected jobs as the listing options say."""
    newest_first, limit = options["newest_first"], options["limit"]
    _print_list(spool, select(spool, selection, limit, newest_first=newest_first), options)


def _print_named(spool: Layout, texts: Sequence[str], options: dict[str, Any]) -> None:
    """Print the named jobs in the order given; exit with status 1 if a name stands for no job."""
    misses = Misses()

    def found() -> Iterator[Found]:
        shown: set[str] = set()
        for text in dict.fromkeys(texts):
            with misses.noted():
                job_id = resolve_id(spool, text)
                if job_id not in shown:
                    shown.add(job_id)
                    yield spool.find(job_id)

    if options["newest_first"]:
        named = iter(sorted(found(), key=changed_at, reverse=True))
    else:
        named = found()
    _print_list(spool, islice(named, options["limit"]), options, misses)
    misses.exit()


def _print_list(
    spool: Layout, found: Iterator[Found], options: dict[str, Any], misses: Misses | None = None
) -> None:
    """Print jobs as the listing options say; note if there are none, and `misses` had none."""
    if options["as_json"] and options["only_ids"]:
        raise click.UsageError("--json and --ids cannot be combined")
    if options["as_json"]:
        render.json_array(record_here(spool, item) for item in found)
    elif options["only_ids"]:
        for item in found:
            click.echo(plain(item.job.id))
    else:
        any_shown = _print_jobs(spool, found)
        if not any_shown and not (misses and misses.count):
            render.remark("no jobs match")


def _print_jobs(spool: Layout, found: Iterator[Found]) -> bool:
    """Print a table of jobs; tell whether there are any."""
    table = render.Table("ID", "STATE", "TRIES", "DETAIL", "COMMAND", cuts_last=True)
    empty = True
    max_retries = spool.config.max_retries
    is_lost = cache(partial(owners.is_lost, spool))
    for item in found:
        empty = False
        job = item.job
        tries = "-" if job.is_reason else job.tries(max_retries)
        held = item.state == "processing"
        detail = _held_detail(spool, item, is_lost) if held else _detail(item)
        command = render.command_text(job.command)
        table.row(plain(job.id), render.state_text(item.state), tries, detail, command)
    table.end()
    return not empty


def _detail(found: Found) -> str:
    record = found.job.record
    if found.state == "failed":
        when = render.in_text(found.job.not_before("failed", time.time()))
        if means_later(record):
            return f"later {when}"
        why = f": {plain(found.job.error)}" if found.job.error else ""
        return _cut(f"again {when}{why}")
    if found.state == "completed":
        took, since = _took(record), render.since_text(record.get("finished_at"))
        if since == "-":  # it was moved here by hand
            return since
        return f"{since} ago" if took == "-" else f"took {took}, {since} ago"
    if found.state == "dead":
        return _cut(plain(found.job.error))
    run_at = found.job.instant("run_at")
    if run_at is not None and run_at > time.time():
        return render.in_text(run_at)
    return f"priority {found.job.priority}" if found.job.priority else ""


def _held_detail(spool: Layout, found: Found, is_lost: Callable[[str | None], bool]) -> str:
    if is_lost(found.owner):
        return f"lost: {_who_lost(found)}"
    if not spool.has_begun(found.job):
        return "claimed"
    return f"for {render.since_text(found.job.record.get('started_at'))}"


def _who_lost(found: Found) -> str:
    return "its worker is dead" if found.owner else "held by nobody"


def _cut(why: str) -> str:
    return fit(why, max(render.cell_limit(_DETAIL_SHARE), _LEAST_DETAIL), ascii_only=True)


@click.command()
@click.argument("job_id", metavar="[ID]", required=False, shell_complete=complete_ids())
@json_option
@click.pass_context
def show(ctx: click.Context, job_id: str | None, *, as_json: bool) -> None:
    """Show one job: its record, its runs, and where its output is.

    Without ID, the job that began last.

    \b
    queuectl show job1
    queuectl show job1 --json
    """
    spool = spool_to_read(ctx)
    found = spool.find(last_begun(spool) if job_id is None else resolve_id(spool, job_id))
    if as_json:
        render.json_document(record_here(spool, found))
    else:
        print_job(spool, found)


_SHOWN_FIRST = ("id", "state", "command", "error_message")
_TIMES = (
    "created_at",
    "updated_at",
    "started_at",
    "finished_at",
    "next_retry_at",
    "run_at",
)


def print_job(spool: Layout, found: Found) -> None:
    """Print one job for a person."""
    record = record_here(spool, found)
    record.pop("history", None)
    record["timeout"] = _timeout_text(spool, found)
    if found.state == "pending" or is_cancelled(record):  # its last holder, perhaps to edit it
        record.pop("worker", None)
    if record.get("error_message") is None:
        record.pop("error_message", None)
    record.pop("arrived_at", None)  # it decides the place in the order, which `doctor ID` tells
    kept = spool.rejected_file(found.job.id)
    if found.job.is_reason and is_there(kept):
        record.setdefault("kept", kept)
    elif not found.job.is_reason and record.get("cwd") is None:
        record["cwd"] = "the home directory of its worker's user"
    if owners.is_lost(spool, found.owner):
        seen = owners.look_up(spool, found.owner or "")
        how = owners.recovered_by(spool, found.owner or "", seen)
        record.setdefault("lost", f"{_who_lost(found)}; {how}")
    elif found.state == "processing" and not spool.has_begun(found.job):
        record.setdefault("claimed", f"by {found.owner}; it has not begun")
    record.setdefault("processes", _processes_text(spool, found))
    names = [name for name in _SHOWN_FIRST if name in record]
    names += [name for name in record if name not in _SHOWN_FIRST and record[name] is not None]
    width = max(len(plain(name)) for name in names)
    for name in names:
        click.echo(f"{plain(name):<{width}}  {_value_text(name, record[name], width + 2)}")
    _print_history(spool, found)


def _processes_text(spool: Layout, found: Found) -> str | None:
    """Return the pids of a running job, its command's first, as far as they can be seen."""
    if not found.owner:
        return None
    from queuectl.kernel.processes import Tree, parent_of, processes_of
    from queuectl.run.commands import marks_of
    from queuectl.workers.owners import read_worker

    tree = Tree(None, marks_of(found.job.id, found.owner))
    pool = read_worker(spool, found.owner)
    # a process that an earlier run left behind has another parent, and may have a lower pid
    pids = processes_of([tree])[tree]
    pids.sort(key=lambda pid: (pool is None or parent_of(pid) != pool.pid, pid))
    return " ".join(map(str, pids)) or None


def _timeout_text(spool: Layout, found: Found) -> str | None:
    """Return how long a run may take, None if only the setting says so and does not matter."""
    limit_s = found.job.timeout_s(spool.config.job_timeout)
    text = "none" if limit_s is None else duration_text(limit_s)
    if "timeout" in found.job.record:
        return text
    matters = found.state not in FINISHED and render.limit_is_known(spool, found)
    return f"{text} (job-timeout)" if matters else None


def _value_text(name: str, value: Any, indent: int) -> str:
    if name in _TIMES:
        return render.when_text(value)
    if name == "state":
        return render.state_text(value)
    if name in CODES:
        return codes_text(value)
    if name == "later_delay":
        return duration_text(value)
    if name == "command":
        lines = value.splitlines() if isinstance(value, str) else [shlex.join(value)]
        return f"\n{' ' * indent}".join(map(plain, lines))
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _print_history(spool: Layout, found: Found) -> None:
    if not found.job.history:
        return
    click.echo()
    table = render.Table("RUN", "STARTED", "TOOK", "ENDED", "OUTPUT")
    for entry in found.job.history:
        number = entry.get("number", "?")
        table.row(
            plain(str(number)),
            render.when_text(entry.get("started_at")).partition(" (")[0],
            _took(entry),
            ended_text(entry),
            plain(_output(spool, found.job, number)) if isinstance(number, int) else "-",
        )
    table.end()


def _output(spool: Layout, job: Job, number: int) -> str:
    """Return the file with the output of a run: standard error if standard output is empty."""
    paths = [path for path in (log_file(spool, job, number, s) for s in STREAMS) if is_there(path)]
    return next((path for path in paths if os.path.getsize(path)), paths[0] if paths else "-")


def _took(entry: Mapping[str, Any]) -> str:
    started, finished = instant(entry.get("started_at")), instant(entry.get("finished_at"))
    return "-" if started is None or finished is None else duration_text(finished - started)
