from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from queuectl.stats.figures import Figures
from queuectl.stats.survey import Survey
from queuectl.units import parse_time
from tests.looking.support import EXIT_1, past, put, run_entry

if TYPE_CHECKING:
    from tests.support import SpoolDir


def test_stats_tell_what_a_pool_has_done(spool: SpoolDir) -> None:
    spool.configure(max_retries=2, backoff_base=0)
    for number in range(3):
        spool.run("enqueue", "--tag", "good", "--command", f"echo {number}")
    spool.run("enqueue", "--tag", "bad", "--command", "exit 9")
    spool.drain()
    document = spool.run("stats", "--json").json
    assert document["ended"] == {"completed": 3, "dead": 1}
    assert document["success_rate"] == 0.75
    assert document["runs"] == {"total": 5, "completed": 3, "failed": 1, "dead": 1}
    assert document["failures"] == {"exit status 9": 2}
    assert document["wait"]["count"] == 4
    assert document["run_time"]["count"] == 5
    assert {tag["name"]: tag["runs"] for tag in document["tags"]} == {"good": 3, "bad": 2}
    assert document["jobs"]["completed"] == 3
    assert document["read"] == {"jobs": 4, "read": 4, "older": 0, "unreadable": 0}


def test_a_cancelled_job_is_told_beside_the_dead(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "bad", "--max-retries", "1", "--command", "exit 9")
    spool.drain()
    assert "dead 1  success 0.0%" in spool.run("stats").out
    spool.run("enqueue", "--id", "unwanted", "--command", "true")
    spool.run("cancel", "unwanted")
    assert "dead 2 (1 cancelled)  success 0.0%" in spool.run("stats").out


def test_what_people_read_has_rates_times_bars_and_where_it_comes_from(spool: SpoolDir) -> None:
    spool.run("enqueue", "--tag", "nightly", "--command", "true")
    spool.drain()
    done = spool.run("stats", PYTHONIOENCODING="utf-8")
    assert "success 100.0%" in done.out
    assert "p95" in done.out
    assert "nightly" in done.out
    assert "█" in done.out
    assert "read 1 of 1 records" in done.err


def test_people_are_shown_what_failed_how_often_and_how_many_tries_it_took(spool: SpoolDir) -> None:
    spool.configure(max_retries=2, backoff_base=0)
    spool.run("enqueue", "--command", "exit 9")
    spool.run("enqueue", "--max-retries", "1", "--command", "exit 4")
    spool.run("enqueue", "--command", "true")
    spool.drain()
    lines = [line.split() for line in spool.run("stats", PYTHONIOENCODING="ascii").lines]
    failures = lines.index(["failures"])
    assert lines[failures + 1 : failures + 3] == [
        ["exit", "status", "9", "2", "#" * 24],
        ["exit", "status", "4", "1", "#" * 12],
    ]
    tries = lines.index(["tries", "until", "completed"])
    assert lines[tries + 1] == ["1", "1", "#" * 24]


def test_a_terminal_without_unicode_gets_bars_of_ascii(spool: SpoolDir) -> None:
    spool.run("enqueue", "--tag", "nightly", "--command", "true")
    spool.drain()
    assert "###" in spool.run("stats", PYTHONIOENCODING="ascii").out


def test_what_ended_before_the_period_does_not_count_and_is_not_read(spool: SpoolDir) -> None:
    now = time.time()
    old, new = now - 3 * 86400, now - 60
    put(spool, past("old", "completed", old, run_entry(1, old, 5)), written_s=old + 5)
    put(spool, past("new", "completed", new, run_entry(1, new, 5)), written_s=new + 5)
    document = spool.run("stats", "--since", "24h", "--json").json
    assert document["ended"]["completed"] == 1
    assert document["read"] == {"jobs": 2, "read": 1, "older": 1, "unreadable": 0}
    assert spool.run("stats", "--since", "7d", "--json").json["ended"]["completed"] == 2


def test_a_copied_file_with_a_new_date_still_counts_by_what_it_says(spool: SpoolDir) -> None:
    old = time.time() - 3 * 86400
    put(spool, past("old", "completed", old, run_entry(1, old, 5)))
    document = spool.run("stats", "--since", "24h", "--json").json
    assert document["ended"]["completed"] == 0
    assert document["runs"]["total"] == 0


