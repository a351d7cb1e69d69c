"""An hour of random arrivals: what each algorithm promises, for every interval of it.

The most that was used beyond ``rate * t`` in any interval is found in one pass: with S the sum of all uses before,
``S - rate * time`` may nowhere be more than the bound above its lowest value before.
"""

import random
from collections import deque
from collections.abc import Iterable
from heapq import heappop, heappush
from math import inf
from typing import Any

import pytest

from effort import examples
from holdfast.resilience.rates import Meter
from resilience.rates.scale import NAMES, START, make

HOUR = 3600.0
RATE, LIMIT = 10.0, 25.0
SPACED = ("leaky_bucket", "warm_up")
"""Those that have no burst: what may be used at once is one use, however large."""
SILENCES = 0.0005

Uses = list[tuple[float, float]]
SEEDS = pytest.mark.parametrize("seed", [1, 2][: examples(2)])
EVERY = pytest.mark.parametrize("name", NAMES)


def most_beyond(uses: Iterable[tuple[float, float]], rate: float) -> float:
    """The largest sum of uses in any interval, ends included, less ``rate`` times its length."""
    total, lowest, most = 0.0, inf, -inf
    for at, n in uses:
        lowest = min(lowest, total - rate * (at - START))
        total += n
        most = max(most, total - rate * (at - START) - lowest)
    return most


def most_within(uses: Iterable[tuple[float, float]], seconds: float) -> float:
    """The largest sum of uses in any interval of that length, one end of it excluded."""
    window: deque[tuple[float, float]] = deque()
    total, most = 0.0, 0.0
    for at, n in uses:
        while window and window[0][0] <= at - seconds + 1e-7:
            total -= window.popleft()[1]
        window.append((at, n))
        total += n
        most = max(most, total)
    return most


def arrivals(chance: random.Random, each_second: float, silences: float) -> Iterable[float]:
    """Independent ones for an hour, a share of them followed by silence, others by the next at the same time."""
    now = START
    while now < START + HOUR:
        yield now
        kind = chance.random()
        if kind < silences:
            now += chance.uniform(1, 10)
        elif kind < 0.99:
            now += chance.expovariate(each_second)


def refusing(
    meter: Meter,
    chance: random.Random,
    each_second: float,
    costs: tuple[float, ...] = (1.0,),
    silences: float = 0.0,
) -> Uses:
    """Callers that do not wait."""
    found = []
    for now in arrivals(chance, each_second, silences):
        n = chance.choice(costs)
        if meter.take(now, n):
            found.append((now, n))
    return found


def waiting(
    meter: Meter, chance: random.Random, costs: tuple[float, ...], cancelled: float, silences: float = 0.0
) -> Uses:
    """Callers that wait up to five seconds; a share of them leaves before its time has come. Whoever stays acts."""
    acts: Uses = []
    leaving: list[tuple[float, int, float, float, Any]] = []
    for number, now in enumerate(arrivals(chance, 20.0, silences)):
        while leaving and leaving[0][0] <= now:
            at, _, n, when, mark = heappop(leaving)
            meter.cancel(at, n, when, mark)
        n = chance.choice(costs)
        wait, mark = meter.reserve(now, n, chance.uniform(0, 5))
        if mark is None:
            continue
        if wait and chance.random() < cancelled:
            heappush(leaving, (now + wait * chance.random(), number, n, now + wait, mark))
        else:
            acts.append((now + wait, n))
    return sorted(acts)


def settled(meter: Meter, chance: random.Random, costs: tuple[float, ...]) -> Uses:
    """Callers of all kinds: some wait, some leave, some cost less than they took, and say so some time after."""
    changes: dict[float, float] = {}
    events: list[tuple[float, int, float, float, Any]] = []
    for number, now in enumerate(arrivals(chance, 20.0, SILENCES)):
        while events and events[0][0] <= now:
            at, _, n, when, mark = heappop(events)
            if at < when:
                meter.cancel(at, n, when, mark)
            else:
                changes[at] = changes.get(at, 0.0) - meter.settle(at, mark, -n * chance.random())
        n = chance.choice(costs)
        wait, mark = meter.reserve(now, n, chance.uniform(0, 5))
        if mark is None:
            continue
        when = now + wait
        fate = chance.random()
        if fate < 0.2 and wait:
            heappush(events, (now + wait * chance.random(), number, n, when, mark))
            continue
        changes[when] = changes.get(when, 0.0) + n
        if fate < 0.7:
            heappush(events, (when + chance.choice((0.0, chance.expovariate(1))), number, n, when, mark))
    return sorted(changes.items())


