"""`queuectl report`."""

from __future__ import annotations

import os
import sys
import time

import click
from click.core import ParameterSource

from queuectl.cli.commands.stats import records_of, since_option
from queuectl.cli.completing import complete_files
from queuectl.cli.opening import spool_to_read
from queuectl.errors import refused_to
from queuectl.report.page import page
from queuectl.system import files
from queuectl.system.scratch import new_owner
from queuectl.units import size_text

_NAME = "report.html"


@click.command()
@click.option(
    "--output",
    metavar="FILE",
    default=_NAME,
    shell_complete=complete_files,
    help="File to write; - for standard output. Default: report.html.",
)
@since_option
@click.pass_context
def report(ctx: click.Context, /, *, output: str, period_s: float) -> None:
    """Write an HTML page about a period: outcomes over time, waits, run times, what failed and why.

    It is one file that loads nothing from the network. It quotes commands and the last lines of
    what dead jobs printed, so only you can read it, until you change its mode.

    \b
    queuectl report
    queuectl report --since 30d --output november.html
    """
    if not output:
        raise click.UsageError("--output must name a file")
    spool = spool_to_read(ctx)
    written = page(spool, time.time(), period_s, records_of).encode()
    if output == "-":
        sys.stdout.buffer.write(written)
        return
    source = ctx.get_parameter_source("output")
    _write(output, written, named=source is not ParameterSource.DEFAULT)
    click.echo(f"{output}  {size_text(len(written))}")


def _write(path: str, data: bytes, *, named: bool) -> None:
    """Write the page, to a file as a whole or not at all; follow a link if the user named it."""
    with refused_to("write", path):
        # a link that the user did not name may be anybody's
        is_link = os.path.islink(path) and not named
        if os.path.exists(path) and not os.path.isfile(path) and not is_link:  # a device, or a pipe
            with open(path, "wb") as file:
                file.write(data)
        else:
            real = os.path.realpath(path) if named else path
            files.replace(real, data, f"{real}.{new_owner()}", sync=False)
