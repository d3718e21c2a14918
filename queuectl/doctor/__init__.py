"""The health check of a spool: what is wrong, what to do about it, and mending what can be mended.

It deletes nothing that a job could be made of, and touches nothing of an owner that may be alive.
Orphans go through `Recovery`. Bodies go through the verbs, or through `Spool.correct` if the job
has ended. spool-layout.md, section "Doctor".
"""

from queuectl.doctor.examination import examine, mend
from queuectl.doctor.finding import OK, PROBLEM, WARNING, Finding
from queuectl.doctor.reasons import explain

__all__ = ["OK", "PROBLEM", "WARNING", "Finding", "examine", "explain", "mend"]
