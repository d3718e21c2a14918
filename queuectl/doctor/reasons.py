"""Why one job is not running."""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import TYPE_CHECKING

from queuectl.doctor.contents import ONCE_QUIET, ONCE_WRITTEN, rejection, suspended
from queuectl.doctor.finding import ok, problem, warning
from queuectl.errors import BadJobError, IncompleteJobError
from queuectl.record.outcome import is_cancelled
from queuectl.spool import safety
from queuectl.spool.filenames import holder_of
from queuectl.states import WAITING
from queuectl.system.moving import is_there, status_of
from queuectl.units import duration_text, local_text, plural
from queuectl.workers import hindrances, owners

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.doctor.finding import Finding
    from queuectl.record.job import Job
    from queuectl.spool.layout import Layout

_READ = 20_000  # waiting jobs that are read at most, to count those before this one


def explain(spool: Layout, job_id: str) -> Iterator[Finding]:
    """Yield every reason why a job is not running, the nearest first, or that it is running.

    Raises:
        NoSuchJobError: no state holds it.
    """
    state, path = spool.locate(job_id)
    if state == "dead":
        yield from _dead(spool, job_id)
        return
    # else the file must belong to the worker's user, whom we take to be ourselves
    any_owner = spool.config.shared or spool.left_to() is not None
    try:
        job = spool.read_file(path, job_id, any_owner=any_owner)
        found = list(_of_state(spool, state, job, path))
    except FileNotFoundError:
        yield ok(f"{job_id} moved on while it was looked at")
    except IncompleteJobError as error:
        what = f"{job_id} is half-written, or no job: {error}"
        yield problem(what, _set_aside(state, ONCE_WRITTEN))
    except PermissionError as error:
        what = f"{job_id} cannot be read: {error.strerror}"
        yield problem(what, _set_aside(state, ONCE_QUIET))
    except BadJobError as error:
        yield problem(f"{job_id} can never run: {error}", _set_aside(state))
    else:
        yield from found


def _set_aside(state: str, when: str = "") -> str:
    """Return what to do about a file that is not a job, or what a worker will do."""
    if state == "completed":
        return "mend it by hand, or remove it"
    return f"mend it, or let a worker set it aside{when if state in WAITING else ''}"


def _of_state(spool: Layout, state: str, job: Job, path: str) -> Iterator[Finding]:
    if state == "completed":
        yield ok(f"{job.id} has run: completed {_when(job.instant('finished_at'))}")
    elif state == "processing":
        yield from _held(spool, job, path)
    else:
        yield from _waits(spool, state, job, path)


def _when(at: float | None) -> str:
    if at is None:
        return "at an unknown time"
    away = at - time.time()
    words = f"in {duration_text(away)}" if away > 0 else f"{duration_text(-away)} ago"
    return f"{local_text(at)}, {words}"


def _dead(spool: Layout, job_id: str) -> Iterator[Finding]:
    rejected = rejection(spool, job_id)
    if rejected is not None:
        yield problem(f"{job_id} was set aside: {rejected.why}", rejected.todo)
        return
    job = spool.find(job_id).job
    why = job.error or "no reason is recorded"
    if is_cancelled(job.record):
        yield problem(f"{job_id} was {why}", f"`queuectl dlq retry {job_id}` queues it again")
    else:
        times = "once" if job.attempts == 1 else f"{job.attempts} times"
        failed = f"failed {times} and " if job.attempts else ""  # else it was moved here by hand
        what = f"{job_id} {failed}is dead: {why}"
        steps = [f"`queuectl logs --all {job_id}`", f"`queuectl dlq retry {job_id}`"]
        if job.record.get("exit_code") == 127 and not job.record.get("env"):
            # perhaps queued from a shell with a venv, which the worker does not have
            steps.insert(1, f"`queuectl edit {job_id} --env PATH` if your PATH has it")
        yield problem(what, ", then ".join(steps))


