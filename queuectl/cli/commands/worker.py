"""`queuectl worker start`, `stop` and `list`."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from queuectl import variables
from queuectl.cli import render
from queuectl.cli.completing import complete_workers
from queuectl.cli.groups import SuggestingGroup
from queuectl.cli.interrupts import heeded
from queuectl.cli.leaving import wait_until_gone
from queuectl.cli.misses import Misses
from queuectl.cli.opening import create, remark_on_root, spool_to_be, spool_to_change, spool_to_read
from queuectl.cli.params import Count, json_option
from queuectl.errors import QueuectlError, SpoolError, refused_to
from queuectl.ids import first_of
from queuectl.kernel import processes
from queuectl.record.outcome import signal_name
from queuectl.system import program
from queuectl.system.files import share
from queuectl.units import plain, plural
from queuectl.workers import hindrances, owners, requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from queuectl.settings.config import Config
    from queuectl.spool.layout import Layout
    from queuectl.spool.spool import Spool
    from queuectl.workers.owners import Worker

_LOG_NAME = "worker.log"
_READY_VARIABLE = f"{variables.PREFIX}READY_FD"


@click.group(cls=SuggestingGroup)
def worker() -> None:
    """Start, stop and list workers, which run the jobs.

    \b
    queuectl worker start --count 4
    """


@worker.command()
@click.option(
    "--count",
    type=Count(1, 10_000),
    metavar="N",
    help="Jobs to run at a time. Default: the setting worker-count, also when it changes.",
)
@click.option(
    "--stop-when-empty", is_flag=True, help="Leave once all jobs that are due have ended."
)
@click.option(
    "--detach",
    is_flag=True,
    help="Run in the background, logging to a file; return once the worker is up.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Log lines as text, or as JSON.",
)
@click.pass_context
def start(
    ctx: click.Context, *, count: int | None, stop_when_empty: bool, detach: bool, log_format: str
) -> None:
    """Run jobs, N at a time, logging each on standard error.

    On Ctrl-C or SIGTERM the worker finishes what runs and leaves; on a second one it ends the
    commands and gives their jobs back. --stop-when-empty also waits for retries and, in a paused
    spool, for `queuectl resume`, but not for scheduled jobs; the exit status is 0 even if jobs
    died, which `queuectl wait --tag T` tells afterwards.

    \b
    queuectl worker start --count 2 --stop-when-empty
    queuectl worker start --detach
    """
    spool = spool_to_be(ctx)
    if log_format == "json" and not detach:  # then each line on standard error is JSON
        spool.create()
    else:
        create(spool)
    remark_on_root(spool)
    if detach:
        _detach(spool, count, stop_when_empty=stop_when_empty, log_format=log_format)
        return
    from queuectl.pool.pool import Pool
    from queuectl.workers.worklog import WorkLog

    pool = Pool(
        spool,
        count,
        WorkLog(sys.stderr.fileno(), as_json=log_format == "json"),
        stop_when_empty=stop_when_empty,
        on_ready=_tell_starter,
    )
    if not pool.run():
        ctx.exit(1)


def _tell_starter(name: str) -> None:
    """Tell the process that started us with --detach that the pool is up, and change to /.

    If that process is gone, nobody has been told of this pool, and the pool stops.
    """
    descriptor = os.environ.pop(_READY_VARIABLE, None)
    if descriptor is not None:
        os.chdir("/")  # so that the directory we were started in can be unmounted
        try:
            os.write(int(descriptor), name.encode())
        except BrokenPipeError:
            signal.raise_signal(signal.SIGTERM)
        os.close(int(descriptor))


def _detach(spool: Spool, count: int | None, *, stop_when_empty: bool, log_format: str) -> None:
    words = [*program.words(), "--spool", spool.path, "worker", "start"]
    words += ["--log-format", log_format, *(["--count", str(count)] if count else [])]
    words += ["--stop-when-empty"] if stop_when_empty else []
    others = [
        item for item in owners.workers(spool) if not requests.is_asked_to_stop(spool, item.worker)
    ]
    log_path = f"{spool.path}/{_LOG_NAME}"
    name, pid = _start_apart(words, log_path, spool.config)
    click.echo(f"worker {name} is up, process {pid}; its log is {plain(log_path)}")
    if others:
        slots = sum(item.slots for item in others)
        who = "another worker is" if len(others) == 1 else f"{len(others)} other workers are"
        names = first_of([item.worker for item in others])
        more = f"{slots} more {plural('job', slots)} at a time"
        render.note(f"{who} up here already, with {more}: {names}")


def _start_apart(words: list[str], log_path: str, config: Config) -> tuple[str, int]:
    """Start a pool that outlives us; return its name and process id once it is up.

    Raises:
        QueuectlError: the pool did not come up.
        SpoolError: its log cannot be opened.
    """
    # A pool that a job starts is not a part of it: recovery must not take it for a leftover.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(variables.PREFIX)}
    log = _open_log(log_path, config)
    ready, tell = os.pipe()
    begun = os.fstat(log).st_size
    process = None
    try:
        with heeded():
            process = subprocess.Popen(
                words,
                env={**environment, _READY_VARIABLE: str(tell)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[tell],
                start_new_session=True,
            )
            os.close(tell)
            with os.fdopen(ready, encoding="utf-8") as pipe:
                name = pipe.read()
    except KeyboardInterrupt:
        if process is None:
            raise
        process.terminate()  # if it is up already, it stops once what it runs has ended
        msg = f"process {process.pid}, which was to become the worker, was told to end"
        raise KeyboardInterrupt(msg) from None
    if not name:
        raise QueuectlError(f"the worker did not come up: {_why(log_path, begun, process.wait())}")
    process.returncode = 0  # it goes on, and we do not wait for it
    return name, process.pid


def _open_log(path: str, config: Config) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if config.shared:  # it may be somebody else's link or pipe
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        if os.path.islink(path):
            raise QueuectlError(f"{path} is a link, which it must not be in a shared spool")
    with refused_to("write to", path):
        log = os.open(path, flags, config.file_mode)
    if config.shared and not stat.S_ISREG(os.fstat(log).st_mode):
        os.close(log)
        raise QueuectlError(f"{path} is not a file, which it has to be in a shared spool")
    share(log, config.file_mode)
    return log


def _why(log_path: str, begun: int, status: int) -> str:
    """Return the last line that a process logged, or how it ended if it logged nothing."""
    with open(log_path, "rb") as file:
        file.seek(begun)
        lines = file.read().decode(errors="replace").splitlines()
    if lines:
        return lines[-1]
    how = f"exit status {status}" if status >= 0 else f"killed by {signal_name(-status)}"
    return f"{how}, and nothing in {plain(log_path)}"


@worker.command(short_help="Stop workers, all or some, and wait until they are gone.")
@click.argument("names", metavar="[WORKER]...", nargs=-1, shell_complete=complete_workers)
@click.option(
    "--now", is_flag=True, help="End what runs and give it back, the attempt not counted."
)
@click.pass_context
def stop(ctx: click.Context, names: tuple[str, ...], *, now: bool) -> None:
    """Stop workers (all of them, if none is named) and wait until they are gone.

    What runs is finished first, unless --now is given. A WORKER is a name, the beginning of one,
    or a process id.

    \b
    queuectl worker stop
    queuectl worker stop 4711
    queuectl worker stop --now
    """
    spool = spool_to_change(ctx)
    alive, misses = owners.workers(spool), Misses()
    named = alive if not names else list(_all_named(names, alive, misses))
    wanted = list({item.worker: item for item in named}.values())
    if not wanted:
        if not names:
            render.note(hindrances.NO_WORKER.what)
        _tell_of_the_dead(spool)
        misses.exit()
        return
    ours = next((item for item in wanted if item.worker == os.environ.get(variables.WORKER)), None)
    if ours is not None:  # before it is asked, since it may end us at once
        ends = "ends it now" if now else "leaves once that has ended"
        render.note(f"{ours.worker} runs this command, and {ends}")
    wanted = [item for item in wanted if _ask(spool, item, misses, now=now)]
    if ours in wanted:
        wanted.remove(ours)  # it waits for this command to end
    try:
        with heeded():
            wait_until_gone(spool, wanted, now=now)
    except KeyboardInterrupt:
        still = ", ".join(item.worker for item in wanted)
        msg = f"{still} will stop all the same, once the jobs that run there have ended"
        raise KeyboardInterrupt(msg) from None
    _tell_of_the_dead(spool)
    misses.exit()


def _tell_of_the_dead(spool: Layout) -> None:
    """Report dead workers that may have left their commands running."""
    from queuectl.cli.commands.status import describe_lost

    for lost in describe_lost(spool):
        name, jobs = lost["worker"], plain(first_of(lost["ids"]))
        seen = owners.look_up(spool, name)
        if name and (seen.worker is None or seen.worker.is_pool):  # a command line has run nothing
            what = f"{plain(name)} is dead, and what it ran may run on: {jobs}"
            render.note(f"{what}; {owners.recovered_by(spool, name, seen)}")


def _ask(spool: Spool, pool: Worker, misses: Misses, *, now: bool) -> bool:
    """Ask a pool to stop; if that fails, report it with another way, and return False."""
    try:
        requests.ask_to_stop(spool, pool.worker, now=now)
    except SpoolError as error:
        # a signal needs no room on the disk
        way = f"; `kill {pool.pid}` asks it too, and given twice ends what it runs"
        # on another machine, or in a container, its pid is that of another process here
        is_here = pool.of_this_boot and pool.pid_namespace == processes.pid_namespace()
        misses(pool.worker, QueuectlError(f"{error}{way if is_here else ''}"))
        return False
    return True


def _all_named(names: Sequence[str], alive: list[Worker], misses: Misses) -> Iterator[Worker]:
    for name in names:
        with misses.noted():  # the others are stopped even if one has left by itself
            yield _named(name, alive)


def _named(text: str, alive: list[Worker]) -> Worker:
    """Return the pool with this name or process id, or the only one whose name begins so.

    Raises:
        QueuectlError: there is no such pool, or several.
    """
    exact = [item for item in alive if text in (item.worker, str(item.pid))]
    found = exact or [item for item in alive if text and item.worker.startswith(text)]
    if len(found) == 1:
        return found[0]
    what = f'several workers begin with "{text}"' if found else f'no worker "{text}" is alive'
    raise QueuectlError(f"{what}; `queuectl worker list` shows those that are alive")


@worker.command("list")
@json_option
@click.pass_context
def list_workers(ctx: click.Context, *, as_json: bool) -> None:
    """List the workers that are alive, and what each runs.

    \b
    queuectl worker list
    """
    from queuectl.cli.commands.status import busy_slots, by_owner, describe_workers

    spool = spool_to_read(ctx)
    runs = by_owner(spool.running())
    found = describe_workers(spool, runs)
    if as_json:
        render.json_array(found)
        return
    users = ["USER"] if spool.config.shared else []
    table = render.Table("WORKER", *users, "PID", "BUSY", "UP", "RUNNING")
    for item in found:
        busy = f"{busy_slots(item, runs[item['worker']])}/{item['slots']}"
        busy += "".join(f" {word}" for word in ("stopping", "suspended", "stalled") if item[word])
        few = plain(first_of(item["running"]))
        who = [plain(item["user"])] if users else []
        up = render.since_text(item["since"])
        table.row(item["worker"], *who, str(item["pid"]), busy, up, few)
    table.end()
    if not found:
        render.note(hindrances.NO_WORKER.what)
    _tell_of_the_dead(spool)
