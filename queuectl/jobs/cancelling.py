"""Cancelling jobs wherever they are: waiting, or held by a pool that is alive or dead.

spool-layout.md, section "Cancelling".
"""

from __future__ import annotations

import contextlib
import os
import time
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from queuectl.errors import (
    BadJobError,
    MovedOnError,
    NoSuchJobError,
    QueuectlError,
    SpoolError,
    TooLateError,
    WrongStateError,
)
from queuectl.jobs import verbs
from queuectl.record.outcome import is_cancelled
from queuectl.spool.filenames import SUFFIX, holder_of
from queuectl.states import AT_REST, WAITING
from queuectl.system.changes import Changes
from queuectl.workers import hindrances, owners, requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from queuectl.jobs.verbs import Missed
    from queuectl.recovery.recovery import Recovery
    from queuectl.spool.spool import Spool

# How long to try to take a waiting job. A pool may be first each time, if the job fails at once and
# is run again without delay.
_PATIENCE_S = 10.0
_NO_PATIENCE_S = 0.5  # the same where the cause is not that somebody else was first
_NO_LOG = -1
_PASSING_S = 0.1  # a command line holds a job no longer than this
_REMARK_S = 1.0  # between two looks at whether a pool stands still


class Cancelling:
    """Jobs that are to be cancelled, and what has been done about them.

    Args:
        spool: the spool.
        states: the states in which jobs are cancelled; a job that has left them is left alone.
        missed: called with the id of a job that was not cancelled, and why.
        note: called with remarks for a person who waits.
        log: the descriptor that recovery logs to. The default, -1, is no log: in a Python program
            even 2 may be some other file.
    """

    def __init__(
        self,
        spool: Spool,
        states: Sequence[str],
        missed: Missed,
        note: Callable[[str], None] = lambda _text: None,
        log: int = _NO_LOG,
    ) -> None:
        self._spool = spool
        self._states = states
        self._by = verbs.by_whom()
        self._missed = missed
        self._note = note
        self._log = log
        self._left: list[str] = []
        self._look_again_s = inf
        self._asked: dict[str, str] = {}  # by job, the pool that was asked to end it
        self.told_to_end = False  # whether a pool was asked to end a job
        self._told_of: set[tuple[str, str]] = set()  # the owners and reasons noted so far
        self._heartbeats = owners.Heartbeats()
        self._first_tried_s: dict[str, float] = {}
        self._recovery: Recovery | None = None  # of this round
        self._told_busy = False
        self._cancelled: list[str] = []  # by pools, as seen in this round

    def cancel(self, job_ids: Sequence[str], deadline_s: float = inf) -> Iterator[str]:
        """Yield the id of each job once it is in dead/; report those not cancelled to `missed`.

        Args:
            job_ids: the ids of the jobs.
            deadline_s: when to give up jobs that have not ended (monotonic clock); these are not
                reported.

        Raises:
            SpoolError: the file system refused.
            UnsafeSpoolError, WrongUserError: as `Spool.check_trusted` does.
        """
        self._spool.create()
        self._left = list(job_ids)
        try:
            try:
                yield from self._rounds(deadline_s)
            finally:
                self._withdraw_all()
        except OSError as error:
            raise self._refused(error) from error

    def _withdraw_all(self) -> None:
        """Take back each request that was not answered, even if that fails for some."""
        with contextlib.ExitStack() as stack:
            for job_id in self._asked:
                stack.callback(self._withdraw, job_id)

    def _rounds(self, deadline_s: float) -> Iterator[str]:
        yield from self._round()
        if not self._left:
            return
        if self._asked:
            hold = "job that a worker holds" if len(self._asked) == 1 else "jobs that workers hold"
            self._note(f"ending {len(self._asked)} {hold}")
        names = {job_id + SUFFIX for job_id in self._left}
        directories = [self._spool.directory(state) for state in AT_REST]
        poll_s = self._spool.config.poll_interval
        with Changes(directories, names.__contains__, poll_s) as changes:
            while True:
                yield from self._round()
                if not (self._left and time.monotonic() < deadline_s):  # only after a last look
                    return
                self._wait(changes, min(self._look_again_s, deadline_s, time.monotonic() + poll_s))

    def _wait(self, changes: Changes, until_s: float) -> None:
        """Wait for a change; meanwhile note the pools that stand still."""
        came = False
        while not came and (now_s := time.monotonic()) < until_s:
            remark_s = min(until_s, now_s + _REMARK_S)
            # where no events come, it returns early: then looking is all that can be done
            came = bool(changes.wait(remark_s)) or time.monotonic() < remark_s
            for owner in set(self._asked.values()):
                worker = owners.read_worker(self._spool, owner)
                if worker is not None:
                    self._tell_if_it_stands_still(worker)

    def _round(self) -> Iterator[str]:
        """Do what can be done now; yield cancelled jobs, keep in `_left` those to look at again."""
        before, self._left, self._look_again_s, self._recovery = self._left, [], inf, None
        self._cancelled.clear()
        waiting = self._waiting(before)
        first = next(waiting, None)
        if first is not None:  # else `verbs.cancel` would register us for nothing
            ids = chain([first], waiting)  # cancelled while looking for the rest: pools take jobs
            try:
                yield from verbs.cancel(self._spool, ids, self._by, self._not_taken)
            except QueuectlError:
                yield from self._cancelled
                raise
        yield from self._cancelled

    def _waiting(self, job_ids: Sequence[str]) -> Iterator[str]:
        """Yield the jobs that wait, and deal with the others."""
        for job_id in job_ids:
            try:
                waits = self._waits(job_id)
            except (BadJobError, NoSuchJobError) as error:  # noqa: PERF203 - the others may be fine
                self._withdraw(job_id)
                self._missed(job_id, error)
            else:
                if waits:
                    yield job_id

    def _waits(self, job_id: str) -> bool:
        """Tell whether a job is to be taken from where it waits; otherwise, deal with it.

        Raises:
            BadJobError: it has ended since it was asked for, and its file is no job's.
            NoSuchJobError: it is gone.
        """
        state, path = self._spool.locate(job_id)
        if state in verbs.CANCELLABLE and state not in self._states:
            self._withdraw(job_id)
            msg = f'job "{job_id}" is {state} by now, and was left alone'
            self._missed(job_id, WrongStateError(msg))
        elif state in WAITING:
            self._withdraw(job_id)  # it was given back: its next owner is asked again
            return True
        elif state == "processing":
            self._running(job_id, holder_of(path))
        elif self._ended(job_id, state):
            self._cancelled.append(job_id)
        return False

    def _running(self, job_id: str, owner: str) -> None:
        seen = owners.look_up(self._spool, owner)
        worker, is_alive = seen.worker, seen.life is owners.Life.ALIVE
        if seen.known_dead or (not is_alive and self._heartbeats.silent(self._spool, owner)):
            self._held_by_dead(job_id, owner)
            return
        self._left.append(job_id)
        if worker is not None:
            self._tell_if_it_stands_still(worker)
        if worker is not None and not worker.is_pool:
            self._look_again_within(_PASSING_S)
        elif not self._is_asked(job_id, owner):
            self._withdraw(job_id)
            self.told_to_end = True
            self._asked[job_id] = owner  # before the request: Ctrl-C may come right after it
            requests.ask_to_cancel(self._spool, owner, job_id, self._by)

    def _tell_if_it_stands_still(self, worker: owners.Worker) -> None:
        """Note why a pool, or a command line that holds a job, stands still: each reason once."""
        for why in hindrances.of_pool(self._spool, worker, but=(hindrances.STOPPING,)):
            told = (worker.worker, why.word)
            if told not in self._told_of:
                self._told_of.add(told)
                self._note(str(why))

    def _held_by_dead(self, job_id: str, owner: str) -> None:
        if self._recovery is None:
            try:
                self._recovery = self._recover()
            except SpoolError as error:
                self._missed(job_id, error)
                return
        if self._recovery.busy and not self._told_busy:
            self._told_busy = True
            self._note(f"waiting for {job_id}: another worker or command is recovering jobs")
        fault = self._recovery.faults.get(owner)
        if owner in self._recovery.left:
            why = f"was run by {owner}, which is dead, and what it ran is not ours to end"
            msg = f'job "{job_id}" {why}'
            self._missed(job_id, QueuectlError(msg))
        elif fault is not None and self._is_over(job_id, _NO_PATIENCE_S):
            self._missed(job_id, QueuectlError(f'job "{job_id}" cannot be recovered: {fault}'))
        else:
            self._left.append(job_id)
            self._look_again_within(_PASSING_S)

    def _is_over(self, job_id: str, patience_s: float) -> bool:
        """Tell whether a job has been tried in vain for `patience_s` seconds."""
        now = time.monotonic()
        return now >= self._first_tried_s.setdefault(job_id, now) + patience_s

    def _is_asked(self, job_id: str, owner: str) -> bool:
        # another command line that asked for the same may have taken the request back
        ours = self._asked.get(job_id) == owner
        return ours and requests.is_asked_to_cancel(self._spool, owner, job_id)

    def _recover(self) -> Recovery:
        """Recover as the next worker would at its start; after that, the job may be waiting.

        Raises:
            SpoolError: the file system refused.
        """
        from queuectl.recovery.recovery import recover
        from queuectl.workers.worklog import WorkLog

        try:
            return recover(self._spool, WorkLog(self._log), self._heartbeats)
        except OSError as error:
            raise self._refused(error) from error

    def _ended(self, job_id: str, state: str) -> bool:
        """Tell whether a job that has ended was cancelled by us; if not, pass it to `missed`."""
        asked = self._withdraw(job_id)
        if state == "dead" and asked and is_cancelled(self._spool.find(job_id).job.record):
            return True
        how = "ended first, and is" if asked else "is"
        msg = f'job "{job_id}" {how} {state}: too late to cancel it'
        if not asked:
            msg += f"; `queuectl prune {job_id}` deletes it"
        self._missed(job_id, TooLateError(msg))
        return False

    def _not_taken(self, job_id: str, error: QueuectlError) -> None:
        """Deal with a job that was not taken, because a pool was first or nobody can take it."""
        moved_on = isinstance(error, (MovedOnError, NoSuchJobError))
        if not self._is_over(job_id, _PATIENCE_S if moved_on else _NO_PATIENCE_S):
            self._left.append(job_id)
            self._look_again_within(_PASSING_S)
        elif moved_on:
            msg = f'job "{job_id}" moves faster than it can be taken; it was not cancelled'
            self._missed(job_id, WrongStateError(msg))
        else:
            self._missed(job_id, error)

    def _refused(self, error: OSError) -> SpoolError:
        return SpoolError("go on at", os.fsdecode(error.filename or self._spool.path), error)

    def _look_again_within(self, seconds: float) -> None:
        self._look_again_s = min(self._look_again_s, time.monotonic() + seconds)

    def _withdraw(self, job_id: str) -> bool:
        """Take back the request to end a job; tell whether there was one."""
        owner = self._asked.get(job_id)
        if owner is None:
            return False
        requests.withdraw_cancel(self._spool, owner, job_id)
        del self._asked[job_id]
        return True
