"""However a consumer leaves, everything that was started for it has ended, and its source is closed."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from flow.loops import TURNS, Calls, Numbers, Run, at_rest, double, others, take, turns, until
from holdfast.flow import batch, map_concurrent, merge


class Counted:
    """A call of a few turns, and how many are under way."""

    def __init__(self) -> None:
        self.under_way = 0

    async def __call__(self, item: int) -> int:
        self.under_way += 1
        try:
            await turns(item % 5)
            return item
        finally:
            try:
                await turns(2)
            finally:
                self.under_way -= 1


Build = Callable[[Numbers, Counted], AsyncGenerator[Any, None]]

FLOWS: dict[str, Build] = {
    "map": lambda source, call: map_concurrent(source, call, limit=3),
    "unordered": lambda source, call: map_concurrent(source, call, limit=3, ordered=False, buffer=0),
    "outcomes": lambda source, call: map_concurrent(source, call, limit=3, on_error="outcome"),
    "merge": lambda source, call: merge(source, map_concurrent(range(4), call, limit=2), buffer=2),
    "batch": lambda source, call: batch(map_concurrent(source, call, limit=2), 3, within=1),
    "stages": lambda source, call: map_concurrent(map_concurrent(source, call, limit=2), call, limit=2),
}
flows = pytest.mark.parametrize("build", FLOWS.values(), ids=FLOWS)


def check_over(source: Numbers, call: Counted) -> None:
    assert call.under_way == 0
    assert source.closed or source.read == 0
    assert not others()


@flows
def test_a_cancellation_at_any_point_ends_everything_before_it_gets_out(run: Run, build: Build) -> None:
    async def cancelled_after(count: int) -> bool:
        source, call = Numbers(6), Counted()

        async def consume() -> None:
            async with aclosing(build(source, call)) as results:
                async for _ in results:
                    await turns(1)

        task = asyncio.ensure_future(consume())
        await turns(count)
        if task.done():
            await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
        check_over(source, call)
        return task.cancelled()

    async def main() -> None:
        for count in range(TURNS):
            if not await cancelled_after(count):
                assert count > 10
                return
        raise AssertionError("the flow never came to its end")

    run(main)


@flows
@pytest.mark.parametrize("taken", [1, 4])
def test_closing_ends_everything_before_it_returns(run: Run, build: Build, taken: int) -> None:
    async def main() -> None:
        source, call = Numbers(100), Counted()
        async with aclosing(build(source, call)) as results:
            for _ in range(taken):
                await anext(results)
        check_over(source, call)
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    run(main)


@flows
def test_a_break_ends_everything_soon(run: Run, build: Build) -> None:
    async def main() -> None:
        source, call = Numbers(100), Counted()
        async for _ in build(source, call):
            break
        await at_rest()
        check_over(source, call)

    run(main)


@flows
def test_an_error_of_the_consumer_ends_everything_soon(run: Run, build: Build) -> None:
    async def main() -> None:
        source, call = Numbers(100), Counted()

        async def consume() -> None:
            async for _ in build(source, call):
                raise LookupError

        with pytest.raises(LookupError):
            await consume()
        await at_rest()
        check_over(source, call)

    run(main)


@flows
def test_dropping_the_iterator_ends_everything_soon(run: Run, build: Build) -> None:
    async def main() -> None:
        source, call = Numbers(100), Counted()
        results = build(source, call)
        await anext(results)
        del results
        gc.collect()
        await at_rest()
        check_over(source, call)

    run(main)


@flows
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_closes_soon_after_a_break_ends_everything(
    build: Build, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def main(after: int) -> tuple[Numbers, Counted]:
        source, call = Numbers(100), Counted()
        async for _ in build(source, call):
            break
        await turns(after)
        return source, call

    for after in range(8):
        with asyncio.Runner(loop_factory=factory) as runner:
            source, call = runner.run(main(after))
        assert call.under_way == 0
        assert source.closed


def test_a_second_cancellation_is_passed_on_to_a_call_that_is_slow_to_end(run: Run) -> None:
    async def main() -> None:
        told = []

        async def call(item: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                try:
                    told.append("once")
                    await asyncio.Event().wait()
                finally:
                    told.append("twice")

        result = take(map_concurrent([1], call, limit=1))
        await turns(5)
        result.cancel()
        await turns(5)
        assert told == ["once"]
        assert not result.done()
        result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await result
        assert told == ["once", "twice"]

    run(main)


def test_a_cancelled_close_gets_out_when_the_calls_have_ended(run: Run) -> None:
    async def main() -> None:
        ended = []

        async def call(item: int) -> int:
            if item == 0:
                return item
            try:
                await asyncio.Event().wait()
            finally:
                try:
                    await asyncio.Event().wait()
                finally:
                    await turns(5)
                    ended.append(item)
            return item

        results = map_concurrent(range(2), call, limit=2)
        assert await anext(results) == 0
        closing = asyncio.ensure_future(close(results))
        await turns(5)
        assert ended == []
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert ended == [1]

    run(main)


async def close(results: AsyncGenerator[Any, None]) -> None:
    await results.aclose()


def test_a_cancellation_while_others_end_after_an_error_gets_out_and_the_error_is_reported() -> None:
    reports: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(str(context["exception"])))

        async def call(item: int) -> None:
            if item == 1:
                raise ValueError("the first error")
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.Event().wait()

        result = take(map_concurrent(range(2), call, limit=2))
        await turns(10)
        assert not result.done()
        result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await result

    asyncio.run(main())
    assert reports == ["the first error"]


def test_a_generator_is_closed_also_when_somebody_holds_it(run: Run) -> None:
    closed: list[str] = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.append("sync")

    async def async_numbers() -> AsyncGenerator[int, None]:
        try:
            for number in range(100):
                yield number
        finally:
            closed.append("async")

    async def main() -> None:
        closed.clear()
        held = numbers(), async_numbers()
        for source in held:
            async with aclosing(map_concurrent(source, double, limit=2)) as results:
                await anext(results)
        assert closed == ["sync", "async"]

    run(main)


def test_an_iterator_that_is_no_generator_stays_open(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntwo\nthree\n")

    async def main() -> None:
        with path.open() as lines:
            async with aclosing(map_concurrent(lines, shout, limit=1, buffer=0)) as results:
                assert await anext(results) == "ONE\n"
            assert not lines.closed

    run(main)


async def shout(line: str) -> str:
    return line.upper()


def test_a_call_that_cleans_up_after_an_error_is_cancelled_only_once(run: Run) -> None:
    async def main() -> None:
        cleaned = []

        async def call(item: int) -> None:
            if item == 1:
                raise ValueError
            try:
                await asyncio.Event().wait()
            finally:
                await turns(10)
                cleaned.append(item)

        with pytest.raises(ValueError):  # noqa: PT011 - the group of several would be something else
            await anext(map_concurrent(range(2), call, limit=2))
        assert cleaned == [0]

    run(main)


def test_a_cancellation_gets_out_also_when_a_call_fails_while_it_is_cancelled() -> None:
    reports: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(str(context["exception"])))

        async def call(_: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError("while it was cancelled")

        result = take(map_concurrent([1], call, limit=1))
        await turns(5)
        result.cancel()
        with pytest.raises(asyncio.CancelledError):
            await result
        gc.collect()

    asyncio.run(main())
    assert reports == ["while it was cancelled"]


def test_an_error_that_comes_after_the_consumer_left_is_reported() -> None:
    reports: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(str(context["exception"])))
        calls: Calls[int] = Calls()
        async with aclosing(map_concurrent(range(3), calls, limit=3)) as results:
            first = take(results)
            await until(lambda: len(calls.begun) == 3)
            calls.finish(0)
            await first
            calls.finish(1, ValueError("unheard"))
            await turns(3)

    asyncio.run(main())
    assert reports == ["unheard"]


def test_a_source_that_answers_a_cancellation_with_an_item_starts_no_call(run: Run) -> None:
    async def stubborn() -> AsyncGenerator[int, None]:
        yield 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:  # what this test is about
            yield 1

    async def main() -> None:
        flows: list[AsyncGenerator[Any, None]] = [
            map_concurrent(stubborn(), double, limit=1, buffer=0),
            merge(stubborn()),
            batch(stubborn(), 1),
        ]
        for flow in flows:
            async with aclosing(flow) as results:
                assert await anext(results) in (0, [0])
                await turns(5)
            assert not others()
        begun: list[int] = []

        async def call(item: int) -> None:
            begun.append(item)

        async with aclosing(map_concurrent(stubborn(), call, limit=3)) as nothing:
            await anext(nothing)
            await turns(5)
        assert begun == [0]

    run(main)


def test_two_tasks_cannot_iterate_at_once(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with aclosing(map_concurrent(range(3), calls, limit=1)) as results:
            first = take(results)
            await until(lambda: calls.running)
            with pytest.raises(RuntimeError, match="already running"):
                await anext(results)
            calls.finish(0, "zero")
            assert await first == "zero"

    run(main)
