from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queuectl.settings.config import Config
from queuectl.states import OUTCOMES
from queuectl.stats.figures import Figures, Groups, PastRun, command_kind, runs, wait_s
from queuectl.stats.tallies import Spread, Timeline
from queuectl.units import parse_time, utc_text
from tests.looking.support import EXIT_0, EXIT_1, past, run_entry
from tests.zones import in_zone

NOW = 1_900_000_000.0
DAY = 86400.0


def figures_of(*records: dict[str, Any], since_s: float = NOW - DAY, **options: Any) -> Figures:
    figures = Figures(since_s, **{"config": Config(), **options})
    for record in records:
        figures.add(record)
    return figures


def test_a_job_that_failed_once_and_then_succeeded_counts_as_one_completed_and_one_retry() -> None:
    record = past(
        "a", "completed", NOW - 100, run_entry(1, NOW - 90, 2, **EXIT_1), run_entry(2, NOW - 80, 3)
    )
    document = figures_of(record).document(NOW)
    assert document["ended"] == {"completed": 1, "dead": 0}
    assert document["runs"] == {"total": 2, "completed": 1, "failed": 1, "dead": 0}
    assert document["retries"] == 1
    assert document["tries_to_complete"] == {"2": 1}
    assert document["failures"] == {"exit status 1": 1}
    assert document["success_rate"] == 1


def test_runs_that_do_not_count_are_no_tries_either() -> None:
    given_back = [run_entry(n, NOW - 100 + n, 0.5, ended="stopped") for n in (1, 2)]
    record = past("a", "completed", NOW - 200, *given_back, run_entry(3, NOW - 90, 1))
    assert figures_of(record).document(NOW)["tries_to_complete"] == {"1": 1}


def test_the_last_run_of_a_dead_job_is_what_killed_it_and_is_no_retry() -> None:
    history = [run_entry(n, NOW - 100 + n, 0.5, **EXIT_1) for n in (1, 2, 3)]
    figures = figures_of(past("a", "dead", NOW - 200, *history))
    assert figures.outcomes == {"failed": 2, "dead": 1}
    assert figures.success_rate == 0


def test_the_success_rate_is_of_jobs_that_ended_in_the_period() -> None:
    ended = [past(f"c{n}", "completed", NOW - 50, run_entry(1, NOW - 40, 1)) for n in range(3)]
    dead = past("d", "dead", NOW - 50, run_entry(1, NOW - 40, 1, **EXIT_1))
    old = past("old", "dead", NOW - 9 * DAY, run_entry(1, NOW - 8 * DAY, 1, **EXIT_1))
    waiting = past("w", "pending", NOW - 50)
    assert figures_of(*ended, dead, old, waiting).success_rate == 0.75


def test_who_cancels_a_job_does_not_lower_the_success_rate() -> None:
    ended = past("c", "completed", NOW - 50, run_entry(1, NOW - 40, 1))
    why = {"error_message": "cancelled: by ann@box at 2030-03-17T17:46:40Z"}
    waited = past("w", "dead", NOW - 50, **why)
    ran = past("r", "dead", NOW - 50, run_entry(1, NOW - 40, 1, ended="cancelled"), **why)
    figures = figures_of(ended, waited, ran)
    assert figures.success_rate == 1
    document = figures.document(NOW)
    assert (document["ended"], document["cancelled"]) == ({"completed": 1, "dead": 2}, 2)
    assert figures_of(waited).success_rate is None


def test_nothing_that_ended_has_no_success_rate() -> None:
    assert figures_of(past("w", "pending", NOW - 50)).success_rate is None


def test_a_run_that_a_stopping_worker_gave_back_is_neither_a_success_nor_a_failure() -> None:
    record = past("a", "pending", NOW - 100, run_entry(1, NOW - 90, 5, ended="stopped"))
    figures = figures_of(record)
    assert figures.run_count == 0
    assert figures.document(NOW)["given_back"] == 1
    assert figures.times.count == 0


@pytest.mark.parametrize(
    ("own", "code", "outcome"),
    [
        ({}, 3, "completed"),
        ({}, 0, "failed"),
        ({"success_codes": [7]}, 7, "completed"),
        ({"success_codes": [7]}, 3, "failed"),
        ({"later_codes": [75]}, 75, "given back"),
        ({}, 76, "given back"),
        ({"later_codes": [75]}, 76, "failed"),
    ],
)
def test_which_codes_are_success_is_the_jobs_own_word_before_the_spools(
    own: dict[str, Any], code: int, outcome: str
) -> None:
    entry = run_entry(1, NOW - 9, 1, ended="exit", exit_code=code)
    record = past("a", "pending", NOW - 10, entry, **own)
    config = Config(success_codes=(3,), later_codes=(76,))
    assert [run.outcome for run in runs(record, config)] == [outcome]


