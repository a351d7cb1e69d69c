import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.call import FAILED, IGNORED, bare_call
from holdfast.core.clock import SYSTEM, VirtualClock
from holdfast.core.context import current_deadline, deadline_within, remaining
from holdfast.core.errors import ConfigError, DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.expiry import STALE_LIMIT, Lane, Lanes, SortedLane
from holdfast.resilience.timeout import Timeout
from holdfast.testing import without_waiting

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]


def virtual() -> VirtualClock:
    return VirtualClock(start=0.0)


def test_a_call_that_takes_too_long_is_ended_at_its_deadline() -> None:
    clock = virtual()
    timeout = Timeout(2.0)

    async def main() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            await Pipeline("slow", timeout, clock=clock).acall(asyncio.sleep, 60)
        assert clock.now() == pytest.approx(2.0)
        assert str(caught.value) == "slow: timeout: took longer than 2 s"
        assert caught.value.snapshot["seconds"] == 2.0
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    clock.run(main())
    assert (timeout.expired, timeout.refused) == (1, 0)


def test_a_call_in_time_is_left_alone_and_its_entry_is_gone() -> None:
    clock = virtual()
    timeout = Timeout(2.0)

    async def main() -> None:
        assert await Pipeline("x", timeout, clock=clock).acall(asyncio.sleep, 1, "done") == "done"
        await asyncio.sleep(5)

    clock.run(main())
    assert timeout.snapshot() == {"seconds": 2.0, "expired": 0, "refused": 0}
    assert [len(lane.entries) for lane in timeout._lanes.by_loop.values()] == [0]


def test_each_of_many_calls_ends_at_its_own_deadline() -> None:
    clock = virtual()
    pipeline = Pipeline("x", Timeout(2.0), clock=clock)
    ended: list[float] = []

    async def one(start: float) -> None:
        await asyncio.sleep(start)
        with pytest.raises(DeadlineExceeded):
            await pipeline.acall(asyncio.sleep, 60)
        ended.append(clock.now() - start)

    async def main() -> None:
        await asyncio.gather(*(one(number / 10) for number in range(100)))

    clock.run(main())
    assert ended == pytest.approx([2.0] * 100, abs=0.002)


@given(st.lists(st.tuples(*[st.floats(0, 5)] * 3), min_size=1, max_size=15))
def test_the_nearer_of_own_and_outer_deadline_counts_whoever_else_is_there(
    calls: list[tuple[float, float, float]],
) -> None:
    clock = virtual()
    pipeline = Pipeline("x", Timeout(2.0), clock=clock)

    async def one(start: float, outer: float, takes: float) -> None:
        await asyncio.sleep(start)
        limit = min(2.0, outer)
        with deadline_within(outer, now=clock.now()):
            try:
                await pipeline.acall(asyncio.sleep, takes)
            except DeadlineExceeded:
                assert takes >= limit - 0.002
                assert clock.now() - start == pytest.approx(limit, abs=0.003)
            else:
                assert takes <= limit + 0.003

    async def main() -> None:
        await asyncio.gather(*(one(*call) for call in calls))

    clock.run(main())


def test_a_deadline_that_has_passed_already_begins_nothing() -> None:
    timeout = Timeout(2.0)
    begun: list[int] = []
    with deadline_within(0, now=SYSTEM.now()), pytest.raises(DeadlineExceeded, match="before the call began"):
        timeout.call(begun.append, 1)

    async def main() -> None:
        async def begin() -> None:
            begun.append(2)

        with deadline_within(0, now=SYSTEM.now()), pytest.raises(DeadlineExceeded, match="before the call began"):
            await timeout.acall(begin)

    asyncio.run(main())
    assert begun == []
    assert timeout.refused == 2


def test_an_outer_deadline_that_nobody_else_enforces_is_enforced_here() -> None:
    clock = virtual()

    async def main() -> None:
        with deadline_within(1, now=clock.now()), pytest.raises(DeadlineExceeded, match="around the call"):
            await Pipeline("x", Timeout(5.0), clock=clock).acall(asyncio.sleep, 60)
        assert clock.now() == pytest.approx(1.0, abs=0.002)

    clock.run(main())


def test_what_is_further_in_sees_the_deadline_and_what_comes_after_does_not() -> None:
    clock = virtual()
    pipeline = Pipeline("x", Timeout(5.0), Timeout(2.0), clock=clock)

    async def look() -> tuple[float, float]:
        return current_deadline(), await asyncio.create_task(child())

    async def child() -> float:
        return remaining(clock.now())

    async def main() -> None:
        assert await pipeline.acall(look) == (2.0, 2.0)
        assert current_deadline() == inf
        with pytest.raises(DeadlineExceeded):
            await pipeline.acall(asyncio.sleep, 9)
        assert current_deadline() == inf

    clock.run(main())
    clock.move_to(100.0)
    assert pipeline.call(current_deadline) == 102.0
    assert current_deadline() == inf


