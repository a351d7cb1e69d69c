"""What the delay is learned from, and what says nothing."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from holdfast.core.call import Call
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.hedge import Hedge, HedgeStarted
from holdfast.resilience.racing.quantile import BATCH
from holdfast.resilience.retrying.budget import RetryBudget
from holdfast.resilience.timeout import Timeout
from resilience.scripted import NEVER, Dependency, Seen

NONE = {"ratio": 0.0, "floor": 0.0}


async def usual(pipeline: Pipeline, seconds: float = 0.1, count: int = BATCH) -> None:
    for _ in range(count):
        await pipeline.acall(asyncio.sleep, seconds)


def test_calls_with_only_a_moment_left_do_not_count_as_quick_ones() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0, budget=NONE)
    pipeline = Pipeline("x", hedge, Timeout(1.0), clock=clock)

    async def main() -> None:
        await usual(pipeline)
        for _ in range(8 * BATCH):
            with deadline_within(0.01, now=clock.now()), contextlib.suppress(DeadlineExceeded):
                await pipeline.acall(asyncio.sleep, 0.1)

    clock.run(main())
    assert hedge.delay == pytest.approx(0.1)


def test_calls_that_were_refused_before_they_began_are_not_learned_from() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge()

    async def main() -> None:
        for _ in range(BATCH - 1):
            with deadline_within(0.0, now=clock.now()), contextlib.suppress(DeadlineExceeded):
                await Pipeline("x", hedge, Timeout(1.0), clock=clock).acall(asyncio.sleep, 0.1)

    clock.run(main())
    assert (hedge.delay, hedge._quantile.batch if hedge._quantile else None) == (inf, [])


def test_a_time_limit_around_the_hedge_counts_as_slow_too() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0, budget=NONE)
    pipeline = Pipeline("x", Timeout(1.0), hedge, clock=clock)

    async def main() -> None:
        await usual(pipeline)
        for _ in range(BATCH):
            with contextlib.suppress(DeadlineExceeded):
                await pipeline.acall(asyncio.sleep, 5.0)

    clock.run(main())
    assert hedge.delay == pytest.approx(1.0)


def test_a_time_limit_around_it_counts_before_the_delay_is_known_and_a_lost_interest_does_not() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0)
    pipeline = Pipeline("x", Timeout(1.0), hedge, clock=clock)

    async def main() -> None:
        for _ in range(BATCH - 1):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await pipeline.acall(asyncio.sleep, 5.0)
        assert hedge.recent is not None
        assert hedge.recent.batch == []
        for _ in range(BATCH):
            with contextlib.suppress(DeadlineExceeded):
                await pipeline.acall(asyncio.sleep, 5.0)

    clock.run(main())
    assert hedge.delay == pytest.approx(1.0)


def test_timeouts_that_are_the_usual_case_leave_the_delay_where_it_is() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0, budget=NONE)
    pipeline = Pipeline("x", hedge, Timeout(0.5), clock=clock)
    delays: set[float] = set()

    async def main() -> None:
        for number in range(20 * BATCH):
            with contextlib.suppress(DeadlineExceeded):
                await pipeline.acall(asyncio.sleep, 5.0 if number % 10 == 0 else 0.1)
            delays.add(hedge.delay)

    clock.run(main())
    assert sorted(delays) == [pytest.approx(0.5), inf]


class Door(Seen):
    """Lets the first attempt wait for ever, and all others pass."""

    waits = True

    async def admit_async(self, call: Call) -> Call:
        if call.args == (NEVER,) and call.attempt == 1:
            await asyncio.sleep(NEVER)
        return self.enter(call)


def test_a_first_attempt_that_got_nowhere_before_the_hedge_won_counts_as_slow() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0)
    pipeline = Pipeline("x", hedge, Door(), clock=clock)

    async def fn(seconds: float) -> None:
        await asyncio.sleep(0.1)

    async def main() -> None:
        for _ in range(BATCH):
            await pipeline.acall(fn, 0.1)
        await pipeline.acall(fn, NEVER)

    clock.run(main())
    assert hedge.won == 1
    assert hedge.recent is not None
    assert hedge.recent.batch == [pytest.approx(0.2)]


def test_calls_under_way_when_the_quantile_takes_over_are_not_learned_from() -> None:
    """Nobody stamped their end, so that they would count as calls of no time at all."""
    clock = VirtualClock(start=0.0)
    hedge = Hedge(5.0)
    pipeline = Pipeline("x", hedge, clock=clock)

    async def main() -> None:
        calls = [asyncio.ensure_future(pipeline.acall(asyncio.sleep, 1.0)) for _ in range(2 * BATCH)]
        await asyncio.sleep(0.5)
        hedge.update(delay=None)
        await asyncio.gather(*calls)
        assert hedge.delay == inf
        await usual(pipeline)
        assert hedge.delay == pytest.approx(0.1)

    clock.run(main())


def test_sync_calls_under_way_when_the_quantile_takes_over_are_not_learned_from() -> None:
    hedge = Hedge(60.0)
    pipeline = Pipeline("x", hedge)
    entered, release = threading.Event(), threading.Event()

    def fn() -> None:
        entered.set()
        release.wait(30.0)

    caller = threading.Thread(target=pipeline.call, args=(fn,))
    caller.start()
    assert entered.wait(30.0)
    hedge.update(delay=None)
    release.set()
    caller.join(30.0)
    hedge.close()
    assert not caller.is_alive()
    assert hedge.recent is not None
    assert hedge.recent.batch == []


def test_a_change_of_the_settings_holds_at_once_however_small_it_is() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0)
    pipeline = Pipeline("x", hedge, clock=clock)
    clock.run(usual(pipeline))
    assert hedge.delay == pytest.approx(0.1)
    hedge.update(min_delay=0.102)
    assert hedge.delay == 0.102
    hedge.update(attempts=1)
    assert hedge.delay == inf
    hedge.update(attempts=2, min_delay=0.001)
    assert hedge.delay == pytest.approx(0.1)


def test_the_attempts_of_a_call_keep_the_delay_that_it_began_with() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(1.0, attempts=3)
    heard: list[Any] = []
    hedge.listeners.subscribe(heard.append)
    dependency = Dependency((NEVER, 1), (NEVER, 2), (0.0, "third"))

    async def main() -> None:
        call = asyncio.ensure_future(Pipeline("x", hedge, clock=clock).acall(dependency))
        await asyncio.sleep(0.5)
        hedge.update(delay=None)  # nothing is known yet: the delay is infinite
        assert await call == "third"

    clock.run(main())
    assert dependency.begun == pytest.approx([0.0, 1.0, 2.0])
    assert [event.delay for event in heard if isinstance(event, HedgeStarted)] == [1.0, 1.0]


class Ahead:
    """A clock of its own, that goes as the system's does but is a day ahead."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now: Callable[[], float] = lambda: loop.time() + 86_400.0
        self.wall: Callable[[], float] = lambda: 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        raise NotImplementedError


