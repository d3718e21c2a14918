"""Finding the jobs that the selecting options match, in the order of a list."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from math import inf
from typing import TYPE_CHECKING, Any

from queuectl.cli import render
from queuectl.cli.progress import Progress
from queuectl.errors import QueuectlError
from queuectl.record.job import command_line
from queuectl.states import FINISHED, STATES
from queuectl.system.moving import status_of

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from queuectl.record.job import Job
    from queuectl.spool.layout import Found, Layout

    _Missed = Callable[[str, Exception], None]

_CHUNK = 512  # jobs read together


@dataclass(frozen=True)
class Selection:
    """The values of the options that select jobs."""

    states: tuple[str, ...]
    tags: tuple[str, ...] = ()
    older_than_s: float | None = None
    newer_than_s: float | None = None
    command_matches: re.Pattern[str] | None = None
    error_matches: re.Pattern[str] | None = None

    @classmethod
    def of(cls, options: dict[str, Any], default: Sequence[str] = STATES) -> Selection:
        """Return the selection in a command's options; without --state, in the `default` states."""
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
        """Whether it selects by more than states."""
        ages = self.older_than_s, self.newer_than_s
        wanted = (*ages, self.command_matches, self.error_matches)
        return bool(self.tags) or any(item is not None for item in wanted)

    def admits(self, found: Found, written_at: Callable[[], float], now: float) -> bool:
        """Tell whether a job of these states is selected; `written_at` is called only if needed."""
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
    """Return a command as one would type it, with its line breaks."""
    return job.command if isinstance(job.command, str) else command_line(job.command)


def changed_at(found: Found) -> float:
    """Return when something last happened to a job, by its record; `inf` if that does not tell."""
    over = ("finished_at",) if found.state in FINISHED else ()
    for field in (*over, "updated_at", "created_at"):
        at_s = found.job.instant(field)
        if at_s is not None:
            return at_s
    return inf


def select(
    spool: Layout,
    selection: Selection,
    limit: int | None = None,
    *,
    newest_first: bool = False,
    collects: bool = False,
) -> Iterator[Found]:
    """Yield the selected jobs, state by state, and by id within a state.

    A person at the terminal sees the progress until the first job comes, or to the end if
    `collects`.

    Args:
        spool: the spool to look in.
        selection: which jobs.
        limit: yield at most so many; None: all.
        newest_first: yield the last written first, whatever their state.
        collects: the caller prints nothing before it has all of them.
    """
    # to find the first few of a million names is cheaper than to sort all
    few = None if selection.narrow else limit
    now = time.time()
    newer_than_s = selection.newer_than_s
    since_s = -inf if newer_than_s is None else now - newer_than_s
    progress = Progress()
    missed = partial(_cannot_be_read, progress)
    order = _newest_first if newest_first else _by_id
    found = order(spool, selection.states, few, since_s, missed)
    wanted = _admitted(spool, selection, found, now)
    return islice(_shown(wanted, progress, collects=collects), limit)


def _admitted(
    spool: Layout, selection: Selection, found: Iterable[Found], now: float
) -> Iterator[Found | None]:
    """Yield each selected job, and None for each other job."""
    for item in found:
        is_wanted = selection.admits(item, partial(_written_at, spool, item), now)
        yield item if is_wanted else None


def _shown(
    looked_at: Iterable[Found | None], progress: Progress, *, collects: bool
) -> Iterator[Found]:
    """Yield the selected jobs, and show how many were looked at."""
    with progress:
        for number, item in enumerate(looked_at, 1):
            if item is not None:
                if not collects:
                    progress.leave()  # the job may be printed on this terminal, or by a pager
                yield item
            progress.tell(partial("{:,} looked at ...".format, number))


def _by_id(
    spool: Layout, states: Sequence[str], few: int | None, since_s: float, missed: _Missed
) -> Iterator[Found]:
    if few is not None:
        for state in states:
            names = heapq.nsmallest(few, spool.names(state))
            yield from spool.jobs(state, names, missed)
        return
    listed: dict[str, list[str]] = {state: [] for state in states}
    # List all before reading any: reading takes longer, and jobs move meanwhile. A file whose time
    # rules it out is not read.
    entries = partial(_at_no_time, spool) if since_s == -inf else spool.written
    for written_s, state, job_id in _listed(spool, states, entries):
        if written_s > since_s:
            listed[state].append(job_id)
    shown: set[str] = set()
    for state in states:
        for found in spool.jobs(state, sorted(listed[state]), missed):
            shown.add(found.job.id)
            yield found
    if len(states) > 1:
        missing = set(chain.from_iterable(listed.values())) - shown  # deleted or moved meanwhile
        for state in states:
            names = sorted(missing.intersection(spool.names(state))) if missing else []
            for found in spool.jobs(state, names):
                missing.discard(found.job.id)
                yield found


def _newest_first(
    spool: Layout, states: Sequence[str], few: int | None, since_s: float, missed: _Missed
) -> Iterator[Found]:
    written = (item for item in _listed(spool, states, spool.written) if item[0] > since_s)
    newest = iter(sorted(written, reverse=True) if few is None else heapq.nlargest(few, written))
    shown: set[str] = set()
    while chunk := list(islice(newest, _CHUNK)):
        there: dict[tuple[str, str], Found] = {}
        for state in states:
            names = [job_id for _, its_state, job_id in chunk if its_state == state]
            found = spool.jobs(state, names, missed) if names else ()
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
    """Yield the time of writing, the state and the id of all jobs that `entries` gives.

    A job that moves meanwhile could get from a directory not listed yet to one that was. So the
    states that jobs move between are listed twice, and then those in which they end.
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
    """Return a job that moved since it was listed, as new ones often do, if its state is wanted."""
    try:
        found = spool.find(job_id)
    except QueuectlError:  # deleted, or unreadable, which was reported
        return None
    return found if found.state in states else None


def _cannot_be_read(progress: Progress, path: str, error: Exception) -> None:
    progress.end_line()
    why = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{path}: ")
    render.note(f"queuectl: {path} cannot be read: {why}")


def _written_at(spool: Layout, found: Found) -> float:
    path = spool.file(found.state, found.job.id)
    if found.owner is not None:
        path = spool.held_file(found.job.id, found.owner)
    status = status_of(path)
    return inf if status is None else status.st_mtime
