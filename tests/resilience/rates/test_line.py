"""Callers that wait, on a virtual clock: what they are told, in which order they go, and what they get in all."""

import asyncio
import random
from typing import Any

import pytest

from effort import examples
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import RateLimited
from holdfast.resilience.ratelimit import RateLimit
from resilience.rates.test_promises import most_beyond

RATE, BURST = 10.0, 10.0
MOVING = pytest.mark.parametrize("algorithm", ["token_bucket", "gcra"])
Uses = list[tuple[float, float]]


def net(changes: Uses) -> Uses:
    """What happens at the same time is one change."""
    found: dict[float, float] = {}
    for at, n in changes:
        found[at] = found.get(at, 0.0) + n
    return sorted(found.items())


@MOVING
@pytest.mark.parametrize("seed", [1, 2, 3][: examples(3)])
def test_what_is_given_back_is_used_at_once_and_no_interval_gets_too_much(algorithm: Any, seed: int) -> None:
    """Ten minutes with a queue all the time; half of the calls cost less than they took, some give up."""
    chance = random.Random(seed)
    clock = VirtualClock()
    limit = RateLimit(RATE, burst=BURST, algorithm=algorithm, clock=clock, max_waiting=1000)
    changes: Uses = []
    order: list[int] = []
    late: list[float] = []
    refusals: list[float | None] = []

    async def one(number: int) -> None:
        n = chance.choice((0.5, 1.0, 3.0, 5.0))
        told = clock.now() + 20
        try:
            async with asyncio.timeout(chance.uniform(0, 20) if chance.random() < 0.2 else None):
                taken = await limit.acquire_async(n, 20)
        except RateLimited as refused:
            refusals.append(refused.retry_after)
            return
        except TimeoutError:
            return
        late.append(clock.now() - told)
        order.append(number)
        changes.append((clock.now(), n))
        if chance.random() < 0.5:
            await clock.sleep(chance.choice((0.0, chance.expovariate(1))))
            changes.append((clock.now(), -limit.settle(taken, n * chance.random())))

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(12_000):
                await clock.sleep(chance.expovariate(20))
                group.create_task(one(number))

    began = clock.now()
    clock.run(main())
    seconds = 590.0  # as long as more came than could go
    gave = -sum(n for _, n in changes if n < 0)
    assert most_beyond(net(changes), RATE) <= BURST + 1e-4
    assert sum(n for at, n in changes if at < began + seconds) >= 0.999 * RATE * seconds
    assert gave > 0.15 * RATE * seconds
    assert order == sorted(order)
    assert max(late) <= 1e-6
    assert min(wait or 0.0 for wait in refusals) > 20
    assert limit.waiting == 0


@MOVING
def test_those_behind_move_up_when_somebody_leaves(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=1, algorithm=algorithm, clock=clock)
    went: dict[str, float] = {}

    async def one(name: str, n: float = 1.0) -> None:
        await limit.acquire_async(n, 10)
        went[name] = clock.now() - began

    async def main() -> None:
        tasks = {name: asyncio.create_task(one(name)) for name in "abcde"}
        await asyncio.sleep(0)
        assert limit.waiting == 4
        await clock.sleep(0.15)
        tasks["c"].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert tasks["c"].cancelled()

    began = clock.now()
    clock.run(main())
    assert went == pytest.approx({"a": 0.0, "b": 0.1, "d": 0.2, "e": 0.3})
    assert (limit.waiting, limit.waited) == (0, 3)


@MOVING
def test_those_that_wait_move_up_when_something_is_given_back(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=10, algorithm=algorithm, clock=clock)
    went: list[float] = []

    async def one() -> None:
        await limit.acquire_async(5, 10)
        went.append(clock.now() - began)

    async def main() -> None:
        first = await limit.acquire_async(10)
        tasks = [asyncio.create_task(one()) for _ in range(4)]
        await clock.sleep(0.2)
        assert limit.settle(first, 3) == pytest.approx(7)  # nine are there: five pass, four are left
        await asyncio.gather(*tasks)

    began = clock.now()
    clock.run(main())
    assert went == pytest.approx([0.2, 0.3, 0.8, 1.3])


