"""Which jobs a command is for: those named, or those that options select.

A person at the terminal is asked before many are changed.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_tags
from queuectl.cli.matching import Selection, select
from queuectl.cli.naming import id_to_change
from queuectl.cli.params import DURATION
from queuectl.ids import first_of
from queuectl.record.outcome import CANCELLED, is_cancelled
from queuectl.states import STATES
from queuectl.units import plain, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from queuectl.cli.misses import Misses
    from queuectl.spool.layout import Found, Layout

    _PatternType = click.ParamType[re.Pattern[str]]
    _ChoiceType = click.Choice[str]
else:  # generic only in the newest click
    _PatternType = click.ParamType
    _ChoiceType = click.Choice

_SET_ASIDE = "set aside"  # files that are not jobs
NOT_RETRIED = (_SET_ASIDE, CANCELLED)
_LEFT = {
    _SET_ASIDE: "`queuectl dlq list` says why",
    CANCELLED: "--error-matches '^cancelled' selects them",
}

MANY = 10  # jobs: a person is asked before more are changed


# --- options --------------------------------------------------------------------------------


class _Pattern(_PatternType):
    """A regular expression that may match anywhere in a text."""

    name = "regex"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> re.Pattern[str]:
        if not value:  # perhaps from an unset variable; it would select all jobs
            self.fail(
                "an empty expression would match every job; is a variable not set?", param, ctx
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # that [[ may get a new meaning
                return re.compile(value)
        except re.error as error:
            self.fail(f'"{value}" is not a regular expression: {error}', param, ctx)
        except (OverflowError, RecursionError):
            self.fail("the expression is too large, or nested too deep", param, ctx)


_STATES_CALLED_ELSEWHERE = {
    **dict.fromkeys(("queued", "waiting", "scheduled"), "pending"),
    **dict.fromkeys(("running", "claimed"), "processing"),
    **dict.fromkeys(("done", "finished", "success", "succeeded"), "completed"),
    "retrying": "failed",
    "cancelled": "dead",
}


class _State(_ChoiceType):
    """A state; the names that other programs use for one get a hint."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        meant = _STATES_CALLED_ELSEWHERE.get(value)
        if meant in self.choices:
            self.fail(f'no state "{value}"; did you mean "{meant}"?', param, ctx)
        return super().convert(value, param, ctx)


def _matching(name: str, help_: str) -> Any:
    return click.option(name, type=_Pattern(), metavar="REGEX", help=help_)


def _span(name: str, help_: str) -> Any:
    return click.option(name, type=DURATION, metavar="DURATION", help=help_)


SELECTING = {
    "--tag": click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="WORD",
        shell_complete=complete_tags,
        help="Only jobs with this tag; repeated: with all.",
    ),
    "--older-than": _span("--older-than", "Only jobs unchanged for at least this long."),
    "--newer-than": _span("--newer-than", "Only jobs changed less than this long ago."),
    "--command-matches": _matching(
        "--command-matches", "Only jobs whose command contains a match."
    ),
    "--error-matches": _matching("--error-matches", "Only jobs whose error contains a match."),
}


def tag_option(command: Any) -> Any:
    """Add the option --tag."""
    return SELECTING["--tag"](command)


def state_option(states: Sequence[str]) -> Callable[[Any], Any]:
    """Return the option --state for a command that is only for jobs in these states."""
    return click.option(
        "--state",
        "states",
        type=_State(states),
        multiple=True,
        help="Only jobs in this state; may be repeated.",
    )


def select_options(*states: str) -> Callable[[Any], Any]:
    """Return a decorator that adds the selecting options, with --state only for several states."""

    def add(command: Any) -> Any:
        for option in reversed(SELECTING.values()):
            command = option(command)
        return state_option(states)(command) if len(states) > 1 else command

    return add


def touch_options(command: Any) -> Any:
    """Add --yes and --dry-run, for a command that may change many jobs at once."""
    command = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")(
        command
    )
    return click.option(
        "--dry-run", is_flag=True, help="Only print the ids of the jobs; do nothing."
    )(command)


all_option = click.option(
    "--all", "everything", is_flag=True, help="All jobs that this command applies to."
)


# --- which jobs a command is for ------------------------------------------------------------


def selects(selection: Selection, texts: Sequence[str]) -> bool:
    """Tell whether the options of this command select jobs.

    Raises:
        click.UsageError: they do, and jobs are named too.
    """
    params = click.get_current_context().params
    options = params.get("states"), params.get("everything"), params.get("keep") is not None
    selected = selection.narrow or any(options)
    if texts and selected:
        raise click.UsageError("name jobs or select them, not both")
    return selected


