"""Setting aside: what happens to a file that can never run.

    processing/ID@OWNER.json  --rename-->  dead/ID.rejected, explained in dead/ID.json

spool-layout.md, section "Set aside".
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from queuectl.errors import BadJobError, ClaimLostError
from queuectl.ids import as_id
from queuectl.record.fields import FIELDS
from queuectl.record.job import Job, decode
from queuectl.record.reading import read_regular
from queuectl.spool.filenames import REJECT_MARK, SUFFIX, split_reject
from queuectl.spool.moves import Claim, Moves
from queuectl.system import files, moving
from queuectl.units import utc_text

if TYPE_CHECKING:
    from queuectl.system.files import Steps

# errors of a file that is immutable, another user's in a sticky directory, or a mount point
OF_ONE_FILE = frozenset({errno.EPERM, errno.EACCES, errno.EBUSY})
WHY = "rejected: "  # how the error message of a reason begins
_SAYS = ("error_message", "rejected", "tags")
_MOST_OF_TAGS = 10_000  # characters: reasons are read at every look at dead/


class Aside(NamedTuple):
    """What to report about a file that was set aside: its id in dead/, and why it is there."""

    job_id: str
    why: str


class Asides(Moves):
    """A spool in which files that can never run are set aside."""

    _rejects = 0  # files taken to be set aside

    def take_name(self, name: str, state: str, owner: str) -> Claim:
        """Take a file to be set aside, under a name that no job has; its own need not be an id.

        Raises:
            FileNotFoundError: the file is gone.
            OSError: the file could not be moved.
        """
        job_id = as_id(name.removesuffix(SUFFIX))
        # held under a name of its own: a turn of this owner may hold a job of the same id
        self._rejects += 1
        mark = f"{REJECT_MARK}{self._rejects}"
        held = self.held_file(job_id + mark, owner)
        claim = Claim(job_id, owner, held, state)
        moving.move_contended(f"{self.directory(state)}/{name}", claim.path)
        return claim

    def set_aside(
        self, claim: Claim, why: str, name: str | None = None, *, cut_short: bool = False
    ) -> Aside:
        """Do what `setting_aside` does, waiting for each step."""
        return files.carry_out(self.setting_aside(claim, why, name, cut_short=cut_short))

    def setting_aside(
        self, claim: Claim, why: str, name: str | None = None, *, cut_short: bool = False
    ) -> Steps[Aside]:
        """Set a file aside: its bytes go to dead/ID.rejected, and dead/ID.json says why.

        The reason is there before the bytes move. So a crash between the two leaves an orphan that
        is set aside again, not bytes without a reason.

        Args:
            claim: the claim on the file.
            why: why it cannot run.
            name: the name that it had, if not ID.json.
            cut_short: whether this finishes what a dead owner began. If so, a reason that is
                already in dead/ is good enough.

        Returns:
            What to report about the file.

        Raises:
            ClaimLostError: the claim was taken away.
            OSError: the file is still held, or its move might not survive a power cut.
        """
        if self._is_reason(claim):
            with contextlib.suppress(FileExistsError):
                yield from self._parting(claim, self.file("dead", claim.job_id), "dead")
                what = f"it only says why a file was set aside: mend {claim.job_id}.rejected"
                return Aside(claim.job_id, what)
        if not (cut_short and self._is_of_this_take(claim)):
            with contextlib.suppress(OSError):  # whatever is there: that name is taken
                self.drop_reason(claim)  # mended, but badly: a new reason replaces the old
        says = {
            "error_message": f"{WHY}{why}",
            "rejected": name or f"{claim.job_id}{SUFFIX}",
            **_tags_of(claim.path),  # whoever waits for a tag must learn of it
        }
        return Aside((yield from self._parting_explained(claim, says, any_reason=cut_short)), why)

    def _parting_explained(
        self, claim: Claim, says: dict[str, Any], *, any_reason: bool
    ) -> Steps[str]:
        """Move a held file to dead/ID.rejected, once dead/ID.json says why; return the id used.

        A reason that is already there is good enough if it says the same, or if `any_reason`.
        """

        def is_explained(free: str) -> bool:
            try:
                reason = self.reason(free)
            except OSError:  # whatever is there: that name is taken
                return False
            return reason is not None and (any_reason or says.items() <= reason.record.items())

        def parting(free: str) -> Steps[None]:
            target = self.rejected_file(free)
            if claim.path != target and not is_explained(free):
                yield from self._explaining(claim, free, says)
            yield from self._parting(claim, target, "dead")

        return self._to_dead(claim, parting, is_explained)

    def _is_reason(self, claim: Claim) -> bool:
        """Tell whether a held file only says why another file was set aside.

        `mv dead/ID.json pending/` retries a job, and people try it with such a file too.
        """
        try:
            return self.reason(claim.job_id, claim.path) is not None
        except PermissionError:  # perhaps this is why it is set aside
            return False

    def _is_of_this_take(self, claim: Claim) -> bool:
        """Tell whether the reason in dead/ was written after the file was taken."""
        reason = moving.status_of(self.file("dead", claim.job_id))
        # the take sets that of the held file
        return reason is not None and reason.st_ctime_ns >= os.lstat(claim.path).st_ctime_ns

    def making_way(self, claim: Claim) -> Steps[Aside | None]:
        """Give a file that was set aside another id in dead/: the claimed job has its id now.

        A crash on the way leaves a reason too many.

        Returns:
            What to report about the file. None if it is no longer there, because it was purged or
            another pool has already done this.

        Raises:
            OSError: that file may still have this id.
        """
        reason = self.reason(claim.job_id)
        aside = Claim(claim.job_id, claim.owner, self.rejected_file(claim.job_id), "dead")
        if reason is None or not moving.is_there(aside.path):
            return None
        says = {name: reason.record[name] for name in _SAYS if name in reason.record}
        try:
            job_id = yield from self._parting_explained(aside, says, any_reason=False)
        except ClaimLostError:
            self._take_back_reason(aside)
            return None
        except OSError as error:
            if error.errno in OF_ONE_FILE:
                self._take_back_reason(aside)
            raise
        moving.unlink_quietly(self.file("dead", claim.job_id))
        return Aside(job_id, reason.error.removeprefix(WHY))

    def _take_back_reason(self, aside: Claim) -> None:
        """Delete the new reason of a file that did not follow it, unless another file did."""
        if aside.dead_id is not None and not moving.is_there(self.rejected_file(aside.dead_id)):
            moving.unlink_quietly(self.file("dead", aside.dead_id))

    def drop_reason(self, claim: Claim) -> bool:
        """Delete the reason dead/ID.json if its file has left dead/ again.

        Returns:
            Whether it was deleted.

        Raises:
            OSError: the file system refused.
        """
        job_id = claim.job_id
        if self.reason(job_id) is None:
            return False
        # in this order: a file being set aside is first held, as ID or ID~..., and then in dead/
        held = [held.path for held in self._held_now() if split_reject(held.job_id)[0] == job_id]
        if held != [claim.path] or moving.is_there(self.rejected_file(job_id)):
            return False
        moving.unlink_quietly(self.file("dead", job_id))
        return True

    def _explaining(self, claim: Claim, free: str, says: dict[str, Any]) -> Steps[None]:
        at = utc_text(time.time())
        record = {
            "id": free,
            "command": "",
            "state": "dead",
            "created_at": at,
            "updated_at": at,
            **says,
        }
        draft_file = self._draft_file(free, claim.owner)
        publish = partial(moving.publish, draft_file, self.file("dead", free))
        yield from self._placing(draft_file, Job(record).encode(), publish)
        moving.unlink_quietly(draft_file)  # the file has its name in dead/ now


def _tags_of(path: str) -> dict[str, list[str]]:
    """Return the tags of a file that can never run, as a field of its reason, if it has any."""
    try:
        tags = decode(read_regular(path)).get("tags")
    except (BadJobError, OSError):  # its reason already says what is wrong with it
        return {}
    sound = FIELDS["tags"].accepts(tags) and len(str(tags)) < _MOST_OF_TAGS
    return {"tags": tags} if tags and sound else {}