def test_one_policy_serves_pipelines_with_clocks_of_their_own_on_one_loop() -> None:
    hedge = Hedge(0.002)

    async def main() -> None:
        for clock in (Ahead(asyncio.get_running_loop()), None):
            dependency = Dependency((NEVER, "first"), (0.0, "second"))
            pipeline = Pipeline("x", hedge, clock=clock) if clock else Pipeline("x", hedge)
            async with asyncio.timeout(20.0):
                assert await pipeline.acall(dependency) == "second"
        assert len(hedge._pace._by_loop) == 2

    asyncio.run(main())


def test_loops_that_are_closed_are_forgotten_and_their_tasks_too() -> None:
    hedge = Hedge(0.001, budget=RetryBudget(ratio=0.0, floor=100.0))

    async def stuck() -> None:
        await asyncio.sleep(NEVER)

    for _ in range(3):
        loop = asyncio.new_event_loop()
        call = loop.create_task(Pipeline("x", hedge).acall(stuck))

        async def until_hedged() -> None:
            while not hedge.under_way or all(task.get_loop() is not loop for task in hedge.under_way):  # noqa: B023, ASYNC110 - a set has no event
                await asyncio.sleep(0.001)

        loop.run_until_complete(until_hedged())
        left = [call, *(task for task in hedge.under_way if task.get_loop() is loop)]
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop that was closed too early
        coroutines = [task.get_coro() for task in left]
        loop.close()
        del left, call
        assert len(hedge.under_way) == 1
        assert len(hedge._pace._by_loop) == 1
        for coroutine in coroutines:
            assert coroutine is not None
            with contextlib.suppress(RuntimeError):  # no loop takes its farewell
                coroutine.close()


def test_loops_of_threads_that_are_gone_are_forgotten() -> None:
    hedge = Hedge(60.0)
    pipeline = Pipeline("x", hedge)
    gate = threading.Barrier(3, timeout=30.0)

    def one() -> None:
        gate.wait()  # all at a time, so that no thread has the name of another one
        asyncio.run(pipeline.acall(asyncio.sleep, 0.0))
        gate.wait()

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()
    asyncio.run(pipeline.acall(asyncio.sleep, 0.0))
    assert len(hedge._pace.lanes) == 1
    assert len(hedge._pace._by_loop) == 1


def test_an_error_that_is_an_answer_is_learned_from_like_any_other_answer() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(window=3600.0, budget=NONE)
    pipeline = Pipeline("x", hedge, clock=clock, classify=Classifier(record=(OSError,)))

    async def main() -> None:
        for number in range(2 * BATCH):
            with contextlib.suppress(KeyError, OSError):
                error = KeyError("no such book") if number % 2 else OSError("down")
                await pipeline.acall(Dependency((0.1, error)))
        assert hedge.delay == pytest.approx(0.1)
        with contextlib.suppress(KeyError):
            await pipeline.acall(Dependency((0.05, KeyError("no such book"))))
        with contextlib.suppress(KeyError):
            await pipeline.acall(Dependency((0.5, KeyError("no such book"))))

    clock.run(main())
    assert hedge.recent is not None
    assert hedge.recent.batch == pytest.approx([0.05, 0.5])
