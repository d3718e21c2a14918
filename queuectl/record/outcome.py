"""How a run ended, and the record that follows from it (pure).

spool-layout.md, section "Settle".
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from queuectl.record.fields import MAX_COUNT
from queuectl.record.job import MAX_HISTORY, Job, again
from queuectl.retry import COMPLETED, DEAD, Verdict, after_failure
from queuectl.units import duration_text, plain, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from queuectl.settings.config import Config

EXIT, SIGNAL, TIMEOUT = "exit", "signal", "timeout"
COULD_NOT_START, WORKER_LOST = "could not start", "worker lost"
_AS_IT_STARTED = "as it started"
CODES = ("success_codes", "fatal_codes", "later_codes")  # the lists, in order of precedence
STOPPED, CANCELLED = "stopped", "cancelled"
_MEANS_LATER = " (means later)"
_IN_WORDS = {EXIT: "exit status", SIGNAL: "killed by", TIMEOUT: "timed out"}
_SHELL_SAYS = {
    126: "permission denied, or not a program",
    127: "command not found",
    137: "SIGKILL: out of memory?",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one run ended: `ended` is one of the words above, the other fields are its details."""

    ended: str
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""

    def message(self) -> str:
        """Return the outcome in words, as `error_message` holds it."""
        words = _IN_WORDS.get(self.ended, self.ended)
        if self.ended == EXIT:
            hints = filter(None, (_SHELL_SAYS.get(self.exit_code or 0), self.detail))
            hint = "; ".join(hints)
            return f"{words} {self.exit_code}" + (f" ({hint})" if hint else "")
        if self.ended == SIGNAL:
            return f"{words} {signal_name(self.signal or 0)}"
        return f"{words}: {self.detail}" if self.detail else words

    def entry(self, number: int, started_at: str | None, at: str, worker: str) -> dict[str, Any]:
        """Return this run's entry in `history`."""
        entry: dict[str, Any] = {
            "number": number,
            "started_at": started_at,
            "finished_at": at,
            "ended": self.ended,
        }
        if self.exit_code is not None:
            entry["exit_code"] = self.exit_code
        if self.signal is not None:
            entry["signal"] = signal_name(self.signal)
        if self.detail:
            entry["detail"] = self.detail
        entry["worker"] = worker
        return entry


def without_room(how: Outcome) -> Outcome:
    """Return the outcome of a failed command, with a full disk as its possible reason."""
    return replace(how, detail="no room was left on the disk")


def met_at_start(job: Job, how: Outcome) -> Outcome:
    """Return the outcome of a command killed at its start by a signal to its pool's group.

    The job is given back, but not twice in a row: otherwise a job that signals its own
    worker would run without end.
    """
    detail = f"killed by {signal_name(how.signal or 0)} {_AS_IT_STARTED}"
    last = job.history[-1] if job.history else {}
    if str(last.get("detail")).endswith(_AS_IT_STARTED):
        return how
    return Outcome(ended=STOPPED, detail=detail)


def ended_text(entry: Mapping[str, Any]) -> str:
    """Return how a run ended, from its `history` entry: `exit status 4`, `killed by SIGKILL`."""
    ended = entry.get("ended", "?")  # a file made by hand may hold anything
    words = _IN_WORDS.get(ended, ended) if isinstance(ended, str) else ended
    parts = (words, entry.get("exit_code"), entry.get("signal"))
    return plain(" ".join(str(part) for part in parts if part is not None))


def is_cancelled(record: Mapping[str, Any]) -> bool:
    """Tell whether a dead job is dead because it was cancelled."""
    return str(record.get("error_message")).startswith(CANCELLED)


def means_later(record: Mapping[str, Any]) -> bool:
    """Tell whether a job in failed/ did not fail but asked to be run again later."""
    return str(record.get("error_message")).endswith(_MEANS_LATER)


