"""Determine what a job's command is run with: arguments, directory, environment and output files.

spool-layout.md, section "Run".
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from queuectl.run.runner import Task
from queuectl.run.spawn import Environment
from queuectl.system import notify, program
from queuectl.variables import ATTEMPT, JOB_ID, MAX_RETRIES, OF_A_JOB, PREFIX, SPOOL, WORKER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from queuectl.record.job import Job
    from queuectl.spool.layout import Layout

# systemd would accept messages from a job as from its pool. And where the pool was started says
# nothing about where a command runs.
_NOT_FOR_JOBS = {*(name.encode() for name in notify.VARIABLES), b"PWD", b"OLDPWD"}


class Commands:
    """Makes the tasks of jobs, for the pool in this process.

    Args:
        spool: where the jobs are.
        owner: the pool's name.
    """

    def __init__(self, spool: Layout, owner: str) -> None:
        self._spool = spool
        self._mark = mark_of(owner)
        home = os.path.expanduser("~")
        self._home = home if home.startswith("/") else "/"  # there may be none
        inherited = {
            name: name + b"=" + value
            for name, value in _our_environment().items()
            if not name.startswith(PREFIX.encode()) and name not in _NOT_FOR_JOBS
        }
        of_pool = {SPOOL: spool.path, WORKER: owner}
        self._environment = inherited | _encoded(of_pool)
        self._shared_environment = tuple(self._environment.values())

    def task(self, job: Job) -> Task:
        """Return the task of a job whose attempt has been counted."""
        record, config = job.record, self._spool.config
        cwd, given = record.get("cwd") or self._home, record.get("env") or {}
        own = [
            f"{JOB_ID}={job.id}",
            f"{ATTEMPT}={job.attempts}",
            f"{MAX_RETRIES}={job.max_retries(config.max_retries)}",
        ]
        if "PWD" not in given:
            own.append(f"PWD={cwd}")
        command = job.command
        return Task(
            argv=[config.shell, "-c", command] if isinstance(command, str) else command,
            env=self._environment_with(given, own),
            cwd=cwd,
            logs=(record["stdout_path"], record["stderr_path"]),
            log_mode=config.file_mode,
            timeout_s=job.timeout_s(config.job_timeout),
            has_own_timeout="timeout" in record,
            grace_s=config.kill_grace,
            marks=(_mark_of_job(job.id), self._mark),
            job_id=job.id,
        )

    def _environment_with(self, given: dict[str, str], own: Sequence[str]) -> Environment:
        """Return the pool's environment, overridden by what the job gives, with `own` added."""
        shared = self._shared_environment
        if given:
            job_gives = {name: value for name, value in given.items() if name not in OF_A_JOB}
            shared = tuple((self._environment | _encoded(job_gives)).values())
        return Environment(shared, os.fsencode("\0".join(own)).split(b"\0"))


def _encoded(variables: dict[str, str]) -> dict[bytes, bytes]:
    """Return variables as an environment holds them, NAME=VALUE, by name."""
    return {os.fsencode(name): os.fsencode(f"{name}={value}") for name, value in variables.items()}


def marks_of(job_id: str, owner: str) -> tuple[bytes, bytes]:
    """Return the marks in the environment of each process of a job that this owner runs."""
    return _mark_of_job(job_id), mark_of(owner)


def _mark_of_job(job_id: str) -> bytes:
    return f"{JOB_ID}={job_id}".encode()


def mark_of(owner: str) -> bytes:
    """Return the mark in the environment of each process that a pool has started."""
    return os.fsencode(f"{WORKER}={owner}")


def _our_environment() -> dict[bytes, bytes]:
    """Return the environment of this process, with a PATH on which commands find queuectl.

    The pool may have been started by the path of its program: by systemd, by cron, in a venv.
    """
    environment = dict(os.environb)
    script = program.path()
    path = environment.get(b"PATH")
    # without a PATH a shell uses a default, which a PATH of this directory alone would replace
    if path and script is not None and shutil.which(program.NAME) is None:
        directory = os.fsencode(os.path.dirname(script))
        environment[b"PATH"] = path + b":" + directory
    return environment
