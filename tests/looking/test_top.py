from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.cli.columns import columns, fit, fit_end, fit_ends
from queuectl.cli.frame import Item, Rate, View, frame, sparkline
from queuectl.cli.upcoming import Upcoming
from queuectl.states import STATES
from tests.looking.support import EXIT_1, past, put, run_entry
from tests.looking.terminal import END_FRAME, ENTER, Terminal, terminal
from tests.support import ROOT, SpoolDir, environment, wait_until, with_code_at_start

if TYPE_CHECKING:
    from pathlib import Path


NOW = 1_900_000_000.0
texts = st.text(max_size=60).map(lambda text: "".join(c if c.isprintable() else "?" for c in text))
items = st.lists(
    st.builds(
        Item,
        job_id=texts,
        command=texts,
        at_s=st.none() | st.floats(NOW - 1e6, NOW + 1e6),
        state=st.sampled_from(STATES),
        detail=texts,
    ),
    max_size=40,
)
views = st.builds(
    View,
    spool=texts,
    now=st.just(NOW),
    clock=st.just("12:34:56"),
    counts=st.fixed_dictionaries({state: st.integers(0, 10**7) for state in STATES}),
    paused=st.booleans(),
    pools=st.integers(0, 3),
    slots=st.integers(0, 100),
    rate=st.lists(st.integers(0, 5000), max_size=60),
    running=items,
    following=items,
    failures=items,
    notes=st.lists(texts, max_size=2),
)


# --- one frame --------------------------------------------------------------------------------


@given(views, st.integers(1, 200), st.integers(1, 60), st.booleans())
def test_a_frame_fits_any_terminal(view: View, width: int, height: int, ascii_only: bool) -> None:
    lines = frame(view, width, height, ascii_only=ascii_only)
    assert len(lines) == height
    assert all(sum(columns(text) for _, text in line) <= width for line in lines)


def lines_of(view: View, width: int = 80, height: int = 24) -> list[str]:
    return ["".join(text for _, text in line) for line in frame(view, width, height)]


def view_of(**fields: object) -> View:
    given_counts = dict.fromkeys(STATES, 0)
    return View(
        **{"spool": "/s", "now": NOW, "clock": "12:00:00", "counts": given_counts, **fields}  # type: ignore[arg-type]
    )


def test_a_list_that_is_long_leaves_room_for_the_others_and_says_how_many_it_hides() -> None:
    many = [Item(job_id=f"r{n}", command="sleep 9", at_s=NOW - n) for n in range(50)]
    dead = [Item(job_id="d1", command="false", at_s=NOW - 5, state="dead", detail="exit status 1")]
    lines = lines_of(view_of(running=many, failures=dead))
    assert any("d1" in line and "exit status 1" in line for line in lines)
    shown = sum(line.startswith("  r") for line in lines)
    assert shown >= 8
    assert any(line == f"RUNNING  and {50 - shown} more" for line in lines)


def test_what_waits_is_counted_whole_and_what_is_claimed_does_not_run() -> None:
    first = [Item(job_id=f"n{n}", command="true", state="pending") for n in range(100)]
    counts = dict.fromkeys(STATES, 0) | {"pending": 3000, "failed": 1, "processing": 7}
    lines = lines_of(view_of(following=first, claimed=7, counts=counts))
    shown = sum(line.startswith("  n") for line in lines)
    assert f"NEXT  and {3001 - shown:,} more" in lines
    assert "RUNNING  none  7 claimed" in lines


def test_what_is_due_later_says_when() -> None:
    later = Item(job_id="x", command="true", at_s=NOW + 90, state="pending")
    assert any("in 1m30s" in line for line in lines_of(view_of(following=[later])))


def test_jobs_that_came_at_once_stand_in_the_order_of_their_ids(spool: SpoolDir) -> None:
    lines = "".join(f"echo {number:03}\n" for number in range(300))
    spool.run("enqueue", "--commands", "-", stdin=lines)
    with terminal(spool, "top") as screen:
        screen.wait_for("echo 009")
        spool.drop("zlast")  # makes `top` look at everything again
        screen.wait_for("pending 301")
        shown = [line.split()[-1] for line in screen.frames[-1] if "  now" in line]
        assert shown == [f"{number:03}" for number in range(len(shown))]
        screen.type("q")


def test_the_end_of_a_command_has_its_columns_too() -> None:
    assert fit_ends("echo first-日本語.dat", 15) == "echo...本語.dat"
    assert fit_ends("./convert.sh 'in/s003.csv' 'out/s003.csv.gz'", 22) == "./conve...s003.csv.gz'"
    assert fit_end("日本語", 5) == "本語"


