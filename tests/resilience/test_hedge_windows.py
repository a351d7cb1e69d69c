"""Hedged calls that are cancelled in every moment there is, from outside and by time limits within."""

import asyncio
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.timeout import Timeout
from resilience.loops import RunAsync
from resilience.scripted import NEVER, Dependency, Seen, others

TURNS = 25
"""Turns of the loop in which everything that the sweep cancels is over."""


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Farewell:
    """The first attempt is cut short by its own time limit, and takes 50 ms to clean up; then it ends as told."""

    def __init__(self, clock: VirtualClock, *, goes_on: bool = False) -> None:
        self.clock = clock
        self.goes_on = goes_on
        self.begun: list[float] = []
        self.others: list[tuple[float, Any]] = []

    async def __call__(self) -> Any:
        self.begun.append(self.clock.now())
        if len(self.begun) > 1:
            seconds, outcome = self.others[len(self.begun) - 2]
            await asyncio.sleep(seconds)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome
        try:
            async with asyncio.timeout(0.2):
                try:
                    await asyncio.sleep(NEVER)
                finally:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            if not self.goes_on:
                raise
            await asyncio.sleep(NEVER)


def ended(fn: Farewell, hedge: Hedge, *outside: Any) -> Any:
    async def main() -> Any:
        try:
            return await Pipeline("x", *outside, hedge, clock=fn.clock).acall(fn)
        except Exception as error:  # the test looks at it, whatever it is
            return error
        finally:
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0)
            assert others() == set()

    return fn.clock.run(main())


def test_an_answer_that_comes_while_the_first_attempt_cleans_up_after_its_time_limit_counts() -> None:
    fn = Farewell(VirtualClock(start=0.0))
    fn.others = [(0.12, "second")]
    hedge = Hedge(0.1)
    assert ended(fn, hedge) == "second"
    assert fn.clock.now() == pytest.approx(0.25)
    assert hedge.won == 1


def test_a_failure_that_comes_meanwhile_is_followed_by_another_attempt() -> None:
    fn = Farewell(VirtualClock(start=0.0))
    fn.others = [(0.12, OSError("down")), (0.01, "third")]
    assert ended(fn, Hedge(0.1, attempts=3)) == "third"
    assert fn.begun == pytest.approx([0.0, 0.1, 0.25])


def test_an_answer_of_old_ends_a_first_attempt_that_goes_on_after_its_time_limit() -> None:
    fn = Farewell(VirtualClock(start=0.0), goes_on=True)
    fn.others = [(0.12, "second")]
    assert ended(fn, Hedge(0.1)) == "second"
    assert 0.25 <= fn.clock.now() <= 0.31


def test_a_call_that_falls_due_in_the_window_of_a_time_limit_is_hedged_a_little_later() -> None:
    fn = Farewell(VirtualClock(start=0.0), goes_on=True)
    fn.others = [(0.01, "second")]
    assert ended(fn, Hedge(0.22)) == "second"
    assert len(fn.begun) == 2
    assert 0.25 <= fn.begun[1] <= 0.31


def test_the_attempt_that_follows_a_failed_one_does_not_wait_for_the_time_limit_of_the_first() -> None:
    fn = Farewell(VirtualClock(start=0.0), goes_on=True)
    fn.others = [(0.12, OSError("down")), (0.01, "third")]
    assert ended(fn, Hedge(0.1, attempts=3, budget=False)) == "third"
    assert 0.25 <= fn.begun[2] <= 0.31


def test_a_first_attempt_that_turns_a_cancellation_from_outside_into_an_error_ends_the_call() -> None:
    clock = VirtualClock(start=0.0)
    begun: list[int] = []

    async def fn() -> None:
        begun.append(1)
        try:
            await asyncio.sleep(NEVER if len(begun) == 1 else 0.5)
        except asyncio.CancelledError:
            raise ConnectionError("aborted") from None

    async def main() -> None:
        task = asyncio.ensure_future(Pipeline("x", Hedge(0.1, attempts=3), clock=clock).acall(fn))
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(ConnectionError, match="aborted"):
            await task

    clock.run(main())
    assert clock.now() == pytest.approx(0.15)
    assert len(begun) == 2


