"""Checks of what is in a spool: each id once, where its body says, and held by no dead owner."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from queuectl.doctor.finding import (
    PROBLEM,
    as_far_as_possible,
    could_not_look,
    ok,
    problem,
    warning,
)
from queuectl.errors import (
    BadJobError,
    IncompleteJobError,
    QueuectlError,
    do_all,
    for_shell,
    refused_to,
)
from queuectl.ids import is_id
from queuectl.jobs import verbs
from queuectl.jobs.verbs import Verb
from queuectl.pool.rejects import OPEN_S, QUIET_S
from queuectl.recovery import leftovers
from queuectl.recovery.recovery import Recovery, lock_file, recover
from queuectl.spool.asides import WHY
from queuectl.spool.filenames import DIRECTORIES, REJECTED, SUFFIX
from queuectl.states import AT_REST, FINISHED, OUTCOMES, STATES, WAITING
from queuectl.system.moving import is_there
from queuectl.system.scratch import owner_of
from queuectl.units import plural
from queuectl.workers import hindrances, owners
from queuectl.workers.hindrances import STOPPING
from queuectl.workers.worklog import WorkLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from queuectl.doctor.finding import Finding
    from queuectl.record.job import Job
    from queuectl.spool.layout import Layout
    from queuectl.spool.spool import Spool
    from queuectl.workers.hindrances import Hindrance
    from queuectl.workers.owners import Worker

_READ_IN = ("pending", *OUTCOMES)
_READ = 20_000  # files read at most in each of these, which takes some seconds
_BEING_WRITTEN_S = 60.0  # how long a file without .json may be a draft
_SHOWN = 10  # findings of one kind that are shown one by one
ONCE_QUIET = f" once it has been quiet for {QUIET_S:g} s"
ONCE_WRITTEN = f"{ONCE_QUIET}, or {OPEN_S:g} s while it is open"
_RECOVERS = "a worker clears it away within poll-interval, `queuectl doctor --fix` at once"


def examine(spool: Spool) -> Iterator[Finding]:
    """Yield what is wrong with what is in a spool, and how much was looked at."""
    if not all(os.path.isdir(spool.directory(name)) for name in DIRECTORIES):
        return  # the check of the file system has reported this
    names: dict[str, list[str]] = {state: [] for state in STATES}
    sizes = dict.fromkeys(STATES, "?")
    for state in STATES:
        try:
            names[state] = list(spool.names(state))
            sizes[state] = str(len(names[state]))
        except (OSError, QueuectlError) as error:  # noqa: PERF203 - the others may be readable
            yield could_not_look(error)
    yield from _some(_twice(spool, names), "more ids in two states")
    yield from _some(_bodies(spool, names), "more files that are not as they should be")
    recovers = _Recovers(spool)
    yield from as_far_as_possible(_lock(spool))
    yield from _some(_orphans(spool, recovers), "more jobs held by workers that are dead or silent")
    yield from _some(_leftovers(spool, recovers), "more leftovers of dead workers")
    yield from _some(_ignored(spool), "more files that nobody reads")
    yield from as_far_as_possible(_waiting(spool, names))
    unread = sum(max(0, len(names[state]) - _READ) for state in _READ_IN)
    counts = ", ".join(f"{state} {size}" for state, size in sizes.items())
    yield ok(f"{counts}; {unread} of these were not read" if unread else counts)


def _some(findings: Iterator[Finding], what: str) -> Iterator[Finding]:
    """Yield the first findings of a kind, and how many more there are."""
    more: list[Finding] = []
    yield from as_far_as_possible(_first(findings, more))
    if more:
        worst = problem if any(f.level == PROBLEM for f in more) else warning
        todo = more[0].todo
        if any(f.todo != todo for f in more):
            todo = "look again once those above are mended"
        mends = [f.mend for f in more if f.mend is not None]
        yield worst(f"{len(more)} {what}", todo, partial(do_all, mends) if mends else None)


def _first(findings: Iterator[Finding], more: list[Finding]) -> Iterator[Finding]:
    yield from islice(findings, _SHOWN)
    more.extend(findings)


def _twice(spool: Spool, names: dict[str, list[str]]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    twice: dict[str, list[str]] = {}
    for state, ids in names.items():
        for job_id in ids:
            if first.setdefault(job_id, state) != state:
                twice.setdefault(job_id, [first[job_id]]).append(state)
    for job_id, places in twice.items():
        # a job that moved while the directories were listed was seen in two: look twice more
        if not all(_is_in(spool, state, job_id) for state in (*places, *places)):
            continue
        what = f"{job_id} is in {' and '.join(f'{place}/' for place in places)}"
        if any(place in WAITING for place in places):
            beside = set(places) - set(WAITING)
            if beside == {"dead"} and rejection(spool, job_id) is not None:
                continue  # what was set aside makes way when the waiting job's turn comes
            yield warning(what, "a worker sets the waiting one aside when its turn comes")
        elif "processing" in places:
            todo = "once it has run, it goes to dead/ under another id if its place is taken"
            yield warning(what, todo)
        else:
            files = " ".join(for_shell(spool.file(place, job_id)) for place in places)
            yield problem(what, f"look at {files}, then rename or remove one")


def _is_in(spool: Spool, state: str, job_id: str) -> bool:
    if state == "processing":
        return any(held.job_id == job_id for held in spool.held())
    return is_there(spool.file(state, job_id))


# --- bodies -----------------------------------------------------------------------------------


def _bodies(spool: Spool, names: dict[str, list[str]]) -> Iterator[Finding]:
    for state in _READ_IN:
        for job_id in names[state][:_READ]:
            yield from _body(spool, state, job_id)
    yield from _without_reason(spool)


def _body(spool: Spool, state: str, job_id: str) -> Iterator[Finding]:
    try:
        job = spool.read_file(spool.file(state, job_id), job_id)
    except FileNotFoundError:
        return  # moved on since
    except BadJobError as error:
        yield _unreadable(spool, state, job_id, error)
    except OSError as error:
        todo = "a worker sets it aside if it stays so" if state in WAITING else ""
        yield problem(f"{state}/{job_id}.json cannot be read: {error.strerror}", todo)
    else:
        if state not in ("pending", job.state) and is_id(job_id):
            yield _says_another_state(spool, state, job)


def _says_another_state(spool: Spool, state: str, job: Job) -> Finding:
    what = f"{job.id} is in {state}/, but its record says {job.state}"
    if spool.found_in(job.id, AT_REST, but=state) is not None:  # the id names no single job
        return warning(what, "the directory counts")
    mend = partial(_say_where_it_is, spool, state, job.id)
    return warning(what, "the directory counts; `queuectl doctor --fix` corrects the record", mend)


def _unreadable(spool: Spool, state: str, job_id: str, why: BadJobError) -> Finding:
    where = f"{state}/{job_id}.json"
    if state == "completed":
        return warning(f"{where} is not a job: {why}", "mend it by hand, or remove it")
    if state != "dead":
        when = ONCE_WRITTEN if isinstance(why, IncompleteJobError) else ""
        return warning(f"{where} cannot be run: {why}", f"a worker sets it aside{when}")
    rejected = rejection(spool, job_id)
    if rejected is None:
        return problem(f"{where} is not a job: {why}", "mend it by hand, or remove it")
    return warning(f"{job_id} was set aside: {rejected.why}", rejected.todo)


class Rejection(NamedTuple):
    """Why a file was set aside, and what to do about it."""

    why: str
    todo: str


def rejection(spool: Layout, job_id: str) -> Rejection | None:
    """Return why a file was set aside under this id; None if dead/ has no such reason.

    Raises:
        SpoolError: the file system refused to say.
    """
    with refused_to("read", spool.file("dead", job_id)):
        reason = spool.reason(job_id)
    if reason is None:
        return None
    why = reason.error.removeprefix(WHY)
    todo = f"`queuectl dlq purge {job_id}`"
    if is_there(spool.rejected_file(job_id)):
        todo = f"{spool.mending(job_id)}, or {todo}"
    return Rejection(why, todo)


def _say_where_it_is(spool: Spool, state: str, job_id: str) -> None:
    def body(job: Job) -> Job:
        return job.changed(state=state)

    if state in FINISHED:
        spool.correct(state, job_id, body)
    else:
        verb = Verb(states=(state,), new_body=body, done="mended")
        list(verbs.apply(spool, [job_id], verb))


def _without_reason(spool: Spool) -> Iterator[Finding]:
    dead = spool.directory("dead")
    for name in os.listdir(dead):
        # in this order: the reason comes before the file, and goes after it
        if not name.endswith(REJECTED) or is_there(spool.file("dead", name.removesuffix(REJECTED))):
            continue
        if is_there(f"{dead}/{name}"):
            yield warning(f"dead/{name} has no reason beside it", "look at it, then remove it")


# --- what the dead left -----------------------------------------------------------------------


class _Recovers:
    """Recovers once for all findings, and tells for each owner whether that succeeded."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._done: Recovery | None = None

    def of(self, owner: str) -> Callable[[], None]:
        """Return a function that recovers from an owner, or raises an OSError or QueuectlError."""

        def mend() -> None:
            self._done = self._done or recover(self._spool, WorkLog(-1))
            if self._done.busy:
                raise QueuectlError("another worker or command is recovering jobs here right now")
            if owner in self._done.faults:
                raise self._done.faults[owner]

        return mend


