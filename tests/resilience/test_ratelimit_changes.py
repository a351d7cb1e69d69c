"""The limit is changed while callers wait, or the clock is: all of them go, or are told, and nobody gets more."""

import asyncio
import threading
import time
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import RateLimited
from holdfast.resilience.ratelimit import RateLimit, Reservation
from holdfast.resilience.rates import ALGORITHMS
from holdfast.resilience.rates.line import LATENESS, TaskBell
from resilience.rates.test_promises import most_beyond

NAMES = sorted(ALGORITHMS)
MOVING = pytest.mark.parametrize("algorithm", ["token_bucket", "gcra"])
PATIENCE = 30.0
TOO_LATE = "its turn would come too late since the limit was changed"


class Turning(VirtualClock):
    """One that can be set back."""

    def turn(self, seconds: float) -> None:
        self._now += seconds


async def outcome(limit: RateLimit, n: float, timeout: float, **more: Any) -> tuple[float, str]:
    """When somebody went on, and why not if he was refused."""
    clock = limit.settings.clock
    assert clock is not None
    try:
        await limit.acquire_async(n, timeout, **more)
    except RateLimited as error:
        return clock.now() - 1000, error.reason
    return clock.now() - 1000, ""


@MOVING
def test_one_who_wants_more_than_the_burst_is_now_is_told_at_once_and_blocks_nobody(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=10, algorithm=algorithm, clock=clock)

    async def main() -> list[tuple[float, str]]:
        assert limit.try_acquire(10)
        tasks = [asyncio.create_task(outcome(limit, n, 60)) for n in (8, 7, 1, 1)]
        await clock.sleep(0.1)
        limit.update(burst=5)
        return list(await asyncio.gather(*tasks))

    found = clock.run(main())
    assert [reason for _, reason in found] == [TOO_LATE, TOO_LATE, "", ""]
    assert [at for at, _ in found] == pytest.approx([0.1, 0.1, 0.1, 0.2], abs=1e-3)
    assert (limit.waiting, limit.refused, limit.waited) == (0, 2, 2)


def test_a_key_that_falls_to_a_smaller_tier_blocks_nobody_either() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=5, tiers={"paid": {"rate": "10/s", "burst": 10}}, tier="key", clock=clock)

    async def main() -> list[tuple[float, str]]:
        assert limit.try_acquire(10, key="anna", tier="paid")
        tasks = [asyncio.create_task(outcome(limit, n, 60, key="anna", tier="paid")) for n in (8, 1)]
        await clock.sleep(0.1)
        assert not limit.try_acquire(1, key="anna")
        return list(await asyncio.gather(*tasks))

    assert [reason for _, reason in clock.run(main())] == [TOO_LATE, ""]


@MOVING
def test_a_slower_rate_lets_nobody_wait_longer_than_he_wanted_to(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=1, algorithm=algorithm, clock=clock)

    async def main() -> list[tuple[float, str]]:
        assert limit.try_acquire()
        tasks = [asyncio.create_task(outcome(limit, 1, 2)) for _ in range(3)]
        await clock.sleep(0.05)
        limit.update(rate="1/h", burst=1)
        return list(await asyncio.gather(*tasks))

    found = clock.run(main())
    assert [reason for _, reason in found] == [TOO_LATE] * 3
    assert max(at for at, _ in found) <= 2 + LATENESS
    assert limit.waiting == 0
    # They have given everything back.
    assert limit.usage()["reset"] == pytest.approx(1800, abs=1)


def test_nobody_waits_longer_than_he_wanted_to_since_others_were_late() -> None:
    clock = VirtualClock()
    limit = RateLimit("100/s", burst=1, clock=clock)

    async def main() -> list[tuple[float, str]]:
        tasks = [asyncio.create_task(outcome(limit, 1, 1.0)) for _ in range(100)]
        await asyncio.sleep(0)
        clock.advance(0.9)  # the loop was blocked
        return list(await asyncio.gather(*tasks))

    found = clock.run(main())
    assert max(at for at, _ in found) <= 1.0 + LATENESS + 1e-6
    assert [reason for _, reason in found].count("") >= 10


@MOVING
def test_a_reservation_above_the_new_burst_is_used_at_its_time_and_those_behind_it_pay(algorithm: Any) -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=10, algorithm=algorithm, clock=clock)

    async def main() -> list[tuple[float, str]]:
        assert limit.try_acquire(10)
        first = asyncio.create_task(outcome(limit, 1, 60))
        await asyncio.sleep(0)
        held = limit.reserve(8)
        assert held.delay == pytest.approx(0.9)
        last = asyncio.create_task(outcome(limit, 1, 60))
        await asyncio.sleep(0)
        limit.update(burst=5)
        return list(await asyncio.gather(first, last))

    found = clock.run(main())
    assert [reason for _, reason in found] == ["", ""]
    assert [at for at, _ in found] == pytest.approx([0.1, 1.0], abs=2e-3)


def test_one_who_waits_when_the_limit_begins_to_observe_is_not_refused() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=1, clock=clock)

    async def main() -> list[tuple[float, str]]:
        assert limit.try_acquire()
        tasks = [asyncio.create_task(outcome(limit, 1, 2)) for _ in range(2)]
        await asyncio.sleep(0)
        limit.update(rate="1/h", burst=1, observe=True)
        return list(await asyncio.gather(*tasks))

    found = clock.run(main())
    assert [reason for _, reason in found] == ["", ""]
    assert (limit.waiting, limit.refused, limit.observed) == (0, 0, 2)
    # What would have been refused has taken nothing.
    assert limit.usage()["reset"] == pytest.approx(3600, abs=1)


