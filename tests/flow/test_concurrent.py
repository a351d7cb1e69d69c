import asyncio
import contextlib
import functools
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from flow.loops import Calls, Numbers, Run, double, gather, others, take, turns, until
from holdfast.core.context import baggage, current, current_deadline, deadline_within
from holdfast.core.errors import CallCancelled
from holdfast.flow import Outcome, map_concurrent


def test_results_come_in_the_order_of_the_source_whichever_call_ends_first(run: Run) -> None:
    async def main() -> list[str]:
        calls: Calls[int] = Calls()
        results = map_concurrent(range(3), calls, limit=3)
        first = take(results)
        await until(lambda: len(calls.begun) == 3)
        for item in (2, 1):
            calls.finish(item, f"r{item}")
            await turns(3)
        assert not first.done()
        calls.finish(0, "r0")
        return [await first, *[result async for result in results]]

    assert run(main) == ["r0", "r1", "r2"]


def test_unordered_results_come_as_soon_as_they_are_there(run: Run) -> None:
    async def main() -> list[int]:
        calls: Calls[int] = Calls()
        results = map_concurrent(range(3), calls, limit=3, ordered=False)
        seen = []
        for item in (2, 0, 1):
            result = take(results)
            await until(lambda: len(calls.begun) == 3)
            calls.finish(item, item)
            seen.append(await result)
        assert [result async for result in results] == []
        return seen

    assert run(main) == [2, 0, 1]


@pytest.mark.parametrize("ordered", [True, False])
def test_every_kind_of_source_gives_every_result_once(run: Run, ordered: bool) -> None:
    def generator() -> Iterator[int]:
        yield from range(40)

    async def main() -> list[list[int]]:
        sources: list[Any] = [range(40), list(range(40)), generator(), iter(range(40)), Numbers(40)]
        flows = [map_concurrent(source, double, limit=3, ordered=ordered) for source in sources]
        return [sorted([result async for result in flow]) for flow in flows]

    assert run(main) == [list(range(0, 80, 2))] * 5


def test_nothing_starts_before_the_first_result_is_asked_for(run: Run) -> None:
    async def main() -> int:
        source = Numbers(5)
        flow = map_concurrent(source, double, limit=2)
        await turns(5)
        assert source.read == 0
        await flow.aclose()
        return source.read

    assert run(main) == 0


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffer", [0, 1, None])
def test_a_consumer_that_stops_taking_stops_the_source(run: Run, ordered: bool, buffer: int | None) -> None:
    async def main() -> None:
        source = Numbers(100)
        async with aclosing(map_concurrent(source, double, limit=3, buffer=buffer, ordered=ordered)) as results:
            taken = 0
            bound = 3 + (3 if buffer is None else buffer)
            async for _ in results:
                taken += 1
                await turns(20)
                assert source.read == min(100, taken + bound)
        assert taken == 100

    run(main)


