"""What people do to existing jobs, by the three steps of every move, and to the whole spool.

spool-layout.md, section "The moves".
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from queuectl import kernel
from queuectl.errors import (
    MovedOnError,
    NotSyncedError,
    QueuectlError,
    SpoolError,
    WrongStateError,
    refused_to,
)
from queuectl.ids import are, is_id
from queuectl.record.job import again
from queuectl.record.outcome import CANCELLED, Outcome, cancelled
from queuectl.spool.filenames import SUFFIX
from queuectl.states import AT_REST, WAITING
from queuectl.system import files, moving
from queuectl.system.together import carry_out_all
from queuectl.system.users import user_name
from queuectl.units import utc_text
from queuectl.workers.registration import Registration

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from typing import TypeGuard

    from queuectl.record.job import Job
    from queuectl.spool.layout import Found, Layout
    from queuectl.spool.moves import Claim
    from queuectl.spool.spool import Spool
    from queuectl.system.files import Steps

    Missed = Callable[[str, QueuectlError], None]

# how many jobs are taken together, each with a descriptor; 128 gained no more, 16 half as much
_TOGETHER = 64
CANCELLABLE = (*WAITING, "processing")
EDITABLE = (*WAITING, "dead")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """Something that can be done to a job.

    Args:
        states: the states in which it applies; nobody holds the jobs in these.
        new_body: returns the new record; a QueuectlError that it raises leaves the job as it was.
        done: the verb's past participle, for messages.
        stays: whether each job is released to the state that it was taken from.
    """

    states: Sequence[str]
    new_body: Callable[[Job], Job]
    done: str
    stays: bool = False


def retry(
    spool: Spool, job_ids: Iterable[str], states: Sequence[str], missed: Missed | None = None
) -> Iterator[str]:
    """Queue jobs in these states again, at 0 attempts; yield each id once it is pending for good.

    Raises:
        QueuectlError: see `apply`.
    """

    def anew(job: Job) -> Job:
        return again(job).changed(updated_at=utc_text(time.time()))

    return apply(spool, job_ids, Verb(states=states, new_body=anew, done="retried"), missed)


def cancel(
    spool: Spool, job_ids: Iterable[str], by: str, missed: Missed | None = None
) -> Iterator[str]:
    """Cancel waiting jobs; yield each id once the job is in dead/ for good.

    Raises:
        QueuectlError: see `apply`.
    """
    how = Outcome(ended=CANCELLED, detail=by)

    def ended(job: Job) -> Job:
        return cancelled(job, how, time.time())

    verb = Verb(states=WAITING, new_body=ended, done="cancelled")
    return apply(spool, job_ids, verb, missed)


def edit(spool: Spool, was: Found, new: Job) -> None:
    """Give a job that waits or is dead a new body, in the state where it is.

    Raises:
        WrongStateError: it has changed or moved meanwhile; nothing was changed.
        QueuectlError: see `apply`, and `Spool.correct`.
    """

    def edited(job: Job) -> Job:
        if job.record != was.job.record:
            raise WrongStateError("it was changed meanwhile")
        return new.arriving_anew().changed(updated_at=utc_text(time.time()))

    if was.state not in WAITING:  # not taken: if a crash left it taken, it would be queued
        try:
            spool.correct(was.state, was.job.id, edited)
        except WrongStateError as error:
            raise WrongStateError(f'job "{was.job.id}" cannot be edited: {error}') from None
        return
    verb = Verb(states=(was.state,), new_body=edited, done="edited", stays=True)
    try:
        for _ in apply(spool, [was.job.id], verb):
            pass
    except MovedOnError:
        state, _ = spool.locate(was.job.id)
        msg = f'job "{was.job.id}" is {state} by now; nothing was changed'
        raise WrongStateError(msg) from None


def apply(
    spool: Spool, job_ids: Iterable[str], verb: Verb, missed: Missed | None = None
) -> Iterator[str]:
    """Do something to jobs by take, rewrite and release; yield each id once it is done for good.

    An error that concerns one job is passed to `missed`, and the others go on. Without `missed` it
    is raised, as are all other errors, once the jobs taken together with this one are done and
    yielded.

    Raises:
        NoSuchJobError, WrongStateError: a job is not (or no longer: MovedOnError) where the verb
            applies.
        SpoolError: the file system refused.
        NotSyncedError: it is done to some jobs, but a power cut may undo that.
    """
    kernel.prepare_renames()  # while no job is held: later it may find no descriptor left
    left = iter(job_ids)
    with Registration(spool) as me:
        while group := list(islice(left, _TOGETHER)):
            me.beat_if_due()
            fatal: Exception | None = None
            unsynced: dict[str, _UnsyncedError] = {}
            for job_id, why in zip(group, _try_all(spool, group, verb, me.name), strict=True):
                if why is None:
                    yield job_id
                elif isinstance(why, _UnsyncedError):
                    unsynced[job_id] = why
                elif missed is not None and _is_of_this_job(why):
                    missed(job_id, why)
                else:  # the first error of several: mostly they have one cause
                    fatal = fatal or why
            if unsynced:
                first = next(iter(unsynced.values()))
                raise NotSyncedError(are(list(unsynced), verb.done), first.path, first.error)
            if fatal is not None:
                raise fatal


class _UnsyncedError(Exception):
    """A job is where it belongs, but a power cut may undo that."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(path, error)
        self.path = path
        self.error = error


