"""What holds for every algorithm."""

import random
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.test_one_step import stores_after_a_switch
from holdfast.resilience.rates import ALGORITHMS, Meter
from resilience.rates.scale import NAMES, START, make

EVERY = pytest.mark.parametrize("name", NAMES)
METHODS = ("take", "reserve", "cancel", "settle", "left", "reset", "move", "_become", "rewind", "retire", "close")


def used_up(name: str, rate: float = 10.0, limit: float = 10.0) -> Meter:
    """A meter that gives nothing more at the start."""
    meter = make(name, rate, limit)
    while meter.take(START, 1):
        pass
    return meter


@EVERY
def test_its_methods_are_one_step_each_or_say_that_they_are_not(name: str) -> None:
    kind = ALGORITHMS[name]
    found = [
        wrong for method in METHODS if hasattr(kind, method) for wrong in stores_after_a_switch(kind.__dict__[method])
    ]
    assert bool(found) is not kind.atomic, found


@EVERY
def test_a_late_stamp_gives_no_refill_and_no_error(name: str) -> None:
    meter = used_up(name)
    at = START + 0.05
    wait, _ = meter.short(at, 1)
    due = at + wait
    for back in (0.0, 1e-9, 0.5, 100.0, 1e6):
        assert not meter.take(at - back, 1)
        assert meter.short(at - back, 1)[0] > 0
    assert meter.take(due, 1)
    while meter.take(due, 1):
        pass
    assert not meter.take(due - 1000, 1)


@EVERY
def test_what_is_left_stays_when_the_clock_is_set_back(name: str) -> None:
    for taken in range(3):
        meter = make(name, 10, 10)
        for _ in range(taken):
            meter.take(START, 1)
        before = meter.quota(START), meter.left(START)
        meter.rewind(3600)
        assert meter.seen in (START - 3600, -inf)
        quota, left = meter.quota(START - 3600), meter.left(START - 3600)
        assert left == pytest.approx(before[1], abs=1e-9)
        assert quota == pytest.approx(before[0], abs=1e-9)
        if not meter.take(START - 3600, 1):
            wait, _ = meter.short(START - 3600, 1)
            assert wait < 2
            assert meter.take(START - 3600 + wait, 1)


@EVERY
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0.001, 9.9)), min_size=1, max_size=30))
def test_after_exactly_the_wait_that_it_told_it_gives_and_not_much_earlier(
    name: str, steps: list[tuple[float, float]]
) -> None:
    meter = make(name, 10, 10)
    now = START
    for gap, n in steps:
        now += gap
        wait, _ = meter.short(now, n)
        assert meter.take(now, n) is (wait <= 1.1e-9)
        if wait > 1.1e-9:
            assert not meter.take(now + wait * 0.999 - 1e-8, n)
            now += wait
            assert meter.take(now, n)


@EVERY
@pytest.mark.parametrize("n", [-1.0, -inf, nan, inf])
def test_an_amount_that_makes_no_sense_takes_and_gives_nothing(name: str, n: float) -> None:
    meter = used_up(name)
    before = meter.quota(START)
    assert not meter.take(START, n)
    assert meter.reserve(START, n, inf) == (inf, None)
    assert meter.quota(START) == before
    assert make(name, 10, 10).take(START, n) is False


@pytest.mark.parametrize("name", ["token_bucket", "gcra", "sliding_counter", "sliding_log"])
def test_more_than_the_limit_fails_at_once_and_changes_nothing(name: str) -> None:
    meter = make(name, 10, 3)
    assert not meter.take(START, 3.001)
    assert meter.reserve(START, 3.001, inf) == (inf, None)
    assert meter.short(START, 3.001)[0] == inf
    assert meter.take(START, 3)


@EVERY
def test_one_that_is_as_good_as_new_is_retired_and_gives_nothing_any_more(name: str) -> None:
    meter = used_up(name)
    assert not meter.retire(START)
    end = START + 30
    assert not meter.retire(START - 1000)
    assert meter.retire(end)
    assert not meter.take(end, 1)
    assert meter.reserve(end, 1, inf) == (inf, None)
    closed = make(name, 10, 10)
    closed.close()
    assert not closed.take(START, 1)
    assert make(name, 10, 10).retire(START)


