"""Reading jobs from a command line: as JSON, from a file, or from the words of a command."""

from __future__ import annotations

import codecs
import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from queuectl.cli import render
from queuectl.cli.mistakes import look_for_mistakes
from queuectl.errors import BadJobError, JobExistsError, QueuectlError
from queuectl.record.fields import slips
from queuectl.record.job import Job, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from queuectl.spool.spool import Spool


def sources(
    words: tuple[str, ...], given: dict[str, Any], *, dashes: bool
) -> Iterable[tuple[str, dict[str, Any]]]:
    """Return, for each job, the error prefix that names its place, and its fields.

    Raises:
        click.UsageError: there is no command, or the words cannot be one.
        QueuectlError: a file cannot be read, or holds something that is not a JSON object.
    """
    if not words and "command" in given:
        return [("", {})]
    if not words or (not dashes and words in {("",), ("@",)}):
        raise click.UsageError("no command: give JSON, --command TEXT, or -- COMMAND WORDS")
    if not dashes:
        json_text = words[0].lstrip(_AROUND_JSON)
        if json_text.startswith("{"):
            return _objects(json_text, words[1:])
        if json_text.startswith("["):
            _refuse_array(json_text)
        if words[0][:1] in ("@", "-"):
            _refuse_stray(words[1:], words[0])
            name = words[0] if words[0] == "-" else words[0][1:]
            return (_object(line.strip(), where) for where, line in _lines(name, bytes.strip))
    if "command" in given:
        raise click.UsageError("--command and a command after the options cannot be combined")
    look_for_mistakes(words, dashes=dashes)
    # one word is a quoted line for the shell; several words are a program and its arguments
    is_line = len(words) == 1 and not dashes
    return [("", {"command": words[0] if is_line else list(words)})]


def _objects(first: str, others: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    _refuse_stray([word for word in others if not word.startswith("{")], "JSON")
    return [_object(word.encode("utf-8", "surrogateescape"), "") for word in (first, *others)]


def _refuse_stray(words: Sequence[str], after: str) -> None:
    if words:
        raise click.UsageError(f'unexpected "{words[0]}" after {after}; options go before it')


_AROUND_JSON = " \t\r\n\ufeff"


def _refuse_array(word: str) -> None:
    """Refuse a JSON array; other text that begins with [, such as `[ -e x ] && make`, may pass."""
    try:
        json.loads(word)
    except ValueError:
        return
    msg = 'a JSON array is not a job: write {"command": ...}, one object per line for several jobs'
    raise click.UsageError(msg)


def _object(raw: bytes, where: str) -> tuple[str, dict[str, Any]]:
    try:
        return where, decode(raw)
    except BadJobError as error:
        text = raw.decode("utf-8", "surrogateescape")
        hint = f"in {text[:40]!r}; a command goes after --command or --"
        hint = "each line is a JSON object; --commands takes command lines" if where else hint
        raise BadJobError(f"{where}{error} ({hint})") from None


def command_lines(
    name: str, words: Sequence[str], given: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what `sources` returns, from a file (or `-`) that has one shell command on each line.

    Raises:
        click.UsageError: another command was given too.
        QueuectlError: the file cannot be read, or has a line that was written by mistake.
    """
    if words or "command" in given:
        raise click.UsageError("--commands and another command cannot be combined")
    for where, line in _lines(name, _is_command):
        text = line.rstrip(b"\r\n").removeprefix(codecs.BOM_UTF8)
        _check_command_line(where, text)
        yield where, {"command": text.decode("utf-8", "surrogateescape")}


def _check_command_line(where: str, text: bytes) -> None:
    """Refuse a line that is in a file of commands by mistake."""
    if (len(text) - len(text.rstrip(b"\\"))) % 2:
        raise BadJobError(f"{where}it ends in a backslash, and a command is one line here")
    if text.lstrip().startswith(b'{"'):  # a group of shell commands has a blank after {
        raise BadJobError(f"{where}it is JSON, which `queuectl enqueue @FILE` takes")


def _is_command(line: bytes) -> bool:
    return line.removeprefix(codecs.BOM_UTF8).strip()[:1] not in (b"", b"#")


def _lines(name: str, counts: Callable[[bytes], object]) -> Iterator[tuple[str, bytes]]:
    """Yield, for each line of a file (or `-`) that counts, its error prefix and the line."""
    file_name = "" if name == "-" else f"{name}, "
    empty = True
    for number, line in enumerate(_all_lines(name), 1):
        if counts(line):
            empty = False
            yield f"{file_name}line {number}: ", line
    if empty:
        render.note(f"queuectl: no jobs in {'the input' if name == '-' else name}")


def _all_lines(name: str) -> Iterator[bytes]:
    try:
        with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
            yield from file
    except OSError as error:
        what = "standard input" if name == "-" else name
        raise QueuectlError(f"cannot read {what}: {error.strerror}") from None


class Drafted(NamedTuple):
    """A job to be queued, the error prefix that names its place, and whether its id was given."""

    where: str
    job: Job
    named: bool


def draft(spool: Spool, where: str, fields: dict[str, Any]) -> Drafted:
    """Return a checked job with these fields; warn of fields that look misspelt.

    Raises:
        BadJobError: a field is wrong; the message begins with `where`.
    """
    try:
        job = spool.draft(fields)
    except BadJobError as error:
        raise BadJobError(f"{where}{error}") from None
    warn_of_slips(where, fields)
    return Drafted(where, job, "id" in fields)


def warn_of_slips(where: str, names: Iterable[str]) -> None:
    """Warn of unknown fields that look like slips of known ones; they are kept all the same."""
    for slip in slips(names):
        render.note(f"queuectl: {where}{slip}")


def check_ids(spool: Spool, jobs: list[Drafted]) -> None:
    """Check that every id that was given is free, and that none was given twice.

    Raises:
        QueuectlError: an id is taken, or was given twice.
    """
    places = check_once(jobs)
    try:
        spool.check_free(places)
    except JobExistsError as error:
        raise QueuectlError(f"{places[error.job_id]}{error}") from None


def check_once(jobs: list[Drafted]) -> dict[str, str]:
    """Return the place where each id was given; check that none was given twice.

    Raises:
        BadJobError: an id was given twice.
    """
    seen: dict[str, str] = {}
    for where, job, named in jobs:
        if not named:
            continue
        if job.id in seen:
            first = seen[job.id].removesuffix(": ") or "another of these jobs"
            raise BadJobError(f'{where}id "{job.id}" is already that of {first}')
        seen[job.id] = where
    return seen