def _lock(spool: Spool) -> Iterator[Finding]:
    path = lock_file(spool)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            what = "workers/recovery.lock is not a file: nothing that the dead held is recovered"
            yield problem(what, f"rm -r {for_shell(path)}")
            return
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except PermissionError:  # not EROFS, which the check of the file system has reported
            what = (
                "workers/recovery.lock is not ours to lock: nothing that the dead held is recovered"
            )
            remedy = "chmod g+rw" if spool.config.shared else f"chown {os.geteuid()}"
            yield problem(what, f"{remedy} {for_shell(path)}")
        except OSError as error:
            if error.errno != errno.EROFS:
                raise


def _orphans(spool: Spool, recovers: _Recovers) -> Iterator[Finding]:
    look_up = cache(partial(owners.look_up, spool))
    for job_id, owner, _ in spool.held():
        seen = look_up(owner)
        if seen.life is owners.Life.ALIVE:
            continue
        if seen.life is owners.Life.AWAY:
            if owners.is_heard(spool, owner):
                continue
            todo = "if it is gone, a worker here takes the job back after the lease"
            yield warning(f"{job_id} is held by {owner}, silent on another machine", todo)
        elif seen.by_silence:
            unseen = seen.worker is not None and seen.worker.runs_unseen
            why = "dead in another container" if unseen else "of whom there is no trace"
            todo = owners.recovered_by(spool, owner, seen)
            yield warning(f"{job_id} is held by {owner}, {why}", todo)
        else:
            who = f"{owner}, which is dead" if owner else "nobody"
            todo = owners.recovered_by(spool, owner, seen)
            yield problem(f"{job_id} is held by {who}", todo, recovers.of(owner))


