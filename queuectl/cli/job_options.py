"""The options that describe a job, and the fields of its record that they set."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from queuectl.cli import render
from queuectl.cli.completing import complete_directories, complete_tags
from queuectl.cli.params import DURATION, INTEGER, TIME, Duration
from queuectl.errors import BadJobError
from queuectl.record.fields import check_new
from queuectl.system.files import from_here
from queuectl.units import parse_codes, utc_text

if TYPE_CHECKING:
    from collections.abc import Callable


class _Timeout(Duration):
    name = "duration|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "none":
            return None
        seconds = super().convert(value, param, ctx)
        if seconds == 0:
            self.fail("0 leaves no time; write 90s, 2h, or none for no limit", param, ctx)
        return seconds


class CommandAfterDashes(click.Command):
    """Remembers whether `--` was given, after which all words are one command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["dashes"] = "--" in args
        return super().parse_args(ctx, args)


def overlaid(
    fields: dict[str, Any], given: dict[str, Any], here: Callable[[], str]
) -> dict[str, Any]:
    """Return a job's fields overlaid with those from options; `cwd` defaults to `here()`.

    Variables and tags from options are added to the job's own. An `env` or `tags` of the wrong type
    is left as it is, to be refused later.
    """
    both = {**fields, **given}
    for name, merged in (("env", _with_variables), ("tags", _with_tags)):
        if name in given and name in fields:
            both[name] = merged(fields[name], given[name])
    return both if "cwd" in both else {"cwd": here(), **both}


def _with_variables(own: Any, more: dict[str, str]) -> Any:
    return {**own, **more} if isinstance(own, dict) else own


def _with_tags(own: Any, more: list[str]) -> Any:
    if not isinstance(own, list):
        return own
    return [*own, *(word for word in dict.fromkeys(more) if word not in own)]


def _pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    return dict(_pair(value) for value in values)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or (not equals and name not in os.environ):
        is_not = "not set here" if name else "not NAME=VALUE"
        raise click.BadParameter(f'"{text}" is {is_not}')
    return name, value if equals else os.environ[name]


def _words(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    if not all(map(str.strip, values)):
        raise click.BadParameter("a tag must not be empty; is a variable not set?")
    return values


def _codes(_ctx: click.Context, _param: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return parse_codes(value)
    except ValueError:
        msg = f'"{value}" is not a list of exit codes such as 0,3 or 64-78'
        raise click.BadParameter(msg) from None


_ID_OPTION = click.option(
    "--id", "id_", metavar="ID", help="The job's id. Default: a new one; these sort by time."
)
_OPTIONS = (
    click.option("--command", metavar="TEXT", help="A command line for the shell."),
    click.option("--priority", type=INTEGER, help="Lower runs first. Default: 0."),
    click.option(
        "--run-at",
        type=TIME,
        metavar="TIME",
        help="Do not run before this time: 08:00 (the next), now, or ISO 8601; local if without "
        "zone.",
    ),
    click.option(
        "--delay",
        type=DURATION,
        metavar="DURATION",
        help="Do not run until this much time has passed.",
    ),
    click.option(
        "--timeout",
        type=_Timeout(),
        metavar="DURATION",
        help="End a run that takes longer; none: no limit. Default: the setting job-timeout, "
        "300 s if not set.",
    ),
    click.option(
        "--max-retries",
        type=INTEGER,
        help="Failures until the job is dead; 1: no retry. Default: the setting, 3 if not set.",
    ),
    click.option(
        "--cwd",
        metavar="DIR",
        shell_complete=complete_directories,
        help="Directory to run in. Default: the current one.",
    ),
    click.option(
        "--env",
        metavar="K[=V]",
        multiple=True,
        callback=_pairs,
        help="Set K to V for the command; without =V, to K's value here. May be repeated.",
    ),
    click.option(
        "--tag",
        "tags",
        metavar="WORD",
        multiple=True,
        callback=_words,
        shell_complete=complete_tags,
        help="A word to find the job by; may be repeated.",
    ),
    click.option(
        "--success-codes",
        callback=_codes,
        metavar="CODES",
        help="Exit codes that complete the job, such as 0,3 or 64-78. Default: the setting, "
        "0 if not set.",
    ),
    click.option(
        "--fatal-codes",
        callback=_codes,
        metavar="CODES",
        help="Exit codes that make the job dead at once. Default: the setting.",
    ),
    click.option(
        "--later-codes",
        callback=_codes,
        metavar="CODES",
        help="Exit codes that mean: run again later, attempt not counted. Default: the setting.",
    ),
    click.option(
        "--later-delay",
        type=DURATION,
        metavar="DURATION",
        help="How long it waits after such an exit code. Default: the setting, 60 s if not set.",
    ),
)


def job_options(command: Any) -> Any:
    """Add the options that describe a job, with --id."""
    return _ID_OPTION(_described(command))


def change_options(command: Any) -> Any:
    """Add the options that describe a job, without --id and without the defaults in their help.

    A field whose option is not given stays as it is.
    """
    described = _described(command)
    for param in described.__click_params__:
        param.help = param.help.partition(" Default:")[0]
    return described


def _described(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def current_directory() -> str:
    """Return the current directory, for a job without a `cwd`; warn if we cannot enter it.

    Raises:
        QueuectlError: the directory was removed.
    """
    path = from_here()
    if not os.access(path, os.X_OK):  # as after `su` without `-`
        render.remark(f"queuectl: you cannot enter {path}, nor can a worker of yours; see --cwd")
    return path


def _directory(text: str) -> str:
    if not text:
        raise click.UsageError("--cwd must name a directory")
    path = os.path.normpath(from_here(text))
    if not os.path.isdir(path):
        render.remark(f"queuectl: directory {path} does not exist now")
    return path


def given_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that were set by options on the command line.

    Raises:
        click.UsageError: a field would have a wrong value, or two options exclude each other.
    """
    source_of = click.get_current_context().get_parameter_source
    fields = {
        name.rstrip("_"): value
        for name, value in options.items()
        if source_of(name) is ParameterSource.COMMANDLINE
    }
    if "run_at" in fields and "delay" in fields:
        raise click.UsageError("--run-at and --delay cannot be combined")
    if "delay" in fields:
        fields["run_at"] = time.time() + fields.pop("delay")
    if "run_at" in fields:
        fields["run_at"] = utc_text(fields["run_at"])
    if "tags" in fields:
        fields["tags"] = list(fields["tags"])
    if "cwd" in fields:
        fields["cwd"] = _directory(fields["cwd"])
    try:
        check_new({"command": "true", **fields})
    except BadJobError as error:
        raise click.UsageError(str(error)) from None
    return fields
