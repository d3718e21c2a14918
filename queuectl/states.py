"""The states of a job, which are directories of the spool, and groups of them."""

from __future__ import annotations

STATES = ("pending", "processing", "completed", "failed", "dead")
WAITING = ("pending", "failed")  # a pool takes jobs from here
OUTCOMES = ("completed", "failed", "dead")  # where a job goes when its run has ended
FINISHED = ("completed", "dead")  # only a person moves a job out of these
AT_REST = (*WAITING, *FINISHED)  # where a job is while nobody holds it