def signal_name(number: int) -> str:
    """Return the name of a signal: `SIGKILL` for 9, `signal 40` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def signal_number(name: str) -> int:
    """Return the number of the signal that `signal_name` calls `name`; 0 if there is none."""
    if name in signal.Signals.__members__:
        return signal.Signals[name].value
    number = name.removeprefix("signal ")
    return int(number) if number.isdecimal() and len(number) < 3 else 0


def started(job: Job, *, worker: str, now: float, logs: tuple[str, str]) -> Job:
    """Return the record of a job whose next run is about to start, its attempt counted."""
    at = utc_text(now)
    return job.arriving_anew().changed(
        state="processing",
        attempts=min(job.attempts + 1, MAX_COUNT),
        worker=worker,
        started_at=at,
        finished_at=None,
        next_retry_at=None,
        updated_at=at,
        stdout_path=logs[0],
        stderr_path=logs[1],
    )


# fields that `started` sets, and that another worker may set as it likes
_OF_A_START = frozenset({
    "started_at", "finished_at", "next_retry_at", "updated_at", "stdout_path", "stderr_path"
})  # fmt: skip


def is_start_of(before: Job, counted: Job) -> bool:
    """Tell whether `counted` is what `started` made of `before`."""
    start = started(before, worker=counted.worker or "", now=0, logs=("", ""))
    return _timeless(start) == _timeless(counted)


def _timeless(job: Job) -> dict[str, Any]:
    """Return the record without the fields in which starts of the same job may differ."""
    return {name: value for name, value in job.record.items() if name not in _OF_A_START}


def cancelled(job: Job, how: Outcome, at: float) -> Job:
    """Return the record of a job that was cancelled while it was not running."""
    when = utc_text(at)
    return job.changed(
        state="dead",
        error_message=how.message(),
        exit_code=None,
        next_retry_at=None,
        finished_at=when,
        updated_at=when,
    )


def given_back(job: Job, state: str, arrived_us: int) -> Job:
    """Return the record of a job that goes back to wait in `state`, in its old place."""
    return job.changed(state=state, arrived_at=utc_text(arrived_us / 1_000_000))


def never_began(job: Job, now: float) -> Job:
    """Return the record of a job whose command never started: pending, its attempt not counted."""
    before = job.history[-1] if job.history else {}
    return job.changed(
        state="pending",
        attempts=max(job.attempts - 1, 0),
        started_at=before.get("started_at"),
        finished_at=before.get("finished_at"),
        stdout_path=None,
        stderr_path=None,
        updated_at=utc_text(now),
    )


def began(job: Job, at: float) -> Job:
    """Return the record with `started_at` moved from the claim to when the command began.

    A pool counts back from the end, by a clock that is never set. So `finished_at` less
    `started_at` is how long the command took, even if the clock was set meanwhile.
    """
    return job.changed(started_at=utc_text(at))


def settled(
    job: Job, outcome: Outcome, *, config: Config, now: float, random: Callable[[], float]
) -> Job:
    """Return the record of a job whose run has ended; its `state` says where the job goes."""
    verdict = _judge(job, outcome, config, random)
    if outcome.detail and outcome.ended == EXIT and (verdict is COMPLETED or not verdict.counts):
        outcome = replace(outcome, detail="")  # it did not fail
    at = utc_text(now)
    entry = outcome.entry(job.run_number + 1, job.record.get("started_at"), at, job.worker or "")
    due = None if verdict.delay_s is None else utc_text(now + verdict.delay_s)
    return job.changed(
        state=verdict.state,
        attempts=job.attempts if verdict.counts else max(job.attempts - 1, 0),
        exit_code=outcome.exit_code,
        error_message=None if verdict is COMPLETED else _reason(outcome, verdict),
        finished_at=at,
        updated_at=at,
        next_retry_at=due,
        history=[*job.history, entry][-MAX_HISTORY:],
    )


def _reason(outcome: Outcome, verdict: Verdict) -> str:
    is_later = verdict.state == "failed" and not verdict.counts
    return outcome.message() + (_MEANS_LATER if is_later else "")


def only_held(job: Job, owner: str) -> Job | None:
    """Return the record of a held job that was not being run; None if it was.

    The record's `state` says where the job belongs.

    Args:
        job: the job's last body.
        owner: who holds it and has died or lost it; empty if it was put there by hand.
    """
    if job.state == "failed":
        return job  # it waits for its retry, whoever took it
    only_taken = job.worker != owner  # taken, not yet rewritten: it is meant to run
    if job.state == "processing":
        return again(job) if owner and only_taken else None
    return again(job) if only_taken and job.state != "pending" else job


def forgotten_run(job: Job, config: Config) -> int | None:
    """Return the number of the run that leaves `history` next, if it only meant later; else None.

    Its output is deleted when its entry goes: a job that waits for something in this way may be run
    again for years, whereas other jobs come to an end.
    """
    if len(job.history) < MAX_HISTORY:
        return None
    oldest = job.history[0]
    number = oldest.get("number")
    meant_later = list_with(job.record, oldest.get("exit_code"), config) == "later_codes"
    return number if isinstance(number, int) and meant_later else None


def list_with(record: Mapping[str, Any], code: object, config: Config) -> str | None:
    """Return the name of the list that decides about an exit code; None if no list has it.

    The job's own lists take precedence over the settings. The exception is 0: if the setting
    `success_codes` has it, only `success_codes` of the job's own can overrule that.
    """
    if code == 0 and "success_codes" not in record and 0 in config.success_codes:
        return "success_codes"
    for name in CODES:
        if name in record and code in record[name]:
            return name
    for name in CODES:
        if name not in record and code in getattr(config, name):
            return name
    return None


def longest_delay_s(job: Job, config: Config) -> float:
    """Return the longest delay, in seconds, that `_judge` can give a job with these settings.

    The intake makes no job wait longer, whatever the clock did since.
    """
    return max(config.backoff().longest_s, job.later_delay_s(config.later_delay))


def _judge(job: Job, outcome: Outcome, config: Config, random: Callable[[], float]) -> Verdict:
    if outcome.ended == CANCELLED:
        return DEAD
    if outcome.ended == STOPPED:
        return Verdict(state="pending", counts=False)
    if outcome.ended == EXIT:
        decided_by = list_with(job.record, outcome.exit_code, config)
        if decided_by == "success_codes":
            return COMPLETED
        if decided_by == "fatal_codes":
            return DEAD
        if decided_by == "later_codes":
            delay_s = job.later_delay_s(config.later_delay)
            return Verdict(state="failed", delay_s=delay_s, counts=False)
    limit = job.max_retries(config.max_retries)
    return after_failure(job.attempts, limit, config.backoff(), random)


def timed_out(timeout_s: float, *, own: bool) -> Outcome:
    """Return the outcome of a run that exceeded its job's `own` timeout, or else the setting."""
    whence = "its timeout" if own else "the setting job-timeout; a job may have its own timeout"
    detail = f"still running after {duration_text(timeout_s)} ({whence})"
    return Outcome(ended=TIMEOUT, detail=detail)
