from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.resilience.circuit.window import CountWindow, TimeWindow

CALLS = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.booleans()), max_size=80)
"""Quarters of a second since the call before, which floats represent exactly; failed; marked."""


def succeed(window: TimeWindow | CountWindow, now: float) -> None:
    """A success as the owners of windows count it."""
    if now < window.edge:
        window.ok += 1
    else:
        window.add(now)


@dataclass
class Listed:
    """Every call there ever was, and a look through all of them."""

    seconds: float
    buckets: int
    calls: list[tuple[float, bool, bool]] = field(default_factory=list)

    def counts(self, now: float) -> tuple[int, int, int]:
        width = self.seconds / self.buckets
        oldest = now // width - self.buckets + 1
        inside = [call for call in self.calls if call[0] // width >= oldest]
        failed = sum(call[1] for call in inside)
        return len(inside) - failed, failed, sum(call[2] for call in inside)


@settings(max_examples=150, deadline=None)
@given(calls=CALLS, buckets=st.integers(1, 12), width=st.sampled_from([0.25, 1.0, 2.0]), later=st.integers(0, 60))
def test_a_time_window_counts_as_a_list_of_all_calls_does(
    calls: list[tuple[int, bool, bool]], buckets: int, width: float, later: int
) -> None:
    window = TimeWindow(buckets * width, buckets)
    model = Listed(buckets * width, buckets)
    now = 100.0
    for step, failed, marked in calls:
        now += step / 4
        if failed or marked:
            window.add(now, failed, marked)
        else:
            succeed(window, now)
        model.calls.append((now, failed, marked))
        assert window.counts(now) == model.counts(now)
    assert window.counts(now + later / 4) == model.counts(now + later / 4)


@settings(max_examples=150, deadline=None)
@given(calls=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), last=st.integers(1, 12))
def test_a_count_window_counts_as_the_end_of_a_list_does(calls: list[tuple[bool, bool]], last: int) -> None:
    window = CountWindow(last)
    for done, (failed, marked) in enumerate(calls, 1):
        if failed or marked:
            window.add(0.0, failed, marked)
        else:
            succeed(window, 0.0)
        inside = calls[max(0, done - last) : done]
        bad = sum(call[0] for call in inside)
        assert window.counts() == (len(inside) - bad, bad, sum(call[1] for call in inside))


@settings(max_examples=150, deadline=None)
@given(
    calls=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40),
    more=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40),
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_a_count_window_that_is_resized_keeps_the_latest_calls(
    calls: list[tuple[bool, bool]], more: list[tuple[bool, bool]], sizes: tuple[int, int]
) -> None:
    window = CountWindow(sizes[0])
    for failed, marked in calls:
        window.add(0.0, failed, marked)
    window.resize(sizes[1])
    known = calls[-sizes[0] :]
    for failed, marked in more:
        window.add(0.0, failed, marked)
        known.append((failed, marked))
    inside = known[-sizes[1] :]
    bad = sum(call[0] for call in inside)
    assert window.counts() == (len(inside) - bad, bad, sum(call[1] for call in inside))


@settings(max_examples=200, deadline=None)
@given(times=st.lists(st.tuples(st.floats(-1e9, 1e9), st.booleans()), max_size=40), buckets=st.integers(1, 5))
def test_a_clock_that_jumps_about_makes_no_count_negative(times: list[tuple[float, bool]], buckets: int) -> None:
    window = TimeWindow(10.0, buckets)
    for done, (now, failed) in enumerate(times, 1):
        if failed:
            window.add(now, True)
        else:
            succeed(window, now)
        for at in (-inf, now, now + 3, now - 3):
            counts = window.counts(at)
            assert min(counts) >= 0
            assert sum(counts) <= done
        assert 0 <= window.failing() <= buckets


def test_a_window_begins_anew_under_a_clock_that_is_a_whole_window_behind() -> None:
    window = TimeWindow(10.0, 10)
    for _ in range(5):
        window.add(100_000.0, True)
    window.add(99_995.0, True)
    assert window.counts() == (0, 6, 0)
    window.add(50.0, True)
    assert window.counts() == (0, 1, 0)
    assert window.edge == 51.0


def test_the_edge_is_the_end_of_the_bucket_unless_every_call_is_watched() -> None:
    window = TimeWindow(10.0, 10)
    assert window.edge == -inf
    window.add(3.25)
    assert window.edge == 4.0
    window.watch(True)
    window.add(5.5)
    assert window.edge == -inf
    window.watch(False)
    assert window.edge == 6.0
    counted = CountWindow(5)
    assert counted.edge == inf
    counted.watch(True)
    assert counted.edge == -inf


