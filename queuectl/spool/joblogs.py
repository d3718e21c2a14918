"""What commands printed: which runs there were, where their output is, and how to remove it.

spool-layout.md, section "logs/".
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from queuectl.ids import is_id
from queuectl.record.outcome import forgotten_run
from queuectl.spool.filenames import OUT, STREAMS
from queuectl.system.moving import is_there, unlink_quietly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from queuectl.record.job import Job
    from queuectl.spool.layout import Found, Layout

# Runs: if a job has more, logs/ is listed instead of probed for each. Probing for 20,000 runs takes
# as long as listing 240,000 files.
_PROBED = 20_000


# --- which runs there were ------------------------------------------------------------------


def last_run(found: Found) -> int:
    """Return the number of a job's last run, which may still be going on; 0 if there was none."""
    return current_run(found) or found.job.run_number


def current_run(found: Found) -> int | None:
    """Return the number of the run that is going on, None if none is."""
    running = found.state == "processing" and found.job.state == "processing"
    return found.job.run_number + 1 if running else None


def log_file(spool: Layout, job: Job, number: int, stream: str) -> str:
    """Return where run `number` of a job wrote: under the job's id, or the one in its record.

    The two differ for a job that was put into dead/ under another id than the one it ran under.
    """
    path = spool.log_files(job.id, number)[STREAMS.index(stream)]
    ran_as = _ran_as(job, stream)
    if ran_as is not None and not is_there(path):
        return spool.log_files(ran_as, number)[STREAMS.index(stream)]
    return path


def record_here(spool: Layout, found: Found) -> dict[str, Any]:
    """Return a job's record with the current paths of its output: the spool may have been moved."""
    record = found.record()
    for name in ("stdout_path", "stderr_path"):
        path = record.get(name)
        if path is not None:
            record[name] = f"{spool.directory('logs')}/{os.path.basename(path)}"
    return record


def _ran_as(job: Job, stream: str) -> str | None:
    """Return the id under which the last run wrote its output; None if the record does not say."""
    recorded = job.record.get("stdout_path" if stream == OUT else "stderr_path")
    run, _, suffix = os.path.basename(recorded or "").rpartition(".")
    ran_as, _, number = run.rpartition(".")
    return ran_as if is_id(ran_as) and number.isdecimal() and suffix == stream else None


# --- removing -------------------------------------------------------------------------------


def remove(spool: Layout, job: Job) -> None:
    """Delete what the runs of a job printed.

    Raises:
        OSError: the file system refused.
    """
    last = max(job.run_number, job.attempts)
    ids = [job.id]
    ran_as = _ran_as(job, OUT)
    if ran_as not in (None, job.id) and not spool.is_anywhere(ran_as):  # else it may be that job's
        ids.append(ran_as)
    for job_id in ids:
        paths = _listed(spool, job_id) if last > _PROBED else _probed(spool, job_id, last)
        for path in paths:
            unlink_quietly(path)


def _probed(spool: Layout, job_id: str, last: int) -> Iterator[str]:
    for number in range(1, last + 1):
        yield from spool.log_files(job_id, number)


def _listed(spool: Layout, job_id: str) -> list[str]:
    logs = spool.directory("logs")
    found = []
    for name in os.listdir(logs):
        stem, _, stream = name.rpartition(".")
        owner, _, number = stem.rpartition(".")
        if owner == job_id and stream in STREAMS and number.isdigit():
            found.append(f"{logs}/{name}")
    return found


def forget_output(spool: Layout, before: Job, after: Job) -> None:
    """Delete the output of the run that just dropped out of `history`, if it only meant later."""
    number = forgotten_run(before, spool.config)
    if number is not None and after.history != before.history:
        remove_output(spool, before.id, number)


def remove_output(spool: Layout, job_id: str, number: int) -> None:
    """Delete what run `number` of a job printed, as far as the file system allows."""
    for path in spool.log_files(job_id, number):
        with contextlib.suppress(OSError):  # otherwise it is deleted with the job
            os.unlink(path)
