import asyncio
import contextlib
import random
from typing import Any

import pytest

from holdfast.core.call import bare_call
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within
from holdfast.core.errors import BulkheadFull, DeadlineExceeded
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead, QueueCleared, QueueStanding
from holdfast.resilience.permits.permits import STANDING
from holdfast.resilience.timeout import Timeout
from resilience.loops import RunAsync
from resilience.room import Room, settle


def test_waiters_are_served_in_the_order_in_which_they_came(run_async: RunAsync) -> None:
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    room = Room(Pipeline("x", bulkhead))

    async def main() -> None:
        calls = [room.call(number) for number in range(5)]
        await settle()
        assert (room.inside, bulkhead.queued) == ([0], 4)
        for number in range(5):
            room.finish(number)
            await settle()
        assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]

    run_async(main())
    assert (room.order, room.most) == ([0, 1, 2, 3, 4], 1)
    assert (bulkhead.in_flight, bulkhead.queued, bulkhead.waited) == (0, 0, 4)


def test_with_lifo_the_newest_waiter_is_served_first_and_a_full_queue_pushes_the_oldest_out(
    run_async: RunAsync,
) -> None:
    bulkhead = Bulkhead(1, queue=3, max_wait=10, order="lifo")
    room = Room(Pipeline("x", bulkhead))

    async def main() -> None:
        calls = [room.call(number) for number in range(5)]
        await settle()
        assert bulkhead.queued == 3
        with pytest.raises(BulkheadFull, match="newer calls took its place in the queue"):
            await calls[1]
        for number in range(5):
            room.finish(number)
            await settle()
        await asyncio.gather(*calls, return_exceptions=True)

    run_async(main())
    assert room.order == [0, 4, 3, 2]
    assert (bulkhead.pushed_out, bulkhead.refused, bulkhead.timeouts, bulkhead.in_flight) == (1, 1, 0, 0)


@pytest.mark.parametrize(("order", "least", "most"), [("fifo", 0.0, 0.2), ("lifo", 0.9, 1.1)])
def test_under_overload_only_the_newest_get_an_answer_while_it_is_of_use(order: Any, least: float, most: float) -> None:
    # 130 calls a second for about 100; who has waited for half a second has gone. Measured as a share of what 10
    # places can do in that time, by what the calls really took.
    seed, places, seconds = 1, 10, 20.0
    clock, chance = VirtualClock(start=0.0), random.Random(seed)
    pipeline = Pipeline("x", Bulkhead(places, queue=100, max_wait=2.0, order=order), clock=clock)
    took: list[float] = []
    in_time: list[bool] = []

    async def work() -> None:
        took.append(chance.expovariate(10))
        await asyncio.sleep(took[-1])

    async def one() -> None:
        began = clock.now()
        with contextlib.suppress(BulkheadFull):
            await pipeline.acall(work)
            in_time.append(clock.now() - began <= 0.5)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            while clock.now() < seconds:
                group.create_task(one())
                await asyncio.sleep(chance.expovariate(130))

    clock.run(main())
    capacity = places * seconds / (sum(took) / len(took))
    assert least <= sum(in_time) / capacity <= most


def test_with_lifo_one_goes_for_one_that_comes_also_when_the_queue_was_made_shorter() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=4, max_wait=10, order="lifo")
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        calls = [room.call(number) for number in range(5)]
        await settle()
        bulkhead.update(queue=2)
        calls.append(room.call(5))
        await settle()
        assert bulkhead.queued == 4
        for number in range(6):
            room.finish(number)
            await settle()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(result, BulkheadFull) for result in results] == [False, True, False, False, False, False]

    clock.run(main())
    assert room.order == [0, 5, 4, 3, 2]
    assert (bulkhead.pushed_out, bulkhead.refused, bulkhead.in_flight) == (1, 1, 0)


def test_a_full_queue_refuses_who_comes_next() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=1)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        calls = [room.call(number) for number in range(3)]
        await settle()
        with pytest.raises(BulkheadFull, match="1 call is under way and 1 waits"):
            await calls[2]
        room.finish(0)
        room.finish(1)
        assert await asyncio.gather(*calls[:2]) == [0, 1]

    clock.run(main())


def test_a_wait_ends_after_max_wait() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait="500ms")
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        holder = room.call("holder")
        began = clock.now()
        with pytest.raises(BulkheadFull, match=r"no permit came in 0\.5 s"):
            await room.call("late")
        assert clock.now() - began == pytest.approx(0.5)
        assert bulkhead.queued == 0
        room.finish("holder")
        await holder

    clock.run(main())
    assert (bulkhead.waited, bulkhead.timeouts, bulkhead.in_flight) == (1, 1, 0)
    assert bulkhead.snapshot()["longest_wait"] == pytest.approx(0.5)


