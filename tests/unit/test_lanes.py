"""Which job gets a lane, and how many jobs are claimed before a lane is free."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

import pytest

from queuectl.pool.lanes import Lanes
from queuectl.system.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEADLINE_S = 20.0


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def order(
    loop: Loop, claims: Sequence[tuple[str, int]], arrivals: Sequence[str], *, taken: bool
) -> list[str]:
    """Claim jobs with their priorities, let them arrive at one lane; return the order they ran in.

    The lane is free, or `taken` until all have arrived.
    """
    went: list[str] = []

    async def main() -> None:
        lanes = Lanes(loop, 1)

        async def arrive(job_id: str) -> None:
            assert await lanes.enter(job_id)
            went.append(job_id)
            await loop.rest()
            lanes.leave(job_id)
            lanes.done(job_id)

        lanes.admit("runs", 0)
        assert await lanes.enter("runs")
        for job_id, priority in claims:
            lanes.admit(job_id, priority)
        if not taken:
            lanes.leave("runs")
        over = []
        for job_id in arrivals:
            over.append(loop.start(arrive(job_id)))
            await loop.rest()
        if taken:
            lanes.leave("runs")
        for one in over:
            await one

    loop.run(main())
    return went


async def behind(loop: Loop, runs: str, *job_ids: str) -> Lanes:
    """Return one lane in which `runs` runs; the other jobs have been claimed since."""
    lanes = Lanes(loop, 1)
    for job_id in (runs, *job_ids):
        lanes.admit(job_id, 0)
    assert await lanes.enter(runs)
    return lanes


@pytest.mark.parametrize("taken", [True, False])
def test_equals_go_in_as_they_were_claimed_whoever_is_there_first(taken: bool, loop: Loop) -> None:
    claims = [("a", 0), ("b", 0), ("c", 0)]
    assert order(loop, claims, ["c", "b", "a"], taken=taken) == ["a", "b", "c"]


def test_a_more_urgent_one_that_was_claimed_later_goes_in_first(loop: Loop) -> None:
    claims = [("a", 0), ("b", 0), ("now", -1)]
    assert order(loop, claims, ["a", "b", "now"], taken=True) == ["now", "a", "b"]


@pytest.mark.parametrize("taken", [True, False])
def test_a_less_urgent_one_never_passes_over_who_was_claimed_before(
    taken: bool, loop: Loop
) -> None:
    assert order(loop, [("now", -1), ("a", 0)], ["a", "now"], taken=taken) == ["now", "a"]


def test_a_lane_does_not_stand_still_for_an_urgent_one_that_is_not_there_yet(loop: Loop) -> None:
    async def main() -> None:
        lanes = Lanes(loop, 1)
        lanes.admit("a", 0)
        lanes.admit("now", -1)
        assert await lanes.enter("a")

    loop.run(main())


@pytest.mark.parametrize(("took_s", "ahead"), [(0.001, 32), (0.02, 2), (0.15, 0)])
def test_as_many_are_claimed_ahead_as_can_start_soon(
    took_s: float, ahead: int, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For commands of 1 ms 32 jobs are claimed ahead, for commands of 0.1 s or more none."""
    now_s = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)

    async def main() -> int:
        nonlocal now_s
        lanes = Lanes(loop, 1)
        lanes.admit("first", 0)
        assert await lanes.enter("first")
        now_s += took_s
        lanes.leave("first")
        lanes.done("first")
        claimed = 0
        while lanes.has_room():
            lanes.admit(f"job-{claimed}", 0)
            claimed += 1
        return claimed - 1  # one of them can have the lane

    assert loop.run(main()) == ahead


