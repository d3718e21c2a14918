"""Scripts that make the tab key complete, and the answers to them: click's own, with fixes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from click.shell_completion import (
    BashComplete,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Bash(BashComplete):
    source_template = BashComplete.source_template.replace(
        # click leaves these variables set in the shell that loads the script
        "local response\n",
        "local response completion type value\n",
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor and the word at it.

        Bash splits --a=b into three words, which are joined again.
        """
        words, incomplete = super().get_completion_args()
        args: list[str] = []
        for word in words:
            if args and (word == "=" or _wants_value(args[-1])):
                args[-1] += word
            else:
                args.append(word)
        if args and _wants_value(args[-1]):
            args[-1] = args[-1][:-1]
        return args, incomplete


def _wants_value(word: str) -> bool:
    return word.startswith("--") and word.endswith("=")


class _WholeWords(ShellComplete):
    """Answers for shells that replace the whole of --option=value by what is offered."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        option, is_joined, _ = incomplete.partition("=")
        if is_joined and option.startswith("--"):
            for item in found:
                item.value = f"{option}={item.value}"
        return found


class _Zsh(_WholeWords, ZshComplete):
    # The path behind the = of an option has to be completed by itself. And zsh runs an autoloaded
    # file as a function each time, but calls that loadautofunc only the first time.
    source_template = re.sub(
        "_path_files (-[/f])", r"{ compset -P '--*='; _path_files \1 }", ZshComplete.source_template
    ).replace("$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _%(prog_name)s")
    source_template = source_template.replace(
        "else\n    # eval",
        "elif (( ! $+functions[compdef] )); then\n"
        '    print -u2 "queuectl: no compdef: run autoload -Uz compinit && compinit before this"\n'
        "else\n    # eval",
    )


class _Fish(_WholeWords, FishComplete):
    # a description may hold commas
    source_template = FishComplete.source_template.replace(
        'string split ","', 'string split --max 1 ","'
    )


def add_all() -> None:
    """Have click use the classes of this module for these shells."""
    for maker in (_Bash, _Zsh, _Fish):
        add_completion_class(maker)


def script(shell: str, how_to_load: str) -> str:
    """Return the script for a shell, with a comment in its first lines on how to load it."""
    from queuectl.cli import COMPLETE_VARIABLE, cli

    maker = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}[shell]
    lines = maker(cli, {}, "queuectl", COMPLETE_VARIABLE).source().strip().split("\n")
    # zsh's autoload expects #compdef in the first line
    lines.insert(1 if lines[0].startswith("#compdef") else 0, f"# {how_to_load}")
    return "\n".join(lines)
