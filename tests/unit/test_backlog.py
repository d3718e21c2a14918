from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from queuectl.pool.backlog import Backlog, Entry

entries = st.lists(
    st.builds(
        Entry,
        priority=st.integers(-5, 5),
        arrived_us=st.integers(0, 20),
        created=st.integers(0, 3),
        job_id=st.sampled_from([f"j{n}" for n in range(12)]),
        state=st.just("pending"),
    )
)


def entry(job_id: str, priority: int = 0, arrived_us: int = 0) -> Entry:
    return Entry(priority, arrived_us, 0, job_id, "pending")


def drained(backlog: Backlog) -> list[str]:
    found = []
    while (popped := backlog.pop()) is not None:
        found.append(popped.job_id)
    return found


def test_lower_priority_runs_first_then_who_came_first_then_the_name() -> None:
    backlog = Backlog()
    for item in (entry("late", 0, 9), entry("b", 0, 1), entry("a", 0, 1), entry("urgent", -1, 50)):
        backlog.ready(item)
    assert drained(backlog) == ["urgent", "a", "b", "late"]


def test_what_is_entered_again_and_again_takes_no_room_each_time() -> None:
    """Replaced entries are dropped even if nothing is popped.

    A pool whose slots are taken for hours pops nothing, while others run the same job.
    """
    backlog = Backlog()
    backlog.ready(entry("first", -1))
    for arrived_us in range(10_000):
        backlog.ready(entry("again", 0, arrived_us))
        backlog.ready_at(entry("later", 0, arrived_us), 1e12)
    assert len(backlog._ready) < 2000
    assert len(backlog._at) < 2000
    assert drained(backlog) == ["first", "again"]


def test_only_what_is_more_urgent_than_asked_for_is_taken_out() -> None:
    backlog = Backlog()
    backlog.ready(entry("replaced", -5))
    backlog.ready(entry("replaced", 5))
    backlog.ready(entry("a", -1))
    backlog.ready(entry("b", 0))
    assert backlog.pop(-1) is None
    assert backlog.pop(0) == entry("a", -1)
    assert backlog.pop(0) is None
    assert drained(backlog) == ["b", "replaced"]


@given(entries)
def test_each_id_comes_out_once_by_what_was_said_last(items: list[Entry]) -> None:
    backlog = Backlog()
    last = {}
    for item in items:
        backlog.ready(item)
        last[item.job_id] = item
    assert len(backlog) == len(last)
    assert drained(backlog) == [item.job_id for item in sorted(last.values())]
    assert len(backlog) == 0


@given(entries, st.lists(st.floats(0, 100), min_size=1), st.floats(0, 100), st.booleans())
def test_only_what_is_due_becomes_ready(
    items: list[Entry], times: list[float], now: float, wall: bool
) -> None:
    backlog = Backlog()
    due: dict[str, float] = {}
    for number, item in enumerate({item.job_id: item for item in items}.values()):
        at = times[number % len(times)]
        (backlog.ready_at if wall else backlog.ready_after)(item, at)
        due[item.job_id] = at
    backlog.advance(now, now)
    assert set(drained(backlog)) == {job_id for job_id, at in due.items() if at <= now}
    later = [at for at in due.values() if at > now]
    assert backlog.wait_s(now, now) == (min(later) - now if later else None)


def test_the_two_clocks_are_kept_apart() -> None:
    backlog = Backlog()
    backlog.ready_at(entry("wall"), 1000.0)
    backlog.ready_after(entry("span"), 5.0)
    assert backlog.wait_s(999.0, 1.0) == 1.0
    backlog.advance(wall_s=0.0, monotonic_s=6.0)
    assert drained(backlog) == ["span"]
    backlog.advance(wall_s=1000.0, monotonic_s=0.0)
    assert drained(backlog) == ["wall"]


def test_a_clock_that_jumped_gives_no_negative_wait() -> None:
    backlog = Backlog()
    backlog.ready_at(entry("a"), 10.0)
    assert backlog.wait_s(1e9, 0.0) == 0.0


def test_the_first_to_fall_due_is_told() -> None:
    backlog = Backlog()
    assert backlog.ready_at(entry("a"), 10.0)
    assert not backlog.ready_at(entry("b"), 11.0)
    assert backlog.ready_at(entry("c"), 9.0)


def test_what_was_made_ready_may_be_put_off_again() -> None:
    """News of a later time puts a job off, even if it comes after the job became ready."""
    backlog = Backlog()
    backlog.ready_after(entry("a"), 10.0)
    backlog.advance(0.0, 10.0)
    assert backlog.ready_after(entry("a"), 20.0)
    assert drained(backlog) == []
    assert backlog.wait_s(0.0, 19.0) == 1.0


def test_a_job_that_becomes_ready_early_does_not_come_out_again_when_it_was_due() -> None:
    backlog = Backlog()
    backlog.ready_at(entry("a"), 10.0)
    backlog.ready(entry("a", arrived_us=5))
    assert drained(backlog) == ["a"]
    backlog.advance(20.0, 0.0)
    assert drained(backlog) == []
