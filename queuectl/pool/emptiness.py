"""Whether a spool is empty, so that `queuectl worker start --stop-when-empty` leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queuectl.pool.claims import Claims
    from queuectl.pool.intake import Intake
    from queuectl.pool.upkeep import Upkeep
    from queuectl.spool.spool import Spool


class Emptiness:
    """Tells whether no job in the whole spool is due, running or waiting for a retry."""

    def __init__(self, spool: Spool, claims: Claims, intake: Intake, upkeep: Upkeep) -> None:
        self._spool = spool
        self._claims = claims
        self._intake = intake
        self._upkeep = upkeep

    def is_reached(self) -> bool:
        """Tell whether the spool is empty; called only after the pool's first look at everything.

        Raises:
            OSError, SpoolError: the spool cannot be looked at.
        """
        if self._claims.under_way or not self._intake.idle:
            return False
        # Before and after the look at pending/: a job that another pool gives back meanwhile is
        # held before it, and one that another pool claims meanwhile is held after it.
        return (
            not self._more_may_come()
            and self._intake.idle_after_a_look()
            and not self._more_may_come()
        )

    def _more_may_come(self) -> bool:
        """Tell whether a job is held, and so may come to wait again, or waits for its retry."""
        # in this order, so that a held job that fails meanwhile is found in failed/
        return self._others_hold() or any(self._spool.names("failed"))

    def _others_hold(self) -> bool:
        """Tell whether a job is held, except by dead owners that only another user can recover."""
        left = self._upkeep.left_to_others
        return any(held.owner not in left for held in self._spool.held())
