"""One command, from start to end (knows no spool).

The command is a session of its own, with its output in files: a pipe would be held open by
whatever it leaves in the background. spool-layout.md, section "Run".
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import time
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

from queuectl import kernel
from queuectl.kernel import processes
from queuectl.kernel.exits import on_exit
from queuectl.kernel.processes import Tree
from queuectl.record.outcome import COULD_NOT_START, EXIT, SIGNAL, Outcome, timed_out
from queuectl.run.spawn import spawn
from queuectl.run.stragglers import LOOK_S
from queuectl.system.loop import Future

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.run.spawn import Environment
    from queuectl.run.stragglers import Sweeper
    from queuectl.system.loop import Loop, Timer

_HEARD_WITHIN_S = 0.1  # a signal by Python, once a start is over that it interrupted
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(kw_only=True)
class Task:
    """Everything that a run needs to know."""

    argv: Sequence[str]
    env: Environment
    cwd: str
    logs: tuple[str, str]
    timeout_s: float | None
    has_own_timeout: bool  # or it is that of the settings
    grace_s: float
    marks: tuple[bytes, ...]  # what of env tells this job's processes; the first is its own
    log_mode: int
    job_id: str


class OutputFiles:
    """Where a command writes, opened for it; what could not be is told in `lost`.

    Raises:
        OSError: no descriptor is left, or no room on the disk.
    """

    def __init__(self, task: Task) -> None:
        self.lost: list[OSError] = []
        out = _open_log(task.logs[0], task.log_mode, self.lost)
        try:
            self.files = (out, _open_log(task.logs[1], task.log_mode, self.lost))
        except OSError:
            os.close(out)
            raise

    @property
    def is_lost(self) -> bool:
        """Whether no file is there of either stream."""
        return len(self.lost) == len(self.files)

    def close(self) -> None:
        """Leave the files to the command."""
        for descriptor in self.files:
            os.close(descriptor)


class UnwatchedError(OSError):
    """A command was started and ended at once: nobody could have been told of its end."""


class Run:
    """A running command, waited for in an event loop; `sweeper` ends what it has started.

    Raises:
        OSError: it could not be started; `filename` says what was missing.
        UnwatchedError: it did start, for a moment.
    """

    def __init__(self, loop: Loop, sweeper: Sweeper, task: Task, output: OutputFiles) -> None:
        self._task = task
        self._sweeper = sweeper
        self._loop = loop
        self._news: Future[None] = Future(self._loop)  # that it has ended, or is to
        self._reason: Outcome | None = None
        self._exited = False
        self._begun_s = time.monotonic()
        self._limit_s = inf
        self._timer: Timer | None = None  # for that
        self._child = spawn(task.argv, task.env, task.cwd, (_null(), *output.files))
        self._spawned_s = time.monotonic()
        try:
            on_exit(self._loop, self._child.pid, self._on_exit)
        except OSError as error:  # it must not run on beside its next run
            self._signal(signal.SIGKILL)
            self._child.reap()
            raise UnwatchedError(error.errno, error.strerror) from error

    async def wait(self) -> Outcome:
        """Return how the command ended; nothing of a tree that was ended by us is left then."""
        self._limit(self._task.timeout_s)
        await self._news
        self._limit(None)
        if self._reason is not None:
            await self._end_tree()
        # Only now: until it is reaped, neither its pid nor its group can become another's.
        code = self._child.reap()
        return self._reason or _outcome(code)

    def met(self, number: int) -> bool:
        """Tell whether a signal came to us while the command was started.

        One to our group, as of Ctrl-C, it met then too, and had no session yet.
        """
        came_s = self._loop.signalled_s.get(number, -inf)
        return self._begun_s <= came_s <= self._spawned_s + _HEARD_WITHIN_S

    def follow_setting(self, timeout_s: float | None) -> None:
        """Give it so long, None: without end; unless its job has a timeout of its own.

        Never less than it has: a setting that is lowered, or lost, must not end what runs.
        """
        is_longer = (inf if timeout_s is None else timeout_s) > self._limit_s
        if is_longer and not (self._task.has_own_timeout or self._exited or self._reason):
            self._limit(timeout_s)

    def _limit(self, timeout_s: float | None) -> None:
        self._limit_s = inf if timeout_s is None else timeout_s
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if timeout_s is not None:
            own = self._task.has_own_timeout
            left_s = max(0.0, self._begun_s + timeout_s - time.monotonic())
            self._timer = self._loop.later(left_s, lambda: self.end(timed_out(timeout_s, own=own)))

    @property
    def job_id(self) -> str:
        """Whose command it is."""
        return self._task.job_id

    @property
    def exited(self) -> bool:
        """Whether the command has ended."""
        return self._exited

    def end(self, reason: Outcome) -> bool:
        """Have the command ended, and all it has started; False if it has ended, or is to already.

        The first reason counts. It may have ended while the pool was suspended, which `_on_exit`
        has not heard of yet.
        """
        if self._reason is not None or self._exited or self._child.has_ended():
            return False
        self._reason = reason
        self._news.set(None)
        return True

    def _on_exit(self) -> None:
        self._exited = True
        self._news.set(None)

    async def _end_tree(self) -> None:
        """End all that it started, its group and what has left that: SIGTERM, SIGKILL later.

        The group is signalled as one: nothing in it can fork out of that, and it needs no
        descriptor, of which there may be none.
        """
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # what stands still could not end by itself
        timer = self._loop.later(self._task.grace_s, lambda: self._signal(signal.SIGKILL))
        begun_s = time.monotonic()
        await self._sweeper.end(Tree(self._child.pid, self._task.marks), self._task.grace_s)
        if not self._exited:
            self._news = Future(self._loop)  # the next can only be its exit
            await self._news
        # where nobody can be listed the sweeper knew of nothing: the group has its grace, too
        while time.monotonic() < begun_s + self._task.grace_s and self._group_lives():
            await self._loop.sleep(LOOK_S)
        timer.cancel()
        self._signal(signal.SIGKILL)  # to what was forked between two looks

    def _group_lives(self) -> bool:
        return not processes.can_list_processes() and processes.group_lives(self._child.pid)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the group, which is ours as long as its leader is not reaped."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS, of a zombie
            os.killpg(self._child.pid, number)


def _open_log(path: str, mode: int, lost: list[OSError]) -> int:
    """Open a file for output; a job runs without it if there can be none."""
    try:
        try:
            return os.open(path, _LOG_FLAGS | os.O_EXCL, mode)
        except FileExistsError:  # somebody made it: of a pipe, the open would wait for a reader
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise FileExistsError(
                    errno.EEXIST, "is not a regular file; remove it", path
                ) from None
            return os.open(path, _LOG_FLAGS, mode)
    except OSError as error:
        if error.errno in kernel.NOTHING_LEFT:
            raise
        lost.append(error)
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


@lru_cache(maxsize=1)  # opened once: a job needs it only to be duplicated
def _null() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def could_not_start(error: OSError, task: Task) -> Outcome:
    """Return the outcome of a command that the system refused to start."""
    if error.filename == task.cwd and task.argv[0] != task.cwd:
        # a path may be as long as a record: not once more in each run's reason
        return Outcome(ended=COULD_NOT_START, detail=f"cwd {task.cwd[:500]}: {error.strerror}")
    if isinstance(error, FileNotFoundError):
        return Outcome(ended=EXIT, exit_code=127)  # what a shell says of the same
    if isinstance(error, PermissionError):
        return Outcome(ended=EXIT, exit_code=126)
    if error.errno == errno.ENOEXEC:
        return Outcome(
            ended=EXIT, exit_code=126, detail="not a program for this machine, and no #! line"
        )
    return Outcome(ended=COULD_NOT_START, detail=error.strerror or str(error))


@lru_cache(maxsize=64)
def _outcome(code: int) -> Outcome:
    if code < 0:
        return Outcome(ended=SIGNAL, signal=-code)
    return Outcome(ended=EXIT, exit_code=code)
