"""A short overload of a dependency that serves in order, also those who hung up: does it end when the load does?"""

import heapq
import random

import pytest

from holdfast.resilience.retrying.backoff import Exponential, next_delay
from holdfast.resilience.retrying.budget import RetryBudget

SEED = 5
CAPACITY = 100.0
PATIENCE = 0.5
BEGINS, ENDS = 20.0, 30.0


def answered_at_the_end(budget: RetryBudget | None, seconds: float = 110.0, attempts: int = 3) -> float:
    """The part of the calls of the last ten seconds that was answered. Load: 0.8 of the capacity, 1.3 for 10 s."""
    chance = random.Random(SEED)
    queue: list[tuple[float, int]] = []
    now = 0.0
    while now < seconds:
        now += chance.expovariate(CAPACITY * (1.3 if BEGINS <= now < ENDS else 0.8))
        heapq.heappush(queue, (now, 1))
    calls = answered = 0
    free_at = 0.0
    while queue:
        now, attempt = heapq.heappop(queue)
        late = seconds - 10 <= now < seconds
        if attempt == 1:
            calls += late
            if budget is not None:
                budget.begin(now)
        free_at = max(free_at, now) + 1 / CAPACITY
        if free_at - now <= PATIENCE:
            answered += late
            continue
        now += PATIENCE
        if attempt < attempts and (budget is None or budget.try_spend(now)):
            heapq.heappush(queue, (now + next_delay(attempt, Exponential(), "full", chance.random), attempt + 1))
    return answered / calls


def test_without_a_budget_the_overload_lasts_for_ever() -> None:
    assert answered_at_the_end(None) == 0.0
    assert answered_at_the_end(None, attempts=1) > 0.95


def test_the_default_budget_lets_it_end_and_twice_as_much_does_not() -> None:
    assert answered_at_the_end(RetryBudget()) > 0.95
    assert answered_at_the_end(RetryBudget(0.2, floor=10)) == 0.0


@pytest.mark.parametrize(
    ("ratio", "floor", "lasts_until", "is_over_by"),
    [
        (0.05, 0, 0, 60),  # 16 % of the capacity is left for the queue,
        (0.1, 3, 60, 80),  # 9 %,
        (0.2, 0, 110, 200),  # 4 %,
        (0.2, 10, 1000, None),  # nothing.
        (0.3, 0, 1000, None),
    ],
)
def test_what_the_retries_leave_of_the_capacity_ends_the_overload(
    ratio: float, floor: float, lasts_until: float, is_over_by: float | None
) -> None:
    if lasts_until:
        assert answered_at_the_end(RetryBudget(ratio, floor=floor), lasts_until) == 0.0
    if is_over_by:
        assert answered_at_the_end(RetryBudget(ratio, floor=floor), is_over_by) > 0.95
