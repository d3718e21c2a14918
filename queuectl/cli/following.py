"""Following jobs for those who wait: what they print, and what one would else wonder at."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from math import inf
from typing import TYPE_CHECKING

from queuectl.cli import render
from queuectl.errors import QueuectlError
from queuectl.spool.filenames import ERR, OUT
from queuectl.states import FINISHED, STATES, WAITING
from queuectl.units import local_text, plain, size_text
from queuectl.workers import hindrances, owners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from queuectl.cli.progress import Progress
    from queuectl.jobs.changes import Changes
    from queuectl.spool.layout import Found, Held, Layout
    from queuectl.spool.tailing import Follower

_TITLES = {OUT: "stdout", ERR: "stderr"}


class Printer:
    """Writes output as it was printed.

    Args:
        names_jobs: all of it to standard output, with a heading where the job changes.
        names_streams: the same where the stream changes.
        apart: its standard error to ours.
    """

    def __init__(
        self, *, names_jobs: bool = False, names_streams: bool = False, apart: bool = False
    ) -> None:
        self.names_jobs = names_jobs
        self._names_streams = names_streams
        self._apart = apart
        self._heading = ""
        self._in_line = False
        self.printed: set[str] = set()  # ids of jobs of which something came

    def __call__(self, job_id: str, stream: str, data: bytes) -> None:
        """Write one piece, and let it be seen."""
        target = sys.stderr if self._apart and stream == ERR else sys.stdout
        names = [plain(job_id)] if self.names_jobs else []
        names += [_TITLES[stream]] if self._names_streams else []
        if names and (heading := " ".join(names)) != self._heading:
            gap = "\n" if self._heading else ""
            target.buffer.write(f"{gap}==> {heading} <==\n".encode())
            self._heading = heading
        target.buffer.write(data)
        self.printed.add(job_id)
        target.buffer.flush()
        self._in_line = not data.endswith(b"\n")

    def end_line(self) -> None:
        """Have what is said next begin a line, where it goes to the same file or terminal."""
        if self._in_line and _is_one_file(1, 2):
            render.note("")
            self._in_line = False


def _is_one_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # one of them is closed
        return False


class Remarks:
    """Says on standard error what whoever follows jobs would else wonder at, once each.

    Why nothing happens, as long as it is so; and that a run has failed, and another will follow.
    """

    def __init__(self, spool: Layout, line: Printer | Progress) -> None:
        self._spool = spool
        self._line = line  # that may have to end first
        self._hindrances: Sequence[str] = ()
        self._next_look_s = 0.0
        self._told: dict[str, int] = {}
        self._broken: dict[str, float] = {}  # since when; inf: it was told

    def of_hindrances(self, job_ids: Callable[[], Sequence[str]], *, any_one: bool = False) -> None:
        """Say why not all of these jobs (or not `any_one`) come to their end, if that is so.

        Which they are is asked for only when it is time to look: there may be thousands.
        """
        if time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + _REMARK_S
        ids = job_ids()
        now = hindering(self._spool, ids, any_one=any_one) or _scheduled(self._spool, ids)
        for text in now:
            if text not in self._hindrances:
                self._say(text)
        self._hindrances = now

    def of_runs(self, followers: Sequence[Follower]) -> None:
        """Say of each run that failed how it did, but for the last, whose failure is the job's.

        And how much of the output of any was cut out before it was shown.
        """
        for follower in followers:
            self._tell_of_cuts(follower)
            self._tell_if_broken(follower)
            found = follower.found
            if found is not None:
                self._tell_of_runs(found, self._told.get(found.job.id, follower.first_run - 1))

    def _tell_if_broken(self, follower: Follower) -> None:
        """Say that a record cannot be read, unless that is over within seconds."""
        text = follower.broken
        if text and self._broken.setdefault(text, time.monotonic()) < time.monotonic() - _BROKEN_S:
            self._broken[text] = inf
            self._say(f"{text}; still waiting for it")

    def _tell_of_cuts(self, follower: Follower) -> None:
        if follower.lost_bytes:
            what = f"{size_text(follower.lost_bytes)} of the output of {follower.job_id}"
            self._say(f"{what} were cut out before they were shown (log-max-size)")
            follower.lost_bytes = 0

    def _tell_of_runs(self, found: Found, told: int) -> None:
        from queuectl.record.outcome import ended_text  # few that follow have a run to tell of

        last = found.job.run_number
        # of a job that has ended, or is on its way out, `of_end` tells of the last run
        is_told_there = found.state in FINISHED or (
            found.state == "processing" and found.job.state != "processing"
        )
        until = last - 1 if is_told_there else last
        for entry in found.job.history:
            number = entry.get("number")
            if isinstance(number, int) and told < number <= until:
                text = f"run {number} of {found.job.id} ended: {ended_text(entry)}"
                if number == last and found.state == "failed":
                    text += f"; again {render.in_text(found.job.not_before('failed', time.time()))}"
                self._say(text)
        self._told[found.job.id] = max(told, until)

    def of_error(self, error: Exception) -> None:
        """Say of something that could not be shown why not; the job goes on."""
        self._say(str(error))

    def of_end(self, job_id: str, found: Found | None) -> None:
        """Say how a job has ended that did not complete."""
        if found is None:
            self._say(f"{job_id} is gone: somebody deleted it")
        elif found.state != "completed":
            self._say(f"{job_id} is dead: {found.job.error or 'no reason is recorded'}")

    def _say(self, text: str) -> None:
        self._line.end_line()
        render.note(f"queuectl: {text}")


_BROKEN_S = 4.0  # a worker sets aside what nobody writes any more after 3
_REMARK_S = 1.0  # between two looks at whether anything can run
_FEW = 100  # jobs, each of which is read then


def hindering(spool: Layout, job_ids: Sequence[str], *, any_one: bool = False) -> list[str]:
    """Return why nothing will happen as it is, empty if something may."""
    wanted = set(job_ids)
    held = [held for held in spool.held() if held.job_id in wanted]
    run = {held.job_id for held in held}
    # looked for after those: what has ended since whoever asks saw it last waits for nothing
    waits = any(spool.found_in(job_id, WAITING) for job_id in wanted - run)
    if not waits and not run:
        return []
    enough_run = not waits or (any_one and bool(run))
    if spool.paused and not enough_run:
        return [str(hindrances.PAUSED)]
    left = _left_to_others(spool, held)
    if left is not None:
        return [left]
    pools = owners.workers(spool)
    if not waits:  # those that run them count
        holders = {item.owner for item in held}
        pools = [pool for pool in pools if pool.worker in holders] or pools
    none_here = [hindrances.STOPPING] if enough_run else []
    return list(map(str, hindrances.of_all(spool, pools, but=none_here)))


def _scheduled(spool: Layout, job_ids: Sequence[str]) -> list[str]:
    """Return when the first of these jobs is to run, if all are for later; they are looked at."""
    soon = time.time() + _REMARK_S
    times: dict[str, float] = {}
    for job_id in job_ids if len(job_ids) <= _FEW else ():
        with contextlib.suppress(QueuectlError):  # whoever shows it tells of that
            found = spool.find(job_id)
            at = found.job.instant("run_at")
            if found.state not in WAITING or at is None or at < soon:
                return []
            times[job_id] = at
    if not times:
        return []
    first = min(times, key=times.__getitem__)
    return [f"{first} is scheduled for {local_text(times[first])}"]


def _left_to_others(spool: Layout, held: Sequence[Held]) -> str | None:
    """Return what is to be said of a job that only others recover, None if there is none."""
    for owner, job_id in {owner: job_id for job_id, owner, _ in held}.items():
        only_for = _only_for(spool, owner)
        if only_for is not None:
            what = f"{job_id} was run by a worker that is dead"
            return f"{what}: only {only_for} can recover it, by a worker or `queuectl doctor --fix`"
    return None


def _only_for(spool: Layout, owner: str) -> str | None:
    """Return who alone recovers what a dead pool held, None if we do too."""
    seen = owners.look_up(spool, owner)
    is_dead = seen.life is owners.Life.DEAD
    return owners.only_for(spool, owner, seen.worker) if is_dead else None


def print_new(followers: Sequence[Follower], changes: Changes, printer: Printer) -> bool:
    """Print what came since the last time; tell whether all jobs have ended."""
    while True:
        for follower in followers:
            for stream, data in follower.read():
                printer(follower.job_id, stream, data)
        files = [path for follower in followers for path in follower.files()]
        # what was written before a watch was armed told nobody: look once more
        if not changes.follow_files(files):
            return all(follower.over for follower in followers)


def changes_of(spool: Layout, job_ids: Sequence[str]) -> Changes:
    """Return what tells of every move of these jobs, and of their output."""
    from queuectl.jobs.changes import Changes

    wanted = set(job_ids)

    def of_these(name: str) -> bool:
        # ID.json, ID@OWNER.json, ID.NUMBER.out: an id may hold dots, but no @
        stem = name.rpartition("@")[0] or name.rpartition(".")[0]
        return stem in wanted or stem.rpartition(".")[0] in wanted

    directories = [spool.directory(name) for name in (*STATES, "logs")]
    return Changes(directories, of_these, spool.config.poll_interval)
