"""Which jobs a command is for: named, or selected by what they are.

A person who is there is asked before many are touched.
"""

from __future__ import annotations

import heapq
import os
import re
import time
import warnings
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.common import DURATION, Misses
from queuectl.cli.naming import id_to_change
from queuectl.errors import QueuectlError
from queuectl.ids import first_of
from queuectl.job import command_line
from queuectl.outcome import CANCELLED, is_cancelled
from queuectl.states import FINISHED, STATES
from queuectl.units import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from queuectl.job import Job
    from queuectl.layout import Found, Layout

    _PatternType = click.ParamType[re.Pattern[str]]
else:
    _PatternType = click.ParamType  # generic only in the newest click

SET_ASIDE = "set aside"  # files that are no jobs
NOT_RETRIED = (SET_ASIDE, CANCELLED)
_LEFT = {
    SET_ASIDE: "`queuectl dlq list` says why",
    CANCELLED: "--error-matches '^cancelled' selects them",
}

_CHUNK = 512  # names that are read together
MANY = 10  # jobs: a person is asked before more are touched


# --- options --------------------------------------------------------------------------------


class _Pattern(_PatternType):
    """A regular expression, found anywhere in a text."""

    name = "regex"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[str]:
        if isinstance(value, re.Pattern):
            return value
        if not value:  # of a variable that is not set, perhaps: it would select all
            self.fail("an empty expression is found everywhere; --all is all", param, ctx)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of [[, which may mean more one day
                return re.compile(value)
        except re.error as error:
            self.fail(f'"{value}" is no regular expression: {error}', param, ctx)
        except (OverflowError, RecursionError):
            self.fail("the expression is too large, or nested too deep", param, ctx)


def _matching(name: str, help_: str) -> Any:
    return click.option(name, type=_Pattern(), metavar="REGEX", help=help_)


def _unchanged(name: str, help_: str) -> Any:
    return click.option(name, type=DURATION, metavar="DURATION", help=help_)


_SELECTING = {
    "--tag": click.option(
        "--tag", "tags", multiple=True, metavar="WORD", help="Only jobs with all of these."
    ),
    "--older-than": _unchanged("--older-than", "Only jobs unchanged for so long."),
    "--newer-than": _unchanged("--newer-than", "Only jobs changed within so long."),
    "--command-matches": _matching(
        "--command-matches", "Only jobs in whose command this is found."
    ),
    "--error-matches": _matching("--error-matches", "Only jobs in whose error this is found."),
}


def tag_option(command: Any) -> Any:
    """Add the option --tag."""
    return _SELECTING["--tag"](command)


def state_option(states: Sequence[str]) -> Callable[[Any], Any]:
    """Return the option --state, for a command to which only these states apply."""
    return click.option(
        "--state",
        "states",
        type=click.Choice(states),
        multiple=True,
        help="Only these; may be repeated.",
    )


def select_options(*states: str) -> Callable[[Any], Any]:
    """Add the options that select jobs; --state only where there is a choice of several."""

    def add(command: Any) -> Any:
        for option in reversed(_SELECTING.values()):
            command = option(command)
        return state_option(states)(command) if len(states) > 1 else command

    return add


def touch_options(command: Any) -> Any:
    """Add the options of a command that changes many jobs at once."""
    command = click.option("--yes", "-y", is_flag=True, help="Do not ask.")(command)
    return click.option(
        "--dry-run", is_flag=True, help="Print the ids that it would be; do nothing."
    )(command)


all_option = click.option("--all", "everything", is_flag=True, help="All that it applies to.")


# --- selecting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Selection:
    """What the options that select say."""

    states: tuple[str, ...]
    tags: tuple[str, ...] = ()
    older_than_s: float | None = None
    newer_than_s: float | None = None
    command_matches: re.Pattern[str] | None = None
    error_matches: re.Pattern[str] | None = None

    @classmethod
    def of(cls, options: dict[str, Any], default: Sequence[str] = STATES) -> Selection:
        """Return the selection in a command's options; `default` holds where --state is not."""
        return cls(
            tuple(dict.fromkeys(options.get("states") or default)),
            options.get("tags", ()),
            options.get("older_than"),
            options.get("newer_than"),
            options.get("command_matches"),
            options.get("error_matches"),
        )

    @property
    def narrow(self) -> bool:
        """Whether it asks for more than states."""
        ages = self.older_than_s, self.newer_than_s
        wanted = (*ages, self.command_matches, self.error_matches)
        return bool(self.tags) or any(item is not None for item in wanted)

    def admits(self, found: Found, written_at: Callable[[], float], now: float) -> bool:
        """Tell whether a job is selected; `written_at` is asked only if need be."""
        job = found.job
        if not all(tag in job.tags for tag in self.tags):
            return False
        if self.command_matches and not self.command_matches.search(_typed(job)):
            return False
        if self.error_matches and not self.error_matches.search(job.error):
            return False

        def is_unchanged_for(seconds: float) -> bool:
            return changed_at(found) <= now - seconds or written_at() <= now - seconds

        if self.older_than_s is not None and not is_unchanged_for(self.older_than_s):
            return False
        return self.newer_than_s is None or not is_unchanged_for(self.newer_than_s)


def _typed(job: Job) -> str:
    """Return a command as one would type it, all its lines as they are."""
    return job.command if isinstance(job.command, str) else command_line(job.command)


def changed_at(found: Found) -> float:
    """Return when something last happened to a job, as its record says: `inf` if it does not."""
    over = ("finished_at",) if found.state in FINISHED else ()
    for field in (*over, "updated_at", "created_at"):
        at_s = found.job.instant(field)
        if at_s is not None:
            return at_s
    return inf


def select(
    spool: Layout, selection: Selection, limit: int | None = None, *, newest_first: bool = False
) -> Iterator[Found]:
    """Yield the jobs that are selected, state by state, by id; at most `limit` of them.

    `newest_first` has the last written come first, whatever its state.
    """
    # of a million names the first few are cheaper to find than all to sort
    few = None if selection.narrow else limit
    found = (_newest_first if newest_first else _by_id)(spool, selection.states, few)
    now = time.time()
    admitted = (
        item for item in found if selection.admits(item, partial(_written_at, spool, item), now)
    )
    return islice(admitted, limit)


def _by_id(spool: Layout, states: Sequence[str], few: int | None) -> Iterator[Found]:
    if few is not None:
        for state in states:
            names = heapq.nsmallest(few, spool.names(state))
            yield from spool.jobs(state, names, _cannot_be_read)
        return
    listed: dict[str, list[str]] = {state: [] for state in states}
    # all of it before any is read, which takes longer
    for _, state, job_id in _listed(spool, states, partial(_at_no_time, spool)):
        listed[state].append(job_id)
    shown: set[str] = set()
    for state in states:
        for found in spool.jobs(state, sorted(listed[state]), _cannot_be_read):
            shown.add(found.job.id)
            yield found
    if len(states) > 1:
        missing = set(chain.from_iterable(listed.values())) - shown  # deleted, or moved meanwhile
        for state in states:
            names = sorted(missing.intersection(spool.names(state))) if missing else []
            for found in spool.jobs(state, names):
                missing.discard(found.job.id)
                yield found


def _newest_first(spool: Layout, states: Sequence[str], few: int | None) -> Iterator[Found]:
    written = _listed(spool, states, spool.written)
    newest = iter(sorted(written, reverse=True) if few is None else heapq.nlargest(few, written))
    shown: set[str] = set()
    while chunk := list(islice(newest, _CHUNK)):
        there: dict[tuple[str, str], Found] = {}
        for state in states:
            names = [job_id for _, its_state, job_id in chunk if its_state == state]
            found = spool.jobs(state, names, _cannot_be_read) if names else ()
            there.update(((state, item.job.id), item) for item in found)
        for _, state, job_id in chunk:
            item = there.get((state, job_id)) or _moved_on(spool, states, job_id)
            if item is not None and job_id not in shown:
                shown.add(job_id)
                yield item


def _at_no_time(spool: Layout, state: str) -> Iterator[tuple[str, float]]:
    return ((job_id, 0.0) for job_id in spool.names(state))


def _listed(
    spool: Layout, states: Sequence[str], entries: Callable[[str], Iterable[tuple[str, float]]]
) -> Iterator[tuple[float, str, str]]:
    """Yield when it was written, the state and the id of what `entries` has of each state.

    Those that jobs move between are listed once more, and where they end last: else one that a pool
    moves could go from a directory not listed yet to one that was.
    """
    moving = [state for state in states if state not in FINISHED]
    known: set[str] = set()
    for state in moving:
        for job_id, written_s in entries(state):
            known.add(job_id)
            yield written_s, state, job_id
    for state in moving if len(moving) > 1 else ():
        for job_id in spool.names(state):
            if job_id not in known:
                yield inf, state, job_id  # it has just moved
    for state in states:
        if state in FINISHED:
            for job_id, written_s in entries(state):
                yield written_s, state, job_id


def _moved_on(spool: Layout, states: Sequence[str], job_id: str) -> Found | None:
    """Return a job that was in one of these states and is in another: the newest move most."""
    try:
        found = spool.find(job_id)
    except QueuectlError:  # deleted, or no job, or not to be read: that was told
        return None
    return found if found.state in states else None


def _cannot_be_read(path: str, error: Exception) -> None:
    why = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
    render.note(f"queuectl: {path} cannot be read: {why}")


def _written_at(spool: Layout, found: Found) -> float:
    path = spool.file(found.state, found.job.id)
    if found.owner is not None:
        path = spool.held_file(found.job.id, found.owner)
    try:
        return os.lstat(path).st_mtime
    except FileNotFoundError:
        return inf


# --- which jobs a command is for ------------------------------------------------------------


def selects(selection: Selection, texts: Sequence[str]) -> bool:
    """Tell whether the options of this command select jobs.

    Raises:
        click.UsageError: they do, and jobs are named too.
    """
    params = click.get_current_context().params
    options = params.get("states"), params.get("everything"), params.get("keep") is not None
    selected = selection.narrow or any(options)
    if texts and selected:
        raise click.UsageError("name jobs or select them, not both")
    return selected


def chosen(  # noqa: PLR0913 - who calls it names those that differ
    spool: Layout,
    texts: Sequence[str],
    selection: Selection,
    *,
    applies_to: Sequence[str] = STATES,
    leaving: Collection[str] = (SET_ASIDE,),
    misses: Misses | None = None,
) -> list[str]:
    """Return the ids that were named, or those of the jobs that were selected.

    What is of a kind in `leaving` is not among the selected, and that is told. A name that is no
    job's, or the beginning of several, is told to `misses`, and the others are returned.

    Raises:
        click.UsageError: neither, or both.
        NoSuchJobError: there is such a name, and no `misses`.
    """
    ctx = click.get_current_context()
    selected = selects(selection, texts)
    if texts:
        found_ids: dict[str, None] = {}
        for text in texts:
            with nullcontext() if misses is None else misses.noted():
                found_ids[id_to_change(spool, text, applies_to)] = None
        return list(found_ids)
    if not selected:
        msg = f"which jobs? name them, or select them by {_ways(ctx)}"
        raise click.UsageError(msg)
    job_ids = []  # of a million jobs only these are kept
    left_out: Counter[str] = Counter()
    for found in select(spool, selection):
        kind = _kind(found, selection)
        if kind in leaving:
            left_out[kind] += 1
        else:
            job_ids.append(found.job.id)
    for kind, count in left_out.items():
        render.note(f"{count} {kind}, not among these: {_LEFT[kind]}")
    return job_ids


def _kind(found: Found, selection: Selection) -> str:
    if found.job.is_reason:
        return SET_ASIDE
    cancelled = found.state == "dead" and is_cancelled(found.job.record)
    return CANCELLED if cancelled and not selection.error_matches else ""


def _ways(ctx: click.Context) -> str:
    have = {name for parameter in ctx.command.params for name in parameter.opts}
    return ", ".join(way for way in ("--state", *_SELECTING, "--all") if way in have)


_ALSO = {"delete": ", with all output, for good"}


def go_ahead(
    job_ids: Sequence[str],
    verb: str,
    options: dict[str, Any],
    misses: Misses,
    ask_above: int = MANY,
) -> bool:
    """Tell whether these jobs are to be touched; print them, or ask the person who is there.

    `verb` is what is done to them: "cancel". A person is one who sees the question and can type.
    Where all that were named were told to `misses`, no more is said.
    """
    if misses.count and not job_ids:
        return False
    count = len(job_ids)
    what = f"{verb} {count} {'job' if count == 1 else 'jobs'}"
    if options.get("dry_run"):
        click.echo("".join(f"{plain(job_id)}\n" for job_id in job_ids), nl=False)
        render.note(f"would {what}; nothing was done")
        return False
    if not count:
        render.note("no such jobs")
        return False
    if count > ask_above and not options.get("yes") and render.person_answers():
        few = plain(first_of(job_ids, 5))
        try:
            agreed = render.confirm(f"{what} ({few}){_ALSO.get(verb, '')}?")
        except click.Abort:
            render.note("nothing was done")
            raise
        if not agreed:
            render.note("nothing was done")
            click.get_current_context().exit(1)
    return True
