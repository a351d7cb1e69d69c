"""The expectations are those of ``VegasLimitTest`` in Netflix concurrency-limits.

There a limit of 10 has alpha 3 and beta 6. The jitter is held at its top, so that no sample is a probe.
"""

from typing import Any

import pytest

from holdfast.resilience.limits.algorithms import Sample, Vegas


def vegas(**settings: Any) -> Vegas:
    return Vegas(**{"initial": 10, "maximum": 20, "alpha": 3, "beta": 6, **settings}, uniform=lambda: 1.0)


def see(limit: Vegas, milliseconds: float, in_flight: int, *, dropped: bool = False) -> float:
    limit.update(Sample(now=0.0, rtt=milliseconds / 1000, in_flight=in_flight, dropped=dropped))
    return limit.limit


def test_a_large_limit_grows_by_six_times_its_logarithm() -> None:
    limit = Vegas(initial=10_000, maximum=20_000, uniform=lambda: 1.0)
    assert see(limit, 10_000, 5000) == 10_000
    assert see(limit, 10_000, 6000) == 10_024


def test_it_grows_by_beta_while_nothing_waits() -> None:
    limit = vegas()
    assert see(limit, 10, 10) == 10
    assert see(limit, 10, 11) == 16


def test_it_shrinks_when_more_than_beta_wait() -> None:
    limit = vegas()
    assert see(limit, 10, 10) == 10
    assert see(limit, 50, 11) == 9


def test_between_alpha_and_beta_it_rests() -> None:
    limit = vegas()
    assert see(limit, 10, 10) == 10
    assert see(limit, 14, 14) == 10


def test_a_decrease_is_smoothed() -> None:
    limit = Vegas(initial=100, maximum=200, smoothing=0.5, decrease=lambda now: now / 2, uniform=lambda: 1.0)
    assert [int(see(limit, rtt, 100)) for rtt in (10, 20, 20)] == [100, 75, 56]


def test_a_decrease_without_smoothing_counts_whole() -> None:
    limit = Vegas(initial=100, maximum=200, decrease=lambda now: now / 2, uniform=lambda: 1.0)
    assert [see(limit, rtt, 100) for rtt in (10, 20, 20)] == [100, 50, 25]


def test_a_drop_shrinks_it_whatever_the_latency() -> None:
    limit = vegas()
    see(limit, 10, 10)
    assert see(limit, 11, 1, dropped=True) == 9


def test_a_limit_that_is_not_used_rests() -> None:
    limit = vegas()
    see(limit, 10, 10)
    assert see(limit, 10, 4) == 10


def test_it_looks_for_a_new_fastest_call_from_time_to_time() -> None:
    limit = vegas(probe=3, maximum=10)
    see(limit, 10, 1)
    for _ in range(28):
        see(limit, 12, 1)
    assert limit.fastest == 0.010
    see(limit, 12, 1)  # the thirtieth: probe * limit
    assert limit.fastest == 0.012


def test_a_smoothing_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="smoothing"):
        Vegas(smoothing=0)
