import random
from math import isnan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.resilience.racing.quantile import BATCH, CAPACITY, RecentQuantile


def fed(recent: RecentQuantile, values: list[float], now: float = 0.0) -> float:
    for value in values:
        recent.batch.append(value)
        if len(recent.batch) >= BATCH:
            recent.turn(now)
    return recent.value


def slow(quantile: float, values: list[float]) -> float:
    """The least value such that a share ``quantile`` of all is not above it."""
    return min(value for value in values if sum(other <= value for other in values) >= quantile * len(values) - 1e-9)


@settings(max_examples=30)
@given(st.floats(0.01, 0.99), st.integers(1, 2), st.integers(0, 10_000))
def test_the_quantile_is_that_of_the_definition(quantile: float, batches: int, seed: int) -> None:
    chance = random.Random(seed)
    values = [chance.choice([1.0, 2.0, chance.random(), chance.expovariate(1)]) for _ in range(BATCH * batches)]
    assert fed(RecentQuantile(quantile, 60), values) == slow(quantile, values)


def test_nothing_is_known_before_the_first_batch_is_full() -> None:
    recent = RecentQuantile(0.5, 60)
    assert isnan(fed(recent, [1.0] * (BATCH - 1)))
    assert recent.count == 0


def test_only_the_last_values_count_so_that_memory_is_bounded() -> None:
    recent = RecentQuantile(0.99, 60)
    fed(recent, [9.0] * CAPACITY)
    assert fed(recent, [1.0] * CAPACITY) == 1.0
    assert recent.count == CAPACITY


def test_batches_that_are_too_old_are_forgotten() -> None:
    recent = RecentQuantile(0.5, window=60)
    fed(recent, [9.0] * BATCH * 3, now=0.0)
    assert fed(recent, [1.0] * BATCH, now=59.0) == 9.0
    assert fed(recent, [1.0] * BATCH, now=61.0) == 1.0
    assert recent.count == 2 * BATCH


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
def test_it_follows_a_change_of_the_latency(quantile: float) -> None:
    chance = random.Random(3)
    recent = RecentQuantile(quantile, 60)
    fed(recent, [chance.expovariate(100) for _ in range(5000)])
    before = recent.value
    fed(recent, [chance.expovariate(10) for _ in range(CAPACITY)])
    assert 5 < recent.value / before < 20
