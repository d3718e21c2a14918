"""Which job is meant: by its id, by the beginning of one, or as the one that began last."""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import sys
import time
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING

import click

from queuectl import variables
from queuectl.cli import render
from queuectl.errors import NoSuchJobError
from queuectl.ids import first_of, is_id, is_made, new_id
from queuectl.spool.filenames import SUFFIX, split_held
from queuectl.states import OUTCOMES, STATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.spool.layout import Found, Layout


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


_COMPARED = "queuectl.compared"  # in `Context.meta`: ids were, with one that is none
_MOST_LISTED, _MOST_COMPARED = 100_000, 1000
_OUTPUT = re.compile(r"\.\d+\.(out|err)$")  # what a file in logs/ has behind the id
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
    render.note(f'queuectl: the job that began last is "{job_id}"')
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
        if not found and (near := _nearest(spool, text, states)) is not None:
            msg = f'no job "{text}" in {spool.path}; did you mean "{near}"?'
            raise NoSuchJobError(msg) from None
        if not text or not is_id(text) or not found:
            raise
        if len(found) > 1:
            few = first_of(sorted(found))
            msg = f'"{text}" is the beginning of {len(found)} ids ({few}); give more of it'
            raise NoSuchJobError(msg) from None
        return found.pop()
    return text


def _nearest(spool: Layout, text: str, states: Sequence[str]) -> str | None:
    """Return the id that was meant by a file's name, or that somebody has misspelt, if any."""
    return _of_file(spool, text) or _most_alike(spool, text, states)


def _of_file(spool: Layout, text: str) -> str | None:
    name = os.path.basename(text)
    is_jobs = name.endswith(SUFFIX)
    job_id = split_held(name.removesuffix(SUFFIX))[0] if is_jobs else _OUTPUT.sub("", name)
    if job_id == text:
        return None
    with contextlib.suppress(NoSuchJobError):
        spool.locate(job_id)
        return job_id
    return None


def _most_alike(spool: Layout, text: str, states: Sequence[str]) -> str | None:
    context = click.get_current_context(silent=True)
    asked = {} if context is None else context.meta
    if is_made(text) or not is_id(text) or _COMPARED in asked:
        return None
    asked[_COMPARED] = True  # of many that are gone only the first is looked for: 0.1 s
    names = islice(chain.from_iterable(map(spool.names, states)), _MOST_LISTED)
    ours = (name for name in names if not is_made(name) and not _differ_by_a_number(name, text))
    others = {name.lower(): name for name in islice(ours, _MOST_COMPARED)}
    from difflib import get_close_matches  # only on the way to an error

    near = get_close_matches(text.lower(), others, n=1, cutoff=0.75)
    return others[near[0]] if near else None


def _differ_by_a_number(one: str, other: str) -> bool:
    """Tell whether two ids are those of two jobs rather than one misspelt: job1 and job2."""
    one, other = one.lower(), other.lower()
    return one != other and re.sub(r"\d+", "0", one) == re.sub(r"\d+", "0", other)


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