def test_of_two_limits_the_one_that_was_passed_speaks() -> None:
    clock = virtual()

    async def main() -> None:
        outer, inner = Timeout(5.0, name="total"), Timeout(2.0, name="attempt")
        with pytest.raises(DeadlineExceeded, match="attempt: took longer than 2 s"):
            await Pipeline("x", outer, inner, clock=clock).acall(asyncio.sleep, 9)
        outer.update(seconds=1.0)
        with pytest.raises(DeadlineExceeded, match=r"took longer than 1 s|around the call"):
            await Pipeline("x", outer, inner, clock=clock).acall(asyncio.sleep, 9)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    clock.run(main())


def test_a_cancellation_from_outside_gets_out_as_one() -> None:
    clock = virtual()
    timeout = Timeout(2.0)

    async def main() -> None:
        task = asyncio.create_task(Pipeline("x", timeout, clock=clock).acall(asyncio.sleep, 60))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert clock.now() == 1.0

    clock.run(main())
    assert timeout.expired == 0


@pytest.mark.parametrize("first", ["cancellation", "deadline"])
def test_a_cancellation_that_meets_the_deadline_is_not_swallowed(first: str) -> None:
    clock = virtual()
    timeout = Timeout(2.0)

    async def main() -> None:
        task = asyncio.create_task(Pipeline("x", timeout, clock=clock).acall(asyncio.sleep, 60))
        if first == "deadline":
            await asyncio.sleep(0)
        # Both in the same turn of the loop.
        asyncio.get_running_loop().call_at(2.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    clock.run(main())


def test_a_limit_works_in_the_clean_up_of_a_cancelled_task() -> None:
    clock = virtual()
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            with pytest.raises(DeadlineExceeded):
                await Pipeline("clean-up", Timeout(2.0), clock=clock).acall(asyncio.sleep, 60)
            seen.append(f"cleaned up at {clock.now():g}")

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(main())
    assert seen == ["cleaned up at 3"]


def test_a_callee_that_will_not_be_cancelled_returns_and_the_task_is_whole() -> None:
    clock = virtual()
    timeout = Timeout(1.0)

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "late"
        return "never"

    async def main() -> None:
        assert await Pipeline("x", timeout, clock=clock).acall(stubborn) == "late"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(1)

    clock.run(main())
    assert timeout.expired == 1


def test_the_callees_own_error_at_the_deadline_is_not_hidden() -> None:
    clock = virtual()

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("mine")

    async def main() -> None:
        with pytest.raises(ValueError, match="mine"):
            await Pipeline("x", Timeout(1.0), clock=clock).acall(failing)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    clock.run(main())


def test_a_deadline_is_the_dependencys_failure_and_a_cancellation_nobodys() -> None:
    clock = virtual()
    pipeline = Pipeline("x", Timeout(2.0), clock=clock)

    async def main() -> None:
        call = bare_call(clock=clock)
        call.fn, call.args = asyncio.sleep, (60,)
        with pytest.raises(DeadlineExceeded):
            await pipeline.run_async(call)
        assert call.verdict is FAILED
        call = bare_call(clock=clock)
        call.fn, call.args = asyncio.sleep, (60,)
        task = asyncio.ensure_future(pipeline.run_async(call))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        assert call.verdict is IGNORED

    clock.run(main())


def test_new_seconds_hold_for_the_next_call_and_old_calls_keep_theirs() -> None:
    clock = virtual()
    timeout = Timeout(5.0)
    pipeline = Pipeline("x", timeout, clock=clock)

    async def main() -> None:
        old = asyncio.create_task(pipeline.acall(asyncio.sleep, 60))
        await asyncio.sleep(1)
        timeout.update(seconds="500ms")
        with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
            await pipeline.acall(asyncio.sleep, 60)
        assert clock.now() == pytest.approx(1.5, abs=0.002)
        with pytest.raises(DeadlineExceeded, match="longer than 5 s") as caught:
            await old
        assert caught.value.snapshot["seconds"] == 5.0
        assert clock.now() == pytest.approx(5.0, abs=0.002)

    clock.run(main())


def test_a_sync_call_is_told_its_deadline_and_not_interrupted() -> None:
    clock = virtual()

    def slow() -> float:
        clock.pause(9)
        return current_deadline()

    assert Pipeline("x", Timeout(2.0), clock=clock).call(slow) == 2.0
    with deadline_within(1, now=clock.now()):
        assert Pipeline("x", Timeout(2.0), clock=clock).call(slow) == clock.now() - 9 + 1


def test_outside_a_task_there_is_nothing_to_interrupt() -> None:
    timeout = Timeout(2.0)
    failures: list[BaseException] = []

    async def nothing() -> None: ...

    def callback() -> None:
        coroutine = timeout.acall(nothing)
        try:
            coroutine.send(None)
        except RuntimeError as error:
            failures.append(error)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback)
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert "await it in a task" in str(failures[0])


