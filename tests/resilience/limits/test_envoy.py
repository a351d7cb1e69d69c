"""The expectations are those of ``gradient_controller_test.cc`` of Envoy's adaptive concurrency filter.

There a timer ends a window each 100 ms; here a sample is a window.
"""

from typing import Any

import pytest

from holdfast.resilience.limits.algorithms import Envoy, Sample


class Driven:
    """An ``Envoy`` and its clock."""

    def __init__(self, **settings: Any) -> None:
        self.envoy = Envoy(**{"jitter": 0.0, "interval": 30.0, "requests": 5, "maximum": 1000, **settings})
        self.now = 151_200.0  # 42 hours, as there

    def call(self, milliseconds: float) -> float:
        self.envoy.update(Sample(now=self.now, rtt=milliseconds / 1000, in_flight=1))
        return self.envoy.limit

    def measure(self, milliseconds: float) -> None:
        for _ in range(self.envoy.requests):
            self.call(milliseconds)

    def window(self, milliseconds: float, calls: int = 5) -> float:
        self.now += 0.101
        self.envoy.update(Sample(now=self.now, rtt=milliseconds / 1000, in_flight=1, completed=calls, seconds=0.101))
        return self.envoy.limit


def test_the_ideal_latency_is_measured_at_the_minimum() -> None:
    driven = Driven(minimum=7, requests=50)
    for _ in range(49):
        assert driven.call(13) == 7
        assert driven.envoy.measuring
    driven.call(13)
    assert not driven.envoy.measuring
    assert driven.envoy.ideal == pytest.approx(0.013)


def test_calls_of_several_lengths_are_aggregated() -> None:
    driven = Driven()
    for milliseconds in range(1, 6):
        driven.call(milliseconds)
    assert driven.envoy.ideal == pytest.approx(0.003)


def test_calls_that_began_before_the_measurement_do_not_count() -> None:
    driven = Driven(minimum=2, initial=2, requests=25, buffer=0.0)
    driven.measure(1350)
    last = driven.envoy.limit
    for _ in range(29):
        driven.now += 0.9
        assert driven.window(1350) > last
        last = driven.envoy.limit
    driven.now += 5
    driven.call(300_000)
    assert driven.envoy.measuring
    assert driven.envoy.limit == 2
    for _ in range(30):
        driven.call(300_000)
    assert driven.envoy.measuring


def test_latencies_within_the_buffer_do_not_shrink_it() -> None:
    driven = Driven(buffer=0.5, minimum=3, initial=3)
    driven.measure(5)
    for _ in range(10):
        before = driven.envoy.limit
        assert driven.window(6) > before


def test_it_grows_by_at_most_twofold_and_shrinks_again() -> None:
    driven = Driven(buffer=0.1, minimum=7, initial=7)
    driven.measure(5)
    assert driven.envoy.ideal == pytest.approx(0.005)
    for _ in range(10):
        before = driven.envoy.limit
        driven.window(4)
        assert before <= driven.envoy.limit
        assert before / driven.envoy.limit >= 0.5
    for _ in range(10):
        before = driven.envoy.limit
        assert 7 <= driven.window(6) < before


def test_after_a_measurement_the_limit_comes_back() -> None:
    driven = Driven()
    driven.measure(5)
    driven.now += 1
    for _ in range(5):
        before = driven.envoy.limit
        assert driven.window(4) > before
    kept = driven.envoy.limit
    driven.now += 31
    driven.call(0.5)
    assert driven.envoy.limit == 3
    driven.now += 1
    for _ in range(4):
        assert driven.call(13) == 3
    assert driven.call(13) == kept


def test_a_window_without_calls_changes_nothing() -> None:
    driven = Driven()
    driven.measure(5)
    driven.window(4)
    before = driven.envoy.limit
    for _ in range(5):
        assert driven.window(0, calls=0) == before


@pytest.mark.parametrize(("jitter", "drawn", "seconds"), [(0.1, 0.5, 105.0), (0.0, 0.5, 100.0), (0.15, 1.0, 115.0)])
def test_the_next_measurement_is_put_off_by_the_jitter(jitter: float, drawn: float, seconds: float) -> None:
    driven = Driven(interval=100.0, jitter=jitter, uniform=lambda: drawn)
    driven.measure(5)
    assert driven.envoy.next_measurement == pytest.approx(driven.now + seconds)


def test_five_windows_at_the_minimum_bring_a_new_measurement() -> None:
    driven = Driven(interval=3600.0, buffer=0.0, minimum=7, initial=7)
    driven.measure(5)
    for _ in range(5):
        assert not driven.envoy.measuring
        driven.window(50)
    assert driven.envoy.measuring
    driven.now += 1
    for _ in range(5):
        driven.call(50)
    for _ in range(10):
        before = driven.envoy.limit
        assert driven.window(50) >= before
    assert driven.envoy.limit > 7