def _leftovers(spool: Spool, recovers: _Recovers) -> Iterator[Finding]:
    holders = {held.owner for held in spool.held()}
    for name, worker in owners.known(spool).items():
        if name in holders and owners.only_for(spool, name, worker) is not None:
            continue  # reported with what it holds
        seen = owners.look_at(spool, name, worker)
        if seen.known_dead:
            yield warning(f"workers/{name} is dead", _RECOVERS, recovers.of(name))
        elif seen.life is owners.Life.DEAD:
            todo = "a worker clears it away after the lease"
            yield warning(f"workers/{name} is silent", todo)
    for name in leftovers.abandoned_drafts(spool):
        what = f"tmp/{name} was left by a worker or command that is dead"
        yield warning(what, _RECOVERS, recovers.of(owner_of(name) or ""))


def _ignored(spool: Spool) -> Iterator[Finding]:
    """Yield files that may have been meant as jobs, and have not been renamed for a while."""
    pending = spool.directory("pending")
    for name in os.listdir(pending):
        if name.endswith(SUFFIX) or name.startswith("."):
            continue
        with contextlib.suppress(FileNotFoundError):
            if time.time() - os.lstat(f"{pending}/{name}").st_mtime > _BEING_WRITTEN_S:
                todo = f"rename it to {name}{SUFFIX} if it is meant as a job"
                yield warning(f"pending/{name} is read by nobody", todo)


# --- who runs what waits ----------------------------------------------------------------------


def suspended(worker: Worker) -> Finding:
    """Return the finding that a pool, or a command line that may hold jobs, is suspended."""
    why = hindrances.suspension(worker)
    return problem(why.what if worker.is_pool else f"the command {why.what}", why.todo)


def _waiting(spool: Spool, names: dict[str, list[str]]) -> Iterator[Finding]:
    if spool.paused:
        yield warning(hindrances.PAUSED.what, hindrances.PAUSED.todo)
    living = owners.living(spool)
    yield from (suspended(owner) for owner in living if owner.suspended and not owner.is_pool)
    pools = [owner for owner in living if owner.is_pool]
    waiting = len(names["pending"]) + len(names["failed"])
    for why in _hindered(spool, pools, any_wait=waiting > 0):
        yield problem(why.what, why.todo)
    if pools:
        slots = sum(pool.slots for pool in pools)
        workers = f"{len(pools)} {plural('worker', len(pools))}"
        yield ok(f"{workers}, for {slots} {plural('job', slots)} at a time")
    elif waiting:
        jobs = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
        yield warning(f"{jobs} and {hindrances.NO_WORKER.what}", hindrances.NO_WORKER.todo)


def _hindered(spool: Spool, pools: list[Worker], *, any_wait: bool) -> Iterator[Hindrance]:
    """Yield why pools start no jobs; stopping counts only if all of them stop and jobs wait."""
    for pool in pools:
        yield from hindrances.of_pool(spool, pool, but=(STOPPING,))
    if any_wait and pools:
        yield from (why for why in hindrances.of_all(spool, pools) if why.word == STOPPING)
