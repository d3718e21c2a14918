"""Editing the fields of a job, in an editor or by options."""

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
from queuectl.cli.job_input import warn_of_slips
from queuectl.errors import BadJobError, QueuectlError
from queuectl.record.fields import OUR_FIELDS, check_new
from queuectl.record.job import Job, check_size, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OURS = OUR_FIELDS | {"id"}


def edited(job: Job) -> Job | None:
    """Let a person edit a job's fields; return the new job, or None if nothing was changed.

    Raises:
        QueuectlError: the editor failed, or what it left is not a valid job.
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
    """Return a job with these fields, or None if it has them; `run_at` replaces a retry's time.

    Raises:
        BadJobError: the job would be too large.
    """
    new = job.changed(**fields)
    if "run_at" in fields and "next_retry_at" in job.record:
        new = new.changed(next_retry_at=None)
    check_size(new)
    return None if new.record == job.record else new


def keep(job: Job) -> str:
    """Write the edited text to a file that stays for the person who edited it; return its path."""
    return _keep(job.id, _text(job))


def _kept_if_new(job_id: str, path: str, before: bytes) -> str:
    """Keep the text that an editor left if it was changed; return the words that say where."""
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
    except UnicodeEncodeError:  # a lone surrogate, which needs an escape
        return json.dumps(fields, indent=2).encode() + b"\n"


def can_edit() -> bool:
    """Tell whether there is an editor: one named in the environment, or a terminal for vi."""
    return _named_editor() is not None or (sys.stdin.isatty() and sys.stdout.isatty())


def _named_editor() -> str | None:
    return os.environ.get("VISUAL") or os.environ.get("EDITOR") or None


def _run_editor(path: str) -> None:
    editor = _named_editor() or "vi"
    try:
        with _signals_are_the_editors():
            status = subprocess.run([*shlex.split(editor), path], check=False).returncode
    except (OSError, ValueError) as error:  # ValueError: an unclosed quotation
        why = error.strerror if isinstance(error, OSError) else error
        msg = f"cannot start the editor {editor}: {why}; $VISUAL or $EDITOR names another"
        raise QueuectlError(msg) from None
    if status:
        how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
        raise QueuectlError(f"the editor {editor} {how}")


@contextlib.contextmanager
def _signals_are_the_editors() -> Iterator[None]:
    """Leave Ctrl-C to the editor, although the terminal sends it to us too."""
    # Set handlers, because the editor would inherit ignored signals. SIGCHLD must not be ignored
    # either, or every exit status would be 0.
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
    """Ask the person whether to edit again; return False if nobody is at a terminal."""
    if not render.person_answers():
        return False
    with contextlib.suppress(click.Abort):
        return render.confirm(f"queuectl: {why}\nedit again?", default=True)
    return False
