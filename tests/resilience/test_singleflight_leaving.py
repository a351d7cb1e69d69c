"""Who may leave a shared execution, when, and what becomes of it."""

import asyncio
import gc
import weakref
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK
from holdfast.core.clock import VirtualClock
from holdfast.core.context import deadline_within, use_deadline
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.sharing import flights
from holdfast.resilience.singleflight import SingleFlight
from holdfast.resilience.timeout import Timeout
from resilience.loops import RunAsync
from resilience.witness import Witness, turns, until
from resilience.work import Work, cancelled, start


def test_a_cancelled_leader_does_not_take_the_others_with_it(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        leader, follower = start(call), start(call)
        await until(lambda: policy.snapshot()["shared"] == 1 and work.begun)
        assert await cancelled(leader)
        await turns()
        assert (work.cancelled, follower.done()) == (0, False)
        work.finish(0, "answer")
        assert await follower == "answer"

    run_async(main())


def test_when_the_last_caller_has_gone_the_execution_is_cancelled(run_async: RunAsync) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        callers = [start(call) for _ in range(3)]
        await until(lambda: policy.snapshot()["shared"] == 2 and work.begun)
        for caller in callers:
            assert work.cancelled == 0
            assert await cancelled(caller)
        await until(lambda: work.cancelled == 1)
        await until(lambda: policy.snapshot()["under_way"] == 0)
        assert policy.snapshot()["abandoned"] == 1

    run_async(main())


def test_a_cancellation_gets_out_before_the_execution_has_cleaned_up(run_async: RunAsync) -> None:
    cleaned: list[str] = []

    async def main() -> None:
        may_end = asyncio.Event()
        policy = SingleFlight()

        @policy
        async def slow_to_end() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await may_end.wait()
                cleaned.append("clean")

        caller = start(slow_to_end)
        await turns()
        assert await cancelled(caller)
        await turns()
        assert not cleaned
        # Nobody may join what is on its way out.
        later = start(slow_to_end)
        await turns()
        assert policy.snapshot() == {"executions": 2, "shared": 0, "abandoned": 1, "under_way": 2}
        may_end.set()
        assert await cancelled(later)
        await until(lambda: policy.snapshot()["under_way"] == 0)
        assert cleaned == ["clean", "clean"]

    run_async(main())


@pytest.mark.parametrize("begun", [False, True])
def test_an_execution_that_somebody_else_cancels_ends_its_callers_too(run_async: RunAsync, begun: bool) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        callers = [start(call), start(call)]
        await until(lambda: policy.snapshot()["executions"])
        if begun:
            await until(lambda: work.begun)
        (execution,) = [task for task in asyncio.all_tasks() if task.get_name() == "single_flight"]
        execution.cancel()
        await asyncio.wait(callers)
        assert all(caller.cancelled() for caller in callers)
        assert policy.snapshot()["under_way"] == 0
        assert work.ended == len(work.begun)

    run_async(main())


def test_each_caller_waits_until_its_own_deadline() -> None:
    clock, policy, witness = VirtualClock(), SingleFlight(), Witness()
    call = Pipeline("x", witness, policy, clock=clock)(asyncio.sleep)
    ends: dict[float, float] = {}

    async def ask(seconds: float) -> str:
        with use_deadline(began + seconds):
            try:
                return await call(10, "answer")
            finally:
                ends[seconds] = clock.now() - began

    async def main() -> list[Any]:
        # The first has the least time; nobody else's ends with it.
        callers = [asyncio.ensure_future(ask(seconds)) for seconds in (2, 5, 100)]
        return await asyncio.gather(*callers, return_exceptions=True)

    began = clock.now()
    results = clock.run(main())
    assert [type(result) for result in results] == [DeadlineExceeded, DeadlineExceeded, str]
    assert ends == {2: 2, 5: 5, 100: 10}
    assert witness.verdicts == [FAILED, FAILED, OK]
    assert "single_flight: the deadline passed while the call waited" in str(results[0])


def test_a_time_limit_around_it_ends_the_wait() -> None:
    clock, witness = VirtualClock(), Witness()
    call = Pipeline("x", Timeout(2), witness, SingleFlight(), clock=clock)(asyncio.sleep)
    with pytest.raises(DeadlineExceeded, match="timeout"):
        clock.run(call(10))
    assert witness.verdicts == [FAILED]


def test_a_call_whose_deadline_has_passed_does_not_begin() -> None:
    clock, work, witness = VirtualClock(), Work(), Witness()
    call = Pipeline("x", witness, SingleFlight(), clock=clock)(work)
    with use_deadline(clock.now()), pytest.raises(DeadlineExceeded, match="before the call began"):
        clock.run(call())
    assert (work.begun, witness.verdicts) == ([], [IGNORED])


@pytest.mark.parametrize(("gives_up", "verdict"), [(3.0, FAILED), (1.0, IGNORED)])
def test_policies_further_in_learn_whether_time_was_up_when_all_had_gone(gives_up: float, verdict: Any) -> None:
    clock, witness = VirtualClock(), Witness()
    call = Pipeline("x", SingleFlight(), witness, clock=clock)(asyncio.sleep)

    async def main() -> None:
        with use_deadline(clock.now() + 2):
            caller = start(call, 10)
        await asyncio.sleep(gives_up)
        caller.cancel()
        await asyncio.wait({caller})
        await turns()

    clock.run(main())
    assert witness.verdicts == [verdict]


def test_an_error_that_nobody_is_left_to_hear_is_reported_unless_it_is_a_refusal() -> None:
    reports: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))

        @SingleFlight()
        async def fail(error: str) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise (DeadlineExceeded() if error == "late" else RuntimeError(error)) from None

        for error in ("late", "broken"):
            caller = start(fail, error)
            await turns()
            assert await cancelled(caller)
            await turns()

    asyncio.run(main())
    assert [str(report["exception"]) for report in reports] == ["broken"]
    assert "failed after everybody had left it" in reports[0]["message"]


