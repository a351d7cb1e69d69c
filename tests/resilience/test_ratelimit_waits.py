"""Calls that wait for their turn, on the virtual clock."""

import asyncio
import itertools
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within, use_deadline
from holdfast.core.errors import DeadlineExceeded, RateLimited
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.rates import ALGORITHMS
from holdfast.resilience.timeout import Timeout
from holdfast.testing.interleave import every_order

EVERY = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))


def waiting(rate: str, clock: VirtualClock, max_wait: float = 10.0, **more: Any) -> tuple[RateLimit, Pipeline]:
    limit = RateLimit(rate, max_wait=max_wait, **more)
    return limit, Pipeline("x", limit, clock=clock)


async def seven() -> int:
    return 7


@EVERY
def test_a_sync_call_waits_for_its_turn(algorithm: Any) -> None:
    clock = VirtualClock()
    limit, pipeline = waiting("10/s", clock, algorithm=algorithm, warm_up=0.001)
    began = clock.now()
    assert [pipeline.call(lambda: 7) for _ in range(61)] == [7] * 61
    assert 4.9 <= clock.now() - began <= 7
    assert limit.waiting == 0
    assert limit.waited >= 6


@pytest.mark.parametrize("algorithm", ["token_bucket", "gcra", "leaky_bucket", "sliding_log"])
@pytest.mark.parametrize("start", [1000.0, 3.2e8])
def test_a_thread_that_waits_again_and_again_gets_all_of_a_fast_rate(algorithm: Any, start: float) -> None:
    """Also after ten years, when the clock resolves 60 ns: half of that may be lost with each use."""
    clock = VirtualClock(start)
    limit = RateLimit("5000/s", algorithm=algorithm, clock=clock)
    while limit.try_acquire():
        pass
    began = clock.now()
    for _ in range(10_000):
        limit.acquire(1, 5)
    assert 0.999 * 10_000 / 5000 <= clock.now() - began <= 10_000 / 5000 / 0.999 + 1 / 5000


@EVERY
def test_async_calls_wait_side_by_side(algorithm: Any) -> None:
    clock = VirtualClock()
    limit, pipeline = waiting("10/s", clock, algorithm=algorithm, warm_up=0.001)
    went: list[int] = []

    async def one(number: int) -> None:
        went.append(number)

    async def main() -> None:
        await asyncio.gather(*(pipeline.acall(one, number) for number in range(61)))

    began = clock.now()
    clock.run(main())
    assert went == list(range(61))
    assert 4.9 <= clock.now() - began <= 7
    assert limit.waiting == 0


def soonest(algorithm: Any, taken: int) -> float:
    """How long the next one has to wait when so many were asked for at once."""
    limit = RateLimit("10/s", algorithm=algorithm, clock=VirtualClock(), warm_up=0.001)
    return [limit.reserve() for _ in range(taken + 1)][-1].delay


@EVERY
def test_a_wait_that_would_be_too_long_is_refused_at_once_and_takes_nothing(algorithm: Any) -> None:
    clock = VirtualClock()
    delay = soonest(algorithm, 15)
    limit, pipeline = waiting("10/s", clock, max_wait=delay - 0.001, algorithm=algorithm, warm_up=0.001)
    for _ in range(15):
        limit.reserve()
    before, began = limit.usage(), clock.now()
    with pytest.raises(RateLimited, match=r"its turn would come after more than .+ s; retry after") as caught:
        pipeline.call(lambda: 7)
    assert caught.value.retry_after == pytest.approx(delay)
    assert (limit.usage(), clock.now()) == (before, began)
    limit.update(max_wait=delay + 0.001)
    assert pipeline.call(lambda: 7) == 7
    assert clock.now() == pytest.approx(began + delay)


@EVERY
def test_no_wait_goes_past_the_deadline(algorithm: Any) -> None:
    clock = VirtualClock()
    delay = soonest(algorithm, 15)
    limit, pipeline = waiting("10/s", clock, algorithm=algorithm, warm_up=0.001)
    for _ in range(15):
        limit.reserve()
    before, began = limit.usage(), clock.now()
    for seconds in (0.0, delay - 0.001, delay):
        with (
            deadline_within(seconds, now=clock.now()),
            pytest.raises(RateLimited, match="its turn would come after the deadline"),
        ):
            pipeline.call(lambda: 7)
    assert (limit.usage(), clock.now()) == (before, began)
    with deadline_within(delay + 0.01, now=clock.now()):
        assert pipeline.call(lambda: 7) == 7


def test_a_time_limit_around_it_is_a_deadline_too() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/s", max_wait=10)
    pipeline = Pipeline("x", Timeout(1.5), limit, clock=clock)

    async def main() -> list[Any]:
        return await asyncio.gather(*(pipeline.acall(seven) for _ in range(4)), return_exceptions=True)

    found = clock.run(main())
    assert found[:2] == [7, 7]
    assert [type(error) for error in found[2:]] == [RateLimited, RateLimited]
    assert clock.now() == pytest.approx(1001)


def test_more_than_so_many_do_not_wait() -> None:
    clock = VirtualClock()
    limit, pipeline = waiting("1/s", clock, max_waiting=3)

    async def main() -> list[Any]:
        return await asyncio.gather(*(pipeline.acall(seven) for _ in range(6)), return_exceptions=True)

    found = clock.run(main())
    assert found[:4] == [7] * 4
    assert [str(error) for error in found[4:]] == ["x: rate_limit: 3 callers wait already; retry after 4 s"] * 2
    assert (limit.waiting, limit.waited, limit.refused) == (0, 3, 2)