def _try_all(
    spool: Spool, job_ids: Sequence[str], verb: Verb, owner: str
) -> Iterator[Exception | None]:
    """Apply a verb to jobs side by side; then yield, for each, why that failed, or None."""
    held = {held.job_id for held in spool.held()}
    works = [_changing(spool, job_id, verb, owner, held) for job_id in job_ids]
    for job_id, why in zip(job_ids, carry_out_all(works), strict=True):
        if isinstance(why, SpoolError) and why.errno in (errno.EMFILE, errno.ENFILE):
            # there were too few descriptors; by now the other jobs have closed theirs
            yield from carry_out_all([_changing(spool, job_id, verb, owner, held)])
        else:
            yield why


def _is_of_this_job(error: Exception) -> TypeGuard[QueuectlError]:
    """Tell whether an error concerns one job only, so that the next may succeed."""
    return isinstance(error, QueuectlError) and not isinstance(error, SpoolError)


def _changing(
    spool: Spool, job_id: str, verb: Verb, owner: str, held: Collection[str]
) -> Steps[None]:
    claim = _take(spool, job_id, verb, owner, held)
    try:
        yield from _rewriting(spool, claim, verb)
    except (OSError, QueuectlError):  # it has been released already, if it could be
        raise
    except BaseException:  # an interrupt, or what a program's signal handler raises
        spool.let_go(claim)
        raise


def _take(spool: Spool, job_id: str, verb: Verb, owner: str, held: Collection[str]) -> Claim:
    for _ in range(10):
        state = _find(spool, job_id, verb, held)
        check_can_be(verb.done, spool, job_id, state, verb.states)
        try:
            return spool.take(job_id, state, owner)
        except FileNotFoundError:
            continue  # it has moved on: look again
        except OSError as error:
            raise SpoolError("take", spool.file(state, job_id), error) from error
    raise WrongStateError(f'job "{job_id}" moves faster than it can be taken; try again')


def check_can_be(done: str, spool: Layout, job_id: str, state: str, states: Sequence[str]) -> None:
    """Check that a job in `state` can be `done` (such as "retried"), which applies in `states`.

    Raises:
        MovedOnError: it is in none of these.
        WrongStateError: its id is in another state too, or is that of a file that was set aside.
        SpoolError: the file system refused to say.
    """
    if state not in states:
        only = " or ".join(filter(None, [", ".join(states[:-1]), states[-1]]))
        raise MovedOnError(f'job "{job_id}" is {state}; only {only} jobs can be {done}')
    _check_only(spool, job_id, state)
    with refused_to("read", spool.file(state, job_id)):
        is_reason = state == "dead" and spool.reason(job_id) is not None
    if is_reason:
        why = f"it was set aside; {spool.mending(job_id)}"
        raise WrongStateError(f'job "{job_id}" cannot be {done}: {why}')


