"""Errors for words that are no command or option, with a hint at what may have been meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

# for each group, the names that pueue, tsp, nq, systemctl, git and others use, and ours
_COMMANDS_CALLED_ELSEWHERE = {
    "": {
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
        "unpause": "resume",
        "unsuspend": "resume",
        "continue": "resume",
        "watch": "top",
        "switch": "edit --priority",
        "stash": "enqueue --delay or edit --delay",
        "hold": "edit --delay",
        "priority": "edit --priority",
        "group": "enqueue --tag",
        "daemon": "worker start --detach",
        "shutdown": "worker stop",
        "version": "--version",
        "help": "-h",
    },
    "worker": {
        "status": "list",
        "ls": "list",
        "ps": "list",
        "pause": "queuectl pause",
        "resume": "queuectl resume",
        "scale": "queuectl config set worker-count",
        "resize": "queuectl config set worker-count",
        "parallel": "queuectl config set worker-count",
        "kill": "stop --now",
    },
    "config": {"list": "show", "ls": "show", "edit": "set", "reset": "unset", "rm": "unset"},
    "dlq": dict.fromkeys(("delete", "clear", "clean", "rm", "empty"), "purge"),
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
_FOLLOWS = "README says how a job follows another (--later-codes)"
_AGAIN = "let cron, or a systemd timer, run `queuectl enqueue`"
_OUTPUT = "`queuectl logs ID` prints what a job printed, and `queuectl show ID` names the files"
_BACKOFF = "the settings backoff-base and backoff-max say how long a retry waits"
# what other queues have as options of a job, and what takes their place here
_ELSEWHERE = {
    **dict.fromkeys(("--after", "--depends", "--depends-on", "--dependencies"), _FOLLOWS),
    **dict.fromkeys(("--cron", "--every", "--repeat"), _AGAIN),
    **dict.fromkeys(("--stdout", "--stderr", "--output"), _OUTPUT),
    **dict.fromkeys(("--retry-delay", "--backoff"), _BACKOFF),
    "--nice": "write nice before the command",
}
_TAKE_IDS = {"edit", "logs"}
_OF_A_JOB = {"--timeout", "--max-retries", "--priority", "--run-at", "--delay", "--env", "--cwd"}


def no_such_command(word: str, names: Sequence[str], group: str) -> str:
    """Return the error for a word that is none of a group's commands."""
    from difflib import get_close_matches

    meant = _COMMANDS_CALLED_ELSEWHERE.get(group, {}).get(word)
    found = meant.split(" or ") if meant else get_close_matches(word, names, n=2)
    near = [f'"{group} {name}"' if group and name in names else f'"{name}"' for name in found]
    hint = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(names)}"
    return f'no command "{word}"; {hint}'


def usage_text(error: click.UsageError) -> str:
    """Return the error for wrong usage, with the help to read."""
    path = error.ctx.command_path if error.ctx else "queuectl"
    if isinstance(error, click.NoSuchOption):
        params = error.ctx.command.params if error.ctx else ()
        return _no_such_option(error.option_name, [w for item in params for w in item.opts], path)
    text = error.format_message().rstrip(".")
    return f"{text[:1].lower()}{text[1:]}; see `{path} -h`"


def _no_such_option(name: str, have: Sequence[str], path: str) -> str:
    if name == "--spool":
        return "--spool goes before the command: queuectl --spool DIR COMMAND"
    if name == "--queue":
        return "there is no --queue; a second queue is a second spool (--spool)"
    if name in _ELSEWHERE and "--later-codes" in have:
        return f"there is no {name}; {_ELSEWHERE[name]}"
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
    """Return the options that resemble a name, not counting the dashes that all of them share."""
    from difflib import get_close_matches

    words = {option.lstrip("-"): option for option in have if option.startswith("--")}
    return [words[near] for near in get_close_matches(name.lstrip("-"), words, n=2, cutoff=0.55)]
