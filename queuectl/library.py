"""The API for Python programs: queue a job, find it, wait for it, cancel it, queue it again.

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
    """The default of a parameter whose value comes from the settings."""

    def __repr__(self) -> str:
        return "as set"


_AS_SET: Any = _AsSet()


class Spool(spool.Spool):
    """A spool: the directory of a job queue.

    Programs queue jobs with `submit`, look at them with `find`, `jobs`, `names` and `log_files`,
    and control them with `wait`, `cancel` and `retry`. The other methods are for queuectl's own
    workers and commands, and may change.

    Args:
        path: the spool's directory. It need not exist: the first operation that writes to it
            creates it, with mode 0700. None means $QUEUECTL_SPOOL, else ~/.queuectl.
        strict: raise an error if config.json is not valid. If false, the valid settings in it
            apply, and `faults` lists what is wrong.

    Raises:
        BadSettingError: config.json is not valid, and `strict` is true.
        QueuectlError: config.json cannot be read, or the path begins with a ~ for which no home
            directory is known.
        ValueError: the path is empty.
    """

    def submit(  # noqa: PLR0913 - each is a field of the record
        self,
        command: str | Sequence[str | os.PathLike[str]],
        *,
        id: str | None = None,  # noqa: A002 - its name everywhere else
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
        later_delay: float | None = None,
        **others: Any,
    ) -> Job:
        """Queue a job, and return it once it is queued for good.

        If a signal handler raises an exception while this runs, the job may or may not be queued.
        If you gave it an `id`, submit it again: JobExistsError then says that it was. A handler
        that interrupts a `submit` with an `id` cannot submit with an `id` itself (SpoolError).

        Args:
            command: a string that is run by the shell, or a list that is run without one.
            id: an id of your own. None: queuectl makes a unique one.
            priority: jobs with a lower number run first. None: 0.
            run_at: the earliest time to run: ISO 8601 text or a datetime, with its time zone.
                None: at once.
            timeout: how long a run may take, in seconds. None: no limit. If it is not given, the
                setting `job-timeout` applies.
            max_retries: the number of failures after which the job is dead. None: the setting.
            cwd: the directory to run in. None: the worker's home directory.
            env: variables to add to the worker's environment.
            tags: words by which jobs can be selected.
            success_codes: exit codes that complete the job. None: the setting.
            fatal_codes: exit codes that make the job dead without a retry. None: the setting.
            later_codes: exit codes that mean "run again later" and do not count as a failure.
                None: the setting.
            later_delay: how long the job waits after such an exit code, in seconds. None: the
                setting.
            others: further fields of the record. Those that queuectl writes itself are checked, but
                their values are not used. Unknown ones are kept, with a warning if one looks like a
                slip for a known field, or names a feature that queuectl does not have.

        Raises:
            BadJobError: a field is not valid.
            JobExistsError: the id is taken.
            SpoolError: the file system refused; the job is not queued, unless the message says that
                it may run all the same.
            BadSettingError: config.json is not valid.
            UnsafeSpoolError: another user could redirect what is written to the spool.
            WrongUserError: this process is root, and the spool belongs to another user who has not
                shared it.
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
            "later_delay": later_delay,
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
        """Wait until a job has ended, and return it from completed/ or dead/.

        A failed job that will be retried has not ended. This does not check whether a worker is
        running: without one, it waits until there is one.

        Args:
            job_id: the job's id. A job that has already ended is returned at once.
            timeout: how long to wait, in seconds. None: forever.

        Raises:
            NoSuchJobError: no state holds the job, or it was deleted while this waited.
            TimeoutError: the job has not ended in time.
            BadJobError: the job has ended, but its file does not hold a valid job.
            SpoolError: the file system refused.
        """
        with closing(self._looks(job_id, _deadline_s(timeout))) as looks:
            for _ in looks:
                is_over = self.locate(job_id)[0] in FINISHED
                # it may be retried between these two calls
                if is_over and (found := self.find(job_id)).state in FINISHED:
                    return found
        raise _not_ended(job_id)

    def _looks(self, job_id: str, deadline_s: float) -> Generator[None, None, None]:
        """Yield when it is time to look at a job: at once, and whenever it may have ended."""
        from queuectl.jobs.waiting import Endings

        yield  # before anything is watched: mostly the job has ended
        with Endings(self, [job_id]).changes() as changes:
            yield
            while time.monotonic() < deadline_s:
                changes.wait(deadline_s)
                yield

    def cancel(self, job_id: str, timeout: float | None = None) -> None:
        """Cancel a job that waits or runs; it is in dead/ when this returns.

        The command of a running job is ended by its worker: with SIGTERM, and with SIGKILL after
        `kill-grace` seconds.

        Args:
            job_id: the job's id.
            timeout: how long to wait for the worker, in seconds. None: no limit, even if the
                worker is suspended.

        Raises:
            NoSuchJobError: no state holds the job.
            WrongStateError: the job has already ended, or cannot be taken; the message says which.
            TimeoutError: the job has not ended in time, but may still do so.
            QueuectlError: the job's worker is dead, and the job cannot be recovered, or only by
                another user.
            SpoolError: the file system refused.
            BadSettingError: config.json has been changed since the spool was opened, and is not
                valid.
            UnsafeSpoolError: another user could redirect what is written to the spool.
            WrongUserError: this process is root, and the spool belongs to another user who has not
                shared it.
        """
        from queuectl.jobs.cancelling import Cancelling
        from queuectl.jobs.verbs import CANCELLABLE

        deadline_s = _deadline_s(timeout)
        self._prepare_to_change(job_id)
        if not list(Cancelling(self, CANCELLABLE, _refuse).cancel([job_id], deadline_s)):
            raise _not_ended(job_id)

    def retry(self, job_id: str) -> None:
        """Queue a job again that is completed, failed or dead; its attempts start again at 0.

        Raises:
            NoSuchJobError: no state holds the job.
            WrongStateError: the job is pending or running, was set aside, or cannot be retried for
                another reason; the message says which.
            SpoolError: the file system refused.
            BadSettingError: config.json has been changed since the spool was opened, and is not
                valid.
            UnsafeSpoolError: another user could redirect what is written to the spool.
            WrongUserError: this process is root, and the spool belongs to another user who has not
                shared it.
        """
        from queuectl.jobs import verbs

        self._prepare_to_change(job_id)
        for _ in verbs.retry(self, [job_id], OUTCOMES):
            pass

    def _prepare_to_change(self, job_id: str) -> None:
        self.follow_config()
        self.locate(job_id)  # before anything is created: there may be no spool


def _deadline_s(timeout: float | None) -> float:
    return inf if timeout is None else time.monotonic() + timeout


def _not_ended(job_id: str) -> TimeoutError:
    return TimeoutError(f'job "{job_id}" has not ended in time')


def _refuse(_job_id: str, error: QueuectlError) -> None:
    raise error


def _as_in_records(value: Any) -> Any:
    """Return a Python value in the form in which a record holds it."""
    if isinstance(value, str):
        return str.__str__(value)  # the text of a subclass too, such as an Enum: JSON writes that
    if isinstance(value, (list, tuple)):
        return [_as_in_records(item) for item in value]
    if isinstance(value, Mapping):
        return {_as_a_name(name): _as_in_records(item) for name, item in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    module = sys.modules.get("datetime")  # a caller with a time has imported it
    is_time = module is not None and isinstance(value, (module.date, module.time))
    return value.isoformat() if is_time else value


def _as_a_name(key: Any) -> Any:
    """Return a key as JSON writes it: a number, a boolean or None as text."""
    return json.dumps(key) if key is None or isinstance(key, (int, float)) else key
