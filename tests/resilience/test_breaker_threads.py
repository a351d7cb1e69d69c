"""Exactness under threads and tasks, and what is known of other libraries' breakers."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from holdfast.core.errors import CircuitOpen
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.breaker import Breaker
from resilience.breaker_bench import Broken
from resilience.loops import RunAsync

CROWD = 50
EACH = 300


def test_the_pair_for_timed_calls_is_one_step_too() -> None:
    from core.test_one_step import stores_after_a_switch

    assert stores_after_a_switch(Breaker._enter_timed) == []
    assert stores_after_a_switch(Breaker._exit_timed) == []


@pytest.mark.usefixtures("switching_often")
@pytest.mark.parametrize("options", [{"window": 3600.0}, {"last": 100_000}, {"window": 3600.0, "slow_call": 3600.0}])
def test_fifty_threads_count_exactly(options: dict[str, Any]) -> None:
    breaker = Breaker(0.9, **options)
    pipeline = Pipeline("x", breaker)
    start = threading.Barrier(CROWD)
    seed = 3

    def work(number: int) -> int:
        chance = random.Random(seed + number)
        failures = 0
        start.wait(20)
        for _ in range(EACH):
            bad = chance.random() < 0.2
            failures += bad
            with suppress(Broken):
                pipeline.call(fail if bad else succeed)
        return failures

    def succeed() -> None:
        return None

    def fail() -> None:
        raise Broken

    with ThreadPoolExecutor(CROWD) as pool:
        failures = sum(pool.map(work, range(CROWD)))
    seen = breaker.snapshot()
    assert (seen["calls"], seen["failed"], seen["state"]) == (CROWD * EACH, failures, "closed")


@pytest.mark.usefixtures("switching_often")
def test_threads_that_open_and_close_it_lose_no_permit() -> None:
    breaker = Breaker("off", consecutive=3, open=1e-4, open_growth=1.0, open_max=1e-4)
    pipeline = Pipeline("x", breaker)
    seed = 5

    def work(number: int) -> None:
        chance = random.Random(seed + number)
        for _ in range(400):
            with suppress(Broken, CircuitOpen):
                pipeline.call(failing if chance.random() < 0.4 else str)

    def failing() -> None:
        raise Broken

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    seen = breaker.snapshot()
    assert seen["probing"] == 0
    assert seen["opened"] > 1
    breaker.trip(seconds=1e-9)
    with pipeline.guard(), pipeline.guard(), pipeline.guard():
        assert breaker.snapshot()["probing"] == 3
        with pytest.raises(CircuitOpen):
            pipeline.call(str)
    assert breaker.state == "closed"


def test_no_lock_is_held_across_a_call() -> None:
    """pybreaker holds one: two calls in two threads go one after the other."""
    pipeline = Pipeline("x", Breaker())
    together = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(pipeline.call, together.wait, 20) for _ in range(2)]
        assert sorted(result.result(20) for result in results) == [0, 1]


def test_an_open_breaker_is_not_held_open_by_those_it_refuses(run_async: RunAsync) -> None:
    async def main() -> None:
        breaker = Breaker()
        pipeline = Pipeline("x", breaker)
        breaker.trip(seconds=0.02)
        until = asyncio.get_running_loop().time() + 10
        while asyncio.get_running_loop().time() < until:
            try:
                await pipeline.acall(asyncio.sleep, 0)
            except CircuitOpen:
                await asyncio.sleep(0.001)
            else:
                return
        raise AssertionError("it never probed")

    run_async(main())


def test_two_cancelled_tasks_do_not_open_it(run_async: RunAsync) -> None:
    """purgatory counts a CancelledError as a failure."""

    async def main() -> None:
        breaker = Breaker("off", consecutive=2)
        pipeline = Pipeline("x", breaker)
        for _ in range(2):
            task = asyncio.create_task(pipeline.acall(asyncio.sleep, 60))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert breaker.state == "closed"
        await pipeline.acall(asyncio.sleep, 0)

    run_async(main())


def test_a_refused_call_makes_no_coroutine_that_nobody_awaits(run_async: RunAsync) -> None:
    """Peers create the coroutine before they ask: warnings are errors here."""

    async def main() -> None:
        breaker = Breaker()

        @breaker
        async def stock() -> int:
            return 5

        breaker.force_open()
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                await stock()

    run_async(main())
