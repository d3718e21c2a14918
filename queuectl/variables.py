"""Environment variables that queuectl sets for commands, and by which it finds their processes.

spool-layout.md, section "Run".
"""

from __future__ import annotations

PREFIX = "QUEUECTL_"  # commands inherit no other variables with this prefix
JOB_ID, ATTEMPT, MAX_RETRIES = f"{PREFIX}JOB_ID", f"{PREFIX}ATTEMPT", f"{PREFIX}MAX_RETRIES"
SPOOL, WORKER = f"{PREFIX}SPOOL", f"{PREFIX}WORKER"
OF_A_JOB = (JOB_ID, ATTEMPT, MAX_RETRIES, SPOOL, WORKER)  # a job's `env` cannot override these