def bound(name: str, costs: tuple[float, ...]) -> float:
    return (max(costs) if name in SPACED else LIMIT) + 1e-4


@EVERY
@SEEDS
def test_no_interval_gets_more_than_was_promised(name: str, seed: int) -> None:
    chance = random.Random(seed)
    for costs in ((1.0,), (0.5, 1.0, 3.0, 7.5)):
        uses = refusing(make(name, RATE, LIMIT), chance, 40.0, costs, SILENCES)
        assert len(uses) > 1000
        assert most_beyond(uses, RATE) <= bound(name, costs)


@EVERY
@SEEDS
@pytest.mark.parametrize("cancelled", [0.0, 0.3])
def test_nor_do_callers_that_wait_and_leave(name: str, seed: int, cancelled: float) -> None:
    costs = (0.5, 1.0, 3.0, 7.5)
    uses = waiting(make(name, RATE, LIMIT), random.Random(seed), costs, cancelled, SILENCES)
    assert len(uses) > 5000
    assert most_beyond(uses, RATE) <= bound(name, costs)


@EVERY
@SEEDS
def test_nor_does_any_with_what_was_given_back(name: str, seed: int) -> None:
    """What is given back counts as a use of less than nothing, at the time at which it is."""
    costs = (0.5, 1.0, 3.0, 7.5)
    uses = settled(make(name, RATE, LIMIT), random.Random(seed), costs)
    assert min(n for _, n in uses) < 0
    assert most_beyond(uses, RATE) <= bound(name, costs)


@pytest.mark.parametrize("name", ["token_bucket", "gcra"])
@SEEDS
def test_all_of_it_is_given_under_saturation(name: str, seed: int) -> None:
    uses = refusing(make(name, RATE, LIMIT), random.Random(seed), 60.0)
    assert 0.999 * (RATE * HOUR + LIMIT) <= len(uses) <= RATE * HOUR + LIMIT + 1


@pytest.mark.parametrize("name", ["token_bucket", "gcra", "sliding_log", *SPACED])
@SEEDS
def test_all_of_it_is_given_to_callers_that_wait(name: str, seed: int) -> None:
    meter = make(name, RATE, LIMIT)
    uses = waiting(meter, random.Random(seed), (1.0,), 0.0)
    lost = 4.0 / 2 * RATE if name == "warm_up" else 0.0  # it begins cold: as many as half the time to get warm
    assert sum(n for _, n in uses) >= 0.999 * RATE * HOUR - lost


@SEEDS
def test_a_window_log_never_has_more_than_the_limit_in_one_period(seed: int) -> None:
    uses = refusing(make("sliding_log", RATE, LIMIT), random.Random(seed), 60.0)
    assert most_within(uses, LIMIT / RATE) == LIMIT
    # Each place is free again a period after its use, and then waits for the next caller.
    assert len(uses) >= RATE * HOUR / (1 + 1 / 60 / (LIMIT / RATE)) * 0.98


@SEEDS
def test_a_window_counter_has_two_limits_at_most_in_one_period_and_one_less_in_each(seed: int) -> None:
    meter = make("sliding_counter", RATE, LIMIT)
    uses = refusing(meter, random.Random(seed), 60.0)
    assert LIMIT < most_within(uses, LIMIT / RATE) <= 2 * LIMIT
    assert len(uses) >= RATE * HOUR * (LIMIT - 1) / LIMIT * 0.98


@EVERY
def test_the_search_for_the_worst_interval_finds_it(name: str) -> None:
    """The tests above are as good as this: a meter that is let have twice its rate is caught."""
    uses = refusing(make(name, 2 * RATE, LIMIT), random.Random(3), 80.0)
    assert most_beyond(uses, RATE) > bound(name, (1.0,))
    worst = max(
        sum(n for at, n in uses[:300][first : last + 1]) - RATE * (uses[last][0] - uses[first][0])
        for first in range(300)
        for last in range(first, 300)
    )
    assert most_beyond(uses[:300], RATE) == pytest.approx(worst)