def _held(spool: Layout, job: Job, path: str) -> Iterator[Finding]:
    owner = holder_of(path)
    seen = owners.look_up(spool, owner)
    worker, life = seen.worker, seen.life
    since = _when(job.instant("started_at"))
    if worker is not None and worker.suspended:
        yield suspended(worker)
    if life is owners.Life.ALIVE and worker is not None and not worker.is_pool:
        yield ok(f"{job.id} is held by the command of process {worker.pid}")
    elif life is owners.Life.ALIVE:
        has_begun = spool.has_begun(job)
        if has_begun:
            yield ok(f"{job.id} is running on {owner}, started {since}")
        else:
            yield ok(f"{job.id} is claimed by {owner}, and has not begun")
        # leave out what was reported above, and what a running job does not wait for
        but = {hindrances.SUSPENDED, *([hindrances.STOPPING] if has_begun else [])}
        for why in hindrances.of_pool(spool, worker, but=but) if worker is not None else ():
            yield problem(why.what, why.todo)
    elif life is owners.Life.AWAY and owners.is_heard(spool, owner):
        yield ok(f"{job.id} is held by {owner} on another machine, started {since}")
    elif life is owners.Life.AWAY:
        what = f"{job.id} is held by {owner}, silent on another machine, started {since}"
        yield warning(what, "if that is gone, a worker here takes it back after the lease")
    else:
        held = "was being run" if worker is None or worker.is_pool else "was held"
        what = f"{held} by {owner}, which is dead" if owner else "is held by nobody"
        yield problem(f"{job.id} {what}", owners.recovered_by(spool, owner, seen))


def _waits(spool: Layout, state: str, job: Job, path: str) -> Iterator[Finding]:
    found = [*_not_yet(state, job), *_runs_already(spool, job, path), *_nobody(spool)]
    found += _cannot_start(job)
    yield from found
    if found:
        return
    before = _before(spool, state, job, path)
    busy, slots = _busy(spool)
    others = f"behind {before} other {plural('job', before)}" if before else "as the next"
    if busy >= slots:
        yield ok(f"{job.id} waits for one of {slots} slots, all busy, {others}")
    else:
        yield ok(f"{job.id} is about to run, {others}")


def _not_yet(state: str, job: Job) -> Iterator[Finding]:
    now = time.time()
    run_at, retry_at = job.instant("run_at"), job.retry_at(now)
    if run_at is not None and run_at > max(now, retry_at or 0.0):
        yield warning(f"{job.id} is scheduled for {_when(run_at)}")
    elif state == "failed" and retry_at is not None and retry_at > now:
        why = job.error or "it failed"
        what = f"{job.id} waits for its retry until {_when(retry_at)} ({why})"
        yield warning(what, f"`queuectl retry {job.id}` runs it now")


def _runs_already(spool: Layout, job: Job, path: str) -> Iterator[Finding]:
    # in this order: the held job may be this one, taken a moment ago
    if any(held.job_id == job.id for held in spool.held()) and is_there(path):
        what = f"a job with this id is in processing/: {job.id} waits until that has ended"
        yield warning(what, "a worker then sets the waiting one aside; use no id twice")


def _nobody(spool: Layout) -> Iterator[Finding]:
    if spool.paused:
        yield warning(hindrances.PAUSED.what, hindrances.PAUSED.todo)
    alive = owners.workers(spool)
    for why in hindrances.of_all(spool, alive):
        yield problem(why.what, why.todo)
    if not alive:
        for opening in safety.unsafe(spool):
            what = f"{opening.path} {opening.why}: a worker refuses to start"
            yield problem(what, opening.remedy)


def _cannot_start(job: Job) -> Iterator[Finding]:
    cwd = job.record.get("cwd")
    if cwd and not os.path.isdir(cwd):
        yield warning(f"its cwd {cwd} is not there", "it cannot start until it is")


def _before(spool: Layout, state: str, job: Job, path: str) -> int:
    """Count the jobs that are due and go before this one, by priority and then by arrival."""
    mine = job.place(state, os.lstat(path).st_ctime_ns)
    now = time.time()
    count = 0
    waiting = (found for state in WAITING for found in spool.jobs(state))
    for found in islice(waiting, _READ):
        if found.job.id == job.id or (found.job.not_before(found.state, now) or 0) > now:
            continue
        status = status_of(spool.file(found.state, found.job.id))
        if status is not None:  # else it has moved on, and is no longer before this one
            count += found.job.place(found.state, status.st_ctime_ns) < mine
    return count


def _busy(spool: Layout) -> tuple[int, int]:
    pools = hindrances.that_start(spool, owners.workers(spool))
    names = {pool.worker for pool in pools}
    return sum(held.owner in names for held in spool.held()), sum(pool.slots for pool in pools)
