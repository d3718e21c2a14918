"""The states of a job, which are directories, and what they have in common."""

from __future__ import annotations

STATES = ("pending", "processing", "completed", "failed", "dead")
WAITING = ("pending", "failed")  # a pool takes jobs from here
OUTCOMES = ("completed", "failed", "dead")  # a run that has ended puts its job here
FINISHED = ("completed", "dead")  # and from here nothing but a person moves it
AT_REST = (*WAITING, *FINISHED)  # a job that nobody holds is in one of these
