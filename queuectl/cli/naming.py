"""Which job is meant: by its id, by the beginning of one, or as the one that began last."""

from __future__ import annotations

import heapq
import os
import sys
import time
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from queuectl import variables
from queuectl.cli import render
from queuectl.errors import NoSuchJobError
from queuectl.filenames import SUFFIX
from queuectl.ids import first_of, is_id, is_made, new_id
from queuectl.states import OUTCOMES, STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.layout import Found, Layout


def resolve_id(spool: Layout, text: str, states: Sequence[str] = STATES) -> str:
    """Return the id that `text` is, or the only one that begins so: which, is said.

    Raises:
        NoSuchJobError: no job is, or several are.
    """
    return _said(text, _only_one(spool, text, states))


def _newest_that_ran(spool: Layout, state: str, looked_at: int = sys.maxsize) -> list[Found]:
    """Return the jobs of a state that were written last, of those looked at that ever ran."""
    newest = heapq.nlargest(looked_at, spool.written(state), key=itemgetter(1))
    found = spool.jobs(state, [job_id for job_id, _ in newest])
    return list(islice((item for item in found if item.job.run_number), _NEWEST))


_COMPARED = 5000  # ids with one that is none: 0.1 s
_NEWEST = 100  # jobs, of which that which began last may have been written a while ago


def last_begun(spool: Layout) -> str:
    """Return the id of the job whose command began last, as far as can be told: which, is said.

    Raises:
        NoSuchJobError: none has begun.
    """
    begun = list(spool.running())
    for state in OUTCOMES:
        begun += _newest_that_ran(spool, state, _NEWEST) or _newest_that_ran(spool, state)
    times = ((found.job.instant("started_at") or 0.0, found.job.id) for found in begun)
    _, job_id = max(times, default=(0.0, ""))
    if not job_id:
        raise NoSuchJobError("no job has begun yet; `queuectl list` shows what there is")
    render.note(f'queuectl: the last that began is "{job_id}"')
    return job_id


def _said(text: str, job_id: str) -> str:
    if job_id != text:
        render.note(f'queuectl: "{text}" is the beginning of "{job_id}"')
    return job_id


def _only_one(spool: Layout, text: str, states: Sequence[str]) -> str:
    try:
        spool.locate(text)
    except NoSuchJobError:
        if is_made(text) and text < new_id(time.time()):
            # whole, and gone: not worth listing a million names for, but for what `numbered` makes
            states = [state for state in states if state == "dead"]
        found = {name for state in states for name in spool.names(state) if name.startswith(text)}
        if not found and text in STATES:
            msg = f'no job "{text}"; `queuectl list --state {text}` shows those that are'
            raise NoSuchJobError(msg) from None
        if not found and (near := _nearest(spool, text)) is not None:
            raise NoSuchJobError(f'no job "{text}"; did you mean "{near}"?') from None
        if not text or not is_id(text) or not found:
            raise
        if len(found) > 1:
            few = first_of(sorted(found))
            msg = f'"{text}" is the beginning of {len(found)} ids ({few}); give more of it'
            raise NoSuchJobError(msg) from None
        return found.pop()
    return text


def _nearest(spool: Layout, text: str) -> str | None:
    """Return the id that was meant by a file's name, or that somebody has misspelt, if any."""
    from difflib import get_close_matches  # only on the way to an error

    in_path = os.path.basename(text).removesuffix(SUFFIX).partition("@")[0]
    if in_path != text:
        try:
            spool.locate(in_path)
        except NoSuchJobError:
            return None
        return in_path
    if is_made(text):
        return None
    thought_of = (name for state in STATES for name in spool.names(state) if not is_made(name))
    near = get_close_matches(text, islice(thought_of, _COMPARED), n=1, cutoff=0.75)
    return near[0] if near else None


def id_to_change(spool: Layout, text: str, states: Sequence[str] = STATES) -> str:
    """Do what `resolve_id` does, but take only ids that were made by us by their beginning.

    One that a person has given is whole: once job1 is gone, it would be job10 that is changed.

    Raises:
        NoSuchJobError: no job is, or several are.
    """
    job_id = _only_one(spool, text, states)
    if job_id != text and not is_made(job_id):
        raise NoSuchJobError(f'no job "{text}"; did you mean "{job_id}"?')
    return _said(text, job_id)


def is_this_job(spool: Layout, job_id: str) -> bool:
    """Tell whether we are a command of that job, or something that one left behind."""
    ours = os.environ.get(variables.JOB_ID), os.environ.get(variables.SPOOL)
    return ours == (job_id, spool.path)
