"""The entry point of the command line; commands/ has the commands, this package what they share."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any, NoReturn

import click

from queuectl import __version__
from queuectl.cli.completing import complete_directories
from queuectl.cli.groups import LazyGroup
from queuectl.cli.interrupts import end_as_told
from queuectl.cli.streams import have_streams, silence_stdout, speak_utf8
from queuectl.errors import QueuectlError, error_text
from queuectl.system import program
from queuectl.units import plain

# set by a shell that asks for completions; click derives the name from our program's
COMPLETE_VARIABLE = "_QUEUECTL_COMPLETE"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--spool",
    metavar="DIR",
    shell_complete=complete_directories,
    help="The spool: the directory that is the queue. Default: $QUEUECTL_SPOOL, else ~/.queuectl.",
)
@click.version_option(__version__, message=f"{program.NAME} %(version)s")
@click.pass_context
def cli(ctx: click.Context, spool: str | None) -> None:
    """A background job queue that is a directory.

    Each job is a JSON file; the directory it is in is the job's state.

    \b
    queuectl enqueue --command 'sleep 2; echo done'
    queuectl worker start --count 2
    queuectl status
    """
    if spool == "":  # perhaps from an unset variable; it would mean the default spool
        raise click.UsageError("--spool must name a directory")
    ctx.obj = spool
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


def main() -> NoReturn:
    """Run our command line and exit: 0 for success, 1 for failure, 2 for wrong usage.

    A few commands have exit statuses of their own. Ctrl-C is 130. After SIGTERM or SIGHUP, the
    process dies of that signal.
    """
    os.umask(os.umask(0o077) & 0o077)  # never mask the owner's bits: we have to read what we create
    speak_utf8()
    status = _run()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    end_as_told()
    # Tearing down the interpreter would take 8 of a command's 60 ms, to free what the kernel frees.
    os._exit(status)


def _run() -> int:
    """Run our command line and return its exit status; every error becomes one line here."""
    try:
        have_streams()
        if COMPLETE_VARIABLE in os.environ:
            from queuectl.cli import shells

            shells.add_all()
        result: Any = cli.main(prog_name=program.NAME, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.message, err=True)
        return 2
    except click.UsageError as error:
        from queuectl.cli.usage import usage_text  # 40 names that only an error needs

        return _fail(usage_text(error), 2)
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ or error  # click turns a KeyboardInterrupt into an Abort
        more = cause.args if isinstance(cause, KeyboardInterrupt) else ()
        return _fail("; ".join(["interrupted", *map(str, more)]), 130)
    except (click.ClickException, QueuectlError, MemoryError) as error:
        return _fail(str(error) or "out of memory", 1)
    except OSError as error:
        if error.errno == errno.EPIPE:
            silence_stdout()
            return 0
        return _fail(f"cannot go on: {error_text(error)}", 1)
    return result if isinstance(result, int) else 0


def _fail(text: str, status: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be closed: the exit status still tells
        click.echo(f"queuectl: {plain(' '.join(text.split()))}", err=True)
    return status
