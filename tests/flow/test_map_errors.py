import asyncio
import contextlib
import gc
import weakref
from typing import Any

import pytest

from flow.loops import Calls, Numbers, Run, double, gather, others, take, turns, until
from holdfast.core.errors import CallCancelled
from holdfast.flow import Outcome, map_concurrent


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


def test_of_errors_of_the_same_time_the_first_is_raised_and_the_others_noted(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        result = take(map_concurrent(range(5), calls, limit=3))
        await until(lambda: len(calls.begun) == 3)
        calls.finish(2, OSError("two"))
        calls.finish(0, ValueError("zero"))
        with pytest.raises(OSError, match="two") as raised:
            await result
        assert raised.value.__notes__ == ["Before the flow had ended, 1 more failed: ValueError: zero"]

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

        with pytest.raises(ValueError, match="first") as raised:
            await anext(map_concurrent(range(5), call, limit=2))
        assert raised.value.__notes__ == ["Before the flow had ended, 1 more failed: OSError: while cleaning up"]

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


@pytest.mark.parametrize("ordered", [True, False])
def test_a_plain_function_that_raises_gives_its_own_error(run: Run, ordered: bool) -> None:
    async def main() -> None:
        def call(item: int) -> Any:
            raise ValueError(f"no {item}")

        with pytest.raises(ValueError, match="no 0") as raised:
            await anext(map_concurrent(range(50), call, limit=20, ordered=ordered))
        (note,) = raised.value.__notes__
        assert note.startswith("Before the flow had ended, 19 more failed: ValueError: no 1; ValueError: no 2; ")
        assert note.endswith("ValueError: no 5; and 14 more")

    run(main)


def test_one_error_that_many_calls_and_flows_raise_does_not_grow(run: Run) -> None:
    async def main() -> None:
        error, other = ValueError("x" * 1000), OSError("y" * 1000)

        def call(item: int) -> Any:
            raise other if item == 1 else error

        for _ in range(3):
            with pytest.raises(ValueError, match="xxx"):
                await anext(map_concurrent([0, 0], call, limit=2))
        assert not hasattr(error, "__notes__")
        for _ in range(3):
            with pytest.raises(ValueError, match="xxx"):
                await anext(map_concurrent([0, 1, 0], call, limit=3))
        assert len(error.__notes__) == 1
        assert len(error.__notes__[0]) < 300

    run(main)


class Alarm(BaseException):
    """As grave as ``SystemExit``, which would end the test's own loop."""


@pytest.mark.parametrize("on_error", ["raise", "outcome"])
def test_what_is_no_plain_error_goes_before_those_that_came_first(run: Run, on_error: Any) -> None:
    async def main() -> None:
        async def call(item: int) -> None:
            if item == 0:
                raise ValueError("first")
            raise Alarm

        with pytest.raises(Alarm) as raised:
            [_ async for _ in map_concurrent(range(2), call, limit=2, on_error=on_error)]
        assert hasattr(raised.value, "__notes__") == (on_error == "raise")

    run(main)


def test_a_handler_that_turns_out_to_be_async_ends_the_flow(run: Run) -> None:
    async def tell(outcome: Outcome[int, int], how: str) -> None:
        raise AssertionError("nobody awaits this")

    async def main() -> None:
        source = Numbers(50)
        with pytest.raises(TypeError, match="returned the coroutine"):
            [_ async for _ in map_concurrent(source, halve, limit=3, on_error=lambda outcome: tell(outcome, "aloud"))]
        assert source.closed

    run(main)


def test_a_function_that_gives_nothing_to_await_is_named(run: Run) -> None:
    def double_now(item: int) -> Any:
        return 2 * item

    async def main() -> None:
        with pytest.raises(TypeError, match="double_now returned nothing to await; give an async def"):
            await anext(map_concurrent([1], double_now, limit=1))

    run(main)