def test_with_too_many_executions_on_their_way_out_calls_run_unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "ENDING_LIMIT", 2)

    async def main() -> None:
        may_end = asyncio.Event()
        running = 0
        policy = SingleFlight()

        @policy
        async def slow_to_end(number: int) -> None:
            nonlocal running
            running += 1
            try:
                await asyncio.Event().wait()
            finally:
                await may_end.wait()
                running -= 1

        for number in range(2):
            caller = start(slow_to_end, number)
            await turns()
            assert await cancelled(caller)
        alone = start(slow_to_end, 5)
        await turns()
        assert policy.snapshot()["executions"] == 2
        alone.cancel()
        await turns()
        assert not alone.done()  # a plain await waits for the end of what it awaits
        may_end.set()
        await asyncio.wait({alone})
        await until(lambda: running == 0)
        assert policy.snapshot()["under_way"] == 0

    asyncio.run(main())


def test_executions_that_have_ended_do_not_count_as_on_their_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "ENDING_LIMIT", 2)
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        for number in range(5):
            caller = start(call, number)
            await turns()
            assert await cancelled(caller)
            await turns()
        assert policy.snapshot()["executions"] == 5

    asyncio.run(main())


def test_an_execution_that_was_left_leaves_nothing_for_the_garbage_collector() -> None:
    class Big:
        pass

    seen: list[weakref.ref[Big]] = []

    @SingleFlight()
    async def hang() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        await asyncio.Event().wait()

    async def main() -> None:
        caller = start(hang)
        await until(lambda: seen)
        assert await cancelled(caller)
        del caller
        await turns()
        assert seen[0]() is None

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


class Watched:
    """A loop whose timers are written down; those of uvloop itself cannot be asked for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.timers: list[asyncio.TimerHandle] = []

    def call_later(self, *args: Any) -> asyncio.TimerHandle:
        self.timers.append(self._loop.call_later(*args))
        return self.timers[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


def test_no_timer_outlives_its_call(run_async: RunAsync, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    async def main() -> None:
        watched = Watched(asyncio.get_running_loop())
        monkeypatch.setattr("holdfast.resilience.sharing.flights.asyncio.get_running_loop", lambda: watched)
        with deadline_within(3600):
            callers = [start(call), start(call)]
        await until(lambda: policy.snapshot()["shared"] == 1)
        monkeypatch.undo()
        await until(lambda: work.begun)
        work.finish(0, "answer")
        assert await asyncio.gather(*callers) == ["answer"] * 2
        assert [timer.cancelled() for timer in watched.timers] == [True, True]

    run_async(main())


def test_a_task_factory_that_fails_leaves_nothing_to_wait_for() -> None:
    policy, work = SingleFlight(), Work()
    call = Pipeline("x", policy)(work)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(broken)
        with pytest.raises(MemoryError):
            await call()
        loop.set_task_factory(None)
        caller = start(call)
        await until(lambda: work.begun)
        work.finish(0, "answer")
        assert await caller == "answer"
        await turns()
        assert policy.snapshot()["under_way"] == 0

    asyncio.run(main())
