"""How the files of a spool are named.

spool-layout.md, section "The picture".
"""

from __future__ import annotations

import os

from queuectl.states import STATES

SUFFIX = ".json"
REJECTED = ".rejected"
REJECT_MARK = "~reject"  # ID~rejectN@OWNER is held to be set aside; no id contains ~
PAUSED = "paused"
OUT, ERR = "out", "err"
STREAMS = (OUT, ERR)  # what a command writes to, and the suffixes of its output files
DIRECTORIES = (*STATES, "logs", "workers", "tmp")


def is_job_file(name: str) -> bool:
    """Tell whether a name in a state directory is that of a job file; `.x.json` is a draft."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def job_id_in(state: str, name: str) -> str:
    """Return the job's id, given the name without `.json` of its file in a state directory."""
    return split_held(name)[0] if state == "processing" else name


def split_held(name: str) -> tuple[str, str]:
    """Return the job's id and owner, given the name without `.json` of a file in processing/."""
    job_id, _, owner = name.rpartition("@")
    return (job_id, owner) if job_id else (owner, "")


def split_reject(held_id: str) -> tuple[str, bool]:
    """Return the id in `held_id`, and whether that file is held to be set aside."""
    job_id, mark, _ = held_id.partition(REJECT_MARK)
    return job_id, mark != ""


def holder_of(path: str) -> str:
    """Return the owner that the path of a file in processing/ names."""
    return split_held(os.path.basename(path).removesuffix(SUFFIX))[1]