def test_memory_does_not_grow_with_the_calls() -> None:
    window = TimeWindow(10.0, 10)
    counted = CountWindow(7)
    for number in range(5000):
        window.add(number / 10, number % 2 == 0, True)
        counted.add(0.0, True, True)
    assert len(window._readings) == 10
    assert len(counted._failures) == len(counted._marks) == 7


def test_a_time_window_that_is_resized_keeps_its_counts_as_if_they_were_new() -> None:
    window = TimeWindow(10.0, 10)
    window.add(100.0, True)
    window.add(105.0)
    window.resize(105.0, 20.0, 4)
    assert window.counts(105.0) == (1, 1, 0)
    assert window.counts(124.0) == (1, 1, 0)
    assert window.counts(125.0) == (0, 0, 0)


def test_a_time_window_that_is_resized_late_keeps_nothing_that_is_old() -> None:
    window = TimeWindow(10.0, 10)
    window.add(100.0, True)
    window.resize(500.0, 20.0, 4)
    assert window.counts(500.0) == (0, 0, 0)


def test_the_same_size_again_changes_nothing() -> None:
    window = TimeWindow(10.0, 10)
    window.add(100.0, True)
    window.resize(105.0, 10.0, 10)
    assert window.counts(110.0) == (0, 0, 0)
    assert window.counts(109.0) == (0, 1, 0)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([], 0),
        ([(0.0, False)], 0),
        ([(0.0, True)], 1),
        ([(0.0, True), (1.0, True), (2.0, True)], 3),
        ([(0.0, True), (1.0, False), (2.0, True)], 1),
        ([(0.0, True), (3.0, True)], 2),
        ([(0.0, True), (0.5, False)], 0),
    ],
)
def test_buckets_count_as_failing_back_to_the_last_that_had_a_success(
    calls: list[tuple[float, bool]], expected: int
) -> None:
    window = TimeWindow(10.0, 10)
    for now, failed in calls:
        window.add(now, failed)
    assert window.failing() == expected


def test_resilience4j_moves_its_time_window_like_this() -> None:
    """``SlidingTimeWindowMetricsTest.testSlidingTimeWindowMetrics``: five buckets of a second."""
    window = TimeWindow(5.0, 5)
    now = 1_000_000.0
    seen = []
    steps = [(0.0, True), (0.1, False), (0.1, False), (1, False), (1, False), (1, True), (1, False)]
    for step, failed in [*steps, (1, False), (1, False), (5, False)]:
        now += step
        window.add(now, failed)
        ok, bad, _ = window.counts(now)
        seen.append((ok + bad, ok, bad))
    first = [(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (5, 4, 1), (6, 4, 2), (7, 5, 2)]
    assert seen == [*first, (5, 4, 1), (5, 4, 1), (1, 1, 0)]


def test_resilience4j_empties_its_time_window_like_this() -> None:
    """``SlidingTimeWindowMetricsTest.shouldClearSlidingTimeWindowMetrics``; marks are its slow errors."""
    window = TimeWindow(5.0, 5)
    start = 1_000_000.0
    window.add(start, True)
    window.add(start + 0.1)
    window.add(start + 0.8, True, True)
    assert window.counts(start + 4.8) == (1, 2, 1)
    assert window.counts(start + 5.8) == (0, 0, 0)
    window.add(start + 5.9)
    assert window.counts(start + 5.9) == (1, 0, 0)
    window.add(start + 10.9)
    assert window.counts(start + 10.9) == (1, 0, 0)


def test_resilience4j_moves_its_count_window_like_this() -> None:
    """``FixedSizeSlidingWindowMetricsTest``: testSlidingWindowMetrics, and the one with slow calls."""
    window = CountWindow(4)
    seen = []
    for failed in (True, False, False, False, False):
        window.add(0.0, failed)
        seen.append(window.counts())
    assert seen == [(0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0), (4, 0, 0)]
    window = CountWindow(2)
    seen = []
    for failed, slow in ((True, True), (False, True), (False, False), (False, False)):
        window.add(0.0, failed, slow)
        seen.append(window.counts())
    assert seen == [(0, 1, 1), (1, 1, 2), (2, 0, 1), (2, 0, 0)]


def test_gobreaker_discards_its_oldest_bucket_like_this() -> None:
    """v2, ``TestRollingWindowCircuitBreaker``: 30 s in 10 buckets, without its exclusions."""
    window = TimeWindow(30.0, 10)
    now = 3_000_000.0
    for _ in range(5):
        window.add(now)
        window.add(now, True)
    for step, failed in ((3, False), (2, False), (2, False), (2, True)):
        now += step
        window.add(now, failed)
    assert window.counts(now) == (8, 6, 0)
    for more in range(6):
        now += 3
        window.add(now)
        window.add(now, True)
        assert window.counts(now) == (9 + more, 7 + more, 0)
    now += 3
    window.add(now, True)
    assert window.counts(now) == (9, 8, 0)