@MOVING
def test_no_more_is_given_back_than_there_is_room_for(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=10, algorithm=algorithm, clock=clock)

    async def main() -> None:
        first = await limit.acquire_async(10)
        big = asyncio.create_task(limit.acquire_async(10, 10))
        await clock.sleep(0.4)
        second = asyncio.create_task(limit.acquire_async(4, 10))
        await asyncio.sleep(0)
        assert limit.settle(first, 0) == pytest.approx(6)  # four have come in, and ten is all there can be
        await big
        assert clock.now() - began == pytest.approx(0.4)
        await second
        assert clock.now() - began == pytest.approx(0.8)

    began = clock.now()
    clock.run(main())


@MOVING
def test_nobody_overtakes_one_who_waits_for_much(algorithm: Any) -> None:
    """Small uses would take each token before there are ten: jhurliman/node-rate-limiter pull request 56."""
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=10, algorithm=algorithm, clock=clock)

    async def main() -> None:
        assert limit.try_acquire(10)
        big = asyncio.create_task(limit.acquire_async(10, 10))
        small = 0
        while not big.done():
            await clock.sleep(0.05)
            if not big.done():
                small += limit.try_acquire(0.1)
        assert small == 0
        assert clock.now() - began <= 1.06

    began = clock.now()
    clock.run(main())


@MOVING
def test_a_reservation_behind_others_keeps_its_time_and_its_turn(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=1, algorithm=algorithm, clock=clock)
    went: list[float] = []

    async def one() -> None:
        await limit.acquire_async(1, 10)
        went.append(clock.now() - began)

    async def main() -> None:
        limit.reserve()
        tasks = [asyncio.create_task(one()) for _ in range(2)]
        await asyncio.sleep(0)
        held = limit.reserve()
        other = limit.reserve()
        assert [held.delay, other.delay] == pytest.approx([0.3, 0.4])
        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(0)
        assert limit.cancel(other) == 1
        assert limit.cancel(other) == 0
        await asyncio.gather(*tasks)
        await clock.sleep(1)
        assert limit.cancel(held) == 0

    began = clock.now()
    clock.run(main())
    assert went == pytest.approx([0.1, 0.2, 0.4])
    assert limit.try_acquire()
    assert not limit.try_acquire()


@MOVING
def test_a_faster_rate_lets_those_that_wait_go_sooner(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("1/s", burst=1, algorithm=algorithm, clock=clock, per="key")
    went: list[float] = []

    async def one(key: str | None) -> None:
        await limit.acquire_async(1, 60, key=key)
        went.append(clock.now() - began)

    async def main() -> None:
        for key in (None, "user"):
            assert limit.try_acquire(key=key)
        tasks = [asyncio.create_task(one(key)) for key in (None, "user") for _ in range(3)]
        await clock.sleep(0.5)
        limit.update(rate="10/s", burst=1)
        await asyncio.gather(*tasks)

    began = clock.now()
    clock.run(main())
    assert sorted(went) == pytest.approx([0.55, 0.55, 0.65, 0.65, 0.75, 0.75])


def test_those_that_wait_outlive_another_algorithm() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=1, clock=clock)

    async def main() -> None:
        assert limit.try_acquire()
        tasks = [asyncio.create_task(limit.acquire_async(1, 10)) for _ in range(3)]
        await asyncio.sleep(0)
        limit.update(algorithm="sliding_log", burst=None)
        await asyncio.gather(*tasks)
        assert clock.now() - began == pytest.approx(0.3)

    began = clock.now()
    clock.run(main())
    assert limit.waiting == 0


def test_what_came_in_while_everybody_was_late_is_not_used_in_one_burst() -> None:
    """The loop was blocked for two seconds: that is what a bucket of one would have let pass without it."""
    clock = VirtualClock()
    limit = RateLimit("100/s", burst=1, clock=clock)
    went: list[float] = []

    async def one() -> None:
        await limit.acquire_async(1, 10)
        went.append(clock.now() - began)

    async def main() -> None:
        tasks = [asyncio.create_task(one()) for _ in range(100)]
        await asyncio.sleep(0)
        clock.advance(2)
        await asyncio.gather(*tasks)

    began = clock.now()
    clock.run(main())
    assert sum(at == pytest.approx(2) for at in went) == 3
    assert went[-1] == pytest.approx(2.96)
