"""Counts, rates and times over the records of a spool (pure, in bounded memory).

`stats`, `report` and `status --format prometheus` all show these figures. No record is kept: a
million jobs take the same memory as a thousand.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from queuectl.record.job import command_line
from queuectl.record.outcome import EXIT, STOPPED, ended_text, is_cancelled, list_with
from queuectl.states import OUTCOMES
from queuectl.stats.tallies import Spread, Timeline
from queuectl.units import instant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from queuectl.settings.config import Config

COMPLETED, FAILED, DEAD, GIVEN_BACK = "completed", "failed", "dead", "given back"


# --- one run --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A run from a job's history that has both of its times there, and its outcome."""

    started_s: float
    finished_s: float
    outcome: str
    ended: str

    @property
    def took_s(self) -> float:
        """How long it ran; never negative, whatever the clock did meanwhile."""
        return max(0.0, self.finished_s - self.started_s)


def runs(record: Mapping[str, Any], config: Config) -> Iterator[PastRun]:
    """Yield the runs in a record, oldest first.

    Args:
        record: the record, with the directory it was found in as its `state`.
        config: the settings, whose exit codes count for jobs that have none of their own.
    """
    history = record.get("history") or []
    for entry in history:
        started_s, finished_s = instant(entry.get("started_at")), instant(entry.get("finished_at"))
        if started_s is None or finished_s is None:
            continue
        yield PastRun(
            started_s=started_s,
            finished_s=finished_s,
            outcome=_outcome(record, entry, config, last=entry is history[-1]),
            ended=ended_text(entry),
        )


def _outcome(
    record: Mapping[str, Any], entry: Mapping[str, Any], config: Config, *, last: bool
) -> str:
    if last and record.get("state") == COMPLETED:
        return COMPLETED
    own = _outcome_alone(record, entry, config)
    if not last or record.get("state") != DEAD:
        return own
    # A job may be cancelled long after a run that ended well. Otherwise its last run made it dead,
    # whatever the settings say by now about its exit code.
    return own if is_cancelled(record) and own in (COMPLETED, GIVEN_BACK) else DEAD


def _outcome_alone(record: Mapping[str, Any], entry: Mapping[str, Any], config: Config) -> str:
    if entry.get("ended") == STOPPED:
        return GIVEN_BACK
    if entry.get("ended") != EXIT:
        return FAILED
    decided_by = list_with(record, entry.get("exit_code"), config)
    return {"success_codes": COMPLETED, "later_codes": GIVEN_BACK}.get(decided_by or "", FAILED)


def ended_s(record: Mapping[str, Any]) -> float | None:
    """Return when a completed or dead job ended; None for other jobs, or if it is not known."""
    if record.get("state") not in (COMPLETED, DEAD):
        return None
    at = instant(record.get("finished_at"))
    return instant(record.get("updated_at")) if at is None else at


def wait_s(record: Mapping[str, Any]) -> float | None:
    """Return how long a job waited for its first run, in seconds, from when it could have run.

    None if that is not known: for a dropped file without `created_at`, a job that has not run, or
    one whose history no longer has the first run.
    """
    history = record.get("history") or []
    first = history[0] if history else {"number": 1, "started_at": record.get("started_at")}
    created_s, started_s = instant(record.get("created_at")), instant(first.get("started_at"))
    if created_s is None or started_s is None or first.get("number") != 1:
        return None
    return max(0.0, started_s - max(created_s, instant(record.get("run_at")) or created_s))


# --- commands -------------------------------------------------------------------------------

_DIGITS = re.compile(r"\d+")
_KIND_CHARS = 100


def command_kind(command: object) -> str:
    """Return the form that is common to commands which differ only in numbers: `thumb #.jpg`."""
    return _DIGITS.sub("#", command_line(command)[: 4 * _KIND_CHARS])[:_KIND_CHARS]


# --- groups ---------------------------------------------------------------------------------


@dataclass
class Group:
    """The totals of the runs that share a tag or a kind of command."""

    runs: int = 0
    completed: int = 0
    failed: int = 0
    total_s: float = 0.0
    slowest_s: float = 0.0
    example: str = ""

    def add(self, run: PastRun, job_id: str) -> None:
        """Count one run."""
        self.runs += 1
        self.completed += run.outcome == COMPLETED
        self.failed += run.outcome in (FAILED, DEAD)
        self.total_s += run.took_s
        if run.took_s >= self.slowest_s:
            self.slowest_s, self.example = run.took_s, job_id

    def document(self, name: str) -> dict[str, Any]:
        """Return the group for JSON; `mean`, `slowest` and `total` are seconds of run time."""
        return {
            "name": name,
            "runs": self.runs,
            "completed": self.completed,
            "failed": self.failed,
            "total": round(self.total_s, 3),
            "mean": round(self.total_s / self.runs, 6),
            "slowest": round(self.slowest_s, 6),
            "example": self.example,
        }


