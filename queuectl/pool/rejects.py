"""Files that cannot run: half-written ones, ones to set aside, and ones that cannot be moved.

spool-layout.md, sections "Set aside" and "What a dropped file may look like".
"""

from __future__ import annotations

import contextlib
import os
import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from queuectl import kernel
from queuectl.errors import ClaimLostError, JobExistsError
from queuectl.record.reading import READ_FLAGS
from queuectl.spool.filenames import SUFFIX
from queuectl.system.moving import status_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from queuectl.spool.moves import Claim
    from queuectl.spool.spool import Spool
    from queuectl.workers.worklog import WorkLog

QUIET_S = 3.0  # a file that does not parse and has not changed for this long is no job
OPEN_S = 60.0  # the same while somebody has it open for writing, perhaps forgotten
_LEFT_S = 60.0  # then a file that could not be moved is tried again: the cause may lie elsewhere
_LEFT_HINT = "it is tried again once it changes, or in a minute"


class _Reject(NamedTuple):
    """A file to be set aside; `name` is its name in pending/ or failed/, with the suffix."""

    state: str
    name: str
    why: str
    as_it_was: _Signature


class Rejects:
    """The files that an intake found unable to run, until they are in dead/, mended or gone.

    Args:
        spool: the files are in its pending/ and failed/.
        log: where they are logged.
        owner: the name under which they are set aside.
        look: called with the state and the id of a file that may have been mended.
        soon: called when something is to be done sooner, see `next_look_s`.
    """

    def __init__(
        self,
        spool: Spool,
        log: WorkLog,
        owner: str,
        *,
        look: Callable[[str, str], None],
        soon: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._log = log
        self._owner = owner
        self._look = look
        self._soon = soon
        self._half_written: dict[tuple[str, str], tuple[_Signature, float]] = {}
        self._waiting: dict[tuple[str, str], _Reject] = {}  # to be set aside, in this order
        self._held: tuple[Claim, _Reject] | None = None  # taken, but not in dead/ yet
        self._told: int | None = None  # the errno that was logged for it
        # files that could not be moved: as they were, and when to try again (monotonic clock)
        self._left: dict[tuple[str, str], tuple[_Signature, float]] = {}

    @property
    def busy(self) -> bool:
        """Whether a file is still to be set aside, or its writer still waited for."""
        return bool(self._half_written or self._waiting or self._held)

    @property
    def next_look_s(self) -> float | None:
        """Seconds until `look_again` and `set_aside` should be called again, None if no hurry."""
        if self._waiting and not self._held:
            return 0.0
        return QUIET_S / 4 if self._half_written or self._held else None

    # --- half-written -----------------------------------------------------------------------

    def wait_for_writer(self, state: str, name: str, why: str) -> None:
        """Have a file that may be half-written set aside once it has not changed for a while."""
        now_is = self._as_it_is(state, name)
        if now_is == _GONE:
            self.stop_waiting(state, name)
            return
        was, since = self._half_written.get((state, name), (None, 0.0))
        if was != now_is:
            self._half_written[state, name] = (now_is, time.monotonic())
            if was is None:
                self._soon()
        elif _is_given_up(f"{self._spool.directory(state)}/{name}", time.monotonic() - since):
            self.stop_waiting(state, name)
            self.reject(state, name, why)

    def stop_waiting(self, state: str, name: str) -> None:
        """Stop waiting for the writer of a file, which parses, is gone, or was given up."""
        self._half_written.pop((state, name), None)

    # --- what cannot be moved ---------------------------------------------------------------

    def leave(self, state: str, job_id: str, error: OSError) -> None:
        """Leave a job that cannot be taken where it is for a while."""
        if self._leave(state, job_id + SUFFIX):
            detail = f"cannot take it: {error.strerror}; {_LEFT_HINT}"
            self._log.event("error", job_id, detail=detail)

    def _leave(self, state: str, name: str) -> bool:
        """Remember that a file cannot be moved; tell whether it is new or has changed since."""
        now_is, (was, _) = self._as_it_is(state, name), self._left.get((state, name), (None, 0.0))
        self._left[state, name] = (now_is, time.monotonic() + _LEFT_S)
        return now_is != was

    def is_left(self, state: str, name: str) -> bool:
        """Tell whether a file could not be moved a short time ago and has not changed since."""
        was, until = self._left.get((state, name), (None, 0.0))
        return time.monotonic() < until and was == self._as_it_is(state, name)

    def forget(self, state: str, name: str) -> None:
        """Forget that a file could not be moved, since something has come under its name."""
        self._left.pop((state, name), None)

    def forget_all(self) -> None:
        """Forget all files that could not be moved, so that they are tried again."""
        self._left.clear()

    # --- setting aside ----------------------------------------------------------------------

    def reject(self, state: str, name: str, why: str) -> None:
        """Have a file set aside by the next `set_aside`."""
        if not self.is_left(state, name):
            self._waiting[state, name] = _Reject(state, name, why, self._as_it_is(state, name))
            self._soon()

    def set_aside(self, limit: int) -> None:
        """Set aside up to `limit` files that can never run, holding one at a time."""
        self._finish_held()
        for place in list(islice(self._waiting, limit)):
            if self._held is not None:
                return
            reject = self._waiting.pop(place)
            claim = self._take(reject)
            if claim is not None:
                self._held = claim, reject
                self._finish_held()

    def _take(self, reject: _Reject) -> Claim | None:
        """Take a file that can never run; return None if it changed, is gone or cannot be moved."""
        state, name = reject.state, reject.name
        if self._as_it_is(state, name) != reject.as_it_was:  # mended, perhaps
            self._look(state, name.removesuffix(SUFFIX))
            return None
        try:
            return self._spool.take_name(name, state, self._owner)
        except FileNotFoundError:
            return None
        except OSError as error:
            if self._leave(state, name):
                detail = f"cannot set aside {name}: {error.strerror}; {_LEFT_HINT}"
                self._log.event("error", detail=detail)
            return None

    def _finish_held(self) -> None:
        """Put the held file into dead/; a failure is logged once, and the next call tries again."""
        if self._held is None:
            return
        try:
            self._finish(*self._held)
        except OSError as error:
            if error.errno != self._told:
                name = self._held[1].name
                detail = f"cannot set aside {name}: {error.strerror}; it is tried again"
                self._log.event("error", detail=detail)
            self._told = error.errno
        else:
            self._held = self._told = None

    def _finish(self, claim: Claim, reject: _Reject) -> None:
        if _is_another(claim, reject.as_it_was) and reject.name == claim.job_id + SUFFIX:
            with contextlib.suppress(JobExistsError, ClaimLostError):
                self._spool.release(claim, claim.origin)  # it arrives again
                return
        try:
            aside = self._spool.set_aside(claim, reject.why, reject.name)
        except ClaimLostError as error:
            self._log.event("lost", claim.job_id, detail=str(error))
        else:
            self._log.event("rejected", aside.job_id, detail=aside.why)

    # --- looking again ----------------------------------------------------------------------

    def look_again(self) -> None:
        """Look again at files that may have changed without a change of their directory."""
        for state, name in list(self._half_written):
            self._look(state, name.removesuffix(SUFFIX))
        for (state, name), (was, _) in list(self._left.items()):
            if not self.is_left(state, name):
                unchanged = was == self._as_it_is(state, name) != _GONE
                if not unchanged:
                    self.forget(state, name)
                self._look(state, name.removesuffix(SUFFIX))
                if unchanged:  # try again in a minute, and do not log it then
                    self._left[state, name] = (was, time.monotonic() + _LEFT_S)

    def _as_it_is(self, state: str, name: str) -> _Signature:
        status = status_of(f"{self._spool.directory(state)}/{name}")
        return _GONE if status is None else (status.st_ino, status.st_size, status.st_ctime_ns)


_Signature: TypeAlias = "tuple[int, int, int]"
_GONE: _Signature = (0, 0, 0)


def _is_given_up(path: str, quiet_s: float) -> bool:
    """Tell whether to stop waiting for the writer of a file that has been quiet for so long."""
    return quiet_s >= QUIET_S and (quiet_s >= OPEN_S or not _is_open(path))


def _is_open(path: str) -> bool:
    """Tell whether somebody has a file open for writing, if the kernel lets us ask."""
    try:
        descriptor = os.open(path, READ_FLAGS)
    except OSError:  # gone or unreadable: the next read will tell
        return False
    try:
        return kernel.has_writer(descriptor)
    finally:
        os.close(descriptor)


def _is_another(claim: Claim, as_it_was: _Signature) -> bool:
    """Tell whether the file that was taken has replaced the one that was found bad."""
    status = status_of(claim.path)
    return status is not None and (status.st_ino, status.st_size) != as_it_was[:2]