def test_what_is_more_urgent_than_one_that_waits_is_claimed_out_of_turn(loop: Loop) -> None:
    async def main() -> None:
        lanes = Lanes(loop, 1)
        assert lanes.admit("first", 0)
        assert await lanes.enter("first")
        assert lanes.bar == -inf  # it is not known yet how long commands are
        lanes.leave("first")
        assert lanes.admit("a", 0)
        assert not lanes.admit("b", 0)
        assert lanes.bar == 0
        assert lanes.admit("now", -1)
        assert lanes.admit("now too", -1)
        assert lanes.bar == 0
        for job_id in ("a", "b"):
            lanes.drop(job_id)
        assert lanes.bar == -1
        assert not lanes.admit("as urgent", -1)
        for job_id in ("now", "now too", "as urgent"):
            lanes.drop(job_id)
        assert lanes.bar == -inf

    loop.run(main())


def test_what_is_urgent_finds_an_end_too(loop: Loop) -> None:
    async def main() -> int:
        lanes = Lanes(loop, 1)
        lanes.admit("first", 0)
        assert await lanes.enter("first")
        lanes.leave("first")
        claimed = 0
        while claimed < 1000 and (not claimed or lanes.bar > -inf):
            lanes.admit(f"job-{claimed}", -claimed)
            claimed += 1
        return claimed

    assert loop.run(main()) < 100


def test_who_arrives_after_the_close_is_sent_away_and_takes_no_lane(loop: Loop) -> None:
    async def main() -> None:
        lanes = Lanes(loop, 1)
        lanes.admit("late", 0)
        lanes.close()
        assert not await lanes.enter("late")
        lanes.done("late")
        lanes.open()
        lanes.admit("next", 0)
        assert await lanes.enter("next")

    loop.run(main())


def test_who_waits_goes_in_once_those_before_it_are_let_go(loop: Loop) -> None:
    async def main() -> None:
        lanes = Lanes(loop, 1)
        for job_id in ("lost", "next"):
            lanes.admit(job_id, 0)
        entered = loop.start(lanes.enter("next"))
        await loop.rest()
        assert not entered.done
        lanes.drop("lost")
        assert await entered

    loop.run(main())


def test_a_lane_is_not_given_to_one_that_is_being_sent_away(loop: Loop) -> None:
    """The next job gets the lane: one that is sent away would keep it for ever."""

    async def main() -> None:
        lanes = await behind(loop, "runs", "waits")
        entered = loop.start(lanes.enter("waits"))
        await loop.rest()
        lanes.close()
        lanes.leave("runs")
        lanes.open()
        assert not await entered
        lanes.admit("next", 0)
        assert await lanes.enter("next")

    loop.run(main())


def test_nothing_more_is_claimed_while_the_outcomes_of_many_wait_for_the_disk(loop: Loop) -> None:
    async def main() -> int:
        lanes = Lanes(loop, 1)
        claimed = 0
        while lanes.has_room(in_rows=False) and claimed < 1000:
            lanes.admit(f"job-{claimed}", 0)
            assert await lanes.enter(f"job-{claimed}")
            lanes.leave(f"job-{claimed}")  # without `done`: its outcome waits for the disk
            claimed += 1
        return claimed

    assert loop.run(main()) < 100


def test_who_finds_no_lane_goes_back_and_so_does_who_comes_after(loop: Loop) -> None:
    async def main() -> None:
        lanes = await behind(loop, "long", "next", "last")
        for job_id in ("next", "last"):
            assert not await loop.wait_for(
                loop.start(lanes.enter(job_id)), DEADLINE_S, otherwise=True
            )
        lanes.leave("long")
        lanes.admit("later", 0)
        assert await lanes.enter("later")

    loop.run(main())


def test_who_came_later_does_not_go_in_before_one_that_is_sent_away(loop: Loop) -> None:
    async def main() -> None:
        lanes = await behind(loop, "long", "first", "last")
        first = loop.start(lanes.enter("first"))
        await loop.rest()  # its patience begins
        last = loop.start(lanes.enter("last"))
        assert not await first
        lanes.leave("long")
        assert not await last

    loop.run(main())


