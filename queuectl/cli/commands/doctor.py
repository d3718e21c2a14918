"""`queuectl doctor`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_ids
from queuectl.cli.naming import resolve_id
from queuectl.cli.opening import spool_there
from queuectl.cli.params import json_option
from queuectl.cli.streams import STATUS_TELLS
from queuectl.units import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from queuectl.doctor import Finding

_MENDED = "mended"
_COLOURS = {"ok": "green", _MENDED: "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.argument("job_id", metavar="[ID]", required=False, shell_complete=complete_ids())
@click.option("--fix", is_flag=True, help="Mend what can be mended without losing anything.")
@click.option("--strict", is_flag=True, help="Exit with status 1 for a warning too.")
@json_option
@click.pass_context
def doctor(
    ctx: click.Context, *, job_id: str | None, fix: bool, strict: bool, as_json: bool
) -> None:
    """Check the spool and its file system; with ID, tell why a job is not running.

    The exit status is 1 if a problem remains. That no worker is running is only a warning, but a
    problem if ID is given.

    \b
    queuectl doctor
    queuectl doctor --fix
    queuectl doctor --strict > /dev/null || echo look at it
    queuectl doctor job1
    """
    from queuectl import doctor as examination

    if job_id is not None and fix:
        raise click.UsageError("--fix mends the whole spool: give no ID with it")
    spool = spool_there(ctx)
    ctx.meta[STATUS_TELLS] = True
    if job_id is not None:
        found = list(examination.explain(spool, resolve_id(spool, job_id)))
    else:
        mended = list(_mended(examination.mend(spool))) if fix else []
        found = [*mended, *examination.examine(spool)]
    _show(found, as_json=as_json)
    bad = {examination.PROBLEM, examination.WARNING} if strict else {examination.PROBLEM}
    if any(finding.level in bad for finding in found):
        ctx.exit(1)


def _mended(tried: Iterable[tuple[Finding, str]]) -> Iterator[Finding]:
    """Yield what was mended; print why the rest, which will be found again, was not."""
    for finding, why_not in tried:
        if why_not:
            render.note(f"queuectl: could not be mended: {finding.what}: {why_not}")
        else:
            yield replace(finding, level=_MENDED, todo="", mend=None)


def _show(found: list[Finding], *, as_json: bool) -> None:
    if as_json:
        render.json_array(_document(finding) for finding in found)
        return
    for finding in found:
        level = click.style(f"{finding.level:<7}", fg=_COLOURS[finding.level])
        todo = f"  ({plain(finding.todo)})" if finding.todo else ""
        click.echo(f"{level}  {plain(finding.what)}{todo}")


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level,
        "what": finding.what,
        "todo": finding.todo,
        "mendable": finding.mend is not None,
    }