def test_files_that_are_no_jobs_are_counted_as_unreadable(spool: SpoolDir) -> None:
    spool.drop_bytes("half", b'{"command": "tr', "completed")
    spool.drop_bytes("list", b"[]", "dead")
    document = spool.run("stats", "--json").json
    assert document["read"]["unreadable"] == 2


def test_instants_are_written_as_in_records(spool: SpoolDir) -> None:
    spool.run("enqueue", "--id", "one", "--", "true")
    spool.drain()
    document = spool.run("stats", "--since", "24h", "--json").json
    since, until = parse_time(document["since"]), parse_time(document["until"])
    assert until - since == pytest.approx(86400, abs=1)
    ended = spool.record("completed", "one")["finished_at"]
    column = document["timeline"][0]
    assert parse_time(column["at"]) <= parse_time(ended) <= parse_time(column["at"]) + 1


def test_an_empty_spool_has_no_rates(spool: SpoolDir) -> None:
    spool.create()
    assert spool.run("stats", "--json").json["success_rate"] is None
    assert "read 0 of 0 records" in spool.run("stats").err


def test_stats_of_no_spool_say_how_to_get_one(spool: SpoolDir) -> None:
    assert "queuectl enqueue" in spool.refuse("stats")


def test_a_period_that_is_none_is_refused(spool: SpoolDir) -> None:
    assert "duration" in spool.refuse("stats", "--since", "yesterday", status=2)


def test_ten_times_the_jobs_take_no_more_memory(spool: SpoolDir) -> None:
    def peak_bytes() -> int:
        figures = Figures(0, spool.api.config)
        tracemalloc.start()
        for record in Survey(spool.api, 0).records():
            figures.add(record)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    def grow(start: int, end: int) -> None:
        for number in range(start, end):
            at = 1_900_000_000 + number
            history = run_entry(1, at, number % 50, **EXIT_1)
            put(spool, past(f"job-{number}", "completed", at, history, tags=[f"t{number % 9}"]))

    grow(0, 400)
    peak_bytes()  # a first time, for imports and caches, which are made only once
    few = peak_bytes()
    grow(400, 4000)
    assert peak_bytes() < few + 100_000


def test_nothing_is_said_to_be_left_out_unless_it_is(spool: SpoolDir) -> None:
    spool.run("enqueue", "--tag", "nightly", "--command", "true")
    spool.drain()
    assert "left out" not in spool.run("stats").err


def test_how_high_a_bar_of_the_timeline_is_at_most_is_said(spool: SpoolDir) -> None:
    now = time.time()
    for number in range(3):
        at = now - 3600 * (1 + number % 2)
        put(spool, past(f"job{number}", "completed", at - 1, run_entry(1, at, 1)))
    lines = [line.split() for line in spool.run("stats", PYTHONIOENCODING="ascii").lines]
    (completed,) = [words for words in lines if words[:1] == ["completed"] and "most" in words]
    assert completed[-3:] == ["at", "most", "2"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_bar_shows_even_one_among_thousands(spool: SpoolDir, encoding: str) -> None:
    now = time.time()
    many = [run_entry(number, now - 9, 0.1, **EXIT_1) for number in range(500)]
    once = run_entry(500, now - 9, 0.1, ended="exit", exit_code=77)
    put(spool, past("job", "failed", now - 10, *many, once))
    lines = [line.split() for line in spool.run("stats", PYTHONIOENCODING=encoding).lines]
    assert ["exit", "status", "77", "1", "#" if encoding == "ascii" else "▏"] in lines


def test_bars_of_groups_stand_below_one_another(spool: SpoolDir) -> None:
    now = time.time()
    put(spool, past("a", "completed", now - 9, run_entry(1, now - 8, 1), tags=["good"]))
    put(spool, past("b", "dead", now - 9, run_entry(1, now - 8, 1, **EXIT_1), tags=["bad"]))
    lines = spool.run("stats", PYTHONIOENCODING="ascii").lines
    tags = lines.index("busiest tags")
    assert len({line.index("#") for line in lines[tags + 1 : tags + 3]}) == 1


def test_days_begin_at_the_midnight_of_who_looks(spool: SpoolDir) -> None:
    now = time.time()
    for days in (1, 40):
        at = now - days * 86400
        put(spool, past(f"job{days}", "completed", at - 1, run_entry(1, at, 1)), written_s=at)
    document = spool.run("stats", "--since", "60d", "--json", TZ="XXX-9").json
    assert document["step"] == 86400
    assert {(parse_time(item["at"]) + 9 * 3600) % 86400 for item in document["timeline"]} == {0}
