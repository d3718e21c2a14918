"""Each verb of the spool, as a process does it, and a spool that gives it everything to do."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuectl.jobs import housekeeping, verbs
from queuectl.record import outcome
from queuectl.recovery.recovery import Recovery
from queuectl.settings import config
from queuectl.system import files
from queuectl.system.scratch import new_owner
from queuectl.workers.registration import Registration
from queuectl.workers.worklog import WorkLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from queuectl import Spool
    from queuectl.record.job import Job
    from queuectl.spool.moves import Claim

QUIET = WorkLog(-1)  # nobody reads what a victim logs
MANY = 17  # jobs: from 16 on they are synced in threads
# beside the spool, also for a copy of the spool
DIARY = 'echo "$QUEUECTL_JOB_ID start $$" >> "$QUEUECTL_SPOOL.runs"'


@dataclass(frozen=True)
class Verb:
    """What is there before, and what is done. `act` yields each id once it is accepted.

    Files may be set aside under the ids of `set_aside` only.
    """

    prepare: Callable[[Spool], object]
    act: Callable[[Spool], Iterable[str]]
    set_aside: frozenset[str] = frozenset()


def _nothing(_: Spool) -> None:
    """Leave the spool as it was made."""


def _rewrite(spool: Spool, claim: Claim, job: Job) -> None:
    files.carry_out(spool.rewriting(claim, job))
    files.carry_out(spool.securing(claim))


def _submit(spool: Spool) -> Iterator[str]:
    yield spool.submit(DIARY, id="one").id
    yield spool.submit(DIARY, id="two", priority=1).id


def _submit_batch(spool: Spool) -> Iterator[str]:
    jobs = [spool.draft({"command": DIARY, "id": f"job{n}"}) for n in range(6)]
    for batch in spool.submit_all(jobs):
        yield from (job.id for job in batch)


def _create(spool: Spool) -> Iterator[str]:
    shutil.rmtree(spool.path)
    yield from _submit(spool)


def _one_pending(spool: Spool) -> None:
    spool.submit(DIARY, id="one")


def _turn(spool: Spool, verdict: Callable[[Job], Job], job_id: str) -> Iterator[str]:
    yield job_id
    with Registration(spool) as me:
        claim = spool.take(job_id, "pending", me.name)
        job = spool.read_claim(claim)
        logs = spool.log_files(job.id, 1)
        job = outcome.started(job, worker=me.name, now=time.time(), logs=logs)
        _rewrite(spool, claim, job)
        spool.settle(claim, verdict(job))
        spool.drop_spares()


def _exit(code: int, spool: Spool) -> Callable[[Job], Job]:
    ended = outcome.Outcome(ended=outcome.EXIT, exit_code=code)
    return lambda job: outcome.settled(
        job, ended, config=spool.config, now=time.time(), random=float
    )


def _complete(spool: Spool, job_id: str = "one") -> Iterator[str]:
    return _turn(spool, _exit(0, spool), job_id)


def _fail(spool: Spool) -> Iterator[str]:
    return _turn(spool, _exit(1, spool), "one")


def _long_and_short(spool: Spool) -> None:
    # the body of the first job becomes a spare, and is longer than that of the second
    spool.submit(DIARY, id="long", tags=["x" * 500])
    _one_pending(spool)


def _complete_with_spares(spool: Spool) -> Iterator[str]:
    yield from ("long", "one")
    registration = Registration(spool)
    spool.keep_spares(registration.name)
    with registration as me:
        for job_id in ("long", "one"):
            claim = spool.take(job_id, "pending", me.name)
            job = spool.read_claim(claim)
            job = outcome.started(job, worker=me.name, now=time.time(), logs=("", ""))
            _rewrite(spool, claim, job)
            spool.settle(claim, _exit(0, spool)(job))
        spool.drop_spares()


def _bad_file(spool: Spool) -> None:
    with open(spool.file("pending", "bad"), "wb") as file:
        file.write(b'{"command": 7}')


def _set_aside(spool: Spool) -> Iterator[str]:
    yield "bad"
    with Registration(spool) as me:
        spool.set_aside(spool.take_name("bad.json", "pending", me.name), "the command is a number")


def _one_set_aside_and_dropped_anew(spool: Spool) -> None:
    _bad_file(spool)
    with Registration(spool) as me:
        spool.set_aside(spool.take_name("bad.json", "pending", me.name), "the command is a number")
    with open(spool.file("pending", "bad"), "w") as file:
        json.dump({"command": DIARY}, file)


def _make_way(spool: Spool) -> Iterator[str]:
    yield "bad"
    with Registration(spool) as me:
        claim = spool.take("bad", "pending", me.name)
        files.carry_out(spool.making_way(claim))
        files.carry_out(spool.releasing(claim, "pending"))


def _left_by_the_dead(spool: Spool) -> None:
    """Leave a held job of each kind, as a worker that was killed by SIGKILL does."""
    dead = new_owner()
    registration = Registration(spool)
    registration.__enter__()
    os.rename(*(f"{spool.directory('workers')}/{name}.json" for name in (registration.name, dead)))
    for number, state in enumerate(("pending", "processing", "failed", "completed", "dead")):
        job_id = f"was-{state}"
        spool.submit(DIARY, id=job_id)
        claim = spool.take(job_id, "pending", dead)
        job = spool.read_claim(claim)
        body = job.changed(state=state, worker=dead if number else None, attempts=1)
        _rewrite(spool, claim, body)
    spool.submit(DIARY, id="unreadable")
    with open(spool.take("unreadable", "pending", dead).path, "wb") as file:
        file.write(b"torn")
    for name in (f"draft@{dead}.json", f"~spare-1@{dead}.json", "draft@gone-1-00000000.json"):
        with open(f"{spool.directory('tmp')}/{name}", "wb") as file:
            file.write(b"{")
    with open(f"{spool.directory('workers')}/{dead}.lock", "wb"):
        pass
    # this process ends without unregistering: its files are those of one more dead worker


def _recover(spool: Spool) -> Iterator[str]:
    yield from ("was-pending", "was-processing", "was-failed", "was-completed", "was-dead")
    yield "unreadable"
    with Registration(spool) as me:
        Recovery(spool, me.name, QUIET).run()


def _some_dead(spool: Spool) -> None:
    for job_id in ("one", "two"):
        spool.submit(DIARY, id=job_id)
        claim = spool.take(job_id, "pending", "hand")
        job = spool.read_claim(claim).changed(
            state="dead", attempts=3, error_message="exit status 1"
        )
        spool.settle(claim, job)


def _correct(spool: Spool) -> Iterator[str]:
    yield from ("one", "two")
    for job_id in ("one", "two"):
        spool.correct("dead", job_id, lambda job: job.changed(tags=["corrected"]))


def _retry(spool: Spool) -> Iterator[str]:
    yield from ("one", "two")
    list(verbs.retry(spool, ["one", "two"], ("dead",)))


def _many_dead(spool: Spool) -> None:
    for n in range(MANY):
        body = {"command": DIARY, "state": "dead", "attempts": 3}
        with open(spool.file("dead", f"job{n}"), "w") as file:
            json.dump(body, file)


def _retry_many(spool: Spool) -> Iterator[str]:
    job_ids = [f"job{n}" for n in range(MANY)]
    yield from job_ids
    list(verbs.retry(spool, job_ids, ("dead",)))


def _cancel(spool: Spool) -> Iterator[str]:
    yield "one"
    list(verbs.cancel(spool, ["one"], "cancelled by the test"))


def _change(spool: Spool) -> Iterator[str]:
    yield "one"
    cancelled = {"state": "dead", "error_message": "cancelled by the test"}
    list(
        verbs.apply(
            spool,
            ["one"],
            verbs.Verb(
                states=("pending",), new_body=lambda job: job.changed(**cancelled), done="cancelled"
            ),
        )
    )


def _over(spool: Spool) -> None:
    """Leave jobs that have run, a file that was set aside, and a job that waits."""
    for job_id in ("old", "older"):
        spool.submit(DIARY, id=job_id)
        list(_complete(spool, job_id))
        for path in spool.log_files(job_id, 1):
            with open(path, "w") as file:
                file.write("printed\n")
    _bad_file(spool)
    list(_set_aside(spool))
    _one_pending(spool)


def _delete(spool: Spool) -> Iterator[str]:
    yield "one"
    for state in ("completed", "dead"):
        ids = list(spool.names(state))
        doomed = list(housekeeping.doomed(spool, state, ids))
        gone = list(housekeeping.delete_each(spool, doomed, lambda _id, error: _refuse(error)))
        assert gone == [(job_id, True) for job_id in ids]


def _refuse(error: Exception) -> None:
    raise error


def _edit(spool: Spool) -> Iterator[str]:
    yield "one"
    config.edit(spool.path, lambda stored: stored.update({"max-retries": 7}))


def _work(spool: Spool) -> Iterator[str]:
    from queuectl.pool.pool import Pool

    yield from ("one", "fails-once", "could-not-start", "bad")
    Pool(spool, 1, QUIET, stop_when_empty=True).run()


def _work_to_do(spool: Spool) -> None:
    _one_pending(spool)
    once = f'test "$QUEUECTL_ATTEMPT" -gt 1 || {{ {DIARY}; exit 1; }}; {DIARY}'
    spool.submit(once, id="fails-once")
    spool.submit(["/no/such/program"], id="could-not-start", max_retries=1)
    _bad_file(spool)


VERBS = {
    "create": Verb(_nothing, _create),
    "submit": Verb(_nothing, _submit),
    "submit many": Verb(_nothing, _submit_batch),
    "take, rewrite, release to completed": Verb(_one_pending, _complete),
    "take, rewrite, release to failed": Verb(_one_pending, _fail),
    "take, rewrite by exchange, release": Verb(_long_and_short, _complete_with_spares),
    "set aside": Verb(_bad_file, _set_aside, frozenset({"bad"})),
    "make way": Verb(_one_set_aside_and_dropped_anew, _make_way, frozenset({"bad.2"})),
    "recover": Verb(_left_by_the_dead, _recover, frozenset({"unreadable"})),
    "correct": Verb(_some_dead, _correct),
    "retry": Verb(_some_dead, _retry),
    "retry many": Verb(_many_dead, _retry_many),
    "cancel": Verb(_one_pending, _cancel),
    "change by hand": Verb(_one_pending, _change),
    "delete": Verb(_over, _delete, frozenset({"bad"})),
    "edit the settings": Verb(_one_pending, _edit),
    "work": Verb(_work_to_do, _work, frozenset({"bad"})),
}
