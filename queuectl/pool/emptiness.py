"""Whether a spool is worked off: `queuectl worker start --stop-when-empty` leaves then."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from queuectl.pool.claims import Claims
    from queuectl.pool.intake import Intake
    from queuectl.pool.upkeep import Upkeep
    from queuectl.spool.spool import Spool


class Emptiness:
    """Tells whether nothing is due, running or to be retried, in the whole spool."""

    def __init__(self, spool: Spool, claims: Claims, intake: Intake, upkeep: Upkeep) -> None:
        self._spool = spool
        self._claims = claims
        self._intake = intake
        self._upkeep = upkeep

    def is_reached(self) -> bool:
        """Look, once the pool has looked at everything that there was at its start.

        Raises:
            OSError, SpoolError: it cannot be told.
        """
        if self._claims.under_way or not self._intake.idle:
            return False
        # twice: what another pool claims is in pending/ before that is looked at, or here after it
        return (
            not self._more_may_come()
            and self._intake.idle_after_a_look()
            and not self._more_may_come()
        )

    def _more_may_come(self) -> bool:
        """Tell whether a job is held, which may come to wait again, or one waits for its retry."""
        # in this order: what was held and has failed meanwhile is in failed/ then
        return self._others_hold() or any(self._spool.names("failed"))

    def _others_hold(self) -> bool:
        """Tell whether a job is held by anybody but the dead whom only another user can bury."""
        left = self._upkeep.left_to_others
        return any(held.owner not in left for held in self._spool.held())
