import asyncio
import sys
from contextvars import ContextVar
from math import inf
from typing import Any

import pytest

from flow.loops import Calls, Run, double, turns, until
from holdfast.core.clock import VirtualClock
from holdfast.core.component import Component
from holdfast.core.context import baggage, cancellation_scope, current, current_deadline, deadline_within
from holdfast.core.errors import BulkheadFull, CallCancelled, DeadlineExceeded
from holdfast.flow import WorkerPool


def test_every_item_gets_its_result(run: Run) -> None:
    async def main() -> list[int]:
        async with WorkerPool(double, workers=3, queue=2) as pool:
            futures = [await pool.submit(item) for item in range(20)]
            return list(await asyncio.gather(*futures))

    assert run(main) == list(range(0, 40, 2))


def test_no_more_calls_than_workers_and_the_others_wait_in_order(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with WorkerPool(calls, workers=2, queue=3) as pool:
            futures = [pool.try_submit(item) for item in range(5)]
            await turns(3)
            assert (calls.begun, pool.running, pool.queued) == ([0, 1], 2, 3)
            for item in (1, 0, 2, 3, 4):
                calls.finish(item, item)
                await futures[item]
            await turns(1)
            assert calls.begun == [0, 1, 2, 3, 4]
            assert calls.most == 2
            assert (pool.running, pool.queued) == (0, 0)

    run(main)


def test_a_full_queue_refuses_or_makes_wait_first_come_first_served(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with WorkerPool(calls, workers=1, queue=1, name="mail") as pool:
            pool.try_submit(0)
            pool.try_submit(1)
            with pytest.raises(BulkheadFull, match=r"mail: no room: 1 running, 1 queued \(at most 1\)") as refused:
                pool.try_submit(2)
            assert refused.value.policy == "mail"
            assert refused.value.snapshot == {"running": 1, "queued": 1}
            waiting = [asyncio.ensure_future(pool.submit(item)) for item in (3, 4)]
            await turns(5)
            assert not any(task.done() for task in waiting)
            calls.finish(0)
            await until(waiting[0].done)
            assert not waiting[1].done()
            with pytest.raises(BulkheadFull):  # it does not overtake the one that waits
                pool.try_submit(5)
            for item in (1, 3, 4):
                calls.finish(item)
            await asyncio.gather(*waiting)
        assert calls.begun == [0, 1, 3, 4]

    run(main)


def test_without_a_queue_an_item_is_taken_only_when_a_worker_is_free(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with WorkerPool(calls, workers=1, queue=0) as pool:
            pool.try_submit(0)
            with pytest.raises(BulkheadFull):
                pool.try_submit(1)
            calls.finish(0)
            await until(lambda: not pool.running)
            calls.finish(1, "one")
            assert await pool.try_submit(1) == "one"

    run(main)


def test_an_error_reaches_its_own_future_and_nobody_else(run: Run) -> None:
    async def main() -> None:
        async def call(item: int) -> int:
            if item == 1:
                raise ValueError("one")
            if item == 2:
                raise asyncio.CancelledError
            return await double(item)

        async with WorkerPool(call, workers=1, queue=5) as pool:
            futures = [pool.try_submit(item) for item in range(4)]
            results = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(result) for result in results] == [int, ValueError, CallCancelled, int]

    run(main)


def test_a_cancelled_future_cancels_its_call_or_leaves_the_queue(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with WorkerPool(calls, workers=1, queue=1) as pool:
            running = pool.try_submit(0)
            queued = pool.try_submit(1)
            late = asyncio.ensure_future(pool.submit(2))
            await turns(3)
            queued.cancel()
            await until(late.done)  # its place went to the one that waited
            assert (pool.running, pool.queued) == (1, 1)
            running.cancel()
            await until(lambda: calls.running == [2])
            assert calls.cancelled == [0]
            assert calls.begun == [0, 2]
            calls.finish(2)

    run(main)


@pytest.mark.parametrize("after", range(6))
def test_an_item_that_was_cancelled_before_it_began_never_begins(run: Run, after: int) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with WorkerPool(calls, workers=1, queue=2) as pool:
            futures = [pool.try_submit(item) for item in range(3)]
            await turns(3)
            calls.finish(0)
            await turns(after)
            had_begun = calls.has_begun(1)
            futures[1].cancel()
            await until(lambda: calls.running == [2])
            assert calls.has_begun(1) == had_begun
            calls.finish(2)

    run(main)


def test_a_worker_is_free_only_when_the_cancelled_call_has_ended(run: Run) -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def call(item: int) -> int:
            try:
                return await asyncio.get_running_loop().create_future() if item == 0 else item
            finally:
                await release.wait()

        async with WorkerPool(call, workers=1, queue=1) as pool:
            first, second = pool.try_submit(0), pool.try_submit(1)
            await turns(3)
            first.cancel()
            await turns(10)
            assert (pool.running, pool.queued) == (1, 1)
            release.set()
            assert await second == 1

    run(main)


@pytest.mark.parametrize("after", range(6))
def test_a_cancelled_submitter_takes_its_item_back_whenever_it_is_cancelled(run: Run, after: int) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        async with WorkerPool(calls, workers=1, queue=0) as pool:
            pool.try_submit(0)
            waiting = asyncio.ensure_future(pool.submit(1))
            await turns(3)
            calls.finish(0)
            await turns(after)
            if waiting.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            else:
                (await waiting).cancel()
            await until(lambda: pool.running == 0)
            assert pool.queued == 0
            assert calls.running == []
            calls.finish(2, "two")
            assert await pool.try_submit(2) == "two"

    run(main)


def test_a_call_has_the_context_of_its_submitter(run: Run) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="")

    async def look(_: int) -> tuple[str, str, float]:
        before = variable.get()
        variable.set("changed by a call")
        return before, current().baggage.get("tenant", ""), current_deadline()

    async def main() -> None:
        async with WorkerPool(look, workers=1, queue=5, clock=VirtualClock(0.0)) as pool:
            with baggage(tenant="acme"), deadline_within(9, now=0.0):
                variable.set("kept")
                futures = [pool.try_submit(item) for item in range(2)]
            plain = pool.try_submit(3)
            assert [await future for future in futures] == [("kept", "acme", 9)] * 2
            assert await plain == ("kept", "", inf)

    run(main)


def test_an_item_whose_time_is_over_or_that_is_called_off_in_the_queue_is_not_begun(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        clock = VirtualClock(0.0)
        async with WorkerPool(calls, workers=1, queue=5, clock=clock) as pool:
            pool.try_submit(0)
            with deadline_within(5, now=clock.now()):
                late = pool.try_submit(1)
            with cancellation_scope() as scope:
                unwanted = pool.try_submit(2)
            wanted = pool.try_submit(3)
            clock.advance(5)
            scope.cancel("the client left")
            calls.finish(0)
            calls.finish(3, "three")
            with pytest.raises(DeadlineExceeded):
                await late
            with pytest.raises(CallCancelled, match="the client left"):
                await unwanted
            assert await wanted == "three"
            assert calls.begun == [0, 3]

    run(main)


def test_waiting_for_room_ends_at_its_own_time_or_the_ambient_deadline(run_in_virtual_time: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        loop = asyncio.get_running_loop()
        clock = LoopClock()
        async with WorkerPool(calls, workers=1, queue=0, name="mail", clock=clock) as pool:
            pool.try_submit(0)
            began = loop.time()
            with pytest.raises(DeadlineExceeded, match="mail: there was no room within 3 s"):
                await pool.submit(1, within=3)
            assert loop.time() - began == pytest.approx(3)
            with deadline_within(2, now=clock.now()):
                with pytest.raises(DeadlineExceeded, match="no room within 2 s"):
                    await pool.submit(1, within=60)
                assert loop.time() - began == pytest.approx(5)
                with pytest.raises(DeadlineExceeded, match="no time to wait"):
                    await pool.submit(1, within=60)
            assert loop.time() - began == pytest.approx(5)
            assert pool.waiting == 0
            calls.finish(0)
        assert calls.begun == [0]

    run_in_virtual_time(main)


@pytest.mark.parametrize("after", range(6))
def test_an_item_is_begun_exactly_when_its_submitter_is_not_refused(after: int) -> None:
    """Room and the end of the waiting come in the same few turns."""
    clock = VirtualClock()

    async def main() -> None:
        calls: Calls[int] = Calls()
        async with WorkerPool(calls, workers=1, queue=0) as pool:
            pool.try_submit(0)
            waiting = asyncio.ensure_future(pool.submit(1, within=3))
            await turns(3)
            calls.finish(0)
            await turns(after)
            clock.advance(3)
            await turns(10)
            refused = waiting.exception() is not None
            assert refused == (not calls.has_begun(1))
            calls.finish(1)

    clock.run(main())


class LoopClock(VirtualClock):
    """The time of the running loop."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()


def test_a_call_may_submit_to_its_own_pool(run: Run) -> None:
    async def main() -> int:
        async def countdown(item: int) -> int:
            return item if item == 0 else await (await pool.submit(item - 1))

        async with WorkerPool(countdown, workers=5, queue=5) as pool:
            return await pool.try_submit(4)

    assert run(main) == 0


def test_a_pool_belongs_to_the_loop_that_started_it() -> None:
    pool = WorkerPool(double, workers=1, queue=1, name="mail")

    async def start() -> None:
        with pytest.raises(RuntimeError, match="mail is not started"):
            pool.try_submit(1)
        await pool.stop()
        await pool.start()
        with pytest.raises(RuntimeError, match="mail was started before"):
            await pool.start()

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="mail belongs to another event loop"):
            pool.try_submit(1)

    asyncio.run(start())
    asyncio.run(elsewhere())


def test_a_pool_is_a_component() -> None:
    pool: Component = WorkerPool(double, workers=1, queue=0, name="mail")
    assert isinstance(pool, Component)
    assert pool.name == "mail"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 0, "queue": 1}, "workers is 0; give 1 or more"),
        ({"workers": 1, "queue": -1}, "queue is -1; give 0 or more"),
        ({"workers": 1, "queue": 1, "stop_within": -1}, "stop_within is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorkerPool(double, **arguments)


def test_what_cannot_be_called_is_no_function_for_a_pool() -> None:
    with pytest.raises(TypeError, match="5 cannot be called"):
        WorkerPool(5, workers=1, queue=1)  # type: ignore[arg-type]


def test_any_number_of_submitters_can_be_let_in_and_refused_at_once(run: Run) -> None:
    """Each that is refused makes room for the next one."""

    async def main() -> None:
        calls: Calls[int] = Calls()
        many = sys.getrecursionlimit()
        async with WorkerPool(calls, workers=1, queue=0) as pool:
            first = pool.try_submit(-1)
            with cancellation_scope() as nobody:
                waiting = [asyncio.ensure_future(pool.submit(item)) for item in range(many)]
            await turns(3)
            assert pool.waiting == many
            nobody.cancel("gone")
            calls.finish(-1)
            await first
            for submitted in await asyncio.gather(*waiting):
                with pytest.raises(CallCancelled, match="gone"):
                    await submitted
            assert (pool.running, pool.queued, pool.waiting) == (0, 0, 0)
        assert calls.begun == [-1]

    run(main)


def test_a_call_that_cancels_its_own_future_is_cancelled(run: Run) -> None:
    async def main() -> None:
        ended: list[bool] = []
        submitted: list[asyncio.Future[None]] = []

        async def call(pool: WorkerPool[Any, None]) -> None:
            for job in tuple(pool._under_way):  # with eager tasks nobody else has it yet
                job.cancel()
            try:
                await asyncio.sleep(0)
                await asyncio.Event().wait()
            finally:
                ended.append(pool.running == 1)

        async with WorkerPool(call, workers=1, queue=0) as pool:
            submitted.append(pool.try_submit(pool))
            await until(lambda: ended)
            await until(submitted[0].done)
        assert ended == [True]
        assert submitted[0].cancelled()

    run(main)


def test_a_function_that_gives_nothing_to_await_is_named(run: Run) -> None:
    def double_now(item: int) -> Any:
        return 2 * item

    async def main() -> None:
        async with WorkerPool(double_now, workers=1, queue=1) as pool:
            with pytest.raises(TypeError, match="double_now returned nothing to await; give an async def"):
                await (await pool.submit(1))

    run(main)
