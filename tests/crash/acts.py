"""What commands, pools, and people with mv and rm do to one job at the same time."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuectl.cli import editing
from queuectl.errors import NoSuchJobError, QueuectlError
from queuectl.jobs import housekeeping, verbs
from queuectl.jobs.cancelling import Cancelling
from queuectl.pool.pool import Pool
from queuectl.record import outcome
from queuectl.recovery.recovery import Recovery
from queuectl.system import files
from queuectl.workers.registration import Registration
from tests.crash.verbs_to_kill import QUIET

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl import Spool

JOB = "one"
# each run notes its process twice: the lines of two runs at once would be mixed
_NOTE = 'echo $$ >> "$QUEUECTL_SPOOL.runs"'
DIARY = f"{_NOTE}; sleep 0.01; {_NOTE}"
SECOND = "second"  # the tag of the other job that is given the same id
ENDED = ("completed", "dead")
REFUSALS = (QueuectlError, FileNotFoundError, FileExistsError)


def _put(state: str, spool: Spool, **fields: Any) -> None:
    spool.submit(DIARY, id=JOB)
    claim = spool.take(JOB, "pending", "hand")
    spool.settle(claim, spool.read_claim(claim).changed(state=state, attempts=1, **fields))


def _hold(spool: Spool, *, is_run: bool) -> None:
    """Take the job as a pool does, in a process that ends before it gives the job back."""
    spool.submit(DIARY, id=JOB)
    me = Registration(spool).__enter__()
    claim = spool.take(JOB, "pending", me.name)
    if is_run:
        job = spool.read_claim(claim)
        logs = spool.log_files(JOB, 1)
        started = outcome.started(job, worker=me.name, now=time.time(), logs=logs)
        files.carry_out(spool.rewriting(claim, started))
        Path(logs[0]).touch()


# where the job is before, held by an owner that has died
HELD: dict[str, Callable[[Spool], object]] = {
    "taken": partial(_hold, is_run=False),
    "run": partial(_hold, is_run=True),
}
BEFORE = HELD | {
    "nowhere": lambda _: None,
    "pending": lambda spool: spool.submit(DIARY, id=JOB),
    "failed": partial(_put, "failed", next_retry_at="2020-01-01T00:00:00Z"),
    "completed": partial(_put, "completed"),
    "dead": partial(_put, "dead", error_message="exit status 1"),
}


def _submit(spool: Spool) -> None:
    spool.submit(DIARY, id=JOB, tags=[SECOND])


def _drop(spool: Spool) -> None:
    draft = f"{spool.path}.{os.getpid()}.draft"
    with open(draft, "w") as file:
        json.dump({"command": DIARY, "tags": [SECOND]}, file)
    try:
        os.link(draft, spool.file("pending", JOB))
    finally:
        os.unlink(draft)


def _work(spool: Spool) -> None:
    assert Pool(spool, 1, QUIET, stop_when_empty=True).run()


def _cancel(spool: Spool) -> None:
    missed: list[Exception] = []
    work = Cancelling(spool, verbs.CANCELLABLE, lambda _id, error: missed.append(error))
    list(work.cancel([JOB]))
    if missed:
        raise missed[0]


def _retry(spool: Spool) -> None:
    list(verbs.retry(spool, [JOB], ("failed", *ENDED)))


def _edit(spool: Spool) -> None:
    found = spool.find(JOB)
    new = editing.with_fields(found.job, {"priority": 7})
    if new is None or found.state not in verbs.EDITABLE:
        raise QueuectlError(found.state)
    verbs.edit(spool, found, new)


def _delete(spool: Spool) -> None:
    state = spool.found_in(JOB, ENDED)
    doomed = list(housekeeping.doomed(spool, state, [JOB])) if state else []
    missed: list[Exception] = []
    deleted = housekeeping.delete_each(spool, doomed, lambda _id, error: missed.append(error))
    if not any(was_there for _, was_there in deleted):
        raise missed[0] if missed else NoSuchJobError(JOB)


def _recover(spool: Spool) -> None:
    with Registration(spool) as me:
        Recovery(spool, me.name, QUIET).run()


def _move(source: str, target: str, spool: Spool) -> None:
    os.rename(spool.file(source, JOB), spool.file(target, JOB))


def _remove(state: str, spool: Spool) -> None:
    os.unlink(spool.file(state, JOB))


# each raises one of REFUSALS if it does nothing
ACTS: dict[str, Callable[[Spool], None]] = {
    "submit": _submit,
    "drop": _drop,
    "work": _work,
    "cancel": _cancel,
    "retry": _retry,
    "edit": _edit,
    "delete": _delete,
    "recover": _recover,
    "mv failed pending": partial(_move, "failed", "pending"),
    "mv dead pending": partial(_move, "dead", "pending"),
    "rm pending": partial(_remove, "pending"),
    "rm dead": partial(_remove, "dead"),
}
