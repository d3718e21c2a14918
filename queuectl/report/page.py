"""The report on a period: one HTML page that needs no other file."""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import json
import os
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from queuectl import __version__
from queuectl.record.job import Job, command_line
from queuectl.spool.filenames import ERR, OUT
from queuectl.spool.joblogs import log_file
from queuectl.spool.tailing import end_of
from queuectl.states import STATES
from queuectl.stats.figures import GIVEN_BACK, Figures, ended_s, runs
from queuectl.stats.survey import Survey
from queuectl.units import plain, zone_s

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from queuectl.spool.layout import Layout
    from queuectl.stats.figures import PastRun

    _Heap = list[tuple[float, int, dict[str, Any]]]
    Read = Callable[[Survey], Iterable[Mapping[str, Any]]]

_SLOWEST, _DEAD, _GROUPS = 200, 500, 200  # rows at most: nobody reads a longer page to its end
_COMMAND_CHARS = 400
_OUTPUT_BYTES, _OUTPUT_LINES = 4096, 20
_BOUNDS_S = (
    *(power * digit for power in (0.001, 0.01, 0.1, 1) for digit in (1, 2, 5)),
    *(10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400, 172800, 604800),
)


def page(spool: Layout, now: float, period_s: float, read: Read) -> str:
    """Return the page about the `period_s` seconds before `now`; `read` yields a survey's records.

    Raises:
        SpoolError: a directory cannot be read.
    """
    return _page(_gather(spool, now, period_s, read))


# --- what is in it --------------------------------------------------------------------------


class _Extremes:
    """The slowest runs and the latest dead jobs, in bounded memory."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._count = 0
        self.slowest: _Heap = []
        self.dead: _Heap = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Consider one job."""
        for run in runs(record, self._figures.config):
            if run.finished_s >= self._figures.since_s and run.outcome != GIVEN_BACK:
                self._keep(self.slowest, _SLOWEST, run.took_s, {**_job(record), **_run(run)})
        at = ended_s(record)
        if record["state"] == "dead" and at is not None and at >= self._figures.since_s:
            self._keep(self.dead, _DEAD, at, {**_job(record), **_death(record, at)})

    def _keep(self, heap: _Heap, most: int, rank: float, row: dict[str, Any]) -> None:
        self._count += 1  # decides between equal ranks, since rows cannot be compared
        push = heapq.heappush if len(heap) < most else heapq.heappushpop
        push(heap, (rank, self._count, row))


def _job(record: Mapping[str, Any]) -> dict[str, Any]:
    command = command_line(record.get("command", ""))
    return {
        "id": record["id"],
        "command": command if len(command) <= _COMMAND_CHARS else command[:_COMMAND_CHARS] + "...",
        "tags": record.get("tags", []),
    }


def _run(run: PastRun) -> dict[str, Any]:
    return {"took": run.took_s, "at": run.started_s, "ended": run.ended, "outcome": run.outcome}


def _death(record: Mapping[str, Any], at_s: float) -> dict[str, Any]:
    history = record.get("history") or [{}]
    return {
        "at": at_s,
        "reason": record.get("error_message") or "moved here by hand",
        "tries": record.get("attempts", 0),
        "number": history[-1].get("number"),
        "job": Job(record),
    }


def _gather(spool: Layout, now: float, period_s: float, read: Read) -> dict[str, Any]:
    since_s = now - period_s
    survey = Survey(spool, since_s)
    figures = Figures(since_s, spool.config)
    extremes = _Extremes(figures)
    for record in read(survey):
        figures.add(record)
        extremes.add(record)
    document = figures.document(now, groups=_GROUPS)
    # for a browser in another zone, where a column may begin on another day
    timeline = [{**column, "zone": zone_s(column["at"])} for column in document["timeline"]]
    return {
        **document,
        "timeline": timeline,
        "version": __version__,
        "spool": os.fsencode(spool.path).decode(errors="replace"),
        "since": since_s,
        "until": now,
        "read_text": survey.text(),
        "jobs": {state: survey.jobs[state] for state in STATES},
        "histograms": {
            "bounds": _BOUNDS_S,
            "wait": figures.waits.histogram(_BOUNDS_S),
            "run_time": figures.times.histogram(_BOUNDS_S),
        },
        "slowest": [row for _, _, row in sorted(extremes.slowest, reverse=True)],
        "dead": [_with_output(spool, row) for _, _, row in sorted(extremes.dead, reverse=True)],
    }


def _with_output(spool: Layout, row: dict[str, Any]) -> dict[str, Any]:
    """Return a dead job's row with the end of its standard error, or else of its output."""
    number, job = row.pop("number"), row.pop("job")
    if not isinstance(number, int):
        return {**row, "output": ""}
    printed = (last_lines(log_file(spool, job, number, stream)) for stream in (ERR, OUT))
    return {**row, "output": next(filter(None, printed), "")}


_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")


def last_lines(path: str) -> str:
    """Return the last lines of a log file, without colour codes; empty if there is no file."""
    text = _ESCAPE.sub("", end_of(path, _OUTPUT_BYTES).decode(errors="replace"))
    lines = text.rstrip().splitlines()[-_OUTPUT_LINES:]
    return "\n".join("".join(c if c.isprintable() or c == "\t" else "�" for c in x) for x in lines)


# --- the page -------------------------------------------------------------------------------


def _page(document: dict[str, Any]) -> str:
    """Return the page, with the data as JSON in which no `<` can end the element around it."""
    template = resources.files("queuectl.report").joinpath("template.html").read_text("utf-8")
    # strict JSON in ASCII, whatever bytes a job is made of
    island = json.dumps(document, separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        island = island.replace(mark, f"\\u{ord(mark):04x}")
    values = {
        "policy": _policy(template),
        "title": html.escape(plain(document["spool"])),
        "data": island,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _policy(template: str) -> str:
    """Return a Content-Security-Policy that allows only the page's own script and style."""
    script = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", template, re.DOTALL)
    rules = [
        "default-src 'none'",
        f"script-src {_hash(script[0])}",
        f"style-src {_hash(style[0])}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return "; ".join(rules)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
