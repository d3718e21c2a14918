"""Following jobs for commands that wait: their output, and remarks that explain what happens."""

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
    from queuectl.spool.layout import Found, Held, Layout
    from queuectl.spool.tailing import Follower
    from queuectl.system.changes import Changes

_TITLES = {OUT: "stdout", ERR: "stderr"}


class Printer:
    """Writes the output of jobs unchanged.

    Args:
        names_jobs: print a heading where the job changes.
        names_streams: print a heading where the stream changes.
        apart: write a job's standard error to ours; otherwise all goes to standard output.
    """

    def __init__(
        self, *, names_jobs: bool = False, names_streams: bool = False, apart: bool = False
    ) -> None:
        self.names_jobs = names_jobs
        self._names_streams = names_streams
        self._apart = apart
        self._heading = ""
        self._in_line = False
        self.printed: set[str] = set()  # ids of the jobs that have printed something
        self.is_whole = True  # whether all output could be read so far

    def __call__(self, job_id: str, stream: str, data: bytes) -> None:
        """Write a piece of output, and flush it."""
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
        """End an unfinished line, if the messages on standard error go to the same place."""
        if self._in_line and _is_one_file(1, 2):
            render.note("")
            self._in_line = False


def _is_one_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # one of them is closed
        return False


class Remarks:
    """Explains on standard error, once each, what may puzzle a person who follows jobs.

    These are the reasons why nothing happens (each again if it comes back), and runs that failed
    and will be followed by another.
    """

    def __init__(self, spool: Layout, line: Printer | Progress) -> None:
        self._spool = spool
        self._line = line  # to be ended before a remark
        self._hindrances: Sequence[str] = ()
        self._next_look_s = 0.0
        self._told: dict[str, int] = {}
        self._broken: dict[str, float] = {}  # text: since when; inf: it was reported

    def of_hindrances(self, job_ids: Callable[[], Sequence[str]], *, any_one: bool = False) -> None:
        """Report what keeps some of these jobs (with `any_one`, all of them) from ending.

        `job_ids` is called only when it is time to look, since there may be thousands.
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
        """Report how each run ended, except a job's final one, which `of_end` reports.

        Also report how much output was cut out before it was shown, and unreadable records.
        """
        for follower in followers:
            self._tell_of_cuts(follower)
            self._tell_if_broken(follower)
            found = follower.found
            if found is not None:
                self._tell_of_runs(found, self._told.get(found.job.id, follower.first_run - 1))

    def _tell_if_broken(self, follower: Follower) -> None:
        """Report that a record cannot be read, once that has lasted for some seconds."""
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
        from queuectl.record.outcome import ended_text  # `wait` does not need it

        last = found.job.run_number
        # `of_end` reports the last run of a job that has ended. One on its way out may be ending.
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

    def of_unshown(self, error: Exception) -> None:
        """Report why some output could not be shown; the job goes on."""
        if isinstance(self._line, Printer):
            self._line.is_whole = False
        self._say(str(error))

    def of_end(self, job_id: str, found: Found | None) -> None:
        """Report how a job ended, unless it completed."""
        if found is None:
            self._say(f"{job_id} is gone: somebody deleted it")
        elif found.state != "completed":
            self._say(f"{job_id} is dead: {found.job.error or 'no reason is recorded'}")

    def _say(self, text: str) -> None:
        self._line.end_line()
        render.note(f"queuectl: {text}")


_BROKEN_S = 4.0  # after 3 s a worker sets aside a bad file that nobody writes any more
_REMARK_S = 1.0  # between two looks at whether anything can run
_FEW = 100  # jobs; each has to be read to learn when it is due


def hindering(spool: Layout, job_ids: Sequence[str], *, any_one: bool = False) -> list[str]:
    """Return what keeps some of these jobs (with `any_one`, all of them) from ending."""
    wanted = set(job_ids)
    held = [held for held in spool.held() if held.job_id in wanted]
    run = {held.job_id for held in held}
    # look in the directories, after `held`: a job that has ended meanwhile waits for nothing
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
    if not waits:  # only the pools that hold the jobs matter
        holders = {item.owner for item in held}
        pools = [pool for pool in pools if pool.worker in holders] or pools
    none_here = [hindrances.STOPPING] if enough_run else []
    return list(map(str, hindrances.of_all(spool, pools, but=none_here)))


def _scheduled(spool: Layout, job_ids: Sequence[str]) -> list[str]:
    """Return when the first of these jobs is to run, if all are for later and they are few."""
    soon = time.time() + _REMARK_S
    times: dict[str, float] = {}
    for job_id in job_ids if len(job_ids) <= _FEW else ():
        with contextlib.suppress(QueuectlError):  # the caller reports that itself
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
    """Return a remark on a job that only another user can recover, None if there is none."""
    for owner, job_id in {owner: job_id for job_id, owner, _ in held}.items():
        only_for = _only_for(spool, owner)
        if only_for is not None:
            what = f"{job_id} was run by a worker that is dead"
            return f"{what}: only {only_for} can recover it, by a worker or `queuectl doctor --fix`"
    return None


def _only_for(spool: Layout, owner: str) -> str | None:
    """Return who alone can recover what a dead owner held, None if we can too or it is alive."""
    seen = owners.look_up(spool, owner)
    is_dead = seen.life is owners.Life.DEAD
    return owners.only_for(spool, owner, seen.worker) if is_dead else None


def print_new(followers: Sequence[Follower], changes: Changes, printer: Printer) -> bool:
    """Print the output that came since the last call; tell whether all jobs have ended."""
    while True:
        for follower in followers:
            for stream, data in follower.read():
                printer(follower.job_id, stream, data)
        files = [path for follower in followers for path in follower.files()]
        # a new watch does not report what was written before it was armed: look once more
        if not changes.follow_files(files):
            return all(follower.over for follower in followers)


def changes_of(spool: Layout, job_ids: Sequence[str]) -> Changes:
    """Return a `Changes` that reports every move of these jobs, and every new file of output."""
    from queuectl.system.changes import Changes

    wanted = set(job_ids)

    def of_these(name: str) -> bool:
        # ID.json, ID@OWNER.json, ID.NUMBER.out: an id may hold dots, but no @
        stem = name.rpartition("@")[0] or name.rpartition(".")[0]
        return stem in wanted or stem.rpartition(".")[0] in wanted

    directories = [spool.directory(name) for name in (*STATES, "logs")]
    return Changes(directories, of_these, spool.config.poll_interval)
