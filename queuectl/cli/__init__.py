"""The command line: one module a command group, loaded only when it is called for."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import click

from queuectl.cli.completing import complete_directories
from queuectl.errors import QueuectlError
from queuectl.units import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Where each command lives, in the order that help shows them: an import costs more than a command.
COMMANDS = {
    "enqueue": "queuectl.cli.enqueue:enqueue",
    "run": "queuectl.cli.wait:run",
    "wait": "queuectl.cli.wait:wait",
    "worker": "queuectl.cli.worker:worker",
    "status": "queuectl.cli.status:status",
    "top": "queuectl.cli.top:top",
    "list": "queuectl.cli.look:list_jobs",
    "show": "queuectl.cli.look:show",
    "logs": "queuectl.cli.logs:logs",
    "cancel": "queuectl.cli.control:cancel",
    "retry": "queuectl.cli.control:retry",
    "edit": "queuectl.cli.control:edit",
    "pause": "queuectl.cli.control:pause",
    "resume": "queuectl.cli.control:resume",
    "dlq": "queuectl.cli.dlq:dlq",
    "prune": "queuectl.cli.prune:prune",
    "config": "queuectl.cli.settings:settings",
    "stats": "queuectl.cli.stats:stats",
    "report": "queuectl.cli.report:report",
    "doctor": "queuectl.cli.doctor:doctor",
    "systemd-unit": "queuectl.cli.system:systemd_unit",
    "completion": "queuectl.cli.system:completion",
}


_CALLED_ELSEWHERE = {
    "add": "enqueue",
    "start": "worker start",
    "stop": "worker stop",
    "ps": "list",
    "ls": "list",
    "kill": "cancel",
    "rm": "cancel",
    "remove": "cancel",
    "delete": "prune",
    "purge": "dlq purge",
    "log": "logs",
    "follow": "logs -f",
    "restart": "retry",
    "version": "--version",
    "help": "-h",
}
_NAME = "queuectl"
# in a context's meta: the command changes things, or its exit status is what one asks it for
STATUS_TELLS = "queuectl.status-tells"


class SuggestingGroup(click.Group):
    """Suggests a command for a word that is none."""

    called_elsewhere: Mapping[str, str] = {}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        word = args[0] if args and not ctx.resilient_parsing else "-"
        if word not in names and not word.startswith("-"):
            from difflib import get_close_matches

            meant = self.called_elsewhere.get(word)
            found = [meant] if meant else get_close_matches(word, names, n=2)
            near = [f'"{name}"' for name in found]
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
            ctx.fail(f'no command "{word}"; {hint}')
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """Imports a command when it is asked for."""

    called_elsewhere = _CALLED_ELSEWHERE

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click itself would exit with 1
            _silence_stdout()
            # as if the signal had ended it: not all was done
            return 128 + signal.SIGPIPE if STATUS_TELLS in ctx.meta else 0

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    if wanted and not ctx.resilient_parsing:
        from queuectl import __version__

        click.echo(f"queuectl {__version__}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--spool",
    metavar="DIR",
    shell_complete=complete_directories,
    help="The directory that is the queue: else $QUEUECTL_SPOOL, else ~/.queuectl.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context, spool: str | None) -> None:
    """A background job queue that is a directory.

    Jobs are JSON files; the directory that holds one is its state.

    \b
    queuectl enqueue --command 'sleep 2; echo done'
    queuectl worker start --count 2
    queuectl status
    """
    if spool == "":  # of a variable that is not set, perhaps: it would be the usual spool
        raise click.UsageError("--spool must name a directory")
    ctx.obj = spool_path(spool)
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def spool_path(given: str | None) -> str:
    """Return where the spool is: as `--spool` says, else the environment, else the usual place."""
    return given or os.environ.get("QUEUECTL_SPOOL") or "~/.queuectl"


def program() -> list[str]:
    """Return the absolute words that start this queuectl, wherever they are said."""
    for beside in (sys.executable, os.path.abspath(sys.argv[0])):
        script = f"{os.path.dirname(beside)}/{_NAME}"
        if os.path.isfile(script) and os.access(script, os.X_OK):
            return [script]
    # -m would import what lies in the current directory, which may be anybody's
    code = "import sys; del sys.path[0]; from queuectl.cli import main; main()"
    return [sys.executable, "-c", code]


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit: 0 done, 1 could not be done, 2 wrong usage."""
    if args is not None:
        sys.exit(_run(args))
    _speak_utf8()
    status = _run(args)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Tearing the interpreter down takes 8 ms of a command's 60, to free what the kernel frees.
    os._exit(status)


def _speak_utf8() -> None:
    """Start again if the locale says another encoding: what a record holds is UTF-8.

    Else an é of a record would be another byte in its command's arguments, or none at all.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(words[0], words)  # noqa: S606 - a shell would only read it anew


def _run(args: Sequence[str] | None) -> int:
    """The one place where what went wrong becomes one line and an exit status."""
    try:
        _have_streams()
        result: Any = cli.main(args=args, prog_name=_NAME, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.message, err=True)
        return 2
    except click.UsageError as error:
        return _fail(_usage_text(error), 2)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except (click.ClickException, QueuectlError) as error:
        return _fail(error.message if isinstance(error, click.ClickException) else str(error), 1)
    except OSError as error:
        if error.errno == errno.EPIPE:
            _silence_stdout()
            return 0
        where = f" {error.filename}:" if error.filename else ""
        return _fail(f"cannot go on:{where} {error.strerror or error}", 1)
    return result if isinstance(result, int) else 0


def _have_streams() -> None:
    """Put /dev/null in the place of a standard stream that we were started without."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _output_like(sys.stdout)


class _Output(io.FileIO):
    """Standard output, whose errors are not those of a spool: what was asked may be done."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            msg = f"cannot write to standard output: {error.strerror}"
            raise QueuectlError(msg) from error


def _output_like(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return a stream to the same place; what its encoding has no letters for comes as escapes."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors == "strict" else stream.errors,
        line_buffering=stream.line_buffering,
    )


def _usage_text(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "queuectl"
    if isinstance(error, click.NoSuchOption) and error.option_name == "--spool":
        return "--spool goes before the command: queuectl --spool DIR COMMAND"
    text = error.format_message().rstrip(".")
    return f"{text[:1].lower()}{text[1:]}; see `{path} -h`"


def _fail(text: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads: the exit status still says it
        click.echo(f"queuectl: {plain(' '.join(text.split()))}", err=True)
    return status


def _silence_stdout() -> None:
    """Keep the interpreter from flushing, at exit, what a closed pipe does not take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
