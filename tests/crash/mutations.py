"""Mutations: each takes one guard out of the code, to test the tests.

A mutation is applied in child processes only, where the environment names it. Each makes some fault
test fail, and a test checks that.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from queuectl import kernel
from queuectl.jobs import housekeeping
from queuectl.kernel import events
from queuectl.pool import custody, pool
from queuectl.record import reading
from queuectl.recovery import leftovers, recovery, starts
from queuectl.spool import joblogs
from queuectl.system import moving
from queuectl.workers import owners
from tests.crash.support import MUTATION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuectl.spool.moves import Claim
    from queuectl.spool.spool import Spool

_fsync = os.fsync


def _put(owner: object, **replacements: object) -> None:
    for name, value in replacements.items():
        getattr(owner, name)  # fails if there is nothing to replace
        setattr(owner, name, value)


def _no_fsync(kind: Callable[[int], bool]) -> Callable[[], None]:
    def fsync(descriptor: int) -> None:
        if not kind(os.fstat(descriptor).st_mode):
            _fsync(descriptor)

    def apply() -> None:
        _put(os, fsync=fsync)
        _put(kernel, sync_data=fsync)

    return apply


def _believe_the_queue_at_once() -> None:
    begun: list[int] = []

    def begin(self: events.Syncs, asked: Sequence[tuple[int, bool]]) -> int:
        begun.extend(descriptor for descriptor, _ in asked)
        os.eventfd_write(self.ready, 1)
        return len(asked)

    def over(self: events.Syncs) -> list[tuple[int, int]]:
        os.eventfd_read(self.ready)
        told = [(descriptor, 0) for descriptor in begun]
        begun.clear()
        return told

    _put(events.Syncs, begin=begin, over=over)


def _move_by_copy() -> None:
    def move(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes())
        os.unlink(source)

    def move_new(source: str, target: str) -> None:
        if os.path.lexists(target):
            raise FileExistsError(target)
        move(source, target)

    _put(moving, move=move, move_new=move_new, move_contended=move)


def _publish_by_copy() -> None:
    def publish(source: str, target: str) -> None:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, Path(source).read_bytes())
        os.close(descriptor)

    _put(moving, publish=publish)


def _replace_what_is_there() -> None:
    _put(moving, move_new=os.rename)


def _believe_renames() -> None:
    _put(moving, move=os.rename, move_new=os.rename, move_contended=os.rename)


def _follow_links() -> None:
    reading.READ_FLAGS &= ~os.O_NOFOLLOW
    _put(reading, _refuse_special=lambda _status: None)


def _bury_the_traceless() -> None:
    _put(owners, is_traceless=lambda _spool, _name: False)


def _leave_running() -> None:
    _put(recovery.Recovery, _end_what_runs=lambda _self, _dead, _living: True)


def _trust_everybody() -> None:
    _put(pool, check_safe=lambda _spool: None)


def _give_up_at_once() -> None:
    persist = custody.Custody.persist

    async def once(self: custody.Custody, what: str, claim: Claim, steps: Any) -> bool:
        self._stall.give_up()
        return await persist(self, what, claim, steps)

    _put(custody.Custody, persist=once)


def _leave_tmp() -> None:
    _put(leftovers, _clear_tmp=lambda _spool, _there: None)


def _delete_records_first() -> None:
    delete_last = housekeeping.delete

    def delete(spool: Spool, doomed: housekeeping.Doomed) -> bool:
        if doomed.state == "dead":
            return delete_last(spool, doomed)
        path = spool.file(doomed.state, doomed.job_id)
        job = spool.read_file(path, doomed.job_id)
        os.unlink(path)
        joblogs.remove(spool, job)
        return True

    _put(housekeeping, delete=delete)


def _look_at_no_spare() -> None:
    _put(starts.Starts, latest=lambda *_: None)


MUTATIONS: dict[str, Callable[[], None]] = {
    "no fsync of a directory": _no_fsync(stat.S_ISDIR),
    "no fsync of a file": _no_fsync(stat.S_ISREG),
    "believe that a queued fsync is over at once": _believe_the_queue_at_once,
    "move by copying": _move_by_copy,
    "publish by copying": _publish_by_copy,
    "replace what is there": _replace_what_is_there,
    "leave tmp/ as it is": _leave_tmp,
    "delete records before output": _delete_records_first,
    "look at no spare": _look_at_no_spare,
    "believe what a rename reports": _believe_renames,
    "follow links": _follow_links,
    "bury who has lost its files": _bury_the_traceless,
    "leave running what the dead ran": _leave_running,
    "trust everybody": _trust_everybody,
    "give up at the first error": _give_up_at_once,
}


def apply_named() -> None:
    """Apply the mutation that the environment names, if it names one."""
    if name := os.environ.get(MUTATION):
        MUTATIONS[name]()
