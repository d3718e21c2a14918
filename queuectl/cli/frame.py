"""One frame of `queuectl top`: laying out a view of the spool in a given space (pure)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from queuectl.cli.columns import columns, fit, fit_ends, pad
from queuectl.states import STATES
from queuectl.units import duration_text, plural
from queuectl.workers.hindrances import NO_WORKER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Span = tuple[str, str]  # a style (a state, "title", "dim", "warn" or ""), and text
Line = list[Span]

RATE_S = 60
_ID_COLUMNS = 20
_LEAST_COMMAND = 10
_BARS, _PLAIN_BARS = " ▁▂▃▄▅▆▇█", " .:-=+*#@"
_HEAD_LINES, _GAP = 4, 1


@dataclass(frozen=True, kw_only=True)
class Item:
    """One job in a list; `at_s` is when it started, is due or failed; None: at once, or unknown."""

    job_id: str
    command: str
    at_s: float | None = None
    state: str = ""
    detail: str = ""


@dataclass(kw_only=True)
class View:
    """All that a frame shows; `following` and `failures` may be only the first of many."""

    spool: str
    now: float
    clock: str
    counts: Mapping[str, int]
    paused: bool = False
    pools: int = 0
    slots: int = 0
    hindered: str = ""  # in a word, why none of the pools starts anything
    rate: Sequence[int] = ()
    running: Sequence[Item] = ()
    claimed: int = 0
    lost: int = 0  # held by dead owners, or by nobody
    following: Sequence[Item] = ()
    failures: Sequence[Item] = ()
    notes: Sequence[str] = ()


class Rate:
    """Counts the jobs that came to an outcome in each of the last seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=RATE_S + 1)

    def add(self, now: float) -> None:
        """Count one job."""
        second = int(now)
        count = self._seconds.pop()[1] if self._seconds and self._seconds[-1][0] == second else 0
        self._seconds.append((second, count + 1))

    def last(self, now: float) -> list[int]:
        """Return the counts of the last minute's whole seconds, the oldest first."""
        counts = dict(self._seconds)
        return [counts.get(second, 0) for second in range(int(now) - RATE_S, int(now))]


def frame(
    view: View, width: int, height: int, *, keys: str = "", ascii_only: bool = False
) -> list[Line]:
    """Return at most `height` lines of at most `width` columns, drawn in ASCII if `ascii_only`.

    `keys`, which tells how to quit, is shown in the last line.
    """
    sections = _sections(view, width, max(0, height - _HEAD_LINES - 1))
    lines = [*_head(view, width, ascii_only=ascii_only), *sections]
    footer: Line = [("dim", "  ".join(filter(None, [keys, *view.notes])))]
    lines = lines[: max(0, height - 1)]
    lines += [[] for _ in range(height - 1 - len(lines))]
    return [_cut(line, width, ascii_only=ascii_only) for line in [*lines, footer][-height:]]


def _head(view: View, width: int, *, ascii_only: bool) -> list[Line]:
    paused: Line = [("warn", "  PAUSED: nothing new starts")] if view.paused else []
    name = "queuectl top  "
    # only the path may be long, and what is beside it may be news
    room = width - len(name) - sum(len(text) for _, text in paused)
    spool = fit_ends(view.spool, max(room, 0))
    gap = " " * (room - columns(spool) - len(view.clock))
    title: Line = [("title", name), ("", spool), *paused]
    if gap:
        title += [("dim", gap + view.clock)]
    return [title, _counts_line(view, width), _rate_line(view, width, ascii_only=ascii_only), []]


