import asyncio
from math import inf

import pytest

from flow.loops import Calls, Run, double, others, turns
from holdfast.core.errors import Draining
from holdfast.flow import WorkerPool


def test_a_drain_takes_no_more_and_finishes_what_is_there(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        pool = WorkerPool(calls, workers=1, queue=1, name="mail")
        await pool.start()
        futures = [pool.try_submit(item) for item in range(2)]
        waiting = asyncio.ensure_future(pool.submit(2))
        await turns(3)
        drain = asyncio.ensure_future(pool.drain(inf))
        await turns(3)
        with pytest.raises(Draining, match="mail: the pool is stopping"):
            await waiting
        with pytest.raises(Draining):
            pool.try_submit(3)
        with pytest.raises(Draining):
            await pool.submit(3)
        assert not drain.done()
        for item in range(2):
            calls.finish(item, item)
        assert await drain == 0
        assert [await future for future in futures] == [0, 1]
        await pool.stop()

    run(main)


def test_what_is_not_done_in_time_is_cancelled_and_refused(
    run_in_virtual_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        loop = asyncio.get_running_loop()
        async with WorkerPool(calls, workers=2, queue=5, stop_within=4, name="mail") as pool:
            futures = [pool.try_submit(item) for item in range(4)]
            await turns(3)
            calls.finish(0, "zero")
            began = loop.time()
        assert loop.time() - began == pytest.approx(4)
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert results[0] == "zero"
        assert [type(result) for result in results[1:]] == [Draining] * 3
        assert calls.begun == [0, 1, 2]
        assert calls.cancelled == [1, 2]
        assert not others()

    run_in_virtual_time(main)
    assert "mail: 3 items are given up, not done within 4 s" in caplog.text


def test_a_call_that_ignores_its_cancellation_does_not_hold_up_the_stop(
    run_in_virtual_time: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async def deaf(_: int) -> str:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:  # what this test is about
                await asyncio.sleep(50)
            return "late"

        loop = asyncio.get_running_loop()
        pool = WorkerPool(deaf, workers=1, queue=0, name="mail")
        await pool.start()
        future = pool.try_submit(0)
        await turns(2)
        began = loop.time()
        assert await pool.drain(1) == 1
        assert loop.time() - began == pytest.approx(3)
        with pytest.raises(Draining):
            await future
        await asyncio.sleep(50)

    run_in_virtual_time(main)
    assert "mail: 1 cancelled calls are stuck" in caplog.text


def test_a_call_that_cleans_up_is_cancelled_only_once(run: Run) -> None:
    async def main() -> None:
        cleaned = []

        async def call(item: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await turns(10)
                cleaned.append(item)

        pool = WorkerPool(call, workers=2, queue=0)
        await pool.start()
        cancelled, refused = pool.try_submit(0), pool.try_submit(1)
        await turns(3)
        cancelled.cancel()
        assert await pool.drain(0) == 2
        assert await pool.drain(0) == 0
        assert cleaned == [0, 1]
        assert isinstance(refused.exception(), Draining)

    run(main)


def test_a_cancelled_drain_gets_out_at_once_and_another_one_can_follow(run: Run) -> None:
    async def main() -> None:
        calls: Calls[int] = Calls()
        pool = WorkerPool(calls, workers=1, queue=0)
        await pool.start()
        future = pool.try_submit(0)
        drain = asyncio.ensure_future(pool.drain(inf))
        await turns(3)
        drain.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drain
        assert calls.running == [0]
        calls.finish(0, "zero")
        assert await pool.drain(inf) == 0
        assert await future == "zero"

    run(main)


@pytest.mark.parametrize("within", [-1.0, float("nan")])
def test_a_drain_within_a_time_that_makes_no_sense_changes_nothing(run: Run, within: float) -> None:
    async def main() -> None:
        async with WorkerPool(double, workers=1, queue=1) as pool:
            with pytest.raises(ValueError, match="0 or more seconds"):
                await pool.drain(within)
            assert await pool.try_submit(1) == 2

    run(main)
