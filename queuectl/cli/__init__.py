"""The command line: its commands are in commands/, what they share is beside it."""

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

from queuectl import __version__
from queuectl.cli.completing import complete_directories
from queuectl.errors import QueuectlError, error_text
from queuectl.system import program
from queuectl.units import plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Where each command lives and what it does, in the order that help shows them: to import one costs
# more than to run it.
COMMANDS = {
    "enqueue": ("enqueue:enqueue", "Queue a job; print its id once it is safe on disk."),
    "run": ("wait:run", "Queue a job, show what it prints, end as it does."),
    "wait": ("wait:wait", "Wait until jobs have ended."),
    "worker": ("worker:worker", "Start, stop and list the pools that run jobs."),
    "status": ("status:status", "Show jobs by state, workers, and what is due."),
    "top": ("top:top", "Watch the spool: what runs, what is next, what failed."),
    "list": ("look:list_jobs", "List jobs."),
    "show": ("look:show", "Show one job: its record, its runs, its output files."),
    "logs": ("logs:logs", "Print what jobs printed."),
    "cancel": ("control:cancel", "Have jobs never run, and end those that run."),
    "retry": ("control:retry", "Queue jobs that have ended again."),
    "edit": ("control:edit", "Change waiting or dead jobs, by options or in an editor."),
    "pause": ("control:pause", "Have workers start nothing until `queuectl resume`."),
    "resume": ("control:resume", "Let workers start jobs again."),
    "dlq": ("dlq:dlq", "Look at dead jobs, give them another life, or delete them."),
    "prune": ("prune:prune", "Delete old completed jobs, or those named, with their output."),
    "config": ("settings:settings", "Read and change the settings; running workers follow."),
    "stats": ("stats:stats", "Show what happened: outcomes, waits, run times."),
    "report": ("report:report", "Write a page about a period."),
    "doctor": ("doctor:doctor", "Check the spool; tell why a job is not running."),
    "systemd-unit": ("system:systemd_unit", "Print a unit file that runs a pool for years."),
    "completion": ("system:completion", "Print what makes the tab key complete."),
}


_CALLED_ELSEWHERE = {
    "add": "enqueue",
    "push": "enqueue",
    "submit": "enqueue",
    "start": "worker start",
    "stop": "worker stop",
    "parallel": "config set worker-count",
    "ps": "list",
    "ls": "list",
    "jobs": "list",
    "info": "show",
    "kill": "cancel",
    "rm": "cancel or prune",
    "remove": "cancel or prune",
    "delete": "prune",
    "empty": "cancel --all",
    "clean": "prune",
    "purge": "dlq purge",
    "abort": "cancel",
    "reset": "cancel or prune",
    "log": "logs",
    "output": "logs",
    "cat": "logs",
    "tail": "logs -f",
    "follow": "logs -f",
    "restart": "retry",
    "requeue": "retry",
    "suspend": "pause",
    "switch": "edit --priority",
    "stash": "enqueue --delay or edit --delay",
    "hold": "edit --delay",
    "priority": "edit --priority",
    "group": "enqueue --tag",
    "daemon": "worker start --detach",
    "shutdown": "worker stop",
    "version": "--version",
    "help": "-h",
}
_OPTIONS_CALLED_ELSEWHERE = {
    "--label": "--tag",
    "--group": "--tag",
    "--since": "--newer-than",
    "--failed": "--state failed",
    "--dead": "--state dead",
    "--at": "--run-at",
    "--when": "--run-at",
    "--schedule": "--run-at",
    "--in": "--delay",
    "--parallel": "--count",
    "--workers": "--count",
    "--jobs": "--count",
    "-j": "--count",
    "-n": "--count or --limit or --lines",
    "-c": "--count",
    "-d": "--detach",
    "--daemon": "--detach",
    "--background": "--detach",
    "--burst": "--stop-when-empty",
    "--immediate": "--priority",
    "--name": "--id",
    "--working-directory": "--cwd",
    "-w": "--cwd",
    "--stashed": "--delay",
    "--all-failed": "--all",
    "--tail": "--lines",
}
_TAKE_IDS = {"edit", "logs"}
_OF_A_JOB = {"--timeout", "--max-retries", "--priority", "--run-at", "--delay", "--env", "--cwd"}
# set by a shell that wants to complete, as click calls it for a program of our name
COMPLETE_VARIABLE = "_QUEUECTL_COMPLETE"
# in a context's meta: the command changes things, or its exit status is what one asks it for
STATUS_TELLS = "queuectl.status-tells"


