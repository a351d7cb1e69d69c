import asyncio
import threading
from collections.abc import Callable

import pytest

from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import BulkheadFull
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.permits.waiters import TaskWaiter
from resilience.loops import RunAsync
from resilience.room import Room, settle


def test_a_cancelled_waiter_leaks_no_place(run_async: RunAsync) -> None:
    bulkhead = Bulkhead(1, queue=2, max_wait=10)
    room = Room(Pipeline("x", bulkhead))

    async def main() -> None:
        holder = room.call("holder")
        await settle()
        for number in range(10):
            waiter = room.call(number)
            await settle()
            waiter.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiter
        assert (bulkhead.in_flight, bulkhead.queued) == (1, 0)
        room.finish("holder")
        await holder

    run_async(main())
    assert (bulkhead.in_flight, room.order) == (0, ["holder"])


@pytest.mark.parametrize("others", [0, 1])
def test_a_permit_handed_to_a_waiter_that_is_cancelled_in_that_moment_goes_to_the_next(
    run_async: RunAsync, others: int
) -> None:
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    room = Room(Pipeline("x", bulkhead))

    async def main() -> None:
        call = bare_call()
        token = bulkhead.enter(call)
        waiter = room.call("cancelled")
        rest = [room.call(number) for number in range(others)]
        await settle()
        bulkhead.exit(call, token)  # hands the permit over ...
        waiter.cancel()  # ... before the waiter has run
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await settle()
        assert room.inside == list(range(others))
        for number in range(others):
            room.finish(number)
        await asyncio.gather(*rest)

    run_async(main())
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_a_permit_that_comes_in_the_moment_of_the_timeout_is_used() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=1.0)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        call = bare_call(clock=clock)
        token = bulkhead.enter(call)
        waiter = room.call("just in time")
        room.finish("just in time")
        await settle()
        clock.advance(0.9999)
        bulkhead.exit(call, token)
        clock.advance(0.5)  # its timer is due as well when it runs
        assert await waiter == "just in time"

    clock.run(main())
    assert (bulkhead.in_flight, bulkhead.timeouts) == (0, 0)


def test_a_permit_that_comes_after_the_deadline_is_passed_on() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=5.0)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        call = bare_call(clock=clock)
        token = bulkhead.enter(call)
        with deadline_within(1.0, now=clock.now()):
            late = room.call("late")
        patient = room.call("patient")
        room.finish("patient")
        await settle()
        clock.advance(0.9999)
        bulkhead.exit(call, token)
        clock.advance(0.5)
        with pytest.raises(BulkheadFull, match="the deadline passed while it waited"):
            await late
        assert await patient == "patient"

    clock.run(main())
    assert (bulkhead.in_flight, room.order, bulkhead.timeouts) == (0, ["patient"], 1)


def test_a_waiter_whose_time_is_over_is_passed_by_although_its_timer_has_not_run() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=1.0)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        call = bare_call(clock=clock)
        token = bulkhead.enter(call)
        old = room.call("old")
        await settle()
        clock.advance(0.8)
        young = room.call("young")
        room.finish("young")
        await settle()
        clock.advance(0.8)
        bulkhead.exit(call, token)
        assert await young == "young"
        with pytest.raises(BulkheadFull, match="no permit came"):
            await old

    clock.run(main())
    assert (bulkhead.in_flight, bulkhead.timeouts) == (0, 1)


def test_a_waiter_that_is_passed_by_learns_of_it_at_once_also_when_no_timer_of_its_loop_comes() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=60.0)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        call = bare_call(clock=clock)
        token = bulkhead.enter(call)
        old = room.call("old")
        await settle()
        clock.advance(61.0)  # an ordinary loop: its timers know nothing of this clock
        bulkhead.exit(call, token)
        async with asyncio.timeout(10):
            with pytest.raises(BulkheadFull, match="no permit came in 61 s"):
                await old

    asyncio.run(main())
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_nobody_overtakes_a_waiter_to_whom_a_permit_was_handed() -> None:
    bulkhead = Bulkhead(1, queue=5)
    room = Room(Pipeline("x", bulkhead))

    async def main() -> None:
        call = bare_call()
        token = bulkhead.enter(call)
        waiter = room.call("first")
        room.finish("first")
        await settle()
        bulkhead.exit(call, token)
        with pytest.raises(BulkheadFull):
            bulkhead.enter(bare_call())  # comes before the waiter has run
        assert await waiter == "first"

    asyncio.run(main())


def test_a_higher_limit_lets_waiters_in_before_anybody_else(run_async: RunAsync) -> None:
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    room = Room(Pipeline("x", bulkhead))

    async def main() -> None:
        calls = [room.call(number) for number in range(4)]
        await settle()
        bulkhead.update(limit=3)
        with pytest.raises(BulkheadFull):
            bulkhead.enter(bare_call())
        await settle()
        assert (room.inside, bulkhead.queued) == ([0, 1, 2], 1)
        for number in range(4):
            room.finish(number)
        await asyncio.gather(*calls)

    run_async(main())
    assert (room.most, bulkhead.in_flight) == (3, 0)


