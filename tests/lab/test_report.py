import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lab.histogram import Histogram
from holdfast.lab.report import Failure, Report, Second, Segment, assemble, decode, merge

DURATIONS = st.lists(st.floats(0, 4000), min_size=1, max_size=200)


def histogram(durations: list[float]) -> Histogram:
    made = Histogram()
    for duration in durations:
        made.record(duration)
    return made


@given(DURATIONS, st.floats(0, 1))
def test_a_quantile_is_never_too_low_and_at_most_one_step_too_high(durations: list[float], share: float) -> None:
    exact = sorted(durations)[max(math.ceil(share * len(durations)) - 1, 0)]
    assert exact <= histogram(durations).quantile(share) + 1e-12
    assert histogram(durations).quantile(share) <= exact * (1 + 1 / 64) + 2e-6


@given(DURATIONS, DURATIONS)
def test_added_histograms_equal_one_that_saw_everything(left: list[float], right: list[float]) -> None:
    joined = histogram(left)
    joined.add(histogram(right))
    assert joined == histogram(left + right)


def test_a_histogram_holds_what_is_beyond_its_range() -> None:
    made = histogram([1e9, -1.0])
    assert made.worst == 1e9
    assert made.quantile(0.0) <= 1e-6
    assert Histogram().quantile(0.5) == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        made.quantile(50)


def report(*, ok: int = 3, gap: float = 1.0, mark: str = "reload") -> Report:
    failure = Failure(2.5, "eof", "closed", 0.1, 7)
    segments = [
        Segment("start", 0.0, 1.5, ok=ok, latency=histogram([0.001] * ok), gap=0.1, opened=2, connections=[0, 0]),
        Segment(
            mark, 1.5, 4.0, failures={"eof": 1}, gap=gap, opened=1, idle_closed=1, connections=[1, 1], samples=[failure]
        ),
    ]
    series = [Second(ok=ok, worst=0.001), Second(), Second(failed=1), Second()]
    return assemble(segments, started=1000.0, final=[1, 2], series=series)


def test_a_report_adds_up_its_segments() -> None:
    whole = report()
    assert (whole.requests, whole.ok, whole.failed, whole.failures) == (4, 3, 1, {"eof": 1})
    assert (whole.opened, whole.kept, whole.idle_closed) == (3, 1, 1)
    assert (whole.gap, whole.duration, whole.rate) == (1.0, 4.0, 0.75)


def test_a_part_of_a_report_has_its_own_figures() -> None:
    part = report().between("reload")
    assert (part.requests, part.failed, part.began, part.duration) == (1, 1, 1.5, 2.5)
    assert (part.kept, [second.failed for second in part.series]) == (1, [0, 1, 0])
    assert report().between("start", "reload").kept == 2


def test_a_report_survives_json() -> None:
    whole = report()
    assert decode(whole.encode()) == whole
    assert b"\n" not in whole.encode()
    assert whole.summary()["gap_ms"] == 1000.0


def test_merged_reports_add_up_and_keep_common_marks() -> None:
    both = merge([report(ok=3, gap=1.0), report(ok=5, gap=0.4)])
    assert (both.ok, both.failed, both.opened, both.kept) == (8, 2, 6, 2)
    assert both.marks() == ["start", "reload"]
    assert both.latency.total == 8
    # Nobody had a success for at most as long as the luckier of the two.
    assert both.gap == 0.4
    assert [second.ok for second in both.series] == [8, 0, 0, 0]


def test_merged_reports_with_different_marks_keep_only_the_totals() -> None:
    both = merge([report(), report(mark="other")])
    assert both.marks() == ["start"]
    assert (both.requests, both.failures, both.duration, len(both.samples)) == (8, {"eof": 2}, 4.0, 2)
    with pytest.raises(ValueError, match="no reports"):
        merge([])
