from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from queuectl.retry import DEAD, Backoff, after_failure

attempts = st.integers(1, 10_000)
backoffs = st.builds(
    Backoff,
    base=st.floats(0, 1000),
    max_s=st.floats(0, 1e8),
    jitter=st.floats(0, 1),
)


def test_the_wait_after_failure_n_is_base_to_the_n() -> None:
    policy = Backoff(base=2, max_s=3600)
    assert [policy.delay_s(n, lambda: 0.5) for n in (1, 2, 3, 4)] == [2, 4, 8, 16]


def test_the_wait_ends_at_the_longest() -> None:
    policy = Backoff(base=2, max_s=100)
    assert policy.delay_s(7, lambda: 0.0) == 100
    assert policy.delay_s(100_000, lambda: 0.0) == 100


def test_jitter_adds_a_random_part_of_the_wait() -> None:
    policy = Backoff(base=3, max_s=100, jitter=0.5)
    assert policy.delay_s(2, lambda: 0.0) == 9
    assert policy.delay_s(2, lambda: 1.0) == 13.5


@given(backoffs, attempts, st.floats(0, 1))
def test_a_wait_is_never_negative_and_never_over_the_longest(
    policy: Backoff, attempt: int, dice: float
) -> None:
    assert 0 <= policy.delay_s(attempt, lambda: dice) <= policy.longest_s


@given(backoffs, attempts, st.integers(0, 1000))
def test_a_job_is_dead_once_it_has_failed_max_retries_times(
    policy: Backoff, failed: int, max_retries: int
) -> None:
    verdict = after_failure(failed, max_retries, policy, lambda: 0.0)
    if failed >= max_retries:
        assert verdict == DEAD
    else:
        assert verdict.state == "failed"
        assert verdict.delay_s == policy.delay_s(failed, lambda: 0.0)


def test_a_job_without_retries_still_has_one_run() -> None:
    assert after_failure(1, 0, Backoff(base=2, max_s=9), lambda: 0.0) == DEAD
    assert after_failure(1, 1, Backoff(base=2, max_s=9), lambda: 0.0) == DEAD
    assert after_failure(1, 2, Backoff(base=2, max_s=9), lambda: 0.0).state == "failed"
