"""The rising rate against the figures of Guava's RateLimiterTest, and against its curve integrated slowly."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.resilience.rates import Meter, Terms, WarmUp
from resilience.rates.scale import START


def terms(rate: float, cold: float, warm_up: float = 4.0) -> Terms:
    return Terms(WarmUp, rate, rate, warm_up=warm_up, cold=cold)


class Run:
    """Acquires as Guava's tests do: each waits until it may, and sleeps are between them."""

    def __init__(self, rate: float, cold: float) -> None:
        self.tested: Meter = WarmUp(terms(rate, cold))
        self.now = START
        self.cold = cold

    def acquire(self, times: int) -> list[float]:
        found = []
        for _ in range(times):
            wait, mark = self.tested.reserve(self.now, 1, inf)
            assert mark is not None
            self.now += wait
            found.append(wait)
        return found

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def set_rate(self, rate: float) -> None:
        self.tested.move(self.now, terms(rate, self.cold))


def close(*figures: float) -> list[object]:
    """Guava prints two digits."""
    return [pytest.approx(figure, abs=0.0051) for figure in figures]


FROM_COLD = close(0.00, 1.38, 1.13, 0.88, 0.63, 0.50, 0.50, 0.50)
FROM_COLD_10 = close(0.00, 1.75, 1.26, 0.76, 0.30, 0.20, 0.20, 0.20)


def test_the_rate_rises_as_in_guava() -> None:
    """testWarmUp."""
    run = Run(2, 3)
    assert run.acquire(8) == FROM_COLD
    run.sleep(4.5)
    assert run.acquire(8) == FROM_COLD
    run.sleep(2.5)  # not long enough to get cold
    assert run.acquire(8) == close(0.00, 0.50, 0.50, 0.50, 0.50, 0.50, 0.50, 0.50)


def test_a_larger_cold_factor_rises_as_in_guava() -> None:
    """testWarmUpWithColdFactor."""
    run = Run(5, 10)
    assert run.acquire(8) == FROM_COLD_10
    run.sleep(4.2)
    assert run.acquire(8) == FROM_COLD_10
    run.sleep(1.2)
    assert run.acquire(8) == close(0.00, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20)


def test_a_cold_factor_of_one_is_an_even_rate() -> None:
    """testWarmUpWithColdFactor1."""
    run = Run(5, 1)
    assert run.acquire(8) == close(0.00, *[0.20] * 7)
    run.sleep(0.34)
    assert run.acquire(8) == close(0.00, *[0.20] * 7)


def test_another_rate_is_as_cold_as_the_old_one_was() -> None:
    """testWarmUpAndUpdate."""
    run = Run(2, 3)
    run.acquire(8)
    run.sleep(4.5)
    assert run.acquire(3) == close(0.00, 1.38, 1.13)
    run.set_rate(4)
    assert run.acquire(1) == close(0.88)  # what the last one owes is paid at the old rate
    assert run.acquire(4) == close(0.34, 0.28, 0.25, 0.25)
    run.sleep(4.25)
    assert run.acquire(11) == close(0.00, 0.72, 0.66, 0.59, 0.53, 0.47, 0.41, 0.34, 0.28, 0.25, 0.25)


def test_another_rate_with_a_larger_cold_factor() -> None:
    """testWarmUpAndUpdateWithColdFactor."""
    run = Run(5, 10)
    run.acquire(8)
    run.sleep(4.2)
    assert run.acquire(3) == close(0.00, 1.75, 1.26)
    run.set_rate(10)
    assert run.acquire(1) == close(0.76)
    assert run.acquire(4) == close(0.20, 0.10, 0.10, 0.10)
    run.sleep(4.1)
    assert run.acquire(11) == close(0.00, 0.94, 0.81, 0.69, 0.57, 0.44, 0.32, 0.20, 0.10, 0.10, 0.10)


def test_warming_up_takes_as_long_as_it_says() -> None:
    run = Run(100, 3)
    began = run.now
    waits = run.acquire(600)
    steps = [sum(waits[: number + 1]) for number in range(len(waits))]
    first_full = next(step for step, wait in zip(steps, waits, strict=True) if wait < 0.0100001 and step > 0)
    assert first_full == pytest.approx(4.0, abs=0.03)
    assert run.now - began == pytest.approx(steps[-1])


@settings(max_examples=50, deadline=None)
@given(st.floats(1, 50), st.floats(1, 10), st.floats(0.5, 20), st.lists(st.floats(0.1, 30), min_size=1, max_size=6))
def test_uses_take_the_area_under_the_curve(rate: float, cold: float, warm_up: float, costs: list[float]) -> None:
    tested = WarmUp(terms(rate, cold, warm_up))
    interval = 1 / rate
    threshold = warm_up * rate / 2
    most = threshold + 2 * warm_up / (interval * (1 + cold))
    stored = most

    def pace(permits: float) -> float:
        """Seconds a permit takes when so many are stored."""
        share = max(permits - threshold, 0.0) / (most - threshold)
        return interval * (1 + (cold - 1) * share)

    slices = 2000
    for n in costs:
        area = sum(pace(max(stored - n * (part + 0.5) / slices, 0.0)) for part in range(slices)) * n / slices
        before = tested.reset(START)
        tested.reserve(START, n, inf)
        assert tested.reset(START) - before == pytest.approx(area, rel=1e-3)
        stored = max(stored - n, 0.0)


def test_a_cancelled_use_gives_its_time_back_and_stays_warm() -> None:
    tested = WarmUp(terms(2, 3))
    tested.reserve(START, 1, inf)
    wait, mark = tested.reserve(START, 2, inf)
    ahead = tested.reset(START)
    assert mark is not None
    assert tested.cancel(START, 2, START + wait, mark) == pytest.approx(2)
    assert tested.reset(START) == pytest.approx(wait)
    assert wait < ahead
