"""What the tab key offers: ids of jobs in the states that a command takes, tags, workers, files.

For example:

    @click.argument("job_ids", nargs=-1, shell_complete=complete_ids("pending", "processing"))
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from queuectl.ids import is_id
from queuectl.states import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import click
    from click.shell_completion import CompletionItem

    from queuectl.spool.spool import Spool

MAX_OFFERED = 100  # more than a person reads; the newest, since queuectl's own ids sort by time
_READ_FOR_TAGS = 200  # jobs of each state, in a tenth of a second


def complete_ids(
    *states: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return a `shell_complete` callback that offers the ids in these states (default: all).

    It offers each id once, and none if there is no spool. It never prints, whatever goes wrong.
    """

    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        given = ctx.params.get(param.name or "")
        already = {given} if isinstance(given, str) else set(given or ())
        names = _names(ctx, states or STATES, incomplete)
        found = (item for item in names if item[0] not in already)
        newest = heapq.nlargest(MAX_OFFERED, found)
        return [CompletionItem(job_id, help=state) for job_id, state in sorted(newest)]

    return complete


def complete_tags(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the tags of the newest jobs of each state."""
    from click.shell_completion import CompletionItem

    from queuectl.errors import QueuectlError

    tags: set[str] = set()
    try:
        spool = _spool(ctx)
        for state in STATES:
            newest = heapq.nlargest(_READ_FOR_TAGS, spool.names(state))
            for found in spool.jobs(state, newest):
                tags.update(found.job.tags)
    except (OSError, QueuectlError):
        return []
    # as in `_names`: only words that a shell does not interpret
    offered = sorted(tag for tag in tags if tag.startswith(incomplete) and is_id(tag))
    return [CompletionItem(tag) for tag in offered[:MAX_OFFERED]]


def complete_keys(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the keys of the settings."""
    from click.shell_completion import CompletionItem

    from queuectl.settings.config import SETTINGS

    return [
        CompletionItem(key, help=item.about)
        for key, item in SETTINGS.items()
        if key.startswith(incomplete.replace("_", "-").lower())
    ]


def complete_files(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leave the completion of files to the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_directories(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leave the completion of directories to the shell."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def complete_workers(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer the names of the pools that are alive."""
    from click.shell_completion import CompletionItem

    from queuectl.errors import QueuectlError
    from queuectl.system.scratch import is_owner
    from queuectl.workers.owners import workers

    try:
        names = [item.worker for item in workers(_spool(ctx)) if is_owner(item.worker)]
    except (OSError, QueuectlError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _names(ctx: click.Context, states: Iterable[str], beginning: str) -> Iterable[tuple[str, str]]:
    from queuectl.errors import QueuectlError

    try:
        spool = _spool(ctx)
        # Others may have put files of any name there, and a shell runs what is on its line:
        # offer only ids.
        found = ((name, state) for state in states for name in spool.names(state))
        begun = (item for item in found if item[0].startswith(beginning))
        return {name: state for name, state in begun if is_id(name)}.items()
    except (OSError, QueuectlError):
        return ()


def _spool(ctx: click.Context) -> Spool:
    from queuectl.spool.spool import Spool

    # the group's callback, which sets ctx.obj, does not run during completion
    return Spool(ctx.find_root().params.get("spool") or None)
