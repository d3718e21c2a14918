"""The variables of a command's environment that are ours: by them, too, its processes are known.

spool-layout.md, section "Run".
"""

from __future__ import annotations

PREFIX = "QUEUECTL_"  # what else begins so is not handed on to commands
JOB_ID, ATTEMPT, MAX_RETRIES = f"{PREFIX}JOB_ID", f"{PREFIX}ATTEMPT", f"{PREFIX}MAX_RETRIES"
SPOOL, WORKER = f"{PREFIX}SPOOL", f"{PREFIX}WORKER"
OF_A_JOB = (JOB_ID, ATTEMPT, MAX_RETRIES, SPOOL, WORKER)  # a job's own `env` says none of these