def test_a_code_that_is_fatal_is_so_before_it_means_later() -> None:
    entry = run_entry(1, NOW - 9, 1, ended="exit", exit_code=7)
    record = past("a", "pending", NOW - 10, entry)
    config = Config(fatal_codes=(7,), later_codes=(7,))
    assert [run.outcome for run in runs(record, config)] == ["failed"]


def test_a_wait_begins_when_the_job_might_have_run() -> None:
    plain = past("a", "completed", NOW - 100, run_entry(1, NOW - 60, 1))
    assert wait_s(plain) == pytest.approx(40)
    scheduled = {**plain, "run_at": utc_text(NOW - 70)}
    assert wait_s(scheduled) == pytest.approx(10)


def test_a_wait_that_the_record_does_not_tell_is_not_made_up() -> None:
    dropped = past("a", "completed", NOW, run_entry(1, NOW, 1))
    del dropped["created_at"]
    assert wait_s(dropped) is None
    cut_history = past("a", "completed", NOW, run_entry(21, NOW, 1))
    assert wait_s(cut_history) is None
    assert wait_s(past("a", "pending", NOW)) is None


def test_a_job_cancelled_before_it_ran_is_dead_and_no_run_over_time() -> None:
    figures = figures_of(past("a", "dead", NOW - 10))
    assert figures.ended["dead"] == 1
    assert not figures.timeline.columns(NOW)


def test_a_history_written_by_somebody_else_is_passed_over_where_it_makes_no_sense() -> None:
    odd = [{}, {"started_at": 5, "finished_at": None}, {"started_at": "x", "finished_at": "y"}]
    assert list(runs(past("a", "completed", NOW, *odd), Config())) == []


