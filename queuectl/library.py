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
    from datetime import datetime

    from queuectl.record.job import Job
    from queuectl.spool.layout import Found


class _AsSet:
    """In the place of a value: the settings have it."""

    def __repr__(self) -> str:
        return "as set"


_AS_SET: Any = _AsSet()


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

    def submit(  # noqa: PLR0913 - each is a field of the record
        self,
        command: str | Sequence[str | os.PathLike[str]],
        *,
        id: str | None = None,  # noqa: A002 - as it is called everywhere
        priority: int | None = None,
        run_at: str | datetime | None = None,
        timeout: float | None = _AS_SET,
        max_retries: int | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | os.PathLike[str]] | None = None,
        tags: Sequence[str] | None = None,
        success_codes: Sequence[int] | None = None,
        fatal_codes: Sequence[int] | None = None,
        later_codes: Sequence[int] | None = None,
        **others: Any,
    ) -> Job:
        """Queue one job, for good when this returns; return it.

        Interrupted by what a signal handler raises, it may have queued the job: with an id of your
        own, do it again, and JobExistsError tells. In a handler that has interrupted a `submit`
        with an id, another with an id is refused (SpoolError).

        Args:
            command: a string for the shell, or a list that is run without one.
            id: of your own; None: one is made. It is never used twice.
            priority: lower runs first; None: 0.
            run_at: text, or a datetime with its zone: not before then.
            timeout: seconds; None: no limit; if it is not given, `job-timeout` holds.
            max_retries: None: as the settings say.
            cwd: None: the home directory of the worker.
            env: variables beside those of the worker.
            tags: by which jobs are selected.
            success_codes: exit statuses that complete the job; None: as the settings say.
            fatal_codes: those after which it is not tried again.
            later_codes: those that mean later, and do not count as a failure.
            others: fields that queuectl writes are checked, and written anew; unknown ones are
                kept, with a warning if they look like a user's.

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
        for slip in slips(others):
            warnings.warn(slip, stacklevel=2)
        fields: dict[str, Any] = {
            "id": id,
            "priority": priority,
            "run_at": run_at,
            "max_retries": max_retries,
            "cwd": cwd,
            "env": env,
            "tags": tags,
            "success_codes": success_codes,
            "fatal_codes": fatal_codes,
            "later_codes": later_codes,
        }
        given = {name: value for name, value in fields.items() if value is not None}
        if timeout is not _AS_SET:
            given["timeout"] = timeout
        given |= {"command": command, **others}
        try:
            job = self.draft(_as_in_records(given))
        except RecursionError:
            raise BadJobError("a field holds itself, or is nested too deep") from None
        for _ in self.submit_all([job], given=[] if id is None else [job.id]):
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