def test_a_lower_limit_lets_those_that_are_in_finish_and_waits_for_them(run_async: RunAsync) -> None:
    bulkhead = Bulkhead(3, queue=5, max_wait=10)
    room = Room(Pipeline("x", bulkhead))

    async def main() -> None:
        calls = [room.call(number) for number in range(4)]
        await settle()
        bulkhead.update(limit=1)
        for number, queued in ((0, 1), (1, 1), (2, 0)):
            room.finish(number)
            await settle()
            assert bulkhead.queued == queued
        assert room.inside == [3]
        room.finish(3)
        await asyncio.gather(*calls)

    run_async(main())
    assert bulkhead.in_flight == 0


def test_a_queue_that_is_taken_away_serves_those_who_wait_already() -> None:
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    pipeline = Pipeline("x", bulkhead)
    room = Room(pipeline)

    async def main() -> None:
        calls = [room.call(number) for number in range(2)]
        await settle()
        bulkhead.update(queue=0)
        with pytest.raises(BulkheadFull):
            await room.call("new")
        room.finish(0)
        room.finish(1)
        assert await asyncio.gather(*calls) == [0, 1]
        bulkhead.update(queue=1)
        assert bulkhead.waits

    asyncio.run(main())
    assert bulkhead.in_flight == 0


def test_threads_and_tasks_of_two_loops_wait_side_by_side_and_are_served_in_their_order() -> None:
    bulkhead = Bulkhead(1, queue=5, max_wait=20)
    pipeline = Pipeline("x", bulkhead)
    order: list[str] = []
    call = bare_call()
    token = bulkhead.enter(call)

    def begin(target: Callable[[], object]) -> threading.Thread:
        expected = bulkhead.queued + 1
        thread = threading.Thread(target=target)
        thread.start()
        while bulkhead.queued < expected:
            assert thread.is_alive()
        return thread

    async def task(name: str) -> None:
        async def inside() -> None:
            order.append(name)

        await pipeline.acall(inside)

    threads = [
        begin(lambda: pipeline.call(order.append, "thread")),
        begin(lambda: asyncio.run(task("loop"))),
        begin(lambda: pipeline.call(order.append, "second thread")),
        begin(lambda: asyncio.run(task("second loop"))),
    ]
    bulkhead.exit(call, token)
    for thread in threads:
        thread.join(10)
    assert order == ["thread", "loop", "second thread", "second loop"]
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_a_thread_stops_waiting_after_max_wait() -> None:
    bulkhead = Bulkhead(1, queue=1, max_wait=0.01)
    bulkhead.enter(bare_call())
    with pytest.raises(BulkheadFull, match="no permit came in"):
        bulkhead.call(int)
    assert (bulkhead.in_flight, bulkhead.queued, bulkhead.timeouts) == (1, 0, 1)


def test_a_sync_call_on_an_event_loop_does_not_block_it() -> None:
    bulkhead = Bulkhead(1, queue=1, max_wait=10)

    async def main() -> None:
        bulkhead.enter(bare_call())
        with pytest.raises(BulkheadFull, match="a thread that runs an event loop must not wait"):
            bulkhead.call(int)

    asyncio.run(main())


def test_a_waiter_of_a_closed_loop_is_passed_by() -> None:
    bulkhead = Bulkhead(1, queue=2, max_wait=10)
    call = bare_call()
    token = bulkhead.enter(call)
    loop = asyncio.new_event_loop()
    task = loop.create_task(bulkhead.acall(asyncio.sleep, 0))
    loop.run_until_complete(asyncio.sleep(0.001))
    assert bulkhead.queued == 1
    loop.close()
    bulkhead.exit(call, token)
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what this test is about


@pytest.mark.parametrize("thrown_away", ["later", "while it is woken"])
@pytest.mark.parametrize("granted_by", ["a caller who is done", "a higher limit"])
def test_what_a_closed_loop_leaves_behind_gives_no_permit_back_twice(
    granted_by: str, thrown_away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulkhead = Bulkhead(1, queue=2, max_wait=10)
    call = bare_call()
    token = bulkhead.enter(call)
    loop = asyncio.new_event_loop()
    waiting = bulkhead.acall(asyncio.sleep, 0)
    task = loop.create_task(waiting)
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what this test is about
    wake = TaskWaiter.wake

    def wake_in_the_moment_of_the_garbage_collection(waiter: TaskWaiter) -> bool:
        waiting.close()
        return wake(waiter)

    if thrown_away == "while it is woken":
        monkeypatch.setattr(TaskWaiter, "wake", wake_in_the_moment_of_the_garbage_collection)
    if granted_by == "a higher limit":
        bulkhead.update(limit=2)
    bulkhead.exit(call, token)
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)
    waiting.close()
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_a_waiting_task_that_is_thrown_away_gives_its_place_back() -> None:
    bulkhead = Bulkhead(1, queue=2, max_wait=10)
    bulkhead.enter(bare_call())

    async def main() -> None:
        waiting = bulkhead.acall(asyncio.sleep, 0)
        waiting.send(None)
        assert bulkhead.queued == 1
        waiting.close()
        assert bulkhead.queued == 0

    asyncio.run(main())
