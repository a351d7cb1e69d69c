import asyncio
import gc
import threading
import traceback
import weakref
from functools import partial
from typing import Any

import pytest

from holdfast.core.call import FAILED
from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.context import (
    Criticality,
    baggage,
    cancellation_scope,
    colour,
    criticality,
    current,
    current_deadline,
    use_deadline,
)
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.singleflight import SingleFlight
from resilience.loops import RunAsync
from resilience.witness import Witness, turns, until
from resilience.work import Work, start


def test_callers_at_the_same_time_share_one_execution(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        callers = [start(call, 1) for _ in range(50)] + [start(call, 2)]
        await until(lambda: policy.snapshot()["shared"] == 49 and len(work.begun) == 2)
        answer = object()
        work.finish(0, answer)
        work.finish(1, "other")
        results = await asyncio.gather(*callers)
        assert all(result is answer for result in results[:50])
        assert results[50] == "other"
        assert policy.snapshot() == {"executions": 2, "shared": 49, "abandoned": 0, "under_way": 0}
        later = start(call, 1)
        await until(lambda: len(work.begun) == 3)
        work.finish(2, "new")
        assert await later == "new"

    run_async(main())


def test_the_execution_has_its_beginners_context_but_nobodys_deadline_or_cancellation() -> None:
    clock = VirtualClock()
    seen: list[Any] = []

    @Pipeline("x", SingleFlight(), clock=clock)
    async def look() -> None:
        context = current()
        seen.append((dict(context.baggage), context.cancellation, current_deadline()))

    async def main() -> None:
        with baggage(user="7"), cancellation_scope(), use_deadline(clock.now() + 1):
            await look()
        with baggage(user="8"):
            await look()

    clock.run(main())
    assert seen == [({"user": "7"}, None, float("inf")), ({"user": "8"}, None, float("inf"))]


class Wordy(Exception):
    """Cannot be copied: it keeps other arguments than it takes."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


def test_those_who_wait_go_on_in_the_order_in_which_they_came(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)
    order: list[int] = []

    async def ask(number: int) -> None:
        await call()
        order.append(number)

    async def main() -> None:
        callers = [asyncio.ensure_future(ask(number)) for number in range(50)]
        await until(lambda: policy.snapshot()["shared"] == 49 and work.begun)
        work.finish(0, "answer")
        await asyncio.gather(*callers)

    run_async(main())
    assert order == list(range(50))


@pytest.mark.parametrize("error", [ValueError("no"), Wordy(5)], ids=["copied", "shared"])
def test_an_error_reaches_everybody_and_its_traceback_does_not_grow(run_async: RunAsync, error: Exception) -> None:
    witness, policy, work = Witness(), SingleFlight(), Work()
    call = Pipeline("x", witness, policy)(work)
    depths: list[int] = []

    async def ask() -> Exception:
        try:
            await call()
        except Exception as caught:
            depths.append(len(traceback.extract_tb(caught.__traceback__)))
            return caught
        raise AssertionError

    async def main() -> None:
        callers = [asyncio.ensure_future(ask()) for _ in range(20)]
        await until(lambda: policy.snapshot()["shared"] == 19 and work.begun)
        work.finish(0, error)
        errors = await asyncio.gather(*callers)
        assert {(type(caught), caught.args) for caught in errors} == {(type(error), error.args)}
        assert any(caught is error for caught in errors)
        assert len({id(caught) for caught in errors}) == (20 if isinstance(error, ValueError) else 1)
        assert len(set(depths)) == 1
        assert witness.verdicts == [FAILED] * 20

    run_async(main())


def test_what_the_classifier_calls_a_failure_is_one_for_everybody(run_async: RunAsync) -> None:
    witness, policy, work = Witness(), SingleFlight(), Work()
    call = Pipeline("x", witness, policy, classify=Classifier(failed=lambda result: result == "bad"))(work)

    async def main() -> None:
        callers = [start(call) for _ in range(3)]
        await until(lambda: policy.snapshot()["shared"] == 2 and work.begun)
        work.finish(0, "bad")
        assert await asyncio.gather(*callers) == ["bad"] * 3

    run_async(main())
    assert witness.verdicts == [FAILED] * 3


def test_nothing_is_left_for_the_garbage_collector() -> None:
    class Failure(Exception):
        pass

    @SingleFlight()
    async def fail() -> None:
        await turns()
        raise Failure

    async def main() -> None:
        errors = await asyncio.gather(fail(), fail(), fail(), return_exceptions=True)
        left = [weakref.ref(error) for error in errors]
        assert [type(ref()) for ref in left] == [Failure] * 3
        del errors
        await turns()
        assert [ref() for ref in left] == [None] * 3

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_what_is_forgotten_begins_anew_and_those_who_wait_go_on_waiting(run_async: RunAsync) -> None:
    policy, work = SingleFlight(key=lambda call: call.args[0]), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        first = start(call, "a")
        await until(lambda: work.begun)
        assert policy.forget("a")
        assert not policy.forget("b")
        second, third = start(call, "a"), start(call, "a")
        await until(lambda: len(work.begun) == 2 and policy.snapshot()["shared"] == 1)
        work.finish(0, "old")
        assert await first == "old"
        fourth = start(call, "a")
        await until(lambda: policy.snapshot()["shared"] == 2)
        work.finish(1, "new")
        assert [await caller for caller in (second, third, fourth)] == ["new"] * 3
        assert not policy.forget("a")

    run_async(main())


def test_a_call_is_forgotten_by_its_function_and_arguments(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        callers = [start(call, 5)]
        functions: list[Any] = [call, work]
        for number, fn in enumerate(functions, 1):
            await until(partial(work.has_begun, number))
            assert not policy.forget_call(fn, 6)
            assert policy.forget_call(fn, 5)
            callers.append(start(call, 5))
        await until(lambda: len(work.begun) == 3)
        for number in range(3):
            work.finish(number, number)
        assert await asyncio.gather(*callers) == [0, 1, 2]

    run_async(main())


def test_calls_that_matter_more_do_not_depend_on_those_that_matter_less(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        with criticality(Criticality.SHEDDABLE):
            low = start(call)
        with criticality(Criticality.CRITICAL):
            high = [start(call), start(call)]
        with criticality(Criticality.SHEDDABLE):
            late = start(call)
        await until(lambda: len(work.begun) == 2 and policy.snapshot()["shared"] == 2)
        work.finish(0, "shed")
        assert await low == "shed"
        work.finish(1, "served")
        assert await asyncio.gather(*high, late) == ["served"] * 3

    run_async(main())


def test_an_experiment_shares_only_with_itself(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        real = [start(call), start(call)]
        with colour("chaos"):
            coloured = [start(call), start(call)]
            await until(lambda: len(work.begun) == 2 and policy.snapshot()["shared"] == 2)
            assert policy.forget_call(work)
        work.finish(0, "real")
        work.finish(1, "broken")
        assert await asyncio.gather(*real, *coloured) == ["real"] * 2 + ["broken"] * 2

    run_async(main())


def test_an_execution_that_asks_for_itself_does_not_wait_for_itself(run_async: RunAsync) -> None:
    depth: list[int] = []

    @SingleFlight(key=lambda call: "same")
    async def nested(level: int) -> int:
        depth.append(level)
        return level if level == 3 else await asyncio.ensure_future(nested(level + 1))

    async def main() -> None:
        assert await nested(0) == 3

    run_async(main())
    assert depth == [0, 1, 2, 3]


def test_loops_do_not_share_and_closed_ones_are_let_go() -> None:
    policy = SingleFlight()
    seen: list[int] = []

    @policy
    async def where() -> int:
        seen.append(threading.get_ident())
        await asyncio.sleep(0)
        return threading.get_ident()

    barrier = threading.Barrier(4)

    def run() -> None:
        async def main() -> None:
            barrier.wait(5)
            assert set(await asyncio.gather(where(), where())) == {threading.get_ident()}

        asyncio.run(main())

    for _ in range(5):
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 20
    assert len(policy._flights._by_loop) <= 8
    assert policy.snapshot() == {"executions": 20, "shared": 20, "abandoned": 0, "under_way": 0}


def test_executions_that_closed_loops_leave_behind_do_not_count_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.resilience.sharing.flights.ENDING_LIMIT", 2)
    policy = SingleFlight()

    @policy
    async def work() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(10)

    tasks: list[Any] = []
    for _ in range(4):
        loop = asyncio.new_event_loop()
        caller = loop.create_task(work())
        loop.run_until_complete(asyncio.sleep(0.001))
        tasks += asyncio.all_tasks(loop)
        caller.cancel()
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # it is what this test is about

    async def main() -> dict[str, int]:
        callers = [asyncio.ensure_future(work()) for _ in range(2)]
        await asyncio.sleep(0.001)
        snapshot = policy.snapshot()
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        return snapshot

    assert asyncio.run(main()) == {"executions": 5, "shared": 1, "abandoned": 4, "under_way": 1}


def test_a_key_of_none_is_not_shared_and_new_settings_count_at_once(run_async: RunAsync) -> None:
    policy, work = SingleFlight(key=lambda call: None), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        alone = [start(call, 1), start(call, 1)]
        await until(lambda: len(work.begun) == 2)
        policy.update(key=lambda call: "one")
        together = [start(call, 1), start(call, 2)]
        await until(lambda: len(work.begun) == 3 and policy.snapshot()["shared"] == 1)
        for number in range(3):
            work.finish(number, number)
        assert await asyncio.gather(*alone, *together) == [0, 1, 2, 2]

    run_async(main())


def test_arguments_that_cannot_be_a_key_are_a_clear_error() -> None:
    call = Pipeline("users", SingleFlight())(Work())
    with pytest.raises(
        TypeError, match=r"single_flight: the arguments of users cannot be a key \(unhashable type: 'li"
    ):
        asyncio.run(call([1]))
