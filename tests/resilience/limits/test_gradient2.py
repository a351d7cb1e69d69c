"""The average's expectations are those of ``ExpAvgMeasurementTest`` in Netflix concurrency-limits; the limit itself
has no published ones, so they are worked out by hand from its definition."""

from typing import Any

import pytest

from holdfast.resilience.limits.algorithms import Gradient2, Sample
from holdfast.resilience.limits.gradient2 import LongAverage


def see(limit: Gradient2, milliseconds: float, in_flight: int) -> float:
    limit.update(Sample(now=0.0, rtt=milliseconds / 1000, in_flight=in_flight))
    return limit.limit


def test_the_long_average_warms_up_as_a_mean_and_then_forgets() -> None:
    average = LongAverage(100, 10)
    expected = [10.0, 10.5, 11.0, 11.5, 12.0, 12.5, 13.0, 13.5, 14.0, 14.5]
    assert [average.add(10 + number) for number in range(10)] == pytest.approx(expected, abs=0.01)
    assert average.add(100) == pytest.approx(16.2, abs=0.1)


def test_it_grows_by_a_smoothed_queue_while_latencies_are_even() -> None:
    limit = Gradient2(initial=20)
    assert see(limit, 10, 20) == pytest.approx(20 + 0.2 * 4)
    assert see(limit, 14, 20) == pytest.approx(20 + 0.2 * 8)  # 14 ms is within 1.5 times the mean of 12


def test_it_shrinks_with_the_gradient() -> None:
    limit = Gradient2(initial=20)
    for _ in range(10):
        see(limit, 10, 0)
    average = 10 + (20 - 10) * 2 / 601
    wanted = 20 * 1.5 * average / 20 + 4
    assert see(limit, 20, 20) == pytest.approx(20 + 0.2 * (wanted - 20))


def test_no_sample_takes_more_than_half() -> None:
    limit = Gradient2(initial=100, smoothing=1.0)
    for _ in range(10):
        see(limit, 10, 0)
    assert see(limit, 10_000, 100) == 54


def test_a_limit_that_is_not_used_rests() -> None:
    limit = Gradient2(initial=20)
    assert see(limit, 10, 9) == 20
    assert see(limit, 10, 10) > 20


def test_after_an_overload_the_average_is_taken_down_quickly() -> None:
    limit = Gradient2()
    for _ in range(10):
        see(limit, 100, 20)
    see(limit, 10, 20)
    assert limit.average.value == pytest.approx((0.1 - 0.09 * 2 / 601) * 0.95)


def test_a_long_overload_carries_the_limit_away() -> None:
    # A single server of 1 ms a call that is always full: what calls take is the limit itself.
    limit = Gradient2(initial=20)
    for _ in range(10):
        see(limit, 1, 0)
    for _ in range(20_000):
        see(limit, limit.limit, int(limit.limit))
    assert limit.limit > 500


@pytest.mark.parametrize("wrong", [{"tolerance": 0.9}, {"smoothing": 0}, {"minimum": 0}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"tolerance|smoothing|minimum"):
        Gradient2(**wrong)
