"""The expectations are those of ``AIMDLimitTest`` in Netflix concurrency-limits, with its minimum of 20."""

import pytest

from holdfast.resilience.limits.algorithms import Aimd, Sample


def test_it_starts_where_it_is_told() -> None:
    assert Aimd(initial=10).limit == 10


def test_a_good_sample_adds_one() -> None:
    aimd = Aimd(initial=20, minimum=20, maximum=200)
    aimd.update(Sample(now=0.001, rtt=0.001, in_flight=10))
    assert aimd.limit == 21


def test_a_drop_takes_a_tenth_away() -> None:
    aimd = Aimd(initial=30, minimum=20, maximum=200)
    aimd.update(Sample(now=0.0, rtt=0.0, in_flight=0, dropped=True))
    assert aimd.limit == 27


def test_it_stays_below_its_maximum() -> None:
    aimd = Aimd(initial=21, maximum=21)
    aimd.update(Sample(now=0.001, rtt=0.001, in_flight=11))
    assert aimd.limit == 21


def test_it_stays_above_its_minimum() -> None:
    aimd = Aimd(initial=2, minimum=2)
    for _ in range(10):
        aimd.update(Sample(now=0.0, rtt=0.0, in_flight=0, dropped=True))
    assert aimd.limit == 2


def test_a_call_that_takes_longer_than_the_timeout_is_a_drop() -> None:
    aimd = Aimd(initial=30, timeout=5.0)
    aimd.update(Sample(now=5.0, rtt=5.0, in_flight=30))
    assert aimd.limit == 31
    aimd.update(Sample(now=10.1, rtt=5.1, in_flight=30))
    assert aimd.limit == 27


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    aimd = Aimd(initial=20)
    aimd.update(Sample(now=0.001, rtt=0.001, in_flight=9))
    assert aimd.limit == 20


@pytest.mark.parametrize("wrong", [{"backoff": 1.0}, {"backoff": 0.4}, {"timeout": 0.0}, {"minimum": 5, "maximum": 4}])
def test_what_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"backoff|timeout|limit"):
        Aimd(**wrong)