def _counts_line(view: View, width: int) -> Line:
    """Return how many jobs are in each state; if there is little room, without empty states."""
    counts = {state: f" {view.counts.get(state, 0):,}" for state in STATES}
    length = sum(len(state) + len(text) for state, text in counts.items())
    gap = min(3, (width - length) // (len(STATES) - 1))
    if gap < 1:
        some = {state: text for state, text in counts.items() if text != " 0"}
        gap, counts = 1, some or {"pending": " 0"}
    line: Line = []
    for state, text in counts.items():
        line += [("", " " * gap if line else ""), (state, state), ("", text)]
    return line


def _rate_line(view: View, width: int, *, ascii_only: bool) -> Line:
    minute = sum(view.rate)
    recent = view.rate[-5:]
    second = sum(recent) / len(recent) if recent else 0.0
    pools = f"{_counted(view.pools, 'worker')}, {view.hindered or _counted(view.slots, 'slot')}"
    left = f"{second:.1f}/s  {minute:,}/min ended  "
    right = f"  {pools}" if view.pools else f"  {NO_WORKER.what}"
    room = min(RATE_S, max(0, width - len(left) - len(right)))
    bars = sparkline(view.rate[len(view.rate) - room :] if room else (), ascii_only=ascii_only)
    works = view.pools and not view.hindered
    return [("", left), ("completed", bars), ("" if works else "warn", right)]


def _counted(number: int, word: str) -> str:
    return f"{number:,} {plural(word, number)}"


def sparkline(counts: Sequence[int], *, ascii_only: bool = False) -> str:
    """Return a bar of one character for each count; any count above 0 shows."""
    steps = _PLAIN_BARS if ascii_only else _BARS
    most = max(counts, default=0) or 1
    return "".join(steps[-(-count * (len(steps) - 1) // most)] for count in counts)


# --- the three lists ------------------------------------------------------------------------


def _sections(view: View, width: int, height: int) -> list[Line]:
    lists = [view.running, view.failures, view.following]
    rows = _share([len(items) for items in lists], height - 3 - 2 * _GAP)
    waiting = view.counts["pending"] + view.counts["failed"]
    running = _section(
        "RUNNING",
        view.running,
        (rows[0], width),
        lambda item: _age(item, view.now),
        of=view.counts["processing"] - view.claimed - view.lost,
    )
    running[0].append(("dim", f"  {view.claimed:,} claimed" if view.claimed else ""))
    running[0].append(("warn", f"  {view.lost:,} lost by dead workers" if view.lost else ""))
    following = _section(
        "NEXT", view.following, (rows[2], width), lambda item: _due(item, view.now), of=waiting
    )
    failures = _section(
        "LAST FAILURES",
        view.failures,
        (rows[1], width),
        lambda item: _ago(item, view.now),
        of=view.counts["dead"],
    )
    return [*running, [], *following, [], *failures]


def _share(wanted: Sequence[int], rows: int) -> list[int]:
    """Return how many rows each list gets: one by one in turn, so that a long list starves none."""
    given = [0] * len(wanted)
    while rows > 0 and any(has < wants for has, wants in zip(given, wanted, strict=True)):
        for number, wants in enumerate(wanted):
            if given[number] < wants and rows > 0:
                given[number] += 1
                rows -= 1
    return given


def _section(
    title: str,
    items: Sequence[Item],
    room: tuple[int, int],
    detail: Callable[[Item], Line],
    *,
    of: int,
) -> list[Line]:
    """Return the heading and the rows of a list that fit in `room`: rows and columns.

    Args:
        title: the heading.
        items: what is known of the list.
        room: how many rows, apart from the heading, and columns there are.
        detail: called with an item; returns what stands between its id and its command.
        of: how many such jobs there are in all.
    """
    rows, width = room
    shown = items[:rows]
    hidden = max(of, len(items)) - len(shown)
    more = f"  and {hidden:,} more" if hidden > 0 else "" if items else "  none"
    head: Line = [("title", title), ("dim", more)]
    longest = max((columns(item.job_id) for item in shown), default=0)
    id_columns = max(_ID_COLUMNS, min(longest, width // 3))
    return [head, *(_row(item, detail(item), id_columns, width) for item in shown)]


def _row(item: Item, detail: Line, id_columns: int, width: int) -> Line:
    job_id = pad(fit_ends(item.job_id, id_columns), id_columns)
    row: Line = [("", f"  {job_id}  "), *detail]
    room = width - 2 - sum(columns(text) for _, text in row)
    return [*row, ("", f"  {fit_ends(item.command, max(room, _LEAST_COMMAND))}")]


def _age(item: Item, now: float) -> Line:
    text = "-" if item.at_s is None else duration_text(max(0.0, now - item.at_s))
    return [("processing", f"{text:>7}")]


def _due(item: Item, now: float) -> Line:
    away = 0.0 if item.at_s is None else item.at_s - now
    text = f"in {duration_text(away)}" if away > 0 else "now"
    return [(item.state, f"{text:>10}"), ("dim", f"  {item.detail}" if item.detail else "")]


def _ago(item: Item, now: float) -> Line:
    text = "-" if item.at_s is None else f"{duration_text(max(0.0, now - item.at_s))} ago"
    return [("dim", f"{text:>10}"), (item.state, f"  {item.state:<6}"), ("", f"  {item.detail}")]


def _cut(line: Line, width: int, *, ascii_only: bool) -> Line:
    kept: Line = []
    for style, text in line:
        part = fit(text, width, ascii_only=ascii_only)
        if part:
            kept.append((style, part))
        width -= columns(part)
        if part != text:
            break
    return kept