@pytest.mark.parametrize(("before", "after"), list(product(NAMES, NAMES)))
@pytest.mark.parametrize("rate", ["10/s", "20/s"])
def test_no_change_of_algorithm_or_rate_lets_more_pass(before: Any, after: Any, rate: str) -> None:
    """Forty wait by the old algorithm. Those that come later find nothing that these will use."""
    clock = VirtualClock()
    limit = RateLimit("10/s", algorithm=before, warm_up=0.001, clock=clock)
    went: list[tuple[float, float]] = []

    async def one() -> None:
        await limit.acquire_async(1, PATIENCE)
        went.append((clock.now(), 1.0))

    async def main() -> None:
        while limit.try_acquire():
            pass
        tasks = [asyncio.create_task(one()) for _ in range(40)]
        await clock.sleep(0.001)
        limit.update(rate=rate, algorithm=after)
        for _ in range(800):
            if limit.try_acquire():
                went.append((clock.now(), 1.0))
            await clock.sleep(0.01)
        await asyncio.gather(*tasks)

    clock.run(main())
    count = float(rate.partition("/")[0])
    assert most_beyond(sorted(went), count) <= count + 1e-4
    assert len(went) >= 40 + 10
    assert limit.waiting == 0


@pytest.mark.parametrize("key", [None, "anna"])
def test_those_that_wait_by_the_old_algorithm_go_by_the_new_rate(key: str | None) -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", burst=1, clock=clock)

    async def main() -> list[tuple[float, str]]:
        assert limit.try_acquire(key=key)
        tasks = [asyncio.create_task(outcome(limit, 1, 1e5, key=key)) for _ in range(3)]
        await asyncio.sleep(0)
        limit.update(rate="10/s", burst=1, algorithm="gcra")
        await clock.sleep(0.15)
        limit.update(rate="100/s")
        return list(await asyncio.gather(*tasks))

    assert [at for at, _ in clock.run(main())] == pytest.approx([0.1, 0.155, 0.165], abs=2e-3)


def test_those_in_a_tier_that_is_taken_away_go_by_what_is_left() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=1, tiers={"slow": "1/h"}, tier="key", clock=clock)

    async def main() -> list[tuple[float, str]]:
        assert limit.try_acquire(tier="slow")
        task = asyncio.create_task(outcome(limit, 1, 1e5, tier="slow"))
        await asyncio.sleep(0)
        limit.update(tiers=None, tier=None)
        return [await task]

    assert clock.run(main())[0][0] == pytest.approx(0.1, abs=2e-3)


def test_a_leaky_bucket_that_gets_faster_keeps_the_times_and_the_order_of_those_in_it() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", algorithm="leaky_bucket", clock=clock)
    assert [limit.reserve().delay for _ in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    limit.update(rate="100/s")
    assert limit.reserve().delay == pytest.approx(0.31)


@MOVING
def test_all_in_a_line_keep_their_waits_when_the_clock_is_set_back(algorithm: Any) -> None:
    clock = Turning()
    limit = RateLimit("10/s", burst=1, algorithm=algorithm, clock=clock)
    book = limit._book

    async def main() -> None:
        assert limit.try_acquire()
        now = clock.now()
        marks = [book.reserve(now, 1, PATIENCE, None, "", clock, TaskBell) for _ in range(3)]
        held = [Reservation(1, now + wait, wait, None, meter, mark) for meter, wait, mark in marks]
        rests = [book.rest(each, now, clock) for each in held]
        clock.turn(-3600)
        again = [book.rest(each, clock.now(), clock) for each in reversed(held)]
        assert rests == pytest.approx([0.1, 0.2, 0.3])
        assert again == pytest.approx(rests[::-1])
        for each in held:
            clock.advance(0.1001)
            assert book.rest(each, clock.now(), clock) == 0.0

    asyncio.run(main())


def test_a_thread_whose_clock_is_set_back_waits_as_long_as_it_was_told() -> None:
    class Stepping(Turning):
        def pause(self, seconds: float) -> None:
            slept.append(seconds)
            self.turn(seconds if len(slept) > 1 else seconds / 2 - 3600)

    slept: list[float] = []
    algorithms: tuple[Any, ...] = ("sliding_log", "token_bucket")
    for algorithm in algorithms:
        slept.clear()
        clock = Stepping()
        limit = RateLimit("1/s", algorithm=algorithm, clock=clock)
        assert limit.try_acquire()
        limit.acquire(1, 10)
        assert sum(slept) <= 2.5, algorithm


def test_a_thread_is_woken_by_a_faster_rate() -> None:
    limit = RateLimit("1/h", burst=1)
    assert limit.try_acquire()
    thread = threading.Thread(target=limit.acquire, args=(1, 36_000))
    thread.start()
    _until(lambda: limit.waiting == 1)
    limit.update(rate="1000/s")
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert (limit.waiting, limit.waited) == (0, 1)


def test_a_thread_that_wants_too_much_by_now_is_told_at_once() -> None:
    limit = RateLimit("1/h", burst=10)
    assert limit.try_acquire(10)
    errors: list[RateLimited] = []

    def work() -> None:
        try:
            limit.acquire(8, 360_000)
        except RateLimited as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    _until(lambda: limit.waiting == 1)
    limit.update(burst=5)
    thread.join(PATIENCE)
    assert [error.reason for error in errors] == [TOO_LATE]
    assert errors[0].retry_after is None


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