@EVERY
def test_a_reservation_ahead_keeps_it_from_being_retired(name: str) -> None:
    meter = used_up(name)
    for _ in range(15):
        wait, mark = meter.reserve(START, 1, inf)
        assert mark is not None
    assert not meter.retire(START + wait)


@EVERY
def test_reservations_are_due_in_the_order_in_which_they_were_made(name: str) -> None:
    seed = 11
    chance = random.Random(seed)
    meter = make(name, 10, 10)
    dues = [START + meter.reserve(START, chance.choice((0.5, 1, 2, 7)), inf)[0] for _ in range(100)]
    assert dues == sorted(dues), seed
    assert dues[-1] - START > 10
    # Nobody overtakes them, however little he wants.
    assert not meter.take(dues[-1] - 0.2, 0.001)


@EVERY
def test_what_is_cancelled_can_be_used_by_others(name: str) -> None:
    meter = used_up(name)
    wait, mark = meter.reserve(START, 1, inf)
    again, _ = meter.short(START, 1)
    assert again >= wait
    assert meter.cancel(START, 1, START + wait, mark) == pytest.approx(1)
    assert meter.short(START, 1)[0] == pytest.approx(wait, abs=1e-8)


@EVERY
def test_nothing_comes_back_once_its_time_has_come(name: str) -> None:
    meter = used_up(name)
    wait, mark = meter.reserve(START, 1, inf)
    later = START + wait + 0.01
    before = meter.left(later)
    assert meter.cancel(later, 1, START + wait, mark) == 0
    assert meter.left(later) == before


@EVERY
def test_what_cost_less_is_given_back_and_what_cost_more_is_taken(name: str) -> None:
    figures = []
    for actual in (0.0, 5.0, 9.0):
        meter = make(name, 10, 10)
        _, mark = meter.reserve(START, 5, 0.0)
        meter.settle(START, mark, actual - 5)
        figures.append(meter.reset(START) if name in ("leaky_bucket", "warm_up") else 10 - meter.left(START))
    if name == "warm_up":  # from cold, five take longer than at the full rate, at which the difference is settled
        assert figures[1] - figures[0] == pytest.approx(0.5)
        assert figures[2] - figures[1] == pytest.approx(0.4)
    else:
        scale = 0.1 if name == "leaky_bucket" else 1.0
        assert figures == [pytest.approx(actual * scale, abs=1e-6) for actual in (0.0, 5.0, 9.0)]


@EVERY
def test_a_debt_that_is_settled_is_paid_by_those_that_follow(name: str) -> None:
    meter = make(name, 10, 10)
    _, mark = meter.reserve(START, 1, 0.0)
    meter.settle(START, mark, 30)
    assert not meter.take(START + 0.9, 1)
    assert meter.take(START + 1000, 1)


@EVERY
def test_a_use_is_settled_with_what_is_there_when_its_own_place_is_gone(name: str) -> None:
    meter = make(name, 10, 10)
    mark: Any
    _, mark = meter.reserve(START, 1, 0.0)
    meter.settle(START + 100, mark, 9.5)
    assert not meter.take(START + 100, 1)


@EVERY
def test_other_terms_hold_from_then_on(name: str) -> None:
    slow, fast = make(name, 1, 10).terms, make(name, 100, 10).terms
    meter = ALGORITHMS[name](slow)
    while meter.take(START, 1):
        pass
    before = meter.short(START, 1)[0]
    meter.move(START, fast)
    assert meter.terms is fast
    used = sum(meter.take(START + step / 1000, 1) for step in range(30_000))
    # A log keeps what was used for the new period; the cold ones lose some seconds; a counter uses nine of ten.
    least = {"warm_up": 2600, "sliding_counter": 2680}.get(name, 2970)
    assert least <= used <= 3010
    assert before > 0.5