@EVERY
def test_a_cancelled_wait_gives_everything_back_that_nobody_has_used(algorithm: Any) -> None:
    clock = VirtualClock()
    limit, pipeline = waiting("10/s", clock, algorithm=algorithm, warm_up=0.001)

    async def main() -> None:
        taken = sum(limit.try_acquire() for _ in range(20))
        limit.reserve()
        task = asyncio.create_task(pipeline.acall(seven))
        await asyncio.sleep(0)
        assert limit.waiting == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert limit.waiting == 0
        # The next one waits as long as that one would have, no longer.
        assert limit.reserve().delay == pytest.approx(soonest(algorithm, taken + 1))

    began = clock.now()
    clock.run(main())
    assert clock.now() == began


def test_a_thread_that_is_interrupted_gives_its_place_back() -> None:
    class Interrupted(VirtualClock):
        def pause(self, seconds: float) -> None:
            raise KeyboardInterrupt

    clock = Interrupted()
    limit, pipeline = waiting("1/s", clock)
    assert limit.try_acquire()
    before = limit.usage()
    with pytest.raises(KeyboardInterrupt):
        pipeline.call(lambda: 7)
    assert (limit.usage(), limit.waiting) == (before, 0)


def test_a_call_whose_turn_comes_late_after_all_is_refused_and_gives_it_back() -> None:
    """The loop was blocked past the deadline of one who would have been served in time."""
    clock = VirtualClock()
    limit, pipeline = waiting("1/s", clock, burst=2)

    async def main() -> None:
        assert limit.try_acquire(2)
        with use_deadline(clock.now() + 1.5):
            task = asyncio.create_task(pipeline.acall(seven))
        await asyncio.sleep(0)
        clock.advance(2)
        with pytest.raises(RateLimited, match="its deadline passed while it waited"):
            await task
        assert limit.try_acquire(2)

    clock.run(main())
    assert (limit.waiting, limit.waited, limit.refused) == (0, 0, 1)


def test_the_call_is_stamped_after_its_wait() -> None:
    clock = VirtualClock()
    _, pipeline = waiting("1/s", clock)
    seen = []
    for _ in range(2):
        with pipeline.guard() as guard:
            seen.append(guard.call.now)
    assert seen == pytest.approx([1000.0, 1001.0])


def test_a_thread_that_runs_a_loop_never_waits() -> None:
    clock = VirtualClock()
    limit, pipeline = waiting("1/s", clock)

    async def main() -> None:
        assert pipeline.call(lambda: 7) == 7
        for ask in (lambda: pipeline.call(lambda: 7), lambda: limit.acquire(1, 5.0)):
            with pytest.raises(RateLimited, match="a thread that runs an event loop must not wait; retry after 1 s"):
                ask()
        assert clock.now() == 1000.0

    clock.run(main())


def test_acquire_waits_as_long_as_it_is_told() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/s", clock=clock)
    assert limit.acquire().delay == 0.0
    with pytest.raises(RateLimited, match="more than 1/s, 1 at once"):
        limit.acquire()
    with pytest.raises(RateLimited, match=r"its turn would come after more than 0\.9 s"):
        limit.acquire(1, 0.9)
    place = limit.acquire(1, 1.0)
    assert [place.when, clock.now()] == pytest.approx([1001, 1001])
    limit.update(max_wait=5)
    limit.acquire()
    assert clock.now() == pytest.approx(1002)
    with deadline_within(0.5, now=clock.now()), pytest.raises(RateLimited, match="after the deadline"):
        limit.acquire()


def test_in_every_order_of_turns_each_token_is_used_once() -> None:
    async def scenario() -> None:
        limit = RateLimit("1/s", burst=1)
        pipeline = Pipeline("x", limit, clock=_clock())
        went: list[float] = []

        async def one() -> None:
            await limit.acquire_async(1, 10)
            went.append(_clock().now())

        limit.used_by(pipeline)
        tasks = [asyncio.create_task(one()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gone = [later - sooner for sooner, later in itertools.pairwise(went)]
        assert all(gap >= 1 - 1e-6 for gap in gone)
        assert len(went) >= 2
        assert limit.waiting == 0

    def _clock() -> Any:
        return asyncio.get_running_loop()._clock  # type: ignore[attr-defined]

    assert every_order(scenario, limit=500).orders > 5


def test_a_deadline_that_passes_meanwhile_is_the_time_limits_business() -> None:
    clock = VirtualClock()
    limit = RateLimit("10/s", burst=1, max_wait=10)
    pipeline = Pipeline("x", Timeout(0.5), limit, clock=clock)

    async def slow() -> None:
        await clock.sleep(1)

    async def main() -> list[Any]:
        return await asyncio.gather(*(pipeline.acall(slow) for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in clock.run(main())] == [DeadlineExceeded] * 3


def test_a_short_patience_is_told_without_an_exponent() -> None:
    limit = RateLimit("1/h")
    limit.acquire()
    with pytest.raises(RateLimited, match=r"its turn would come after more than 0\.00002 s"):
        limit.acquire(timeout=2e-5)
