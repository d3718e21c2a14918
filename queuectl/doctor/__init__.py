"""Looks whether a spool is well, says what is not and what to do, and mends what can be mended.

Nothing is ever deleted that a job could be made of, and nothing of an owner that may be alive is
touched: orphans go through `Recovery`, bodies through the verbs or, of what has ended, through
`Spool.correct`. spool-layout.md, section "Doctor".
"""

from queuectl.doctor.examination import examine, mend
from queuectl.doctor.finding import OK, PROBLEM, WARNING, Finding
from queuectl.doctor.reasons import explain

__all__ = ["OK", "PROBLEM", "WARNING", "Finding", "examine", "explain", "mend"]