class Groups:
    """The busiest groups; above `limit` names, the quieter half is dropped and `dropped` is set."""

    def __init__(self, limit: int = 4000) -> None:
        self._limit = limit
        self._groups: dict[str, Group] = {}
        self.dropped = False

    def add(self, name: str, run: PastRun, job_id: str) -> None:
        """Count one run under a name."""
        group = self._groups.get(name)
        if group is None:
            if len(self._groups) >= self._limit:
                self._drop_quiet()
            group = self._groups[name] = Group()
        group.add(run, job_id)

    def _drop_quiet(self) -> None:
        self.dropped = True
        self._groups = dict(self._ordered()[: self._limit // 2])

    def _ordered(self) -> list[tuple[str, Group]]:
        return sorted(self._groups.items(), key=lambda item: (-item[1].runs, item[0]))

    def busiest(self, count: int) -> list[dict[str, Any]]:
        """Return the groups with the most runs, for JSON."""
        return [group.document(name) for name, group in self._ordered()[:count]]


# --- all of it ------------------------------------------------------------------------------


@dataclass
class Figures:
    """What happened from `since_s` on, gathered record by record.

    Args:
        since_s: the instant before which nothing counts.
        config: the settings, whose exit codes count for jobs that have none of their own.
    """

    since_s: float
    config: Config
    ended: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0  # of the dead jobs
    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    tries: Counter[int] = field(default_factory=Counter)
    waits: Spread = field(default_factory=Spread)
    times: Spread = field(default_factory=Spread)
    tags: Groups = field(default_factory=Groups)
    commands: Groups = field(default_factory=Groups)
    timeline: Timeline = field(default_factory=Timeline)

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one job; its `state` is the directory it was found in."""
        found = list(runs(record, self.config))
        recent = [run for run in found if run.finished_s >= self.since_s]
        for run in recent:
            self._add_run(record, run)
        at = ended_s(record)
        if at is not None and at >= self.since_s:
            self.ended[record["state"]] += 1
            self.cancelled += record["state"] == DEAD and is_cancelled(record)
            if record["state"] == COMPLETED:
                self.tries[sum(run.outcome != GIVEN_BACK for run in found)] += 1
        self._add_wait(record, found)

    def _add_run(self, record: Mapping[str, Any], run: PastRun) -> None:
        self.outcomes[run.outcome] += 1
        if run.outcome == GIVEN_BACK:
            return
        self.times.add(run.took_s)
        self.timeline.add(run.finished_s, run.outcome)
        if run.outcome != COMPLETED:
            self.reasons[run.ended] += 1
        job_id = str(record.get("id", ""))
        self.commands.add(command_kind(record.get("command", "")), run, job_id)
        for tag in set(record.get("tags") or ()):
            self.tags.add(tag, run, job_id)

    def _add_wait(self, record: Mapping[str, Any], found: list[PastRun]) -> None:
        started_s = found[0].started_s if found else instant(record.get("started_at"))
        if started_s is None or started_s < self.since_s:
            return
        waited = wait_s(record)
        if waited is not None:
            self.waits.add(waited)

    @property
    def run_count(self) -> int:
        """The number of runs, not counting those that were given back."""
        return sum(self.outcomes[outcome] for outcome in OUTCOMES)

    @property
    def retries(self) -> int:
        """The number of failed runs that were, or will be, followed by another."""
        return self.outcomes[FAILED]

    @property
    def success_rate(self) -> float | None:
        """The share of completed jobs among those that ended by themselves; None if none has."""
        total = self.ended[COMPLETED] + self.ended[DEAD] - self.cancelled
        return self.ended[COMPLETED] / total if total else None

    def document(self, now: float, groups: int = 10) -> dict[str, Any]:
        """Return everything for JSON; times are seconds."""
        rate = self.success_rate
        timeline = self.timeline.columns(now)  # first: to reach now, the steps may become longer
        return {
            "ended": {state: self.ended[state] for state in (COMPLETED, DEAD)},
            "cancelled": self.cancelled,
            "success_rate": None if rate is None else round(rate, 6),
            "runs": {"total": self.run_count, **{o: self.outcomes[o] for o in OUTCOMES}},
            "retries": self.retries,
            "given_back": self.outcomes[GIVEN_BACK],
            "tries_to_complete": {str(n): self.tries[n] for n in sorted(self.tries)},
            "failures": dict(self.reasons.most_common(groups)),
            "wait": self.waits.document(),
            "run_time": self.times.document(),
            "step": self.timeline.step_s,
            "timeline": timeline,
            "tags": self.tags.busiest(groups),
            "commands": self.commands.busiest(groups),
            "groups_dropped": self.tags.dropped or self.commands.dropped,
        }
