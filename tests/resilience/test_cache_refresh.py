"""New results for old ones: fetched in the background by tasks, in threads by whoever finds the old one."""

import asyncio
import threading
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK
from holdfast.core.clock import SYSTEM, VirtualClock
from holdfast.core.context import current_deadline, use_deadline
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.cache import Cache, StaleKept
from resilience.loops import RunAsync
from resilience.witness import Witness, turns, until, wait_for
from resilience.work import Work, cancelled, start


class Source:
    """Returns, or raises, what it is told to."""

    def __init__(self) -> None:
        self.outcome: Any = "first"
        self.asked = 0

    def __call__(self, *args: Any) -> Any:
        self.asked += 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def test_an_old_result_is_served_at_once_while_one_refresh_runs() -> None:
    clock, cache, outside, work = VirtualClock(), Cache(10, stale=5, jitter=0), Witness(), Work()
    call = Pipeline("x", outside, cache, clock=clock)(work)

    async def main() -> None:
        first = start(call)
        await until(lambda: work.begun)
        work.finish(0, "old")
        assert await first == "old"
        clock.advance(10)
        assert [await call() for _ in range(20)] == ["old"] * 20
        await turns()
        assert len(work.begun) == 2
        assert cache.snapshot()["refreshing"] == 1
        work.finish(1, "new")
        await turns()
        assert await call() == "new"
        assert len(work.begun) == 2
        assert cache.snapshot()["refreshing"] == 0
        assert (cache.snapshot()["served_stale"], cache.snapshot()["refreshes"]) == (20, 1)

    clock.run(main())
    assert outside.verdicts == [OK] + [IGNORED] * 21


def test_a_refresh_goes_on_when_its_caller_is_cancelled(run_async: RunAsync) -> None:
    work, cache = Work(), Cache(0.001, stale=3600, jitter=0)
    call = Pipeline("x", cache)(work)

    async def main() -> None:
        first = start(call)
        await until(lambda: work.begun)
        work.finish(0, "old")
        await first
        await asyncio.sleep(0.002)
        caller = start(call)
        await until(lambda: len(work.begun) == 2)
        await cancelled(caller)
        await turns()
        assert work.cancelled == 0
        cache.update(ttl=3600)
        work.finish(1, "new")
        await until(lambda: cache.snapshot()["refreshing"] == 0)
        assert await call() == "new"

    run_async(main())


def test_a_refresh_that_somebody_waits_for_goes_on_when_he_has_gone() -> None:
    clock, cache, work = VirtualClock(), Cache(10, stale=5, jitter=0), Work()
    call = Pipeline("x", cache, clock=clock)(work)

    async def main() -> None:
        first = start(call)
        await until(lambda: work.begun)
        work.finish(0, "old")
        await first
        clock.advance(10)
        assert await call() == "old"
        clock.advance(10)  # too old by now: whoever comes has to wait
        waiter = start(call)
        await turns()
        assert await cancelled(waiter)
        await turns()
        assert (len(work.begun), work.cancelled) == (2, 0)
        work.finish(1, "new")
        await turns()
        assert await call() == "new"

    clock.run(main())


def test_a_refresh_whose_timer_rings_a_little_early_was_too_slow_all_the_same(run_async: RunAsync) -> None:
    # A clock that stands still is the extreme of a loop that rounds its timers.
    clock, cache, inside, work = VirtualClock(), Cache(10, stale=5, refresh_timeout=0.005, jitter=0), Witness(), Work()
    call = Pipeline("x", cache, inside, clock=clock)(work)

    async def main() -> None:
        first = start(call)
        await until(lambda: work.begun)
        work.finish(0, "old")
        await first
        clock.advance(10)
        assert await call() == "old"
        for _ in range(1000):
            if work.cancelled:
                break
            await asyncio.sleep(0.001)

    run_async(main())
    assert inside.verdicts == [OK, FAILED]


def test_a_refresh_that_is_under_way_when_the_loop_ends_is_cancelled_with_it(run_async: RunAsync) -> None:
    work, cache = Work(), Cache(0.001, stale=3600, jitter=0)
    call = Pipeline("x", cache)(work)

    async def main() -> None:
        first = start(call)
        await until(lambda: work.begun)
        work.finish(0, "old")
        await first
        await asyncio.sleep(0.002)
        assert await call() == "old"
        await until(lambda: len(work.begun) == 2)

    run_async(main())
    assert work.cancelled == 1
    assert cache.snapshot()["refreshing"] == 0


