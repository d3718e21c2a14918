"""Every command explains itself, and wrong usage says what would be right."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from typing import TYPE_CHECKING

import click
import pytest

from queuectl.cli import cli
from tests.support import environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support import SpoolDir


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and of every group of commands."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = list(commands(cli))


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_help_has_a_sentence_and_an_example_and_fits_the_screen(
    spool: SpoolDir, words: tuple[str, ...]
) -> None:
    text = spool.run(*words, "-h").out
    assert text == spool.run(*words, "--help").out
    assert re.search(rf"^  .*queuectl .*{' '.join(words[:1])}", text, re.MULTILINE), "an example"
    assert all(len(line) <= 80 for line in text.splitlines())
    assert re.search(r"^  [A-Z].*[.:,a-z]$", text, re.MULTILINE), "a sentence"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_has_help(words: tuple[str, ...]) -> None:
    command: click.Command | None = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name


def test_the_help_lists_every_command(spool: SpoolDir) -> None:
    text = spool.run("-h").out
    for name in {words[0] for words in COMMANDS}:
        assert re.search(rf"^  {name} ", text, re.MULTILINE)


def test_the_version_is_told(spool: SpoolDir) -> None:
    assert re.fullmatch(r"queuectl \d+\.\d+\.\d+\n", spool.run("--version").out)


def test_the_installed_script_and_the_module_are_the_same(spool: SpoolDir) -> None:
    script = f"{sysconfig.get_path('scripts')}/queuectl"
    done = subprocess.run(
        [script, "--version"], env=environment(spool.path), capture_output=True, text=True
    )
    assert done.stdout == spool.run("--version").out


def test_looking_for_help_makes_no_spool(spool: SpoolDir, tmp_path: Path) -> None:
    spool.run("-h")
    spool.run("enqueue", "-h")
    spool.run("--version")
    assert not list(tmp_path.iterdir())


# --- wrong usage: exit status 2 -------------------------------------------------------------

WRONG = [
    (["enqeue"], 'did you mean "enqueue"'),
    (["statu"], 'did you mean "status"'),
    (["xyzzy"], "the commands are enqueue, "),
    (["worker", "strat"], "start"),
    (["dlq", "lst"], "list"),
    (["config", "sett"], "set"),
    (["rm", "job1"], 'did you mean "cancel" or "prune"?'),
    (["requeue", "--all"], 'did you mean "retry"?'),
    (["suspend"], 'did you mean "pause"?'),
    (["push", "ls"], 'did you mean "enqueue"?'),
    (["worker", "status"], 'did you mean "worker list"?'),
    (["config", "list"], 'did you mean "config show"?'),
    (["config", "reset", "lease"], 'did you mean "config unset"?'),
    (["list", "--state", "running"], 'did you mean "processing"?'),
    (["dlq", "retry", "--newer-than"], "requires an argument; see `queuectl dlq retry -h`"),
    (["enqueue", "--id"], "requires an argument; see `queuectl enqueue -h`"),
    (["enqueue", "--timeout", "0", "--", "true"], "write 90s, 2h, or none"),
    (["enqueue", "--priority", "1_0", "--", "true"], "'1_0' is not a valid integer;"),
    (["list", "--limit", "1_0"], "'1_0' is not a valid integer;"),
    (["worker", "start", "--count", "many"], "'many' is not a valid integer;"),
    (["worker", "start", "--count", "0"], "0 is not in the range 1<=x<=10000"),
    (["switch", "a", "b"], 'did you mean "edit --priority"?'),
    (["empty"], 'did you mean "cancel --all"?'),
    (["stash", "a"], 'did you mean "enqueue --delay" or "edit --delay"?'),
    (["shutdown"], 'did you mean "worker stop"?'),
    (["group", "add", "gpu"], 'did you mean "enqueue --tag"?'),
    (["dlq", "clear"], 'did you mean "dlq purge"?'),
    (["config", "edit"], 'did you mean "config set"?'),
    (["enqueue", "-w", "/tmp", "true"], "did you mean --cwd?"),
    (["logs", "--tail", "3", "a"], "did you mean --lines?"),
    (["worker", "start", "-j", "4"], "did you mean --count?"),
    (["worker", "start", "--burst"], "did you mean --stop-when-empty?"),
    (["enqueue", "--immediate", "true"], "did you mean --priority?"),
    (["logs", "--tag", "s"], "logs has no --tag: `queuectl list --tag ... --ids | xargs -r"),
    (["retry", "--delay", "1h", "a"], "retry has no --delay: `queuectl edit ID... --delay ...`"),
    (["dlq", "retry", "--timeout", "1h"], "dlq retry has no --timeout: `queuectl edit ID..."),
    (["edit", "--error-matches", "x"], "edit has no --error-matches: `queuectl list"),
    (["enqueue", "--at", "08:00", "true"], "did you mean --run-at?"),
    (["worker", "start", "-n", "4"], "did you mean --count?"),
    (["worker", "start", "--background"], "did you mean --detach?"),
    (["list", "-n", "4"], "did you mean --limit?"),
    (["list", "--stat", "dead"], "--state"),
    (["list", "--state", "nonesuch"], "pending"),
    (["list", "--limit", "-1"], "--limit"),
    (["list", "--limit", "many"], "many"),
    (["show", "a", "b"], "b"),
    (["config", "set", "lease"], "VALUE"),
    (["worker", "start", "--count", "0"], "--count"),
    (["worker", "start", "--count", "two"], "two"),
    (["dlq", "retry"], "--all"),
    (["dlq", "retry", "a", "--all"], "not both"),
    (["enqueue"], "no command"),
    (["enqueue", "--delay", "soon", "--command", "true"], "90s, 15m, 1h30m, 7d"),
    (["enqueue", "--run-at", "soon", "--command", "true"], "ISO 8601"),
    (["enqueue", "--priority", "high", "--command", "true"], "high"),
    (["enqueue", "--env", "NAME", "--command", "true"], "not set here"),
    (["enqueue", "--env", "=x", "--command", "true"], "NAME=VALUE"),
    (["--spool", "", "status"], "--spool must name a directory"),
    (["enqueue", "--success-codes", "", "--command", "true"], "at least one"),
    (["enqueue", "--fatal-codes", "3-1", "--command", "true"], "exit codes such as 0,3"),
    (["enqueue", "--command", "true", "--", "false"], "--command"),
    (["enqueue", "--run-at", "2030-01-01", "--delay", "1", "--command", "true"], "--delay"),
    (["--spol", "x", "status"], "--spool"),
]


@pytest.mark.parametrize(("words", "hint"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_usage_is_one_line_that_says_what_would_be_right(
    spool: SpoolDir, words: list[str], hint: str
) -> None:
    spool.create()
    text = spool.refuse(*words, status=2)
    assert hint in text
    assert " -h`" in text, "where to read more"


def test_no_words_at_all_show_the_help(spool: SpoolDir) -> None:
    result = spool.run(status=2)
    assert "Usage: queuectl" in result.out + result.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["jobs"], '"list"'),
        (["enqueue", "--label", "x", "--", "true"], "--tag"),
        (["enqueue", "--after", "x", "--", "true"], "--later-codes"),
        (["enqueue", "--retry-delay", "5", "true"], "backoff-base"),
        (["enqueue", "--cron", "@daily", "--", "true"], "cron"),
        (["list", "--failed"], "--state failed"),
        (["unpause"], '"resume"'),
        (["config", "set", "retain", "7d"], '"retain-completed" or "retain-dead"'),
    ],
)
def test_what_is_called_otherwise_elsewhere_is_known(
    words: list[str], meant: str, spool: SpoolDir
) -> None:
    assert meant in spool.refuse(*words, status=2)


@pytest.mark.parametrize("words", [["logs", "--since", "1h", "x"], ["list", "--after", "x"]])
def test_no_option_is_suggested_that_the_command_does_not_have(
    words: list[str], spool: SpoolDir
) -> None:
    told = spool.refuse(*words, status=2)
    assert "--newer-than" not in told
    assert "README" not in told
