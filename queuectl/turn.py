"""One job's turn: take, count, run, settle. The order of the steps is the promise.

spool-layout.md, section "The moves".
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import TYPE_CHECKING

from queuectl import outcome, runner
from queuectl.backlog import Entry
from queuectl.errors import BadJobError, ClaimLostError, JobExistsError, SpoolError
from queuectl.job import Job
from queuectl.spool import SUFFIX, Claim, Spool
from queuectl.units import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.intake import Intake
    from queuectl.lanes import Lanes
    from queuectl.worklog import WorkLog

_STALL_S = 1.0  # how long to wait before a file system that refused is asked again
_FINISHED = ("completed", "failed", "dead")


class Stall:
    """Holds a pool back while the file system refuses to take an outcome or to give a job."""

    def __init__(self, log: WorkLog, on_end: Callable[[], None]) -> None:
        self._log = log
        self._on_end = on_end
        self._lock = threading.Lock()
        self._reasons: dict[object, str] = {}
        self.over = threading.Event()

    @property
    def on(self) -> bool:
        """Whether nothing new may be claimed."""
        return bool(self._reasons)

    def begin(self, key: object, what: str, error: OSError) -> None:
        """Say that something could not be done; once, however often it is tried."""
        with self._lock:
            text = f"cannot {what}: {error.strerror or error}; waiting"
            known, self._reasons[key] = text in self._reasons.values(), text
        if not known:
            self._log.event("stalled", detail=text)

    def end(self, key: object) -> None:
        """Say that it could be done after all."""
        with self._lock:
            last = self._reasons.pop(key, None) is not None and not self._reasons
        if last:
            self._log.event("resumed", detail="the file system answers again")
            self._on_end()

    def pause(self) -> bool:
        """Wait before trying again; False when there is no time left to try."""
        return not self.over.wait(_STALL_S)


class Turns:
    """Gives jobs their turn, for one pool; `take_turn` may run in many threads."""

    def __init__(
        self,
        spool: Spool,
        owner: str,
        log: WorkLog,
        lanes: Lanes,
        intake: Intake,
        on_change: Callable[[], None],
    ) -> None:
        self._lanes = lanes
        self._reject = intake.reject
        self._put_back = intake.put_back
        self._on_change = on_change
        self.running: dict[str, runner.Run | None] = {}
        self.stall = Stall(log, on_change)
        self._spool = spool
        self._owner = owner
        self._log = log
        self._ending: outcome.Outcome | None = None
        self._lock = threading.Lock()
        self._home = os.path.expanduser("~")  # noqa: PTH111
        self._environment = {
            name: value for name, value in os.environb.items() if not name.startswith(b"QUEUECTL_")
        }

    def end_all(self, reason: outcome.Outcome) -> None:
        """End every command that runs, and every one that starts from here on."""
        with self._lock:
            self._ending = reason
            runs = [run for run in self.running.values() if run is not None]
        threads = [threading.Thread(target=run.end, args=(reason,)) for run in runs]
        for thread in threads:
            thread.start()
        self.stall.over.set()

    def take_turn(self, entry: Entry) -> None:
        """Run one job from its directory to its directory, if it still is ours to have."""
        with self._lock:
            if entry.job_id in self.running:
                # a second file of this id: the rename would replace the one that is being run
                why = "the id exists already, in processing/"
                self._reject(entry.state, entry.job_id + SUFFIX, why)
                self._lanes.done()
                return
            self.running[entry.job_id] = None
        try:
            try:
                ended = self._until_ended(entry)
            finally:
                self._lanes.done()
                self._on_change()
            if ended is not None:
                self._settle(*ended)
        finally:
            with self._lock:
                del self.running[entry.job_id]

    def _until_ended(self, entry: Entry) -> tuple[Claim, Job, outcome.Outcome] | None:
        claim = self._take(entry)
        before = None if claim is None else self._read(claim)
        job = None if claim is None or before is None else self._stamp(claim, before)
        if claim is None or before is None or job is None:
            return None
        if not self._lanes.enter():
            self._persist("give back", claim, lambda: self._spool.settle(claim, before))
            return None
        begun = time.monotonic()
        try:
            return claim, job, self._run(job)
        finally:
            self._lanes.leave(time.monotonic() - begun)

    def _take(self, entry: Entry) -> Claim | None:
        try:
            return self._spool.take(entry.job_id, entry.state, self._owner)
        except FileNotFoundError:
            return None  # somebody else was first
        except OSError as error:
            self.stall.begin(entry.job_id, f"take {entry.job_id}", error)
            self.stall.pause()
            self.stall.end(entry.job_id)
            self._put_back(entry)
            return None

    def _read(self, claim: Claim) -> Job | None:
        """Return the job that was taken, None if it cannot run: it is put aside then."""
        try:
            job = self._spool.read_claim(claim)
            self._check_only(claim)
        except BadJobError as error:
            why = str(error)
            self._persist("set aside", claim, lambda: self._set_aside(claim, why))
            return None
        except OSError as error:
            self._refused(claim, error)
            return None
        return job

    # --- count, durably, before the command starts ------------------------------------------

    def _stamp(self, claim: Claim, job: Job) -> Job | None:
        """Return the job as it is about to run, None if it is not to."""
        logs = self._spool.log_files(job.id, job.run_number + 1)
        job = outcome.started(job, worker=self._owner, now=time.time(), logs=logs)
        try:
            self._spool.rewrite(claim, job)
            self._spool.secure(claim)
        except ClaimLostError as error:
            self._log.event("lost", claim.job_id, detail=str(error))
            return None
        except OSError as error:
            self._refused(claim, error)
            return None
        return job

    def _refused(self, claim: Claim, error: OSError) -> None:
        self.stall.begin(claim.job_id, f"claim {claim.job_id}", error)
        self._persist("give back", claim, lambda: self._give_back(claim))

    def _check_only(self, claim: Claim) -> None:
        for state in _FINISHED:
            path = self._spool.file(state, claim.job_id)
            if state != claim.origin and os.path.lexists(path):
                msg = f"the id exists already, in {state}/"
                raise BadJobError(msg)

    def _set_aside(self, claim: Claim, why: str) -> None:
        self._log.event("rejected", self._spool.set_aside(claim, why), detail=why)

    def _give_back(self, claim: Claim) -> None:
        """Return a job that was taken and not run."""
        try:
            self._spool.release(claim, claim.origin)
        except JobExistsError as error:
            self._set_aside(claim, str(error))

    # --- run --------------------------------------------------------------------------------

    def _run(self, job: Job) -> outcome.Outcome:
        task = self._task(job)
        try:
            run = runner.Run(task)
        except OSError as error:
            if error.errno in runner.OUT_OF_RESOURCES:
                self.stall.begin(job.id, f"start {job.id}", error)
                self.stall.pause()
                return outcome.Outcome(ended=outcome.STOPPED, detail=str(error.strerror))
            return runner.could_not_start(error, task.cwd)
        with self._lock:
            self.running[job.id] = run
            ending = self._ending
        if ending is not None:
            run.end(ending)
        for error in run.lost_output:
            self._log.event("error", job.id, detail=f"its output is lost: {error}")
        self._log.event(
            "started", job.id, attempt=_attempt(job), command=_shown(job.command)
        )
        return run.wait()

    def _task(self, job: Job) -> runner.Task:
        record, config = job.record, self._spool.config
        marks = {"QUEUECTL_WORKER": self._owner, "QUEUECTL_JOB_ID": job.id}
        own = {
            **record.get("env", {}),
            **marks,
            "QUEUECTL_ATTEMPT": str(job.attempts),
            "QUEUECTL_MAX_RETRIES": str(record.get("max_retries", config.max_retries)),
            "QUEUECTL_SPOOL": self._spool.path,
        }
        environment = self._environment.copy()
        environment.update((os.fsencode(key), os.fsencode(value)) for key, value in own.items())
        command = job.command
        return runner.Task(
            argv=[config.shell, "-c", command] if isinstance(command, str) else command,
            env=environment,
            cwd=record.get("cwd") or self._home,
            logs=(record["stdout_path"], record["stderr_path"]),
            timeout_s=record.get("timeout", config.job_timeout),
            grace_s=config.kill_grace,
            marks=marks,
        )

    # --- settle -----------------------------------------------------------------------------

    def _settle(self, claim: Claim, job: Job, ended: outcome.Outcome) -> None:
        done = outcome.settled(
            job, ended, config=self._spool.config, now=time.time(), random=random.random
        )
        self._persist("record the outcome of", claim, lambda: self._spool.settle(claim, done))
        self._log.event(done.state, job.id, **_story(done, ended))

    def _persist(self, what: str, claim: Claim, step: Callable[[], object]) -> None:
        """Do a step that must not be given up because a disk is full: try until it is done."""
        while True:
            try:
                step()
            except ClaimLostError as error:
                self._log.event("lost", claim.job_id, detail=str(error))
            except (OSError, SpoolError) as error:
                fault = error if isinstance(error, OSError) else OSError(error.errno, str(error))
                self.stall.begin(claim.job_id, f"{what} {claim.job_id}", fault)
                if self.stall.pause():
                    continue
                self._log.event("left", claim.job_id, detail="for the next pool to recover")
            self.stall.end(claim.job_id)
            return


def _attempt(job: Job) -> str:
    limit = job.record.get("max_retries")
    return f"{job.attempts}/{max(limit, 1)}" if isinstance(limit, int) else str(job.attempts)


def _shown(command: str | list[str]) -> str:
    text = command if isinstance(command, str) else " ".join(command)
    return text if len(text) <= 80 else text[:77] + "..."


def _story(job: Job, ended: outcome.Outcome) -> dict[str, object]:
    if job.state == "completed":
        started, finished = job.instant("started_at"), job.instant("finished_at")
        return {"took": duration_text((finished or 0) - (started or 0))}
    story: dict[str, object] = {"detail": ended.message()}
    if job.state == "failed":
        due, now = job.instant("next_retry_at"), job.instant("finished_at")
        story["again_in"] = duration_text((due or 0) - (now or 0))
    return story