def test_the_refreshes_at_the_same_time_are_bounded() -> None:
    clock, work = VirtualClock(), Work()
    cache = Cache(10, stale=1000, refreshes=3, jitter=0)
    call = Pipeline("x", cache, clock=clock)(work)

    async def main() -> None:
        for number in range(10):
            first = start(call, number)
            await until(lambda: len(work.begun) == number + 1)  # noqa: B023 - it is over before the next one
            work.finish(number, number)
            await first
        clock.advance(10)
        assert [await call(number) for number in range(10)] == list(range(10))
        await turns()
        assert work.begun[10:] == [0, 1, 2]
        work.finish(10, "new")
        await turns()
        assert [await call(number) for number in range(10)] == ["new", *range(1, 10)]
        await turns()
        assert work.begun[10:] == [0, 1, 2, 3]
        assert cache.snapshot()["refreshing"] == 3
        cache.update(refreshes=4)
        await call(4)
        await turns()
        assert work.begun[10:] == [0, 1, 2, 3, 4]
        for number in (11, 12, 13, 14):
            work.finish(number, "new")
        await turns()

    clock.run(main())


def test_a_refresh_has_a_deadline_of_its_own() -> None:
    clock, inside = VirtualClock(), Witness()
    cache = Cache(10, stale=1000, refresh_timeout=4, pause=7, jitter=0)
    deadlines: list[float] = []
    events: list[Any] = []
    cache.listeners.subscribe(events.append)

    @Pipeline("slow", cache, inside, clock=clock)
    async def slow() -> str:
        deadlines.append(current_deadline() - clock.now())
        await asyncio.sleep(3600 if len(deadlines) > 1 else 1)
        return "old"

    async def main() -> None:
        with use_deadline(clock.now() + 100):
            assert await slow() == "old"
            clock.advance(10)
            assert await slow() == "old"
            await asyncio.sleep(3.9)
            assert cache.snapshot()["refreshing"] == 1
            await asyncio.sleep(0.2)
            assert cache.snapshot()["refreshing"] == 0
            # It failed: nobody is asked again for a pause.
            await asyncio.sleep(6)
            assert await slow() == "old"
            await turns()
            assert len(deadlines) == 2
            await asyncio.sleep(1)
            assert await slow() == "old"
            await turns()
            assert len(deadlines) == 3

    clock.run(main())
    assert deadlines == pytest.approx([float("inf"), 4, 4])
    # The dependency was too slow: that is a failure to the policies further in. The last one, with the loop, is not.
    assert inside.verdicts == [OK, FAILED, IGNORED]
    (event,) = events
    assert isinstance(event, StaleKept)
    assert (event.policy, event.operation, event.error, event.age) == ("cache", "slow", "it took too long", 14)


def test_after_a_refresh_that_failed_nobody_is_asked_for_a_pause() -> None:
    clock, source = VirtualClock(), Source()
    cache = Cache(10, stale=100, pause=3, jitter=0)
    call = Pipeline("x", cache, clock=clock)(source)

    async def ask() -> Any:
        return call()

    assert call() == "first"
    source.outcome = OSError("down")
    clock.advance(10)
    assert [call() for _ in range(5)] == ["first"] * 5
    assert source.asked == 2
    clock.advance(2.9)
    assert [clock.run(ask()) for _ in range(5)] == ["first"] * 5
    assert source.asked == 2
    clock.advance(0.1)
    source.outcome = "second"
    assert [call(), call()] == ["second"] * 2


def test_in_threads_the_finder_refreshes_and_the_others_get_the_old_result() -> None:
    may_end = threading.Event()
    asked: list[int] = []
    cache = Cache(0.001, stale=3600, jitter=0)

    @cache
    def slow() -> int:
        asked.append(1)
        assert len(asked) == 1 or may_end.wait(10)
        return len(asked)

    assert slow() == 1
    found: list[int] = []
    wait_for(lambda: slow_is_old(cache))
    finder = threading.Thread(target=lambda: found.append(slow()))
    finder.start()
    wait_for(lambda: len(asked) == 2)
    assert [slow() for _ in range(20)] == [1] * 20
    cache.update(ttl=3600)
    may_end.set()
    finder.join(10)
    assert found == [2]
    assert slow() == 2
    assert cache.snapshot()["refreshing"] == 0


def slow_is_old(cache: Cache) -> bool:
    (entry,) = cache._sieve.entries.values()
    return SYSTEM.now() >= entry.fresh_until


def test_in_threads_a_refresh_is_within_the_callers_deadline_and_its_own() -> None:
    clock = VirtualClock()
    seen: list[float] = []
    outside = Witness()

    @Pipeline("x", outside, Cache(10, stale=1000, refresh_timeout=5, jitter=0), clock=clock)
    def look() -> None:
        seen.append(current_deadline() - clock.now())

    look()
    for left in (100, 2):
        clock.advance(10)
        with use_deadline(clock.now() + left):
            look()
    assert seen == [float("inf"), 5, 2]
    assert [call.deadline - call.now for call in outside.calls] == [float("inf"), 100, 2]