def test_a_limit_of_nothing_is_refused() -> None:
    for wrong in (0, -1, inf, "soon"):
        with pytest.raises(ConfigError, match="Timeout seconds"):
            Timeout(wrong)


def test_real_loops_end_calls_in_time(run_async: RunAsync) -> None:
    timeout = Timeout(0.05)

    async def main() -> list[float]:
        async def one() -> float:
            began = SYSTEM.now()
            with pytest.raises(DeadlineExceeded):
                await timeout.acall(asyncio.sleep, 60)
            return SYSTEM.now() - began

        return list(await asyncio.gather(*(one() for _ in range(50))))

    taken = run_async(main())
    assert min(taken) >= 0.05
    assert max(taken) < 5
    assert timeout.expired == 50


def test_one_policy_serves_many_loops_at_a_time_and_each_cancels_its_own() -> None:
    timeout = Timeout(0.05)
    problems: list[str] = []

    async def main() -> None:
        for _ in range(10):
            try:
                await timeout.acall(asyncio.sleep, 60)
                problems.append("not ended")
            except DeadlineExceeded:
                pass
            if await timeout.acall(asyncio.sleep, 0, "fine") != "fine":
                problems.append("not fine")

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert timeout.expired == 80


def test_a_thread_that_runs_one_loop_after_the_other_finds_the_right_one() -> None:
    timeout = Timeout(0.02)

    async def main() -> str:
        try:
            await timeout.acall(asyncio.sleep, 60)
        except DeadlineExceeded:
            return "ended"
        return "not ended"

    assert [asyncio.run(main()) for _ in range(5)] == ["ended"] * 5
    assert len(timeout._lanes.by_loop) == 1, "closed loops are forgotten"


def test_a_loop_that_moves_to_another_thread_takes_its_calls_along() -> None:
    timeout = Timeout(0.02)
    loop = asyncio.new_event_loop()
    results: list[str] = []

    async def main() -> str:
        try:
            await timeout.acall(asyncio.sleep, 60)
        except DeadlineExceeded:
            return "ended"
        return "not ended"

    try:
        results.append(loop.run_until_complete(main()))
        mover = threading.Thread(target=lambda: results.append(loop.run_until_complete(main())))
        mover.start()
        # Meanwhile this thread, which the first loop was seen in, runs another one.
        results.append(asyncio.run(main()))
        mover.join(10)
    finally:
        loop.close()
    assert results == ["ended"] * 3


def test_calls_that_are_done_are_not_kept_alive_by_the_timer() -> None:
    class Thing: ...

    timeout = Timeout(60.0)
    references: list[weakref.ref[Thing]] = []

    async def use(thing: Thing) -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(5):
            thing = Thing()
            references.append(weakref.ref(thing))
            await timeout.acall(use, thing)
            del thing
        gc.collect()
        assert [reference() for reference in references] == [None] * 5

    asyncio.run(main())


