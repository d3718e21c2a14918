"""Where each command is defined, and groups that import a command only when it is called."""

from __future__ import annotations

import signal
from importlib import import_module
from typing import Any

import click

from queuectl.cli.interrupts import told_to_end
from queuectl.cli.streams import STATUS_TELLS, OutputError, silence_stdout
from queuectl.errors import QueuectlError

# Where each command is defined, and its line in the help, in the order that the help has them.
# Importing a command takes longer than running it, so help imports none.
COMMANDS = {
    "enqueue": ("enqueue:enqueue", "Queue a job; print its id once it is safe on disk."),
    "run": ("wait:run", "Queue a job, show its output, exit with its status."),
    "wait": ("wait:wait", "Wait until jobs have ended."),
    "worker": ("worker:worker", "Start, stop and list workers, which run the jobs."),
    "status": ("status:status", "Show jobs by state, workers, and what is due."),
    "top": ("top:top", "Watch the spool: what runs, what is next, what failed."),
    "list": ("look:list_jobs", "List jobs."),
    "show": ("look:show", "Show one job: its record, its runs, its output files."),
    "logs": ("logs:logs", "Print what jobs printed."),
    "cancel": ("control:cancel", "Cancel jobs: waiting ones never run, running ones are ended."),
    "retry": ("control:retry", "Queue jobs again that have ended, or wait for a retry."),
    "edit": ("control:edit", "Change waiting or dead jobs, by options or in an editor."),
    "pause": ("control:pause", "Keep workers from starting jobs until `queuectl resume`."),
    "resume": ("control:resume", "Let workers start jobs again."),
    "dlq": ("dlq:dlq", "List dead jobs, queue them again, or delete them."),
    "prune": ("prune:prune", "Delete old completed jobs, or those named, with their output."),
    "config": ("settings:settings", "Read and change the settings; running workers follow."),
    "stats": ("stats:stats", "Show what happened: outcomes, waits, run times."),
    "report": ("report:report", "Write an HTML page about a period."),
    "doctor": ("doctor:doctor", "Check the spool; tell why a job is not running."),
    "systemd-unit": (
        "integration:systemd_unit",
        "Print a systemd unit that runs a worker for years.",
    ),
    "completion": ("integration:completion", "Print the script that makes the tab key complete."),
}


class SuggestingGroup(click.Group):
    """A group that suggests a command for a word that is not one."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if error.ctx is None and ctx.invoked_subcommand is not None:
                # click does not name the command if an option lacks its value
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
            from queuectl.cli.usage import no_such_command  # only on the way to an error

            ctx.fail(no_such_command(word, names, ctx.command_path.partition(" ")[2]))
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """The top-level group, which imports a command only when it is called."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click itself would exit with 1
            silence_stdout()
            # as if SIGPIPE had ended us: not all was done
            return 128 + signal.SIGPIPE if STATUS_TELLS in ctx.meta else 0
        except click.exceptions.Exit:  # caught first, since it is a RuntimeError
            raise
        except (KeyboardInterrupt, RuntimeError) as interrupt:
            # Python before 3.12 turns an interrupt in __set_name__, in an import, into RuntimeError
            if told_to_end():
                raise click.Abort from interrupt  # else click prints a newline, as after ^C
            raise
        except OutputError as error:
            if STATUS_TELLS not in ctx.meta:
                raise
            msg = f"{error}; what was asked has been done, or a part of it"
            raise QueuectlError(msg) from error

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except BrokenPipeError:  # while -h or --version prints
            silence_stdout()
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
