"""Hedged calls that are cancelled, on every kind of loop: nothing is swallowed and nothing is left."""

import asyncio
import contextlib
import gc
import random
import weakref
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.racing import tasks
from holdfast.resilience.timeout import Timeout
from resilience.loops import RunAsync
from resilience.scripted import NEVER, Dependency, others

SOON = 0.002


async def until_begun(dependency: Dependency, attempts: int) -> None:
    while len(dependency.begun) < attempts:  # noqa: ASYNC110 - the loop's own timers are what is waited for
        await asyncio.sleep(0)


async def at_rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    assert others() == set()


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_cancellation_from_outside_cancels_every_attempt_and_gets_out_at_once(
    run_async: RunAsync, attempts: int
) -> None:
    dependency = Dependency(*[(NEVER, None)] * 3)
    bulkhead = Bulkhead(5)
    hedge = Hedge(SOON if attempts > 1 else 60.0, attempts=3)

    async def main() -> None:
        task = asyncio.ensure_future(Pipeline("x", hedge, bulkhead).acall(dependency))
        await until_begun(dependency, attempts)
        task.cancel()
        for _ in range(4):
            await asyncio.sleep(0)
        assert task.cancelled()
        await at_rest()

    run_async(main())
    assert sorted(dependency.cancelled) == list(range(len(dependency.begun)))
    assert (bulkhead.in_flight, len(hedge.under_way)) == (0, 0)


def test_a_cancellation_while_only_hedges_are_under_way_cancels_them(run_async: RunAsync) -> None:
    dependency = Dependency((0.0, OSError("down")), (NEVER, None))
    hedge = Hedge(60.0)

    async def main() -> None:
        task = asyncio.ensure_future(Pipeline("x", hedge).acall(dependency))
        await until_begun(dependency, 2)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await at_rest()

    run_async(main())
    assert dependency.cancelled == [1]


def test_the_win_of_a_hedge_leaves_no_cancellation_behind(run_async: RunAsync) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        for _ in range(5):
            dependency = Dependency((NEVER, "first"), (0.0, "second"))
            assert await Pipeline("x", Hedge(SOON)).acall(dependency) == "second"
            assert task.cancelling() == 0
            await asyncio.sleep(0.001)  # would raise if one were pending
            assert others() == set()

    run_async(main())


def test_a_cancellation_in_the_moment_in_which_a_hedge_wins_is_not_swallowed(run_async: RunAsync) -> None:
    gate: list[asyncio.Event] = []

    async def fn() -> str:
        if not gate:
            gate.append(asyncio.Event())
            await asyncio.sleep(NEVER)
        await gate[0].wait()
        return "second"

    async def main() -> None:
        for turns in range(6):
            gate.clear()
            task = asyncio.ensure_future(Pipeline("x", Hedge(SOON)).acall(fn))
            while not gate or len(others()) < 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
            gate[0].set()
            for _ in range(turns):
                await asyncio.sleep(0)
            if not task.cancel():
                assert task.result() == "second"
                continue
            with pytest.raises(asyncio.CancelledError):
                await task
            await at_rest()

    run_async(main())


def test_a_task_that_was_cancelled_before_may_still_make_hedged_calls_while_it_cleans_up(run_async: RunAsync) -> None:
    answers: list[Any] = []

    async def clean_up() -> None:
        try:
            await asyncio.sleep(NEVER)
        finally:
            dependency = Dependency((NEVER, "first"), (0.0, "second"))
            answers.append(await Pipeline("x", Hedge(SOON)).acall(dependency))

    async def main() -> None:
        task = asyncio.ensure_future(clean_up())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(main())
    assert answers == ["second"]


def test_a_first_attempt_that_was_cancelled_from_outside_may_clean_up_in_peace() -> None:
    clock = VirtualClock(start=0.0)
    begun: list[float] = []
    cleaned: list[float] = []
    hedge = Hedge(0.1, attempts=3)

    async def fn() -> str:
        begun.append(clock.now())
        if len(begun) == 1:
            try:
                await asyncio.sleep(NEVER)
            finally:
                await asyncio.sleep(0.5)
                cleaned.append(clock.now())
        await asyncio.sleep(0.3)
        return "second"

    async def main() -> None:
        task = asyncio.ensure_future(Pipeline("x", hedge, clock=clock).acall(fn))
        await asyncio.sleep(0.15)
        task.cancel()  # the hedge would win at 0.4, and a third attempt would begin at 0.2
        with pytest.raises(asyncio.CancelledError):
            await task

    clock.run(main())
    assert begun == pytest.approx([0.0, 0.1])
    assert cleaned == pytest.approx([0.65])
    assert hedge.won == 0


def test_an_asyncio_timeout_around_it_works_as_ever(run_async: RunAsync) -> None:
    async def main() -> None:
        dependency = Dependency((NEVER, "first"), (NEVER, "second"))
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(None)

        async def fn() -> None:
            if len(dependency.begun) == 1:
                loop.call_soon(limit.reschedule, loop.time())  # not by the clock: both attempts have begun
            await dependency()

        with pytest.raises(TimeoutError):
            async with limit:
                await Pipeline("x", Hedge(SOON)).acall(fn)
        await at_rest()
        assert sorted(dependency.cancelled) == [0, 1]

    run_async(main())


