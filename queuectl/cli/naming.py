"""Finding the job that is meant: by its id, by the beginning of it, or as the last to begin."""

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
    """Return the id that is `text`, or the only id that begins with it, which is then printed.

    Raises:
        NoSuchJobError: no id begins with `text`, or several do.
    """
    return _said(text, _only_one(spool, text, states, "give more of it"))


def _newest_that_ran(spool: Layout, state: str, looked_at: int = sys.maxsize) -> list[Found]:
    """Return, of the `looked_at` last written jobs of a state, up to `_NEWEST` that ever ran."""
    newest = heapq.nlargest(looked_at, spool.written(state), key=itemgetter(1))
    found = spool.jobs(state, [job_id for job_id, _ in newest])
    return list(islice((item for item in found if item.job.run_number), _NEWEST))


_COMPARED = "queuectl.compared"  # in `Context.meta`: an unknown id was compared with others
_MOST_LISTED, _MOST_COMPARED = 100_000, 1000
_OUTPUT = re.compile(r"\.\d+\.(out|err)$")  # what follows the id in the names of logs/
_NEWEST = 100  # jobs of a state; the one that began last need not be the last written


def last_begun(spool: Layout) -> str:
    """Return the id of the job whose command began last, as far as can be told, and print it.

    Raises:
        NoSuchJobError: no job has begun.
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


def _only_one(spool: Layout, text: str, states: Sequence[str], todo: str) -> str:
    try:
        spool.locate(text)
    except NoSuchJobError:
        if is_made(text) and text < new_id(time.time()):
            # A complete id, whose job is gone. A million names are not worth listing for it, except
            # in dead/, where there may be one that `numbered` made from it.
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
            msg = f'"{text}" is the beginning of {len(found)} ids ({few}); {todo}'
            raise NoSuchJobError(msg) from None
        return found.pop()
    return text


def _nearest(spool: Layout, text: str, states: Sequence[str]) -> str | None:
    """Return the id that a file's name or a misspelling stands for, None if there is none."""
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
    asked[_COMPARED] = True  # this takes 0.1 s: do it only for the first of many unknown ids
    names = islice(chain.from_iterable(map(spool.names, states)), _MOST_LISTED)
    ours = (name for name in names if not is_made(name) and not _differ_by_a_number(name, text))
    others = {name.lower(): name for name in islice(ours, _MOST_COMPARED)}
    from difflib import get_close_matches  # only on the way to an error

    near = get_close_matches(text.lower(), others, n=1, cutoff=0.75)
    return others[near[0]] if near else None


def _differ_by_a_number(one: str, other: str) -> bool:
    """Tell whether two ids differ only in numbers, and so are no misspelling: job1 and job2."""
    one, other = one.lower(), other.lower()
    return one != other and re.sub(r"\d+", "0", one) == re.sub(r"\d+", "0", other)


def id_to_change(spool: Layout, text: str, states: Sequence[str] = STATES) -> str:
    """Return what `resolve_id` does, but let only ids that queuectl made be abbreviated.

    An id that a person chose has to be complete: once job1 is gone, `job1` would change job10.

    Raises:
        NoSuchJobError: no such id begins with `text`, or several do.
    """
    job_id = _only_one(spool, text, states, "give the whole id")
    if job_id != text and not is_made(job_id):
        raise NoSuchJobError(f'no job "{text}"; did you mean "{job_id}"?')
    return _said(text, job_id)


def is_this_job(spool: Layout, job_id: str) -> bool:
    """Tell whether we run in the command of this job, or were left behind by it."""
    ours = os.environ.get(variables.JOB_ID), os.environ.get(variables.SPOOL)
    return ours == (job_id, spool.path)
