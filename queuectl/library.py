"""What Python programs do with a spool: queue a job, find it, wait for it, cancel it, run it again.

spool-layout.md, sections "The moves", "Cancelling" and "Waking".
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import closing
from math import inf
from typing import TYPE_CHECKING, Any

from queuectl.errors import BadJobError, QueuectlError
from queuectl.record.fields import slips
from queuectl.spool import spool
from queuectl.states import FINISHED, OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from queuectl.record.job import Job
    from queuectl.spool.layout import Found


class Spool(spool.Spool):
    """A directory that is a queue.

    Programs put jobs in with `submit`, look with `find`, `jobs`, `names` and `log_files`, and have
    `wait`, `cancel` and `retry`. The other methods are the steps of pools and commands, and may
    change.

    Args:
        path: the spool; it is made, mode 0700, by the first thing that writes to it. None:
            $QUEUECTL_SPOOL, else ~/.queuectl.
        strict: config.json must be sound; else `faults` says what in it is no setting.

    Raises:
        BadSettingError: config.json holds something that is no setting, and `strict` is true.
        QueuectlError: config.json cannot be read, or no home directory is known for a ~.
        ValueError: the path is empty.
    """

    def submit(self, command: str | Sequence[str | os.PathLike[str]], **fields: Any) -> Job:
        """Queue one job, for good when this returns; return it.

        Interrupted by what a signal handler raises, it may have queued the job: with an id of your
        own, do it again, and JobExistsError tells.

        Args:
            command: a string for the shell, or a list that is run without one.
            fields: any user's field of the record, such as id (None: one is made), priority,
                timeout (seconds; None: no limit), run_at (text, or a datetime with its zone), cwd
                (text, or a Path), env; those that queuectl writes are checked, and written anew;
                others are kept, with a warning if they look like a user's.

        Raises:
            BadJobError: a field is wrong.
            JobExistsError: the id is taken.
            SpoolError: the file system refused; nothing was queued.
            BadSettingError: config.json holds what is no setting.
            UnsafeSpoolError, WrongUserError: the spool is one in which others could lead us astray.
        """
        self.follow_config()
        if self.faults:
            raise self.faults[0]
        if isinstance(command, os.PathLike):
            raise BadJobError('"command" is a path; a list, [path], is run without a shell')
        if fields.get("id", "") is None:
            del fields["id"]
        for slip in slips(fields):
            warnings.warn(slip, stacklevel=2)
        given = {"command": command, **fields}
        try:
            job = self.draft(_as_in_records(given))
        except RecursionError:
            raise BadJobError("a field holds itself, or is nested too deep") from None
        for _ in self.submit_all([job], given=[job.id] if "id" in fields else ()):
            pass
        return job

    def wait(self, job_id: str, timeout: float | None = None) -> Found:
        """Return a job once it has ended: it is completed or dead; one to be retried has not.

        Whether a worker runs is not looked at: without one it takes until there is.

        Args:
            job_id: of a job that is there, or has ended.
            timeout: for so long at most, in seconds; None: for ever.

        Raises:
            NoSuchJobError: no state holds it, or none does any more.
            TimeoutError: it has not ended.
            BadJobError: it has, and its file is no job's.
            SpoolError: the file system refused.
        """
        with closing(self._looks(job_id, _deadline_s(timeout))) as looks:
            for _ in looks:
                is_over = self.locate(job_id)[0] in FINISHED
                # it may have been retried between the two
                if is_over and (found := self.find(job_id)).state in FINISHED:
                    return found
        raise _not_ended(job_id)

    def _looks(self, job_id: str, deadline_s: float) -> Generator[None, None, None]:
        """Yield when it is time to look at a job: at once, and whenever it may have ended."""
        from queuectl.jobs.waiting import Endings

        yield  # without watches: mostly it is over
        with Endings(self, [job_id]).changes() as changes:
            yield
            while time.monotonic() < deadline_s:
                changes.wait(deadline_s)
                yield

    def cancel(self, job_id: str, timeout: float | None = None) -> None:
        """Have a job never run, or end the one that runs; it is dead when this returns.

        Args:
            job_id: of a job that waits or runs.
            timeout: seconds to wait for a worker to end it, which takes SIGTERM, `kill-grace` and
                SIGKILL at most, if that worker does not stand still; None: for ever.

        Raises:
            NoSuchJobError: no state holds it.
            WrongStateError: it has ended by itself, or cannot be taken; the text says which.
            TimeoutError: it has not ended; it may do so all the same.
            SpoolError: the file system refused.
            BadSettingError: config.json holds what is no setting, since the spool was opened.
            UnsafeSpoolError, WrongUserError: the spool is one in which others could lead us astray.
        """
        from queuectl.jobs.cancelling import Cancelling
        from queuectl.jobs.verbs import CANCELLABLE

        deadline_s = _deadline_s(timeout)
        self._prepare_to_change(job_id)
        if not list(Cancelling(self, CANCELLABLE, _refuse).cancel([job_id], deadline_s)):
            raise _not_ended(job_id)

    def retry(self, job_id: str) -> None:
        """Queue a job that has ended, or waits for its next try, again: its attempts start at 0.

        Raises:
            NoSuchJobError: no state holds it.
            WrongStateError: it waits or runs, or was set aside; the text says which.
            SpoolError: the file system refused.
            BadSettingError: config.json holds what is no setting, since the spool was opened.
            UnsafeSpoolError, WrongUserError: the spool is one in which others could lead us astray.
        """
        from queuectl.jobs import verbs

        self._prepare_to_change(job_id)
        for _ in verbs.retry(self, [job_id], OUTCOMES):
            pass

    def _prepare_to_change(self, job_id: str) -> None:
        self.follow_config()
        self.locate(job_id)  # before anything is made: there may be no spool


def _deadline_s(timeout: float | None) -> float:
    return inf if timeout is None else time.monotonic() + timeout


def _not_ended(job_id: str) -> TimeoutError:
    return TimeoutError(f'job "{job_id}" has not ended in time')


def _refuse(_job_id: str, error: QueuectlError) -> None:
    raise error


def _as_in_records(value: Any) -> Any:
    """Return what Python programs have at hand as JSON holds it."""
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass, such as an Enum, too: as JSON writes it
    if isinstance(value, (list, tuple)):
        return [_as_in_records(item) for item in value]
    if isinstance(value, Mapping):
        return {_as_a_name(name): _as_in_records(item) for name, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    module = sys.modules.get("datetime")  # whoever has a time has imported it
    is_time = module is not None and isinstance(value, (module.date, module.time))
    return value.isoformat() if is_time else value


def _as_a_name(key: Any) -> Any:
    """Return a key as JSON writes it: a number in quotes."""
    return json.dumps(key) if key is None or isinstance(key, (int, float)) else key
