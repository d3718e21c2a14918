"""Opening the spool for a command, and what to say of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from queuectl.cli import render
from queuectl.cli.streams import STATUS_TELLS
from queuectl.errors import QueuectlError
from queuectl.spool.safety import is_open_to_others
from queuectl.spool.spool import Spool
from queuectl.units import plain

if TYPE_CHECKING:
    import click

    from queuectl.spool.layout import Layout


def say_faults(spool: Spool) -> None:
    """Print what is wrong in config.json, for a command that goes on without it."""
    for fault in spool.faults:
        render.note(f"queuectl: {fault}; going on without it")


def spool_to_write(ctx: click.Context, *, strict: bool = True) -> Spool:
    """Return the spool, and create it if there is none."""
    spool = spool_to_be(ctx, strict=strict)
    create(spool)
    return spool


def create(spool: Spool) -> None:
    """Create a spool, unless there is one; say so, since its path may be a slip."""
    is_new = not spool.exists()
    spool.create()
    if is_new:
        render.note(f"queuectl: made a new spool: {spool.path}")


def spool_to_be(ctx: click.Context, *, strict: bool = True) -> Spool:
    """Return the spool for a command that creates it later, once its input has been checked."""
    ctx.meta[STATUS_TELLS] = True
    spool = Spool(ctx.find_root().obj, strict=strict)
    spool.note = render.note
    return spool


def spool_to_change(ctx: click.Context, *, dry_run: bool = False) -> Spool:
    """Return the existing spool, for a command that changes it; print the faults of config.json.

    Args:
        ctx: the command's context.
        dry_run: the command only prints what it would do.

    Raises:
        QueuectlError: there is no spool, or we may not change it.
    """
    spool = spool_there(ctx)
    if not dry_run:
        spool.check_trusted()
    ctx.meta[STATUS_TELLS] = True
    return spool


def spool_to_read(ctx: click.Context, *, strict: bool = False) -> Layout:
    """Return what `spool_there` does, as a `Layout`, for a command that changes nothing."""
    return spool_there(ctx, strict=strict)


def spool_there(ctx: click.Context, *, strict: bool = False) -> Spool:
    """Return the existing spool; print what is wrong in its config.json, and go on without it.

    Raises:
        QueuectlError: there is no spool, and this does not create one; or `strict` is true and
            config.json is wrong.
    """
    spool = Spool(ctx.find_root().obj, strict=strict)
    say_faults(spool)
    if not spool.exists():
        msg = f"no spool at {spool.path}: --spool DIR names another, `queuectl enqueue` makes one"
        raise QueuectlError(msg)
    return spool


def remark_on_root(spool: Layout) -> None:
    """Warn a person if root's workers are to serve a spool that other users can write to."""
    pending = spool.directory("pending")
    serves_others = spool.config.shared and os.geteuid() == 0 and os.path.isdir(pending)
    if serves_others and is_open_to_others(os.stat(pending)):
        render.remark(f"whoever may write to {plain(pending)} can run commands as root")
