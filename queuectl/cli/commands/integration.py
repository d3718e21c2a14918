"""`queuectl systemd-unit` and `completion`: what other programs need to work with queuectl."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING
from zlib import crc32

import click

from queuectl import variables
from queuectl.cli.opening import remark_on_root
from queuectl.cli.params import Count
from queuectl.errors import QueuectlError
from queuectl.spool.spool import Spool
from queuectl.system import program
from queuectl.system.users import user_name

if TYPE_CHECKING:
    from collections.abc import Sequence

_STOP_MARGIN_S = 30  # beyond the longest run, to settle its job on a slow disk

_NAME = 40  # characters of the spool's name that its unit's name holds

_UNIT = """\
# A worker of queuectl, printed by `queuectl systemd-unit`. {install}
[Unit]
Description=queuectl, jobs of {description}
RequiresMountsFor={mounts}
# a worker that cannot start is tried for four minutes, then left for a person to look at
StartLimitIntervalSec=300
StartLimitBurst=48

[Service]
# up once it has recovered what an earlier worker left, watches the spool, and takes jobs
Type=notify
NotifyAccess=main
ExecStart={start}
ExecReload=/bin/kill -HUP $MAINPID
# The first SIGTERM: take no more jobs, finish those that run, leave; then wait for that.
# Each may fail (-): after `queuectl worker stop` there is nobody left to signal.
ExecStop=-/bin/kill -TERM $MAINPID
ExecStop=-/bin/sh -c 'while kill -0 "$MAINPID" 2>/dev/null; do sleep 0.2; done'
# {patience}
# When it is over systemd sends a second SIGTERM: the worker ends what still runs and gives
# those jobs back to pending/, the attempt uncounted. After the same time again, SIGKILL; what
# that leaves is recovered by the next start, from the files.
TimeoutStopSec={stop}
# Signals go to the worker alone: with control-group, each stop would end the jobs that it is
# waiting for. What is left when the worker is gone (a job's stray children) is killed, so that
# no job is still running when it is started again.
KillMode=mixed
KillSignal=SIGTERM
# A job that uses up the memory is that job's failure, not the end of the worker.
OOMPolicy=continue
# The worker says every half of this that it is alive; a slow disk takes seconds, not minutes.
WatchdogSec=120
# After a crash it comes back and recovers; after a stop, or a wrong option (status 2), it stays.
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
# jobs and their output are for {readers}
UMask={umask}
{user}
[Install]
WantedBy={target}
"""

_SYSTEM_INSTALL = (
    "To install:\n"
    "#   {command} | sudo tee /etc/systemd/system/{name}.service\n"
    "#   sudo systemctl daemon-reload && sudo systemctl enable --now {name}"
)
_USER_INSTALL = (
    "To install:\n"
    "#   mkdir -p ~/.config/systemd/user\n"
    "#   {command} > ~/.config/systemd/user/{name}.service\n"
    "#   systemctl --user daemon-reload && systemctl --user enable --now {name}\n"
    "#   loginctl enable-linger    # or it only runs while you are logged in"
)


@click.command("systemd-unit")
@click.option("--user", "for_user", is_flag=True, help="Print a unit for `systemctl --user`.")
@click.option(
    "--count",
    type=Count(1, 10_000),
    metavar="N",
    help="Jobs to run at a time. Default: the setting worker-count, also when it changes.",
)
@click.pass_context
def systemd_unit(ctx: click.Context, /, *, for_user: bool, count: int | None) -> None:
    """Print a systemd unit that runs a worker for years: through stops, crashes and reboots.

    \b
    queuectl systemd-unit --user > ~/.config/systemd/user/queuectl.service
    queuectl --spool /srv/jobs systemd-unit --count 8
    """
    spool = Spool(ctx.find_root().obj)
    script = program.path()
    start = program.words() if script is None else [script]
    slots = ["--count", str(count)] if count else []
    words = [*start, "--spool", spool.path, "worker", "start", *slots]
    typed = _command(spool, [*(["--user"] if for_user else []), *slots])
    stop, patience = _patience(spool)
    shared = spool.config.shared
    how = _USER_INSTALL if for_user else _SYSTEM_INSTALL
    unit = _UNIT.format(
        install=how.format(command=typed, name=_unit_name(spool)),
        description=spool.path.replace("%", "%%"),
        mounts=_quoted([spool.path]),
        start=_quoted(words).replace("$", "$$"),
        patience=patience,
        stop=stop,
        user="" if for_user else f"# jobs run as this user\nUser={user_name(os.geteuid())}\n",
        readers="all who share the spool" if shared else "this user's eyes",
        umask="0007" if shared else "0077",
        target="default.target" if for_user else "multi-user.target",
    )
    if not for_user:
        remark_on_root(spool)
    click.echo(unit, nl=False)


def _command(spool: Spool, options: list[str]) -> str:
    """Return the command line that prints this unit."""
    plain = _is_usual(spool) and variables.SPOOL not in os.environ
    where = [] if plain else ["--spool", spool.path]
    return shlex.join(["queuectl", *where, "systemd-unit", *options])


def _unit_name(spool: Spool) -> str:
    """Return a name for the unit that no other spool has; for the default spool it is queuectl."""
    if _is_usual(spool):
        return "queuectl"
    name = re.sub("[^A-Za-z0-9_-]", "_", os.path.basename(spool.path))
    # The checksum tells directories of one name apart. No dot: .socket is another kind of unit.
    return f"queuectl-{name[-_NAME:]}-{crc32(os.fsencode(spool.path)):08x}"


def _is_usual(spool: Spool) -> bool:
    return spool.path == os.path.realpath(os.path.expanduser("~/.queuectl"))


def _patience(spool: Spool) -> tuple[str, str]:
    limit_s, grace_s = spool.config.job_timeout, spool.config.kill_grace
    if limit_s is None:
        return "1h", "job-timeout is none here, so an hour: how long a stop may wait for jobs."
    total_s = int(limit_s + grace_s + _STOP_MARGIN_S)
    parts = f"job-timeout {limit_s:.15g} + kill-grace {grace_s:.15g} + {_STOP_MARGIN_S}"
    return f"{total_s}", f"how long a stop may wait for jobs: {parts}."


def _quoted(words: Sequence[str]) -> str:
    """Return words quoted as systemd.syntax(7) wants it, where % begins a specifier.

    Raises:
        QueuectlError: a word holds a character that a unit file cannot hold.
    """
    for word in words:
        if not word.isprintable():
            msg = f"{word!r} cannot be written in a unit file: it holds a control character"
            raise QueuectlError(msg)
    return " ".join(map(_quoted_word, words))


def _quoted_word(word: str) -> str:
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text if not set(text) & set(" \"';\\") else f'"{text}"'


_HOW_TO_LOAD = {
    "bash": 'eval "$(queuectl completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(queuectl completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "queuectl completion fish > ~/.config/fish/completions/queuectl.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_HOW_TO_LOAD)))
def completion(shell: str) -> None:
    """Print the script that makes the tab key complete commands, keys, ids and tags.

    \b
    eval "$(queuectl completion bash)"
    eval "$(queuectl completion zsh)"
    queuectl completion fish > ~/.config/fish/completions/queuectl.fish
    """
    from queuectl.cli.shells import script

    click.echo(script(shell, _HOW_TO_LOAD[shell]))
