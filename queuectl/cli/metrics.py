"""`queuectl status --format prometheus`: the text format that a textfile collector reads."""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING, Any

from queuectl import __version__
from queuectl.states import FINISHED, OUTCOMES
from queuectl.stats.figures import Figures
from queuectl.stats.survey import Survey
from queuectl.stats.tallies import QUANTILES, Spread
from queuectl.system.room import room_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from queuectl.spool.layout import Found, Layout

_RECENT_S = 3600
_RECENT = f"in the last {_RECENT_S} seconds"

# All are gauges: prune and retry remove finished jobs, and a counter must never fall.
METRICS = {
    "queuectl_info": "The version that wrote this; always 1.",
    "queuectl_written_timestamp_seconds": "When this was written.",
    "queuectl_paused": "Whether the spool is paused, so that nothing new starts.",
    "queuectl_jobs": "Jobs in each state.",
    "queuectl_pools": "Pools that are alive.",
    "queuectl_suspended_pools": "Of these, pools that are stopped (SIGSTOP) and start nothing.",
    "queuectl_stalled_pools": "Of these, pools that can record or start nothing: a full disk.",
    "queuectl_slots": "Jobs that the pools that are alive can run at a time.",
    "queuectl_lost_jobs": "Jobs held by workers that died, not recovered yet.",
    "queuectl_oldest_pending_seconds": "Age of the oldest file in pending/, scheduled or not.",
    "queuectl_longest_running_seconds": "Time since the first of the running jobs was started.",
    "queuectl_recent_ended_jobs": f"Jobs that came to their end {_RECENT}.",
    "queuectl_recent_cancelled_jobs": "Of the dead of these, those that somebody cancelled.",
    "queuectl_recent_runs": f"Runs that count and ended {_RECENT}; failed ones are tried again.",
    "queuectl_recent_run_seconds": f"Quantiles of the time that runs took {_RECENT}.",
    "queuectl_recent_wait_seconds": f"Quantiles of the wait for a first run {_RECENT}.",
    "queuectl_free_bytes": "Space left on the file system of the spool, if it has a limit.",
    "queuectl_free_inodes": "Files that its file system has room for, if it has a limit.",
}


def exposition(
    spool: Layout, status: Mapping[str, Any], running: Iterable[Found], now: float
) -> str:
    """Return the metrics of a spool whose `status --json` is `status`.

    Raises:
        SpoolError: a directory cannot be read.
    """
    lines: list[str] = []
    samples = [*_now(spool, status, now), *_waiting(spool, running, now), *_recent(spool, now)]
    for name, text in METRICS.items():
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        lines += [line for metric, line in samples if metric == name]
    return "\n".join(lines) + "\n"


def _sample(name: str, value: float, **labels: str) -> tuple[str, str]:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    number = int(value) if value == int(value) else value
    return name, f"{name}{{{inside}}} {number!r}" if labels else f"{name} {number!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _now(spool: Layout, status: Mapping[str, Any], now: float) -> Iterator[tuple[str, str]]:
    pools = status["workers"]
    yield _sample("queuectl_info", 1, version=__version__, spool=_utf8(spool.path))
    yield _sample("queuectl_written_timestamp_seconds", now)
    yield _sample("queuectl_paused", status["paused"])
    for state, count in status["jobs"].items():
        yield _sample("queuectl_jobs", count, state=state)
    yield _sample("queuectl_pools", len(pools))
    yield _sample("queuectl_suspended_pools", sum(pool["suspended"] for pool in pools))
    yield _sample("queuectl_stalled_pools", sum(pool["stalled"] for pool in pools))
    yield _sample("queuectl_lost_jobs", sum(len(lost["ids"]) for lost in status["lost"]))
    yield _sample("queuectl_slots", sum(pool["slots"] for pool in pools))
    room = room_in(spool.path)
    if room.bytes < inf:
        yield _sample("queuectl_free_bytes", room.bytes)
    if room.inodes < inf:
        yield _sample("queuectl_free_inodes", room.inodes)


def _utf8(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")


def _waiting(spool: Layout, running: Iterable[Found], now: float) -> Iterator[tuple[str, str]]:
    oldest_s = min((written_s for _, written_s in spool.written("pending")), default=now)
    yield _sample("queuectl_oldest_pending_seconds", max(0.0, now - oldest_s))
    starts = [found.job.instant("started_at") for found in running]
    first_s = min((at for at in starts if at is not None), default=now)
    yield _sample("queuectl_longest_running_seconds", max(0.0, now - first_s))


def _recent(spool: Layout, now: float) -> Iterator[tuple[str, str]]:
    figures = Figures(now - _RECENT_S, spool.config)
    for record in Survey(spool, now - _RECENT_S).records():
        figures.add(record)
    for state in FINISHED:
        yield _sample("queuectl_recent_ended_jobs", figures.ended[state], state=state)
    yield _sample("queuectl_recent_cancelled_jobs", figures.cancelled)
    for outcome in OUTCOMES:
        yield _sample("queuectl_recent_runs", figures.outcomes[outcome], outcome=outcome)
    yield from _quantiles("queuectl_recent_run_seconds", figures.times)
    yield from _quantiles("queuectl_recent_wait_seconds", figures.waits)


def _quantiles(name: str, spread: Spread) -> Iterator[tuple[str, str]]:
    """Yield the quantiles, or nothing if there were no values: 0 would read as very fast."""
    for share in (*QUANTILES, 1):
        value = spread.max_s if share == 1 else spread.quantile(share)
        if spread.count and value is not None:
            yield _sample(name, value, quantile=f"{share:g}")
