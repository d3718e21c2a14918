"""Keeps the backlog in step with pending/ and failed/, by arrivals and by regular looks.

spool-layout.md, sections "Waking" and "What a dropped file may look like".
"""

from __future__ import annotations

import threading
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from queuectl.errors import BadJobError, IncompleteJobError, do_all
from queuectl.ids import is_id
from queuectl.pool.backlog import Backlog, Entry
from queuectl.pool.looks import Looks
from queuectl.pool.rejects import Rejects
from queuectl.record.job import Job, parse
from queuectl.record.outcome import longest_delay_s
from queuectl.record.reading import read_with_status, whose
from queuectl.spool.filenames import SUFFIX, is_job_file
from queuectl.states import WAITING
from queuectl.system.moving import is_there, status_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.spool.spool import Spool
    from queuectl.workers.worklog import WorkLog

_FEW_GONE = 1000  # so few entries without a file are not worth looking for
_FILES_AT_ONCE = 1000  # reading them takes about as long as recovery waits between two looks


class News(NamedTuple):
    """The callbacks of an intake, each called in any thread."""

    ready: Callable[[Entry], None]  # this job may be claimed
    due: Callable[[], None]  # a job has come that is due before all others
    scan: Callable[[], None]  # the next look at everything is wanted sooner


class Intake:
    """Reads new job files, and enters them into the backlog or has them set aside.

    Args:
        spool: its pending/ and failed/ are looked at.
        log: where files that cannot run are logged.
        owner: the name under which they are set aside.
        news: the callbacks.
    """

    def __init__(self, spool: Spool, log: WorkLog, owner: str, news: News) -> None:
        self._backlog = Backlog()
        self._lock = threading.Lock()
        self._spool = spool
        self._log = log
        self._news = news
        self.rejects = Rejects(spool, log, owner, look=self.look, soon=news.scan)
        self._looks = {state: Looks(spool.directory(state)) for state in WAITING}
        self._stopped = False

    # --- one file ---------------------------------------------------------------------------

    def arrived(self, state: str, name: str) -> None:
        """Look at a file that has just come into pending/ or failed/."""
        if is_job_file(name) and not self._stopped:
            self.rejects.forget(state, name)
            self.look(state, name.removesuffix(SUFFIX))

    def look(self, state: str, job_id: str) -> None:
        """Read one file and put it where it belongs in the backlog."""
        try:
            ctime_ns = self._look_once(state, job_id)
            # The entry may be used hours later: make sure that no newer file came between reading
            # the file and entering it.
            if ctime_ns is not None and self._has_changed(state, job_id, ctime_ns):
                self._look_once(state, job_id)
        except OSError as error:
            self._looks[state].look_again()
            detail = f"cannot read {state}/{job_id}{SUFFIX}: {error.strerror}"
            self._log.event("error", detail=detail)

    def _look_once(self, state: str, job_id: str) -> int | None:
        """Do what `look` does; return the ctime (ns) if the job waits for a time, else None.

        Raises:
            OSError: the file system refused.
        """
        name = job_id + SUFFIX
        try:
            job, ctime_ns = self._read(state, job_id)
        except FileNotFoundError:
            self.rejects.stop_waiting(state, name)
        except IncompleteJobError as error:
            self.rejects.wait_for_writer(state, name, str(error))
        except BadJobError as error:
            self.rejects.reject(state, name, str(error))
        except PermissionError as error:
            # mv from another file system, cp -p and tar give a file its mode and owner last
            why = f"cannot be read: {error.strerror}{whose(error.filename)}"
            self.rejects.wait_for_writer(state, name, why)
        else:
            self.rejects.stop_waiting(state, name)
            return ctime_ns if self._enter(job, state, ctime_ns) else None
        return None

    def _read(self, state: str, job_id: str) -> tuple[Job, int]:
        if not is_id(job_id):
            msg = f"{job_id + SUFFIX!r} is not a job's name: ids are A-Z a-z 0-9 . _ -, 128 at most"
            raise BadJobError(msg)
        path = self._spool.file(state, job_id)
        raw, status = read_with_status(path, any_owner=self._spool.config.shared)
        return parse(raw, job_id), status.st_ctime_ns

    def _enter(self, job: Job, state: str, ctime_ns: int) -> bool:
        """Enter a job into the backlog; tell whether it waits for a time."""
        entry = Entry(*job.place(state, ctime_ns), job.id, state, job.due(state), ctime_ns)
        run_at = job.instant("run_at")
        retry_in_s = self._retry_in_s(job) if state == "failed" else 0.0
        if run_at is not None and run_at > time.time() + retry_in_s:
            self._enter_later(self._backlog.ready_at, entry, run_at)
        elif state == "failed":
            self._enter_later(self._backlog.ready_after, entry, time.monotonic() + retry_in_s)
        else:
            self.put_back(entry)
            return False
        return True

    def _has_changed(self, state: str, job_id: str, ctime_ns: int) -> bool:
        status = status_of(self._spool.file(state, job_id))
        return status is not None and status.st_ctime_ns != ctime_ns

    def _enter_later(self, put: Callable[[Entry, float], bool], entry: Entry, due_s: float) -> None:
        with self._lock:
            first = put(entry, due_s)
        if first:
            self._news.due()

    def _retry_in_s(self, job: Job) -> float:
        """Return the seconds until a retry is due, at most the longest delay that it can have."""
        now, config = time.time(), self._spool.config
        return min(max((job.retry_at(now) or now) - now, 0.0), longest_delay_s(job, config))

    # --- everything -------------------------------------------------------------------------

    def scan(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Look at every file that is not known yet.

        Args:
            meanwhile: called after each thousand files, since a million take many seconds.

        Raises:
            OSError, SpoolError: a directory cannot be read; everything else was looked at.
        """
        scans = [partial(self._scan, *item, meanwhile) for item in self._looks.items()]
        do_all([self.rejects.look_again, *scans])

    def _scan(self, state: str, looks: Looks, meanwhile: Callable[[], object]) -> None:
        if not looks.due:
            return
        count = 0
        with looks:
            for job_id in self._spool.file_names_by_place(state):
                if self._stopped:
                    return
                if not self._knows(state, job_id):
                    self.look(state, job_id)
                count += 1
                if count % _FILES_AT_ONCE == 0:
                    meanwhile()
        self._forget_gone(state, count)

    def _forget_gone(self, state: str, count: int) -> None:
        """Drop the entries of jobs that others have run, if those are most of a state's entries."""
        with self._lock:
            known = self._backlog.entries(state)
        if len(known) > 2 * count + _FEW_GONE:
            gone = [e for e in known if not is_there(self._spool.file(state, e.job_id))]
            with self._lock:
                self._backlog.forget(gone)

    def _knows(self, state: str, job_id: str) -> bool:
        """Tell whether a look at a file would bring nothing new."""
        entry = self._backlog.known(state, job_id)
        if entry is None:
            return self.rejects.is_left(state, job_id + SUFFIX)
        # a job that waits for a time is not read before then, so only this may reveal an edit
        return not entry.due or not self._has_changed(state, job_id, entry.ctime_ns)

    def idle_after_a_look(self) -> bool:
        """Look at pending/ once more; tell whether nothing waits except jobs that are due later."""
        # In this order: the look skips a job that another thread has entered by then, and `idle`
        # sees that it waits.
        return not self._look_for_unknown() and self.idle

    def _look_for_unknown(self) -> bool:
        """Look at every file of pending/ that is not known; tell whether there was any."""
        unknown = [
            job_id
            for job_id in self._spool.file_names("pending")
            if not self._knows("pending", job_id)
        ]
        for job_id in unknown:
            self.look("pending", job_id)
        return bool(unknown)

    def put_back(self, entry: Entry) -> None:
        """Enter a job as ready to run, whether it is new or was taken out before."""
        with self._lock:
            self._backlog.ready(entry)
        self._news.ready(entry)

    def next(self, below: float = inf) -> Entry | None:
        """Remove and return the next job, None if no ready job has a priority below `below`."""
        with self._lock:
            return self._backlog.pop(below)

    def advance(self) -> None:
        """Make ready every job that has fallen due."""
        with self._lock:
            self._backlog.advance(time.time(), time.monotonic())

    def wait_s(self) -> float | None:
        """Return the seconds until `advance` will find a job that is due, None if it never will."""
        with self._lock:
            return self._backlog.wait_s(time.time(), time.monotonic())

    @property
    def idle(self) -> bool:
        """Whether nothing waits except jobs that are due later."""
        with self._lock:
            return not self._one_is_ready() and not self.rejects.busy

    def _one_is_ready(self) -> bool:
        while (entry := self._backlog.first()) is not None:
            if is_there(self._spool.file(entry.state, entry.job_id)):
                return True
            self._backlog.pop()  # gone, as by a cancel while this pool claims nothing
        return False

    @property
    def asked_in_s(self) -> float | None:
        """Seconds until `scan` may do what `forget_scans` asked for, None if nothing is asked."""
        waits = [looks.asked_in_s for looks in self._looks.values()]
        return min((wait for wait in waits if wait is not None), default=None)

    def forget_scans(self) -> None:
        """Make the next scan look at everything, whatever the time stamps say."""
        self.rejects.forget_all()
        for looks in self._looks.values():
            looks.look_again(soon=True)

    def stop(self) -> None:
        """Ignore what arrives from now on, and end a scan that is going on early."""
        self._stopped = True