@given(texts, st.integers(3, 60))
def test_a_command_that_is_cut_in_its_middle_fits(text: str, width: int) -> None:
    assert columns(fit_ends(text, width)) <= width


def test_wide_characters_are_cut_by_their_columns() -> None:
    assert fit("日本語", 5) == "日本…"
    assert fit("日本語", 4) == "日…"
    assert columns("e\u0301") == 1


def test_a_sparkline_shows_even_one_among_thousands() -> None:
    assert sparkline([0, 1, 5000]) == " ▁█"
    assert sparkline([0, 1, 5000], ascii_only=True) == " .@"


def test_the_rate_counts_whole_seconds_of_the_last_minute() -> None:
    rate = Rate()
    for at_s in (NOW - 100, NOW - 3, NOW - 2.5, NOW - 1, NOW):
        rate.add(at_s)
    assert rate.last(NOW)[-4:] == [0, 2, 0, 1]
    assert sum(rate.last(NOW)) == 3


# --- the command ------------------------------------------------------------------------------


def test_without_a_terminal_one_frame_is_printed(spool: SpoolDir) -> None:
    spool.drop("next-one", "echo next", priority=3)
    now = time.time()
    put(spool, past("gone", "dead", now, run_entry(1, now - 9, 1, **EXIT_1), error_message="no"))
    out = spool.run("top", COLUMNS="80", LINES="24").out
    assert "\x1b" not in out
    assert "pending 1" in out
    assert "next-one" in out
    assert "gone" in out
    assert len(out.splitlines()) == 11
    assert "q quits" not in out


def test_what_happens_is_shown_as_it_happens(spool: SpoolDir) -> None:
    spool.configure(max_retries=1)
    with terminal(spool, "top") as screen, spool.pool(2):
        screen.wait_for("1 worker, 2 slots")
        spool.drop("long", "sleep 600")
        screen.wait_for("  long")
        spool.drop("broken", "exit 3")
        screen.wait_for("exit status 3")
        screen.wait_for("dead 1")
        spool.drop("later", run_at="2035-01-01T00:00:00Z")
        screen.wait_for("  later")
        screen.type("q")
        assert screen.wait() == 0
        assert screen.is_clean()
        spool.run("worker", "stop", "--now")


def test_next_is_what_runs_next_of_thousands(spool: SpoolDir) -> None:
    for number in range(2500):
        spool.drop(f"job{number:04}")
    spool.drop("urgent", priority=-5)
    out = spool.run("top", COLUMNS="80", LINES="24").lines
    head = out.index(next(line for line in out if line.startswith("NEXT")))
    assert out[head] == f"NEXT  and {2501 - 14:,} more"
    assert out[head + 1].split() == ["urgent", "now", "priority", "-5", "true"]
    assert out[head + 2].split()[0] == "job0000"


def test_what_is_taken_is_next_no_more(spool: SpoolDir) -> None:
    with terminal(spool, "top") as screen:
        spool.drop("first", "sleep 600")
        screen.wait_for("  first")
        with spool.pool():
            screen.wait_for("1 worker, 1 slot")
            wait_until(lambda: "NEXT  none" in screen.frames[-1] and screen.shows("  first"))
            spool.run("cancel", "first")
        screen.type("q")
    for lines in screen.frames:
        assert sum(line.startswith("  first") for line in lines if "dead " not in line) <= 1, lines


def test_an_edit_moves_a_job_to_its_place(spool: SpoolDir) -> None:
    for name in ("one", "two", "three"):
        spool.drop(name)
    with terminal(spool, "top") as screen:
        screen.wait_for("  three")
        spool.run("edit", "three", "--priority", "-5")
        screen.wait_for("priority -5")
        lines = [line.split()[0] for line in screen.frames[-1] if "  now" in line]
        assert lines == ["three", "one", "two"]
        screen.type("q")


def test_what_happens_while_nobody_looks_takes_no_more_memory_and_is_seen_afterwards(
    spool: SpoolDir,
) -> None:
    for job_id in ("a", "b"):
        spool.drop(job_id)
    upcoming = Upcoming(spool.api)
    upcoming.look(NOW, 10)
    assert [item.job_id for item in upcoming.next(NOW, ())] == ["a", "b"]
    spool.drop("b", priority=-1)
    upcoming.came("pending", "b")
    for number in range(30_000):  # the terminal stands still while these come and go
        upcoming.came("pending", f"job{number}")
        upcoming.gone(f"job{number}")
    assert len(upcoming._came) + len(upcoming._gone) < 30_000
    upcoming.look(NOW, 10)
    assert [item.job_id for item in upcoming.next(NOW, ())] == ["b", "a"]


