"""The numbers are those of ``bbr_test.go`` of go-kratos/aegis and of ``adaptiveshedder_test.go`` of go-zero.

Both fill ten buckets of 100 ms; the last one is under way and does not count.
"""

import pytest

from holdfast.resilience.limits.algorithms import Bbr, Sample
from holdfast.resilience.limits.bbr import COOL_OFF


def filled(bbr: Bbr, first_pass: int, *, cpu: float = -1.0) -> Bbr:
    """The buckets of both tests: passes in steps of 100; latencies 1 to 10 ms in the first, 11 to 20 in the next."""
    for number in range(10):
        sample = Sample(
            now=number * 0.1,
            rtt=(number * 10 + 5.5) / 1000,
            in_flight=80,
            completed=first_pass + number * 100,
            seconds=0.1,
            cpu=cpu,
        )
        bbr.update(sample)
    return bbr


def test_kratos_holds_sixty() -> None:
    assert filled(Bbr(buckets=10), 200).held == 60


def test_go_zero_holds_fifty_four() -> None:
    assert filled(Bbr.go_zero(), 100).held == 54


def test_without_buckets_it_holds_one() -> None:
    assert Bbr().held == 1


def test_a_cool_processor_sets_no_limit() -> None:
    assert filled(Bbr(buckets=10, maximum=500), 200, cpu=0.7).limit == 500


def test_a_hot_processor_sets_the_limit() -> None:
    assert filled(Bbr(buckets=10, cpu_interval=0.001), 200, cpu=0.9).limit == 60


def test_the_limit_holds_for_a_second_after_the_heat() -> None:
    bbr = filled(Bbr(buckets=10, cpu_interval=0.001), 200, cpu=0.9)
    bbr.update(Sample(now=0.9 + COOL_OFF, rtt=0, in_flight=0, completed=0, seconds=0.5, cpu=0.7))
    assert bbr.limit == 60
    bbr.update(Sample(now=1.0 + COOL_OFF, rtt=0, in_flight=0, completed=0, seconds=0.1, cpu=0.7))
    assert bbr.limit == bbr.maximum


def test_the_average_of_the_processor_needs_seconds_to_rise() -> None:
    bbr = Bbr()
    seconds = 0.0
    while bbr.cpu < bbr.threshold:
        seconds += 0.1
        bbr.update(Sample(now=seconds, rtt=0.002, in_flight=50, completed=50, seconds=0.1, cpu=1.0))
    assert seconds == pytest.approx(15.7, abs=0.1)  # 0.95 ** (t / 0.5 s) = 0.2


def test_go_zero_lets_a_tenth_through_at_full_heat() -> None:
    bbr = Bbr.go_zero()
    for number in range(500):
        bbr.update(Sample(now=number * 0.1, rtt=0.1, in_flight=50, completed=100, seconds=0.1, cpu=1.0))
    assert bbr.held == 100
    assert bbr.limit == pytest.approx(10)


def test_a_threshold_of_all_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        Bbr(threshold=1.0)