def test_a_lane_has_one_timer_however_many_calls() -> None:
    clock = virtual()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers: list[float] = []
        original = loop.call_at

        def counting(when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
            if getattr(callback, "__self__", None).__class__ in (Lane, SortedLane):
                timers.append(when)
            return original(when, callback, *args, context=context)

        loop.call_at = counting  # type: ignore[method-assign,assignment]
        pipeline = Pipeline("x", Timeout(10.0), clock=clock)
        for _ in range(1000):
            await pipeline.acall(asyncio.sleep, 0.1)
        assert len(timers) <= 100.0 / 10 + 1

    clock.run(main())


def test_the_heap_of_foreign_deadlines_stays_small() -> None:
    clock = virtual()
    timeout = Timeout(100.0)
    pipeline = Pipeline("x", timeout, clock=clock)

    async def main() -> None:
        with deadline_within(50, now=clock.now()):
            for _ in range(1000):
                await pipeline.acall(asyncio.sleep, 0)
        (lane,) = timeout._lanes.by_loop.values()
        assert len(lane.of_any_deadline()._heap) <= STALE_LIMIT + 2

    clock.run(main())


def test_each_clock_on_a_loop_is_gone_by() -> None:
    timeout = Timeout(0.05)
    pipeline = Pipeline("x", timeout)

    async def main() -> None:
        with without_waiting(pipeline):
            await pipeline.acall(asyncio.sleep, 0)
        async with asyncio.timeout(10):
            with pytest.raises(DeadlineExceeded):
                await pipeline.acall(asyncio.sleep, 60)

    asyncio.run(main())


def test_lanes_of_threads_that_ended_are_forgotten() -> None:
    timeout = Timeout(5.0)
    together = threading.Barrier(10)

    def serve() -> None:
        asyncio.run(timeout.acall(asyncio.sleep, 0))
        together.wait(10)

    threads = [threading.Thread(target=serve) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    asyncio.run(timeout.acall(asyncio.sleep, 0))
    assert len(timeout._lanes.by_thread) == 1


def test_a_lane_never_mixes_old_seconds_with_new_ones() -> None:
    clock = virtual()
    timeout = Timeout(50.0)
    pipeline = Pipeline("x", timeout, clock=clock)
    old, new = timeout._lanes, Lanes(1.0)

    class Changing(dict[int, Lane]):
        """Another thread updates the settings just when a call has begun to look for its lane."""

        def get(self, ident: int, default: Any = None) -> Any:
            timeout._seconds, timeout._lanes, timeout._by_thread = 1.0, new, new.by_thread
            return super().get(ident, default)

    async def main() -> None:
        await pipeline.acall(asyncio.sleep, 1)
        timeout._by_thread = Changing(old.by_thread)
        at = clock.now()
        began = asyncio.create_task(pipeline.acall(asyncio.sleep, 60))
        await asyncio.sleep(0)
        lanes = [*old.by_loop.values(), *new.by_loop.values()]
        assert [(entry[0] - at, lane.seconds) for lane in lanes for entry in lane.entries.values()] == [(50.0, 50.0)]
        with pytest.raises(DeadlineExceeded):
            await pipeline.acall(asyncio.sleep, 60)
        assert clock.now() == pytest.approx(at + 1.0, abs=0.002)
        began.cancel()

    clock.run(main())


def test_a_coroutine_may_be_closed_from_outside_its_task() -> None:
    timeout = Timeout(5.0)
    coroutine = timeout.acall(asyncio.sleep, 60)

    async def begin() -> None:
        coroutine.send(None)

    async def main() -> None:
        await asyncio.get_running_loop().create_task(begin(), context=contextvars.copy_context())

    asyncio.run(main())
    with deadline_within(99.0):
        before = current_deadline()
        coroutine.close()
        assert current_deadline() == before  # the deadline of whoever closes it stays
    (lane,) = timeout._lanes.by_loop.values()
    assert not lane.entries


def test_a_coroutine_may_be_closed_by_another_task_of_its_loop() -> None:
    timeout = Timeout(5.0)

    async def main() -> None:
        coroutine = timeout.acall(asyncio.sleep, 60)

        async def begin() -> None:
            coroutine.send(None)
            assert current_deadline() < inf

        await asyncio.create_task(begin())
        with deadline_within(99.0):
            before = current_deadline()
            coroutine.close()
            assert current_deadline() == before

    asyncio.run(main())
    (lane,) = timeout._lanes.by_loop.values()
    assert not lane.entries


def test_a_coroutine_that_its_own_task_closes_gives_the_deadline_back() -> None:
    async def main() -> None:
        with deadline_within(99.0):
            before = current_deadline()
            coroutine = Timeout(5.0).acall(asyncio.sleep, 60)
            coroutine.send(None)
            assert current_deadline() < before
            coroutine.close()
            assert current_deadline() == before

    asyncio.run(main())


@pytest.mark.parametrize("expires", [True, False])
def test_a_task_that_failed_is_freed_without_the_collector(expires: bool) -> None:
    class Thing: ...

    async def fail(thing: Thing) -> None:
        await asyncio.sleep(60 if expires else 0)
        raise ValueError

    async def main() -> None:
        thing = Thing()
        reference = weakref.ref(thing)
        task = asyncio.create_task(Timeout(0.01).acall(fail, thing))
        del thing
        await asyncio.wait([task])
        assert isinstance(task.exception(), DeadlineExceeded if expires else ValueError)
        del task
        assert reference() is None

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_a_short_limit_is_told_without_an_exponent() -> None:
    clock = VirtualClock()

    async def main() -> None:
        with pytest.raises(DeadlineExceeded, match=r"took longer than 0\.00002 s$"):
            await Pipeline("x", Timeout("20us"), clock=clock).acall(asyncio.sleep, 1)

    clock.run(main())