def test_a_wait_ends_at_the_deadline_of_the_call() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        holder = room.call("holder")
        began = clock.now()
        with deadline_within(0.2, now=clock.now()), pytest.raises(BulkheadFull, match="the deadline passed"):
            await room.call("late")
        assert clock.now() - began == pytest.approx(0.2)
        room.finish("holder")
        await holder

    clock.run(main())
    assert (bulkhead.in_flight, bulkhead.queued) == (0, 0)


def test_a_wait_for_which_no_time_is_left_is_not_begun() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        holder = room.call("holder")
        await settle()
        with deadline_within(0, now=clock.now()), pytest.raises(BulkheadFull, match="no time is left"):
            await room.call("late")
        assert bulkhead.waited == 0
        room.finish("holder")
        await holder

    clock.run(main())


def test_a_timeout_around_it_ends_the_wait_and_no_place_is_left_taken() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    room = Room(Pipeline("x", Timeout(0.2), bulkhead, clock=clock))
    holder = Room(Pipeline("holder", bulkhead, clock=clock))

    async def main() -> None:
        first = holder.call("holder")
        await settle()
        with pytest.raises((DeadlineExceeded, BulkheadFull)):
            await room.call("late")
        assert (bulkhead.in_flight, bulkhead.queued) == (1, 0)
        holder.finish("holder")
        await first

    clock.run(main())
    assert bulkhead.in_flight == 0


def test_the_call_is_stamped_anew_after_a_wait() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5)
    stamps: list[float] = []

    async def main() -> None:
        held = bare_call(clock=clock)
        token = bulkhead.enter(held)
        waiting = bare_call(clock=clock)
        began = waiting.now

        async def wait() -> None:
            taken = await bulkhead.admit_async(waiting)
            stamps.append(waiting.now - began)
            bulkhead.exit(waiting, taken)

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.25)
        bulkhead.exit(held, token)
        await task

    clock.run(main())
    assert stamps == [pytest.approx(0.25)]
    assert bulkhead.in_flight == 0


def test_a_block_may_wait_too() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=1, max_wait=10)
    pipeline = Pipeline("x", bulkhead, clock=clock)

    async def hold(seconds: float) -> float:
        async with pipeline.guard():
            await asyncio.sleep(seconds)
            return clock.now()

    async def main() -> list[float]:
        return list(await asyncio.gather(hold(1), hold(1)))

    began = clock.now()
    assert clock.run(main()) == [pytest.approx(began + 1), pytest.approx(began + 2)]
    assert bulkhead.in_flight == 0


def test_a_standing_queue_and_its_end_are_told() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    heard: list[Event] = []
    bulkhead.listeners.subscribe(heard.append)
    room = Room(Pipeline("x", bulkhead, clock=clock))

    async def main() -> None:
        calls = [room.call(number) for number in range(3)]
        await asyncio.sleep(STANDING * 2)
        room.finish(0)
        await settle()
        room.finish(1)
        await settle()
        room.finish(2)
        await asyncio.gather(*calls)

    clock.run(main())
    standing, cleared = heard
    assert isinstance(standing, QueueStanding)
    assert standing.queued == 1
    assert standing.seconds == pytest.approx(STANDING * 2)
    assert isinstance(cleared, QueueCleared)
    assert cleared.seconds == pytest.approx(STANDING * 2)


def test_a_short_burst_after_an_overload_is_not_told_as_another_one() -> None:
    clock = VirtualClock()
    bulkhead = Bulkhead(1, queue=5, max_wait=10)
    heard: list[Event] = []
    bulkhead.listeners.subscribe(heard.append)
    pipeline = Pipeline("x", bulkhead, clock=clock)

    async def main() -> None:
        await asyncio.gather(*(pipeline.acall(asyncio.sleep, STANDING) for _ in range(4)))
        await asyncio.sleep(60)
        await asyncio.gather(*(pipeline.acall(asyncio.sleep, STANDING / 10) for _ in range(4)))

    clock.run(main())
    assert [type(event) for event in heard] == [QueueStanding, QueueCleared]


def test_a_thread_that_runs_an_event_loop_is_told_that_it_must_not_wait() -> None:
    shared = Pipeline("x", Bulkhead(1, queue=5))
    parted = Pipeline("x", Bulkhead(5, queue=5, partitions={"*": 1}))

    async def main() -> None:
        for pipeline in (shared, parted):
            with pytest.raises(BulkheadFull, match=r"bulkhead: a thread that runs an event loop must not wait$"):
                pipeline.call(pipeline.call, print)

    asyncio.run(main())


def test_those_who_do_not_wait_are_not_told_about_the_event_loop() -> None:
    heard: list[Event] = []
    looking = Bulkhead(1, queue=5, observe=True)
    looking.listeners.subscribe(heard.append)
    pipelines = Pipeline("x", Bulkhead(1)), Pipeline("x", looking)

    async def main() -> None:
        with pytest.raises(BulkheadFull, match=r"1 call is under way$"):
            pipelines[0].call(pipelines[0].call, print)
        pipelines[1].call(pipelines[1].call, print)

    asyncio.run(main())
    assert [getattr(event, "reason", "") for event in heard] == ["1 call is under way and 5 wait"]