def test_each_frame_fits_after_a_resize(spool: SpoolDir) -> None:
    spool.drop("one", "echo " + "x" * 300)
    with terminal(spool, "top") as screen:
        screen.wait_for("  one")
        assert len(screen.frames[-1]) == 24
        assert max(map(len, screen.frames[-1])) == 80
        for width, height in ((132, 43), (40, 12)):
            screen.resize(width, height)
            wait_until(lambda height=height: len(screen.frames[-1]) == height, screen.frames[-1])  # type: ignore[misc]
            assert max(map(len, screen.frames[-1])) == width


def test_nothing_is_erased_behind_a_line_that_may_reach_the_edge(spool: SpoolDir) -> None:
    """At the edge the cursor stands on the last character, which an erase would take away."""
    spool.drop("one", "echo " + "x" * 300)
    with terminal(spool, "top") as screen:
        screen.wait_for("  one")
        frame = screen.raw.rpartition(END_FRAME)[0].rpartition("\x1b[H")[2]
    lines = frame.split("\r\n")
    assert len(lines) == 24
    assert [line for line in lines if re.search(r".\x1b\[[JK]", line)] == []


@pytest.mark.parametrize(
    ("way", "status"),
    [("q", 0), ("\x03", 0), ("\x1c", 131), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["q", "ctrl-c", "ctrl-backslash", "sigterm", "sighup"],
)
def test_the_terminal_is_left_as_it_was(
    spool: SpoolDir, way: str | signal.Signals, status: int
) -> None:
    spool.create()
    with terminal(spool, "top") as screen:
        screen.wait_for("q quits")
        assert not screen.is_clean()
        if isinstance(way, str):
            screen.type(way)
        else:
            screen.process.send_signal(way)
        assert screen.wait() == status
        wait_until(screen.is_clean, lambda: screen.raw)
        assert "Traceback" not in screen.raw


def test_an_error_leaves_the_terminal_clean_and_its_line_readable(spool: SpoolDir) -> None:
    spool.create()
    with terminal(spool, "top") as screen:
        screen.wait_for("q quits")
        shutil.rmtree(f"{spool.path}/dead")
        with open(f"{spool.path}/dead", "w", encoding="utf-8"):
            pass  # the directory of a state is a file now, and cannot be listed
        assert screen.wait() == 1
        wait_until(screen.is_clean, lambda: screen.raw)
        assert "queuectl: cannot read" in screen.raw.rpartition("\x1b[?1049l")[2]


def test_ctrl_z_gives_the_terminal_back_until_it_goes_on(spool: SpoolDir) -> None:
    spool.create()
    # with job control, as in a person's shell
    script = f"set -m; {shlex.join(spool.command('top'))}; echo; echo away; read x; fg; echo back"
    with Terminal(["bash", "-c", script], environment(spool.path), 80, 24) as screen:
        screen.wait_for("q quits")
        screen.type("\x1a")
        wait_until(lambda: "away" in screen.raw, lambda: screen.raw)
        assert screen.is_clean()
        screen.type("\n")
        wait_until(lambda: screen.raw.count(ENTER) == 2, lambda: screen.raw)
        assert not screen.is_clean()
        screen.type("q")
        assert screen.wait() == 0
        wait_until(lambda: "back" in screen.raw, lambda: screen.raw)
        assert screen.is_clean()


def test_it_follows_without_file_system_events(spool: SpoolDir, tmp_path: os.PathLike[str]) -> None:
    """An event is a hint: where none come, `top` shows the same, only later."""
    shim = os.path.join(tmp_path, "shim")
    os.mkdir(shim)
    with open(f"{shim}/sitecustomize.py", "w", encoding="utf-8") as file:
        file.write(
            "import queuectl.system.arrivals as a\n"
            "def refuse(self):\n"
            "    raise OSError(24, 'no more watches')\n"
            "a.Arrivals.start = refuse\n"
        )
    spool.create()
    with terminal(spool, "top", PYTHONPATH=f"{shim}:{ROOT}", width=100) as screen:
        screen.wait_for("no file system events")
        spool.drop("unheard", "true")
        screen.wait_for("  unheard")
        screen.type("q")
        assert screen.wait() == 0


def test_no_colour_is_used_where_none_is_wanted(spool: SpoolDir) -> None:
    spool.create()
    with terminal(spool, "top", NO_COLOR="1") as screen:
        screen.wait_for("q quits")
        assert "\x1b[1m" not in screen.raw
        screen.type("q")
        screen.wait()


def test_the_first_frame_counts_what_ended_before_it(spool: SpoolDir) -> None:
    for number in range(3):
        spool.drop(f"job-{number}")
    spool.drain()
    time.sleep(1.1)  # the current second is not counted yet
    assert "3/min ended" in spool.run("top").out


def test_a_terminal_that_cannot_be_drawn_on_gets_one_frame(spool: SpoolDir) -> None:
    spool.drop("next-one")
    dumb = ["env", "TERM=dumb", *spool.command("top")]
    with Terminal(dumb, environment(spool.path), 80, 24) as screen:
        assert screen.wait() == 0
        assert "next-one" in screen.raw
        assert "\x1b" not in screen.raw


def test_a_capital_q_leaves_too(spool: SpoolDir) -> None:
    spool.create()
    with terminal(spool, "top") as screen:
        screen.wait_for("q quits")
        screen.type("Q")
        assert screen.wait() == 0


SLOW = """
from queuectl.cli.commands import top
top._AGE_S = 3600.0
"""


def test_a_resize_is_news_of_its_own(spool: SpoolDir, tmp_path: Path) -> None:
    spool.create()
    env = environment(spool.path, **with_code_at_start(tmp_path, SLOW))
    with Terminal(spool.command("top"), env, 80, 24) as screen:
        screen.wait_for("q quits")
        screen.resize(60, 12)
        wait_until(lambda: len(screen.frames[-1]) == 12, lambda: screen.frames[-1], deadline_s=20)
        screen.type("q")


def test_the_latest_failure_comes_first(spool: SpoolDir) -> None:
    now = time.time()
    for minutes in (2, 1, 3):
        at = now - 60 * minutes
        job = past(f"ago{minutes}", "dead", at, run_entry(1, at, 0.1, **EXIT_1), error_message="no")
        put(spool, job, written_s=at)
    out = spool.run("top", COLUMNS="80", LINES="24").lines
    assert [line.split()[0] for line in out if " ago  dead " in line] == ["ago1", "ago2", "ago3"]


def test_what_runs_longest_comes_first(spool: SpoolDir) -> None:
    names = ["run3", "run1", "run4", "run2", "run5"]
    with spool.pool(5) as pool:
        for name in names:
            spool.drop(name, "sleep 600")
            pool.wait_for("started", name)
        out = spool.run("top", COLUMNS="80", LINES="24").lines
        assert [line.split()[0] for line in out if line.startswith("  run")] == names
        spool.run("worker", "stop", "--now")


def test_the_rate_is_that_of_the_last_five_seconds_and_of_the_minute() -> None:
    line = lines_of(view_of(rate=[1] * 55 + [5] * 5, pools=1, slots=1))[2]
    assert line.startswith("5.0/s  80/min ended  ")
    assert line.endswith("█████  1 worker, 1 slot")
    assert lines_of(view_of())[2].endswith("  no worker is running")


def test_in_little_room_the_counts_come_closer_and_those_that_are_none_go() -> None:
    counts = {"pending": 12, "processing": 0, "completed": 376, "failed": 0, "dead": 7}
    for width, line in (
        (80, "pending 12   processing 0   completed 376   failed 0   dead 7"),
        (60, "pending 12  processing 0  completed 376  failed 0  dead 7"),
        (55, "pending 12 processing 0 completed 376 failed 0 dead 7"),
        (40, "pending 12 completed 376 dead 7"),
    ):
        assert lines_of(view_of(counts=counts), width=width)[1] == line
    assert lines_of(view_of(), width=40)[1] == "pending 0"


def test_a_terminal_that_does_not_know_its_size_has_a_usual_one(spool: SpoolDir) -> None:
    spool.create()
    with terminal(spool, "top", width=0, height=0) as screen:
        screen.wait_for("q quits")
        assert len(screen.frames[-1]) == 24
        screen.type("q")
        assert screen.wait() == 0


def test_a_pause_is_seen_on_the_screen_however_long_the_path_is(tmp_path: Path) -> None:
    spool = SpoolDir(f"{tmp_path}/{'long' * 30}/spool")
    spool.drop("waits")
    with terminal(spool, "top", width=80) as screen:
        screen.wait_for("  waits")
        assert not screen.shows("PAUSED")
        spool.run("pause")
        screen.wait_for("PAUSED: nothing new starts")
        spool.run("resume")
        wait_until(lambda: not screen.shows("PAUSED"))
        screen.type("q")
