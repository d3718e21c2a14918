"""Likely mistakes in a command that is to be queued: refused, or pointed out to a person."""

from __future__ import annotations

import os
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from queuectl.cli import render
from queuectl.errors import BadJobError
from queuectl.record.job import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOR_A_SHELL = set(" \t\n|&;<>$`(")
_FILL_IN = {"find", "xargs", "parallel", "fd", "fdfind", "-exec", "-I", "-I{}"}  # these fill in {}
_MOST_READ = 65_536  # bytes read to see what a file is
_OPERATORS = {"|", "||", "&&", "&", ">", ">>", "<", "2>&1"}  # not ;, which ends find -exec


def look_for_mistakes(words: Sequence[str], *, dashes: bool) -> None:
    """Point out likely mistakes in the words of a command; `dashes`: they came after --.

    Raises:
        click.UsageError: the words cannot be a command.
    """
    if len(words) == 1:
        (_tell_of_line if dashes else _tell_of_file)(words[0])
        return
    if not dashes:
        _refuse_words_after_a_line(words)
        _tell_of_options(words)
    _tell_of_shell(words)


def _tell_of_line(word: str) -> None:
    """Tell a person that a command line was given where a program is expected."""
    if not set(word) & _FOR_A_SHELL:
        return
    from shutil import which  # 2 ms of start-up that few words need

    first = word.split(maxsplit=1)[0] if word.strip() else word
    # a path with a blank in it may be meant in the job's own directory
    is_line = "/" not in first or which(first)
    if is_line and not which(word):
        render.remark(
            f'queuectl: no program is called "{word}"; leave out -- to have a shell run it'
        )


def _tell_of_file(word: str) -> None:
    """Tell that only the name of a file of jobs was queued, as a command."""
    if os.path.isfile(word) and os.access(word, os.R_OK) and not os.access(word, os.X_OK):
        what = f"{word} is not executable, and was queued as the name of a command"
        render.note(f"queuectl: {what}; {_way_of_file(word)}")


def _way_of_file(path: str) -> str:
    with open(path, "rb") as file:
        beginning = file.read(_MOST_READ)
    name = shlex.quote(path)
    if beginning.startswith(b"#!"):
        program = name if "/" in path else f"./{name}"
        return f"after chmod +x, {program} runs it"
    if not path.endswith((".json", ".jsonl")):
        return f"--commands {name} queues its lines"
    try:
        decode(beginning)
    except BadJobError:  # several jobs, or none
        return f"@{name} queues its lines"
    return f'"$(cat {name})" queues the job in it'


def _refuse_words_after_a_line(words: Sequence[str]) -> None:
    """Refuse 'make && make test' --timeout 2h: the first word cannot be the name of a program."""
    if set(words[0]) & _FOR_A_SHELL:
        msg = (
            f'unexpected "{words[1]}" after a command line; options go before it, '
            "the words of one command go after --"
        )
        raise click.UsageError(msg)


def _tell_of_options(words: Sequence[str]) -> None:
    """Tell a person that words which look like options of queuectl went to the command."""
    ours = {name for param in click.get_current_context().command.params for name in param.opts}
    for word in words[1:]:
        if word.startswith("--") and word.partition("=")[0] in ours:
            render.remark(f"queuectl: {word} goes to the command: options of queuectl go before it")


def _tell_of_shell(words: Sequence[str]) -> None:
    """Tell a person that no shell will see the words that only a shell understands."""
    # a word after an option may be its value: cut -d '|', curl -d '{}'
    free = [word for before, word in pairwise(words) if not before.startswith("-")]
    if {"{}", ":::"} & set(free) and not _FILL_IN & set(map(os.path.basename, words)):
        what = "{} and ::: are not filled in here"
        render.remark(f"queuectl: {what}; --commands - queues one command per line")
    for word in free:
        if word in _OPERATORS:
            what = f'no shell sees "{word}" here'
            render.remark(f"queuectl: {what}; for one, quote the whole command as one word")
