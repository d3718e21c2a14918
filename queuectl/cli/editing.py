"""A job in an editor: what of it can be edited, and what came back."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.drafting import warn_of_slips
from queuectl.errors import BadJobError, QueuectlError
from queuectl.record.fields import OUR_FIELDS, check_new
from queuectl.record.job import Job, check_size, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OURS = OUR_FIELDS | {"id"}


def edited(job: Job) -> Job | None:
    """Let a person edit a job's fields; return the job with them, None if they are as they were.

    Raises:
        QueuectlError: the editor failed, or what came back is not a job's.
    """
    before = _text(job)
    with tempfile.TemporaryDirectory(prefix="queuectl-") as private:
        path = f"{private}/{job.id}.json"
        with open(path, "wb") as file:
            file.write(before)
        while True:
            try:
                _run_editor(path)
                new = _read(path, job)
            except QueuectlError as error:
                if isinstance(error, BadJobError) and _edit_again(str(error)):
                    continue
                kept = _kept_if_new(job.id, path, before)
                raise QueuectlError(f'{error}; job "{job.id}" stays as it was{kept}') from None
            warn_of_slips("", new.record.keys() - job.record.keys())
            return None if new.record == job.record else new


def with_fields(job: Job, fields: Mapping[str, Any]) -> Job | None:
    """Return a job with these fields, None if it has them; a new time stands for its retry's too.

    Raises:
        BadJobError: it would be too large.
    """
    new = job.changed(**fields)
    if "run_at" in fields and "next_retry_at" in job.record:
        new = new.changed(next_retry_at=None)
    check_size(new)
    return None if new.record == job.record else new


def keep(job: Job) -> str:
    """Keep what was edited where the editor's user can get at it; return the file."""
    return _keep(job.id, _text(job))


def _kept_if_new(job_id: str, path: str, before: bytes) -> str:
    """Keep what an editor has left, if it is not what it was given; return where, in words."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:  # the editor removed it
        return ""
    return "" if text == before else f"; your text is in {_keep(job_id, text)}"


def _keep(job_id: str, text: bytes) -> str:
    descriptor, path = tempfile.mkstemp(prefix=f"queuectl-{job_id}-", suffix=".json")
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return path


def _text(job: Job) -> bytes:
    fields = {name: value for name, value in job.record.items() if name not in _OURS}
    try:
        return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character: only an escape holds it
        return json.dumps(fields, indent=2).encode() + b"\n"


def can_edit() -> bool:
    """Tell whether there is an editor: one that was named, or a terminal for the usual one."""
    return _named_editor() is not None or (sys.stdin.isatty() and sys.stdout.isatty())


def _named_editor() -> str | None:
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or None


def _run_editor(path: str) -> None:
    editor = _named_editor() or "vi"
    try:
        with _signals_are_the_editors():
            status = subprocess.run([*shlex.split(editor), path], check=False).returncode
    except (OSError, ValueError) as error:  # ValueError: a quotation without its end
        why = error.strerror if isinstance(error, OSError) else error
        msg = f"cannot start the editor {editor}: {why}; $VISUAL or $EDITOR names another"
        raise QueuectlError(msg) from None
    if status:
        how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
        raise QueuectlError(f"the editor {editor} {how}")


@contextlib.contextmanager
def _signals_are_the_editors() -> Iterator[None]:
    """Let Ctrl-C mean what the editor takes it for; it is sent to us too."""
    # ignored, these would be so for the editor too; so would a SIGCHLD make every status 0
    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: _do_nothing,
        signal.SIGQUIT: _do_nothing,
        signal.SIGCHLD: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _do_nothing(*_: object) -> None:
    pass


def _read(path: str, job: Job) -> Job:
    try:
        with open(path, "rb") as file:
            fields = decode(file.read())
    except OSError as error:
        raise QueuectlError(f"the editor left no file: {error.strerror}") from None
    check_new(fields)
    taken = sorted(name for name in fields if name in _OURS and not _same(name, fields, job.record))
    if taken:
        raise BadJobError(f'"{taken[0]}" cannot be edited: queuectl writes it')
    ours = {name: value for name, value in job.record.items() if name in _OURS}
    new = Job({**ours, **fields})
    check_size(new)
    return new


def _same(name: str, fields: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    return name in record and fields[name] == record[name]


def _edit_again(why: str) -> bool:
    """Ask whoever is there; nobody is where there is no terminal."""
    if not render.person_answers():
        return False
    with contextlib.suppress(click.Abort):
        return render.confirm(f"queuectl: {why}\nedit again?", default=True)
    return False