class SuggestingGroup(click.Group):
    """Suggests a command for a word that is none."""

    def __init__(
        self, *args: Any, called_elsewhere: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._called_elsewhere = called_elsewhere or {}

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if error.ctx is None and ctx.invoked_subcommand is not None:
                # of an option without its value click does not say of which command
                command = self.get_command(ctx, ctx.invoked_subcommand)
                if command is not None:
                    error.ctx = click.Context(command, ctx, ctx.invoked_subcommand)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        word = args[0] if args and not ctx.resilient_parsing else "-"
        if word not in names and not word.startswith("-"):
            from difflib import get_close_matches

            meant = self._called_elsewhere.get(word)
            found = meant.split(" or ") if meant else get_close_matches(word, names, n=2)
            path = ctx.command_path.partition(" ")[2]
            near = [f'"{path} {name}"' if path and name in names else f'"{name}"' for name in found]
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
            ctx.fail(f'no command "{word}"; {hint}')
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """Imports a command when it is asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click itself would exit with 1
            _silence_stdout()
            # as if the signal had ended it: not all was done
            return 128 + signal.SIGPIPE if STATUS_TELLS in ctx.meta else 0

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except BrokenPipeError:  # of -h or --version
            _silence_stdout()
            raise click.exceptions.Exit(0) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(f"queuectl.cli.commands.{module}"), name)
        command.short_help = COMMANDS[cmd_name][1]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    called_elsewhere=_CALLED_ELSEWHERE,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--spool",
    metavar="DIR",
    shell_complete=complete_directories,
    help="The directory that is the queue: else $QUEUECTL_SPOOL, else ~/.queuectl.",
)
@click.version_option(__version__, message=f"{program.NAME} %(version)s")
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
    ctx.obj = spool
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit: 0 done, 1 could not be done, 2 wrong usage."""
    if args is not None:
        sys.exit(_run(args))
    os.umask(os.umask(0o077) & 0o077)  # nobody could read what is made for nobody
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
    is_other = sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode
    if is_other and sys.executable:
        words = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(words[0], words)  # noqa: S606 - a shell would only read it anew


def _run(args: Sequence[str] | None) -> int:
    """The one place where what went wrong becomes one line and an exit status."""
    try:
        _have_streams()
        if COMPLETE_VARIABLE in os.environ:
            from queuectl.cli import shells

            shells.add_all()
        result: Any = cli.main(args=args, prog_name=program.NAME, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.message, err=True)
        return 2
    except click.UsageError as error:
        return _fail(_usage_text(error), 2)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ or error  # click makes the one of the other
        more = cause.args if isinstance(cause, KeyboardInterrupt) else ()
        return _fail("; ".join(["interrupted", *map(str, more)]), 130)
    except (click.ClickException, QueuectlError, MemoryError) as error:
        return _fail(str(error) or "no memory is left", 1)
    except OSError as error:
        if error.errno == errno.EPIPE:
            _silence_stdout()
            return 0
        return _fail(f"cannot go on: {error_text(error)}", 1)
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
            raise QueuectlError(f"cannot write to standard output: {error.strerror}") from error


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
    if isinstance(error, click.NoSuchOption):
        params = error.ctx.command.params if error.ctx else ()
        return _no_such_option(error.option_name, [w for item in params for w in item.opts], path)
    text = error.format_message().rstrip(".")
    return f"{text[:1].lower()}{text[1:]}; see `{path} -h`"


def _no_such_option(name: str, have: Sequence[str], path: str) -> str:
    if name == "--spool":
        return "--spool goes before the command: queuectl --spool DIR COMMAND"
    if name == "--after" and "--later-codes" in have:
        return "there is no --after; README says how a job follows another (--later-codes)"
    from queuectl.cli.selection import SELECTING  # only on the way to an error

    command = path.partition(" ")[2]
    way = ""
    if name in ("--state", *SELECTING) and command in _TAKE_IDS:
        way = f"`queuectl list {name} ... --ids | xargs -r {path}`"
    elif name in _OF_A_JOB and command.endswith("retry"):
        way = f"`queuectl edit ID... {name} ...` first"
    if way:
        return f"{command} has no {name}: {way}; see `{path} -h`"
    called = _OPTIONS_CALLED_ELSEWHERE.get(name, "").split(" or ")
    near = [way for way in called if way.partition(" ")[0] in have] or _near_options(name, have)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no such option {name}{hint}; see `{path} -h`"


def _near_options(name: str, have: Sequence[str]) -> list[str]:
    """Return those that are near without the dashes, which all of them share."""
    from difflib import get_close_matches

    words = {option.lstrip("-"): option for option in have if option.startswith("--")}
    return [words[near] for near in get_close_matches(name.lstrip("-"), words, n=2, cutoff=0.55)]


def _fail(text: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads: the exit status still says it
        click.echo(f"queuectl: {plain(' '.join(text.split()))}", err=True)
    return status


def _silence_stdout() -> None:
    """Keep the interpreter from flushing, at exit, what a closed pipe does not take."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
