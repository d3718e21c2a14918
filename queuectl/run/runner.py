"""Run one command from start to end, without any knowledge of spools.

The command has its own session, and writes its output to files: a pipe would be held open by
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

_HEARD_WITHIN_S = 0.1  # Python handles a signal that came during a start this soon after it
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(kw_only=True)
class Task:
    """Everything that a run needs to know."""

    argv: Sequence[str]
    env: Environment
    cwd: str
    logs: tuple[str, str]
    timeout_s: float | None
    has_own_timeout: bool  # else it is that of the settings
    grace_s: float
    marks: tuple[bytes, ...]  # variables of env that mark its processes; the first is the job's own
    log_mode: int
    job_id: str


class OutputFiles:
    """The open output files of a command; `lost` has the errors of those that cannot be opened.

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
        """Whether neither stream has a file."""
        return len(self.lost) == len(self.files)

    def close(self) -> None:
        """Close our descriptors; the command has its own."""
        for descriptor in self.files:
            os.close(descriptor)


class UnwatchedError(OSError):
    """A command was started, then killed at once because nothing could wait for its end."""


class Run:
    """A running command that an event loop waits for; `sweeper` ends what it has started.

    Raises:
        OSError: the command could not be started; `filename` says what was missing.
        UnwatchedError: it was started, but was killed at once.
    """

    def __init__(self, loop: Loop, sweeper: Sweeper, task: Task, output: OutputFiles) -> None:
        self._task = task
        self._sweeper = sweeper
        self._loop = loop
        self._news: Future[None] = Future(self._loop)  # that it has ended, or must end
        self._reason: Outcome | None = None
        self._exited = False
        self._begun_s = time.monotonic()
        self._limit_s = inf
        self._timer: Timer | None = None  # that ends it at this limit
        self._child = spawn(task.argv, task.env, task.cwd, (_null(), *output.files))
        self._spawned_s = time.monotonic()
        try:
            on_exit(self._loop, self._child.pid, self._on_exit)
        except OSError as error:  # it must not run on beside its job's next run
            self._signal(signal.SIGKILL)
            self._child.reap()
            raise UnwatchedError(error.errno, error.strerror) from error

    async def wait(self) -> Outcome:
        """Wait for the command, and return how it ended.

        If we ended it, nothing of its tree is left then but what not even SIGKILL ends.
        """
        self._limit(self._task.timeout_s)
        await self._news
        self._limit(None)
        if self._reason is not None:
            await self._end_tree()
        # Only now: until it is reaped, neither its pid nor its group id can be reused.
        code = self._child.reap()
        return self._reason or _outcome(code)

    def met(self, number: int) -> bool:
        """Tell whether a signal came to us while the command was being started.

        A signal to our group, as by Ctrl-C, then hit the command too, which had no session yet.
        """
        came_s = self._loop.signalled_s.get(number, -inf)
        return self._begun_s <= came_s <= self._spawned_s + _HEARD_WITHIN_S

    def follow_setting(self, timeout_s: float | None) -> None:
        """Extend the timeout to that of the settings (None: no limit), unless the job has its own.

        It is never shortened: a setting that is lowered, or lost, must not end what runs.
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
        """The id of the job whose command this is."""
        return self._task.job_id

    @property
    def exited(self) -> bool:
        """Whether the command has ended."""
        return self._exited

    def end(self, reason: Outcome) -> bool:
        """Begin to end the command and all it has started; False if it has ended or is being ended.

        The first reason counts. The child itself is asked too, since it may have ended while the
        pool was suspended, before `_on_exit` is called.
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
        """End the command's group and what has left it: SIGTERM first, SIGKILL after the grace.

        The group is signalled as a whole: no process in it can escape that by a fork, and it works
        even if no descriptor is left.
        """
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a suspended process could not end
        timer = self._loop.later(self._task.grace_s, lambda: self._signal(signal.SIGKILL))
        begun_s = time.monotonic()
        await self._sweeper.end(Tree(self._child.pid, self._task.marks), self._task.grace_s)
        if not self._exited:
            self._news = Future(self._loop)  # the next news can only be its exit
            await self._news
        # where processes cannot be listed the sweeper found none: give the group its grace here
        while time.monotonic() < begun_s + self._task.grace_s and self._group_lives():
            await self._loop.sleep(LOOK_S)
        timer.cancel()
        self._signal(signal.SIGKILL)  # what was forked between two looks

    def _group_lives(self) -> bool:
        return not processes.can_list_processes() and processes.group_lives(self._child.pid)

    def _signal(self, number: signal.Signals) -> None:
        """Signal the group, whose id is ours as long as its leader is not reaped."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # on macOS, for a zombie
            os.killpg(self._child.pid, number)


def _open_log(path: str, mode: int, lost: list[OSError]) -> int:
    """Open an output file; if that fails, add the error to `lost` and open the null device.

    Raises:
        OSError: no descriptor is left, or no room on the disk.
    """
    try:
        try:
            return os.open(path, _LOG_FLAGS | os.O_EXCL, mode)
        except FileExistsError:  # somebody made it; opening a pipe would wait for a reader
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


@lru_cache(maxsize=1)  # opened once: commands only get duplicates of it
def _null() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def could_not_start(error: OSError, task: Task) -> Outcome:
    """Return the outcome of a command that the system refused to start."""
    if error.filename == task.cwd and task.argv[0] != task.cwd:
        # a path may be as long as a record, and would be repeated in the reason of each run
        return Outcome(ended=COULD_NOT_START, detail=f"cwd {task.cwd[:500]}: {error.strerror}")
    if isinstance(error, FileNotFoundError):
        return Outcome(ended=EXIT, exit_code=127)  # as from a shell
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
