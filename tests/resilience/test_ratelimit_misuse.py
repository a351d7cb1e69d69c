"""What is asked for by mistake: it is named, and changes nothing."""

import asyncio
import math
from typing import Any

import pytest

from core.test_one_step import stores_after_a_switch
from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError, RateLimited
from holdfast.core.rate import FASTEST, SLOWEST, Rate, parse_rate
from holdfast.resilience.ratelimit import RateLimit, Reservation
from holdfast.resilience.rates import ALGORITHMS, line

EVERY = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))


@EVERY
def test_a_reservation_of_another_limit_is_not_given_back_here_and_stays_good(algorithm: Any) -> None:
    clock = VirtualClock()
    own = RateLimit("10/s", algorithm=algorithm, clock=clock)
    other = RateLimit("10/s", algorithm=algorithm, clock=clock)
    place = own.reserve(5)
    while other.try_acquire():
        pass
    before = other.usage()
    for give_back in (other.refund, other.cancel, lambda held: other.settle(held, 7)):
        with pytest.raises(ValueError, match="given back to the limit that it is from, and this is another one"):
            give_back(place)
    assert other.usage() == before
    assert own.refund(place) == 5


def test_a_place_in_the_line_of_another_limit_is_not_touched() -> None:
    clock = VirtualClock()
    own, other = RateLimit("1/s", clock=clock), RateLimit("1/s", clock=clock)

    async def main() -> None:
        assert own.try_acquire()
        task = asyncio.create_task(own.acquire_async(1, 10))
        await asyncio.sleep(0)
        behind = own.reserve()
        with pytest.raises(ValueError, match="another one"):
            other.cancel(behind)
        assert own.cancel(behind) == 1
        await task

    clock.run(main())
    assert clock.now() == pytest.approx(1001)


def test_what_an_observing_limit_let_pass_gives_nothing_back_anywhere() -> None:
    limit = RateLimit("1/h", burst=1, observe=True, clock=VirtualClock())
    limit.acquire()
    passed = limit.acquire()
    assert limit.refund(passed) == limit.settle(passed, 5) == limit.cancel(passed) == 0
    assert limit.usage()["remaining"] == 0


@EVERY
def test_a_timeout_that_is_no_number_is_named_and_one_below_zero_is_none_at_all(algorithm: Any) -> None:
    limit = RateLimit("5/s", algorithm=algorithm, clock=VirtualClock())
    for ask in (limit.acquire, limit.reserve, lambda n, timeout: asyncio.run(limit.acquire_async(n, timeout))):
        with pytest.raises(ValueError, match="a timeout of nan makes no sense"):
            ask(1, math.nan)
    assert limit.acquire(1, -1.0).delay == 0
    while limit.try_acquire():
        pass
    for ask in (limit.acquire, limit.reserve):
        with pytest.raises(RateLimited) as caught:
            ask(1, -1.0)
        assert caught.value.retry_after
    assert limit.waiting == 0


def test_a_cost_below_zero_is_named_also_when_the_limit_is_in_debt() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=10, clock=clock)
    limit.settle(limit.acquire(1), 40)
    with pytest.raises(ValueError, match=r"a cost of -1\.0 makes no sense"):
        limit.enter(bare_call("x", clock=clock, cost=-1.0))
    assert limit.refused == 0


@pytest.mark.parametrize(
    "rate",
    [
        *(Rate(0), Rate(-5), Rate(5, -1), Rate(-5, -1), Rate(math.nan), Rate(math.inf), Rate(1, math.inf)),
        *(1e-310, SLOWEST / 2, FASTEST * 2, "1e300/s"),
    ],
)
def test_no_limit_can_be_made_of_a_rate_that_nothing_can_be_computed_from(rate: Any) -> None:
    with pytest.raises(ConfigError, match="expected a rate such as 100/s"):
        RateLimit(rate)
    with pytest.raises(ValueError, match="is not a rate: it is"):
        parse_rate(rate)
    assert str(rate)


@EVERY
@pytest.mark.parametrize("rate", [SLOWEST, "1/1d", "1e9/s", FASTEST])
@pytest.mark.parametrize("start", [1000.0, 3.2e8])
def test_every_rate_that_can_be_written_admits_refuses_and_tells_numbers(
    algorithm: Any, rate: Any, start: float
) -> None:
    clock = VirtualClock(start)
    limit = RateLimit(rate, algorithm=algorithm, clock=clock)
    assert limit.try_acquire()
    assert limit.try_acquire(1) in (True, False)
    used = limit.reserve(1)
    assert 0 <= used.delay < math.inf
    usage = limit.usage()
    assert all(math.isfinite(value) and value >= 0 for value in usage.values())
    if rate in (SLOWEST, "1/1d"):
        assert not limit.try_acquire()
        assert used.delay > 80_000
    limit.update(rate="5/s")
    assert limit.usage()["period"] == 1


@pytest.mark.parametrize(("rate", "burst"), [("1/d", 1000), ("10/s", 2.3), ("1e6/s", 0.7)])
def test_a_call_that_costs_the_whole_burst_passes_when_nothing_was_used(rate: str, burst: float) -> None:
    for step in range(200):
        clock = VirtualClock((3.2e8 if step % 2 else 1000.0) + step * 0.7)
        limit = RateLimit(rate, burst=burst, clock=clock)
        assert limit.try_acquire(burst)
        limit = RateLimit(rate, burst=burst, clock=clock)
        limit.enter(bare_call("x", clock=clock, cost=burst))
        assert limit.refused == 0


def test_to_claim_a_reservation_is_one_step() -> None:
    assert stores_after_a_switch(Reservation.claim) == []


def test_no_more_than_so_many_places_are_reserved_behind_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "PLACES_LIMIT", 5)
    clock = VirtualClock()
    limit = RateLimit("1/s", burst=1, clock=clock)

    async def main() -> None:
        limit.acquire(1.0)
        waiting = asyncio.create_task(limit.acquire_async(1.0, 100.0))
        await asyncio.sleep(0)
        places = [limit.reserve(1.0) for _ in range(4)]
        with pytest.raises(RateLimited, match="its turn would come too late"):
            limit.reserve(1.0)
        limit.cancel(places[-1])
        assert limit.reserve(1.0).delay == pytest.approx(places[-1].delay)
        waiting.cancel()

    clock.run(main())
