"""`queuectl config`."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import click

from queuectl.cli import render
from queuectl.cli.completing import complete_keys
from queuectl.cli.groups import SuggestingGroup
from queuectl.cli.opening import say_faults, spool_to_read, spool_to_write
from queuectl.cli.params import json_option
from queuectl.errors import BadSettingError
from queuectl.ids import first_of
from queuectl.settings import config
from queuectl.spool.spool import Spool
from queuectl.states import WAITING
from queuectl.units import codes_text
from queuectl.workers import owners

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from queuectl.spool.layout import Layout

_FOLLOWED_WITHIN_S = 0.5  # a pool learns of a change by an event


@click.group(cls=SuggestingGroup)
def settings() -> None:
    """Read and change the settings of a spool; running workers follow.

    \b
    queuectl config set max-retries 5
    """


@contextlib.contextmanager
def _from_the_command_line() -> Iterator[None]:
    """Turn a wrong key or value into a usage error, which one in config.json is not."""
    try:
        yield
    except BadSettingError as error:
        raise click.UsageError(str(error)) from None


def _in_force(spool: Layout) -> dict[str, Any]:
    return {key: getattr(spool.config, item.name) for key, item in config.SETTINGS.items()}


def _in_force_now(spool: Spool) -> dict[str, Any]:
    """Return the settings after an edit; print what is still wrong in config.json."""
    edited = Spool(spool.path, strict=False)
    say_faults(edited)
    if spool.config.shared and not edited.config.shared:
        render.note(
            "config.json is yours alone now: others can no longer queue, look or run jobs here"
        )
    return _in_force(edited)


def _value_text(value: Any) -> str:
    """Return a value as `config set` takes it."""
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)):
        return codes_text(value)
    return value if isinstance(value, str) else json.dumps(value)


@settings.command()
@click.argument("key", required=False, shell_complete=complete_keys)
@json_option
@click.pass_context
def get(ctx: click.Context, key: str | None, *, as_json: bool) -> None:
    """Print the value of KEY, or every key and its value.

    \b
    queuectl config get max-retries
    """
    values = _in_force(spool_to_read(ctx, strict=True))
    if key is not None:
        with _from_the_command_line():
            value = values[config.canonical_key(key)]
        click.echo(json.dumps(value) if as_json else _value_text(value))
    elif as_json:
        render.json_document(values)
    else:
        for name, value in values.items():
            click.echo(f"{name}={_value_text(value)}")


@settings.command()
@json_option
@click.pass_context
def show(ctx: click.Context, *, as_json: bool) -> None:
    """Show every setting, what it is for, and whether it was changed.

    \b
    queuectl config show
    """
    spool = spool_to_read(ctx)
    config.read_stored(spool.path)  # raises if it is not JSON: there is nothing to show
    stored = config.load_stored(spool.path)[0]
    values = _in_force(spool)
    if as_json:
        render.json_document(
            {
                key: {"value": value, "set": key in stored, "about": config.SETTINGS[key].about}
                for key, value in values.items()
            }
        )
    else:
        _print_table(values, stored)
    if spool.faults:  # they were printed already
        ctx.exit(1)


def _print_table(values: Mapping[str, Any], stored: Collection[str]) -> None:
    table = render.Table("KEY", "VALUE", "", "WHAT IT IS")
    for key, value in values.items():
        changed = "set" if key in stored else ""
        table.row(key, _value_text(value), changed, config.SETTINGS[key].about)
    table.end()


@settings.command("set", context_settings={"ignore_unknown_options": True})  # -1 is a value
@click.argument("key", shell_complete=complete_keys)
@click.argument("value", metavar="VALUE", required=False)
@click.pass_context
def set_value(ctx: click.Context, key: str, value: str | None) -> None:
    """Set KEY to VALUE, in this spool and its running workers.

    KEY=VALUE works too, as `get` prints it. worker-count applies to workers started without
    --count, max-retries to jobs that are queued from then on, and to files without their own.
    `queuectl config show` lists the keys.

    \b
    queuectl config set backoff-base 3
    queuectl config set job_timeout 2h
    """
    if value is None:
        key, equals, value = key.partition("=")
        if not equals:
            raise click.UsageError(f"the value is missing: `queuectl config set {key} VALUE`")
    with _from_the_command_line():
        name = config.canonical_key(key)
        new = config.read_value(name, value)
    spool = spool_to_write(ctx, strict=False)  # the edit checks what it changes
    config.edit(spool.path, lambda stored: stored.update({name: new}))
    _in_force_now(spool)
    click.echo(f"{name}={_value_text(new)}")
    if name.startswith("retain-") and isinstance(new, int):
        render.remark(
            f"the {new} newest are kept, of any age; {new}d keeps those of the last {new} days"
        )
    if name == "max-retries" and any(next(spool.names(state), None) for state in WAITING):
        render.remark(
            "queued jobs keep what they have: `queuectl edit ID... --max-retries N` changes it"
        )
    if name == "worker-count":
        _tell_who_keeps_its_count(spool, new)


def _tell_who_keeps_its_count(spool: Spool, count: int) -> None:
    until = time.monotonic() + _FOLLOWED_WITHIN_S
    while others := [item for item in owners.workers(spool) if item.slots != count]:
        if time.monotonic() > until:
            names = first_of([item.worker for item in others])
            why = "started with --count, or not aware of it yet"
            hint = "`queuectl worker start` without --count follows the setting"
            render.note(f"not followed by {names}: {why}; {hint}")
            return
        time.sleep(0.02)


@settings.command()
@click.argument("key", shell_complete=complete_keys)
@click.pass_context
def unset(ctx: click.Context, key: str) -> None:
    """Set KEY back to its default.

    \b
    queuectl config unset backoff-base
    """
    spool = spool_to_write(ctx, strict=False)  # the edit checks what it changes

    def take_out(stored: dict[str, Any]) -> None:
        if key in stored:  # also a key that is no setting, written by hand
            del stored[key]
        else:
            with _from_the_command_line():
                stored.pop(config.canonical_key(key), None)

    config.edit(spool.path, take_out)
    name, values = config.listed(key), _in_force_now(spool)
    click.echo(f"{name}={_value_text(values[name])}" if name in values else f"{name} was removed")