def test_an_asyncio_timeout_inside_works_as_ever(run_async: RunAsync) -> None:
    limits: list[asyncio.Timeout] = []

    async def limited() -> None:
        async with asyncio.timeout(None) as limit:
            limits.append(limit)
            if len(limits) == 2:
                for each in limits:
                    each.reschedule(asyncio.get_running_loop().time())
            await asyncio.sleep(NEVER)

    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            await Pipeline("x", Hedge(SOON)).acall(limited)
        assert "2 attempts" in caught.value.__notes__[0]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    run_async(main())


def test_a_task_group_inside_the_losing_attempt_is_wound_up(run_async: RunAsync) -> None:
    ended: list[str] = []

    async def child() -> None:
        try:
            await asyncio.sleep(NEVER)
        finally:
            ended.append("child")

    begun: list[int] = []

    async def fn() -> str:
        begun.append(1)
        if len(begun) == 1:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        return "second"

    async def main() -> None:
        assert await Pipeline("x", Hedge(SOON)).acall(fn) == "second"
        assert others() == set()

    run_async(main())
    assert ended == ["child"]


def test_a_first_attempt_that_swallows_its_cancellation_does_not_disturb_the_answer(run_async: RunAsync) -> None:
    begun: list[int] = []

    async def fn() -> str:
        begun.append(1)
        if len(begun) == 1:
            try:
                await asyncio.sleep(NEVER)
            except asyncio.CancelledError:
                return "swallowed"
        return "second"

    async def main() -> None:
        assert await Pipeline("x", Hedge(SOON)).acall(fn) == "second"
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run_async(main())


def test_an_answer_does_not_wait_for_a_loser_longer_than_its_limit() -> None:
    clock = VirtualClock(start=0.0)
    begun: list[int] = []
    cleaned: list[float] = []
    hedge = Hedge(0.1)

    async def fn() -> str:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(0.2)
            return "first"
        try:
            await asyncio.sleep(NEVER)
        finally:
            await asyncio.sleep(5)  # a slow farewell, in which nobody disturbs it
            cleaned.append(clock.now())
        return "second"

    async def main() -> None:
        assert await Pipeline("x", hedge, clock=clock).acall(fn) == "first"
        assert clock.now() == pytest.approx(0.2 + tasks.CLEANUP)
        assert len(hedge.under_way) == 1  # it has an owner
        await asyncio.sleep(6)
        assert not hedge.under_way
        assert cleaned == [pytest.approx(5.2)]

    clock.run(main())


def test_a_loser_that_fails_while_it_ends_is_not_reported_as_an_error_nobody_awaited(run_async: RunAsync) -> None:
    begun: list[int] = []

    async def fn() -> str:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(SOON * 3)
            return "first"
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            raise OSError("the connection broke") from None
        return "second"

    async def main() -> None:
        assert await Pipeline("x", Hedge(SOON)).acall(fn) == "first"
        gc.collect()
        await asyncio.sleep(0)

    run_async(main())


def test_a_hedged_call_outside_of_a_task_is_not_hedged() -> None:
    async def main() -> list[Any]:
        answers: list[Any] = []

        def outside() -> None:
            try:
                Hedge(0.001).acall(_at_once).send(None)
            except StopIteration as ended:
                answers.append(ended.value)

        asyncio.get_running_loop().call_soon(outside)
        await asyncio.sleep(0.001)
        return answers

    assert asyncio.run(main()) == [7]


async def _at_once() -> int:
    return 7


def test_failed_calls_leave_no_garbage() -> None:
    errors: list[weakref.ref[BaseException]] = []

    class Down(OSError):
        def __init__(self) -> None:
            errors.append(weakref.ref(self))

    async def fn() -> None:
        raise Down

    async def main() -> None:
        with contextlib.suppress(Down):
            await Pipeline("x", Hedge(60.0)).acall(fn)
        await asyncio.sleep(0)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
        assert len(errors) == 2
        assert [error() for error in errors] == [None, None]
    finally:
        gc.enable()


def test_50_tasks_with_hedges_timeouts_and_cancellations_leak_nothing(run_async: RunAsync) -> None:
    seed = 5
    chance = random.Random(seed)
    bulkhead = Bulkhead(200)
    hedge = Hedge(0.0015, attempts=3, budget=False)
    pipeline = Pipeline("x", Timeout(0.02), hedge, bulkhead, Timeout(0.01))

    async def fn() -> int:
        await asyncio.sleep(chance.choice([0, 0.001, 0.003, 0.008]))
        if chance.random() < 0.2:
            raise OSError("down")
        return 1

    async def one() -> None:
        with contextlib.suppress(OSError, DeadlineExceeded):
            await pipeline.acall(fn)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    async def main() -> None:
        for _ in range(4):
            tasks = [asyncio.ensure_future(one()) for _ in range(50)]
            await asyncio.sleep(0.002)
            for task in chance.sample(tasks, 10):
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                assert task.cancelled() or task.exception() is None
        await asyncio.sleep(0.05)
        assert others() == set()

    run_async(main())
    assert (bulkhead.in_flight, len(hedge.under_way)) == (0, 0)
    assert all(not lane.late and not lane.races for lane in hedge._pace._by_loop.values())
    assert hedge.hedges > 20