def test_who_is_on_its_way_goes_back_with_those_who_were_claimed_before_it_alone(
    loop: Loop,
) -> None:
    """A claim goes back only with one that was made before it and is at least as urgent.

    On a slow disk a claim may take longer than a job waits for a lane.
    """

    async def main() -> None:
        lanes = Lanes(loop, 1)
        for job_id, priority in (
            ("long", 0),
            ("slow", 0),
            ("waits", 0),
            ("behind", 0),
            ("now", -1),
        ):
            lanes.admit(job_id, priority)
        assert await lanes.enter("long")
        assert not await lanes.enter("waits")
        lanes.leave("long")
        assert not await lanes.enter("behind")
        for job_id in ("now", "slow"):
            assert await lanes.enter(job_id)
            lanes.leave(job_id)

    loop.run(main())


def test_nothing_is_claimed_before_what_was_sent_away_is_given_back(loop: Loop) -> None:
    async def main() -> None:
        lanes = await behind(loop, "long", "waits", "behind")
        assert not await lanes.enter("waits")
        lanes.leave("long")
        lanes.done("waits")
        assert not lanes.has_room()
        assert not await lanes.enter("behind")
        assert not lanes.has_room()
        lanes.done("behind")
        assert lanes.has_room()

    loop.run(main())


@pytest.mark.parametrize(("in_rows", "after"), [(True, 8), (False, 1)])
def test_a_full_hand_is_filled_again_by_ones_or_in_rows(
    in_rows: bool, after: int, loop: Loop
) -> None:
    async def main() -> int:
        lanes = Lanes(loop, 1)
        claimed: list[str] = []

        async def run(job_id: str) -> None:
            assert await lanes.enter(job_id)
            lanes.leave(job_id)
            lanes.done(job_id)

        def fill() -> int:
            before = len(claimed)
            while lanes.has_room(in_rows=in_rows):
                claimed.append(f"job-{len(claimed)}")
                lanes.admit(claimed[-1], 0)
            return len(claimed) - before

        lanes.admit("first", 0)
        await run("first")
        fill()
        for run_since, job_id in enumerate(tuple(claimed), 1):
            await run(job_id)
            if filled := fill():
                assert filled == run_since
                return filled
        return 0

    assert loop.run(main()) == after


@pytest.mark.parametrize(("others_wait", "at_once"), [(True, 8), (False, 1)])
def test_outcomes_of_short_commands_go_on_in_a_row_while_others_wait(
    others_wait: bool, at_once: int, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queuectl.pool.lanes._ROW_S", DEADLINE_S)  # however slow this machine is
    went: list[int] = []

    async def ended(lanes: Lanes, number: int) -> None:
        await lanes.step_back()
        went.append(number)

    async def main() -> None:
        lanes = await after_a_short_one(loop)
        if others_wait:
            lanes.admit("waits", 0)
        over = []
        for number in range(1, 9):
            over.append(loop.start(ended(lanes, number)))
            await loop.rest()
            await loop.rest()
            assert went == ([] if number < at_once else list(range(1, number + 1)))
        for one in over:
            await one

    loop.run(main())


def test_an_outcome_whose_row_does_not_come_goes_on_by_itself(loop: Loop) -> None:
    async def main() -> None:
        lanes = await after_a_short_one(loop)
        lanes.admit("waits", 0)
        one, other = loop.start(lanes.step_back()), loop.start(lanes.step_back())
        await loop.rest()
        assert not one.done
        await loop.wait_for(one, DEADLINE_S, otherwise=None)
        await loop.wait_for(other, DEADLINE_S, otherwise=None)
        third = loop.start(lanes.step_back())
        await loop.wait_for(third, DEADLINE_S, otherwise=None)

    began_s = time.monotonic()
    loop.run(main())
    assert time.monotonic() - began_s < DEADLINE_S


async def after_a_short_one(loop: Loop) -> Lanes:
    lanes = Lanes(loop, 1)
    lanes.admit("short", 0)
    assert await lanes.enter("short")
    lanes.leave("short")
    lanes.done("short")
    return lanes