@given(st.lists(st.floats(1e-6, 1e7), min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_quantile_is_within_one_percent_of_the_exact_one(values: list[float], q: float) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    quantile = spread.quantile(q)
    assert quantile is not None
    assert quantile == pytest.approx(exact, rel=0.0101)
    document = spread.document()
    assert document["p99"] <= document["max"]


@given(st.lists(st.floats(0, 1e7), max_size=100))
def test_a_histogram_loses_no_value(values: list[float]) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    assert sum(spread.histogram((0.1, 1, 10))) == len(values)


def test_a_spread_of_nothing_says_so_with_nulls() -> None:
    document = Spread().document()
    assert document["count"] == 0
    assert document["p50"] is None
    assert document["max"] is None


@given(
    st.lists(
        st.tuples(st.floats(NOW - 400 * DAY, NOW), st.sampled_from(OUTCOMES)),
        min_size=1,
        max_size=100,
    ),
    st.sampled_from([0, 3600, -34200]),
)
def test_a_timeline_loses_nothing_however_coarse_it_must_be(
    events: list[tuple[float, str]], zone_s: int
) -> None:
    timeline = Timeline(lambda _at: zone_s)
    for at_s, outcome in events:
        timeline.add(at_s, outcome)
    columns = timeline.columns(NOW)
    assert len(columns) <= 60
    assert sum(column[outcome] for column in columns for outcome in OUTCOMES) == len(events)
    first, last = min(events)[0], max(events)[0]
    assert columns[0]["at"] <= first < columns[0]["at"] + timeline.step_s
    assert columns[-1]["at"] + timeline.step_s > last


def test_columns_that_were_fine_are_added_up_when_they_must_be_coarse() -> None:
    timeline = Timeline(lambda _at: 0)
    for second in range(50):
        timeline.add(NOW - second, "completed")
    assert timeline.step_s == 1
    timeline.add(NOW - 300 * DAY, "dead")
    columns = timeline.columns(NOW)
    assert sum(column["completed"] for column in columns) == 50
    assert columns[-1]["completed"] > 1


def test_a_time_of_a_far_year_makes_no_more_columns() -> None:
    timeline = Timeline(lambda _at: 0)
    timeline.add(NOW, "completed")
    timeline.add(NOW + 7900 * 365 * DAY, "dead")
    columns = timeline.columns(NOW)
    assert len(columns) <= 60
    assert sum(column["completed"] + column["dead"] for column in columns) == 2


def test_columns_of_a_day_begin_at_local_midnight() -> None:
    timeline = Timeline(lambda _at: 7200)
    timeline.add(NOW - 40 * DAY, "completed")
    columns = timeline.columns(NOW)
    assert timeline.step_s == DAY
    assert all((column["at"] + 7200) % DAY == 0 for column in columns)


def test_days_begin_at_midnight_also_where_clocks_have_been_changed_since() -> None:
    with in_zone("America/New_York"):
        noon_in_winter = parse_time("2026-02-10T12:00:00-05:00")
        now = parse_time("2026-03-20T12:00:00-04:00")
        timeline = Timeline()
        timeline.add(noon_in_winter, "completed")
        columns = timeline.columns(now)
        assert timeline.step_s == DAY
        assert utc_text(columns[0]["at"]) == utc_text(noon_in_winter - DAY / 2)
        assert {time.localtime(column["at"]).tm_hour for column in columns} == {0}
        assert len(columns) == 39


def test_steps_below_a_day_are_even_where_clocks_are_changed_meanwhile() -> None:
    changed = NOW - 3600

    def zone_s(at_s: float) -> int:
        return 7200 if at_s < changed else 3600

    timeline = Timeline(zone_s)
    for number in range(20):
        timeline.add(NOW - 1200 * number, "completed")
    columns = timeline.columns(NOW)
    steps = {after["at"] - before["at"] for before, after in pairwise(columns)}
    assert steps == {timeline.step_s}
    assert max(column["completed"] for column in columns) == 1


def test_the_step_is_that_of_the_columns_up_to_now() -> None:
    ended = past("a", "completed", NOW - 9 * DAY, run_entry(1, NOW - 3 * DAY, 5, **EXIT_0))
    document = figures_of(ended, since_s=NOW - 10 * DAY).document(NOW)
    first, second, *_ = document["timeline"]
    assert document["step"] == second["at"] - first["at"]


def test_commands_that_differ_in_their_numbers_are_of_one_kind() -> None:
    assert command_kind("convert img-001.png  -size 80x80") == "convert img-#.png -size #x#"
    assert command_kind(["cp", "a b", "part-7"]) == "cp 'a b' part-#"


def test_groups_stay_few_and_the_busiest_stay() -> None:
    groups = Groups(limit=10)
    run = PastRun(started_s=0, finished_s=1, outcome="completed", ended="exit status 0")
    for number in range(100):
        groups.add("busy", run, "b")
        groups.add(f"once-{number}", run, "o")
    assert groups.dropped
    busiest = groups.busiest(50)
    assert len(busiest) <= 10
    assert (busiest[0]["name"], busiest[0]["runs"]) == ("busy", 100)


def test_a_tag_given_twice_counts_once() -> None:
    record = past("a", "completed", NOW - 9, run_entry(1, NOW - 8, 2, **EXIT_0), tags=["x", "x"])
    assert figures_of(record).document(NOW)["tags"][0]["runs"] == 1


def test_a_run_that_ended_well_stays_so_when_its_job_is_cancelled_later() -> None:
    why = {"error_message": "cancelled: by ann@box at 2026-01-01T00:00:00Z"}
    completed = past("job", "dead", NOW - 100, run_entry(1, NOW - 90, 5, **EXIT_0), **why)
    given_back = past("job", "dead", NOW - 100, run_entry(1, NOW - 90, 5, ended="stopped"), **why)
    assert [run.outcome for run in runs(completed, Config())] == ["completed"]
    assert [run.outcome for run in runs(given_back, Config())] == ["given back"]


def test_what_a_job_died_of_is_no_success_by_a_later_setting() -> None:
    record = past("job", "dead", NOW - 100, run_entry(1, NOW - 90, 5, **EXIT_1))
    record["error_message"] = "exit status 1"
    for codes in (Config(success_codes=(0, 1)), Config(later_codes=(1,))):
        assert [run.outcome for run in runs(record, codes)] == ["dead"]


def test_a_timeline_never_has_more_columns_than_it_may() -> None:
    timeline = Timeline(lambda _at: 0)
    for at in range(61):
        timeline.add(NOW + at, "completed")
    assert len(timeline.columns(NOW + 60)) <= 60


def test_the_wait_of_a_first_run_that_goes_on_counts() -> None:
    running = past("a", "processing", NOW - 100, started_at=utc_text(NOW - 60))
    assert figures_of(running).waits.max_s == pytest.approx(40)


def test_a_wait_that_was_over_before_the_period_does_not_count() -> None:
    started = past("a", "processing", NOW - 3 * DAY, started_at=utc_text(NOW - 2 * DAY))
    first, second = run_entry(1, NOW - 2 * DAY, 1, **EXIT_1), run_entry(2, NOW - 60, 1)
    ran_again = past("b", "completed", NOW - 3 * DAY, first, second)
    figures = figures_of(started, ran_again)
    assert figures.waits.count == 0
    assert figures.times.count == 1


def test_a_long_number_hides_nothing_of_what_follows_it() -> None:
    assert command_kind(f"echo {'7' * 150} done") == "echo # done"


def test_groups_with_as_many_runs_stand_in_the_order_of_their_names() -> None:
    groups = Groups()
    for name in ("b", "c", "a", "c"):
        groups.add(
            name, next(runs(past("j", "completed", NOW, run_entry(1, NOW, 1)), Config())), "j"
        )
    assert [group["name"] for group in groups.busiest(3)] == ["c", "a", "b"]


def test_the_last_run_of_a_dead_job_failed_in_its_groups_too() -> None:
    history = [run_entry(number, NOW - 9, 1, **EXIT_1) for number in (1, 2)]
    (group,) = figures_of(past("a", "dead", NOW - 10, *history)).commands.busiest(1)
    assert (group["runs"], group["failed"], group["completed"]) == (2, 2, 0)