def test_a_first_attempt_that_answers_a_cancellation_from_outside_is_heard() -> None:
    clock = VirtualClock(start=0.0)
    hedge = Hedge(0.1)
    begun: list[int] = []

    async def fn() -> str:
        begun.append(1)
        try:
            await asyncio.sleep(NEVER)
        except asyncio.CancelledError:
            return "what there is so far"
        return "never"

    async def main() -> None:
        task = asyncio.ensure_future(Pipeline("x", hedge, clock=clock).acall(fn))
        await asyncio.sleep(0.15)
        task.cancel()
        assert await task == "what there is so far"

    clock.run(main())
    assert (len(begun), hedge.won) == (2, 0)


def test_losers_that_are_slow_to_end_do_not_cost_the_deadline() -> None:
    clock = VirtualClock(start=0.0)
    begun: list[int] = []

    async def fn() -> str:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(0.95)
            return "first"
        try:
            await asyncio.sleep(NEVER)
        finally:
            await asyncio.sleep(5.0)
        return "second"

    async def main() -> None:
        assert await Pipeline("x", Timeout(1.0), Hedge(0.1), clock=clock).acall(fn) == "first"
        assert clock.now() == pytest.approx(0.975)
        await asyncio.sleep(6.0)

    clock.run(main())


def test_losers_are_cancelled_once_and_may_clean_up_in_peace() -> None:
    clock = VirtualClock(start=0.0)
    cleaned: list[str] = []
    begun: list[int] = []

    async def fn() -> str:
        begun.append(1)
        if len(begun) == 1:
            await asyncio.sleep(0.2)
            return "first"
        try:
            await asyncio.sleep(NEVER)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append("second")
        return "second"

    async def main() -> None:
        assert await Pipeline("x", Hedge(0.1), clock=clock).acall(fn) == "first"
        assert cleaned == ["second"]

    clock.run(main())


SCRIPTS: dict[str, list[tuple[int, bool]]] = {
    "a hedge wins": [(1000, True), (5, True)],
    "the first wins": [(8, True), (1000, True)],
    "all fail": [(8, False), (5, False), (3, False)],
    "the first fails": [(6, False), (5, True), (1000, True)],
    "a hedge fails": [(9, True), (2, False), (1000, True)],
}
"""For each attempt: after how many turns it ends, and whether well."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_cancellation_after_each_turn_of_the_loop_gets_out_and_leaves_nothing(
    run_async: RunAsync, script: str
) -> None:
    cut: list[int] = []
    begun: list[int] = []

    async def one(count: int) -> None:
        clock = VirtualClock()
        inside = Seen()
        bulkhead = Bulkhead(10)
        hedge = Hedge(60.0, attempts=3, budget=False)
        pipeline = Pipeline("x", hedge, bulkhead, inside, clock=clock)
        begun.clear()

        def fall_due() -> None:
            clock.advance(60.0)
            for lane in hedge._pace._by_loop.values():
                lane.expire()

        async def fn() -> int:
            begun.append(1)
            number = len(begun)
            last, well = SCRIPTS[script][number - 1]
            if number == 1:
                asyncio.get_running_loop().call_soon(fall_due)
            await turns(last)
            if not well:
                raise OSError(number)
            return number

        task = asyncio.ensure_future(pipeline.acall(fn))
        await turns(count)
        if task.cancel():
            cut.append(count)
            await turns(4)
            assert task.cancelled()
        elif script == "all fail":
            assert isinstance(task.exception(), OSError)
        else:
            assert task.exception() is None
        await turns(4)
        assert others() == set()
        assert (bulkhead.in_flight, len(hedge.under_way)) == (0, 0)
        assert len(inside.calls) == len(inside.deadlines)
        assert all(not lane.late and not lane.races for lane in hedge._pace._by_loop.values())

    async def main() -> None:
        for count in range(TURNS):
            await one(count)

    run_async(main())
    assert 5 < len(cut) < TURNS - 3
    assert len(begun) == len(SCRIPTS[script])


def test_many_hedged_calls_of_one_task_leave_its_count_of_cancellations_as_it_was(run_async: RunAsync) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        hedge = Hedge(0.001, budget=False)
        for _ in range(20):
            dependency = Dependency((NEVER, "first"), (0.0, "second"))
            assert await Pipeline("x", hedge).acall(dependency) == "second"
            assert task.cancelling() == 0

    run_async(main())
