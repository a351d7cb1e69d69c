import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from flow.loops import Calls, Numbers, Run, double, take, turns, until
from holdfast.core.context import baggage, current, current_deadline, deadline_within
from holdfast.flow import map_concurrent


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
        ({"limit": 1, "on_error": Calls()}, TypeError, "coroutine function"),
        ({"limit": 1, "on_error": functools.partial(Calls[int](), 1)}, TypeError, "coroutine function"),
        ({"limit": 1, "fn": None}, TypeError, "None cannot be called"),
        ({"limit": 1, "source": 7}, TypeError, "not int"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_at_once(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        map_concurrent(**{"source": [1], "fn": double, **arguments})
