"""`queuectl doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import STATUS_TELLS, render
from queuectl.cli.common import json_option, resolve_id, spool_to_read
from queuectl.cli.completing import complete_ids
from queuectl.units import plain

if TYPE_CHECKING:
    from collections.abc import Iterable

    from queuectl.doctor import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command()
@click.argument("job_id", metavar="[ID]", required=False, shell_complete=complete_ids())
@click.option("--fix", is_flag=True, help="Mend what can be mended without losing anything.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, *, job_id: str | None, fix: bool, as_json: bool) -> None:
    """Check the spool and its file system; with ID, tell why a job is not running.

    Exit status 1 if a problem remains.

    \b
    queuectl doctor
    queuectl doctor --fix
    queuectl doctor job1
    """
    from queuectl import doctor as examination

    if job_id is not None and fix:
        raise click.UsageError("--fix mends the whole spool: give no ID with it")
    spool = spool_to_read(ctx)
    ctx.meta[STATUS_TELLS] = True
    if job_id is not None:
        found = list(examination.explain(spool, resolve_id(spool, job_id)))
    else:
        mended = list(examination.mend(spool)) if fix else []
        _tell_mended(mended)
        found = list(examination.examine(spool))
    _show(found, as_json=as_json)
    if any(finding.level == examination.PROBLEM for finding in found):
        ctx.exit(1)


def _tell_mended(mended: Iterable[tuple[Finding, str]]) -> None:
    for finding, why_not in mended:
        text = f"could not be mended: {why_not}" if why_not else "mended"
        render.note(f"{text}: {plain(finding.what)}")


def _show(found: list[Finding], *, as_json: bool) -> None:
    if as_json:
        render.json_array(_document(finding) for finding in found)
        return
    for finding in found:
        level = click.style(f"{finding.level:<7}", fg=_COLOURS[finding.level])
        todo = f"  ({plain(finding.todo)})" if finding.todo else ""
        click.echo(f"{level}  {plain(finding.what)}{todo}")


def _document(finding: Finding) -> dict[str, Any]:
    can_be_mended = finding.mend is not None
    return {
        "level": finding.level,
        "what": finding.what,
        "todo": finding.todo,
        "mendable": can_be_mended,
    }
