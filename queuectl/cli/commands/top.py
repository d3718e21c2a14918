"""`queuectl top`: the spool, live."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

import click

from queuectl.cli import render
from queuectl.cli.frame import Line, frame
from queuectl.cli.lookout import Lookout
from queuectl.cli.opening import spool_to_read

if TYPE_CHECKING:
    from queuectl.cli.terminal import Screen
    from queuectl.spool.layout import Layout

_FRAME_S = 0.2  # between two frames, however much happens
_AGE_S = 1.0  # ages move on even if nothing else does


@click.command()
@click.pass_context
def top(ctx: click.Context, /) -> int:
    """Watch the spool: throughput, what runs, what is next, what failed; q quits.

    If standard output is not a terminal, one frame is printed.

    \b
    queuectl top
    queuectl top | cat
    """
    spool = spool_to_read(ctx)
    if not render.person_looks():
        height = shutil.get_terminal_size().lines or 24
        lines = _painted(Lookout(spool), render.width(), height, colour=False)
        click.echo("\n".join(line.rstrip() for line in lines).rstrip())
        return 0
    from queuectl.cli.terminal import Screen

    with Screen() as screen:
        _watch(spool, screen, colour=not os.environ.get("NO_COLOR"))
    if screen.signal is None or screen.signal == signal.SIGINT:
        return 0
    return 128 + screen.signal


def _watch(spool: Layout, screen: Screen, *, colour: bool) -> None:
    lookout = Lookout(spool, screen.wake)
    lookout.start()
    try:
        leave = False
        while not leave:
            keys = "q quits" if screen.hears_keys else "Ctrl-C quits"
            screen.draw(_painted(lookout, *screen.size(), colour=colour, keys=keys))
            next_frame = time.monotonic() + _FRAME_S
            leave = _asked_to_leave(screen, _AGE_S)
            while not leave and (left_s := next_frame - time.monotonic()) > 0:
                leave = _asked_to_leave(screen, left_s)
    finally:
        lookout.stop()


def _asked_to_leave(screen: Screen, within_s: float) -> bool:
    return "q" in screen.wait(within_s).lower() or screen.signal is not None


def _painted(
    lookout: Lookout, width: int, height: int, *, colour: bool, keys: str = ""
) -> list[str]:
    lines = frame(lookout.view(), width, height, keys=keys, ascii_only=render.ascii_only())
    return [_paint(line, colour=colour) for line in lines]


def _paint(line: Line, *, colour: bool) -> str:
    return "".join(_styled(style, text) if colour else text for style, text in line)


def _styled(style: str, text: str) -> str:
    if style == "title":
        return click.style(text, bold=True)
    if style == "dim":
        return click.style(text, dim=True)
    return click.style(text, fg=render.COLOURS.get(style, "yellow")) if style else text