def test_a_slow_call_holds_up_results_but_no_calls_while_the_buffer_has_room(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with aclosing(map_concurrent(range(100), calls, limit=2, buffer=4)) as results:
            first = take(results)
            for item in range(1, 6):
                await until(functools.partial(calls.has_begun, item))
                calls.finish(item)
            await turns(10)
            assert calls.running == [0]
            assert calls.begun == [0, 1, 2, 3, 4, 5]  # limit + buffer, and not one more
            calls.finish(0)
            await first
            await until(lambda: calls.running == [6])

    run(main)


def test_no_more_calls_than_the_limit_are_under_way(run: Run) -> None:
    async def main() -> int:
        calls: Calls[int] = Calls()
        async with aclosing(map_concurrent(range(50), calls, limit=4, ordered=False)) as results:
            for _ in range(50):
                result = take(results)
                await until(lambda: calls.running)
                await turns(3)
                calls.finish(calls.running[-1])
                await result
        return calls.most

    assert run(main) == 4


def test_the_first_error_cancels_the_other_calls_and_is_raised_when_they_have_ended(run: Run) -> None:
    async def main() -> None:
        release = asyncio.Event()
        ended: list[int] = []

        async def call(item: int) -> None:
            try:
                if item == 1:
                    raise ValueError("one")
                await asyncio.Event().wait()
            finally:
                await release.wait()
                ended.append(item)

        source = Numbers(100)
        result = take(map_concurrent(source, call, limit=3))
        await turns(20)
        assert not result.done()
        release.set()
        with pytest.raises(ValueError, match="one"):
            await result
        assert sorted(ended) == list(range(source.read))
        assert source.closed
        assert not others()

    run(main)


@pytest.mark.parametrize(("ordered", "expected"), [(True, [0, 1]), (False, [0, 1, 3])])
def test_results_that_were_ready_before_the_error_are_handed_out(run: Run, ordered: bool, expected: list[int]) -> None:
    async def main() -> list[int]:
        calls: Calls[int] = Calls()
        results = map_concurrent(range(9), calls, limit=5, ordered=ordered)
        first = take(results)
        await until(lambda: len(calls.begun) == 5)
        for item in (0, 1, 3):
            calls.finish(item, item)
            await turns(3)
        calls.finish(2, ValueError("two"))
        seen = [await first]
        await until(lambda: 4 in calls.cancelled)
        with pytest.raises(ValueError, match="two"):
            await gather(results, seen)
        return seen

    assert run(main) == expected


def test_errors_of_the_same_time_come_as_a_group_in_their_order(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        result = take(map_concurrent(range(5), calls, limit=3))
        await until(lambda: len(calls.begun) == 3)
        calls.finish(2, OSError("two"))
        calls.finish(0, ValueError("zero"))
        with pytest.raises(ExceptionGroup, match="2 failures at the same time") as raised:
            await result
        assert [str(error) for error in raised.value.exceptions] == ["two", "zero"]

    run(main)


def test_an_error_while_a_cancelled_call_cleans_up_is_not_lost(run: Run) -> None:
    async def main() -> None:
        async def call(item: int) -> None:
            if item == 1:
                raise ValueError("first")
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("while cleaning up")

        with pytest.raises(ExceptionGroup) as raised:
            await anext(map_concurrent(range(5), call, limit=2))
        assert [type(error) for error in raised.value.exceptions] == [ValueError, OSError]

    run(main)


def test_an_error_that_was_raised_is_freed_without_the_garbage_collector() -> None:
    """An error that holds itself, through its traceback, holds every local variable on its way too.

    On a plain loop only: with eager tasks CPython itself keeps the error of any task.
    """

    async def main() -> None:
        class Marker:
            pass

        made: list[weakref.ref[Marker]] = []

        async def call(_: int) -> None:
            marker = Marker()
            made.append(weakref.ref(marker))
            raise ValueError(marker)

        gc.disable()
        try:
            with contextlib.suppress(ValueError):
                await anext(map_concurrent([1], call, limit=1))
            await turns(3)
            assert made[0]() is None
        finally:
            gc.enable()

    asyncio.run(main())


def test_a_function_that_raises_before_it_is_awaited_fails_its_item_only(run: Run) -> None:
    async def main() -> list[bool]:
        def call(item: int) -> Any:
            if item == 1:
                raise ValueError("one")
            return double(item)

        return [outcome.ok async for outcome in map_concurrent(range(3), call, limit=2, on_error="outcome")]

    assert run(main) == [True, False, True]


def test_outcomes_keep_each_error_with_its_item(run: Run) -> None:
    async def main() -> list[Outcome[int, int]]:
        flow = map_concurrent(Numbers(4), halve, limit=3, on_error="outcome")
        return [outcome async for outcome in flow]

    outcomes = run(main)
    assert [outcome.item for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.value for outcome in outcomes] == [0, None, 1, None]
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False]
    assert outcomes[2].result() == 1
    with pytest.raises(ValueError, match="3 is odd"):
        outcomes[3].result()


async def halve(item: int) -> int:
    await asyncio.sleep(0)
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item // 2


def test_a_handler_is_told_of_each_failed_item_which_is_left_out(run: Run) -> None:
    async def main() -> tuple[list[int], list[tuple[int, str]]]:
        failed: list[Outcome[int, int]] = []
        flow = map_concurrent(range(5), halve, limit=3, on_error=failed.append)
        results = [result async for result in flow]
        return results, [(outcome.item, str(outcome.error)) for outcome in failed]

    assert run(main) == ([0, 1, 2], [(1, "1 is odd"), (3, "3 is odd")])


def test_what_a_handler_raises_ends_the_flow(run: Run) -> None:
    async def main() -> None:
        def give_up(outcome: Outcome[int, int]) -> None:
            raise LookupError(outcome.item)

        source = Numbers(50)
        with pytest.raises(LookupError, match="1"):
            [_ async for _ in map_concurrent(source, halve, limit=3, on_error=give_up)]
        assert source.closed

    run(main)


def test_a_failing_source_cancels_the_calls(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        result = take(map_concurrent(Numbers(2, error=OSError("gone")), calls, limit=5))
        with pytest.raises(OSError, match="gone"):
            await result
        assert calls.cancelled == [0, 1]

    run(main)


def test_where_errors_are_kept_apart_a_failing_source_comes_after_all_results(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        source = Numbers(2, error=OSError("gone"))
        results = map_concurrent(source, calls, limit=5, on_error="outcome")
        first = take(results)
        await until(lambda: source.closed)
        await turns(5)
        calls.finish(0, "zero")
        calls.finish(1, ValueError("one"))
        assert (await first).value == "zero"
        assert str((await anext(results)).error) == "one"
        with pytest.raises(OSError, match="gone"):
            await anext(results)

    run(main)


def test_a_call_that_somebody_else_cancels_has_failed_and_does_not_cancel_its_consumer(run: Run) -> None:
    async def main() -> None:
        async def call(item: int) -> int:
            if item == 1:
                raise asyncio.CancelledError
            return await double(item)

        outcomes = [outcome async for outcome in map_concurrent(range(3), call, limit=1, on_error="outcome")]
        assert [type(outcome.error) for outcome in outcomes] == [type(None), CallCancelled, type(None)]
        with pytest.raises(CallCancelled):
            [_ async for _ in map_concurrent(range(3), call, limit=1)]

    run(main)


def test_calls_have_the_context_of_the_consumer_and_keep_their_own_changes(run: Run) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")

    async def source() -> AsyncIterator[int]:
        for item in range(4):
            variable.set(f"source {item}")
            yield item

    async def call(item: int) -> tuple[str, float, str]:
        await asyncio.sleep(0)
        before = variable.get()
        variable.set(f"call {item}")
        return before, current_deadline(), current().baggage["tenant"]

    async def main() -> None:
        variable.set("consumer")
        with baggage(tenant="acme"), deadline_within(5, now=100):
            seen = [result async for result in map_concurrent(source(), call, limit=2)]
        assert seen == [("consumer", 105, "acme")] * 4
        assert variable.get() == "consumer"

    run(main)


def test_a_source_may_hold_a_time_limit_open(run: Run) -> None:
    """One task reads and closes it; a limit entered in one task and left in another raises."""

    async def source() -> AsyncGenerator[int, None]:
        async with asyncio.timeout(60):
            for item in range(100):
                yield item

    async def main() -> None:
        async with aclosing(map_concurrent(source(), double, limit=2)) as results:
            assert [await anext(results) for _ in range(5)] == [0, 2, 4, 6, 8]

    run(main)


def test_stages_run_at_the_same_time_and_are_closed_together(run: Run) -> None:
    async def main() -> None:
        first: Calls[int] = Calls()
        second: Calls[int] = Calls()
        source = Numbers(100)
        stages = map_concurrent(map_concurrent(source, first, limit=2), second, limit=3)
        result = take(stages)
        await until(lambda: len(first.begun) == 2)
        first.finish(0, 10)
        await until(lambda: second.running == [10] and first.running == [1, 2])
        await turns(10)
        result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await result
        assert sorted(first.cancelled) == [1, 2]
        assert second.cancelled == [10]
        assert source.closed

    run(main)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"limit": 0}, ValueError, "limit is 0; give 1 or more"),
        ({"limit": 2.5}, TypeError, r"limit is 2\.5; give a whole number"),
        ({"limit": True}, TypeError, "limit is True"),
        ({"limit": 1, "buffer": -1}, ValueError, "buffer is -1; give 0 or more"),
        ({"limit": 1, "on_error": "skip"}, ValueError, "on_error is 'skip'"),
        ({"limit": 1, "on_error": double}, TypeError, "coroutine function"),
        ({"limit": 1, "source": 7}, TypeError, "not int"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        map_concurrent(**{"source": [1], "fn": double, **arguments})