def chosen(  # noqa: PLR0913 - callers pass the few that differ
    spool: Layout,
    texts: Sequence[str],
    selection: Selection,
    *,
    applies_to: Sequence[str] = STATES,
    leaving: Collection[str] = (),
    misses: Misses | None = None,
) -> list[str]:
    """Return the ids of the jobs that were named, or of those that were selected.

    Selected jobs of a kind in `leaving` are left out, and their number is printed. A name that
    stands for no job, or for several, is reported to `misses`, and the others are returned.

    Raises:
        click.UsageError: jobs were neither named nor selected, or both.
        NoSuchJobError: a name stands for no job or for several, and there is no `misses`.
    """
    selected = selects(selection, texts)
    if texts:
        return _named(spool, texts, applies_to, misses)
    if not selected:
        raise no_selection(_ways())
    return _selected(spool, selection, leaving)


def _named(
    spool: Layout, texts: Sequence[str], applies_to: Sequence[str], misses: Misses | None
) -> list[str]:
    job_ids: dict[str, None] = {}
    for text in texts:
        with nullcontext() if misses is None else misses.noted():
            job_ids[id_to_change(spool, text, applies_to)] = None
    return list(job_ids)


def _selected(spool: Layout, selection: Selection, leaving: Collection[str]) -> list[str]:
    job_ids = []  # only the ids: there may be a million jobs
    left_out: Counter[str] = Counter()
    for found in select(spool, selection, collects=True):
        kind = _kind(found, selection)
        if kind in leaving:
            left_out[kind] += 1
        else:
            job_ids.append(found.job.id)
    for kind, count in left_out.items():
        render.note(f"left out {count} {kind}: {_LEFT[kind]}")
    return job_ids


def no_selection(ways: str) -> click.UsageError:
    """Return the error for a command that was not told which jobs it is for."""
    return click.UsageError(f"which jobs? name them, or select them by {ways}")


def _kind(found: Found, selection: Selection) -> str:
    if found.job.is_reason:
        return _SET_ASIDE
    cancelled = found.state == "dead" and is_cancelled(found.job.record)
    return CANCELLED if cancelled and not selection.error_matches else ""


def _ways() -> str:
    params = click.get_current_context().command.params
    have = {name for param in params for name in param.opts}
    return ", ".join(way for way in ("--state", *SELECTING, "--all") if way in have)


def possible(
    done: str, spool: Layout, job_ids: Sequence[str], states: Sequence[str], misses: Misses
) -> list[str]:
    """Return, for a dry run of named jobs, those that can be `done` ("retried"); report the others.

    In other cases all are returned. A real run finds out by itself, and selected jobs are in these
    states.
    """
    from queuectl.jobs.verbs import check_can_be  # 8 ms that `list` does not need

    params = click.get_current_context().params
    if not (params["texts"] and params["dry_run"]):
        return list(job_ids)
    found = []
    for job_id in job_ids:
        with misses.noted():
            check_can_be(done, spool, job_id, spool.find(job_id).state, states)
            found.append(job_id)
    return found


_ALSO = {"delete": ", with all output, for good"}


def go_ahead(
    job_ids: Sequence[str],
    verb: str,
    options: dict[str, Any],
    misses: Misses,
    ask_above: int = MANY,
) -> bool:
    """Tell whether to go on with these jobs, after asking a person if they are many.

    In a dry run, print their ids and return False. `verb` is what is to be done, such as "cancel".
    Only a person who sees the question and can type is asked. If there are no jobs because all were
    reported to `misses`, nothing more is printed.
    """
    if misses.count and not job_ids:
        return False
    count = len(job_ids)
    what = f"{verb} {count} {plural('job', count)}"
    if options["dry_run"]:
        click.echo("".join(f"{plain(job_id)}\n" for job_id in job_ids), nl=False)
        render.note(f"would {what}; nothing was done")
        return False
    if not count:
        render.note("no jobs match")
        return False
    if count > ask_above and not options["yes"] and render.person_answers():
        few = plain(first_of(job_ids, 5))
        try:
            agreed = render.confirm(f"{what} ({few}){_ALSO.get(verb, '')}?")
        except click.Abort:
            render.note("nothing was done")
            raise
        if not agreed:
            render.note("nothing was done")
            click.get_current_context().exit(1)
    return True