def _find(spool: Spool, job_id: str, verb: Verb, held: Collection[str]) -> str:
    """Return the state that holds an id; processing/ goes before dead/, where a copy may be.

    `held` was listed once for many jobs: listing it for each would take quadratic time.
    """
    quick = is_id(job_id) and job_id not in held
    state = spool.found_in(job_id, verb.states) if quick else None
    return state or spool.locate(job_id)[0]


def _check_only(spool: Layout, job_id: str, state: str) -> None:
    """Check that moving the job cannot bring two jobs of one id into one place.

    Raises:
        WrongStateError: the id is in another state too.
    """
    other = spool.found_in(job_id, AT_REST, but=state)
    if other is not None and moving.is_there(spool.file(state, job_id)):  # and it has not moved
        path = spool.file(other, job_id)
        msg = f'job "{job_id}" is in {state}/ and {other}/; look at {path}, and rename one'
        raise WrongStateError(msg)


def _rewriting(spool: Spool, claim: Claim, verb: Verb) -> Steps[None]:
    held = claim.path
    try:
        try:
            job = verb.new_body(spool.read_file(claim.path, claim.job_id))
        except QueuectlError as error:
            yield from spool.releasing(claim, claim.origin)
            raise WrongStateError(f'job "{claim.job_id}" cannot be {verb.done}: {error}') from None
        job = _staying(job, claim.origin) if verb.stays else job
        yield from spool.settling(claim, job.changed(worker=claim.owner))
    except OSError as error:
        # it is where it belongs, and only the sync failed
        if claim.rewritten and claim.path != held and claim.dead_id is None:
            raise _UnsyncedError(error.filename or os.path.dirname(claim.path), error) from error
        if not claim.rewritten:
            # needs no room on the disk; where even that fails, recovery does it
            with contextlib.suppress(OSError, QueuectlError):
                yield from spool.releasing(claim, claim.origin)
        raise SpoolError("move", claim.path, error) from error
    if claim.dead_id is not None:
        raise WrongStateError(f"{claim.reason}; this one is kept in dead/{claim.dead_id}{SUFFIX}")


def _staying(job: Job, state: str) -> Job:
    """Return a job that stays in a state; one that was moved to pending/ by hand starts again."""
    moved = state == "pending" and job.state != state
    return again(job) if moved else job.changed(state=state)


# --- the whole spool ------------------------------------------------------------------------


def pause(spool: Spool, by: str) -> bool:
    """Let no pool start a job until `resume`, even after restarts; False if that is so already.

    Raises:
        SpoolError: the file `paused` could not be written. Or only its sync failed: then the spool
            is paused, but a power cut may undo it.
        UnsafeSpoolError, WrongUserError: as `Spool.check_trusted` does.
    """
    spool.create()
    path = spool.paused_file
    try:
        try:
            files.write_new(path, f"{by}\n".encode(), sync=True)
        except OSError as error:
            if error.errno not in kernel.NO_ROOM:
                raise
            files.write_new(path, b"", sync=True)  # the name is what counts
    except FileExistsError:
        return False
    except OSError as error:
        raise SpoolError("write", path, error) from error
    files.keep(spool.path, "it is paused")
    return True


def resume(spool: Spool) -> bool:
    """Let pools start jobs again; False if the spool was not paused.

    Raises:
        SpoolError: the file `paused` could not be removed. Or only the sync failed: then the spool
            is resumed, but a power cut may undo it.
    """
    path = spool.paused_file
    try:
        os.unlink(path)
    except OSError as error:
        if not moving.is_there(path):  # on a read-only file system the error says only that
            return False
        raise SpoolError("remove", path, error) from error
    files.keep(spool.path, "it is resumed")
    return True


def by_whom() -> str:
    """Return who does this, from where, and when: `by ann@host at 2026-01-31T08:00:00Z`."""
    return f"by {user_name(os.geteuid())}@{kernel.host()} at {utc_text(time.time())[:19]}Z"
