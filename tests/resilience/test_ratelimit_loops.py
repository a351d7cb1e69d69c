"""Calls that wait for their turn in real time: tasks of every kind of loop, and threads."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.core.pipeline import Pipeline
from holdfast.resilience.ratelimit import RateLimit, Reservation
from holdfast.resilience.rates.line import NAP, ThreadBell
from resilience.loops import RunAsync

MOVING = pytest.mark.parametrize("algorithm", ["token_bucket", "gcra"])
PATIENCE = 30.0


async def seven() -> int:
    return 7


@MOVING
def test_tasks_wait_on_every_kind_of_loop(run_async: RunAsync, algorithm: Any) -> None:
    """In real time: nobody goes too soon, whatever the loop's timers do."""
    limit = RateLimit("1000/s", burst=5, algorithm=algorithm, max_wait=PATIENCE)
    pipeline = Pipeline("x", limit)
    went: list[float] = []

    async def one() -> None:
        went.append(time.monotonic())

    async def main() -> None:
        await asyncio.gather(*(pipeline.acall(one) for _ in range(55)))

    began = time.monotonic()
    run_async(main())
    assert len(went) == 55
    assert max(went) - began >= 0.0499
    assert all(at - began >= (number - 4) / 1000 - 1e-6 for number, at in enumerate(went))
    assert limit.waiting == 0
    assert limit.waited <= 50


@MOVING
def test_a_cancellation_gets_out_at_once_on_every_kind_of_loop(run_async: RunAsync, algorithm: Any) -> None:
    limit = RateLimit("1/h", algorithm=algorithm, max_wait=1e6)
    pipeline = Pipeline("x", limit)

    async def main() -> None:
        assert await pipeline.acall(seven) == 7
        before = limit.usage()["reset"]
        tasks = [asyncio.create_task(pipeline.acall(seven)) for _ in range(50)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(each) for each in found} == {asyncio.CancelledError}
        assert limit.waiting == 0
        assert limit.usage()["reset"] == pytest.approx(before, abs=PATIENCE)

    run_async(main())


def test_wait_for_ends_when_it_says(run_async: RunAsync) -> None:
    limit = RateLimit("1/h", max_wait=7200, burst=1)

    async def main() -> None:
        await limit.acquire_async()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(limit.acquire_async(), 0.02)
        assert time.monotonic() - began < PATIENCE
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await limit.acquire_async()

    run_async(main())


def test_threads_wait_side_by_side() -> None:
    limit = RateLimit("500/s", burst=5, max_wait=PATIENCE)
    pipeline = Pipeline("x", limit)
    went: list[float] = []

    def work() -> None:
        for _ in range(5):
            pipeline.call(lambda: went.append(time.monotonic()))

    began = time.monotonic()
    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    went.sort()
    assert len(went) == 50
    assert all(at - began >= (number - 4) / 500 - 1e-6 for number, at in enumerate(went))
    assert (limit.waiting, limit.refused) == (0, 0)


def test_threads_and_tasks_wait_in_one_line(run_async: RunAsync) -> None:
    """Each wants all that there can be, so whoever goes next is the first in the line."""
    limit = RateLimit("1/h", burst=10)
    held: list[Reservation] = []

    def thread_waits() -> None:
        held.append(limit.acquire(10, 360_000))

    async def task_waits() -> None:
        held.append(await limit.acquire_async(10, 360_000))

    async def main() -> None:
        first = await limit.acquire_async(10)
        thread = asyncio.create_task(asyncio.to_thread(thread_waits))
        await asyncio.to_thread(_until, lambda: limit.waiting == 1)
        task = asyncio.create_task(task_waits())
        await asyncio.to_thread(_until, lambda: limit.waiting == 2)
        limit.refund(first)
        await asyncio.wait_for(thread, PATIENCE)
        assert not task.done()
        assert limit.waiting == 1
        limit.refund(held[0])
        await asyncio.wait_for(task, PATIENCE)

    run_async(main())
    assert len(held) == 2
    assert (limit.waiting, limit.waited) == (0, 2)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_thread_is_woken_when_something_is_given_back(leaves: bool) -> None:
    limit = RateLimit("1/h", burst=10)
    first = limit.acquire(10)
    done = threading.Event()

    def work() -> None:
        limit.acquire(4, 36_000)
        limit.acquire(4, 36_000)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    _until(lambda: limit.waiting == 1)
    if leaves:
        assert limit.refund(first) == pytest.approx(10, abs=0.1)
    else:
        assert limit.settle(first, 1) == pytest.approx(9, abs=0.1)
    assert done.wait(PATIENCE)
    thread.join(PATIENCE)
    assert (limit.waiting, limit.waited) == (0, 1)


def test_somebody_left_behind_in_a_closed_loop_blocks_nobody() -> None:
    limit = RateLimit("1000/s", burst=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(limit.acquire_async())
    loop.set_exception_handler(lambda *_: None)  # that it was destroyed while it waited, in the end
    left_behind = loop.create_task(limit.acquire_async(1, PATIENCE))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    began = time.monotonic()
    for _ in range(3):
        limit.acquire(1, PATIENCE)
    assert time.monotonic() - began < PATIENCE
    del left_behind


def test_a_bell_that_rang_before_ends_the_next_wait() -> None:
    bell = ThreadBell()
    bell.ring()
    bell.ring()
    began = time.monotonic()
    bell.wait(PATIENCE)
    assert time.monotonic() - began < PATIENCE
    bell.wait(NAP)
    assert time.monotonic() - began < PATIENCE


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
